#!/bin/bash
# Destroyed after the hook and before the exec. A signal stops libvirt's child when the pidfile contains it, so that there
# is time to destroy it; a signal that came too late is repeated with a new start.
. "$(dirname "$0")/../lib.sh"
define w9 devices=2 emulator="$WRAPPER" request=intel
daemon=$(readlink "/proc/$(daemon_pid)/exe")
for attempt in 1 2 3 4 5; do
    rm -f /run/libvirt/qemu/w9.pid
    virsh -q start w9 --paused >/tmp/w9.out 2>&1 &
    start=$!
    deadline=$((SECONDS + 30))
    until pid=$(pid_of w9) && [ -n "$pid" ] || [ "$SECONDS" -ge $deadline ]; do :; done
    kill -STOP "$pid"
    exe=$(readlink "/proc/$pid/exe")
    virsh -q destroy w9 &
    sleep 0.5
    kill -CONT "$pid" 2>/dev/null
    wait $!
    destroyed=$?
    wait $start
    started=$?
    [ "$exe" != "$daemon" ] || break
done
echo "RESULT w9 attempts=$attempt exe=$exe destroyed=$destroyed started=$started holders=$(holders $((2 * 384 + 1024 << 20))) $(leftovers) message=$(one_line </tmp/w9.out)"
