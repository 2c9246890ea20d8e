# kwok: plays the kubelets of nodes that do not exist, so that hundreds of nodes fit on one machine. Sourced.
# It stands in n1 next to the control plane; what it does to nodes and pods is said in bare/kwok.yaml.

# True of a cluster that was started with --nodes 0.
simulates_nodes() { [ -e "$STATE/simulated" ]; }

start_kwok() {
  make_user kwok /O=system:masters/CN=kwok
  # Nobody listens at a pod's address: a connection is refused at once, where it would hang without this route.
  in_node n1 ip route replace local "$(pods)" dev lo
  cp "$HERE/bare/kwok.yaml" "$STATE/kwok.yaml"
  start_in n1 kwok "$(inside kwok)/kwok" --config /run/windlass/cluster/kwok.yaml --kubeconfig /run/windlass/cluster/users/kwok \
    --node-ip "$(node_address n1)" --cidr "$(pods)" --server-address 127.0.0.1:10247
  await_in n1 kwok kwok 60 in_node n1 bash -c 'exec 3<>/dev/tcp/127.0.0.1/10247'
}
