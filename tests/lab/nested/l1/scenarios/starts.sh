#!/bin/bash
# Number of legitimate starts with a raised limit: IDLE one after the other, LOAD beside four busy loops a processor, ROUNDS
# times 20 at once, and BARE on a host without cgroups, where the guard finds QEMU only among the daemon's children. The
# defaults are small.
#
# viommu has refused `refused`; `failed` are libvirt's own errors. `cgroup` and `child` are the evidence that the guard
# logged.
. "$(dirname "$0")/../lib.sh"
as_set "$0"
idle=${IDLE:-3} load=${LOAD:-1} rounds=${ROUNDS:-0} bare=${BARE:-1}
log=/tmp/viommu.log

# A log for hosts without one: all syslog messages of viommu.
if [ ! -e /run/systemd/journal/socket ]; then
    rm -f /dev/log
    # shellcheck disable=SC2016
    perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "/dev/log") or die; $| = 1;
        while (1) { $s->recv(my $line, 65536); print "$line\n" }' >$log &
    logger=$!
fi
logged() { if [ -n "${logger:-}" ]; then cat $log; else journalctl -t viommu --no-pager; fi | grep -c "$1"; }

# judged NAME STATUS MESSAGE
judged() {
    local pid
    if [ "$2" = 0 ]; then
        pid=$(pgrep -u libvirt-qemu -f "guest=$1," | head -n 1)
        if grep -qsE '^Max locked memory +unlimited' "/proc/$pid/limits"; then raised=$((raised + 1)); else echo "$1: not raised"; fi
    else
        case $3 in *viommu*) refused=$((refused + 1)) ;; *) failed=$((failed + 1)) ;; esac
        echo "$1: $3"
    fi
}
begin() {
    raised=0 refused=0 failed=0 cgroup=$(logged "libvirt's cgroup") child=$(logged "the daemon's child")
}
result() { # LABEL WANTED
    sleep 1
    echo "RESULT starts-$1 wanted=$2 raised=$raised refused=$refused failed=$failed cgroup=$(($(logged "libvirt's cgroup") - cgroup))" \
        "child=$(($(logged "the daemon's child") - child)) $(leftovers)"
}
one_by_one() { # COUNT
    local status
    for _ in $(seq "$1"); do
        said timeout 120 virsh -q start one --paused
        judged one "$status" "$message"
        virsh -q destroy one >/dev/null 2>&1
    done
}

define_locked one
begin
one_by_one "$idle"
result idle "$idle"

busy=()
for _ in $(seq $((4 * $(nproc)))); do
    (while :; do :; done) &
    busy+=($!)
done
begin
one_by_one "$load"
kill "${busy[@]}"
result load "$load"

[ "$rounds" = 0 ] || for number in $(seq 20); do define_locked "many-$number"; done
begin
for _ in $(seq "$rounds"); do
    for number in $(seq 20); do
        (timeout 300 virsh -q start "many-$number" --paused >"/tmp/many-$number.out" 2>&1; echo $? >"/tmp/many-$number.status") &
        starts[number]=$!
    done
    wait "${starts[@]}"
    for number in $(seq 20); do
        judged "many-$number" "$(cat "/tmp/many-$number.status")" "$(one_line <"/tmp/many-$number.out")"
        virsh -q destroy "many-$number" >/dev/null 2>&1
    done
done
result many $((20 * rounds))

# systemd keeps its own cgroups.
if ! under_systemd; then
    stop_libvirtd
    umount -R /sys/fs/cgroup
    start_libvirtd
    begin
    one_by_one "$bare"
    result bare "$bare"
    stop_libvirtd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    start_libvirtd
fi
[ -z "${logger:-}" ] || kill "$logger"
