# What the user sees: progress with elapsed seconds, failures with their log, waiting with an end.
# Sourced; everything goes to stderr, stdout belongs to the verbs' results.

# Seconds since the outermost command of ours began: `make up` calls many and shows one clock.
export WINDLASS_STARTED=${WINDLASS_STARTED:-$EPOCHSECONDS}

say() { printf '[%4ds] %s\n' "$((EPOCHSECONDS - WINDLASS_STARTED))" "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Ends with the last lines of LOG, where the reason usually stands, and its path.
fail_with_log() { # LOG MESSAGE
  local log=$1
  shift
  printf 'error: %s\n' "$*" >&2
  if [ -s "$log" ]; then
    printf -- '--- the end of %s\n' "$log" >&2
    tail -n 25 "$log" >&2
  fi
  exit 1
}

# Runs COMMAND until it succeeds. After SECONDS, or as soon as ALIVE fails, ends with LOG's tail.
await() { # WHAT SECONDS LOG ALIVE COMMAND…
  local what=$1 log=$3 alive=$4 start=$EPOCHSECONDS end=$((EPOCHSECONDS + $2)) told=$EPOCHSECONDS
  shift 4
  until "$@" >/dev/null 2>&1; do
    $alive || fail_with_log "$log" "$what: the program ended"
    [ "$EPOCHSECONDS" -lt "$end" ] || fail_with_log "$log" "$what: not within $((EPOCHSECONDS - start)) s"
    if [ $((EPOCHSECONDS - told)) -ge 10 ]; then
      say "$what: waiting for $((EPOCHSECONDS - start)) s"
      told=$EPOCHSECONDS
    fi
    sleep 0.2
  done
}
