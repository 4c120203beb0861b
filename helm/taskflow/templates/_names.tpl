{{/* The name of everything, with room for what comes behind it within 63 characters. */}}
{{- define "taskflow.fullname" -}}
{{- ternary .Release.Name (printf "%s-taskflow" .Release.Name) (contains "taskflow" .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects pods: (dict "root" $ "component" …). It must never change: Deployments refuse another one. */}}
{{- define "taskflow.selector" -}}
app.kubernetes.io/name: taskflow
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* What describes things: (dict "root" $ "component" …). */}}
{{- define "taskflow.labels" -}}
{{ include "taskflow.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* The Deployments of a cluster, by the values that describe them. */}}
{{- define "taskflow.components" -}}
{{- $components := list "server" -}}
{{- if .Values.feeds.enabled -}}{{- $components = append $components "feeds" -}}{{- end -}}
{{- toJson $components -}}
{{- end -}}

{{/* The name of a component's Deployment: (dict "root" $ "component" …). */}}
{{- define "taskflow.workload" -}}
{{- $name := include "taskflow.fullname" .root -}}
{{- ternary $name (printf "%s-%s" $name .component) (eq .component "server") -}}
{{- end -}}

{{/* The port in an address. */}}
{{- define "taskflow.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{/* The port that an address leads to, with the scheme of a URL or, for a node of the database, without. */}}
{{- define "taskflow.portOfUrl" -}}
{{- $mail := contains "tls=" . | ternary "587" "25" -}}
{{- $usual := dict "" "9042" "redis://" "6379" "rediss://" "6379" "http://" "80" "https://" "443" "smtp://" $mail "smtps://" "465" -}}
{{- $authority := regexFind "^([a-z]+://)?[^/?#]*" . -}}
{{- regexFind ":[0-9]+$" $authority | trimPrefix ":" | default (index $usual (regexFind "^[a-z]+://" .)) -}}
{{- end -}}

{{/*
Seconds that the kubelet waits before it kills: the server has ended by drain_seconds_max, and the rest is for the store to be
closed and for a machine that is slow. There is no preStop hook: the server itself goes on taking connections for
drain_wait_seconds after SIGTERM while balancers take the pod out, and an image without a shell has nothing to sleep with.
*/}}
{{- define "taskflow.grace" -}}
{{- add (int .Values.config.drain_seconds_max) 15 -}}
{{- end -}}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "taskflow.quantity" -}}
{{- $text := toString . -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (index $units (regexReplaceAll "^[0-9.]+" $text "")) -}}
{{- end -}}
