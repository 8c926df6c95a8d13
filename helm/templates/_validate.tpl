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
{{- $endpoint := dig "telemetry" "otlp" "endpoint" "" $values.config -}}
{{- if and (hasPrefix "https://" $endpoint) (not $values.telemetry.ca.existingSecret) -}}
{{- fail "config.telemetry.otlp.endpoint: https:// needs telemetry.ca.existingSecret, the authorities to believe" -}}
{{- end -}}
{{- if and $values.tls.certManager.enabled (not $values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: who issues the certificate?" -}}
{{- end -}}
{{- end -}}
