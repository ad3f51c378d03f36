{{/*
Parts of pods. Each takes a dict: root, component (its name in labels), values (of the component).
*/}}

{{- define "drover.podMetadata" -}}
labels:
  {{- include "drover.labels" (list .root .component) | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "drover.podSpec" -}}
serviceAccountName: {{ include "drover.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $constraint := . }}
  {{- if not (hasKey . "labelSelector") }}
  {{- $labels := include "drover.selector" (list $.root $.component) | fromYaml }}
  {{- $constraint = merge (dict "labelSelector" (dict "matchLabels" $labels)) . }}
  {{- end }}
  - {{- toYaml $constraint | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "drover.containerSecurity" -}}
# kubectl describe shows why a process ended.
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  runAsNonRoot: true
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "drover.image.pull" -}}
image: {{ include "drover.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "drover.resources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- if gt (int .values.gpus) 0 -}}
{{- $limits := dict "nvidia.com/gpu" (int .values.gpus) | merge ($resources.limits | default dict) -}}
{{- $resources = set $resources "limits" $limits -}}
{{- end -}}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment of a role: what arguments name as $(NAME), the gossip key, and extraEnv. */}}
{{- define "drover.env" -}}
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_IP
    valueFrom: {fieldRef: {fieldPath: status.podIP}}
  {{- if eq .component "expertnode" }}
  {{- if eq .values.domain "host" }}
  - name: DOMAIN
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- else if eq .values.domain "zone" }}
  - name: DOMAIN
    valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
  {{- end }}
  {{- end }}
  {{- if and .root.Values.gossip.enabled (ne .component "etcd") }}
  - name: DROVER_GOSSIP_KEY
    valueFrom: {secretKeyRef: {name: {{ include "drover.gossipSecret" .root }}, key: key}}
  {{- end }}
  {{- with .values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Arguments that coordinators and expert nodes have in common. */}}
{{- define "drover.memberArgs" -}}
{{- $full := include "drover.fullname" .root -}}
- --etcd={{ include "drover.etcdEndpoints" .root }}
- --cluster={{ include "drover.cluster" .root }}
- --model={{ include "drover.modelPath" .root }}
- --mode={{ .root.Values.mode }}
- --cache=/cache
{{- if .root.Values.gossip.enabled }}
- --gossip={{ include "drover.podAddress" (list .root 7946) }}
- --join={{ $full }}-node.{{ .root.Release.Namespace }}.svc:7946
{{- end }}
- --insecure
{{- end }}

{{- define "drover.modelMount" -}}
{{- if ne .Values.model.source "bundled" }}
- name: model
  mountPath: /model
  readOnly: true
{{- end }}
{{- end }}

{{- define "drover.modelVolume" -}}
{{- with .Values.model }}
{{- if eq .source "claim" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ .claim }}
    readOnly: true
{{- else if eq .source "hostPath" }}
- name: model
  hostPath:
    path: {{ .hostPath }}
    type: Directory
{{- else if eq .source "image" }}
- name: model
  image:
    reference: {{ .image.reference | quote }}
    pullPolicy: {{ .image.pullPolicy }}
{{- end }}
{{- end }}
{{- end }}
