{{/* A cluster has one release: its ports are the nodes'. So names do not come from the release's. */}}
{{- define "p2pd.name" -}}{{ .Values.nameOverride | default "p2pd" }}{{- end }}

{{- define "p2pd.labels" -}}
app.kubernetes.io/part-of: p2pd
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "p2pd.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* How nodes join, after what cannot be: volume, secret, token, publish, or by hand. */}}
{{- define "p2pd.join" -}}
{{- if and (not .Values.scheduler.enabled) (not .Values.scheduler.urls) }}
{{- fail "scheduler.enabled is false: give the addresses of the schedulers that the nodes join as scheduler.urls" }}
{{- end }}
{{- if and .Values.scheduler.tlsSecret (not .Values.certificates.volume) }}
{{- fail "scheduler.tlsSecret: a scheduler with a certificate of another system issues none; give the nodes theirs as certificates.volume" }}
{{- end }}
{{- if and .Values.scheduler.tlsSecret .Values.scheduler.caSecret }}
{{- fail "scheduler.tlsSecret and scheduler.caSecret: give one of them" }}
{{- end }}
{{- if .Values.certificates.volume }}volume
{{- else if .Values.join.existingSecret }}secret
{{- else if .Values.join.token }}token
{{- else if and .Values.join.publish .Values.scheduler.enabled }}publish
{{- else }}
{{- if not .Values.scheduler.enabled }}
{{- fail "scheduler.enabled is false: give a token of the other scheduler as join.existingSecret or join.token, or certificates.volume" }}
{{- end }}by hand
{{- end }}
{{- end }}

{{- define "p2pd.joinSecret" -}}{{ .Values.join.existingSecret | default "join" }}{{- end }}

{{/* The directories of the node that `p2pd configure` may change. */}}
{{- define "p2pd.directories" -}}
{{- $of := dict "containerd" "/etc/containerd" "crio" "/etc/containers" "docker" "/etc/docker" "k3s" "/etc/rancher/k3s" "rke2" "/etc/rancher/rke2" }}
{{- concat (list (get $of .Values.runtime.kind) "/var/lib/p2pd-configure") .Values.runtime.directories | toJson }}
{{- end }}

{{- define "p2pd.nodeMounts" -}}
{{- range $at, $path := include "p2pd.directories" . | fromJsonArray }}
- {name: node-{{ $at }}, mountPath: {{ print "/host" $path | quote }}}
{{- end }}
{{- end }}

{{- define "p2pd.nodeVolumes" -}}
{{- range $at, $path := include "p2pd.directories" . | fromJsonArray }}
- name: node-{{ $at }}
  hostPath: {path: {{ $path | quote }}, type: DirectoryOrCreate}
{{- end }}
{{- end }}

{{/* Where the pods have the content stores of the node. */}}
{{- define "p2pd.adopted" -}}
{{- range $at, $path := . }}{{ if $at }} {{ end }}/run/adopt/{{ $at }}{{ end }}
{{- end }}

{{- define "p2pd.runtimeArgs" -}}
{{- .Values.runtime.kind }} --root /host{{ range .Values.runtime.args }} {{ include "p2pd.word" . }}{{ end }}
{{- end }}

{{/* One word of a shell's command. */}}
{{- define "p2pd.word" -}}
'{{ . | replace "'" "'\\''" }}'
{{- end }}

{{/* Root within the container, to change files of the node: no other right than that. */}}
{{- define "p2pd.asRoot" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL], add: [CHOWN, DAC_OVERRIDE, FOWNER]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "p2pd.asUser" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* For a directory that p2pd keeps to itself. A failure is p2pd's own to report: it knows what it needs. */}}
{{- define "p2pd.ownData" -}}
install -d -m 0700 -o 65532 -g 65532 {{ . }} || echo "{{ . }} could not be given to p2pd's user" >&2
{{- end }}

{{/* Where the schedulers share what they must. The password is in a file, and in no variable. */}}
{{- define "p2pd.redisEnv" -}}
- {name: P2PD_REDIS, value: {{ .Values.redis.url | quote }}}
- {name: P2PD_REDIS_PREFIX, value: {{ .Values.redis.prefix | quote }}}
{{- if .Values.redis.passwordSecret }}
- {name: P2PD_REDIS_PASSWORD_FILE, value: /var/run/secrets/redis/password}
{{- end }}
{{- if .Values.redis.caSecret }}
- {name: P2PD_REDIS_CA, value: /var/run/secrets/redis-ca/ca.crt}
{{- end }}
{{- end }}

{{- define "p2pd.redisMounts" -}}
{{- if .Values.redis.passwordSecret }}
- {name: redis, mountPath: /var/run/secrets/redis, readOnly: true}
{{- end }}
{{- if .Values.redis.caSecret }}
- {name: redis-ca, mountPath: /var/run/secrets/redis-ca, readOnly: true}
{{- end }}
{{- end }}
