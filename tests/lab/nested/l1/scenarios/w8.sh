#!/bin/bash
# libvirtd is killed, twice in the middle of a start and once beside a running guest, and is started again.
. "$(dirname "$0")/../lib.sh"
define w8 devices=2 emulator="$WRAPPER" request=intel
state=$(state_file w8)
saved=/run/libvirt/qemu/w8.xml

shut_off() {
    virsh -q destroy w8 >/dev/null 2>&1
    [ "$(virsh -q domstate w8)" = 'shut off' ]
}

# killed_when LABEL CONDITION…: starts the guest and kills libvirtd as soon as the condition holds.
killed_when() {
    local label=$1 deadline=$((SECONDS + 30)) pid
    shift
    virsh -q start w8 --paused >/tmp/w8.out 2>&1 &
    # Without a sleep: the moment is short.
    until "$@" || [ "$SECONDS" -ge $deadline ]; do :; done
    kill_libvirtd
    wait
    pid=$(sed -n "s/^<domstatus.* pid='\([0-9]*\)'.*/\1/p" $saved 2>/dev/null)
    # libvirt itself (9.0.0, without any hook) keeps a guest that it saved before it had the pid: it shows it as paused and
    # can neither start nor destroy it. This is not viommu's fault: the scenario removes the record, as an administrator
    # would.
    [ "$pid" != 0 ] || rm $saved
    start_libvirtd
    wait_for 60 shut_off
    echo "RESULT w8-$label saved_pid=$pid state=$(virsh -q domstate w8 | tr ' ' -) qemus=$(pgrep -fc 'guest=w8') $(leftovers)" \
        "message=$(one_line </tmp/w8.out)"
}
knows_pid() { grep -qs "^<domstatus.* pid='[1-9]" $saved; }
killed_when hooked [ -e "$state" ]
killed_when forked knows_pid

start w8
echo "RESULT w8-start status=$status pid=$(pid_of w8) $(figures w8) message=$message"
kill_libvirtd
start_libvirtd
echo "RESULT w8-running pid=$(pid_of w8) state=$(virsh -q domstate w8) $(figures w8)"
virsh -q destroy w8
echo "RESULT w8-end $(leftovers)"
