//! Live migration between two libvirts, with the host route on one side only.

use crate::support::libvirt::{Libvirt, Output, Suite};
use crate::support::on_both_suites;
use crate::{ROUTE, UUID, host, instance, restart_with};

on_both_suites! {
    live_migration_between_hosts_with_and_without_the_route
    live_migration_of_guests_of_the_native_door
}

/// A second libvirtd in the same machine: files of its own where libvirt and viommu write, another host name and UUID.
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
chroot . virtlogd -d
# Process 1 has to reap QEMUs, which libvirtd does not.
chroot . env "PATH=$1$PATH" libvirtd &
wait
INNER
setsid unshare --mount --uts --pid --fork --kill-child=KILL bash /run/second.inner "$1" </dev/null >/share/second.log 2>&1 &
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

/// Starts the second host. The first has the route, or the second.
fn two_hosts(lab: &Libvirt, first_has_route: bool) -> String {
    let path = |on: bool| if on { format!("{ROUTE}:") } else { String::new() };
    restart_with(lab, &path(first_has_route));
    lab.run(&format!("set -- '{}'\n{SECOND_HOST}", path(!first_has_route))).ok();
    lab.get("/run/second.uri").trim().to_owned()
}

/// What became of a guest that was sent to the second host.
struct Sent {
    output: Output,
    /// Its QEMU's command line there.
    line: String,
    runs_here: bool,
    recorded_here: bool,
}

fn send(lab: &Libvirt, second: &str, xml: &str) -> Sent {
    let guest = lab.guest(xml);
    guest.virsh("start", &[]).ok();
    // A guest on a starved machine may write faster than its memory is sent.
    let slow = ["--timeout", "20", "--timeout-suspend"];
    let migrate = [&["--live", second, "--migrateuri", "tcp://127.0.0.1"], &slow[..]].concat();
    let output = guest.virsh("migrate", &migrate);
    let arrived = "pid=$(pgrep -f 'instance-00000007,.*-incoming') && tr '\\0' ' ' </proc/$pid/cmdline";
    let line = lab.run(arrived).stdout;
    let runs_here = guest.virsh("domstate", &[]).ok().trim() == "running";
    let recorded_here = lab.run(&format!("ls /var/lib/viommu/6a/{UUID}.json")).status == 0;
    lab.virsh(&["-c", second, "destroy", "instance-00000007"]);
    Sent { output, line, runs_here, recorded_here }
}

#[track_caller]
fn arrives(sent: Sent, has: &str) -> Sent {
    sent.output.clone().ok();
    assert!(sent.line.contains(has) && !sent.runs_here, "{}", sent.line);
    sent
}

fn live_migration_between_hosts_with_and_without_the_route(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    for first_has_route in [true, false] {
        let second = two_hosts(&lab, first_has_route);
        // Without the route, as a guest that was defined while it was on.
        let named = format!("<devices><emulator>{ROUTE}/qemu-system-x86_64</emulator>");
        let asks = |model| {
            let xml = instance(&[("viommu:model", model)]);
            if first_has_route { xml } else { xml.replace("<devices>", &named) }
        };
        let sent = arrives(send(&lab, &second, &instance(&[])), "-uuid");
        assert!(!sent.line.contains("iommu"), "{}", sent.line);
        let sent = arrives(send(&lab, &second, &asks("virtio")), "virtio-iommu");
        // libvirt 9.0 does not say why the guest ended.
        assert_eq!(sent.recorded_here, suite == Suite::Bookworm);
        let sent = send(&lab, &second, &asks("auto"));
        assert!(sent.output.stderr.contains("error[migration-mismatch]"), "{:?}", sent.output);
        assert_eq!((sent.line.as_str(), sent.runs_here, sent.recorded_here), ("", true, true));
        lab.run("kill -KILL $(cat /run/second.pid)").ok();
    }
}

/// A domain for a flavor with this model, as Nova's driver writes it for every model and architecture.
fn instance_with_iommu(arch: &str, machine: &str, model: &str) -> String {
    let driver = "<driver intremap='on' caching_mode='on' aw_bits='48' eim='off' iotlb='on'/>";
    instance(&[("hw:viommu_model", model)])
        .replace(r#"arch="x86_64" machine="q35""#, &format!("arch='{arch}' machine='{machine}'"))
        .replace("<os>", if arch == "aarch64" { "<os firmware='efi'>" } else { "<os>" })
        .replace("<features>", "<features><ioapic driver='qemu'/>")
        .replace("</devices>", &format!("<iommu model='{model}'>{driver}</iommu></devices>"))
}

/// libvirt knows their vIOMMU, and neither host needs the route.
fn live_migration_of_guests_of_the_native_door(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    for first_has_route in [true, false] {
        let second = two_hosts(&lab, first_has_route);
        for (arch, machine, model, device) in [
            ("x86_64", "q35", "virtio", "\"virtio-iommu\""),
            ("aarch64", "virt", "virtio", "\"virtio-iommu\""),
            ("aarch64", "virt", "smmuv3", "iommu=smmuv3"),
        ] {
            lab.put("/run/instance.xml", instance_with_iommu(arch, machine, model));
            assert_ne!(lab.virsh(&["define", "/run/instance.xml"]).status, 0, "libvirt takes Nova's XML");
            arrives(send(&lab, &second, &lab.run("viommu rewrite /run/instance.xml").ok()), device);
        }
        lab.run("kill -KILL $(cat /run/second.pid)").ok();
    }
}
