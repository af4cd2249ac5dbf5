#!/bin/bash
# Runs a script in L1 and prints its output (both streams); the exit status is that of the script.
#
#   tests/lab/nested/run.sh INSTANCE 'command…'
#   tests/lab/nested/run.sh INSTANCE < script
#
# LIMIT=SECONDS ends it after that time (exit status 124). 125: L1 has ended, or does not answer any more.
set -euo pipefail
. "$(dirname "$0")/common.sh"
instance=${1:?usage: run.sh INSTANCE [COMMAND]}
shift
limit=${LIMIT:-300}
dir=$instances/$instance
share=$dir/share
id=$(date +%s%N)
# L1 is stopped while no command runs: even idle it would use a quarter of a processor.
kill -CONT "$(cat "$dir/pid")" 2>/dev/null || true
trap 'kill -STOP "$(cat "$dir/pid")" 2>/dev/null || true' EXIT
if [ $# -gt 0 ]; then echo "$*"; else cat; fi >"$dir/command"
mv "$dir/command" "$share/in/$id.$limit"
# L1 itself enforces the limit; this one is for an L1 that hangs.
deadline=$((SECONDS + limit + 30))
until [ -e "$share/out/$id.rc" ]; do
    if ! kill -0 "$(cat "$dir/pid")" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
        cat "$share/out/$id.log" 2>/dev/null || true
        tail -n 20 "$dir/console.log" >&2
        echo "L1 $instance is gone or stuck" >&2
        exit 125
    fi
    sleep 0.1
done
cat "$share/out/$id.log"
exit "$(cat "$share/out/$id.rc")"
