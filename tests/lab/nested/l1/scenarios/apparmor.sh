#!/bin/bash
# AppArmor enforced for libvirtd and guests, viommu from its package without further steps. Needs an L1 with VIOMMU_DEB=FILE
# INIT=systemd CMDLINE='apparmor=1 security=apparmor'. All parts of viommu work without a denial: wrapper, guard, a raised
# limit for a third device, save and restore. Without the package's rules the wrapper cannot run, and the start's error says
# so.
. "$(dirname "$0")/../lib.sh"
ports="<controller type='pci' index='0' model='pcie-root'/>"
for index in 1 2 3 4 5 6; do ports+="<controller type='pci' index='$index' model='pcie-root-port'/>"; done
define aa devices=2 emulator="$WRAPPER" request=intel inside="$ports"
echo "RESULT aa-host libvirtd=$(confinement "$(daemon_pid)" | tr ' ' -) denials=$(denied | grep -c viommu)"
start aa
echo "RESULT aa status=$status seconds=$seconds $(figures aa)" \
    "confined=$(confinement "$(pid_of aa)" | sed 's/-[0-9a-f-]* /-UUID-/') message=$message"
said viommu memlock aa --raise
echo "RESULT aa-raise status=$status limit=$(limit_of aa) message=$message"
hostdev "${DEVICES[2]}" >/tmp/hostdev.xml
said virsh -q attach-device aa /tmp/hostdev.xml
echo "RESULT aa-third status=$status denials=$(denials) $(figures aa) message=$message"
denied
virsh -q destroy aa

define aa-saved ram=64 emulator="$WRAPPER" request=intel
start aa-saved
said virsh -q save aa-saved /var/tmp/aa.save
said virsh -q restore /var/tmp/aa.save --paused
echo "RESULT aa-restored status=$status denials=$(denials) viommus=$(viommus_of aa-saved) message=$message"
virsh -q destroy aa-saved
rm -f /var/tmp/aa.save
denied

without_rules start aa
echo "RESULT aa-unprepared status=$status denials=$(denials) $(leftovers) message=$message"
