# The way `kind`: nodes are containers of an engine. Sourced. Needs `kind` and docker, podman or
# nerdctl; the node image is the one this `kind` was released with.

kind_name() { echo "windlass-$NAME"; }

# The engine that kind would use, empty without one that answers.
kind_engine() {
  local engine
  for engine in ${KIND_EXPERIMENTAL_PROVIDER:-docker podman nerdctl}; do
    if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
      echo "$engine"
      return
    fi
  done
}

kind_works() { command -v kind >/dev/null && [ -n "$(kind_engine)" ]; }

# The control plane of the bare way, said in kubeadm's words: audit log, short node grace.
kind_configuration() {
  cat <<EOF
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
  extraMounts:
  - {hostPath: $STATE/audit, containerPath: /etc/windlass}
  - {hostPath: $LOGS/n1, containerPath: /var/log/windlass}
  kubeadmConfigPatches:
  - |
    kind: InitConfiguration
    nodeRegistration: {taints: []}
  - |
    kind: ClusterConfiguration
    apiServer:
      extraArgs: {audit-policy-file: /etc/windlass/policy.yaml, audit-log-path: /var/log/windlass/audit.log}
      extraVolumes:
      - {name: policy, hostPath: /etc/windlass, mountPath: /etc/windlass, readOnly: true, pathType: Directory}
      - {name: audit, hostPath: /var/log/windlass, mountPath: /var/log/windlass, readOnly: false, pathType: Directory}
    controllerManager:
      extraArgs: {node-monitor-grace-period: 12s, node-monitor-period: 2s}
EOF
}

kind_up() {
  kind_works || fail "CLUSTER=kind needs kind and a container engine that answers"
  build_components
  if [ -s "$STATE/kubeconfig" ] && kubectl_ get --raw /readyz >/dev/null 2>&1; then
    say "cluster '$NAME' runs already"
    return
  fi
  kind_down
  rm -rf "$LOGS"
  mkdir -p "$STATE/audit" "$LOGS/n1"
  echo kind >"$STATE/way"
  audit_policy >"$STATE/audit/policy.yaml"
  local configuration
  configuration=$(kind_configuration)
  [ "$NODES" = 1 ] || configuration+=$'\n- role: worker'
  kind create cluster --name "$(kind_name)" --kubeconfig "$STATE/kubeconfig" --config - --wait 180s <<<"$configuration" >&2
  say "cluster '$NAME' is ready"
}

kind_down() {
  kind delete cluster --name "$(kind_name)" >&2
  rm -rf "$STATE"
}

kind_env() { print_environment; }
kind_status() { kubectl_ get nodes -o wide; }
kind_load() { local archive; for archive in "$@"; do kind load image-archive --name "$(kind_name)" "$archive" >&2; done; }
kind_logs() { kind export logs --name "$(kind_name)" "$LOGS/export"; }
kind_kill_node() { "$(kind_engine)" kill "$(kind_node "$1")" >/dev/null; }
kind_start_node() { "$(kind_engine)" start "$(kind_node "$1")" >/dev/null; }
kind_signal() { "$(kind_engine)" exec "$(kind_node "$1")" pkill --signal "$3" --exact "$2"; }

# kind names its nodes itself.
kind_node() { case $1 in n1) echo "$(kind_name)-control-plane" ;; n2) echo "$(kind_name)-worker" ;; *) echo "$1" ;; esac; }
