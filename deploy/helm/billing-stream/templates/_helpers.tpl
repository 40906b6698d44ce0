{{- define "billing.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "billing.labels" -}}
app.kubernetes.io/name: billing-stream
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "billing.selector" -}}
app.kubernetes.io/name: billing-stream
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .process }}
{{- end }}

{{- define "billing.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Settings without secrets, then the operator's secret: `secret` if given, else the shared one. `process` and `of` are empty
     for a job, `of` for the operator's pod. */}}
{{- define "billing.env" -}}
env:
  {{- range $name, $value := .root.Values.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  - {name: BILLING_STATE_DIR, value: /tmp/billing}
  - {name: BILLING_CONFIG, value: /etc/billing/config.toml}
  {{- if eq (.process | default "") "operator" }}
  - {name: BILLING_GATEWAY_URL, value: {{ printf "http://%s-gateway" (include "billing.name" .root) | quote }}}   # `trigger` posts there
  {{- end }}
  {{- if .of }}
  - {name: BILLING_OPS_HOST, value: 0.0.0.0}
  - {name: BILLING_OPS_PORT, value: "9090"}
  {{- if .of.public }}
  - {name: BILLING_GATEWAY_HOST, value: 0.0.0.0}
  - {name: BILLING_GATEWAY_PORT, value: "8080"}
  {{- end }}
  {{- if eq .process "console" }}
  - {name: BILLING_CONSOLE_HOST, value: 0.0.0.0}
  - {name: BILLING_CONSOLE_PORT, value: "8900"}
  - {name: BILLING_CONSOLE_PUBLIC_URL, value: {{ .of.publicUrl | quote }}}
  - {name: BILLING_CONSOLE_WATCHES, value: {{ include "billing.watched" .root | quote }}}
  {{- end }}
  {{- if .of.stable }}
  - {name: BILLING_MEMBER_ID, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  {{- end }}
  {{- end }}
  {{- if .process }}
  {{- if .root.Values.exports.existingClaim }}
  - {name: BILLING_EXPORTS_URL, value: /var/lib/billing/exports}
  {{- else if .root.Values.exports.url }}
  - {name: BILLING_EXPORTS_URL, value: {{ .root.Values.exports.url | quote }}}
  {{- end }}
  {{- if include "billing.payloads" (dict "root" .root "command" (first ((.of | default dict).args | default (list .process)))) }}
  - {name: BILLING_PAYLOADS_URL, value: {{ ternary "/var/lib/payloads" .root.Values.payloads.url (not (empty .root.Values.payloads.existingClaim)) | quote }}}
  {{- end }}
  {{- end }}
envFrom:
  - secretRef: {name: {{ .secret | default .root.Values.existingSecret }}}
{{- end }}

{{/* How a command (`.command`) uses the archive of payloads: write, read, or nothing. */}}
{{- define "billing.payloads" -}}
{{- if or .root.Values.payloads.existingClaim .root.Values.payloads.url }}
{{- get (dict "scheduler" "write" "operator" "write" "dispatcher" "read" "console" "read") .command }}
{{- end }}
{{- end }}

{{/* The operations addresses of the other processes, for the console's overview. */}}
{{- define "billing.watched" -}}
{{- $found := list }}
{{- range $process, $of := .Values.processes }}
{{- if and $of.enabled (ne $process "console") }}
{{- $found = append $found (printf "%s=http://%s-%s:9090" $process (include "billing.name" $) $process) }}
{{- end }}
{{- end }}
{{- join "," $found }}
{{- end }}

{{- define "billing.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Without service links: they are variables like BILLING_GATEWAY_PORT, for the service of a release called `billing`, and
     would be taken for settings. */}}
{{- define "billing.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}
