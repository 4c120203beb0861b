{{/* Where a pod may go: DNS, and what is used of networkPolicy.egress. */}}
{{- define "taskflow.egress" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- $secrets := include "taskflow.secrets" (dict "root" $ "made" "any") | fromJson }}
{{- $isCluster := eq .Values.mode "cluster" }}
{{- $used := dict "cql" $isCluster "redis" $isCluster "smtp" (or .Values.config.smtp $secrets.smtp) "issuers" .Values.config.issuers "otlp" (or .Values.config.otlp_endpoint $secrets.otlp_endpoint) "sentry" $secrets.sentry_dsn }}
{{- range $what, $egress := .Values.networkPolicy.egress }}
{{- if index $used $what }}
# {{ $what }}
- ports:
    {{- range $egress.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with $egress.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
