#!/bin/bash
# The host route with AppArmor or SELinux enforced, viommu from its package. Needs an L1 as for apparmor.sh or selinux.sh.
# One command switches it on; guests without <emulator> then get the vIOMMU that their metadata requests, and plain guests
# do not change. Without the hook none of them starts.
. "$(dirname "$0")/../lib.sh"

hook=/etc/libvirt/hooks/qemu.d/50-viommu

# define_default NAME [key=value…]: a domain that leaves the emulator to libvirt.
define_default() {
    domain_xml "$@" emulator= | sed 's|<emulator></emulator>||' >"/tmp/$1.xml"
    define_file "$1" "/tmp/$1.xml"
}
restart_libvirtd() {
    systemctl restart libvirtd
    wait_for 60 answers
}
# Under SELinux, the denials about files of viommu, the links, and limits: QEMU has the wrapper's name here, and Debian's
# policy denies it several accesses that it does not need (io_uring, /proc/sys/vm). Under AppArmor all denials.
denials_of_ours() {
    if enforcing; then denied | grep -cE 'viommu|host-route|name="qemu-system|{ [^}]*(entrypoint|[gs]etrlimit)'; else denials; fi
}
emulator_of() { virsh -q dumpxml "$1" | sed -n 's|.*<emulator>\(.*\)</emulator>.*|\1|p'; }

said viommu host-route on
restart_libvirtd
echo "RESULT rt-on status=$status message=$message"
define_default rt devices=2 request=intel
start rt
echo "RESULT rt status=$status seconds=$seconds $(figures rt) emulator=$(emulator_of rt) exe=$(readlink "/proc/$(pid_of rt)/exe")" \
    "denials=$(denials_of_ours) message=$message"
virsh -q destroy rt
denied
define_default rt-plain devices=2
start rt-plain
echo "RESULT rt-plain status=$status $(figures rt-plain) denials=$(denials_of_ours) message=$message"
virsh -q destroy rt-plain
denied

mv $hook /tmp/hook
for guest in rt rt-plain; do
    start $guest
    echo "RESULT $guest-unhooked status=$status $(leftovers) message=$message"
done
mv /tmp/hook $hook

for guest in rt rt-plain; do virsh -q undefine $guest; done
said viommu host-route off
restart_libvirtd
define_default rt-off ram=64
echo "RESULT rt-off status=$status emulator=$(emulator_of rt-off) message=$message"
virsh -q undefine rt-off
