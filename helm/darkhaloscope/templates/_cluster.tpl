{{/* The DaskCluster that the driver makes: the driver adds the owner, which is its Job. */}}
{{- define "dhs.clusterManifest" -}}
{{- $tls := .Values.tls.existingSecret }}
apiVersion: kubernetes.dask.org/v1
kind: DaskCluster
metadata:
  name: {{ include "dhs.cluster" . }}
  labels:
    {{- include "dhs.selector" . | nindent 4 }}
spec:
  # Over TLS the operator could not ask: the scheduler looks after itself (darkhaloscope.cluster.guard).
  idleTimeout: {{ ternary 0 .Values.cluster.idleTimeoutSeconds (not (empty $tls)) }}
  scheduler:
    metadata:
      {{- with include "dhs.metricsAnnotations" (dict "root" . "port" 8787) }}{{ . | trim | nindent 6 }}{{ end }}
      labels: {darkhaloscope.io/component: scheduler}
    service:
      type: ClusterIP
      selector:
        dask.org/cluster-name: {{ include "dhs.cluster" . }}
        dask.org/component: scheduler
      ports:
        - {name: tcp-comm, protocol: TCP, port: 8786, targetPort: tcp-comm}
        - {name: http-dashboard, protocol: TCP, port: 8787, targetPort: http-dashboard}
    spec:
      serviceAccountName: {{ include "dhs.fullname" . }}-scheduler
      automountServiceAccountToken: {{ not (empty $tls) }}
      enableServiceLinks: false
      {{- with include "dhs.pullSecrets" . }}{{ . | trim | nindent 6 }}{{ end }}
      securityContext: {{- include "dhs.podSecurity" . | nindent 8 }}
      {{- with include "dhs.placement" .Values.scheduler }}{{ . | trim | nindent 6 }}{{ end }}
      containers:
        - name: scheduler
          image: {{ include "dhs.image" . }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args:
            - dask
            - scheduler
            - --port=8786
            - --dashboard-address=:8787
            {{- if $tls }}
            - --protocol=tls
            - --idle-timeout={{ .Values.cluster.idleTimeoutSeconds }}s
            - --preload=darkhaloscope.cluster.guard
            - --preload=darkhaloscope.tls
            {{- end }}
          env:
            {{- if $tls }}
            - {name: DHS_CLUSTER, value: {{ include "dhs.cluster" . }}}
            - {name: DHS_NAMESPACE, value: {{ .Release.Namespace | quote }}}
            {{- include "dhs.tlsEnv" . | trim | nindent 12 }}
            {{- end }}
            - {name: DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING, value: "False"}
            - {name: DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL, value: 15 minutes}
            - {name: DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES, value: "2"}
            - {name: DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH, value: "10"}
            {{- if .Values.worker.adaptive.enabled }}
            # More workers while more tasks are ready than there are workers: a driver has two blocks in
            # flight for each, however short, so that by Dask's 5 s short ones would never ask for a second.
            - {name: DASK_DISTRIBUTED__ADAPTIVE__TARGET_DURATION, value: 100ms}
            {{- end }}
            {{- if not $tls }}
            # Dask's own routes and api: without it the operator asks a busy scheduler by a way that
            # gives it an idle time-out of five minutes. With TLS nobody shall retire workers by it.
            - name: DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES
              value: >-
                ["distributed.http.scheduler.prometheus", "distributed.http.scheduler.info",
                "distributed.http.scheduler.json", "distributed.http.scheduler.api",
                "distributed.http.health", "distributed.http.proxy", "distributed.http.statics"]
            {{- end }}
          ports:
            - {name: tcp-comm, containerPort: 8786}
            - {name: http-dashboard, containerPort: 8787}
          readinessProbe:
            httpGet: {path: /health, port: http-dashboard}
            periodSeconds: 2
          livenessProbe:
            httpGet: {path: /health, port: http-dashboard}
            initialDelaySeconds: 30
            periodSeconds: 20
            timeoutSeconds: 10
            failureThreshold: 6
          resources: {{- include "dhs.resources" .Values.scheduler.resources | trim | nindent 12 }}
          securityContext: {{- include "dhs.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- with include "dhs.tlsMount" . }}{{ . | trim | nindent 12 }}{{ end }}
      volumes:
        - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
        {{- with include "dhs.tlsVolume" . }}{{ . | trim | nindent 8 }}{{ end }}
  worker:
    replicas: {{ ternary .Values.worker.adaptive.minimum .Values.worker.replicas .Values.worker.adaptive.enabled }}
    metadata:
      {{- with include "dhs.metricsAnnotations" (dict "root" . "port" 8790) }}{{ . | trim | nindent 6 }}{{ end }}
      labels: {darkhaloscope.io/component: worker}
    spec:
      serviceAccountName: {{ include "dhs.fullname" . }}-worker
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .Values.worker.gracePeriodSeconds }}
      {{- with include "dhs.pullSecrets" . }}{{ . | trim | nindent 6 }}{{ end }}
      securityContext: {{- include "dhs.podSecurity" . | nindent 8 }}
      {{- with include "dhs.placement" .Values.worker }}{{ . | trim | nindent 6 }}{{ end }}
      containers:
        - name: worker
          image: {{ .Values.worker.image | default (include "dhs.image" .) }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args:
            - dask
            - worker
            - --name=$(DASK_WORKER_NAME)
            - --nworkers=1
            - --nthreads=1
            - --memory-limit=$(MEMORY_LIMIT)
            - --worker-port=8788
            - --nanny-port=8789
            - --dashboard-address=:8790
            - --local-directory=/tmp
            - --preload=darkhaloscope.cluster.preload
            {{- if $tls }}
            - --preload=darkhaloscope.tls
            - --preload-nanny=darkhaloscope.tls
            {{- end }}
          env:
            - name: MEMORY_LIMIT
              valueFrom:
                resourceFieldRef: {containerName: worker, resource: limits.memory}
            - {name: DHS_LOG, value: {{ .Values.logs }}}
            {{- if $tls }}
            # The operator gives a worker an address of its own making, unless there is one.
            - {name: DASK_SCHEDULER_ADDRESS, value: "tls://{{ include "dhs.cluster" . }}-scheduler.{{ .Release.Namespace }}.svc:8786"}
            {{- include "dhs.tlsEnv" . | trim | nindent 12 }}
            {{- end }}
            {{- with include "dhs.storageEnv" . }}{{ . | trim | nindent 12 }}{{ end }}
          {{- with include "dhs.storageEnvFrom" . }}{{ . | trim | nindent 10 }}{{ end }}
          ports:
            - {name: worker, containerPort: 8788}
            - {name: nanny, containerPort: 8789}
            - {name: http-dashboard, containerPort: 8790}
          lifecycle:
            preStop:
              exec: {command: [/usr/local/bin/entrypoint, python, -m, darkhaloscope.cluster.retire]}
          resources: {{- include "dhs.resources" .Values.worker.resources | trim | nindent 12 }}
          securityContext: {{- include "dhs.containerSecurity" . | nindent 12 }}
          volumeMounts:
            {{- include "dhs.mounts" . | nindent 12 }}
            {{- with include "dhs.tlsMount" . }}{{ . | trim | nindent 12 }}{{ end }}
      volumes:
        - {name: tmp, emptyDir: {sizeLimit: {{ .Values.worker.scratch }}}}
        {{- with include "dhs.dataVolume" . }}{{ . | trim | nindent 8 }}{{ end }}
        {{- with include "dhs.tlsVolume" . }}{{ . | trim | nindent 8 }}{{ end }}
{{- if .Values.worker.adaptive.enabled }}
---
apiVersion: kubernetes.dask.org/v1
kind: DaskAutoscaler
metadata:
  name: {{ include "dhs.cluster" . }}
spec:
  cluster: {{ include "dhs.cluster" . }}
  minimum: {{ .Values.worker.adaptive.minimum }}
  maximum: {{ .Values.worker.adaptive.maximum }}
{{- end }}
{{- end }}
