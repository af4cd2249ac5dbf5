//! A fault that hides a request or the whole document from the hook: the hook refuses a guest that may have a request.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use viommu::state::GuestState;
use viommu::sys::process::boot_clock;

use super::program::{Ran, VIOMMU, feed, run};
use super::{CONFIG, MIGRATE, NAME, OTHERS, PREPARE, RELEASE, START, STARTED, STOPPED, UUID, assert_event};
use super::{end, guests, hook, sandbox};

const STORED: &str = "/etc/libvirt/qemu/dpdk-gateway.xml";

/// The hook with a stdin that is not a pipe.
fn hook_from(stdin: &str, event: [&str; 3]) -> Ran {
    let script = format!("exec \"$0\" \"$@\" {stdin}");
    run("sh", &[&["-c", &script, sandbox::hook().to_str().unwrap(), NAME][..], &event].concat(), b"")
}

#[test]
fn without_a_document_only_a_guest_that_is_stored_without_a_request_starts() {
    if !sandbox::inside("missing::without_a_document_only_a_guest_that_is_stored_without_a_request_starts") {
        return;
    }
    let guests = guests();
    let refused = |what: &str| {
        for event in [PREPARE, START, MIGRATE] {
            for stdin in ["</dev/null", "</", "<&-"] {
                assert_event(&format!("{what} {event:?} {stdin}"), &hook_from(stdin, event), Some("xml-malformed"));
            }
            assert_event(what, &hook(event, "\n\n"), Some("xml-malformed"));
        }
        for event in [STARTED, STOPPED, RELEASE].into_iter().chain(OTHERS) {
            assert_event(&format!("{what} {event:?}"), &hook_from("</dev/null", event), None);
        }
    };
    refused("not stored");
    fs::create_dir_all("/etc/libvirt/qemu").unwrap();
    let store = |text: &str| {
        let _ = fs::remove_file(STORED);
        fs::write(STORED, text).unwrap();
    };
    for (what, text) in [
        ("with a request", guests.requesting.clone()),
        ("the wrapper", guests.wrapper.clone()),
        ("another guest's", guests.plain.replace("<name>", "<name>x")),
        ("broken", guests.broken_plain.clone()),
        ("empty", String::new()),
    ] {
        store(&text);
        refused(what);
    }
    store(&guests.plain);
    fs::set_permissions(STORED, fs::Permissions::from_mode(0o666)).unwrap();
    refused("others may write");
    store(&guests.plain);
    fs::rename(STORED, "/etc/libvirt/qemu/other.xml").unwrap();
    symlink("other.xml", STORED).unwrap();
    refused("a link");
    fs::remove_file(STORED).unwrap();
    assert!(Command::new("mkfifo").arg(STORED).status().unwrap().success());
    refused("a FIFO");

    store(&guests.plain);
    let passes = |event: [&str; 3]| {
        let ran = run(VIOMMU, &[&["hook", "--dry-run", NAME][..], &event].concat(), b"");
        assert!(ran.status == 0 && ran.stdout.contains("would log: error[xml-malformed]: no domain XML"), "{ran:?}");
        assert_event("stored without a request", &hook_from("</dev/null", event), None);
    };
    passes(PREPARE);
    passes(MIGRATE);
    // The state of an earlier start is gone, too.
    fs::create_dir_all("/run/viommu").unwrap();
    let state = format!("/run/viommu/{UUID}.json");
    fs::write(&state, "{}").unwrap();
    passes(START);
    assert!(!fs::exists(&state).unwrap());
    // The wrapper of the host route needs a marker that the hook has run.
    store(&guests.plain.replace("/usr/bin/qemu-system", "/usr/lib/libvirt-host-route/qemu-system"));
    passes(START);
    assert!(fs::read_to_string(&state).unwrap().contains(UUID));
    fs::create_dir_all("/var/lib/viommu/8d").unwrap();
    fs::write(format!("/var/lib/viommu/8d/{UUID}.json"), "{}").unwrap();
    assert_event("a record of an earlier run", &hook_from("</dev/null", START), Some("xml-malformed"));
    store(&guests.plain);
    passes(START);
    fs::set_permissions("/etc/libvirt/qemu", fs::Permissions::from_mode(0o777)).unwrap();
    refused("a directory of all users");
    fs::set_permissions("/etc/libvirt/qemu", fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(CONFIG, "[[domain]]\nname = 'dpdk-*'\nmodel = 'intel'").unwrap();
    refused("a rule of the host");
    fs::write(CONFIG, "broken").unwrap();
    passes(PREPARE);
}

/// A script has read a part of the document, or passes only a part on.
#[test]
fn a_part_of_a_document_is_a_missing_document() {
    if !sandbox::inside("missing::a_part_of_a_document_is_a_missing_document") {
        return;
    }
    let guests = guests();
    let nova = "<nova:extraSpec xmlns:nova='urn:nova' name='hw:viommu_model'>intel</nova:extraSpec>";
    for (what, xml) in [("plain", guests.plain.clone()), ("Nova", guests.plain.replace("</metadata>", nova))] {
        let behind = xml.find("<vcpu").unwrap();
        for (what, part) in
            [("start", &xml[..behind]), ("end", &xml[behind..]), ("line", &xml[xml.find('\n').unwrap()..])]
                .map(|(part, text)| (format!("{what}, only the {part}"), text))
        {
            for event in [PREPARE, START, MIGRATE] {
                let ran = hook(event, part);
                assert_event(&what, &ran, Some("xml-malformed"));
                assert!(ran.stderr.contains("no domain XML on stdin (a part of it is missing)"), "{ran:?}");
            }
            for event in [STARTED, STOPPED, RELEASE].into_iter().chain(OTHERS) {
                assert_event(&what, &hook(event, part), None);
            }
        }
        // Files of libvirt begin with a comment, and a file can have an XML declaration.
        for before in ["", "\n", "<?xml version='1.0'?>\n", "<!-- a -->\n", "\u{feff}"] {
            assert_event(before, &hook(START, format!("{before}{}\n\n", guests.plain)), None);
        }
        for other in
            [guests.plain.replace("</domain>", "</domain\n>\n<!-- a -->"), "<domain/>".into(), "<qemuCaps/>".into()]
        {
            assert_event(&other, &hook(PREPARE, other.as_str()), None);
        }
    }
}

/// libvirt keeps the capabilities of emulators in memory, so guests start without its cache on disk.
#[test]
fn unknown_versions_change_no_model() {
    if !sandbox::inside("missing::unknown_versions_change_no_model") {
        return;
    }
    let guests = guests();
    // With VFIO devices, virtio needs QEMU 9.0.
    let cache = "/var/cache/libvirt/qemu/capabilities/0123.xml";
    fs::write(cache, fs::read_to_string(cache).unwrap().replace("7002022", "9000000")).unwrap();
    let auto = guests.wrapper.replace("model='virtio'", "model='auto' virtio-iommu-driver='yes'");
    let dry_run = |xml: &str| run(VIOMMU, &["hook", "--dry-run", NAME, "start", "begin"], xml.as_bytes()).stdout;
    let becomes = |xml: &str, device: &str, warning: Option<&str>| {
        let printed = dry_run(xml);
        assert!(printed.contains(&format!("\"devices\":[\"{device},")), "{printed}");
        let logged = "would log: warning[host-fact-assumed]: the version of libvirt and of QEMU is unknown";
        assert_eq!(printed.contains(logged), warning.is_some(), "{printed}");
        assert!(warning.is_none_or(|words| printed.contains(words)), "{printed}");
    };
    let runs = |xml: &str, device: &str| {
        assert_event("start", &hook(START, xml), None);
        let mut qemu = sandbox::qemu(NAME, &["-uuid", UUID, "-device", device]);
        assert_event("started", &hook(STARTED, xml), None);
        drop(qemu.stdin.take());
        qemu.wait().unwrap();
        assert_event("release", &hook(RELEASE, xml), None);
    };
    becomes(&auto, "virtio-iommu", None);
    runs(&auto, "virtio-iommu");
    fs::rename("/var/cache/libvirt", "/var/cache/gone").unwrap();
    becomes(&auto, "virtio-iommu", Some("auto keeps virtio, with which the guest ran"));
    let other_request = auto.replace("model='auto'", "model='auto' hotplug='true'");
    let other_devices = auto.replace("bus='0x3b'", "bus='0x3c'");
    let other_machine = auto.replace("machine='q35'", "machine='pc-q35-7.2'");
    for other in [other_request, other_devices, other_machine] {
        assert_ne!(other, auto);
        becomes(&other, "intel-iommu", Some("less favourable\n"));
    }
    // The record also holds after the end of that start.
    runs(&auto, "virtio-iommu");
    becomes(&auto, "virtio-iommu", Some("auto keeps virtio"));
    fs::rename("/var/cache/gone", "/var/cache/libvirt").unwrap();
    becomes(&auto, "virtio-iommu", None);
}

#[test]
fn documents_that_may_hide_a_request_are_refused() {
    if !sandbox::inside("missing::documents_that_may_hide_a_request_are_refused") {
        return;
    }
    let guests = guests();
    let hidden = |key: &str| {
        let metadata = format!(
            "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:flavor name='f'>
               <nova:extraSpecs><nova:extraSpec name='{key}'>intel</nova:extraSpec></nova:extraSpecs></nova:flavor></nova:instance>"
        );
        guests.plain.replace("vIOMMU", "").replace("<metadata>", &metadata)
    };
    let entity = hidden("hw:v&x;_model");
    assert!(!entity.contains("mmu"), "the refusal must not depend on a word");
    let declared = format!("<!DOCTYPE domain [<!ENTITY x 'iommu'>]>\n{entity}");
    let utf_16: Vec<u8> = hidden("hw:viommu_model").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf_7 = format!("<?xml version='1.0' encoding='UTF-7'?>\n{}", hidden("hw:v+AGk-o+AG0AbQB1-_model"));
    let padded = |length: usize| {
        let long = format!("<description>{}</description>\n  <metadata>", "a".repeat(length));
        guests.requesting.replacen("<metadata>", &long, 1)
    };
    let before_10_mib = padded(5 << 20);
    for event in [PREPARE, START, MIGRATE] {
        assert_event("an entity", &hook(event, &entity), Some("xml-malformed"));
        assert_event("a declared entity", &hook(event, &declared), Some("xml-doctype"));
        assert_event("UTF-16", &hook(event, &utf_16), Some("xml-malformed"));
        assert_event("UTF-7", &hook(event, &utf_7), Some("xml-malformed"));
        assert_event("behind 10 MiB", &hook(event, padded(10 << 20)), Some("xml-too-large"));
        let found = (event != MIGRATE).then_some("wrapper-missing");
        assert_event("within 10 MiB", &hook(event, &before_10_mib), found);
        assert_event("a reference in a text", &hook(event, guests.plain.replace("<name>", "<!--&x;--><name>")), None);
    }
    for event in [STARTED, STOPPED, RELEASE].into_iter().chain(OTHERS) {
        for xml in [entity.as_bytes(), declared.as_bytes(), &utf_16, padded(10 << 20).as_bytes()] {
            let mut command = Command::new(sandbox::hook());
            assert_event("a running guest", &feed(command.arg(NAME).args(event), xml), None);
        }
    }
}

/// A missing attribute of <iommu> that is not essential does not stop the guest.
#[test]
fn missing_attributes_of_an_iommu_are_logged() {
    if !sandbox::inside("missing::missing_attributes_of_an_iommu_are_logged") {
        return;
    }
    let guests = guests();
    let ioapic = guests.native.find("<ioapic driver='qemu'/>").unwrap();
    let mut incomplete = guests.native.clone();
    incomplete.replace_range(ioapic..ioapic + "<ioapic driver='qemu'/>".len(), "");
    let call = |xml: &str| run(VIOMMU, &["hook", "--dry-run", NAME, "start", "begin", "-"], xml.as_bytes());
    let log = "would log: warning[iommu-incomplete]: ";
    let ran = call(&incomplete);
    assert!(ran.status == 0 && ran.stdout.contains(log), "{ran:?}");
    assert!(!call(&guests.native).stdout.contains(log));
}

/// `started` distinguishes a boot from a restore by the command lines with the guest's UUID, and any process can have
/// such a command line.
#[test]
fn a_forged_command_line_prevents_a_record_and_changes_none() {
    // `started` sees the processes of other tests.
    const OWN: &str = "8d6f2c4e-3b0a-4f7e-9a51-000000000001";
    if !sandbox::inside("missing::a_forged_command_line_prevents_a_record_and_changes_none") {
        return;
    }
    let auto = guests().wrapper.replace("model='virtio'", "model='auto'").replace(UUID, OWN);
    let none = auto.replace("model='auto'", "model='none'");
    let (booted, came_in) = (["-uuid", OWN, "-device", "intel-iommu"], ["-uuid", OWN, "-incoming", "defer"]);
    // Number of devices that a restored guest gets according to the record.
    let run = |xml: &str, processes: &[&[&str]]| {
        assert_event("start", &hook(START, xml), None);
        let processes: Vec<_> = processes.iter().map(|words| sandbox::stand_in(words)).collect();
        assert_event("started", &hook(STARTED, xml), None);
        processes.into_iter().for_each(end);
        assert_event("saved", &hook(["release", "end", "saved"], xml), None);
        assert_event("restored", &hook(START, &auto), None);
        let state = fs::read_to_string(format!("/run/viommu/{OWN}.json")).unwrap();
        let state = GuestState::parse(&state, OWN.parse().unwrap(), boot_clock().as_secs()).unwrap();
        state.incoming.map(|edits| edits.devices.len())
    };
    for (qemu, honest) in [(&booted, Some(1)), (&came_in, Some(0))] {
        // A record without a vIOMMU makes a boot differ from a restore.
        assert_eq!(run(&none, &[&["-uuid", OWN]]), Some(0));
        assert_eq!(run(&auto, &[qemu]), honest, "{qemu:?}");
        assert_eq!(run(&none, &[&["-uuid", OWN]]), Some(0));
        assert_eq!(run(&auto, &[&booted, &came_in]), None, "QEMU's process is unknown");
    }
}
