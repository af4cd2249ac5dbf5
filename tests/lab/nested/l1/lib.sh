# shellcheck shell=bash
# Functions of the scenarios; sourced in L1.
#
# A scenario prints lines "RESULT name key=value …". Values have no blanks, except for that of message=, which is last and
# takes the rest.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C LIBVIRT_DEFAULT_URI=qemu:///system
# shellcheck disable=SC2034
DEVICES=(0000:01:00.0 0000:02:00.0 0000:03:00.0 0000:04:00.0 0000:05:00.0)
QEMU=/usr/bin/qemu-system-x86_64
# shellcheck disable=SC2034
WRAPPER=/usr/bin/viommu-qemu-system-x86_64
# For the kernel of a Linux in L2: it is emulated twice, so each line on the serial console and each self-test takes time.
# shellcheck disable=SC2034
FAST='mitigations=off nokaslr apparmor=0 audit=0 cryptomgr.notests ipv6.disable=1'
# The directory of the state files of running domains; it has no other files.
STATE=/run/viommu

now() { cut -d' ' -f1 /proc/uptime; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

# wait_for SECONDS COMMAND…: runs the command until it succeeds; fails after that time.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt $deadline ] || return 1
        sleep 0.05
    done
}

# ---- libvirtd, under systemd or started directly. SETTINGS may have DAEMON=virtqemud and CONTAINER=1; see as_set.
DAEMON=${DAEMON:-libvirtd}

under_systemd() { [ -d /run/systemd/system ]; }
answers() { virsh -q uri >/dev/null 2>&1; }
gone() { [ ! -d "/proc/$1" ]; }
daemon_pid() { cat "/run/$DAEMON.pid" 2>/dev/null; }

start_libvirtd() {
    if under_systemd; then
        systemctl start "$DAEMON"
    else
        mkdir -p /run/libvirt /var/log/libvirt/qemu
        pgrep -x virtlogd >/dev/null || virtlogd --daemon
        "$DAEMON" --daemon
    fi
    wait_for 60 answers
}

stop_libvirtd() {
    local pid
    if under_systemd; then
        systemctl stop "$DAEMON"
    elif pid=$(daemon_pid) && [ -d "/proc/$pid" ]; then
        kill "$pid"
        wait_for 60 gone "$pid"
    fi
}

# as_set SCENARIO: the first line of a scenario that supports DAEMON and CONTAINER. prepare.sh has started libvirtd.
#   DAEMON=virtqemud   instead of libvirtd (../virtqemud.sh builds it)
#   CONTAINER=1        the scenario and its daemon have their own processes, mounts and /run, as in a privileged container
as_set() {
    if [ -n "${CONTAINER:-}" ] && [ $$ != 1 ]; then
        for running in libvirtd "$DAEMON"; do DAEMON=$running stop_libvirtd; done
        local status=0
        unshare --mount --pid --fork --kill-child --mount-proc bash "$1" || status=$?
        start_libvirtd
        exit $status
    fi
    [ -z "${CONTAINER:-}" ] || mount -t tmpfs -o mode=755 tmpfs /run
    if [ "$DAEMON" = virtqemud ] && [ ! -e /usr/sbin/virtqemud ]; then
        DAEMON=libvirtd stop_libvirtd
        install -m755 /lab/virtqemud /usr/sbin/
        echo 'remote_mode = "direct"' >/etc/libvirt/libvirt.conf
        ! under_systemd || printf '[Service]\nExecStart=/usr/sbin/virtqemud\nKillMode=process\n' >/run/systemd/system/virtqemud.service
    fi
    answers || start_libvirtd
    echo "RESULT host daemon=$(readlink "/proc/$(daemon_pid)/exe") container=${CONTAINER:-0} init=$(cat /proc/1/comm)"
}

# Like a crash, at any point of its work.
kill_libvirtd() {
    local pid
    pid=$(daemon_pid)
    kill -KILL "$pid"
    wait_for 10 gone "$pid"
}

# without_hook COMMAND…: as on a host without viommu's hook. libvirtd checks for the file at each call.
without_hook() {
    mv /etc/libvirt/hooks/qemu /tmp/hook 2>/dev/null
    "$@"
    mv /tmp/hook /etc/libvirt/hooks/qemu 2>/dev/null
}

