//! Domains like those of public reports and real hosts, written anew, and their plans.

#![expect(clippy::disallowed_methods, reason = "a test harness starts programs")]
#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

const GIB: u64 = 1 << 30;

/// The plan of a domain on a host with libvirt 11.3.0, QEMU 10.0.0 and an IOMMU of 48 bits.
fn plan(domain: &str, arguments: &[&str]) -> Value {
    let host =
        ["--libvirt-version", "11.3.0", "--qemu-version", "10.0.0", "--host-aw-bits", "48", "--config", "/dev/null"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_viommu"));
    command.args(["plan", "--format", "json"]).args(arguments);
    if !arguments.contains(&"--qemu-version") && !arguments.contains(&"--host") {
        command.args(host);
    }
    let mut child =
        command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(domain.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&output.stderr)))
}

fn text<'a>(plan: &'a Value, pointer: &str) -> &'a str {
    plan.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn model(plan: &Value) -> &str {
    text(plan, "/iommu/model")
}

fn number(plan: &Value, pointer: &str) -> Option<u64> {
    plan.pointer(pointer).and_then(Value::as_u64)
}

/// The messages of a code.
fn notes(plan: &Value, code: &str) -> Vec<String> {
    let notes = plan.get("notes").and_then(Value::as_array).into_iter().flatten();
    notes.filter(|note| text(note, "/code") == code).map(|note| text(note, "/message").to_owned()).collect()
}

/// A q35 guest with 8 GiB.
fn q35(name: &str, metadata: &str, features: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{name}</name><metadata>{metadata}</metadata>\
         <memory unit='GiB'>8</memory><vcpu>8</vcpu><os><type arch='x86_64' machine='pc-q35-8.2'>hvm</type></os>\
         <features><acpi/><apic/>{features}</features><cpu mode='host-passthrough'/>{devices}</domain>"
    )
}

fn osinfo(id: &str) -> String {
    format!("<l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os id='{id}'/></l:libosinfo>")
}

fn hostdev(bus: u8, function: u8) -> String {
    format!(
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='{bus}' slot='0' function='{function}'/>\
         </source></hostdev>"
    )
}

fn devices(inside: &str) -> String {
    format!("<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{inside}</devices>")
}

fn arguments(arguments: &[&str]) -> String {
    let arguments: Vec<_> = arguments.iter().map(|argument| format!("<qemu:arg value='{argument}'/>")).collect();
    format!("<qemu:commandline>{}</qemu:commandline>", arguments.concat())
}

#[test]
fn devices_of_the_command_line_count() {
    // Guides for QEMU 10 and before, when libvirt had no option for a property of vfio-pci.
    let gpu =
        arguments(&["-device", "vfio-pci,host=02:00.0,multifunction=on,x-vga=on", "-device", "vfio-pci,host=02:00.1"]);
    let domain = q35("old-gpu", "", "", &(devices("") + &gpu));
    let planned = plan(&domain, &["--model", "intel"]);
    assert_eq!(text(&planned, "/iommu/driver/caching_mode"), "on");
    assert_eq!(planned.pointer("/memlock/address_spaces").and_then(Value::as_array).unwrap().len(), 2);
    assert_eq!(number(&planned, "/memlock/required_bytes"), Some(17 * GIB));
    assert_eq!(planned.pointer("/memlock/raise"), Some(&Value::Bool(true)));
    let old = ["--model", "auto", "--qemu-version", "7.2.0", "--libvirt-version", "9.0.0"];
    assert_eq!(model(&plan(&domain, &old)), "intel");

    // A second vIOMMU that libvirt does not see either: libvirt sets no limit.
    let both =
        arguments(&["-device", "intel-iommu,intremap=on,caching-mode=on", "-device", "vfio-pci,host=0000:17:01.0"]);
    let planned = plan(&q35("bench", "", "<ioapic driver='qemu'/>", &(devices("") + &both)), &[]);
    assert_eq!(number(&planned, "/memlock/required_bytes"), Some(9 * GIB));
    assert_eq!(planned.pointer("/memlock/libvirt_bytes"), Some(&Value::Null));
    assert_eq!(planned.pointer("/memlock/raise"), Some(&Value::Bool(true)));
}

