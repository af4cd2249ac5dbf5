//! A second libvirtd in the same machine, for live migration.

use crate::support::libvirt::{Libvirt, Output};

/// Its own files in the directories of libvirt and viommu, another host name and UUID. $1 comes before the daemon's
/// PATH; $2 is a command in the root directory, with access to the first host's /share.
const SECOND_HOST: &str = r#"set -e
cat >/run/second.inner <<'INNER'
set -e
mount --make-rprivate /
mkdir -p /run/second
mount --bind / /run/second
cd /run/second
own() {
    mkdir -p "/tmp/own$1" "$1"
    mount -t tmpfs own "/tmp/own$1"
    [ "$2" = empty ] || cp -a "/$1/." "/tmp/own$1"
    mount --move "/tmp/own$1" "/run/second/$1"
}
mkdir -p /var/lib/viommu
own etc/libvirt full; own var/lib/libvirt full; own var/lib/viommu empty; own run empty; own tmp empty
mount --rbind /dev dev; mount --rbind /sys sys; mount -t proc proc proc
hostname second
rm -rf etc/libvirt/qemu/*.xml var/lib/libvirt/qemu/domain-* var/lib/libvirt/qemu/save/*
sed -i '/^host_uuid/d' etc/libvirt/libvirtd.conf
echo 'host_uuid = "11111111-2222-4333-8444-555555555555"' >>etc/libvirt/libvirtd.conf
echo 'namespaces = []' >>etc/libvirt/qemu.conf
eval "$2"
chroot . virtlogd -d
# Process 1 has to reap QEMUs, which libvirtd does not.
chroot . env "PATH=$1$PATH" libvirtd &
wait
INNER
setsid unshare --mount --uts --pid --fork --kill-child=KILL bash /run/second.inner "$1" "$2" </dev/null >/share/second.log 2>&1 &
unshare=$!
for try in {1..200}; do
    socket=/proc/$(pgrep -P $unshare | head -1)/root/run/second/run/libvirt/libvirt-sock
    [ "$(virsh -q -c "qemu+unix:///system?socket=$socket" hostname 2>/dev/null)" = second ] && break
    sleep 0.1
done
echo "qemu+unix:///system?socket=$socket" >/run/second.uri
echo $unshare >/run/second.pid
[ "$(virsh -q -c "$(cat /run/second.uri)" hostname)" = second ]
"#;

/// The first host's daemon.
const FIRST: &str = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock";

/// The daemon ends when the value is dropped.
pub(crate) struct SecondHost<'a> {
    lab: &'a Libvirt,
    uri: String,
}

impl SecondHost<'_> {
    /// Starts it with this before the daemon's `PATH`, after a command in its root directory.
    pub(crate) fn start<'a>(lab: &'a Libvirt, path: &str, command: &str) -> SecondHost<'a> {
        lab.run(&format!("set -- '{path}' '{command}'\n{SECOND_HOST}")).ok();
        SecondHost { lab, uri: lab.get("/run/second.uri").trim().to_owned() }
    }

    /// Runs virsh with a connection to it.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> Output {
        self.lab.virsh(&[&["-c", &self.uri], arguments].concat())
    }

    /// Migrates a running guest of the first host to it.
    pub(crate) fn take(&self, guest: &str) -> Output {
        self.lab.virsh(&migrate(guest, &self.uri))
    }

    /// Migrates a running guest from it to the first host.
    pub(crate) fn give_back(&self, guest: &str) -> Output {
        self.virsh(&migrate(guest, FIRST))
    }
}

impl Drop for SecondHost<'_> {
    fn drop(&mut self) {
        self.lab.run("kill -KILL $(cat /run/second.pid)");
    }
}

/// On a busy machine a guest may write faster than its memory is sent.
fn migrate<'a>(guest: &'a str, to: &'a str) -> [&'a str; 9] {
    ["migrate", guest, "--live", to, "--migrateuri", "tcp://127.0.0.1", "--timeout", "20", "--timeout-suspend"]
}
