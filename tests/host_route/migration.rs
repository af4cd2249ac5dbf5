//! Live migration between two libvirts, with the host route on one side only.

use crate::second_host::SecondHost;
use crate::support::libvirt::{Libvirt, Output, Suite};
use crate::support::on_both_suites;
use crate::{ROUTE, UUID, host, instance, restart_with};

on_both_suites! {
    live_migration_between_hosts_with_and_without_the_route
    live_migration_of_guests_on_the_native_route
}

/// Starts the second host. Either the first host has the route, or the second.
fn two_hosts(lab: &Libvirt, first_has_route: bool) -> SecondHost<'_> {
    let path = |on: bool| if on { format!("{ROUTE}:") } else { String::new() };
    restart_with(lab, &path(first_has_route));
    SecondHost::start(lab, &path(!first_has_route), "")
}

/// The result of a migration to the second host.
struct Sent {
    output: Output,
    /// Its QEMU's command line there.
    line: String,
    runs_here: bool,
    recorded_here: bool,
}

fn send(lab: &Libvirt, second: &SecondHost<'_>, xml: &str) -> Sent {
    let guest = lab.guest(xml);
    guest.virsh("start", &[]).ok();
    let output = second.take(&guest.name);
    let arrived = "pid=$(pgrep -f 'instance-00000007,.*-incoming') && tr '\\0' ' ' </proc/$pid/cmdline";
    let line = lab.run(arrived).stdout;
    let runs_here = guest.virsh("domstate", &[]).ok().trim() == "running";
    let recorded_here = lab.run(&format!("ls /var/lib/viommu/6a/{UUID}.json")).status == 0;
    second.virsh(&["destroy", "instance-00000007"]);
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
        // The destination is without the route; the domain has the link's path, because it was defined while the route
        // was on.
        let named = format!("<devices><emulator>{ROUTE}/qemu-system-x86_64</emulator>");
        let requesting = |model| {
            let xml = instance(&[("viommu:model", model)]);
            if first_has_route { xml } else { xml.replace("<devices>", &named) }
        };
        let sent = arrives(send(&lab, &second, &instance(&[])), "-uuid");
        assert!(!sent.line.contains("iommu"), "{}", sent.line);
        let sent = arrives(send(&lab, &second, &requesting("virtio")), "virtio-iommu");
        // libvirt 9.0 gives no reason for the end of the guest.
        assert_eq!(sent.recorded_here, suite == Suite::Bookworm);
        let sent = send(&lab, &second, &requesting("auto"));
        assert!(sent.output.stderr.contains("error[migration-mismatch]"), "{:?}", sent.output);
        assert_eq!((sent.line.as_str(), sent.runs_here, sent.recorded_here), ("", true, true));
    }
}

/// A domain of Nova's driver for a flavor with this model; the driver writes the same attributes for every model and
/// architecture.
fn instance_with_iommu(arch: &str, machine: &str, model: &str) -> String {
    let driver = "<driver intremap='on' caching_mode='on' aw_bits='48' eim='off' iotlb='on'/>";
    instance(&[("hw:viommu_model", model)])
        .replace(r#"arch="x86_64" machine="q35""#, &format!("arch='{arch}' machine='{machine}'"))
        .replace("<os>", if arch == "aarch64" { "<os firmware='efi'>" } else { "<os>" })
        .replace("<features>", "<features><ioapic driver='qemu'/>")
        .replace("</devices>", &format!("<iommu model='{model}'>{driver}</iommu></devices>"))
}

/// libvirt's XML contains their vIOMMU, and neither host needs the route.
fn live_migration_of_guests_on_the_native_route(suite: Suite) {
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
    }
}
