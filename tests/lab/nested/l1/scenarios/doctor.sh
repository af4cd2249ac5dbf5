#!/bin/bash
# What viommu doctor says about a real host: systemd, AppArmor enforced, an IOMMU, VFIO, libvirtd as its package starts it, viommu from its
# package. Needs an L1 with VIOMMU_DEB=FILE INIT=systemd CMDLINE='apparmor=1 security=apparmor'.
. "$(dirname "$0")/../lib.sh"

# examined NAME: a RESULT line with the exit status, and state and code of every check that is not ok, the first one first.
examined() {
    local status found
    viommu doctor >/tmp/doctor
    status=$?
    found=$(sed -n 's/^\(broken\|warning\|unknown\) .*\[\(.*\)\]$/\1:\2/p' /tmp/doctor | tr '\n' , | sed 's/,$//')
    echo "RESULT $1 status=$status found=${found:-nothing} message=$(one_line </tmp/doctor)"
}

# A guest that asks, and uses the wrapper: what keeps it from its vIOMMU is broken, and not only a warning.
define asks emulator="$WRAPPER" request=intel

# As after the installation: what the hook has written since would tell that the daemon knows it.
rm -f "$STATE"/*.json /var/lib/viommu/*/*.json
examined doctor-installed
without_rules examined doctor-unprepared

# A hook that comes to a daemon which has none. Times are compared to the second.
rm -rf /etc/libvirt/hooks
systemctl restart libvirtd
wait_for 60 answers
sleep 5
mkdir /etc/libvirt/hooks
ln -s /usr/bin/viommu /etc/libvirt/hooks/qemu
examined doctor-not-reloaded
# systemd forgets when it last ran the reload, but not when the state changed.
systemctl reload libvirtd
systemctl daemon-reload
examined doctor-reloaded
