#!/usr/bin/env bash
# Process 1 of a node, in new network, mount, process and host name namespaces: makes of them a
# machine that looks freshly booted, then sleeps and reaps. When it ends, the node has ended.
#
# Inside, the usual paths are the node's own: /run (empty at each boot), /var/lib and /var/log (its
# disk), and /run/windlass/{cluster,bin} are the cluster's state and the built components.
set -euo pipefail
node=$1 state=$2 log=$3 bin=$4
umask 022

# The new /run is put together next to the old one: any of the folders may lie below a path that is covered.
room=$state/$node/run
mkdir -p "$room" "$state/$node/lib"
mount -t tmpfs -o mode=755 run "$room"
mkdir -p "$room"/windlass/{cluster,bin,log,lib,processes,settings} "$room/netns" "$room/lock"
mount --bind "$state" "$room/windlass/cluster"
mount --bind "$bin" "$room/windlass/bin"
mount --bind "$log" "$room/windlass/log"
mount --bind "$state/$node/lib" "$room/windlass/lib"
# (--no-mtab: libmount keeps notes in /run, and that is what moves.)
mount --no-mtab --move "$room" /run
mount --move /run/windlass/log /var/log
mount --move /run/windlass/lib /var/lib

# The kubelet sets these for the whole machine, and no namespace holds them: it gets files that say they are set.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=/run/windlass/settings/$(tr / . <<<"${setting%=*}")
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

mount --make-rshared / # volumes are mounted by the kubelet and must appear in containers
hostname "$node"
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
touch /run/windlass/ready
exec env --ignore-signal=CHLD sleep infinity # a parent that ignores SIGCHLD never has zombies
