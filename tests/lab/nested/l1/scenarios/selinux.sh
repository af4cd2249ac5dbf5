#!/bin/bash
# SELinux enforcing for libvirtd and guests, viommu from its package without further steps. Needs an L1 of SUITE-selinux
# with VIOMMU_DEB=FILE INIT=systemd CMDLINE='security=selinux selinux=1 enforcing=1'. Wrapper, guard and hot-plug work
# without a denial. (Save and restore fail for every guest: Debian's policy does not allow libvirtd to run its
# libvirt_iohelper.) A second installation of the package loads no policy. The removal of the package removes its policy
# module, and guests without viommu start. With a package without its module, the wrapper cannot run, and the start's error
# says so.
. "$(dirname "$0")/../lib.sh"

# viommu's part of the denials: those of its processes (the hook, the guard and the wrapper), and those about its files.
denials_of_ours() { denied | grep -cE 'comm="qemu"|viommu|{ [^}]*(entrypoint|[gs]etrlimit)'; }
has_module() { semodule -l | grep -cx viommu; }
label() { stat -c %C "$1" | cut -d: -f3; }

ports="<controller type='pci' index='0' model='pcie-root'/>"
for index in 1 2 3 4 5 6; do ports+="<controller type='pci' index='$index' model='pcie-root-port'/>"; done
define se devices=2 emulator="$WRAPPER" request=intel inside="$ports"
echo "RESULT se-host enforcing=$(cat /sys/fs/selinux/enforce) libvirtd=$(confinement "$(daemon_pid)" | cut -d: -f3) module=$(has_module)" \
    "denials=$(denials_of_ours)"
said viommu doctor
echo "RESULT se-doctor status=$status message=$message"
start se
echo "RESULT se status=$status seconds=$seconds $(figures se)" \
    "label=$(confinement "$(pid_of se)" | cut -d: -f3) state=$(label "$(state_file se)") record=$(label /var/lib/viommu/*/*.json)" \
    "message=$message"
hostdev "${DEVICES[2]}" >/tmp/hostdev.xml
said virsh -q attach-device se /tmp/hostdev.xml
echo "RESULT se-third status=$status $(figures se) message=$message"
virsh -q destroy se
denied
echo "RESULT se-end denials=$(denials_of_ours) $(leftovers)"

policy() { stat -c '%i %Y' /etc/selinux/default/policy/policy.*; }
before=$(policy)
dpkg -i /var/tmp/viommu.deb
[ "$(policy)" = "$before" ]
echo "RESULT se-again reloaded=$?"

dpkg -P libvirt-viommu
define se-plain devices=2
start se-plain
echo "RESULT se-purged status=$status module=$(has_module) left=$(find /run/viommu /var/lib/viommu /usr/bin/viommu* 2>/dev/null | wc -l) message=$message"
virsh -q destroy se-plain

dpkg -i --path-exclude='*/viommu.cil' /var/tmp/viommu.deb
start se
echo "RESULT se-unprepared status=$status module=$(has_module) denials=$(denials_of_ours) $(leftovers) message=$message"
denied

# For the later scenarios on this host.
dpkg -i /var/tmp/viommu.deb
