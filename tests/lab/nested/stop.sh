#!/bin/bash
# Stops an L1. Its console and share stay for whoever wants to know more; with --after it waits until a process is gone, and
# takes them away.
#
#   tests/lab/nested/stop.sh INSTANCE [--after PID]
set -euo pipefail
. "$(dirname "$0")/common.sh"
dir=$instances/${1:?usage: stop.sh INSTANCE [--after PID]}
[ -e "$dir/pid" ] || exit 0
pid=$(cat "$dir/pid")
alive() {
    # The number alone may belong to somebody else by now.
    grep -qsz "^$(basename "$dir")," "/proc/$pid/cmdline"
}
if [ "${2:-}" = --after ]; then
    # However L1 ends before: a second one of its name may use the directory by then.
    while kill -0 "$3" 2>/dev/null; do sleep 1; done
fi
if alive; then
    kill -KILL "$pid" # nothing in it is worth a shutdown
    while alive; do sleep 0.05; done
fi
rm -f "$dir/pid"
[ "${2:-}" != --after ] || rm -rf "$dir"
