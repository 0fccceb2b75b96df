{{/* A Job's template cannot change: its hash is in the Job's name. */}}
{{- define "dhs.job" -}}
{{ include "dhs.fullname" . }}-{{ include "dhs.driverTemplate" . | sha256sum | trunc 8 }}
{{- end }}

{{/* The Job's pod template. */}}
{{- define "dhs.driverTemplate" -}}
metadata:
  labels:
    {{- include "dhs.labels" . | nindent 4 }}
    {{- include "dhs.selector" . | nindent 4 }}
    darkhaloscope.io/component: driver
  annotations:
    darkhaloscope.io/experiment: {{ toYaml .Values.experiment | sha256sum | trunc 16 | quote }}
    darkhaloscope.io/cluster: {{ include "dhs.clusterManifest" . | sha256sum | trunc 16 | quote }}
    {{- with .Values.serviceAccount.annotations }}
    darkhaloscope.io/account: {{ toYaml . | sha256sum | trunc 16 | quote }}
    {{- end }}
    {{- /* Found where helm asks a cluster: an upgrade after a change of it makes a new Job. */}}
    {{- with .Values.experiment.existingConfigMap }}
    {{- with lookup "v1" "ConfigMap" $.Release.Namespace . }}
    darkhaloscope.io/contents: {{ .data | toJson | sha256sum | trunc 16 | quote }}
    {{- end }}
    {{- end }}
    {{- with include "dhs.metricsPairs" (dict "root" . "port" 8791) }}{{ . | nindent 4 }}{{ end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "dhs.fullname" . }}-driver
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.driver.gracePeriodSeconds }}
  {{- with include "dhs.pullSecrets" . }}{{ . | trim | nindent 2 }}{{ end }}
  securityContext: {{- include "dhs.podSecurity" . | nindent 4 }}
  {{- with include "dhs.placement" .Values.driver }}{{ . | trim | nindent 2 }}{{ end }}
  containers:
    - name: driver
      image: {{ include "dhs.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - dhs
        - --log={{ .Values.logs }}
        - run
        - /etc/darkhaloscope/experiment/{{ .Values.experiment.key }}
        - {{ printf "--out=%s" .Values.run.out | replace "$" "$$" | quote }}
        - --metrics-port=8791
        - --set=cluster.kind=kubernetes
        - --set=cluster.manifest=/etc/darkhaloscope/cluster/cluster.yaml
        - --set=cluster.patience={{ .Values.cluster.patienceSeconds }}
        - --set=cluster.bricks_per_task={{ .Values.cluster.bricksPerTask }}
        {{- if .Values.tls.existingSecret }}
        - --set=cluster.tls=true
        {{- end }}
        {{- range $key, $value := .Values.experiment.set }}
        {{- /* Kubernetes puts variables for $(NAME), and makes one $ of two. */}}
        - {{ printf "--set=%s=%s" $key (toJson $value) | replace "$" "$$" | quote }}
        {{- end }}
      env:
        - name: DHS_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: DHS_JOB_NAME
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
        - name: DHS_JOB_UID
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/controller-uid']"}}
        {{- with include "dhs.tlsEnv" . }}{{ . | trim | nindent 8 }}{{ end }}
        {{- with include "dhs.storageEnv" . }}{{ . | trim | nindent 8 }}{{ end }}
      {{- with include "dhs.storageEnvFrom" . }}{{ . | trim | nindent 6 }}{{ end }}
      ports:
        - {name: metrics, containerPort: 8791}
      terminationMessagePolicy: FallbackToLogsOnError
      resources: {{- include "dhs.resources" .Values.driver.resources | trim | nindent 8 }}
      securityContext: {{- include "dhs.containerSecurity" . | nindent 8 }}
      volumeMounts:
        {{- include "dhs.mounts" . | nindent 8 }}
        - {name: experiment, mountPath: /etc/darkhaloscope/experiment, readOnly: true}
        - {name: cluster, mountPath: /etc/darkhaloscope/cluster, readOnly: true}
        {{- with include "dhs.tlsMount" . }}{{ . | trim | nindent 8 }}{{ end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: 4Gi}}
    - {name: experiment, configMap: {name: {{ include "dhs.experimentMap" . | quote }}}}
    - {name: cluster, configMap: {name: {{ include "dhs.fullname" . }}-cluster}}
    {{- with include "dhs.dataVolume" . }}{{ . | trim | nindent 4 }}{{ end }}
    {{- with include "dhs.tlsVolume" . }}{{ . | trim | nindent 4 }}{{ end }}
{{- end }}
