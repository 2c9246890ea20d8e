# containerd, kubelet and kube-proxy of a node. Sourced. Paths in the files are the node's own.

start_node() { # NODE
  local node=$1 at=$STATE/$1 kubernetes
  kubernetes=$(inside kubernetes)
  containerd_configuration >"$at/containerd.toml"
  cni_configuration "$node" >"$at/10-windlass.conflist"
  kubelet_configuration "$node" >"$at/kubelet.yaml"
  proxy_configuration >"$at/kube-proxy.yaml"
  # The CNI plugins' folder holds this one file; containerd wants a folder.
  mkdir -p "$at/cni"
  mv "$at/10-windlass.conflist" "$at/cni/"

  start_in "$node" containerd containerd --config "/run/windlass/cluster/$node/containerd.toml"
  await_in "$node" containerd containerd 30 in_node "$node" ctr version
  local archive
  for archive in $(system_image_archives); do import_image "$node" "$archive"; done
  start_in "$node" kubelet "$kubernetes/kubelet" --config "/run/windlass/cluster/$node/kubelet.yaml" \
    --kubeconfig "/run/windlass/cluster/users/$node" --hostname-override "$node" --node-ip "$(node_address "$node")"
  start_in "$node" kube-proxy "$kubernetes/kube-proxy" --config "/run/windlass/cluster/$node/kube-proxy.yaml" --hostname-override "$node"
}

await_node() { # NODE
  await_in "$1" kubelet "a Ready node" 90 node_is_ready "$1"
  say "$1: Ready"
}

# Ready, and said so since it booted: the API server remembers what a node said in an earlier life.
node_is_ready() { # NODE
  local said
  said=$(kubectl_ get node "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}') || return 1
  [[ $said == True* && ! ${said#True } < ${BOOTED[$1]:-} ]]
}

import_image() { # NODE ARCHIVE
  in_node "$1" ctr --namespace k8s.io images import - <"$2" >>"$LOGS/$1/images.log" 2>&1 || fail_with_log "$LOGS/$1/images.log" "$1 cannot import $2"
}

# oom: lowering a score below the starter's is refused to processes without CAP_SYS_RESOURCE, and
# every sandbox asks for it. hugetlb: absent on small kernels, and not used.
containerd_configuration() {
  cat <<EOF
version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$(system_image pause)"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_folder)"
    conf_dir = "/run/windlass/cluster/$node/cni"
EOF
}

# No masquerading here: the host and the other node know the way to every pod, so a pod is seen
# under its own address. Network policies are not enforced by this plugin.
cni_configuration() { # NODE
  cat <<EOF
{"cniVersion": "0.4.0", "name": "windlass", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(node_pods "$1")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
}

# failCgroupV1: such machines exist (this setting ends with Kubernetes 1.38). protectKernelDefaults:
# verify the settings that bare/holder.sh shows instead of writing them. nodeStatusUpdateFrequency:
# see the controllers' grace period. imageGCHighThresholdPercent: no image is removed on a full disk, for
# nothing can be pulled again (100 turns it off).
kubelet_configuration() { # NODE
  cat <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$(cgroup_name "$1")
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /run/windlass/cluster/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /run/windlass/cluster/pki/$1.crt
tlsPrivateKeyFile: /run/windlass/cluster/pki/$1.key
clusterDNS: [$(dns_service)]
clusterDomain: cluster.local
resolvConf: /dev/null
failSwapOn: false
protectKernelDefaults: true
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 2s
volumePluginDir: /var/lib/kubelet/volume-plugins
oomScoreAdj: 0
EOF
}

# conntrack: those settings belong to the whole machine and are left alone.
proxy_configuration() {
  cat <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: /run/windlass/cluster/users/kube-proxy}
clusterCIDR: $(pods)
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
EOF
}
