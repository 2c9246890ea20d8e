# Certificates and kubeconfigs. Sourced. By the openssl command, because a cluster must come up
# before anything of this project is compiled. ECDSA: RSA keys would take longer than the rest.

make_pki() {
  say "making certificates"
  mkdir -p "$STATE/pki" "$STATE/users"
  local node
  make_authority ca
  make_authority front-proxy-ca
  make_key service-account
  openssl pkey -in "$STATE/pki/service-account.key" -pubout -out "$STATE/pki/service-account.pub"
  make_certificate apiserver ca /CN=kube-apiserver "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$(node_address n1),IP:$(api_service)"
  make_certificate apiserver-kubelet ca /O=system:masters/CN=kube-apiserver-kubelet-client
  make_certificate front-proxy front-proxy-ca /CN=front-proxy-client
  make_user admin /O=system:masters/CN=admin
  make_user kube-controller-manager /CN=system:kube-controller-manager
  make_user kube-scheduler /CN=system:kube-scheduler
  make_user kube-proxy /CN=system:kube-proxy
  ln -sf users/admin "$STATE/kubeconfig"
  for node in n1 n2; do make_user "$node" "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$(node_address "$node")"; done
}

make_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$STATE/pki/$1.key"; } # NAME

make_authority() { # NAME
  make_key "$1"
  openssl req -x509 -new -key "$STATE/pki/$1.key" -out "$STATE/pki/$1.crt" -days 365 -subj "/CN=windlass-$NAME-$1"
}

make_certificate() { # NAME AUTHORITY SUBJECT [ALTERNATIVE NAMES]
  local at=$STATE/pki/$1 authority=$STATE/pki/$2
  make_key "$1"
  openssl req -new -key "$at.key" -out "$at.csr" -subj "$3"
  printf 'extendedKeyUsage=clientAuth,serverAuth\n%s\n' "${4:+subjectAltName=$4}" >"$at.ext"
  openssl x509 -req -in "$at.csr" -CA "$authority.crt" -CAkey "$authority.key" -CAcreateserial -out "$at.crt" -days 365 -extfile "$at.ext" 2>"$at.log" ||
    fail_with_log "$at.log" "no certificate for $1"
  rm "$at.csr" "$at.ext" "$at.log"
}

make_user() { # NAME SUBJECT [ALTERNATIVE NAMES]
  make_certificate "$1" ca "$2" "${3:-}"
  cat >"$STATE/users/$1" <<EOF
apiVersion: v1
kind: Config
current-context: windlass-$NAME
contexts: [{name: windlass-$NAME, context: {cluster: windlass-$NAME, user: $1}}]
clusters: [{name: windlass-$NAME, cluster: {server: "$(api_url)", certificate-authority-data: $(base64 -w0 "$STATE/pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$STATE/pki/$1.crt"), client-key-data: $(base64 -w0 "$STATE/pki/$1.key")}}]
EOF
}
