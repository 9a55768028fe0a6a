{{/* Labels of every object. Usage: include "rlhf.labels" (list $ "minio") */}}
{{- define "rlhf.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{ include "rlhf.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that never change, since selectors cannot. Usage: include "rlhf.selector" (list $ "minio") */}}
{{- define "rlhf.selector" -}}
app.kubernetes.io/part-of: rlhf-stack
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* An image's name. Usage: include "rlhf.image" (list $ .Values.minio.image) */}}
{{- define "rlhf.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{ $registry }}/{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag }}{{ end }}
{{- end }}

{{/* Registry and first part of the repository of our own images. */}}
{{- define "rlhf.registry" -}}
{{ .Values.global.imageRegistry | default .Values.images.registry }}/{{ .Values.images.repository }}
{{- end }}

{{/* Our launcher's image. */}}
{{- define "rlhf.launcherImage" -}}
{{- $own := printf "%s/launcher:%s" (include "rlhf.registry" .) (.Values.images.tag | default .Chart.AppVersion) -}}
{{ .Values.images.all | default $own }}
{{- end }}

{{/* Host and port of the store, and whether it speaks TLS. */}}
{{- define "rlhf.storeURL" -}}
{{ .Values.store.endpoint | default (printf "http://rlhf-minio.%s.svc:9000" .Release.Namespace) }}
{{- end }}
{{- define "rlhf.storeHost" -}}
{{- $address := (urlParse (include "rlhf.storeURL" .)).host -}}
{{- $default := ternary "443" "80" (hasPrefix "https://" (include "rlhf.storeURL" .)) -}}
{{ if contains ":" $address }}{{ $address }}{{ else }}{{ $address }}:{{ $default }}{{ end }}
{{- end }}
{{- define "rlhf.storeInsecure" -}}
{{ not (hasPrefix "https://" (include "rlhf.storeURL" .)) }}
{{- end }}
{{- define "rlhf.storeRoot" -}}
s3://{{ .Values.store.bucket }}{{ with .Values.store.prefix }}/{{ trimAll "/" . }}{{ end }}
{{- end }}

{{/* A generated value of a Secret: what is in the cluster, else new. Usage: include "rlhf.kept" (list $ "secret" "key") */}}
{{- define "rlhf.kept" -}}
{{- $root := index . 0 -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- $data := ($found | default dict).data | default dict -}}
{{ index $data (index . 2) | default (randAlphaNum 40 | b64enc) }}
{{- end }}

{{/* Names of the Secrets with the passwords of MinIO's root user and of the database. */}}
{{- define "rlhf.rootSecret" -}}
{{ .Values.minio.existingSecret | default "rlhf-minio-root" }}
{{- end }}
{{- define "rlhf.databaseSecret" -}}
{{ .Values.kfp.database.existingSecret | default "rlhf-kfp-database" }}
{{- end }}

{{/* Gives a Role to the ServiceAccount of the same name. Usage: include "rlhf.binding" (list $ "name" "component") */}}
{{- define "rlhf.binding" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  labels:
    {{- include "rlhf.labels" (list $root (index . 2)) | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $name }}, namespace: {{ $root.Release.Namespace }}}
{{- end }}

{{/* A ServiceAccount without anything. Usage: include "rlhf.account" (list $ "name" "component") */}}
{{- define "rlhf.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 1 }}
  labels:
    {{- include "rlhf.labels" (list (index . 0) (index . 2)) | nindent 4 }}
{{- end }}
