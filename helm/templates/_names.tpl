{{/* Names and labels. */}}

{{- define "latchkey.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for the longest ending, `-dashboard`, and a pod's own, within 63 characters. */}}
{{- define "latchkey.fullname" -}}
{{- $name := include "latchkey.name" . -}}
{{- $release := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $release .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects the pods that serve; it must never change. */}}
{{- define "latchkey.selector" -}}
app.kubernetes.io/name: {{ include "latchkey.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{/* The labels of everything; call it with (dict "root" $ "component" "…" "more" …), `more` or nothing. */}}
{{- define "latchkey.labels" -}}
app.kubernetes.io/name: {{ include "latchkey.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with merge (dict) (.more | default dict) (.root.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "latchkey.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "latchkey.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "latchkey.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "latchkey.databaseSecret" -}}
{{- default (printf "%s-database" (include "latchkey.fullname" .)) .Values.database.existingSecret -}}
{{- end -}}

{{/* The Secret with the seal keys; empty if there is none. */}}
{{- define "latchkey.sealKeysSecret" -}}
{{- if .Values.sealKeys.existingSecret -}}
{{- .Values.sealKeys.existingSecret -}}
{{- else if .Values.sealKeys.generate -}}
{{- include "latchkey.fullname" . -}}-seal-keys
{{- end -}}
{{- end -}}

{{/* The Secret with our certificate; empty is plain text. */}}
{{- define "latchkey.tlsSecret" -}}
{{- if .Values.tls.enabled -}}
{{- default (printf "%s-tls" (include "latchkey.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The name that our certificate has for every replica: pods know each other's addresses only. */}}
{{- define "latchkey.tlsName" -}}
{{ include "latchkey.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* The names of the certificate that cert-manager makes, a list. */}}
{{- define "latchkey.certificateNames" -}}
{{- $name := include "latchkey.fullname" . -}}
{{- range list "" "-ready" }}
- {{ $name }}{{ . }}
- {{ $name }}{{ . }}.{{ $.Release.Namespace }}.svc
- {{ $name }}{{ . }}.{{ $.Release.Namespace }}.svc.cluster.local
{{- end }}
{{- with .Values.tls.certManager.dnsNames }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The ConfigMap with the route table; empty if there is none. */}}
{{- define "latchkey.routesConfigMap" -}}
{{- if .Values.routes.existingConfigMap -}}
{{- .Values.routes.existingConfigMap -}}
{{- else if .Values.routes.table -}}
{{- include "latchkey.fullname" . -}}-routes
{{- end -}}
{{- end -}}

{{/* Where the program listens: its own ports, on every address of the pod. */}}
{{- define "latchkey.listen" -}}
{{- ternary "[::]" "0.0.0.0" .Values.ipv6 -}}
{{- end -}}

{{/* What is served by how many: embedded | deployment | daemonset. */}}
{{- define "latchkey.shape" -}}
{{- ternary "embedded" (lower .Values.kind) (eq .Values.store "embedded") -}}
{{- end -}}

{{- define "latchkey.replicas" -}}
{{- default (ternary 1 3 (eq .Values.store "embedded")) .Values.replicas -}}
{{- end -}}

{{/* Whether there may be more than one replica that a budget can count; empty if not. */}}
{{- define "latchkey.several" -}}
{{- if eq (include "latchkey.shape" .) "deployment" -}}
{{- if gt (int (ternary .Values.autoscaling.minReplicas (include "latchkey.replicas" .) .Values.autoscaling.enabled)) 1 -}}
yes
{{- end -}}
{{- end -}}
{{- end -}}
