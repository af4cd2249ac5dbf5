#!/bin/bash
# Runs a command as root of a Debian root directory, and discards all changes there.
#
#   tests/lab/overlay.sh ROOT [--show DIR TARGET | --share DIR TARGET]... COMMAND [ARGUMENT]...       ROOT made by root.sh
#
# Inside, DIR is TARGET; only shared directories are writable.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    exec unshare --mount --fork bash "$0" --inside "$@"
fi
shift
root=$(realpath "$1")
shift
stage=$(mktemp -d)
trap 'umount -R "$stage" && rmdir "$stage"' EXIT
mount -t tmpfs tmpfs "$stage"
mkdir "$stage"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$root,upperdir=$stage/upper,workdir=$stage/work" "$stage/root"
mount -t proc proc "$stage/root/proc"
mount --rbind /dev "$stage/root/dev"
cp /etc/resolv.conf "$stage/root/etc/resolv.conf"
while [[ ${1:-} = --sh* ]]; do
    mkdir -p "$stage/root$3"
    mount --bind "$2" "$stage/root$3"
    [ "$1" = --share ] || mount -o remount,bind,ro "$stage/root$3"
    shift 3
done
chroot "$stage/root" env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
