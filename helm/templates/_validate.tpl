{{/* What a schema cannot say: values that do not go together. */}}
{{- define "latchkey.validate" -}}
{{- $values := .Values -}}
{{- if eq $values.store "embedded" -}}
{{- if gt (int $values.replicas) 1 -}}
{{- fail "store: embedded bears one replica: more need store: postgres" -}}
{{- end -}}
{{- if $values.autoscaling.enabled -}}
{{- fail "store: embedded bears one replica: autoscaling needs store: postgres" -}}
{{- end -}}
{{- if ne $values.kind "Deployment" -}}
{{- fail "store: embedded bears one replica: kind: DaemonSet needs store: postgres" -}}
{{- end -}}
{{- else -}}
{{- if and $values.autoscaling.enabled (eq $values.kind "DaemonSet") -}}
{{- fail "a DaemonSet has a replica on each node: it cannot be autoscaled" -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- end -}}
{{- if and $values.sealKeys.existingSecret $values.sealKeys.generate -}}
{{- fail "sealKeys.existingSecret and sealKeys.generate: give one of them" -}}
{{- end -}}
{{- if and $values.routes.existingConfigMap $values.routes.table -}}
{{- fail "routes.existingConfigMap and routes.table: give one of them" -}}
{{- end -}}
{{- if and $values.tls.existingSecret $values.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled: give one of them" -}}
{{- end -}}
{{- $certificate := or $values.tls.existingSecret $values.tls.certManager.enabled -}}
{{- if and $values.tls.enabled (not $certificate) -}}
{{- fail "tls.enabled: where is the certificate? give tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and (or $certificate $values.tls.clientCa.existingSecret) (not $values.tls.enabled) -}}
{{- fail "tls: there is a certificate or an authority, and tls.enabled is false: which is meant?" -}}
{{- end -}}
{{- $endpoint := include "latchkey.setting" (dict "root" . "key" "telemetry.otlp.endpoint") -}}
{{- if and (hasPrefix "https://" $endpoint) (not $values.telemetry.ca.existingSecret) -}}
{{- fail "config.telemetry.otlp.endpoint: https:// needs telemetry.ca.existingSecret, the authorities to believe" -}}
{{- end -}}
{{- if and $values.tls.certManager.enabled (not $values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: who issues the certificate?" -}}
{{- end -}}
{{- include "latchkey.validateNames" . -}}
{{- include "latchkey.validateCertificates" . -}}
{{- include "latchkey.validateCanary" . -}}
{{- include "latchkey.validateExtras" . -}}
{{- include "latchkey.validateLabels" . -}}
{{- end -}}

{{- define "latchkey.validateNames" -}}
{{- $name := include "latchkey.fullname" . -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%s is no name for a Service, which begins with a letter and has letters, digits and dashes: give fullnameOverride" $name) -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a text such as 1h30m. */}}
{{- define "latchkey.seconds" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $factor := get (dict "h" 3600 "m" 60 "s" 1) (regexFind "[hms]" .) -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) $factor) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- define "latchkey.validateCertificates" -}}
{{- with .Values.tls.certManager -}}
{{- $duration := include "latchkey.seconds" .duration | int64 -}}
{{- if lt $duration 3600 -}}
{{- fail "tls.certManager.duration: cert-manager wants at least an hour" -}}
{{- end -}}
{{- if and .renewBefore (ge (include "latchkey.seconds" .renewBefore | int64) $duration) -}}
{{- fail "tls.certManager.renewBefore: not before the certificate's end, tls.certManager.duration" -}}
{{- end -}}
{{- end -}}
{{- $asks := include "latchkey.setting" (dict "root" . "key" "tls.client_auth") -}}
{{- $wants := list -}}
{{- if has $asks (list "request" "require") -}}
{{- $wants = append $wants "config.tls.client_auth" -}}
{{- end -}}
{{- if eq "mtls" (include "latchkey.setting" (dict "root" . "key" "check.open")) -}}
{{- $wants = append $wants "config.check.open" -}}
{{- end -}}
{{- range $group := list "check" "login" "manage" -}}
{{- if include "latchkey.setting" (dict "root" $ "key" (printf "access.%s" $group)) -}}
{{- $wants = append $wants (printf "config.access.%s" $group) -}}
{{- end -}}
{{- end -}}
{{- range $wants -}}
{{- if not (and $.Values.tls.enabled $.Values.tls.clientCa.existingSecret) -}}
{{- fail (printf "%s needs tls.clientCa.existingSecret, the authorities of clients' certificates" .) -}}
{{- end -}}
{{- if eq "none" $asks -}}
{{- fail (printf "%s: nobody is asked for a certificate (config.tls.client_auth)" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of a certificate of somebody else's nobody knows here what identities it has. */}}
{{- define "latchkey.validateCanary" -}}
{{- $drills := ne "none" (include "latchkey.setting" (dict "root" . "key" "canary.interval") | default "none") -}}
{{- $listed := include "latchkey.setting" (dict "root" . "key" "access.check") -}}
{{- if and $drills $listed .Values.tls.enabled .Values.tls.certManager.enabled -}}
{{- $own := include "latchkey.certificateNames" . | fromYamlArray -}}
{{- $named := false -}}
{{- range splitList "," $listed -}}
{{- $named = or $named (has (trim .) $own) -}}
{{- end -}}
{{- if not $named -}}
{{- fail (printf "config.access.check names no replica: add %s, or their canary is refused" (include "latchkey.tlsName" .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is given besides must not be there already: of two, a cluster refuses both or takes one. */}}
{{- define "latchkey.validateExtras" -}}
{{- $volumes := list -}}
{{- if eq .Values.store "embedded" -}}
{{- $volumes = append $volumes "data" -}}
{{- if .Values.persistence.existingClaim -}}
{{- $volumes = list -}}
{{- end -}}
{{- else if .Values.bootstrap.existingSecret -}}
{{- $volumes = append $volumes "bootstrap" -}}
{{- end -}}
{{- range include "latchkey.volumes" . | fromYamlArray -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- include "latchkey.validateOnce" (dict "value" "extraVolumes" "names" $volumes) -}}
{{- $container := include "latchkey.container" . | fromYaml -}}
{{- $places := list -}}
{{- range $container.volumeMounts -}}
{{- $places = append $places .mountPath -}}
{{- end -}}
{{- include "latchkey.validateOnce" (dict "value" "extraVolumeMounts" "names" $places) -}}
{{- $variables := list -}}
{{- range $container.env -}}
{{- $variables = append $variables .name -}}
{{- end -}}
{{- include "latchkey.validateOnce" (dict "value" "extraEnv" "names" $variables) -}}
{{- $variables = list "LATCHKEY_DATABASE_URL" -}}
{{- range .Values.migrate.extraEnv -}}
{{- $variables = append $variables .name -}}
{{- end -}}
{{- include "latchkey.validateOnce" (dict "value" "migrate.extraEnv" "names" $variables) -}}
{{- include "latchkey.validateVariables" . -}}
{{- end -}}

{{- define "latchkey.validateOnce" -}}
{{- $seen := list -}}
{{- range $name := .names -}}
{{- if has $name $seen -}}
{{- fail (printf "%s: %s is there already" $.value $name) -}}
{{- end -}}
{{- $seen = append $seen $name -}}
{{- end -}}
{{- end -}}

{{/* A variable goes before the file, and would make untrue what the chart says there. */}}
{{- define "latchkey.validateVariables" -}}
{{- $set := list -}}
{{- range splitList "\n" (include "latchkey.file" .) -}}
{{- $set = append $set (splitList " = " . | first | replace "." "_" | upper | printf "LATCHKEY_%s") -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if has .name $set -}}
{{- fail (printf "extraEnv: %s is set by `config` or a value of its own" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Selectors go by labels of the chart's own, and Helm by annotations. */}}
{{- define "latchkey.validateLabels" -}}
{{- with .Values -}}
{{- $given := dict "commonLabels" .commonLabels "podLabels" .podLabels "podAnnotations" .podAnnotations "jobs.podLabels" .jobs.podLabels "jobs.podAnnotations" .jobs.podAnnotations -}}
{{- range $name, $of := .metrics -}}
{{- $_ := set $given (printf "metrics.%s.labels" $name) $of.labels -}}
{{- end -}}
{{- range $value, $keys := $given -}}
{{- range $key, $_ := $keys -}}
{{- if regexMatch "^(app[.]kubernetes[.]io/(name|instance|component|version|managed-by)|helm[.]sh/.*|checksum/settings)$" $key -}}
{{- fail (printf "%s: %s is the chart's own" $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
