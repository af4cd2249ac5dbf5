#!/bin/sh
# Installs viommu on this host, or removes it again. Runs from a checkout and from a release tarball.
#
# It records what it installs, and neither replaces nor removes any other file. A file of another origin, or a file that was changed
# since the installation, stops it before the first change. A second run changes nothing. The packages are made by this script, too
# (--destdir), so its list of files is the only one.
set -eu

usage() {
    cat <<'USAGE'
usage: ./install.sh [OPTION]...            install, or upgrade
       ./install.sh --uninstall [OPTION]...
       ./install.sh --purge [OPTION]...    uninstall, and forget what the hook recorded about guests

  --prefix DIR     below which the binary goes (default /usr; AppArmor lets libvirtd run nothing elsewhere)
  --destdir DIR    stage the files below DIR, and leave this host alone (for packagers; or DESTDIR in the environment)
  --hook PATH      the hook's place: /etc/libvirt/hooks/qemu.d/50-viommu (a link, the default) or /etc/libvirt/hooks/qemu (a copy
                   of the binary); upgrades keep it
  --no-reload      do not tell libvirt's daemon that there is a new hook
  --yes            remove it even if guests have the wrapper as their emulator, and do not ask
  --dry-run        say what would be done, and do nothing
  --help           this text

VIOMMU_BINARY in the environment names a binary that is built already.
USAGE
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

action=install prefix=/usr destdir=${DESTDIR:-} hook='' reload='' yes='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
    --prefix | --destdir)
        [ $# -ge 2 ] || die "$1 needs a directory"
        case $1 in --prefix) prefix=$2 ;; *) destdir=$2 ;; esac
        shift
        ;;
    --prefix=*) prefix=${1#*=} ;;
    --destdir=*) destdir=${1#*=} ;;
    --hook)
        case ${2:-} in
        /etc/libvirt/hooks/qemu | /etc/libvirt/hooks/qemu.d/50-viommu) hook="--hook $2" ;;
        *) die "--hook is /etc/libvirt/hooks/qemu.d/50-viommu or /etc/libvirt/hooks/qemu" ;;
        esac
        shift
        ;;
    --uninstall | --purge) action=${1#--} ;;
    --no-reload) reload=--no-reload ;;
    --yes) yes=yes ;;
    --dry-run) dry_run=--dry-run ;;
    --help | -h)
        usage
        exit
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done
case $prefix in /*) ;; *) die "--prefix $prefix is not an absolute path" ;; esac
prefix=${prefix%/}
own=$prefix/lib/libvirt-viommu
# What was installed, a line each: "dir PATH", "link:TARGET PATH" or "SHA256 PATH". It is written before the first file changes, with
# the states before and after: after an interruption, a second run and a removal find every file in it.
manifest=$own/installed
# Debian's zsh has a different directory for completions. The Debian package moves the staged completions there.
if [ -z "$destdir" ] && [ -f /etc/debian_version ]; then zsh=vendor-completions; else zsh=site-functions; fi

# mode or "link", source or target, destination
files() {
    cat <<LIST
755 $binary $prefix/bin/viommu
link viommu $prefix/bin/viommu-qemu-system-x86_64
link viommu $prefix/bin/viommu-qemu-system-aarch64
link ../../bin/viommu $prefix/lib/libvirt-host-route/qemu-system-x86_64
link ../../bin/viommu $prefix/lib/libvirt-host-route/qemu-system-aarch64
755 hooks/attach $own/attach
644 hooks/apparmor/viommu /etc/apparmor.d/abstractions/libvirt-qemu.d/viommu
644 hooks/selinux/viommu.cil $prefix/share/selinux/packages/viommu.cil
644 hooks/tmpfiles/viommu.conf $prefix/lib/tmpfiles.d/viommu.conf
644 man/viommu.8 $prefix/share/man/man8/viommu.8
644 man/viommu.toml.5 $prefix/share/man/man5/viommu.toml.5
644 completions/viommu.bash $prefix/share/bash-completion/completions/viommu
644 completions/_viommu $prefix/share/zsh/$zsh/_viommu
644 completions/viommu.fish $prefix/share/fish/vendor_completions.d/viommu.fish
LIST
    # The documentation for users, with the repository's layout, so that its links and its examples work.
    find README.md CHANGELOG.md SECURITY.md docs examples -path docs/proof -prune -o -path docs/upstream -prune -o -name '.*' -o -name '*~' -o -type f -print |
        LC_ALL=C sort | while read -r file; do echo "644 $file $prefix/share/doc/libvirt-viommu/$file"; done
    # The bill of materials, which exists in a release only.
    [ ! -f viommu.cdx.json ] || echo "644 viommu.cdx.json $prefix/share/doc/libvirt-viommu/viommu.cdx.json"
}

# Runs a command, or only prints it in a dry run.
run() {
    if [ "$dry_run" ]; then echo "would run: $*"; else "$@"; fi
}

find_binary() {
    if [ "${VIOMMU_BINARY:-}" ]; then
        binary=$VIOMMU_BINARY
    elif [ -f SHA256SUMS ]; then
        sha256sum --quiet --check SHA256SUMS || die "this release is damaged: its files are not those of SHA256SUMS"
        binary=viommu
    else
        target=$(uname -m)-unknown-linux-gnu
        binary=${CARGO_TARGET_DIR:-target}/$target/release/viommu
        if [ ! -x "$binary" ] || [ "$(find src Cargo.toml Cargo.lock -newer "$binary" | head -n 1)" ]; then
            [ "$dry_run" ] || command -v cargo >/dev/null ||
                die "viommu is not built, and there is no cargo: install Rust 1.85 or newer (Debian 13: apt-get install cargo)"
            run packaging/compile "$target"
        fi
    fi
    [ "$dry_run" ] || [ -x "$binary" ] || die "there is no binary $binary"
}

# The current state of a path in the manifest's format; empty for a missing path.
state_of() {
    if [ -L "$1" ]; then
        echo "link:$(readlink "$1")"
    elif [ -f "$1" ]; then
        sum=$(sha256sum <"$1")
        echo "${sum%% *}"
    elif [ -e "$1" ]; then
        echo other
    fi
}

# The state of a path in the list, in the same format.
state_wanted() { # MODE SOURCE
    if [ "$1" = link ]; then echo "link:$2"; else state_of "$2"; fi
}

# Whether a file has no effect on this host.
is_useless() {
    case $1 in
    /etc/apparmor.d/*) [ ! -d /etc/apparmor.d ] ;;
    *) false ;;
    esac
}

check_that_nothing_is_in_the_way() {
    if { dpkg -S "$prefix/bin/viommu" || rpm -qf "$prefix/bin/viommu"; } >/dev/null 2>&1; then
        die "viommu was installed from a package: upgrade or remove that one; nothing was done"
    fi
    files | while read -r mode source path; do
        there=$(state_of "$path")
        case $there in '' | "$(state_wanted "$mode" "$source")") continue ;; esac
        # A link that an earlier removal kept for guests (hooks/keep-links).
        case $path,$there in */libvirt-host-route/*,link:/usr/*/qemu-*) continue ;; esac
        grep -qsxF "$there $path" "$manifest" ||
            die "$path is there, and not what this script installed: move it away first; nothing was done"
    done
}

