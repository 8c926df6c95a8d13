{{/*
The settings of the program: the file that `serve` reads, and what its environment says.
The chart's own settings come first in the file; the schema of `config` has no others of the same
name, so none can stand twice.
*/}}

{{/* One level of `config` as TOML, keys with dots; call it with (dict "prefix" "" "tree" …). */}}
{{- define "latchkey.toml" -}}
{{- range $key, $value := .tree -}}
{{- if kindIs "map" $value -}}
{{- include "latchkey.toml" (dict "prefix" (printf "%s%s." $.prefix $key) "tree" $value) -}}
{{- else if kindIs "string" $value }}
{{ $.prefix }}{{ $key }} = {{ toJson $value }}
{{- else if kindIs "bool" $value }}
{{ $.prefix }}{{ $key }} = {{ $value }}
{{- else if not (kindIs "invalid" $value) }}
{{ $.prefix }}{{ $key }} = {{ int64 $value }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A text of `config`; empty if it is not set. Call it with (dict "root" $ "key" "canary.interval"). */}}
{{- define "latchkey.setting" -}}
{{- $at := .root.Values.config -}}
{{- range splitList "." .key -}}
{{- if kindIs "map" $at -}}
{{- $at = get $at . -}}
{{- else -}}
{{- $at = "" -}}
{{- end -}}
{{- end -}}
{{- $at | default "" -}}
{{- end -}}

{{- define "latchkey.file" -}}
{{- $listen := include "latchkey.listen" . -}}
listen.addr = "{{ $listen }}:7421"
admin.addr = "{{ $listen }}:7422"
{{- if include "latchkey.tlsSecret" . }}
tls.cert_file = "/etc/latchkey/tls/tls.crt"
tls.key_file = "/etc/latchkey/tls/tls.key"
{{- if .Values.tls.clientCa.existingSecret }}
tls.client_ca_file = {{ printf "/etc/latchkey/client-ca/%s" .Values.tls.clientCa.key | toJson }}
{{- end }}
replica.tls_name = "{{ include "latchkey.tlsName" . }}"
{{- if ne "none" (include "latchkey.setting" (dict "root" . "key" "canary.interval") | default "none") }}
replica.ca_file = "/etc/latchkey/tls/ca.crt"
{{- end }}
{{- else }}
listen.plain_text = true
admin.plain_text = true
{{- end }}
limits.drain_notice = "{{ .Values.drain.delaySeconds }}s"
limits.drain_time_max = "{{ .Values.drain.seconds }}s"
{{- if eq .Values.store "embedded" }}
store.data_dir = "/var/lib/latchkey/data"
{{- else if .Values.database.ca.existingSecret }}
database.ca_file = {{ printf "/etc/latchkey/database/%s" .Values.database.ca.key | toJson }}
{{- end }}
{{- if include "latchkey.sealKeysSecret" . }}
seal.keys_dir = "/etc/latchkey/seal-keys"
{{- end }}
{{- if include "latchkey.routesConfigMap" . }}
envoy.routes_file = "/etc/latchkey/routes/routes.toml"
{{- end }}
{{- if .Values.telemetry.ca.existingSecret }}
telemetry.otlp.ca_file = {{ printf "/etc/latchkey/otlp-ca/%s" .Values.telemetry.ca.key | toJson }}
{{- end }}
{{- include "latchkey.toml" (dict "prefix" "" "tree" .Values.config) }}
{{- end -}}

{{/* A variable from the Secret with the database's URL; call it with name, secret, key. */}}
{{- define "latchkey.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .secret | quote }}, key: {{ .key | quote }}}
{{- end -}}

{{- define "latchkey.env" -}}
{{- if eq .Values.store "postgres" }}
{{- $secret := include "latchkey.databaseSecret" . }}
{{ include "latchkey.fromSecret" (dict "name" "LATCHKEY_DATABASE_URL" "secret" $secret "key" .Values.database.urlKey) }}
{{- with .Values.database.listenUrlKey }}
{{ include "latchkey.fromSecret" (dict "name" "LATCHKEY_DATABASE_LISTEN_URL" "secret" $secret "key" .) }}
{{- end }}
{{- end }}
{{- with .Values.telemetry.headers.existingSecret }}
{{ include "latchkey.fromSecret" (dict "name" "LATCHKEY_TELEMETRY_OTLP_HEADERS" "secret" . "key" $.Values.telemetry.headers.key) }}
{{- end }}
# What this replica is called in confirmations, and where the others reach it.
- name: LATCHKEY_REPLICA_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_IP
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
- name: LATCHKEY_REPLICA_ADDRESS
  # An IPv6 address gets its brackets from the program.
  value: {{ printf "%s$(POD_IP):7421" (ternary "https://" "" .Values.tls.enabled) | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* One level of `config` as flags; call it with (dict "prefix" "database." "tree" …). */}}
{{- define "latchkey.flags" -}}
{{- range $key, $value := .tree }}
{{- if not (kindIs "invalid" $value) }}
- {{ printf "--set=%s%s=%v" $.prefix $key (ternary (int64 $value) $value (kindIs "float64" $value)) | quote }}
{{- end }}
{{- end }}
{{- end -}}
