#!/bin/bash
# Boots a guest of guest.sh in software emulation, up to the first of: root mounted, deferred probe, no root disk.
#
#   tests/lab/boot/boot.sh GUEST VIOMMU DISK
#
#   VIOMMU   none, intel, smmuv3, virtio, virtio-module (in the initramfs), given (the -device values in DEVICES, one on a line)
#   DISK     blk (behind a root port), ahci, net (no disk: the initramfs requests an address over e1000e)
#
# Prints one line: `root` with the guest's report, or `deferred`, `alert` or `timeout`, for `net` `lease` or `no lease`; the
# log is GUEST/VIOMMU-DISK.log. QEMU comes from the Debian root $VIOMMU_LAB/roots/$SUITE (trixie). LIMIT: seconds until
# `timeout` (300). VCPUS: virtual CPUs (1), of which the guest uses four.
set -euo pipefail
guest=${1:?usage: boot.sh GUEST VIOMMU DISK} viommu=${2:?} disk=${3:?}
here=$(cd "$(dirname "$0")" && pwd)
lab=$(realpath -m "${VIOMMU_LAB:-$here/../../../target/lab}")
dir=$lab/boot/$guest
log=$dir/$viommu-$disk.log
initrd=/mnt/initrd
root=root=UUID=3b6d1f6e-3f5c-4f0a-8a43-5d2f6d8f2b10
devices=()
if [[ $guest = *-arm64 ]]; then
    # UEFI takes the kernel and its initramfs from QEMU, and gives the kernel the ACPI tables of QEMU: IORT, VIOT.
    board=(qemu-system-aarch64 -bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd -cpu neoverse-n1)
    machine=virt,gic-version=3 console=ttyAMA0
    sata=(-device 'ich9-ahci,id=ide,bus=pcie.0,addr=0x6')
else
    board=(qemu-system-x86_64 -cpu max)
    machine=q35 console=ttyS0
    sata=()
fi
case $viommu in
    none) ;;
    intel)
        machine+=,kernel-irqchip=split
        devices+=(-device 'intel-iommu,intremap=on,aw-bits=48')
        ;;
    smmuv3) machine+=,iommu=smmuv3 ;;
    virtio) devices+=(-device 'virtio-iommu-pci,bus=pcie.0,addr=0x1e') ;;
    virtio-module)
        initrd=/mnt/initrd-module
        devices+=(-device 'virtio-iommu-pci,bus=pcie.0,addr=0x1e')
        ;;
    given)
        machine+=,kernel-irqchip=split
        while read -r device; do devices+=(-device "$device"); done <<<"${DEVICES:?}"
        ;;
    *) echo "boot.sh: no vIOMMU '$viommu'" >&2 && exit 2 ;;
esac
# shellcheck disable=SC2054 # the commas are QEMU's
case $disk in
    blk) devices+=(-device pcie-root-port,id=rp,chassis=1,bus=pcie.0,addr=0x5 -device virtio-blk-pci,bus=rp,drive=root) ;;
    ahci) devices+=("${sata[@]}" -device ide-hd,bus=ide.0,drive=root) ;;
    net)
        devices+=(-netdev user,id=net -device e1000e,netdev=net -device ide-hd,bus=ide.0,drive=root)
        root='root=/dev/nfs boot=nfs nfsroot=10.0.2.2:/none ip=dhcp'
        ;;
    *) echo "boot.sh: no disk '$disk'" >&2 && exit 2 ;;
esac
# shellcheck disable=SC2054
qemu=(
    "${board[@]}" -machine "$machine" -accel tcg -smp "${VCPUS:-1}" -m 1024 -nodefaults -display none -no-reboot -serial stdio
    "${devices[@]}"
    -drive file=/mnt/root.img,format=raw,if=none,id=root,snapshot=on,cache=unsafe
    -kernel /mnt/vmlinuz -initrd "$initrd"
    -append "$root ro console=$console init=/usr/sbin/lab-report mitigations=off no_timer_check panic=-1 maxcpus=4"
)
rm -f "$log" # of an earlier boot
"$here/qemu.sh" "$dir" "${qemu[@]}" >"$log" 2>&1 &
pid=$!
end='LAB mounted [a-z0-9= ]*|ALERT!.*does not exist|IP-Config: .* complete|IP-Config: no response after [6-9]'
# A boot of an initramfs with the driver can take longer here than the kernel's limit of ten seconds: the kernel reports it,
# and continues.
[ "$viommu" = virtio-module ] || end+='|pci .*deferred probe pending'
until found=$(grep -asoEm1 "$end" "$log"); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
done
# `timeout` passes the signal on.
kill "$pid" 2>/dev/null || true
wait "$pid" 2>/dev/null || true
[ -n "$found" ] || found=$(grep -aoEm1 "$end" "$log" || true)
case $found in
    LAB*) echo "root ${found#LAB mounted }" ;;
    *deferred*) echo deferred ;;
    ALERT*) echo alert ;;
    *complete) echo lease ;;
    *response*) echo 'no lease' ;;
    *) echo timeout ;;
esac
