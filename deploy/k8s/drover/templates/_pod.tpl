{{/*
Parts of pods. Each takes a dict: root, component (its name in labels), values (of the component).
*/}}

{{- define "drover.podMetadata" -}}
labels:
  {{- include "drover.labels" (list .root .component) | nindent 2 }}
  # Chosen by the service of the admin ports.
  drover/admin: "true"
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "drover.podSpec" -}}
serviceAccountName: {{ include "drover.serviceAccount" .root | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
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
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
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

{{/* The same for a part of a pod: with a GPU it is another image. */}}
{{- define "drover.image.pullFor" -}}
{{- if gt (int .values.gpus) 0 -}}
image: {{ include "drover.image.cuda" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- else -}}
{{ include "drover.image.pull" .root }}
{{- end -}}
{{- end }}

{{- define "drover.resources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- if gt (int .values.gpus) 0 -}}
{{- $limits := dict "nvidia.com/gpu" (int .values.gpus) | merge ($resources.limits | default dict) -}}
{{- $resources = set $resources "limits" $limits -}}
{{- end -}}
{{- /* Files are the cache's, where that is no volume, and logs. */}}
{{- $cache := .values.cache | default dict -}}
{{- $most := ternary $cache.size "256Mi" (and (hasKey $cache "size") (ne (toString $cache.type) "claim")) -}}
{{- $_ := set $resources "requests" (merge ($resources.requests | default dict) (dict "ephemeral-storage" "16Mi")) -}}
{{- $_ := set $resources "limits" (merge ($resources.limits | default dict) (dict "ephemeral-storage" $most)) -}}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment of a role: what arguments name as $(NAME), and extraEnv. */}}
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
  {{- if and (eq (include "drover.slices" .) "true") .root.Values.model.pull.authoritySecret }}
  - {name: SSL_CERT_FILE, value: /pull-authority/ca.crt}
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
{{- if eq (include "drover.slices" .) "true" }}
{{- with .root.Values.model.pull }}
- {{ printf "--pull=%s" .source | quote }}
{{- if .hub }}
- {{ printf "--pull-hub=%s" .hub | quote }}
{{- end }}
{{- if .tokenSecret }}
- --pull-token-file=/pull-token/token
{{- end }}
{{- end }}
{{- end }}
- --mode={{ .root.Values.mode }}
- --cache=/cache
{{- if gt (int .values.gpus) 0 }}
- --device=cuda:0
{{- end }}
{{- if .root.Values.gossip.enabled }}
- --gossip-key-file=/gossip/key
- --gossip={{ include "drover.podAddress" (list .root 7946) }}
- --join={{ $full }}-node.{{ .root.Release.Namespace }}.svc:7946
{{- end }}
- --tls=/tls
{{- if and .root.Values.etcd.external.enabled .root.Values.etcd.external.tlsSecret }}
- --etcd-tls=/etcd-tls
{{- end }}
{{- with .root.Values.etcd.external }}
{{- if and .enabled .user }}
- {{ printf "--etcd-user=%s" .user | quote }}
- --etcd-password-file=/etcd-password/password
{{- end }}
{{- end }}
- --admin=:9090
{{- with .root.Values.monitoring.tokenSecret }}
- --metrics-token-file=/metrics-token/token
{{- end }}
{{- end }}

{{/* Mounts of what a role alone has: its certificates, and what it checks others by. */}}
{{- define "drover.identityMounts" -}}
{{- $values := .root.Values }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- if and (ne .component "etcd") $values.gossip.enabled }}
- {name: gossip, mountPath: /gossip, readOnly: true}
{{- end }}
{{- if and (ne .component "etcd") $values.etcd.external.enabled $values.etcd.external.tlsSecret }}
- {name: etcd-tls, mountPath: /etcd-tls, readOnly: true}
{{- end }}
{{- if and (ne .component "etcd") $values.etcd.external.enabled $values.etcd.external.user }}
- {name: etcd-password, mountPath: /etcd-password, readOnly: true}
{{- end }}
{{- if and (eq .component "coordinator") $values.tls.clientPort.existingSecret }}
- {name: client-tls, mountPath: /client-tls, readOnly: true}
{{- end }}
{{- if and (eq .component "coordinator") $values.apiKeys.existingSecret }}
- {name: api-keys, mountPath: /api-keys, readOnly: true}
{{- end }}
{{- if $values.monitoring.tokenSecret }}
- {name: metrics-token, mountPath: /metrics-token, readOnly: true}
{{- end }}
{{- end }}

{{- define "drover.identityVolumes" -}}
{{- $values := .root.Values }}
{{ include "drover.tls.volume" (list "tls" (include "drover.tls.secret" (list .root .component)) true) }}
{{- if and (ne .component "etcd") $values.gossip.enabled }}
- name: gossip
  secret:
    secretName: {{ include "drover.gossipSecret" .root | quote }}
    defaultMode: 0440
    items: [{key: key, path: key}]
{{- end }}
{{- if and (ne .component "etcd") $values.etcd.external.enabled }}
{{- with $values.etcd.external.tlsSecret }}
{{ include "drover.tls.volume" (list "etcd-tls" .) }}
{{- end }}
{{- if $values.etcd.external.user }}
- name: etcd-password
  secret:
    secretName: {{ $values.etcd.external.passwordSecret | quote }}
    defaultMode: 0440
    items: [{key: password, path: password}]
{{- end }}
{{- end }}
{{- if eq .component "coordinator" }}
{{- with $values.tls.clientPort.existingSecret }}
{{ include "drover.tls.volume" (list "client-tls" .) }}
{{- end }}
{{- with $values.apiKeys.existingSecret }}
- name: api-keys
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items: [{key: keys, path: keys}]
{{- end }}
{{- end }}
{{- with $values.monitoring.tokenSecret }}
- name: metrics-token
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items: [{key: token, path: token}]
{{- end }}
{{- end }}

{{/* A probe by the admin port: list of the root and the path. */}}
{{- define "drover.probe" -}}
httpGet: {path: {{ index . 1 }}, port: admin, scheme: HTTPS}
{{- end }}

{{/* Egress to where the model is fetched from. */}}
{{- define "drover.pullRule" -}}
{{- with .Values.model }}
{{- if eq .source "pull" }}
- ports:
    - {port: 443}
    {{- range list .pull.hub .pull.source }}
    {{- with regexFind "^https://[^/]*:[0-9]+(/|$)" . }}
    - {port: {{ regexFind ":[0-9]+/?$" . | trimAll ":/" }}}
    {{- end }}
    {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether a part of a pod reads from the source what it was pulled without. */}}
{{- define "drover.slices" -}}
{{- $node := and (eq .component "expertnode") (ne (toString .values.source) "peers") -}}
{{- $model := .root.Values.model -}}
{{- and (eq $model.source "pull") $model.pull.slices (or $node (eq .component "coordinator")) -}}
{{- end }}

