#!/bin/bash
# A libvirtd of one Debian suite, isolated from the rest of this machine, with a protocol to run scripts beside it.
#
#   tests/lab/libvirtd.sh SUITE SHARE
#
# It runs in its own namespaces (mount, pid, ipc, uts, network, cgroup) on an overlay of $VIOMMU_LAB/roots/SUITE (root.sh
# builds a missing one; VIOMMU_LAB is target/lab by default). All files that it writes are in a tmpfs, so the root never
# changes, several instances can share it, and no file remains. It has no access to this machine's libvirt, guests, network,
# cgroups and devices. All processes inside end with this script, and this script ends with its standard input.
#
# SHARE is a directory that both sides can access (inside as /share). SHARE/viommu is the binary under test: it becomes
# /usr/bin/viommu, libvirt's qemu hook and both emulator wrappers. Without it the host has no file of viommu.
#
# Protocol: "ready" on standard output once libvirtd answers. After that, for each line "N" on standard input, the script
# SHARE/N/script is run by bash with its streams in SHARE/N/stdout and SHARE/N/stderr, and "N STATUS" is printed.
#
# There is no KVM inside: all guests are type='qemu', so they are the same on every machine.
set -euo pipefail

die() {
    echo "libvirtd.sh: $*" >&2
    exit 1
}

