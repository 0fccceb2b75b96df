{{/* What a schema cannot say, in words. */}}
{{- define "dhs.check" -}}
{{- $v := .Values }}
{{- if not $v.run.out }}
{{- fail "run.out is empty: give the run's folder, as s3://bucket/run or a path below volume.mountPath" }}
{{- end }}
{{- if regexMatch "[[:space:]]" $v.run.out }}
{{- fail (printf "run.out %q has a space in it" $v.run.out) }}
{{- end }}
{{- if and (contains "://" $v.run.out) (not (regexMatch "^[a-z][a-z0-9+]*://[^/]" $v.run.out)) }}
{{- fail (printf "run.out %q names no bucket: give a URL as s3://bucket/run" $v.run.out) }}
{{- end }}
{{- if regexMatch "^/(bin|dev|etc|lib|lib64|opt|proc|root|run|sbin|sys|tmp|usr|var)(/|$)" $v.volume.mountPath }}
{{- fail (printf "volume.mountPath %q would hide what the image has there: give another, as /data" $v.volume.mountPath) }}
{{- end }}
{{- if not (contains "://" $v.run.out) }}
{{- if not $v.volume.existingClaim }}
{{- fail (printf "run.out %q is a path in a pod, which is gone with it: give a URL as s3://bucket/run, or a claim in volume.existingClaim" $v.run.out) }}
{{- end }}
{{- if not (hasPrefix (printf "%s/" (trimSuffix "/" $v.volume.mountPath)) $v.run.out) }}
{{- fail (printf "run.out %q is not below volume.mountPath %q, where the claim is" $v.run.out $v.volume.mountPath) }}
{{- end }}
{{- end }}
{{- if and $v.experiment.inline $v.experiment.existingConfigMap }}
{{- fail "experiment.inline and experiment.existingConfigMap are both given: take one out" }}
{{- end }}
{{- if not (or $v.experiment.inline $v.experiment.existingConfigMap) }}
{{- fail "no experiment: give experiment.inline, or the name of a ConfigMap in experiment.existingConfigMap" }}
{{- end }}
{{- range $who := list "driver" "scheduler" "worker" }}
{{- $r := (index $v $who).resources }}
{{- if ne (toString $r.requests.memory) (toString $r.limits.memory) }}
{{- fail (printf "%s.resources asks for %v of memory and is limited to %v: make them equal, a process must have what it counts on" $who $r.requests.memory $r.limits.memory) }}
{{- end }}
{{- end }}
{{- if and $v.worker.adaptive.enabled (gt (int $v.worker.adaptive.minimum) (int $v.worker.adaptive.maximum)) }}
{{- fail "worker.adaptive.minimum is above worker.adaptive.maximum" }}
{{- end }}
{{- end }}