#[test]
fn auto_is_virtio_only_for_a_guest_that_boots_with_it() {
    let guest = |metadata: &str, features: &str| q35("guest", metadata, features, &devices(&hostdev(1, 0)));
    let debian_13 = guest(&osinfo("http://debian.org/debian/13"), "");
    let planned = plan(&debian_13, &["--model", "auto"]);
    assert_eq!(model(&planned), "intel");
    let reasons = notes(&planned, "auto-model").join("\n");
    assert!(
        reasons.contains("Debian 13") && reasons.contains("libosinfo") && reasons.contains("virtio-iommu-driver"),
        "{reasons}"
    );
    let warning = notes(&plan(&debian_13, &["--model", "virtio"]), "virtio-driver").join("\n");
    assert!(warning.contains("/etc/initramfs-tools/modules"), "{warning}");

    for id in ["http://debian.org/debian/12", "http://freebsd.org/freebsd/14.0"] {
        let domain = guest(&osinfo(id), "");
        assert_eq!(model(&plan(&domain, &["--model", "auto"])), "intel", "{id}");
        let warning = notes(&plan(&domain, &["--model", "virtio"]), "virtio-driver").join("\n");
        assert!(warning.contains("has no driver"), "{id}: {warning}");
    }
    let built_in = guest(&osinfo("http://ubuntu.com/ubuntu/24.04"), "");
    let planned = plan(&built_in, &["--model", "auto"]);
    assert_eq!((model(&planned), notes(&planned, "virtio-driver").len()), ("virtio", 0));

    // Nothing is known about the guest: it boots with either, and the operator's request decides.
    let unknown = guest("", "");
    assert_eq!(model(&plan(&unknown, &["--model", "auto"])), "intel");
    assert_eq!(notes(&plan(&unknown, &["--model", "virtio"]), "virtio-driver").len(), 1);
    let word = |answer: &str| {
        format!("<v:viommu xmlns:v='urn:libvirt-viommu:1' model='auto' virtio-iommu-driver='{answer}'/>")
    };
    assert_eq!(model(&plan(&guest(&word("yes"), ""), &[])), "virtio");
    let denied = guest(&(word("no") + &osinfo("http://ubuntu.com/ubuntu/24.04")), "");
    assert_eq!(model(&plan(&denied, &[])), "intel");
}

#[test]
fn windows_and_macos_are_recognized_without_libosinfo() {
    let windows = q35(
        "win11",
        "",
        "<hyperv mode='custom'><relaxed state='on'/><synic state='on'/></hyperv>",
        &(String::from("<clock offset='localtime'><timer name='hypervclock' present='yes'/></clock>")
            + &devices(&hostdev(1, 0))),
    );
    assert_eq!(model(&plan(&windows, &["--model", "auto"])), "intel");
    assert_eq!(notes(&plan(&windows, &["--model", "virtio"]), "windows-without-driver").len(), 1);
    let macos = q35("mac", "", "", &(devices(&hostdev(1, 0)) + &arguments(&["-device", "isa-applesmc,osk=x"])));
    let planned = plan(&macos, &["--model", "auto"]);
    assert_eq!(model(&planned), "intel");
    assert!(notes(&planned, "auto-model").join("\n").contains("macOS"));
}

#[test]
fn one_refusal_names_all_functions_of_a_card() {
    let card: Vec<_> = (0..4).map(|function| hostdev(0x2f, function)).collect();
    let domain = q35("turing", "", "", &devices(&card.concat()));
    let names = ["0000:2f:00.0", "0000:2f:00.1", "0000:2f:00.2", "0000:2f:00.3"];
    let unknown = notes(&plan(&domain, &["--model", "intel"]), "iommu-group-unknown");
    assert!(unknown.len() == 1 && names.iter().all(|name| unknown.concat().contains(name)), "{unknown:?}");

    let groups: Vec<_> = names.iter().map(|name| format!("\"{name}\": 31")).collect();
    let facts = format!("{{\"libvirt\": \"11.3.0\", \"aw_bits\": 48, \"iommu_groups\": {{{}}}}}", groups.join(", "));
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("four-functions.json");
    std::fs::write(&file, facts).unwrap();
    let refused = plan(&domain, &["--model", "intel", "--host", file.to_str().unwrap()]);
    let split = notes(&refused, "iommu-group-split");
    assert!(split.len() == 1 && names.iter().all(|name| split.concat().contains(name)), "{refused}");
}

