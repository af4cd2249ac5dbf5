#!/bin/bash
# What viommu doctor says about a real host: systemd, AppArmor enforced, an IOMMU, VFIO, libvirtd as its package starts it.
# Needs an L1 with INIT=systemd CMDLINE='apparmor=1 security=apparmor'.
. "$(dirname "$0")/../lib.sh"

# examined NAME: a RESULT line with the exit status, and state and code of every check that is not ok, the first one first.
examined() {
    local status found
    viommu doctor >/tmp/doctor
    status=$?
    found=$(sed -n 's/^\(broken\|warning\|unknown\) .*\[\(.*\)\]$/\1:\2/p' /tmp/doctor | tr '\n' , | sed 's/,$//')
    echo "RESULT $1 status=$status found=${found:-nothing} message=$(one_line </tmp/doctor)"
}

# Takes back what allow_viommu gave: other scenarios want to begin without it, too.
forbid_viommu() {
    rm -f /etc/apparmor.d/abstractions/libvirt-qemu.d/viommu
    sed -i '/viommu/d' /etc/apparmor.d/local/abstractions/libvirt-qemu 2>/dev/null || : # Debian 13 has none
}

# As an administrator finds it: viommu's files are there, and the rules are not.
forbid_viommu
examined doctor-unprepared
allow_viommu
examined doctor-prepared

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
forbid_viommu
