# The programs of a cluster, built from pinned Go modules (components/<name>/go.mod and go.sum)
# into the user's cache. Sourced. A folder is named by the hash of what went into it, so another
# version never overwrites one in use and only what is missing is built.

COMPONENTS=(kubernetes etcd coredns helm kubeconform)
SIMULATION_COMPONENTS=(kubernetes etcd helm kwok) # of a cluster whose nodes are simulated
BUILD_FLAGS=(-trimpath -buildvcs=false)
LINK_FLAGS="-s -w"
KUBERNETES_PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

# The folder of a component's programs.
component() { # NAME
  local key
  key=$(cd "$HERE/components/$1" && { cat ./* && echo "${BUILD_FLAGS[*]} $LINK_FLAGS"; } | sha256sum)
  echo "$CACHE/bin/$1-${key:0:12}"
}

build_components() { # [NAME…], by default COMPONENTS
  local name missing=()
  [ $# -gt 0 ] || set -- "${COMPONENTS[@]}"
  for name in "$@"; do
    [ -d "$(component "$name")" ] || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v go >/dev/null || fail "Go 1.26 or newer is needed to build ${missing[*]}"

  mkdir -p "$CACHE/bin"
  exec 8>"$CACHE/bin/lock" # two clusters may want the same programs at the same time
  flock --nonblock 8 || { say "another build is running; waiting for it" && flock 8; }
  say "building ${missing[*]} (once; from an empty Go cache on two cores about ten minutes)"
  for name in "${missing[@]}"; do
    [ -d "$(component "$name")" ] || build_component "$name"
  done
  exec 8>&-
}

# Builds into a folder next to the final one and renames it at the end: an interrupted build
# leaves nothing that looks finished.
build_component() { # NAME
  local name=$1 final partial program
  final=$(component "$name")
  partial=$final.partial
  rm -rf "$partial"
  mkdir -p "$partial"
  case $name in
    kubernetes)
      # Without these the API server calls itself v0.0.0, and clients misbehave.
      local version package=k8s.io/component-base/version
      version=$(sed -n 's#^\(require\)\?[[:space:]]*k8s.io/kubernetes v##p' "$HERE/components/kubernetes/go.mod")
      [[ $version =~ ^1\.[0-9]+\.[0-9]+$ ]] || fail "components/kubernetes/go.mod names no release of k8s.io/kubernetes: '$version'"
      local minor=${version#1.}
      go_build "$name" "$partial/kubernetes" . \
        "-X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
      for program in "${KUBERNETES_PROGRAMS[@]}"; do ln -s kubernetes "$partial/$program"; done
      ;;
    etcd) go_build "$name" "$partial/etcd" go.etcd.io/etcd/server/v3 ;;
    coredns) go_build "$name" "$partial/coredns" . ;;
    helm) go_build "$name" "$partial/helm" helm.sh/helm/v4/cmd/helm ;;
    kwok) go_build "$name" "$partial/kwok" sigs.k8s.io/kwok/cmd/kwok ;;
    kubeconform) go_build "$name" "$partial/kubeconform" github.com/yannh/kubeconform/cmd/kubeconform ;;
  esac
  mv "$partial" "$final"
}

go_build() { # NAME OUTPUT PACKAGE [LINKER FLAGS]
  local name=$1 output=$2 package=$3 flags=${4:-} log=$CACHE/bin/$1.log start=$EPOCHSECONDS told=$EPOCHSECONDS
  (
    cd "$HERE/components/$name"
    # The user's Go settings for other projects (workspaces, flags) are not ours.
    GOWORK=off GOFLAGS='' CGO_ENABLED=0 exec go build -v "${BUILD_FLAGS[@]}" -ldflags "$LINK_FLAGS $flags" -o "$output" "$package"
  ) >"$log" 2>&1 8>&- 9>&- &
  local builder=$!
  while kill -0 "$builder" 2>/dev/null; do
    sleep 0.5
    if [ $((EPOCHSECONDS - told)) -ge 15 ]; then
      told=$EPOCHSECONDS
      say "$name: $(grep -c 'go: downloading' "$log") modules fetched, $(grep -vc '^go: ' "$log") packages compiled"
    fi
  done
  wait "$builder" || fail_with_log "$log" "$name does not build"
  say "$name: built in $((EPOCHSECONDS - start)) s"
}

# kubectl with the administrator's rights.
kubectl_() { "$(component kubernetes)/kubectl" --kubeconfig "$STATE/kubeconfig" "$@"; }

print_tools() {
  printf 'export PATH=%q:$PATH\n' "$(component kubernetes):$(component helm):$(component kubeconform)"
}

# What a shell needs to work with the cluster.
print_environment() {
  [ -s "$STATE/kubeconfig" ] || fail "no cluster '$NAME'; cluster up --name $NAME"
  printf 'export KUBECONFIG=%q WINDLASS_CLUSTER_NAME=%q\n' "$STATE/kubeconfig" "$NAME"
  print_tools
  if [ -e "$LOGS/n1/audit.log" ]; then
    printf 'export WINDLASS_AUDIT_LOG=%q\n' "$LOGS/n1/audit.log"
  else
    printf 'unset WINDLASS_AUDIT_LOG\n'
  fi
}