# Records a missing directory and its missing parents.
record_directory() {
    if [ -d "$1" ] || grep -qxF "dir $1" "$new"; then return; fi
    record_directory "$(dirname "$1")"
    echo "dir $1" >>"$new"
}

# Creates a directory with its parents.
make_directory() {
    if [ "$dry_run" ] || [ -d "$1" ]; then return; fi
    make_directory "$(dirname "$1")"
    mkdir -m 755 "$1"
}

# Guests with the wrapper as their emulator cannot start without it.
ask_about_wrapped_guests() {
    guests=$(hooks/attach --wrapped)
    if [ ! "$guests" ] || [ "$yes$dry_run" ]; then return; fi
    printf '%s\n' "$guests" | sed 's/.*/install.sh: guest & has the wrapper as its <emulator>, and cannot start without viommu/' >&2
    answer=''
    if [ -t 0 ]; then
        printf 'Remove viommu? [y/N] ' >&2
        read -r answer || :
    fi
    case $answer in y | Y | yes) ;; *) die "nothing was done: change these guests first (viommu remove GUEST), or add --yes" ;; esac
}

# Replaces a file atomically: a guest that starts meanwhile finds the old file or the new one.
put() { # MODE SOURCE DESTINATION
    if [ "$dry_run" ]; then
        [ "$3" = "$manifest" ] || echo "would install $3"
        return
    fi
    if [ "$1" = link ]; then ln -sf "$2" "$3.new"; else install -m "$1" "$2" "$3.new"; fi
    mv -f "$3.new" "$3"
    [ "$3" = "$manifest" ] || echo "installed $3"
}

# The lines of a list that are about files.
files_of() { # LIST
    printf '%s\n' "$1" | sed '/^dir /d; /^$/d'
}

# Removes the files of a list in reverse order, except for files that were changed since.
remove_files() { # LIST
    files_of "$1" | sed '1!G;h;$!d' | while read -r state path; do
        there=$(state_of "$path")
        if [ "$there" = "$state" ]; then
            run rm "$path"
            [ "$dry_run" ] || echo "removed $path"
        elif [ "$there" ] && ! printf '%s\n' "$1" | grep -qxF "$there $path"; then
            echo "install.sh: $path was changed since it was installed, and is left as it is" >&2
        fi
    done
}

