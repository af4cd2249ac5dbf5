//! The host route with a real libvirtd: domains of Nova without an `<emulator>`. libvirt's default emulator is a link
//! to viommu in the daemon's PATH.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "host_route/migration.rs"]
mod migration;
#[path = "host_route/names.rs"]
mod names;
#[path = "support/sandbox.rs"]
mod sandbox;
#[path = "support/second_host.rs"]
#[allow(dead_code, reason = "tests/upgrade.rs uses the rest")]
mod second_host;
mod support;
#[path = "host_route/switch.rs"]
mod switch;

use std::fs;

use support::libvirt::{Guest, Libvirt, Suite, bare};
use support::on_both_suites;

on_both_suites! {
    guests_of_nova_get_the_viommu_of_their_flavor
    without_the_hook_no_guest_starts
    a_plain_guest_is_neither_parsed_nor_recorded
    a_full_run_directory_stops_a_plain_guest_with_a_reason
    removal_keeps_the_links_that_stored_guests_need
    rhels_qemu_is_found_behind_a_link
    the_libvirt_of_a_user_keeps_its_emulator
    the_link_can_be_removed_from_a_stored_domain
    rules_apply_to_a_nova_without_extra_specs
    records_of_removed_guests_are_cleaned
}

const ROUTE: &str = "/usr/lib/libvirt-host-route";
const UUID: &str = "6a1f3c52-0d47-4b8e-9c11-5e2d7f80a913";
const HOOK: &str = "/etc/libvirt/hooks/qemu.d/50-viommu";