{{/* Room for what a pod pulls, and for that and its cache: of a part of a pod. */}}
{{- define "drover.pullRoom" -}}
{{- $pull := .root.Values.model.pull }}
{{- if and $pull.slices (eq .component "expertnode") -}}
{size: {{ $pull.nodeSize }}, all: {{ $pull.nodeEphemeralStorage }}}
{{- else -}}
{size: {{ $pull.size }}, all: {{ $pull.ephemeralStorage }}}
{{- end }}
{{- end }}

{{/* Mounts of the secrets that the source wants. */}}
{{- define "drover.pullMounts" -}}
{{- $pull := .Values.model.pull }}
{{- if $pull.tokenSecret }}
- {name: pull-token, mountPath: /pull-token, readOnly: true}
{{- end }}
{{- if $pull.authoritySecret }}
- {name: pull-authority, mountPath: /pull-authority, readOnly: true}
{{- end }}
{{- end }}

{{/* What fetches the model before a role starts; nothing if it comes from elsewhere. */}}
{{- define "drover.pullContainer" -}}
{{- $pull := .root.Values.model.pull }}
{{- $room := include "drover.pullRoom" . | fromYaml }}
{{- if eq .root.Values.model.source "pull" }}
initContainers:
  - name: pull
    {{- include "drover.image.pullFor" . | nindent 4 }}
    args:
      - pull
      - --if-missing
      {{- if $pull.slices }}
      - --for={{ .component }}
      {{- end }}
      {{- if $pull.tokenSecret }}
      - --token-file=/pull-token/token
      {{- end }}
      {{- with $pull.hub }}
      - {{ printf "--hub=%s" . | quote }}
      {{- end }}
      - {{ $pull.source | quote }}
      - {{ include "drover.modelPath" .root | quote }}
    {{- if $pull.authoritySecret }}
    env:
      - {name: SSL_CERT_FILE, value: /pull-authority/ca.crt}
    {{- end }}
    {{- include "drover.containerSecurity" .root | nindent 4 }}
    resources:
      {{- $resources := deepCopy .values.resources }}
      {{- $_ := set $resources "requests" (merge ($resources.requests | default dict) (dict "ephemeral-storage" $room.size)) }}
      {{- $_ := set $resources "limits" (merge ($resources.limits | default dict) (dict "ephemeral-storage" $room.all)) }}
      {{- toYaml $resources | nindent 6 }}
    volumeMounts:
      - {name: model, mountPath: /model}
      {{- with include "drover.pullMounts" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end }}
{{- end }}

{{- define "drover.modelMount" -}}
{{- if ne .root.Values.model.source "bundled" }}
- name: model
  mountPath: /model
  readOnly: true
{{- end }}
{{- if eq (include "drover.slices" .) "true" }}
{{- include "drover.pullMounts" .root }}
{{- end }}
{{- end }}

{{/* Takes a part of a pod. */}}
{{- define "drover.modelVolume" -}}
{{- $room := include "drover.pullRoom" . | fromYaml }}
{{- with .root.Values.model }}
{{- if eq .source "claim" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ .claim | quote }}
    readOnly: true
{{- else if eq .source "hostPath" }}
- name: model
  hostPath:
    path: {{ .hostPath | quote }}
    type: Directory
{{- else if eq .source "image" }}
- name: model
  image:
    reference: {{ .image.reference | quote }}
    pullPolicy: {{ .image.pullPolicy }}
{{- else if eq .source "pull" }}
- name: model
  emptyDir:
    sizeLimit: {{ $room.size }}
{{- with .pull.tokenSecret }}
- name: pull-token
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items: [{key: token, path: token}]
{{- end }}
{{- with .pull.authoritySecret }}
- name: pull-authority
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}
{{- end }}
