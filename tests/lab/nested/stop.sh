#!/bin/bash
# Stops an L1. Its console log and share stay for later inspection; with --after the script waits for the end of a process,
# and removes them.
#
#   tests/lab/nested/stop.sh INSTANCE [--after PID]
set -euo pipefail
. "$(dirname "$0")/common.sh"
dir=$instances/${1:?usage: stop.sh INSTANCE [--after PID]}
[ -e "$dir/pid" ] || exit 0
pid=$(cat "$dir/pid")
alive() {
    # The number alone may belong to another process by now.
    grep -qsz "^$(basename "$dir")," "/proc/$pid/cmdline"
}
if [ "${2:-}" = --after ]; then
    # L1 may have ended before; then a second one with the same name may use the directory.
    while kill -0 "$3" 2>/dev/null; do sleep 1; done
fi
if alive; then
    kill -KILL "$pid" # nothing in it is worth a shutdown
    while alive; do sleep 0.05; done
fi
rm -f "$dir/pid"
[ "${2:-}" != --after ] || rm -rf "$dir"