/// QEMU's user owns these directories. A plain open of a FIFO blocks without an end, and /dev/zero is endless.
#[test]
#[expect(clippy::disallowed_methods, reason = "runs root's scripts")]
fn files_of_qemus_user_stop_no_script() {
    const TRAPS: &str = "set -e
        for place in /run/libvirt/qemu /var/lib/libvirt/qemu/snapshot/guest /var/lib/libvirt/qemu/save; do
            mkdir -p $place
            for end in xml save; do mkfifo $place/fifo.$end; ln -s /dev/zero $place/link.$end; done
        done
        echo '<emulator>/usr/lib/libvirt-host-route/qemu-system-x86_64</emulator>' >/var/lib/libvirt/qemu/save/guest.save
        cp hooks/keep-links /run; mkdir -p /run/prefix
        timeout 20 hooks/attach --host-route status
        prefix=/run/prefix timeout 20 /run/keep-links";
    if !sandbox::inside("files_of_qemus_user_stop_no_script") {
        return;
    }
    let output = std::process::Command::new("sh").args(["-c", TRAPS]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.ends_with("save/guest.save names an emulator in /usr/lib/libvirt-host-route\n"), "{output:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "starts the program")]
fn host_route_needs_an_installed_viommu() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_viommu")).args(["host-route", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("this viommu is not installed") && printed.contains("./install.sh"), "{printed}");
}

/// A domain of Nova's driver for a flavor with these extra specs.
fn instance(extra_specs: &[(&str, &str)]) -> String {
    let specs =
        extra_specs.iter().map(|(key, value)| format!("<nova:extraSpec name=\"{key}\">{value}</nova:extraSpec>"));
    format!(
        r#"<domain type="qemu"><uuid>{UUID}</uuid><name>instance-00000007</name>
             <memory>131072</memory><vcpu>1</vcpu>
             <metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
               <nova:package version="34.0.0"/><nova:name>vm</nova:name>
               <nova:flavor name="nfv.small" id="4"><nova:memory>128</nova:memory>
                 <nova:extraSpecs>{}</nova:extraSpecs></nova:flavor>
               <nova:owner><nova:user uuid="u">admin</nova:user><nova:project uuid="p">admin</nova:project></nova:owner>
               <nova:root type="image" uuid="8d3f"/>
             </nova:instance></metadata>
             <os><type arch="x86_64" machine="q35">hvm</type></os><features><acpi/></features>
             <devices><rng model="virtio"><backend model="random">/dev/urandom</backend></rng></devices>
           </domain>"#,
        specs.collect::<String>()
    )
}

/// A host with viommu as its packages install it, with the route on or off.
fn host(suite: Suite) -> Option<Libvirt> {
    let lab = bare(suite)?;
    fs::copy(env!("CARGO_BIN_EXE_viommu"), lab.share.join("viommu")).unwrap();
    fs::copy("hooks/attach", lab.share.join("attach")).unwrap();
    fs::copy("hooks/keep-links", lab.share.join("keep-links")).unwrap();
    lab.run(&format!(
        "set -e
         install -D /share/viommu /usr/bin/viommu
         install -D /share/attach /usr/lib/libvirt-viommu/attach
         mkdir {ROUTE}
         for arch in x86_64 aarch64; do ln -s ../../bin/viommu {ROUTE}/qemu-system-$arch; done
         /usr/lib/libvirt-viommu/attach"
    ))
    .ok();
    Some(lab)
}

/// Restarts libvirt's daemon with this directory in front of its PATH, as systemd does with the drop-in.
fn restart_with(lab: &Libvirt, path: &str) {
    lab.run(&format!("source /run/lab.sh; stop_libvirtd; export PATH={path}$PATH; start_libvirtd")).ok();
}

fn route_on(lab: &Libvirt) {
    let placement = || lab.run("viommu capabilities --format placement").ok();
    assert!(placement().contains("none, because the host route is off"));
    let printed = lab.run("viommu host-route on").ok();
    assert!(printed.contains(&format!("PATH={ROUTE}:")), "{printed}");
    restart_with(lab, &format!("{ROUTE}:"));
    let status = lab.run("viommu host-route status").ok();
    assert!(status.contains(": on\n") && status.contains(&format!("hook: {HOOK}\n")), "{status}");
    let text = placement();
    assert!(text.contains("- CUSTOM_VIOMMU_HOST_ROUTE\n"), "{text}");
}

/// The command line of the guest's process, which must be QEMU.
fn command_line(lab: &Libvirt, guest: &Guest<'_>) -> String {
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
    let pid = lab.get(&format!("/run/libvirt/qemu/{}.pid", guest.name));
    assert_eq!(lab.run(&format!("readlink /proc/{pid}/exe")).ok(), "/usr/bin/qemu-system-x86_64\n");
    lab.run(&format!("tr '\\0' ' ' </proc/{pid}/cmdline")).ok()
}

#[track_caller]
fn refused(guest: &Guest<'_>, code: &str) -> String {
    let refusal = guest.virsh("start", &[]);
    assert_ne!(refusal.status, 0);
    assert!(refusal.stderr.contains(&format!("error[{code}]: ")), "{refusal:?}");
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "shut off");
    refusal.stderr
}

