#!/bin/bash
# Runs the commands of README.md and docs/guides/first-guest.md on a fresh Debian, as a new user would.
#
#   tests/lab/walk.sh SUITE      bookworm, trixie, sid
#
# Prints a row of a table for each command: its duration in seconds, the command, and the last line of its output. Fails if
# a command fails, or if its output differs from the guide. The answer to each prompt is yes.
#
# CAINFO in the environment names a file of certificates that the new Debian trusts, for a network that inspects TLS.
#
# The Debian root is that of `mmdebstrap --variant=important` with a kernel, in $VIOMMU_LAB/roots/fresh-SUITE; the script
# discards its changes. It runs in its own namespaces, with the machine's network for apt and cargo. There is no systemd:
# after the installation of libvirt the script starts its daemons as systemd would, in their own network. The guest runs
# without KVM.
set -euo pipefail
suite=${2:-${1:?usage: walk.sh SUITE}}
here=$(dirname "$(realpath "$0")")
checkout=$(realpath "$here/../..")
lab=$(realpath -m "${VIOMMU_LAB:-$checkout/target/lab}")
fresh=$lab/roots/fresh-$suite
case $suite in
    bookworm) name='Debian 12' ;;
    trixie) name='Debian 13' ;;
    sid) name='Debian [0-9]*, unstable' ;;
    *) echo "walk.sh: no suite '$suite'" >&2 && exit 2 ;;
esac

if [ "${1:-}" != --inside ]; then
    if [ ! -e "$fresh/.complete" ]; then
        rm -rf "$fresh"
        mkdir -p "$lab/roots"
        mmdebstrap --variant=important --mode=root --quiet --include=linux-image-amd64,initramfs-tools --aptopt='Acquire::Check-Valid-Until "false"' \
            --keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$suite" "$fresh" ${MIRROR:+"$MIRROR"} >&2
        touch "$fresh/.complete"
    fi
    scratch=$(mktemp -d "$lab/walk.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    git clone --quiet --depth 1 "file://$checkout" "$scratch/viommu"
    mkdir "$scratch"/{upper,work,root}
    unshare --mount --pid --fork --kill-child=KILL --ipc --uts --cgroup bash "$here/walk.sh" --inside "$suite" "$scratch"
    exit
fi

scratch=$3
cd "$scratch"
mount -t overlay overlay -o "lowerdir=$fresh,upperdir=upper,workdir=work" root
mv viommu root/root/
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 run run
# shellcheck disable=SC1091 # beside this file
source "$here/dev.sh"
make_dev
cp /etc/resolv.conf etc/resolv.conf
[ -z "${CAINFO:-}" ] || install -D -m 644 "$CAINFO" root/cainfo.pem
# Packages start no daemon in the machine's network.
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
hostname "$suite"
printf '127.0.0.1 localhost %s\n' "$suite" >etc/hosts
# Not chroot: the /dev that libvirt creates for a guest needs a separate root.
mkdir .old
pivot_root . .old
cd /root/viommu
umount -l /.old
rmdir /.old
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
hash -r
scratch=/run
environment=(env -i HOME=/root PATH="$PATH" LANG=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive)
[ ! -e /root/cainfo.pem ] || environment+=(CARGO_HTTP_CAINFO=/root/cainfo.pem)

# Runs a command as root of the new Debian, on a terminal, and answers each prompt with yes. apt 3.3 discards input before
# its prompt, so the answer is repeated until the command has ended.
as_user() {
    touch "$scratch/runs"
    # shellcheck disable=SC2016 # the inner shell expands it
    answers | "${environment[@]}" COMMAND="$1" script -qefc 'stty -echo cols 200
        bash -c "$COMMAND" || status=$?
        rm /run/runs
        exit ${status:-0}' /dev/null | sed 's/\r*$//; s/.*\r//'
}

answers() {
    local second=0
    while sleep 1 && [ -e "$scratch/runs" ]; do
        ((second++ % 3)) || echo y
    done
}

start_daemons() {
    # shellcheck disable=SC2016 # the inner shell expands it
    "${environment[@]}" /bin/sh -c 'setsid virtlogd </dev/null >/run/virtlogd.log 2>&1 &
        setsid unshare --net sh -c "ip link set lo up; exec libvirtd" </dev/null >/run/libvirtd.log 2>&1 &
        for try in $(seq 600); do virsh -q uri >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1'
}

# A command of the pages: prints its row, and stores its output in $scratch/output.
step() {
    local start=$SECONDS status=0 last
    as_user "$1" >"$scratch/one" 2>&1 || status=$?
    cat "$scratch/one" >>"$scratch/output"
    last=$(grep -v '^ *$' "$scratch/one" | tail -n 1 || :)
    # shellcheck disable=SC2016 # for Markdown
    printf '| %s | `%s` | %s |\n' $((SECONDS - start)) "$(sed -z 's/\\\n *//g; s/\n$//; s/|/\\|/g' <<<"$1")" "${last//|/\\|}"
    case $1 in *libvirt-daemon-system*) start_daemons ;; esac
    return $status
}

# Whether the output contains each line of the text, in which … is any text.
is_shown() {
    local line part
    while IFS= read -r line; do
        while IFS= read -r part; do
            grep -qF -- "$part" "$scratch/output" || { echo "not printed: $part" && return 1; }
        done < <(grep . <<<"${line//…/$'\n'}")
    done <<<"$1"
}

fail() {
    echo "walk.sh: $*:" >&2
    [ ! -e "$scratch/output" ] || cat "$scratch/output" >&2
    exit 1
}

# Runs a block of commands. The last command may fail if the text below it shows an error.
walk_block() { # COMMANDS TEXT
    local command='' line status=0
    : >"$scratch/output"
    while IFS= read -r line; do
        command+=$line$'\n'
        case $line in *\\) continue ;; esac
        [ $status = 0 ] || fail 'a command failed before the last one'
        status=0
        step "${command%$'\n'}" || status=$?
        command=
    done <<<"$1"
    case $2 in error:*) [ $status != 0 ] || fail 'it did not fail' ;; *) [ $status = 0 ] || fail "status $status" ;; esac
    [ -z "$2" ] || is_shown "$2" || fail "shown is: $2"
}

readme=README.md guide=docs/guides/first-guest.md
toolchain=$(sed -n "s/^| ${name}[^|]* | [^|]*\`\(apt-get install [^\`]*\)\`.*/\1/p" "$readme")
[ "$toolchain" ] || fail "README has no toolchain for $name"
first=$(awk '/^## /{here = /^## Try it/} here && /^```/{inside = $0 == "```sh" && !done++; next} here && inside' "$readme")
printf '| seconds | command | last line |\n|---|---|---|\n'
walk_block $'apt-get update\n'"$toolchain" ''
walk_block "$first" ''

# The blocks of the guide, each with the text that follows it.
commands='' text='' kind=''
while IFS= read -r line; do
    case $kind,$line in
        ,'```sh walk')
            [ -z "$commands" ] || walk_block "${commands%$'\n'}" "${text%$'\n'}"
            commands='' text='' kind=commands
            ;;
        ,'```text') kind=text ;;
        *,'```') kind='' ;;
        commands,*) commands+=$line$'\n' ;;
        text,*) text+=$line$'\n' ;;
    esac
done <"$guide"
walk_block "${commands%$'\n'}" "${text%$'\n'}"
