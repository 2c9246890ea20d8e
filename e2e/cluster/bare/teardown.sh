# Everything away again. Sourced. Works on what is there, not on what files say: after a killed
# `up`, twice, or with the state folder gone.

# Ends a node as a power cut would: the kernel kills all that runs inside, and with the last
# process go mounts, links and packet filters.
end_node() { # NODE
  local process parent
  unlink_node "$1"
  if process=$(holder "$1"); then
    parent=$(awk '$1 == "PPid:" { print $2 }' "/proc/$process/status")
    kill -KILL "$process" 2>/dev/null || true
    # The holder is gone only when all inside are, but its zombie waits for `unshare`.
    local end=$((EPOCHSECONDS + 30))
    while [ -e "/proc/$process" ]; do
      [ "$EPOCHSECONDS" -lt "$end" ] || fail "processes of $1 do not end (holder $process, its parent $parent)"
      sleep 0.1
    done
  fi
  remove_cgroup "$1"
}

remove_cgroup() { # NODE
  local parent group end=$((EPOCHSECONDS + 10))
  for parent in $(cgroup_parents); do
    group=$parent/$(cgroup_name "$1")
    while [ -d "$group" ]; do
      find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
      [ ! -d "$group" ] || [ "$EPOCHSECONDS" -lt "$end" ] || fail "cgroup $group is still in use"
      [ ! -d "$group" ] || sleep 0.1
    done
  done
}

something_is_left() {
  local parent
  [ ! -d "$STATE" ] || return 0
  if holder n1 >/dev/null || holder n2 >/dev/null; then return 0; fi
  if ip link show "$(host_link)" >/dev/null 2>&1; then return 0; fi
  for parent in $(cgroup_parents); do
    if [ -d "$parent/$(cgroup_name n1)" ] || [ -d "$parent/$(cgroup_name n2)" ]; then return 0; fi
  done
  return 1
}

bare_down() {
  if ! something_is_left; then
    say "no cluster '$NAME'"
    return
  fi
  [ "$(id -u)" = 0 ] || fail "a bare cluster needs root, to end it too"
  end_node n2
  end_node n1
  close_egress
  rm -rf "$STATE"
  say "cluster '$NAME' is gone; its logs are in $LOGS"
}