fn guests_of_nova_get_the_viommu_of_their_flavor(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    // Off, the default after an installation: nothing can meet the request.
    let message = refused(&lab.guest(&instance(&[("viommu:model", "virtio")])), "wrapper-missing");
    assert!(message.contains("'viommu host-route on'") && !message.contains("viommu apply"), "{message}");
    let plain = {
        let guest = lab.guest(&instance(&[]));
        assert!(guest.virsh("dumpxml", &[]).ok().contains("<emulator>/usr/bin/qemu-system-x86_64</emulator>"));
        guest.virsh("start", &[]).ok();
        command_line(&lab, &guest)
    };
    route_on(&lab);
    for (model, device) in [("intel", "intel-iommu,"), ("virtio", "virtio-iommu")] {
        let guest = lab.guest(&instance(&[("viommu:model", model)]));
        assert!(guest.virsh("dumpxml", &[]).ok().contains(&format!("<emulator>{ROUTE}/qemu-system-x86_64</emulator>")));
        guest.virsh("start", &[]).ok();
        let line = command_line(&lab, &guest);
        assert!(line.contains(device), "{line}");
        // The daemon restarts while the guest runs, and the guest starts again with the route off: the links and the
        // hook are still there.
        restart_with(&lab, "");
        assert_eq!(command_line(&lab, &guest), line);
        guest.virsh("destroy", &[]).ok();
        guest.virsh("start", &[]).ok();
        assert!(command_line(&lab, &guest).contains(device), "{line}");
        restart_with(&lab, &format!("{ROUTE}:"));
    }
    // A guest without a request has the command line of a host without the route, except for the name.
    let guest = lab.guest(&instance(&[]));
    guest.virsh("start", &[]).ok();
    let words =
        |line: &str| line.split(' ').skip(1).map(|word| word.replace("domain-1-", "domain-#-")).collect::<Vec<_>>();
    let numberless = |line: &str| {
        words(line).into_iter().filter(|word| !word.contains("domain-") && !word.contains("fd=")).collect::<Vec<_>>()
    };
    assert_eq!(numberless(&command_line(&lab, &guest)), numberless(&plain));
    drop(guest);
    refused(&lab.guest(&instance(&[("viommu:model", "Virtio")])), "model-unknown");
    // A broken configuration: guests with a request are refused, guests without one start.
    let broken = lab.file("/etc/viommu.toml", "model = 'intel'");
    refused(&lab.guest(&instance(&[("viommu:model", "virtio")])), "config-invalid");
    lab.guest(&instance(&[])).virsh("start", &[]).ok();
    drop(broken);
    // Children of the daemon find QEMU by its file name alone.
    let version = lab.run(&format!("PATH={ROUTE}:$PATH qemu-system-x86_64 -version")).ok();
    assert!(version.starts_with("QEMU emulator version"), "{version}");
}

fn without_the_hook_no_guest_starts(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    route_on(&lab);
    let guest = lab.guest(&instance(&[]));
    guest.virsh("start", &[]).ok();
    guest.virsh("destroy", &[]).ok();
    lab.run(&format!("rm {HOOK}")).ok();
    let refusal = guest.virsh("start", &[]);
    assert!(refusal.stderr.contains("error[state-missing]: the viommu hook did not run for this guest"), "{refusal:?}");
    assert!(refusal.stderr.contains("viommu host-route off"), "{refusal:?}");
    drop(guest);
    // The route stays off if another program is the hook.
    lab.put(HOOK, "#!/bin/sh\n");
    let printed = lab.run("viommu host-route on");
    assert_eq!(printed.status, 1);
    assert!(printed.stderr.contains("nothing was switched on"), "{printed:?}");
}

fn a_plain_guest_is_neither_parsed_nor_recorded(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    route_on(&lab);
    let guest = lab.guest(&instance(&[]));
    guest.virsh("start", &[]).ok();
    assert_eq!(lab.run("ls /run/viommu /var/lib/viommu").stdout, format!("/run/viommu:\n{UUID}.json\n"));
    assert!(lab.get(&format!("/run/viommu/{UUID}.json")).len() < 400);
    guest.virsh("managedsave", &[]).ok();
    assert_eq!(lab.run("ls /run/viommu").stdout, "");
    guest.virsh("start", &[]).ok();
    guest.virsh("destroy", &[]).ok();
    assert_eq!(lab.run("ls /run/viommu; ls /var/lib/viommu").stdout, "");
}

fn a_full_run_directory_stops_a_plain_guest_with_a_reason(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    let full = "mount -o remount,size=$(($(df -k --output=used /run | tail -1) + 8))k /run; ! cat /dev/zero >/run/full 2>/dev/null";
    let room = "rm -f /run/full; mount -o remount,size=64m /run";
    let guest = lab.guest(&instance(&[]));
    lab.run(full).ok();
    let without = guest.virsh("start", &[]);
    // The full disk has no space for libvirt's own pidfile and status either.
    assert_ne!(without.status, 0, "{without:?}");
    lab.run(room).ok();
    drop(guest);
    route_on(&lab);
    let guest = lab.guest(&instance(&[]));
    lab.run(full).ok();
    let with = guest.virsh("start", &[]);
    assert!(with.stderr.contains("error[state-unwritable]") && with.stderr.contains("No space left"), "{with:?}");
    lab.run(room).ok();
    guest.virsh("start", &[]).ok();
}