# Removes the directories of a list in reverse order, except for directories with other files.
remove_directories() { # LIST
    printf '%s\n' "$1" | sed -n 's/^dir //p' | sed '1!G;h;$!d' | while read -r path; do
        [ ! -d "$path" ] || run rmdir --ignore-fail-on-non-empty "$path"
    done
}

# Removes the unfinished files that an interrupted run has left beside the files of a list.
remove_unfinished() { # LIST
    { files_of "$1" | sed 's/^[^ ]* //' && echo "$manifest"; } | sed 's/$/.new/' | tr '\n' '\0' | xargs -0 rm -f
}

# Runs at every end of an installation. Without a manifest there are only new directories.
clean_up() {
    if [ "$dry_run" ]; then
        :
    elif [ -f "$manifest" ]; then
        remove_unfinished "$(cat "$manifest")"
    else
        remove_unfinished ''
        remove_directories "$(cat "$new")"
    fi
    rm -f "$new" "$new.changed" "$new.all"
}

stage() {
    files | while read -r mode source path; do
        [ "$dry_run" ] || mkdir -p "$destdir$(dirname "$path")"
        put "$mode" "$source" "$destdir$path"
    done
}

install_here() {
    # shellcheck disable=SC2086 # an option or none
    hooks/attach --rescue --prefix "$prefix" $dry_run
    check_that_nothing_is_in_the_way
    new=$(mktemp)
    trap clean_up EXIT
    trap 'exit 1' HUP INT TERM
    old=$(cat "$manifest" 2>/dev/null) || :
    printf '%s\n' "$old" | grep '^dir ' >"$new" || :
    record_directory "$own"
    files | while read -r _ _ path; do
        is_useless "$path" || record_directory "$(dirname "$path")"
    done
    files | while read -r mode source path; do
        # A binary that is not built yet has no state.
        is_useless "$path" || echo "$(state_wanted "$mode" "$source") $path" >>"$new"
    done
    make_directory "$own"
    if ! cmp -s "$new" "$manifest"; then
        { printf '%s\n' "$old" | grep -vxFf "$new" || :; } | sed '/^$/d' | cat "$new" - >"$new.all"
        put 644 "$new.all" "$manifest"
    fi
    files | while read -r mode source path; do
        ! is_useless "$path" || continue
        wanted=$(state_wanted "$mode" "$source")
        if [ ! "$wanted" ] || [ "$(state_of "$path")" != "$wanted" ]; then
            make_directory "$(dirname "$path")"
            put "$mode" "$source" "$path"
            : >"$new.changed"
        fi
    done
    # Files of an older version that this version does not have.
    remove_files "$(files_of "$old" | while read -r state path; do
        grep -q " $path\$" "$new" || echo "$state $path"
    done)"
    cmp -s "$new" "$manifest" || put 644 "$new" "$manifest"
    # shellcheck disable=SC2086 # options or none
    hooks/attach --prefix "$prefix" $hook $dry_run $reload
    [ -e "$new.changed" ] || echo "The files of this version were installed already."
    echo "To remove it again: ./install.sh --uninstall$([ "$prefix" = /usr ] || echo " --prefix $prefix")"
}

uninstall_here() {
    if [ -f "$manifest" ]; then
        ask_about_wrapped_guests
        # shellcheck disable=SC2086 # an option or none
        hooks/attach --undo --prefix "$prefix" $dry_run
        list=$(cat "$manifest")
        [ "$dry_run" ] || remove_unfinished "$list"
        remove_files "$list"
        [ "$dry_run" ] || prefix=$prefix hooks/keep-links
        # After the rest, so that an interrupted removal can be repeated. It is in a directory that is removed, too.
        [ "$dry_run" ] || remove_directories "$list"
        run rm "$manifest"
        remove_directories "$list"
    elif [ -e "$prefix/bin/viommu" ]; then
        die "$prefix/bin/viommu was not installed by this script; nothing was done"
    else
        echo "viommu is not installed."
    fi
    if [ "$action" = purge ]; then
        run rm -rf /run/viommu /var/lib/viommu
    elif [ -d /var/lib/viommu ]; then
        echo "kept: /var/lib/viommu, without which saved guests cannot be restored (--purge removes it)"
    fi
    [ ! -e /etc/viommu.toml ] || echo "kept: /etc/viommu.toml, the configuration"
}

cd "$(dirname "$0")"
if [ "$action" = install ]; then find_binary; fi
if [ "$destdir" ]; then
    [ "$action" = install ] || die "--$action is for this host, and takes no --destdir"
    stage
    exit
fi
[ "$dry_run" ] || [ "$(id -u)" = 0 ] || die "only root can install into this host"
if [ "$action" = install ]; then install_here; else uninstall_here; fi
