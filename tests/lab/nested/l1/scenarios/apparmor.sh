#!/bin/bash
# With AppArmor enforced for libvirtd and guests. Needs an L1 with INIT=systemd CMDLINE='apparmor=1 security=apparmor'.
# Without our rules the wrapper cannot run, and the start says so; with them all of viommu works, and nothing is denied.
. "$(dirname "$0")/../lib.sh"
echo "RESULT apparmor-host libvirtd=$(confinement "$(daemon_pid)" | tr ' ' -)"

# Plain, for the denials that a guest meets with nothing of ours.
define aa-plain devices=2
start aa-plain
echo "RESULT aa-plain status=$status seconds=$seconds denials=$(denials) $(figures aa-plain) message=$message"
virsh -q destroy aa-plain

define aa devices=4 emulator="$WRAPPER" request=intel
start aa
echo "RESULT aa-unprepared status=$status denials=$(denials) $(leftovers) message=$message"

allow_viommu
start aa
echo "RESULT aa status=$status seconds=$seconds denials=$(denials) $(figures aa)" \
    "confined=$(confinement "$(pid_of aa)" | sed 's/-[0-9a-f-]* /-UUID-/') message=$message"
dmesg | grep 'apparmor="DENIED"'
virsh -q destroy aa
echo "RESULT aa-end $(leftovers)"
