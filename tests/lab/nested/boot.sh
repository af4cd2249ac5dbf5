#!/bin/bash
# Boots an L1 in the background and waits until it accepts commands.
#
#   tests/lab/nested/boot.sh SUITE INSTANCE
#
#   ARCH=aarch64      an AArch64 host with SMMUv3 instead of x86 with VT-d (its image: ../arm64/image.sh)
#   VIOMMU_BIN=FILE   the viommu binary that prepare.sh installs in L1 (none: only scenarios without viommu)
#   VIOMMU_DEB=FILE   the package instead; confined hosts need it
#   INIT=systemd      systemd as PID 1 instead of a shell script (slower; AppArmor needs it)
#   CMDLINE='…'       more kernel parameters, e.g. 'apparmor=1 security=apparmor'
#   BOOT_LIMIT=SEC    time limit (60)
#   OWNER=PID         L1 stops when this process ends
#
# The disk image never changes (snapshot=on), so each boot finds the same L1, and instances share one image.
set -euo pipefail
. "$(dirname "$0")/common.sh"
suite=${1:?usage: boot.sh SUITE INSTANCE} instance=${2:?usage: boot.sh SUITE INSTANCE}
outer=$lab/roots/$outer_suite
dir=$instances/$instance
# Settings by architecture: the places of L1's disk and kernel, its files in the share, the board with its IOMMU.
# shellcheck disable=SC2054 # the commas are QEMU's
case ${ARCH:-x86_64} in
    x86_64)
        source=$here disk=$suite kernel=kit memory=6144
        # The IOMMU comes before the NICs, because earlier devices bypass it.
        machine=(qemu-system-x86_64 -machine q35 -cpu max -device intel-iommu,intremap=on,aw-bits=48)
        cmdline="console=ttyS0 intel_iommu=on"
        ;;
    aarch64)
        source=$here/../arm64 disk=arm64/$suite kernel=arm64/$suite memory=2048
        machine=(qemu-system-aarch64 -machine virt,iommu=smmuv3,gic-version=3,its=on -cpu neoverse-n1)
        cmdline="console=ttyAMA0 kpti=off"
        ;;
    *) die "no L1 for ARCH=$ARCH" ;;
esac
"$source/image.sh" "$suite"
make_root "$outer_suite"
"$here/stop.sh" "$instance"
rm -rf "$dir"
mkdir -p "$dir"/share/{in,out}
cp -r "$here"/l1/{prepare.sh,lib.sh,attack.pl} "$here/../dpdk/pump.pl" "$source/l1/scenarios" "$dir/share/"
[ ! -e "$source/l1/arch.sh" ] || cp "$source/l1/arch.sh" "$dir/share/"
cp "$nested/$kernel"/{vmlinuz,l2-initrd} "$dir/share/"
[ -z "${VIOMMU_BIN:-}" ] || install -m755 "$VIOMMU_BIN" "$dir/share/viommu"
# A test program that runs viommu by its path at build time, and reads examples.
[ -z "${VIOMMU_TEST:-}" ] || { install -m755 "$VIOMMU_TEST" "$dir/share/test" && cp -r "$here/../../../examples" "$dir/share/" &&
    echo "$VIOMMU_BIN" >"$dir/share/viommu-path"; }
[ ! -e "$nested/virtqemud/virtqemud" ] || cp "$nested/virtqemud/virtqemud" "$dir/share/"
[ -z "${VIOMMU_DEB:-}" ] || cp "$VIOMMU_DEB" "$dir/share/viommu.deb"

# In QEMU's chroot the lab is at /mnt.
inside=/mnt/instances/$instance
devices=()
for number in 1 2 3 4 5; do
    # One root port for each: QEMU's root ports have ACS, so each NIC has its own IOMMU group. igb supports FLR, which makes
    # starts quick. restrict=on: DHCP and no other network. The last two are connected to interfaces of L1 itself, see
    # dpdk.sh.
    case $number in
        [45])
            netdev="hubport,id=net$number,hubid=$number"
            devices+=(
                -netdev "hubport,id=far$number,hubid=$number"
                -device "virtio-net-pci,netdev=far$number,mac=52:54:00:bb:00:0$number,bus=pcie.0,addr=0x$number"
            )
            ;;
        *) netdev="user,id=net$number,restrict=on" ;;
    esac
    devices+=(
        -device "pcie-root-port,id=port$number,chassis=$number,slot=$number,bus=pcie.0,addr=0x1$number.0"
        -netdev "$netdev"
        -device "igb,bus=port$number,netdev=net$number,mac=52:54:00:aa:00:0$number"
    )
done
# Every denial is logged, without a rate limit. On a busy machine the kernel's check of its timer can fail, and it panics.
cmdline+=" mitigations=off nokaslr no_timer_check loglevel=4 panic=-1 sysctl.kernel.printk_ratelimit=0"
[ "${INIT:-}" != systemd ] || cmdline+=" LAB_INIT=/lib/systemd/systemd"
case " ${CMDLINE:-} " in *' apparmor='*) ;; *) cmdline+=" apparmor=0" ;; esac
cmdline+=" ${CMDLINE:-}"
# The newest libvirt and QEMU get a kernel with IOMMUFD.
vmlinuz=$kernel/vmlinuz
[ "$suite" != backports ] || vmlinuz=iommufd/vmlinuz
# shellcheck disable=SC2054 # the commas are QEMU's
qemu=(
    "${machine[@]}" -name "$instance,debug-threads=on" -nodefaults -display none -no-reboot
    -accel tcg,thread=multi,tb-size=512 -smp 2 -m "${MEMORY:-$memory}"
    -serial "file:$inside/console.log" -monitor "unix:$inside/monitor,server=on,wait=off"
    -drive "file=/mnt/$disk/root.img,format=raw,if=none,id=root,snapshot=on,cache=unsafe"
    -device virtio-blk-pci,drive=root,bus=pcie.0,addr=0x3
    -virtfs "local,path=$inside/share,mount_tag=lab,security_model=none"
    -object rng-random,id=random,filename=/dev/urandom -device virtio-rng-pci,rng=random
    "${devices[@]}"
    -kernel "/mnt/$vmlinuz" -initrd "/mnt/$kernel/initrd" -append "$cmdline"
    -daemonize -pidfile "$inside/pid"
)
# The mounts exist in this QEMU's namespace only: the shared root does not change. /proc, because QEMU's 9p server changes
# modes through /proc/self/fd.
# shellcheck disable=SC2016
in_chroot='mount --bind "$1" "$2/mnt" && mount --rbind /proc "$2/proc" && shift && exec chroot "$@"'
TMPDIR=$inside unshare --mount --propagation private sh -c "$in_chroot" sh "$nested" "$outer" "${qemu[@]}" 2>"$dir/qemu.log" ||
    die "QEMU did not start: $(cat "$dir/qemu.log")"
pid=$(cat "$dir/pid")
# Without this script's streams, whose end its caller may wait for.
if [ -n "${OWNER:-}" ]; then
    setsid "$here/stop.sh" "$instance" --after "$OWNER" </dev/null >/dev/null 2>&1 &
fi

deadline=$((SECONDS + ${BOOT_LIMIT:-60}))
until [ -s "$dir/share/out/up" ]; do
    if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
        "$here/stop.sh" "$instance"
        tail -n 30 "$dir/console.log" "$dir/qemu.log" >&2
        die "no L1 within ${BOOT_LIMIT:-60} s"
    fi
    sleep 0.1
done
echo "$instance ($suite) is up, $(cat "$dir/share/out/up") s after power-on"
