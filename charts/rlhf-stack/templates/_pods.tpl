{{/*
A Deployment of one pod, which is replaced, not rolled: what it owns must not be owned twice.
Usage: include "rlhf.deployment" (list $ "name" "component" (include … the pod's own part of the spec))
*/}}
{{- define "rlhf.deployment" -}}
{{- $root := index . 0 -}}
{{- $component := index . 2 -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ index . 1 }}
  labels:
    {{- include "rlhf.labels" (list $root $component) | nindent 4 }}
spec:
  replicas: 1
  revisionHistoryLimit: 3
  strategy: {type: Recreate}
  selector:
    matchLabels:
      {{- include "rlhf.selector" (list $root $component) | nindent 6 }}
  template:
    {{- include "rlhf.pod" (list $root $component (index . 3)) | nindent 4 }}
{{- end }}

{{/* A pod template. Usage: include "rlhf.pod" (list $ "component" (the pod's own part of the spec)) */}}
{{- define "rlhf.pod" -}}
{{- $root := index . 0 -}}
metadata:
  labels:
    {{- include "rlhf.labels" (list $root (index . 1)) | nindent 4 }}
  annotations:
    sidecar.istio.io/inject: "false"
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  enableServiceLinks: false
  {{- with $root.Values.global.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- index . 2 | nindent 2 }}
{{- end }}

{{/* What every container has. Usage: include "rlhf.container" (list $ image resources) */}}
{{- define "rlhf.container" -}}
{{- $root := index . 0 -}}
image: {{ index . 1 | quote }}
imagePullPolicy: {{ $root.Values.global.imagePullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources:
  {{- toYaml (index . 2) | nindent 2 }}
{{- end }}

{{/*
The spec of a pod that runs a script of files/ in our launcher image.
Usage: include "rlhf.script" (dict "root" $ "script" "setup_store.py" "account" "rlhf-stage" "env" "…" "from" "…")
*/}}
{{- define "rlhf.script" -}}
{{- $root := .root -}}
restartPolicy: Never
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ ne .account "rlhf-stage" }}
containers:
  - name: {{ trimSuffix ".py" .script | replace "_" "-" }}
    {{- include "rlhf.container" (list $root (include "rlhf.launcherImage" $root) $root.Values.helpers.resources) | nindent 4 }}
    command: [python, /scripts/{{ .script }}]
    env:
      - {name: HOME, value: /tmp}
      - {name: PYTHONUNBUFFERED, value: "1"}
      {{- with .env }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with $root.Values.helpers.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with .from }}
    envFrom:
      {{- . | nindent 6 }}
    {{- end }}
    volumeMounts:
      - {name: scripts, mountPath: /scripts, readOnly: true}
      - {name: tmp, mountPath: /tmp}
      {{- with $root.Values.helpers.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: scripts
    configMap: {name: rlhf-scripts}
  - name: tmp
    emptyDir: {}
  {{- with $root.Values.helpers.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
