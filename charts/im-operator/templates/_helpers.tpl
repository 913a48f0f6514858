{{- define "im-operator.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "im-operator.account" -}}
{{ .Values.serviceAccount.name | default (include "im-operator.name" .) }}
{{- end }}

{{- define "im-operator.selector" -}}
app.kubernetes.io/name: im-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "im-operator.labels" -}}
{{ include "im-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: imcluster
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "im-operator.image" -}}
{{- with .Values.image -}}
{{- if .registry }}{{ trimSuffix "/" .registry }}/{{ end }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- /* What the operator may do where ImClusters live. Every verb is one that it uses: it creates and patches by server-side apply. */ -}}
{{- define "im-operator.rules" -}}
- apiGroups: [imcluster.io]
  resources: [imclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [imcluster.io]
  resources: [imclusters/status]
  verbs: [patch]
# Owner references that block the owner's deletion need it.
- apiGroups: [imcluster.io]
  resources: [imclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Whether one that an ImCluster names is there, with its keys.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
# Generated passwords, keys and certificates are created once and replaced when they are renewed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update]
# Labels and deletion costs of pods; redis and etcd pods are replaced by deleting them in turn.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# The mark that a volume holds data stands on its claim.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# Which of connect's pods are of the newest template.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch]
# How many logic pods there are is an autoscaler's business where there is one.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
