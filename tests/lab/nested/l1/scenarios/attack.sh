#!/bin/bash
# A process with QEMU's uid attacks the start of another guest: with its own locked pidfile, its own genuine one, a FIFO, a
# symbolic link; and with a guest whose name is another's with an appended blank. TRIES of each (default 1), of the kinds in
# KINDS.
. "$(dirname "$0")/../lib.sh"
as_set "$0"
tries=${TRIES:-1}
directory=/run/libvirt/qemu
# libvirt 11.3 and newer have this owner.
chown libvirt-qemu: $directory
define_locked victim
define bystander ram=64
uuid=$(virsh -q domuuid victim)
as_qemu() { setpriv --reuid=libvirt-qemu --regid=libvirt-qemu --clear-groups --inh-caps=-all "$@"; }
# Every process of QEMU's user without a limit of locked memory, except the victim itself.
thieves() { # VICTIM'S-PID
    local pid count=0
    for pid in $(pgrep -u libvirt-qemu); do
        [ "$pid" = "$1" ] || ! grep -qsE '^Max locked memory +unlimited' "/proc/$pid/limits" || count=$((count + 1))
    done
    echo "$count"
}
qemu_of() { pgrep -u libvirt-qemu -f "guest=$1," | head -n 1; }

# libvirt itself opens the pidfile, and waits in openat(2) (257 on x86-64) for the writer of a FIFO. No hook runs meanwhile.
libvirt_waits() {
    local daemon
    daemon=$(daemon_pid)
    grep -qs '^257 ' /proc/"$daemon"/task/*/syscall && ! pgrep -P "$daemon" -f hooks/qemu >/dev/null
}

on_pidfile() { # KIND
    local kind=$1
    started=0 raised=0 refused=0 failed=0 stolen=0 slow=0 waited=0
    for _ in $(seq "$tries"); do
        [ "$kind" != genuine ] || virsh -q start bystander --paused
        as_qemu perl /lab/attack.pl "$kind" $directory/victim.pid "$uuid" $directory/bystander.pid 2>>/tmp/attack.err &
        begin=$(now)
        said timeout 60 virsh -q start victim --paused
        if libvirt_waits; then
            waited=$((waited + 1))
            timeout 5 sh -c ": >$directory/victim.pid"
            timeout 60 virsh -q domstate victim >/dev/null
        else
            awk -v spent="$(since "$begin")" 'BEGIN { exit spent < 30 }' && slow=$((slow + 1))
        fi
        pid=$(qemu_of victim)
        if [ "$status" = 0 ]; then
            started=$((started + 1))
            grep -qsE '^Max locked memory +unlimited' "/proc/$pid/limits" && raised=$((raised + 1))
        else
            case $message in *viommu*) refused=$((refused + 1)) ;; *) failed=$((failed + 1)) ;; esac
            echo "$kind: $message"
        fi
        # Later commands must not accept it either.
        timeout 60 virsh -q dumpxml victim >/tmp/victim.xml 2>/dev/null &&
            timeout 20 /etc/libvirt/hooks/qemu victim started begin - </tmp/victim.xml
        [ $? != 124 ] || slow=$((slow + 1))
        timeout 20 viommu memlock victim --raise >/dev/null 2>&1
        [ $? != 124 ] || slow=$((slow + 1))
        stolen=$((stolen + $(thieves "${pid:-0}")))
        pkill -KILL -u libvirt-qemu -f "while :; .* -uuid $uuid"
        pkill -KILL -f 'attack[.]pl'
        timeout 60 virsh -q destroy victim >/dev/null 2>&1 || kill -KILL "$pid" 2>/dev/null
        [ "$kind" != genuine ] || virsh -q destroy bystander
        rm -f $directory/victim.pid*
    done
    echo "RESULT attack-$kind tries=$tries started=$started raised=$raised refused=$refused failed=$failed stolen=$stolen slow=$slow libvirt_waited=$waited $(leftovers)"
}

# libvirt does not trim names: "twin" has its own limit, which the start of "twin " must not change.
by_name() {
    define twin ram=64
    define_locked 'twin '
    virsh -q start twin --paused
    twin=$(qemu_of twin)
    before=$(grep '^Max locked memory' "/proc/$twin/limits")
    started=0 raised=0 stolen=0
    for _ in $(seq "$tries"); do
        said timeout 60 virsh -q start 'twin ' --paused && started=$((started + 1))
        grep -qsE '^Max locked memory +unlimited' "/proc/$(qemu_of 'twin ')/limits" && raised=$((raised + 1))
        timeout 20 viommu memlock 'twin ' --raise >/dev/null 2>&1
        [ "$(grep '^Max locked memory' "/proc/$twin/limits")" = "$before" ] || stolen=$((stolen + 1))
        virsh -q destroy 'twin '
    done
    virsh -q destroy twin
    echo "RESULT attack-name tries=$tries started=$started raised=$raised stolen=$stolen $(leftovers)"
}

for kind in ${KINDS:-lock genuine fifo link name}; do
    if [ "$kind" = name ]; then by_name; else on_pidfile "$kind"; fi
done
