# What this machine must have, and the namespaces that make a node of it. Sourced.

# A command that must be there, and the Debian package that brings it.
NEEDED=(containerd:containerd ctr:containerd runc:runc iptables:iptables conntrack:conntrack socat:socat ip:iproute2
  openssl:openssl python3:python3 cc:gcc strip:binutils unshare:util-linux)

# Says what is missing, installs what apt can bring, refuses before anything is started.
check_machine() {
  [ "$(uname -s)" = Linux ] || fail "a bare cluster needs Linux; elsewhere use CLUSTER=kind or CLUSTER=given"
  [ "$(id -u)" = 0 ] || fail "a bare cluster needs root (it makes namespaces); or use CLUSTER=kind or CLUSTER=given"
  local needed=("${NEEDED[@]}")
  if [ "$NODES" = 0 ]; then
    needed=(ip:iproute2 openssl:openssl unshare:util-linux) # no container runs
  elif [ -z "$(cni_folder)" ]; then
    needed+=(:containernetworking-plugins)
  fi
  need_packages "${needed[@]}"
  unshare --net --mount --pid --uts --fork true 2>/dev/null || fail "this machine lets us make no namespaces (in a container? it must be privileged)"
  # Replies to a Service's client on the same node must pass the packet filter, though they only cross the bridge.
  [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || modprobe br_netfilter || fail "the kernel module br_netfilter is needed"
  [ -n "$(cgroup_parents)" ] || fail "no cgroup hierarchy under /sys/fs/cgroup"
}

# Where the CNI plugins are: Debian's folder, or upstream's.
cni_folder() {
  local folder
  for folder in /usr/lib/cni /opt/cni/bin; do
    if [ -x "$folder/bridge" ] && [ -x "$folder/host-local" ] && [ -x "$folder/portmap" ]; then
      echo "$folder"
      return
    fi
  done
}

# --- cgroups: not a namespace of ours, for runc and kubelet handle their own best when they see the host's ---

cgroup_is_v1() { [ ! -e /sys/fs/cgroup/cgroup.controllers ]; }

# The folder(s) in which a node's cgroup lies: one with v2, one a controller with v1.
cgroup_parents() {
  if cgroup_is_v1; then find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d; else echo /sys/fs/cgroup; fi
}

cgroup_name() { echo "windlass-$NAME-$1"; } # NODE

make_cgroup() { # NODE
  local parent group file
  for parent in $(cgroup_parents); do
    group=$parent/$(cgroup_name "$1")
    mkdir -p "$group"
    if cgroup_is_v1 && [ -e "$group/cpuset.cpus" ]; then # empty in a new v1 cpuset, and then no process may enter
      for file in cpuset.cpus cpuset.mems; do cat "$parent/$file" >"$group/$file"; done
    fi
  done
}

# --- namespaces ---

# The process id of a node's holder (process 1 of the node) as the host sees it. It is found by its
# environment, so no file can be stale, and a holder whose state folder is gone is found too.
holder() { # NODE
  local process
  for process in $(grep --files-with-matches --null-data --line-regexp --fixed-strings "WINDLASS_NODE=$STATE/$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do
    if awk '$1 == "NSpid:" { exit !(NF == 3 && $3 == 1) }' "/proc/$process/status" 2>/dev/null; then
      echo "$process"
      return
    fi
  done
  return 1
}

hold_namespaces() { # NODE
  local node=$1 log=$LOGS/$1/holder.log
  mkdir -p "$STATE/$node" "$LOGS/$node"
  chmod 755 "$LOGS/$node" # /var/log inside
  # The host's view stays as it is: mounts made inside do not propagate, and the kernel ends
  # everything inside when the holder ends. No descriptor of ours goes in (the lock!).
  WINDLASS_NODE=$STATE/$node setsid unshare --net --mount --pid --uts --fork --kill-child --mount-proc \
    bash "$HERE/bare/holder.sh" "$node" "$STATE" "$LOGS/$node" "$CACHE/bin" >"$log" 2>&1 </dev/null 9>&- &
  await "$node: its namespaces" 20 "$log" "kill -0 $!" node_is_held "$node"
}

node_is_held() { [ -e "/proc/$(holder "$1")/root/run/windlass/ready" ]; }

# Runs COMMAND as the node would. Paths inside: bare/holder.sh.
in_node() { # NODE COMMAND…
  local process
  process=$(holder "$1") || fail "node '$1' of cluster '$NAME' does not run"
  shift
  nsenter --target "$process" --net --mount --pid --uts -- "$@"
}

# Starts COMMAND as a daemon of the node, which then is its parent. Its output is its log, its
# process id (as seen inside) is in /run/windlass/processes.
start_in() { # NODE PROGRAM COMMAND…
  local node=$1 program=$2
  shift 2
  # umask: the kubelet makes files that other users in pods read.
  # shellcheck disable=SC2016 # expanded inside
  in_node "$node" setsid --fork sh -c 'umask 022; echo $$ >"/run/windlass/processes/$0"; exec "$@"' "$program" "$@" \
    >>"$LOGS/$node/$program.log" 2>&1 </dev/null 9>&-
}

# Whether a program that was started still runs. (Its file may be some milliseconds late.)
runs_in() { # NODE PROGRAM
  # shellcheck disable=SC2016 # expanded inside
  in_node "$1" sh -c '[ ! -e "/run/windlass/processes/$0" ] || kill -0 "$(cat "/run/windlass/processes/$0")"' "$2" 2>/dev/null
}

await_in() { # NODE PROGRAM WHAT SECONDS COMMAND…
  local node=$1 program=$2 what=$3 seconds=$4
  shift 4
  await "$node: $what" "$seconds" "$LOGS/$node/$program.log" "runs_in $node $program" "$@"
}