# --- outside: make the root if needed, then start again in new namespaces -------------------------------------------------
if [ "${1:-}" != --inside ]; then
    [ $# = 2 ] || die "usage: libvirtd.sh SUITE SHARE"
    suite=$1 share=$(realpath "$2")
    here=$(dirname "$(realpath "$0")")
    lab=${VIOMMU_LAB:-target/lab}
    [ "$(id -u)" = 0 ] || die "only root can make namespaces with a libvirtd in them"
    mkdir -p "$lab/roots" "$lab/cache/$suite" "$lab/mount"
    lab=$(realpath "$lab")
    if [ ! -e "$lab/roots/$suite/.complete" ]; then
        command -v mmdebstrap >/dev/null || die "mmdebstrap is not installed, and $lab/roots/$suite does not exist"
        # Two test programs may run this at once; the second one then finds a complete root.
        flock "$lab/roots/.$suite.lock" "$here/root.sh" "$suite" "$lab/roots/$suite" >&2 ||
            die "mmdebstrap could not make $lab/roots/$suite"
    fi
    # SIGKILL, because process 1 of a pid namespace ignores all other signals of its parent. A clean environment, because
    # libvirtd passes its own to hooks and emulators.
    exec env -i PATH="$PATH" HOME=/root LC_ALL=C.UTF-8 unshare --mount --pid --fork --kill-child=KILL \
        --ipc --uts --net --cgroup bash "$here/libvirtd.sh" --inside "$suite" "$lab" "$share"
fi

# --- inside, on the old root: build the new one ---------------------------------------------------------------------------
suite=$2 lab=$3 share=$4
# shellcheck disable=SC1091 # beside this file
source "$(dirname "$0")/dev.sh"
lower=$lab/roots/$suite cache=$lab/cache/$suite base=$lab/mount
capabilities=/var/cache/libvirt/qemu/capabilities

# These mounts exist in this namespace only, so instances can share the mount point.
mount -t tmpfs -o mode=755,size=2g lab "$base"
mkdir "$base"/{upper,scratch,root}
# An overlay keeps inode numbers and ctimes of the root below it, by which libvirt checks whether its cache is valid.
mount -t overlay -o "lowerdir=$lower,upperdir=$base/upper,workdir=$base/scratch" lab "$base/root"
cd "$base/root"

mount -t proc proc proc
# A sysfs mounted here shows the new network namespace, and has no mounts of the machine's /sys, such as the cgroup file
# systems: libvirt then starts guests without cgroups.
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
make_dev

# libvirt builds the command line of a guest with a PCI host device only on a host that has IOMMU groups and VFIO
# (qemuHostdevHostSupportsPassthroughVFIO). These are placeholders: such a guest cannot run here, and no real device is
# accessible.
if [ -d sys/kernel/iommu_groups ]; then
    mount -t tmpfs -o mode=755 groups sys/kernel/iommu_groups
    mkdir sys/kernel/iommu_groups/0
    mknod -m 666 dev/vfio/vfio c 1 3
fi

mkdir share
mount --bind "$share" share
mkdir -p "root/cache" ".$capabilities"
mount --bind "$cache" root/cache

if [ -e share/viommu ]; then
    install -m 755 share/viommu usr/bin/viommu
    ln -sf viommu usr/bin/viommu-qemu-system-x86_64
    ln -sf viommu usr/bin/viommu-qemu-system-aarch64
    mkdir -p etc/libvirt/hooks/qemu.d
    # The hook exists from the start, because libvirtd looks for hooks only when it starts. A test that needs another hook,
    # or one without effect, replaces the file.
    ln -sf /usr/bin/viommu etc/libvirt/hooks/qemu
    # Records libvirt's calls of hooks, with the XML on their stdin. It runs after the hook above, so an event that fails
    # there is not recorded. Without output of its own the output of the hook above stays valid (virHookCall).
    cat >etc/libvirt/hooks/qemu.d/00-record <<'RECORD'
#!/bin/bash
echo "$*" >>/run/hooks.log
cat >"/run/hooks/$1.$2.xml"
RECORD
    chmod 755 etc/libvirt/hooks/qemu.d/00-record
    mkdir run/hooks
fi
cat >>etc/libvirt/qemu.conf <<'CONF'
security_driver = "none"
CONF

# pivot_root rather than chroot: with the old root unmounted there is no path back to the machine's files.
mkdir .old
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
hash -r

# --- inside, on the new root: start libvirt and serve ---------------------------------------------------------------------
hostname "$suite"
ip link set lo up

# libvirt needs seconds to probe the emulators. It discards a stale file by itself.
cp -p root/cache/*.xml "$capabilities/" 2>/dev/null || true

# Scripts source this file, too.
cat >/run/lab.sh <<'LAB'
# Starts libvirtd and waits until it answers.
start_libvirtd() {
    local try
    setsid libvirtd </dev/null >>/share/libvirtd.log 2>&1 &
    echo $! >/run/lab-libvirtd.pid
    for ((try = 0; try < 1200; try++)); do
        [ -S /run/libvirt/libvirt-sock ] && virsh -q uri >/dev/null 2>&1 && return 0
        kill -0 "$(cat /run/lab-libvirtd.pid)" || return 1
        sleep 0.05
    done
    return 1
}
# Ends libvirtd while its guests keep running, and waits for its end.
stop_libvirtd() {
    local pid try
    pid=$(cat /run/lab-libvirtd.pid)
    kill "$pid"
    for ((try = 0; try < 100; try++)); do
        [ -e "/proc/$pid/exe" ] || break
        sleep 0.02
    done
    # At its end it sometimes waits half a minute for one of its threads; its state is valid after SIGKILL.
    kill -KILL "$pid" 2>/dev/null || true
    while [ -e "/proc/$pid/exe" ]; do sleep 0.02; done
    rm -f /run/libvirt/libvirt-sock
}
LAB
# shellcheck disable=SC1091 # it was written just now
source /run/lab.sh
# A replacement for syslogd.
setsid socat -u UNIX-RECV:/dev/log,mode=666 OPEN:/run/syslog,creat,append </dev/null >/dev/null 2>&1 &
setsid virtlogd </dev/null >>/share/virtlogd.log 2>&1 &
start_libvirtd || die "libvirtd of $suite does not start, see $share/libvirtd.log"
# This call makes libvirt probe every emulator, so that the first test does not wait for it.
virsh -q capabilities >/dev/null

for file in "$capabilities"/*.xml; do
    # The wrappers' files are not cached: the next binary is another one.
    grep -q '<emulator>/usr/bin/qemu-system-' "$file" || continue
    cmp -s "$file" "/root/cache/${file##*/}" && continue
    cp -p "$file" "/root/cache/.${file##*/}.new"
    mv "/root/cache/.${file##*/}.new" "/root/cache/${file##*/}"
done
umount /root/cache

echo ready
while read -r number; do
    status=0
    bash "/share/$number/script" </dev/null >"/share/$number/stdout" 2>"/share/$number/stderr" || status=$?
    echo "$number $status"
done
