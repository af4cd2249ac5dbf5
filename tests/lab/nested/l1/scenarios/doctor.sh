#!/bin/bash
# The report of viommu doctor about a real host: systemd, AppArmor enforced, an IOMMU, VFIO, libvirtd as its package starts
# it, viommu from its package. Needs an L1 with VIOMMU_DEB=FILE INIT=systemd CMDLINE='apparmor=1 security=apparmor'.
. "$(dirname "$0")/../lib.sh"

# examined NAME: a RESULT line with the exit status, and state and code of each check that is not ok, in order.
examined() {
    local status found
    viommu doctor >/tmp/doctor
    status=$?
    found=$(sed -n 's/^\(broken\|warning\|unknown\) .*\[\(.*\)\]$/\1:\2/p' /tmp/doctor | tr '\n' , | sed 's/,$//')
    echo "RESULT $1 status=$status found=${found:-nothing} message=$(one_line </tmp/doctor)"
}

# A guest with a request and the wrapper: a fault that prevents its vIOMMU is an error, not a warning.
define asks emulator="$WRAPPER" request=intel

# As after the installation: later files of the hook would show that the daemon has loaded it.
rm -f "$STATE"/*.json /var/lib/viommu/*/*.json
examined doctor-installed
without_rules examined doctor-unprepared

# The hook is installed while the daemon runs without one. doctor compares times in seconds.
rm -rf /etc/libvirt/hooks
systemctl restart libvirtd
wait_for 60 answers
sleep 5
mkdir /etc/libvirt/hooks
ln -s /usr/bin/viommu /etc/libvirt/hooks/qemu
examined doctor-not-reloaded
# systemd does not keep the time of the last reload, but that of the last state change.
systemctl reload libvirtd
systemctl daemon-reload
examined doctor-reloaded
