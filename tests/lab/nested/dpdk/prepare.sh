#!/bin/bash
# What an L2 with DPDK boots: an initrd of Debian 13's testpmd with the driver of igb, busybox, and vfio-pci of L1's kernel, and this kernel
# uncompressed, because emulated twice it would need a minute to decompress itself.
#
#   tests/lab/nested/dpdk/prepare.sh DIRECTORY        -> DIRECTORY/{l2-dpdk,vmlinux}; they are kept in $VIOMMU_LAB/nested/dpdk
set -euo pipefail
. "$(dirname "$0")/../common.sh"
share=${1:?usage: prepare.sh DIRECTORY}
"$here/kit.sh"
lock dpdk
out=$nested/dpdk
stamp=$(stamp_of "$kit/stamp" "$here/dpdk/prepare.sh" "$here/dpdk/l2-init")
[ "$(cat "$out/stamp" 2>/dev/null)" != "$stamp" ] || exec cp "$out"/{l2-dpdk,vmlinux} "$share/"

# The packages stay: only the program in front of them changes.
root=$out/root
if [ ! -e "$out/.complete" ]; then
    rm -rf "$root"
    mkdir -p "$out"
    mmdebstrap --variant=extract --mode=root --quiet --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --include=dpdk-dev,librte-net-e1000-25,librte-mempool-ring25 trixie "$root" ${MIRROR:+"$MIRROR"}
    for directory in bin lib lib64; do ln -sfn "usr/$directory" "$root/$directory"; done
    touch "$out/.complete"
fi
tree=$out/tree
rm -rf "$tree"
mkdir -p "$tree"/{bin,dev,proc,sys,modules,usr/bin,usr/lib,usr/lib64}
ln -s usr/lib usr/lib64 "$tree/"
cp "$kit/bin/busybox" "$tree/bin/"
install -m755 "$here/dpdk/l2-init" "$tree/init"
number=10
for module in $(chroot "$kit" modprobe --set-version "$(basename "$kit"/lib/modules/*)" --all --show-depends vfio_iommu_type1 vfio_pci |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
    cp "$kit$module" "$tree/modules/$number-$(basename "$module")"
    number=$((number + 1))
done
# The program and its drivers with the libraries that they are linked to; libgcc_s is loaded at the end of a thread.
wanted=(/usr/bin/dpdk-testpmd /usr/lib/x86_64-linux-gnu/libgcc_s.so.1)
for driver in net_e1000 mempool_ring; do wanted+=("/usr/lib/x86_64-linux-gnu/dpdk/pmds-25.0/librte_$driver.so.25"); done
for path in "${wanted[@]}"; do
    chroot "$root" /lib64/ld-linux-x86-64.so.2 --list "$path" | awk -v path="$path" '{ print $3 ? $3 : $1 } END { print path }'
done | grep '^/' | sort -u | while read -r path; do
    # Links stay links: as files of their own DPDK would load a driver twice.
    while mkdir -p "$tree$(dirname "$path")" && cp -P "$root$path" "$tree$path" && target=$(readlink "$root$path"); do
        path=$(dirname "$path")/$target
    done
done
(cd "$tree" && find . | "$kit/bin/busybox" cpio -o -H newc >"$out/l2-dpdk")
rm -rf "$tree"

# word OFFSET BYTES: a number of the boot protocol's header.
word() { od -An -v -t "u$2" -j "$(($1))" -N "$2" "$kit/vmlinuz" | tr -d ' '; }
begin=$((($(word 0x1f1 1) + 1) * 512 + $(word 0x248 4)))
dd status=none if="$kit/vmlinuz" bs=64K iflag=skip_bytes,count_bytes skip="$begin" count="$(word 0x24c 4)" | xz -dc --single-stream >"$out/vmlinux"
echo "$stamp" >"$out/stamp"
cp "$out"/{l2-dpdk,vmlinux} "$share/"