fn removal_keeps_the_links_that_stored_guests_need(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    route_on(&lab);
    let guest = lab.guest(&instance(&[]));
    guest.virsh("start", &[]).ok();
    let printed = lab.run("viommu host-route off");
    assert!(printed.stderr.contains("/etc/libvirt/qemu/instance-00000007.xml names an emulator in"), "{printed:?}");
    assert!(printed.stderr.contains("/run/libvirt/qemu/instance-00000007.xml names an emulator in"), "{printed:?}");
    guest.virsh("managedsave", &[]).ok();
    restart_with(&lab, "");
    // The same as a package's script.
    lab.run(&format!(
        "set -e
         /usr/lib/libvirt-viommu/attach --undo
         rm -r {ROUTE} /usr/lib/libvirt-viommu /usr/bin/viommu"
    ))
    .ok();
    let printed = lab.run("sh /share/keep-links").ok();
    assert!(printed.contains("/var/lib/libvirt/qemu/save/instance-00000007.save"), "{printed}");
    assert_eq!(lab.run(&format!("ls {ROUTE}")).ok(), "qemu-system-x86_64\n");
    for _ in 0..2 {
        guest.virsh("start", &[]).ok();
        assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
        guest.virsh("destroy", &[]).ok();
    }
    drop(guest);
    // A snapshot alone keeps the link, too.
    let snapshot = "/var/lib/libvirt/qemu/snapshot/gone";
    lab.run(&format!("mkdir -p {snapshot}")).ok();
    lab.put(&format!("{snapshot}/s.xml"), format!("<emulator>{ROUTE}/qemu-system-x86_64</emulator>"));
    assert!(lab.run("sh /share/keep-links").ok().ends_with(&format!("\n{snapshot}/s.xml\n")));
    lab.run(&format!("test -x {ROUTE}/qemu-system-x86_64; rm -r {snapshot}")).ok();
    lab.run("sh /share/keep-links").ok();
    assert_eq!(lab.run(&format!("ls -d {ROUTE}")).stdout, "");
    let guest = lab.guest(&instance(&[]));
    guest.virsh("start", &[]).ok();
    command_line(&lab, &guest);
}

fn the_link_can_be_removed_from_a_stored_domain(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    route_on(&lab);
    let plain = lab.guest(&instance(&[]));
    let emulator = |guest: &Guest<'_>| {
        let xml = guest.virsh("dumpxml", &["--inactive"]).ok();
        xml.lines().find_map(|line| line.trim().strip_prefix("<emulator>").map(str::to_owned)).unwrap()
    };
    assert!(emulator(&plain).starts_with(ROUTE));
    lab.run("viommu apply --route native --yes instance-00000007").ok();
    assert_eq!(emulator(&plain), "/usr/bin/qemu-system-x86_64</emulator>");
    plain.virsh("start", &[]).ok();
    command_line(&lab, &plain);
    drop(plain);
    // A guest with a request gets an <iommu> instead.
    let requesting = lab.guest(&instance(&[("viommu:model", "intel")]));
    lab.run("viommu apply --route native --yes instance-00000007").ok();
    assert_eq!(emulator(&requesting), "/usr/bin/qemu-system-x86_64</emulator>");
    requesting.virsh("start", &[]).ok();
    assert!(command_line(&lab, &requesting).contains("intel-iommu"));
}

