# The way `bare`: no container engine. Sourced. A node is a set of namespaces of this machine
# (bare/holder.sh), so what its programs do to processes, mounts, links and packet filters ends
# with it. This file is the order of things; bare/*.sh are the steps.
#
#   host ──veth── n1: bridge `nodes`, etcd, API server, controllers, scheduler, a node's programs
#                  └──veth── n2: a node's programs

# shellcheck source=bare/machine.sh
. "$HERE/bare/machine.sh"
# shellcheck source=bare/network.sh
. "$HERE/bare/network.sh"
# shellcheck source=bare/pki.sh
. "$HERE/bare/pki.sh"
# shellcheck source=bare/control-plane.sh
. "$HERE/bare/control-plane.sh"
# shellcheck source=bare/node.sh
. "$HERE/bare/node.sh"
# shellcheck source=bare/kwok.sh
. "$HERE/bare/kwok.sh"
# shellcheck source=bare/dns.sh
. "$HERE/bare/dns.sh"
# shellcheck source=bare/teardown.sh
. "$HERE/bare/teardown.sh"

# `up` writes $STATE/complete last: a cluster without it is half of one, and is made anew.

bare_up() {
  check_machine
  if [ "$NODES" = 0 ]; then build_components "${SIMULATION_COMPONENTS[@]}"; else build_components; fi
  if [ -e "$STATE/complete" ] && holder n1 >/dev/null && kubectl_ get --raw /readyz >/dev/null 2>&1; then
    local node started=0
    if [ "$NODES" = 0 ] && ! simulates_nodes; then fail "cluster '$NAME' has nodes; cluster down --name $NAME"; fi
    if [ "$NODES" != 0 ] && simulates_nodes; then fail "cluster '$NAME' was started with --nodes 0; cluster down --name $NAME"; fi
    for node in $(nodes_wanted); do
      holder "$node" >/dev/null && continue
      boot "$node"
      started=1
    done
    [ "$started" = 1 ] || say "cluster '$NAME' runs already"
    for node in $(nodes_wanted); do await_node "$node"; done
    return
  fi
  if something_is_left; then
    say "taking away what is left of an earlier '$NAME'"
    bare_down
  fi

  say "starting cluster '$NAME': $NODES node(s)"
  mkdir -p "$STATE"
  echo bare >"$STATE/way"
  rm -rf "$LOGS"
  mkdir -p "$LOGS"
  claim_network
  [ -z "${EGRESS:-}" ] || open_egress
  make_pki
  if [ "$NODES" = 0 ]; then
    touch "$STATE/simulated"
    boot n1
  else
    build_system_images
    local node
    for node in $(nodes_wanted); do boot "$node"; done
    for node in $(nodes_wanted); do await_node "$node"; done
    start_dns
  fi
  touch "$STATE/complete"
  say "cluster '$NAME' is ready"
}

nodes_wanted() { case $NODES in 0) ;; 1) echo n1 ;; *) echo n1 n2 ;; esac; }

declare -A BOOTED=() # when this command booted which node

# From nothing, or from its disk after kill-node, to a kubelet that talks to the API server.
boot() { # NODE
  say "$1: starting"
  BOOTED[$1]=$(date --utc +%Y-%m-%dT%H:%M:%SZ)
  rm -rf "${LOGS:?}/$1/pods" # of containers that the last life of this node had
  make_cgroup "$1"
  hold_namespaces "$1"
  link_node "$1"
  [ "$1" != n1 ] || start_control_plane
  if simulates_nodes; then start_kwok; else start_node "$1"; fi
}

bare_env() {
  [ -e "$STATE/complete" ] || fail "no cluster '$NAME'; cluster up --name $NAME"
  print_environment
  # Where a proxy is set, requests to the cluster must not go there.
  if [ -n "${HTTPS_PROXY:-${https_proxy:-}}" ]; then
    printf 'export NO_PROXY=%q no_proxy=%q\n' "$(network).0.0/16${NO_PROXY:+,$NO_PROXY}" "$(network).0.0/16${no_proxy:+,$no_proxy}"
  fi
}

bare_status() {
  [ -d "$STATE" ] || fail "no cluster '$NAME'"
  local node
  for node in n1 n2; do
    if holder "$node" >/dev/null; then
      say "$node: runs, $(node_address "$node"): $(in_node "$node" ls /run/windlass/processes | tr '\n' ' ')"
    elif [ -d "$STATE/$node" ]; then
      say "$node: stopped"
    fi
  done
  kubectl_ get nodes -o wide
}

bare_load() {
  local node archive loader loaders=()
  for archive in "$@"; do [ -r "$archive" ] || fail "$archive: no such file"; done
  for node in n1 n2; do # at the same time: each has its own disk to fill
    holder "$node" >/dev/null || continue
    (for archive in "$@"; do import_image "$node" "$archive"; done) &
    loaders+=($!)
  done
  for loader in "${loaders[@]}"; do wait "$loader"; done
}

bare_logs() {
  if [ $# -eq 0 ]; then
    find "$LOGS" -maxdepth 2 -name '*.log' -size +0
  else
    [ -r "$LOGS/$1.log" ] || fail "no log $LOGS/$1.log; cluster logs lists them"
    cat "$LOGS/$1.log"
  fi
}

bare_kill_node() {
  holder "$1" >/dev/null || fail "node '$1' of cluster '$NAME' does not run"
  end_node "$1"
}

bare_start_node() {
  [ -d "$STATE/$1" ] || fail "cluster '$NAME' has no node '$1'"
  if holder "$1" >/dev/null; then fail "node '$1' runs already"; fi
  boot "$1"
  simulates_nodes || await_node "$1"
}

bare_signal() { # NODE PROGRAM SIGNAL
  holder "$1" >/dev/null || fail "node '$1' of cluster '$NAME' does not run"
  [ -e "/proc/$(holder "$1")/root/run/windlass/processes/$2" ] || fail "$1 has no program '$2'; cluster status lists them"
  in_node "$1" sh -c 'kill -s "$2" "$(cat "/run/windlass/processes/$1")"' sh "$2" "$3"
}
