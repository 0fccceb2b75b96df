{{/* What a schema cannot say, in words. */}}
{{- define "dhs.check" -}}
{{- $v := .Values }}
{{- if not $v.run.out }}
{{- fail "run.out is empty: give the run's folder, as s3://bucket/run or a path below volume.mountPath" }}
{{- end }}
{{- if regexMatch "[[:space:]]" $v.run.out }}
{{- fail (printf "run.out %q has a space in it" $v.run.out) }}
{{- end }}
{{- if contains "::" $v.run.out }}
{{- fail (printf "run.out %q is a chain of addresses (::), which a run's folder cannot be: give one, as s3://bucket/run" $v.run.out) }}
{{- end }}
{{- if and (contains "://" $v.run.out) (not (hasPrefix "s3://" $v.run.out)) }}
{{- fail (printf "run.out %q: pods can write to s3://bucket/run, or to a path below volume.mountPath" $v.run.out) }}
{{- end }}
{{- if and (hasPrefix "s3://" $v.run.out) (not (regexMatch "^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/|$)" $v.run.out)) }}
{{- fail (printf "run.out %q names no bucket: give a URL as s3://bucket/run" $v.run.out) }}
{{- end }}
{{- /* The driver and a notebook find the run's cluster by its folder, spelled in one way. */}}
{{- if regexMatch "//|/[.]{1,2}(/|$)" (regexReplaceAll "/+$" (trimPrefix "s3://" $v.run.out) "") }}
{{- fail (printf "run.out %q has //, /./ or /../ in it: give the folder without" $v.run.out) }}
{{- end }}
{{- if contains "$(" $v.run.out }}
{{- fail (printf "run.out %q has $( in it, where Kubernetes puts variables" $v.run.out) }}
{{- end }}
{{- $part := "[a-z0-9]+([._-]+[a-z0-9]+)*" }}
{{- if not (regexMatch (printf "^(%s(:[0-9]+)?/)?%s(/%s)*$" $part $part $part) $v.image.repository) }}
{{- fail (printf "image.repository %q is no name of an image without its tag, as registry.example.org/darkhaloscope: the tag goes to image.tag" $v.image.repository) }}
{{- end }}
{{- /* What it says is not repeated: it may hold a password. */}}
{{- $host := "([A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\])" }}
{{- if not (regexMatch (printf "^(https?://%s(:[1-9][0-9]{0,4})?(/[^[:space:]?#@$]*)?)?$" $host) $v.s3.endpoint) }}
{{- fail "s3.endpoint is no address of a server, as https://host or http://host:9000, with no user, query or $ in it: keys are for the Secret that s3.existingSecret names" }}
{{- end }}
{{- if gt (regexFind ":[0-9]+(/|$)" $v.s3.endpoint | trimAll ":/" | default "1" | int) 65535 }}
{{- fail "s3.endpoint has a port above 65535" }}
{{- end }}
{{- if regexMatch "^/(bin|boot|dev|etc|home|lib[^/]*|opt|proc|root|run|sbin|sys|tmp|usr|var)(/|$)" $v.volume.mountPath }}
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
{{- if hasKey $v.experiment.inline "cluster" }}
{{- fail "experiment.inline.cluster: the chart says itself where a run works; take the section out, and give worker.replicas and worker.resources" }}
{{- end }}
{{- if and $v.experiment.inline $v.experiment.existingConfigMap }}
{{- fail "experiment.inline and experiment.existingConfigMap are both given: take one out" }}
{{- end }}
{{- if not (or $v.experiment.inline $v.experiment.existingConfigMap) }}
{{- fail "no experiment: give experiment.inline, or the name of a ConfigMap in experiment.existingConfigMap" }}
{{- end }}
{{- range $key, $value := $v.experiment.set }}
{{- if and (kindIs "map" $value) (not (contains "." $key)) }}
{{- fail (printf "experiment.set.%s is a section: give keys with dots in them, as stamp.size: 96 in a file of values, or --set experiment.set.stamp\\.size=96" $key) }}
{{- end }}
{{- end }}
{{- range $seed := list ($v.experiment.inline | default dict).seed ($v.experiment.set | default dict).seed }}
{{- if ge (float64 (default 0 $seed)) 9007199254740992.0 }}
{{- fail (printf "the experiment's seed %.0f is not below 2^53, where helm rounds: take a smaller one, or experiment.existingConfigMap" (float64 $seed)) }}
{{- end }}
{{- end }}
{{- range $who := list "driver" "scheduler" "worker" }}
{{- $r := (index $v $who).resources }}
{{- range $name, $asked := $r.requests }}
{{- $limit := get $r.limits $name | default "nothing" }}
{{- $said := printf "%s.resources asks for %v of %s and is limited to %v" $who $asked $name $limit }}
{{- /* A process must have the memory that it counts on; devices are shared with nobody. */}}
{{- if or (eq $name "memory") (contains "/" $name) }}
{{- if ne (include "dhs.amount" $asked) (include "dhs.amount" $limit) }}
{{- fail (printf "%s: make them equal" $said) }}
{{- end }}
{{- else if hasKey $r.limits $name }}
{{- if gt (include "dhs.amount" $asked | float64) (include "dhs.amount" $limit | float64) }}
{{- fail (printf "%s: ask for less, or leave the limit out" $said) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.worker.adaptive.enabled $v.tls.existingSecret }}
{{- fail "worker.adaptive.enabled with tls.existingSecret: the operator, which chooses the number of workers, cannot speak TLS with the scheduler; give worker.replicas" }}
{{- end }}
{{- if le (int $v.cluster.idleTimeoutSeconds) (int $v.cluster.patienceSeconds) }}
{{- fail "cluster.idleTimeoutSeconds is not above cluster.patienceSeconds: an idle cluster would be taken away while its workers come" }}
{{- end }}
{{- if and $v.worker.adaptive.enabled (gt (int $v.worker.adaptive.minimum) (int $v.worker.adaptive.maximum)) }}
{{- fail "worker.adaptive.minimum is above worker.adaptive.maximum" }}
{{- end }}
{{- end }}

{{/* An amount of a resource, as 500m or 4Gi, in its own unit. */}}
{{- define "dhs.amount" -}}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) }}
{{- $factors := dict "" 1 "m" 0.001 "M" 1e6 "G" 1e9 "T" 1e12 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- mulf (trimSuffix $unit (toString .) | float64) (get $factors $unit | default 0) }}
{{- end }}
