# etcd, API server, controllers and scheduler, on n1. Sourced. Paths are n1's (bare/holder.sh).

# Every request's who, what and result. Tests prove with it that we write nothing at rest and use no right we do not need.
# With simulated nodes those of the operator alone: the others' would be most of the work and of the disk.
audit_policy() {
  local rules='{level: Metadata}'
  if simulates_nodes; then rules='{level: Metadata, userGroups: ["system:serviceaccounts:windlass-system"]}, {level: None}'; fi
  printf 'apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [%s]\n' "$rules"
}

# The folder of a component's programs as n1 sees it.
inside() { echo "/run/windlass/bin/$(basename "$(component "$1")")"; } # COMPONENT

start_control_plane() {
  local pki=/run/windlass/cluster/pki users=/run/windlass/cluster/users kubernetes settings=() server=() manager=() scheduler=()
  kubernetes=$(inside kubernetes)
  audit_policy >"$STATE/audit-policy.yaml"
  if simulates_nodes; then
    # The audit log is not rotated: all requests of a measurement stand in one file.
    server=(--audit-log-maxsize 0)
    # It shares few cores with what is measured: less garbage collection, more memory.
    settings=(env GOGC=400)
    # A load of thousands of objects measures the operator only if the controllers' own clients are not the limit.
    manager=(--kube-api-qps 2000 --kube-api-burst 4000 --node-monitor-grace-period 300s)
    scheduler=(--kube-api-qps 2000 --kube-api-burst 4000)
  fi

  # No fsync: the data lives as long as the cluster, and a machine that loses power has lost it anyway.
  start_in n1 etcd "$(inside etcd)/etcd" --data-dir /var/lib/etcd --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380

  # `Node` and NodeRestriction: a kubelet sees and writes what concerns its node, as in real clusters.
  # requestheader and proxy-client: the trust that aggregated APIs need.
  start_in n1 kube-apiserver "${settings[@]}" "$kubernetes/kube-apiserver" \
    --etcd-servers http://127.0.0.1:2379 --secure-port 6443 --bind-address 0.0.0.0 --advertise-address "$(node_address n1)" \
    --tls-cert-file $pki/apiserver.crt --tls-private-key-file $pki/apiserver.key --client-ca-file $pki/ca.crt \
    --service-account-issuer https://kubernetes.default.svc.cluster.local --service-account-key-file $pki/service-account.pub \
    --service-account-signing-key-file $pki/service-account.key --service-cluster-ip-range "$(services)" \
    --allow-privileged --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --kubelet-client-certificate $pki/apiserver-kubelet.crt --kubelet-client-key $pki/apiserver-kubelet.key \
    --kubelet-certificate-authority $pki/ca.crt --kubelet-preferred-address-types InternalIP \
    --requestheader-client-ca-file $pki/front-proxy-ca.crt --requestheader-allowed-names front-proxy-client \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file $pki/front-proxy.crt --proxy-client-key-file $pki/front-proxy.key \
    --audit-policy-file /run/windlass/cluster/audit-policy.yaml --audit-log-path /var/log/audit.log "${server[@]}"
  await_in n1 kube-apiserver "API server" 90 kubectl_ get --raw /readyz
  say "n1: API server answers at $(api_url)"

  # A node that is silent for 12 s is lost: node loss is a test, not a coffee break.
  start_in n1 kube-controller-manager "$kubernetes/kube-controller-manager" \
    --kubeconfig $users/kube-controller-manager --authentication-kubeconfig $users/kube-controller-manager \
    --authorization-kubeconfig $users/kube-controller-manager --bind-address 127.0.0.1 --leader-elect=false \
    --root-ca-file $pki/ca.crt --service-account-private-key-file $pki/service-account.key \
    --cluster-signing-cert-file $pki/ca.crt --cluster-signing-key-file $pki/ca.key \
    --use-service-account-credentials --service-cluster-ip-range "$(services)" \
    --node-monitor-period=2s --node-monitor-grace-period=12s "${manager[@]}"

  start_in n1 kube-scheduler "$kubernetes/kube-scheduler" \
    --kubeconfig $users/kube-scheduler --authentication-kubeconfig $users/kube-scheduler \
    --authorization-kubeconfig $users/kube-scheduler --bind-address 127.0.0.1 --leader-elect=false "${scheduler[@]}"
}
