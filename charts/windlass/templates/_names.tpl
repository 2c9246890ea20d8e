{{/* Names, labels and image references: everything that more than one template must agree on. */}}

{{/* Cut so that "-operator-metrics" still fits into the 63 characters of a Service name. */}}
{{- define "windlass.operator" -}}
{{ .Release.Name | trunc 46 | trimSuffix "-" }}-operator
{{- end }}

{{/* Cluster-scoped names. Releases that serve chosen namespaces may share a release name; two that serve
all namespaces would fight over the same objects, so their names are equal on purpose and Helm refuses the second. */}}
{{- define "windlass.operator.clusterName" -}}
{{ include "windlass.operator" . }}{{ if .Values.watchNamespaces }}:{{ .Release.Namespace }}{{ end }}
{{- end }}

{{/* The operator's NetworkPolicies for models let pods with these labels in: they must not change. */}}
{{- define "windlass.operator.selector" -}}
app.kubernetes.io/name: windlass-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "windlass.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: windlass
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "windlass.operator.labels" -}}
{{ include "windlass.operator.selector" . }}
{{ include "windlass.labels" . }}
{{- end }}

{{/* image (dict "root" $ "name" "server"): the complete reference. A colon in the last path segment is a tag. */}}
{{- define "windlass.image" -}}
{{- $reference := index .root.Values.images .name -}}
{{- if not (or (contains "@" $reference) (contains ":" (splitList "/" $reference | last))) -}}
{{- $reference = printf "%s:%s" $reference .root.Chart.AppVersion -}}
{{- end -}}
{{- with .root.Values.images.prefix }}{{ trimSuffix "/" . }}/{{ end }}{{ $reference -}}
{{- end }}

{{/* The rights in namespaces that hold ModelDeployments; the same in a ClusterRole and in Roles.
Secrets, nodes and pods/exec are absent by intent. */}}
{{- define "windlass.operator.rules" -}}
- apiGroups: [windlass.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [windlass.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
# blockOwnerDeletion in the children's ownerReferences is checked against this right.
- apiGroups: [windlass.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# Deleted by the operator itself: revisions that nothing refers to any more, the ServiceAccount of an object that
# now names another, and recorded digests that no revision uses. Everything else goes by garbage collection.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Why a pod does not start: volumes that cannot be attached or mounted stand in events alone.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
