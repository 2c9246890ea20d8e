# Addresses and links. Sourced. Each cluster has one /16 of its own, 10.N.0.0/16, N from 200 to 239:
#   10.N.1.0/24, 10.N.2.0/24  pods of n1, n2        10.N.128.0/20  Services (.1 the API server, .10 DNS)
#   10.N.255.1                the host              10.N.255.11, .12  n1, n2
# The host reaches all of it through its one link to n1; nothing of it leaves the machine.

network() { cat "$STATE/network"; }                      # "10.N"
host_address() { echo "$(network).255.1"; }
node_address() { echo "$(network).255.1${1#n}"; }        # NODE
node_pods() { echo "$(network).${1#n}.0/24"; }           # NODE
pods() { echo "$(network).0.0/17"; }
services() { echo "$(network).128.0/20"; }
api_service() { echo "$(network).128.1"; }
dns_service() { echo "$(network).128.10"; }
api_url() { echo "https://$(node_address n1):6443"; }
host_link() { echo "windlass$NAME" | cut -c1-15; }

# Takes the first /16 that no route of the host and no other cluster touches, beginning at a place
# that the name decides: the same name mostly gets the same addresses.
claim_network() {
  local first step network
  exec 7>"$STATE_ROOT/network.lock"
  flock 7
  first=$(cksum <<<"$NAME" | cut -d' ' -f1)
  for step in $(seq 0 39); do
    network=10.$((200 + (first + step) % 40))
    if [ -z "$(ip -4 route show root "$network.0.0/16")" ] &&
      [ -z "$(ip -4 route show match "$network.0.0/16" | grep -v '^default')" ] &&
      ! grep -qsx "$network" "$STATE_ROOT"/*/network; then
      echo "$network" >"$STATE/network"
      exec 7>&-
      return
    fi
  done
  fail "no free network among 10.200.0.0/16 to 10.239.0.0/16"
}

link_node() { # NODE
  local link
  link=$(host_link)
  if [ "$1" = n1 ]; then
    # An address of its own: a bridge without one takes its ports', and with n2's port it would change, and
    # nobody would reach n1 until the neighbours ask again.
    in_node n1 ip link add nodes address 02:00:00:00:00:01 type bridge
    in_node n1 ip address add "$(node_address n1)/24" dev nodes
    in_node n1 ip link set nodes up
    ip link add "$link" type veth peer name host netns "$(holder n1)"
    in_node n1 ip link set host master nodes up
    ip address add "$(host_address)/24" dev "$link"
    ip link set "$link" up
    ip route add "$(network).0.0/16" via "$(node_address n1)" dev "$link"
    if holder n2 >/dev/null; then join_bridge n2; fi
  else
    if holder n1 >/dev/null; then join_bridge "$1"; fi
  fi
  if [ -e "$STATE/ip_forward" ]; then in_node "$1" ip route replace default via "$(host_address)"; fi
}

# A second node: one link to n1's bridge, and the ways to the pods of the other.
join_bridge() { # NODE
  local node=$1
  nsenter --target "$(holder n1)" --net ip link add "$node" type veth peer name nodes netns "$(holder "$node")"
  in_node n1 ip link set "$node" master nodes up
  in_node n1 ip route replace "$(node_pods "$node")" via "$(node_address "$node")"
  in_node "$node" ip address add "$(node_address "$node")/24" dev nodes
  in_node "$node" ip link set nodes up
  in_node "$node" ip route replace "$(node_pods n1)" via "$(node_address n1)"
}

# Pods may go where the host goes. The only rules of ours on the host: they carry our name, and
# what ip_forward was is remembered.
open_egress() {
  cat /proc/sys/net/ipv4/ip_forward >"$STATE/ip_forward"
  echo 1 >/proc/sys/net/ipv4/ip_forward
  egress_rules "$(network).0.0/16" | while read -r rule; do
    # shellcheck disable=SC2086 # words of a rule
    iptables --wait $rule
  done
}

egress_rules() { # CIDR
  local tag="-m comment --comment windlass-$NAME"
  echo "-t nat -I POSTROUTING -s $1 ! -d $1 $tag -j MASQUERADE"
  echo "-I FORWARD -s $1 $tag -j ACCEPT"
  echo "-I FORWARD -d $1 $tag -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
}

# The kernel would delete a dead node's links too, but later, and in the way of those of the next start.
unlink_node() { # NODE
  if [ "$1" = n1 ]; then
    if ip link show "$(host_link)" >/dev/null 2>&1; then ip link delete "$(host_link)"; fi
  elif holder n1 >/dev/null && in_node n1 ip link show "$1" >/dev/null 2>&1; then
    in_node n1 ip link delete "$1"
  fi
}

# Works without a state folder.
close_egress() {
  local table
  command -v iptables >/dev/null || return 0
  for table in nat filter; do
    iptables --wait -t "$table" -S | sed -n "/--comment windlass-$NAME /s/^-A/-D/p" | while read -r rule; do
      # shellcheck disable=SC2086 # words of a rule
      iptables --wait -t "$table" $rule
    done
  done
  if [ -s "$STATE/ip_forward" ] && ! ls "$STATE_ROOT"/*/ip_forward 2>/dev/null | grep -qvx "$STATE/ip_forward"; then
    cat "$STATE/ip_forward" >/proc/sys/net/ipv4/ip_forward
  fi
}
