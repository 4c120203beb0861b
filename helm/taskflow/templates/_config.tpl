{{/* A value in TOML. Strings are those of JSON; numbers come from values as floating point, also those that are whole. */}}
{{- define "taskflow.toml" -}}
{{- if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ int64 . }}
{{- else if kindIs "slice" . -}}
[{{ range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "taskflow.toml" $value }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ $key }} = {{ include "taskflow.toml" (index $ $key) }}{{ end }} }
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* The folder of an embedded store: one of its own in the volume, whose root is not the server's. */}}
{{- define "taskflow.dataDir" -}}/var/lib/taskflow/data{{- end -}}

{{/* The settings file: what is given, and what follows from the mode. */}}
{{- define "taskflow.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- /* What `--set` makes of a number that is not whole is a string. */ -}}
{{- if kindIs "string" $config.trace_sample_ratio -}}
{{- $_ := set $config "trace_sample_ratio" (float64 $config.trace_sample_ratio) -}}
{{- end -}}
{{- if eq .Values.mode "cluster" -}}
{{- $_ := set $config "store" "cql" -}}
{{- else -}}
{{- $_ := set $config "store" "embedded" -}}
{{- $_ := set $config "data_dir" (include "taskflow.dataDir" .) -}}
{{- end -}}
{{- range $key := keys $config | sortAlpha -}}
{{ $key }} = {{ include "taskflow.toml" (index $config $key) }}
{{ end -}}
{{- end -}}

{{/* Where the settings from Secrets are: (dict "root" $ "made" the name of the Secret that an ExternalSecret makes). */}}
{{- define "taskflow.secrets" -}}
{{- $secrets := deepCopy (.root.Values.secrets | default dict) -}}
{{- range $setting, $_ := .root.Values.externalSecret.data -}}
{{- $_ := set $secrets $setting (dict "name" $.made "key" $setting) -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}

{{/* The variables of a pod, as (dict "secrets" …). Settings that are files are named, the others are read from theirs. */}}
{{- define "taskflow.env" -}}
- name: TASKFLOW_CONFIG
  value: /etc/taskflow/taskflow.toml
{{- $files := list "cql_tls_ca" "tls_certificate" "tls_key" }}
{{- range $setting, $_ := .secrets }}
- name: TASKFLOW_{{ upper $setting }}{{ if not (has $setting $files) }}_FILE{{ end }}
  value: /run/secrets/taskflow/{{ $setting }}
{{- end }}
{{- end -}}

{{/* Volumes of a pod, as (dict "config" the name of the ConfigMap "secrets" …), and where they are. */}}
{{- define "taskflow.volumes" -}}
- name: config
  configMap:
    name: {{ .config }}
{{- if .secrets }}
- name: secrets
  projected:
    # The server reads them by its group.
    defaultMode: 0440
    sources:
      {{- range $setting, $from := .secrets }}
      - secret:
          name: {{ $from.name }}
          items:
            - key: {{ $from.key }}
              path: {{ $setting }}
      {{- end }}
{{- end }}
{{- end -}}

{{- define "taskflow.volumeMounts" -}}
- name: config
  mountPath: /etc/taskflow
  readOnly: true
{{- if .secrets }}
- name: secrets
  mountPath: /run/secrets/taskflow
  readOnly: true
{{- end }}
{{- end -}}

{{/* An ExternalSecret with everything: (dict "root" $ "made" its name and that of the Secret). */}}
{{- define "taskflow.externalSecret" -}}
secretStoreRef:
  kind: {{ .root.Values.externalSecret.store.kind }}
  name: {{ .root.Values.externalSecret.store.name }}
refreshInterval: {{ .root.Values.externalSecret.refreshInterval }}
target:
  name: {{ .made }}
data:
  {{- range $setting, $from := .root.Values.externalSecret.data }}
  - secretKey: {{ $setting }}
    remoteRef:
      {{- toYaml $from | nindent 6 }}
  {{- end }}
{{- end -}}
