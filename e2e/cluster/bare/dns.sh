# The images that the cluster itself needs, and its DNS. Sourced.

IMAGES=$CACHE/images/cluster

build_system_images() {
  local log=$LOGS/images.log
  mkdir -p "$IMAGES"
  exec 7>"$IMAGES/lock"
  flock 7
  python3 "$HERE/../../deploy/images/build" pause coredns --coredns "$(component coredns)/coredns" --out "$IMAGES" >"$log" 2>&1 ||
    fail_with_log "$log" "the images of the cluster itself cannot be built"
  exec 7>&-
}

system_image() { image_field "$1" ref; } # NAME
system_image_archives() { image_field pause archive && image_field coredns archive; }
image_field() { # NAME FIELD
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]][sys.argv[3]])' "$IMAGES/images.json" "$1" "$2"
}

start_dns() {
  local forward=""
  [ -z "${EGRESS:-}" ] || forward="forward . $(upstream_resolvers)"
  sed -e "s|@IMAGE@|$(system_image coredns)|" -e "s|@ADDRESS@|$(dns_service)|" -e "s|@FORWARD@|$forward|" "$HERE/bare/coredns.yaml" |
    kubectl_ apply -f - >"$LOGS/coredns.log"
  kubectl_ -n kube-system rollout status deployment/coredns --timeout=90s >>"$LOGS/coredns.log" 2>&1 || {
    kubectl_ -n kube-system get pods,events >>"$LOGS/coredns.log" 2>&1
    fail_with_log "$LOGS/coredns.log" "cluster DNS does not become ready"
  }
  say "cluster DNS answers at $(dns_service)"
}

# The resolvers of this machine as pods can reach them: not a stub on the loopback, behind which the real ones stand.
upstream_resolvers() {
  local file=/etc/resolv.conf
  if grep -q '^nameserver 127\.' $file && [ -s /run/systemd/resolve/resolv.conf ]; then file=/run/systemd/resolve/resolv.conf; fi
  awk '$1 == "nameserver" { print $2 }' "$file" | head -n 3 | tr '\n' ' '
}
