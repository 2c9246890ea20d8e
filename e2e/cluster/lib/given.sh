# The way `given`: a cluster that exists already. Sourced. Creates and removes nothing.

given_up() {
  [ -r "${KUBECONFIG:-}" ] || fail "CLUSTER=given needs KUBECONFIG, a file that can be read"
  build_components
  mkdir -p "$STATE"
  ln -sf "$(readlink -f "$KUBECONFIG")" "$STATE/kubeconfig"
  kubectl_ get --raw /readyz >/dev/null || fail "the API server of $KUBECONFIG does not answer"
  echo given >"$STATE/way"
  say "cluster '$NAME' is the one of $KUBECONFIG"
}

given_down() { rm -rf "$STATE"; }

given_env() { print_environment; }
given_status() { kubectl_ get nodes -o wide; }

given_load() { fail "a given cluster pulls its images itself: push them to a registry it reads and name them in the chart's values"; }
given_logs() { fail "the logs of a given cluster are where its owner keeps them"; }
given_kill_node() { fail "a given cluster's nodes are not ours to stop"; }
given_start_node() { given_kill_node; }
given_signal() { given_kill_node; }
