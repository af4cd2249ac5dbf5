//! doctor with a real libvirtd, before and after the daemon has loaded the hook.

use serde_json::Value;

use crate::support::libvirt::{Libvirt, Suite, shared};
use crate::support::on_both_suites;

on_both_suites! {
    doctor_finds_out_whether_a_daemon_has_loaded_its_hook
}

/// The check of this name.
fn check(lab: &Libvirt, name: &str) -> Value {
    // This machine has no IOMMU and no KVM, so the report always has an error.
    let report: Value = serde_json::from_str(&lab.run("viommu doctor --format json").stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{report:#}")).clone()
}

fn doctor_finds_out_whether_a_daemon_has_loaded_its_hook(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    assert_eq!(check(&lab, "hook")["message"], "/etc/libvirt/hooks/qemu is viommu");
    let libvirt = check(&lab, "libvirt");
    assert!(libvirt["state"] == "ok" && libvirt["message"].as_str().unwrap().contains(suite.libvirt()), "{libvirt}");
    let daemon = check(&lab, "daemon");
    assert!(daemon["state"] == "ok" && daemon["message"].as_str().unwrap().contains("libvirtd"), "{daemon}");

    // The hook is installed while the daemon runs.
    lab.run("rm -rf /etc/libvirt/hooks; mkdir /etc/libvirt/hooks").ok();
    lab.restart_libvirtd();
    assert_eq!(check(&lab, "hook")["code"], "hook-unusable");
    // doctor compares times in seconds.
    lab.run("sleep 4").ok();
    lab.hook_is_viommu();
    let daemon = check(&lab, "daemon");
    assert_eq!((&daemon["state"], &daemon["code"]), (&"warning".into(), &"hook-not-loaded".into()), "{daemon}");

    // A guest whose request cannot be met starts: this proves that the daemon does not call the hook.
    let requesting = |name: &str, emulator: &str| {
        format!(
            "<domain type='qemu'><name>{name}</name><metadata><v:viommu xmlns:v='urn:libvirt-viommu:1' model='intel'/></metadata>
               <memory unit='MiB'>128</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
               <features><acpi/></features><devices><emulator>/usr/bin/{emulator}</emulator></devices></domain>"
        )
    };
    let unnoticed = lab.guest(&requesting("unnoticed", "qemu-system-x86_64"));
    lab.run("sleep 5").ok();
    unnoticed.virsh("start", &[]).ok();
    let daemon = check(&lab, "daemon");
    assert_eq!((&daemon["state"], &daemon["code"]), (&"broken".into(), &"hook-not-loaded".into()), "{daemon}");
    assert!(daemon["message"].as_str().unwrap().ends_with("for guest unnoticed"), "{daemon}");
    assert_eq!(check(&lab, "guest")["code"], "request-unmet");
    drop(unnoticed);

    // After a reload the daemon calls the hook, and the hook's files prove it.
    lab.run("kill -HUP \"$(cat /run/libvirtd.pid)\"; virsh -q uri >/dev/null; sleep 2").ok();
    let noticed = lab.guest(&requesting("noticed", "viommu-qemu-system-x86_64"));
    noticed.virsh("start", &[]).ok();
    let daemon = check(&lab, "daemon");
    assert!(
        daemon["state"] == "ok" && daemon["message"].as_str().unwrap().ends_with("has called the hook"),
        "{daemon}"
    );
    assert_eq!(check(&lab, "guests")["state"], "ok");
}
