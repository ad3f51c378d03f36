{{- define "drover.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "drover.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "drover.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "drover.name" .) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "drover.cluster" -}}
{{ .Values.cluster | default (include "drover.fullname" .) }}
{{- end }}

{{- define "drover.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "drover.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{- define "drover.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The image of pods with a GPU. */}}
{{- define "drover.image.cuda" -}}
{{- $own := .Values.image.cuda -}}
{{- $repository := $own.repository | default .Values.image.repository -}}
{{- if $own.digest -}}
{{ $repository }}@{{ $own.digest }}
{{- else -}}
{{ $repository }}:{{ $own.tag | default (printf "%s-cuda" (.Values.image.tag | default .Chart.AppVersion)) }}
{{- end -}}
{{- end }}

{{/* What computes experts; nothing where that is the coordinators' own kind of device. */}}
{{- define "drover.expertDevice" -}}
{{- $own := ternary "cuda" "cpu" (gt (int .Values.coordinator.gpus) 0) -}}
{{- $nodes := ternary "cuda" "cpu" (gt (int .Values.nodes.gpus) 0) -}}
{{- $asked := .Values.coordinator.expertDevice -}}
{{- $device := ternary $nodes $asked (eq $asked "auto") -}}
{{- if ne $device $own -}}{{ $device }}{{- end -}}
{{- end }}

{{/* Labels that select the pods of a component: list of the root and the component. */}}
{{- define "drover.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "drover.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of an object: list of the root and the component. */}}
{{- define "drover.labels" -}}
{{- $root := index . 0 -}}
{{ include "drover.selector" . }}
app.kubernetes.io/version: {{ $root.Values.image.tag | default $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The number of expert nodes that an installation begins with. */}}
{{- define "drover.firstNodes" -}}
{{- with .Values.nodes -}}
{{ ternary .autoscaling.minReplicas .replicas .autoscaling.enabled | int }}
{{- end -}}
{{- end }}

{{- define "drover.firstCoordinators" -}}
{{- with .Values.coordinator -}}
{{ ternary .autoscaling.minReplicas .replicas .autoscaling.enabled | int }}
{{- end -}}
{{- end }}

{{- define "drover.etcdEndpoints" -}}
{{- if .Values.etcd.external.enabled -}}
{{ join "," .Values.etcd.external.endpoints }}
{{- else -}}
{{- $full := include "drover.fullname" . -}}
{{- $urls := list -}}
{{- range $i := until (int .Values.etcd.members) -}}
{{- $urls = append $urls (printf "https://%s-etcd-%d.%s-etcd.%s.svc:2379" $full $i $full $.Release.Namespace) -}}
{{- end -}}
{{ join "," $urls }}
{{- end -}}
{{- end }}

{{- define "drover.modelPath" -}}
{{- if eq .Values.model.source "bundled" -}}
{{ .Values.model.path }}
{{- else -}}
{{ printf "/model/%s" (trimPrefix "/" .Values.model.path) | trimSuffix "/" }}
{{- end -}}
{{- end }}

{{/* The address of this pod at a port, in the form that flags take. */}}
{{- define "drover.podAddress" -}}
{{- $root := index . 0 -}}
{{ ternary "[$(POD_IP)]" "$(POD_IP)" $root.Values.ipv6 }}:{{ index . 1 }}
{{- end }}

{{- define "drover.gossipSecret" -}}
{{ .Values.gossip.existingSecret | default (printf "%s-gossip" (include "drover.fullname" .)) }}
{{- end }}