#[test]
fn the_other_function_of_a_group_is_mentioned() {
    let domain =
        q35("companion", "<v:viommu xmlns:v='urn:libvirt-viommu:1' model='auto'/>", "", &devices(&hostdev(1, 0)));
    let companions = notes(&plan(&domain, &["--host", "examples/hosts/workstation.json"]), "group-companions");
    assert!(companions.len() == 1 && companions.concat().contains("0000:01:00.1"), "{companions:?}");
}

#[test]
fn a_network_may_give_the_guest_a_function() {
    let request = "<v:viommu xmlns:v='urn:libvirt-viommu:1' model='intel'/>";
    let interface = "<interface type='network'><source network='vf-pool'/></interface>";
    let planned = plan(&q35("pool", request, "", &devices(&interface.repeat(2))), &[]);
    assert_eq!(text(&planned, "/iommu/driver/caching_mode"), "on");
    assert_eq!(notes(&planned, "network-pool").len(), 1);
    assert_eq!(planned.pointer("/memlock/required_bytes"), Some(&Value::Null));

    // The XML that libvirt gives the hook at `start begin`: each interface with its function, and apply's additions.
    let given = |function: u8| {
        format!(
            "<interface type='hostdev'><source><address type='pci' domain='0' bus='0x3b' slot='2' function='{function}'/></source>\
             </interface>"
        )
    };
    let vfs = given(0) + &given(1);
    let iommu = "<iommu model='intel'><driver intremap='on' caching_mode='on' eim='on' aw_bits='48'/></iommu>";
    let started = q35("pool", request, "<ioapic driver='qemu'/>", &devices(&(vfs + iommu)));
    let planned = plan(&started, &[]);
    assert_eq!(planned.pointer("/changes"), Some(&Value::Array(Vec::new())));
    assert_eq!(number(&planned, "/memlock/required_bytes"), Some(17 * GIB));
}

#[test]
fn a_viommu_in_an_encrypted_guest_gives_a_note() {
    for kind in ["sev", "sev-snp"] {
        let security = format!("<launchSecurity type='{kind}'><policy>0x3</policy></launchSecurity>");
        let planned = plan(&q35("encrypted", "", "", &(devices(&hostdev(0x18, 0)) + &security)), &["--model", "auto"]);
        assert_eq!(notes(&planned, "confidential-guest").len(), 1, "{kind}: {planned}");
        assert!(!planned.to_string().contains("nothing in the guest speaks against it"), "{kind}");
    }
}

#[test]
fn the_limit_includes_functions_that_nova_plugs_in_after_a_resume() {
    let specs = "<n:extraSpec name='hw:viommu_model'>intel</n:extraSpec>\
                 <n:extraSpec name='pci_passthrough:alias'>gpu:2,nic:1</n:extraSpec>";
    let nova = format!(
        "<n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:flavor><n:extraSpecs>{specs}</n:extraSpecs></n:flavor>\
         </n:instance>"
    );
    let iommu = "<iommu model='intel'><driver intremap='on' caching_mode='on' eim='on' aw_bits='48'/></iommu>";
    let resumed =
        |hostdevs: &str| q35("instance-1", &nova, "<ioapic driver='qemu'/>", &devices(&(iommu.to_owned() + hostdevs)));
    let all: Vec<_> = (1..=3).map(|bus| hostdev(bus, 0)).collect();
    for hostdevs in [String::new(), hostdev(1, 0), all.concat()] {
        let planned = plan(&resumed(&hostdevs), &["--libvirt-version", "8.0.0", "--qemu-version", "6.2.0"]);
        assert_eq!(number(&planned, "/memlock/required_bytes"), Some(25 * GIB), "{hostdevs}");
        assert_eq!(planned.pointer("/memlock/raise"), Some(&Value::Bool(true)));
    }
}
