# What a machine lacks. Sourced. Installs Debian packages where it may, else says which command would.

# Each argument is COMMAND:PACKAGE, a command that must be there and the Debian package that brings
# it; :PACKAGE is missing for sure.
need_packages() { # COMMAND:PACKAGE…
  local pair missing=()
  for pair in "$@"; do
    if [ -z "${pair%%:*}" ] || ! command -v "${pair%%:*}" >/dev/null; then missing+=("${pair##*:}"); fi
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  local by_hand="apt-get update && apt-get install ${missing[*]}"
  command -v apt-get >/dev/null || fail "missing: ${missing[*]} (names of Debian packages)"
  [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}. As root: $by_hand"
  say "installing Debian packages: ${missing[*]}"
  mkdir -p "$CACHE"
  refresh_packages
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}" >"$CACHE/apt.log" 2>&1 9>&- ||
    fail_with_log "$CACHE/apt.log" "cannot install; by hand: $by_hand"
}

# apt's lists, which a fresh machine does not have.
refresh_packages() {
  mkdir -p "$CACHE"
  apt-get update >"$CACHE/apt.log" 2>&1 9>&- || fail_with_log "$CACHE/apt.log" "cannot fetch the package lists"
}