fn the_libvirt_of_a_user_keeps_its_emulator(suite: Suite) {
    const USER: &str =
        "mkdir /tmp/user; chown nobody /tmp/user; runuser -u nobody -- env HOME=/tmp/user XDG_RUNTIME_DIR=/tmp/user";
    let Some(lab) = host(suite) else { return };
    route_on(&lab);
    for (user, uri, emulator) in [
        ("", "qemu:///system", format!("{ROUTE}/qemu-system-x86_64")),
        (USER, "qemu:///session", "/usr/bin/qemu-system-x86_64".to_owned()),
    ] {
        let capabilities =
            lab.run(&format!("{user} virsh -q -c {uri} domcapabilities --virttype qemu --arch x86_64")).ok();
        assert!(capabilities.contains(&format!("<path>{emulator}</path>")), "{capabilities}");
    }
}

fn rhels_qemu_is_found_behind_a_link(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    lab.run("mkdir -p /usr/libexec && mv /usr/bin/qemu-system-x86_64 /usr/libexec/qemu-kvm && rm -f /usr/bin/qemu-system-aarch64").ok();
    lab.run("ln -s viommu /usr/bin/viommu-qemu-system-x86_64").ok();
    for link in [&format!("{ROUTE}/qemu-system-x86_64"), "/usr/bin/viommu-qemu-system-x86_64"] {
        let version = lab.run(&format!("{link} -version")).ok();
        assert!(version.starts_with("QEMU emulator version"), "{version}");
    }
    // The link is QEMU for the host's own architecture only.
    let other = lab.run(&format!("{ROUTE}/qemu-system-aarch64 -version"));
    assert!(
        other.stderr.contains("error[emulator-missing]: the real QEMU cannot be executed: /usr/bin/qemu-"),
        "{other:?}"
    );
}

fn rules_apply_to_a_nova_without_extra_specs(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    let old = instance(&[]).replace("<nova:extraSpecs></nova:extraSpecs>", "").replace("34.0.0", "31.0.0");
    {
        let _config = lab.file("/etc/viommu.toml", "[[domain]]\nnova-flavor = 'nfv.*'\nmodel = 'virtio'\n");
        let message = refused(&lab.guest(&old), "wrapper-missing");
        assert!(message.contains("'viommu host-route on'") && !message.contains("viommu apply"), "{message}");
    }
    route_on(&lab);
    for (rule, has_viommu) in
        [("nova-flavor = 'nfv.*'", true), ("nova-project = 'admin'", true), ("nova-flavor = 'm1.*'", false)]
    {
        let _config = lab.file("/etc/viommu.toml", format!("[[domain]]\n{rule}\nmodel = 'virtio'\n"));
        let guest = lab.guest(&old);
        guest.virsh("start", &[]).ok();
        assert_eq!(command_line(&lab, &guest).contains("virtio-iommu"), has_viommu, "{rule}");
    }
    // The refusal names a misspelt key of viommu in a flavor.
    let guest = lab.guest(&instance(&[("viommu:modle", "virtio")]));
    let refusal = guest.virsh("start", &[]);
    assert!(refusal.status != 0 && refusal.stderr.contains("viommu:modle"), "{refusal:?}");
}

fn records_of_removed_guests_are_cleaned(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    route_on(&lab);
    let record = format!("/var/lib/viommu/6a/{UUID}.json");
    let guest = lab.guest(&instance(&[("viommu:model", "virtio")]));
    guest.virsh("start", &[]).ok();
    lab.run(&format!("test -e {record}; mkdir -p /var/lib/viommu/backup; touch /var/lib/viommu/backup/x.xml")).ok();
    // The environment's default connection has no effect.
    let clean = "LIBVIRT_DEFAULT_URI=test:///default viommu doctor --clean >/dev/null; ls -d";
    assert_eq!(lab.run(&format!("{clean} {record} /run/viommu/*.json")).ok().lines().count(), 2, "it runs");
    guest.virsh("destroy", &[]).ok();
    assert_eq!(lab.run(&format!("{clean} {record}")).ok().lines().count(), 1, "it is defined");
    drop(guest);
    assert_eq!(lab.run(&format!("{clean} {record} /var/lib/viommu/backup/*")).stdout, "/var/lib/viommu/backup/x.xml\n");
}
