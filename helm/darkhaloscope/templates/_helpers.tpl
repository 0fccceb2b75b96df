{{/* 40 characters at most, of which a long one ends in a hash: two releases share nothing. */}}
{{- define "dhs.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) }}
{{- if gt (len $name) 40 }}
{{- $name = printf "%s-%s" ($name | trunc 31 | trimAll "-.") (.Release.Name | sha256sum | trunc 8) }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "dhs.selector" -}}
darkhaloscope.io/release: {{ .Release.Name | quote }}
{{- end }}

{{- define "dhs.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "dhs.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "dhs.experimentMap" -}}
{{- .Values.experiment.existingConfigMap | default (printf "%s-experiment" (include "dhs.fullname" .)) }}
{{- end }}

{{/* The run's name: as darkhaloscope.cluster.kubernetes.cluster_name. */}}
{{- define "dhs.cluster" -}}
{{- printf "dhs-%s" (.Values.run.out | regexFind "^.*[^/]" | sha256sum | trunc 12) }}
{{- end }}

{{- define "dhs.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 100
fsGroup: 100
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "dhs.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "dhs.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Amounts as text: the operator's DaskCluster takes no numbers. */}}
{{- define "dhs.resources" -}}
{{- range $kind := list "requests" "limits" }}
{{ $kind }}:
{{- range $name, $amount := get $ $kind }}
  {{ $name }}: {{ $amount | toString | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "dhs.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "dhs.storageEnv" -}}
{{- with .Values.s3.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.s3.region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "dhs.storageEnvFrom" -}}
{{- with .Values.s3.existingSecret }}
envFrom:
  - secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "dhs.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.volume.existingClaim }}
- {name: data, mountPath: {{ .Values.volume.mountPath | quote }}}
{{- end }}
{{- end }}

{{- define "dhs.dataVolume" -}}
{{- with .Values.volume.existingClaim }}
- name: data
  persistentVolumeClaim: {claimName: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "dhs.metricsPairs" -}}
{{- if .root.Values.metrics.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- end }}

{{- define "dhs.metricsAnnotations" -}}
{{- with include "dhs.metricsPairs" . }}
annotations: {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where Dask finds the certificates; one is for all roles. */}}
{{- define "dhs.tlsEnv" -}}
{{- if .Values.tls.existingSecret }}
- {name: DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION, value: "True"}
- {name: DASK_DISTRIBUTED__COMM__TLS__CA_FILE, value: /etc/darkhaloscope/tls/ca.crt}
{{- range $role := list "SCHEDULER" "WORKER" "CLIENT" }}
- {name: DASK_DISTRIBUTED__COMM__TLS__{{ $role }}__CERT, value: /etc/darkhaloscope/tls/tls.crt}
- {name: DASK_DISTRIBUTED__COMM__TLS__{{ $role }}__KEY, value: /etc/darkhaloscope/tls/tls.key}
{{- end }}
{{- end }}
{{- end }}

{{- define "dhs.tlsMount" -}}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /etc/darkhaloscope/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "dhs.tlsVolume" -}}
{{- with .Values.tls.existingSecret }}
- {name: tls, secret: {secretName: {{ . | quote }}, defaultMode: 0440}}
{{- end }}
{{- end }}
