{{/* Who every pod runs as. 65532 is the user of the image. */}}
{{- define "taskflow.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
# Not at every start: the kubelet would open the signing key in the volume to the group, and the server refuses such a key.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "taskflow.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "taskflow.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* A pod of the server, metadata and all: (dict "root" $ "component" …). */}}
{{- define "taskflow.pod" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .component -}}
{{- $name := include "taskflow.fullname" $root -}}
{{- $secrets := include "taskflow.secrets" (dict "root" $root "made" $name) | fromJson -}}
{{- $operator := include "taskflow.port" $root.Values.config.operator_listen -}}
metadata:
  labels:
    {{- include "taskflow.labels" . | nindent 4 }}
    # Has the operator's port, unlike the pods of migrations and tests.
    taskflow-node: "true"
  annotations:
    # Other settings are other pods: what is in the ConfigMap is read at the start.
    checksum/config: {{ include "taskflow.config" $root | sha256sum }}
    {{- if eq $root.Values.metrics.scrape "annotations" }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ $operator | quote }}
    prometheus.io/path: /metrics
    {{- end }}
spec:
  serviceAccountName: {{ $name }}
  automountServiceAccountToken: false
  # Variables that Kubernetes would make for a Service called taskflow look like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "taskflow.grace" $root }}
  securityContext:
    {{- include "taskflow.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: taskflow
      {{- include "taskflow.image" $root | nindent 6 }}
      args: [serve]
      env:
        {{- include "taskflow.env" (dict "secrets" $secrets) | nindent 8 }}
        {{- if eq $root.Values.mode "cluster" }}
        # Feeds are placed by it, so no two pods may share one.
        - name: TASKFLOW_NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: TASKFLOW_ROLES
          value: {{ ternary "feeds" (ternary "gateway" "gateway,feeds" $root.Values.feeds.enabled) (eq .component "feeds") }}
        {{- end }}
      ports:
        {{- if eq .component "server" }}
        - name: clients
          containerPort: {{ include "taskflow.port" $root.Values.config.listen }}
        {{- end }}
        - name: operator
          containerPort: {{ $operator }}
      # Two minutes, for a store that has to read back much after a crash or a database that is slow to answer.
      startupProbe:
        httpGet:
          path: /health/startup
          port: operator
        periodSeconds: 1
        timeoutSeconds: 2
        failureThreshold: 120
      # It asks the process and nothing that it depends on, so only a process that hangs is killed.
      livenessProbe:
        httpGet:
          path: /health/live
          port: operator
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet:
          path: /health/ready
          port: operator
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- include "taskflow.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        {{- include "taskflow.volumeMounts" (dict "secrets" $secrets) | nindent 8 }}
        {{- if eq $root.Values.mode "embedded" }}
        - name: data
          mountPath: {{ include "taskflow.dataDir" $root | dir }}
        {{- end }}
  volumes:
    {{- include "taskflow.volumes" (dict "config" $name "secrets" $secrets) | nindent 4 }}
  {{- if eq $root.Values.mode "cluster" }}
  topologySpreadConstraints:
    {{- $selector := include "taskflow.selector" . }}
    {{- range $root.Values.topologySpread }}
    - topologyKey: {{ .topologyKey }}
      whenUnsatisfiable: {{ .whenUnsatisfiable }}
      maxSkew: 1
      labelSelector:
        matchLabels:
          {{- $selector | nindent 10 }}
      # Or the pods that a rolling update replaces would be counted, and the new ones stand where those are not.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
