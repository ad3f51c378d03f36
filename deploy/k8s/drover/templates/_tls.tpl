{{/*
Certificates: where they come from, and how pods get them. No pod mounts an authority's key.
*/}}

{{/* Where certificates come from: existing, certManager, generated. */}}
{{- define "drover.tls.source" -}}
{{- $manager := .Values.tls.certManager.enabled -}}
{{- if .Values.tls.existingSecrets.coordinator -}}
existing
{{- else if eq $manager "true" -}}
certManager
{{- else if eq $manager "false" -}}
generated
{{- else if not (.Capabilities.APIVersions.Has "cert-manager.io/v1") -}}
generated
{{- else if lookup "v1" "Secret" .Release.Namespace (include "drover.tls.authority" .) -}}
generated
{{- else -}}
certManager
{{- end -}}
{{- end }}

{{/* The secret with the key of the authority. */}}
{{- define "drover.tls.authority" -}}
{{ include "drover.fullname" . }}-authority
{{- end }}

{{/* The roles that need certificates, as JSON. */}}
{{- define "drover.tls.roles" -}}
{{- $roles := list "coordinator" "expertnode" "client" -}}
{{- if not .Values.etcd.external.enabled -}}
{{- $roles = append $roles "etcd" -}}
{{- end -}}
{{- if .Values.monitoring.enabled -}}
{{- $roles = append $roles "metrics" -}}
{{- end -}}
{{ toJson $roles }}
{{- end }}

{{/* The secret with the certificate of a role: list of the root and the role. */}}
{{- define "drover.tls.secret" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $source := include "drover.tls.source" $root -}}
{{- if eq $source "existing" -}}
{{ index $root.Values.tls.existingSecrets $role }}
{{- else -}}
{{ include "drover.fullname" $root }}-{{ ternary "cert" "tls" (eq $source "certManager") }}-{{ $role }}
{{- end -}}
{{- end }}

{{/* The hosts in the certificate of a role, as JSON: list of the root and the role. */}}
{{- define "drover.tls.hosts" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $full := include "drover.fullname" $root -}}
{{- $services := dict "coordinator" (list $full) "expertnode" (list (print $full "-node")) "etcd" (list (print $full "-etcd")) -}}
{{- $hosts := list "localhost" -}}
{{- if ne $role "client" -}}
{{- range append (index $services $role | default list) (print $full "-admin") -}}
{{- $service := printf "%s.%s" . $root.Release.Namespace -}}
{{- $hosts = concat $hosts (list . $service (print $service ".svc") (print $service ".svc.cluster.local")) -}}
{{- end -}}
{{- end -}}
{{- if eq $role "coordinator" -}}
{{- $hosts = concat $hosts $root.Values.tls.hosts -}}
{{- else if eq $role "etcd" -}}
{{- range $i := until (int $root.Values.etcd.members) -}}
{{- $hosts = printf "%s-etcd-%d.%s-etcd.%s.svc" $full $i $full $root.Release.Namespace | append $hosts -}}
{{- end -}}
{{- end -}}
{{ toJson $hosts }}
{{- end }}

{{/* A volume with a folder of certificates: its name and the secret. */}}
{{- define "drover.tls.volume" -}}
- name: {{ index . 0 }}
  secret:
    secretName: {{ index . 1 | quote }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}

{{/* How a certificate that the chart makes names its role: a name of DNS, for want of URIs. */}}
{{- define "drover.tls.roleName" -}}
{{ index . 1 }}.{{ include "drover.cluster" (index . 0) }}.drover.invalid
{{- end }}

{{/* Not empty where helm test can ask: it needs a certificate of the role client. */}}
{{- define "drover.hasTest" -}}
{{- if include "drover.tls.secret" (list . "client") -}}
yes
{{- end -}}
{{- end }}