# ---- AppArmor and SELinux

enforcing() { [ "$(cat /sys/fs/selinux/enforce 2>/dev/null)" = 1 ]; }
confinement() { tr -d '\0' <"/proc/$1/attr/current"; }
# The kernel's denials since the last start began, with their number.
denied() { dmesg | grep -E 'apparmor="DENIED"|avc: +denied'; }
denials() { denied | wc -l; }

# without_rules COMMAND…: as on a host with viommu's package but without its AppArmor rules. libvirt reads the rules at each
# start.
without_rules() {
    local rules=/etc/apparmor.d/abstractions/libvirt-qemu.d/viommu
    mv $rules /tmp/rules
    "$@"
    mv /tmp/rules $rules
}

# ---- domains

hostdev() { # DEVICE [ADDRESS-IN-THE-GUEST [ATTRIBUTES-OF-ITS-DRIVER]]
    local domain bus slot function
    IFS=:. read -r domain bus slot function <<<"$1"
    echo "<hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio' ${3:-}/><source>"
    echo "<address domain='0x$domain' bus='0x$bus' slot='0x$slot' function='0x$function'/></source>${2:-}</hostdev>"
}

# domain_xml NAME [key=value…]: the domain's XML
#   ram=MiB  devices=N (the first N NICs)  iommufd=N (that many of them by iommufd)  emulator=FILE
#   request=MODEL        the request to viommu, as metadata
#   native=1             a vIOMMU in the XML
#   hidden=1             a vIOMMU in <qemu:commandline>, which libvirt does not see
#   inside=XML           more devices        os=XML   more in <os>      arguments='…'  more for QEMU
domain_xml() {
    local name=$1 ram=384 devices=0 iommufd=0 emulator=$QEMU request='' native='' hidden='' inside='' os='' arguments='' device
    shift
    [ $# -eq 0 ] || local "$@"
    echo "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
    echo "<name>$name</name><memory unit='MiB'>$ram</memory><vcpu>1</vcpu>"
    [ -z "$request" ] || echo "<metadata><viommu xmlns='urn:libvirt-viommu:1' model='$request'/></metadata>"
    echo "<os><type arch='x86_64' machine='q35'>hvm</type>$os</os>"
    echo "<features><acpi/><apic/>${native:+<ioapic driver='qemu'/>}</features>"
    echo "<devices><emulator>$emulator</emulator><controller type='usb' model='none'/><memballoon model='none'/>"
    for device in "${DEVICES[@]:0:$iommufd}"; do hostdev "$device" '' "iommufd='yes'"; done
    for device in "${DEVICES[@]:$iommufd:$((devices - iommufd))}"; do hostdev "$device"; done
    [ -z "$native" ] || echo "<iommu model='intel'><driver intremap='on' caching_mode='on' aw_bits='48'/></iommu>"
    echo "$inside</devices>"
    # Otherwise libvirt queries QEMU for each of 460 CPU features, which takes most of a start in nested emulation.
    echo "<qemu:capabilities><qemu:del capability='cpu-unavailable-features'/></qemu:capabilities>"
    arguments+="${hidden:+ -device intel-iommu,intremap=on,caching-mode=on,aw-bits=48}"
    # shellcheck disable=SC2086
    [ -z "$arguments" ] || echo "<qemu:commandline>$(printf "<qemu:arg value='%s'/>" $arguments)</qemu:commandline>"
    echo "</domain>"
}

define() { # NAME [key=value…], as for domain_xml
    domain_xml "$@" >"/tmp/$1.xml"
    define_file "$1" "/tmp/$1.xml"
}

define_file() { # NAME FILE
    virsh -q undefine "$1" >/dev/null 2>&1
    virsh -q define "$2"
}

# A small guest without devices whose locked-memory limit viommu must raise: Nova's flavor locks its memory, and libvirt's
# XML does not contain that.
define_locked() { # NAME
    local flavor="<n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:flavor name='f'><n:extraSpecs>"
    local spec
    for spec in viommu_model=intel locked_memory=True mem_page_size=small; do
        flavor+="<n:extraSpec name='hw:${spec%=*}'>${spec#*=}</n:extraSpec>"
    done
    flavor+="</n:extraSpecs></n:flavor></n:instance>"
    # QEMU also locks its buffer of translated code, which is an eighth of the host's memory by default.
    local buffer="<tcg><tb-cache unit='MiB'>16</tb-cache></tcg>"
    domain_xml "$1" ram=64 emulator="$WRAPPER" | sed "s|<os>|<metadata>$flavor</metadata>&|; s|<features>|&$buffer|" >"/tmp/$1.xml"
    define_file "$1" "/tmp/$1.xml"
}

pid_of() { [ ! -e "/run/libvirt/qemu/$1.pid" ] || echo "$(<"/run/libvirt/qemu/$1.pid")"; }
limit_of() { awk '/^Max locked memory/ { print $5 }' "/proc/$(pid_of "$1")/limits"; }
locked_of() { awk '/^VmLck:/ { print $2 }' "/proc/$(pid_of "$1")/status"; }
state_file() { echo "$STATE/$(virsh -q domuuid "$1").json"; }
# Number of vIOMMUs on QEMU's command line, in either spelling.
viommus_of() { grep -czE '^(\{"driver":")?(intel-iommu|virtio-iommu)' "/proc/$(pid_of "$1")/cmdline"; }

# The limits of a running QEMU: hard limit in bytes, locked and pinned kB, effective user id, capabilities, vIOMMUs. Empty
# without a running QEMU.
figures() {
    local pid
    pid=$(pid_of "$1")
    [ -n "$pid" ] || return
    awk '/^Max locked memory/ { printf "limit=%s ", $5 }
        /^VmLck:/ { printf "vmlck_kb=%s ", $2 }
        /^VmPin:/ { printf "vmpin_kb=%s ", $2 }
        /^Uid:/ { printf "uid=%s ", $3 }
        /^CapEff:/ { printf "capeff=%s ", $2 }' "/proc/$pid/limits" "/proc/$pid/status"
    echo "viommus=$(viommus_of "$1")"
}

# said COMMAND…: runs it; sets status, and message: its output on both streams, as one line.
said() {
    message=$("$@" 2>&1)
    status=$?
    message=$(one_line <<<"$message")
    return $status
}
one_line() { tr -s '\n' ' ' | cut -c1-1500; }

# ---- leftovers of viommu

# holders BYTES: number of processes with this limit of locked memory.
holders() { grep -lsE "^Max locked memory +[0-9]+ +$1 " /proc/[0-9]*/limits | wc -l; }

# By its executable, because it may change its name. One program for all processes: each process start takes a tenth of a
# second here.
guards() {
    # shellcheck disable=SC2010,SC2012
    ls -l /proc/[0-9]*/exe 2>/dev/null | grep -cE ' -> /usr/bin/viommu( \(deleted\))?$'
}
no_guards() { [ "$(guards)" = 0 ]; }
# A guard needs a moment to end: 5 s are sufficient, and a longer wait would hide a guard that hangs.
leftovers() {
    local running=0
    wait_for 5 no_guards || running=$(guards)
    echo "guards=$running files=$(find "$STATE" -type f 2>/dev/null | wc -l)"
}

# ---- one start, measured

# start NAME: --paused, because running firmware maps and unmaps RAM, which changes VmLck. Sets seconds, and the variables
# of said.
start() {
    local begin
    begin=$(now)
    dmesg --clear
    said virsh -q start "$1" --paused
    seconds=$(since "$begin")
    return "$status"
}

# The kernel's message about a low limit: the limit that was exceeded, in bytes.
exceeded() { dmesg | sed -n 's/.*RLIMIT_MEMLOCK (\([0-9]*\)) exceeded.*/\1/p' | tail -n 1; }

# try NAME [LABEL]: starts, prints a RESULT line under LABEL, destroys.
try() {
    local found
    if start "$1"; then
        found=$(figures "$1")
        virsh -q destroy "$1"
    else
        found="exceeded=$(exceeded)"
    fi
    echo "RESULT ${2:-$1} status=$status seconds=$seconds $found $(leftovers) message=$message"
}

# ---- an architecture other than x86
# shellcheck source=/dev/null
if [ -e /lab/arch.sh ]; then . /lab/arch.sh; fi
