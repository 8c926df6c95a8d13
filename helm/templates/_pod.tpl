{{/* The pod that serves, whatever makes it; call it with the root. */}}
{{- define "latchkey.pod" -}}
metadata:
  labels:
    {{- include "latchkey.labels" (dict "root" . "component" "server" "more" .Values.podLabels) | nindent 4 }}
  annotations:
    # Settings are read once: a pod with others is another pod. Routes and seal keys are followed.
    checksum/settings: {{ include "latchkey.file" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "latchkey.serviceAccount" . }}
  {{- include "latchkey.everyPod" . | nindent 2 }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.drain }}
  # Told to end, it serves for a while, drains, hands its lease back and closes the store.
  terminationGracePeriodSeconds: {{ add .delaySeconds .seconds .closeSeconds }}
  {{- end }}
  {{- if eq (include "latchkey.shape" .) "deployment" }}
  topologySpreadConstraints:
    {{- range .Values.topologySpread.keys }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: {{ $.Values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "latchkey.selector" $ | nindent 10 }}
      # Only replicas of one version are counted, so that an update spreads as well.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- $bootstraps := and .Values.bootstrap.existingSecret (eq .Values.store "embedded") }}
  {{- if or $bootstraps .Values.extraInitContainers }}
  initContainers:
    {{- with .Values.extraInitContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if $bootstraps }}
    # While nobody else has the volume; a store that has had an administrator stays as it is.
    - name: bootstrap
      {{- include "latchkey.bootstrap" . | nindent 6 }}
    {{- end }}
  {{- end }}
  containers:
    - name: latchkey
      {{- include "latchkey.container" . | nindent 6 }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "latchkey.volumes" . | nindent 4 }}
{{- end -}}

{{/* What the pods of servers, Jobs and the test have alike. */}}
{{- define "latchkey.everyPod" -}}
automountServiceAccountToken: false
# Variables such as LATCHKEY_PORT would look like settings.
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same of Jobs and the test. Of `affinity` they have what is about nodes: one that keeps servers
apart would leave no place beside them. */}}
{{- define "latchkey.jobPod" -}}
restartPolicy: Never
{{ include "latchkey.everyPod" . }}
{{- with (.Values.affinity | default dict).nodeAffinity }}
affinity:
  nodeAffinity:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{- define "latchkey.container" -}}
image: {{ include "latchkey.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/usr/local/bin/latchkey]
args: [serve, --config, /etc/latchkey/settings/latchkey.toml]
env:
  {{- include "latchkey.env" . | trim | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: grpc, containerPort: 7421}
  - {name: admin, containerPort: 7422}
{{- $scheme := ternary "HTTPS" "HTTP" .Values.tls.enabled }}
startupProbe:
  httpGet: {path: /healthz, port: admin, scheme: {{ $scheme }}}
  {{- toYaml .Values.probes.startup | nindent 2 }}
# A replica without a lease cannot be mended by a restart, so that its health is not asked here.
livenessProbe:
  httpGet: {path: /healthz, port: admin, scheme: {{ $scheme }}}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  {{- if .Values.tls.enabled }}
  httpGet: {path: "/readyz?service={{ .Values.probes.readinessService }}", port: admin, scheme: HTTPS}
  {{- else }}
  grpc: {port: 7421, service: {{ .Values.probes.readinessService }}}
  {{- end }}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "latchkey.storeMounts" . | nindent 2 }}
  # Whole folders: a file mounted by subPath never changes.
  {{- if include "latchkey.routesConfigMap" . }}
  - {name: routes, mountPath: /etc/latchkey/routes, readOnly: true}
  {{- end }}
  {{- if include "latchkey.sealKeysSecret" . }}
  - {name: seal-keys, mountPath: /etc/latchkey/seal-keys, readOnly: true}
  {{- end }}
  {{- if include "latchkey.tlsSecret" . }}
  - {name: tls, mountPath: /etc/latchkey/tls, readOnly: true}
  {{- if .Values.tls.clientCa.existingSecret }}
  - {name: client-ca, mountPath: /etc/latchkey/client-ca, readOnly: true}
  {{- end }}
  {{- end }}
  {{- if .Values.telemetry.ca.existingSecret }}
  - {name: otlp-ca, mountPath: /etc/latchkey/otlp-ca, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Who makes the first administrator, with the store of the server's settings. */}}
{{- define "latchkey.bootstrap" -}}
image: {{ include "latchkey.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/usr/local/bin/latchkey]
args:
  - bootstrap
  - --config=/etc/latchkey/settings/latchkey.toml
  - --secret-file=/etc/latchkey/bootstrap/{{ .Values.bootstrap.key }}
env:
  {{- include "latchkey.env" . | trim | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
# It loads the store, as a server does.
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "latchkey.storeMounts" . | nindent 2 }}
  - {name: bootstrap, mountPath: /etc/latchkey/bootstrap, readOnly: true}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What settings and store need. */}}
{{- define "latchkey.storeMounts" -}}
- {name: settings, mountPath: /etc/latchkey/settings, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if eq .Values.store "embedded" }}
- {name: data, mountPath: /var/lib/latchkey}
{{- else if .Values.database.ca.existingSecret }}
- {name: database-ca, mountPath: /etc/latchkey/database, readOnly: true}
{{- end }}
{{- end -}}

{{- define "latchkey.bootstrapVolume" -}}
- name: bootstrap
  # Deleted once somebody has the token, it is not asked for again.
  secret: {secretName: {{ .Values.bootstrap.existingSecret | quote }}, defaultMode: 288, optional: true}
{{- end -}}

{{- define "latchkey.storeVolumes" -}}
- name: settings
  configMap: {name: {{ include "latchkey.fullname" . }}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if eq .Values.store "embedded" }}
{{- with .Values.persistence.existingClaim }}
- name: data
  persistentVolumeClaim: {claimName: {{ . | quote }}}
{{- end }}
{{- else if .Values.database.ca.existingSecret }}
{{ include "latchkey.databaseCa" . }}
{{- end }}
{{- end -}}

{{- define "latchkey.volumes" -}}
{{ include "latchkey.storeVolumes" . }}
{{- with include "latchkey.routesConfigMap" . }}
- name: routes
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- with include "latchkey.sealKeysSecret" . }}
- name: seal-keys
  # 0440: the pod's group reads them.
  secret: {secretName: {{ . | quote }}, defaultMode: 288}
{{- end }}
{{- with include "latchkey.tlsSecret" . }}
{{ include "latchkey.tlsVolume" $ }}
{{- with $.Values.tls.clientCa.existingSecret }}
- name: client-ca
  secret: {secretName: {{ . | quote }}, defaultMode: 288}
{{- end }}
{{- end }}
{{- with .Values.telemetry.ca.existingSecret }}
- name: otlp-ca
  secret: {secretName: {{ . | quote }}, defaultMode: 288}
{{- end }}
{{- if and .Values.bootstrap.existingSecret (eq .Values.store "embedded") }}
{{ include "latchkey.bootstrapVolume" . }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "latchkey.tlsVolume" -}}
- name: tls
  secret: {secretName: {{ include "latchkey.tlsSecret" . | quote }}, defaultMode: 288}
{{- end -}}

{{- define "latchkey.databaseCa" -}}
- name: database-ca
  secret: {secretName: {{ .Values.database.ca.existingSecret | quote }}, defaultMode: 288}
{{- end -}}
