//! The hook's decisions about guests of the host route and guests without a request.

use std::fs;

use viommu::config::Config;
use viommu::hook::{Effect, Event, Outcome, decide};
use viommu::host::Host;
use viommu::note::Code;
use viommu::qemu::Edits;
use viommu::state::GuestState;
use viommu::sys::process::boot_clock;

use crate::{CONFIG, MIGRATE, START, STARTED, assert_event, end, hook, sandbox};

/// A guest without state or record on this machine.
const UUID: &str = "8d6f2c4e-3b0a-4f7e-9a51-000000000009";
const HOST_ROUTE: &str = "/usr/lib/libvirt-host-route/qemu-system-x86_64";
const HARD_LIMIT: &str = "<memtune><hard_limit unit='KiB'>9000000</hard_limit></memtune>";

/// A domain in libvirt's own layout.
fn domain(emulator: &str, more: &str) -> String {
    format!(
        "<domain type='kvm'>\n  <name>g</name>\n  <uuid>{UUID}</uuid>\n  <memory unit='GiB'>1</memory>\n  <os>\n    \
         <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>\n  </os>\n  <features>\n    <acpi/>\n  </features>\n  {more}\n  \
         <devices>\n    <emulator>{emulator}</emulator>\n  </devices>\n</domain>\n"
    )
}

fn request(model: &str) -> String {
    format!("<metadata><viommu:viommu xmlns:viommu='urn:libvirt-viommu:1' model='{model}'/></metadata>")
}

fn decided(event: Event, xml: &str) -> Outcome {
    decide(event, "", xml.as_bytes(), Ok(Config::default()), &|_| Host::default())
}

#[test]
fn a_guest_of_the_host_route_without_a_request_gets_an_empty_state() {
    for more in ["", HARD_LIMIT] {
        let xml = domain(HOST_ROUTE, more);
        let outcome = decided(Event::Start, &xml);
        let [Effect::WriteState(state)] = outcome.effects.as_slice() else { panic!("{more}: {outcome:?}") };
        assert_eq!(state.emulator, "/usr/bin/qemu-system-x86_64");
        assert_eq!((&state.boot, &state.incoming, state.memlock), (&Edits::default(), &Some(Edits::default()), None));
        assert!(outcome.asks && outcome.refusal.is_none(), "without its state the wrapper refuses the guest: {more}");
        for event in [Event::Prepare, Event::Started, Event::Other] {
            let outcome = decided(event, &xml);
            assert!(outcome.effects.is_empty() && !outcome.asks, "{event:?} {more}: {outcome:?}");
        }
    }
}

/// Only the request of a guest refuses its start, so a guest whose XML cannot be read starts.
#[test]
fn a_guest_of_the_host_route_with_unreadable_xml_gets_an_empty_state() {
    let outcome = decided(Event::Start, &domain(HOST_ROUTE, HARD_LIMIT).replace("</os>", "</os><<"));
    let [Effect::WriteState(state)] = outcome.effects.as_slice() else { panic!("{outcome:?}") };
    assert!(state.boot.is_empty() && outcome.refusal.is_none() && outcome.asks, "{outcome:?}");
}

#[test]
fn a_guest_of_the_host_route_with_a_request_gets_the_state_of_its_request() {
    let outcome = decided(Event::Start, &domain(HOST_ROUTE, &request("intel")));
    let [Effect::WriteState(state)] = outcome.effects.as_slice() else { panic!("{outcome:?}") };
    assert!(state.boot.adds_iommu(), "{outcome:?}");
    // An SMMUv3 is for the machine type virt.
    let outcome = decided(Event::Start, &domain(HOST_ROUTE, &request("smmuv3")));
    assert!(outcome.refusal.is_some() && outcome.effects.is_empty(), "{outcome:?}");
}

const WRAPPER: &str = "/usr/bin/viommu-qemu-system-x86_64";

#[test]
fn the_wrapper_needs_the_state_of_a_guest_without_a_request() {
    let outcome = decided(Event::Start, &domain(WRAPPER, ""));
    let [Effect::WriteState(state)] = outcome.effects.as_slice() else { panic!("{outcome:?}") };
    assert!(state.boot.is_empty() && outcome.asks, "{outcome:?}");
}

#[test]
fn an_arriving_guest_has_no_record_unless_it_runs_here() {
    if !sandbox::inside("decisions::an_arriving_guest_has_no_record_unless_it_runs_here") {
        return;
    }
    let xml = domain(WRAPPER, &request("virtio"));
    assert_eq!(decided(Event::Migrate, &xml).effects, [Effect::Forget(UUID.parse().unwrap())]);
    fs::create_dir_all("/run/viommu").unwrap();
    fs::write(format!("/run/viommu/{UUID}.json"), "{}").unwrap();
    assert_eq!(decided(Event::Migrate, &xml).effects, []);
}

/// libvirt gives every domain a UUID.
#[test]
fn without_a_uuid_nothing_can_be_prepared_for_a_guest() {
    let without = |xml: String| xml.replace(&format!("  <uuid>{UUID}</uuid>\n"), "");
    let outcome = decided(Event::Start, &without(domain(WRAPPER, &request("intel"))));
    assert_eq!(outcome.refusal.map(|note| note.code), Some(Code::StateUnwritable));
    let outcome = decided(Event::Start, &without(domain("/usr/bin/qemu-system-x86_64", HARD_LIMIT)));
    assert!(outcome.refusal.is_none() && outcome.effects.is_empty(), "{outcome:?}");
}

#[test]
fn the_start_of_a_plain_guest_removes_an_old_state() {
    for more in ["", HARD_LIMIT] {
        let xml = domain("/usr/bin/qemu-system-x86_64", more);
        let outcome = decided(Event::Start, &xml);
        assert_eq!(outcome.effects, [Effect::RemoveState(UUID.parse().unwrap())], "{more}");
        assert!(!outcome.asks, "{more}");
        for event in [Event::Prepare, Event::Started, Event::Migrate, Event::Other] {
            assert!(decided(event, &xml).effects.is_empty(), "{event:?} {more}");
        }
    }
}

/// The wrapper refuses such a guest; another program with the wrapper's name may start it.
#[test]
fn nothing_is_recorded_of_a_guest_with_two_uuids() {
    // `started` sees the processes of other tests.
    const OWN: &str = "8d6f2c4e-3b0a-4f7e-9a51-000000000005";
    if !sandbox::inside("decisions::nothing_is_recorded_of_a_guest_with_two_uuids") {
        return;
    }
    let xml = domain("/usr/bin/viommu-qemu-system-x86_64", &request("intel")).replace(UUID, OWN);
    let arguments = format!("<q:arg value='-uuid'/><q:arg value='{UUID}'/>");
    let line =
        format!("<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>{arguments}</q:commandline>");
    for (xml, recorded) in [(xml.clone(), true), (xml.replace("</domain>", &format!("{line}</domain>")), false)] {
        assert_event("start", &hook(START, &xml), None);
        assert_event("started", &hook(STARTED, &xml), None);
        assert_eq!(fs::exists(format!("/var/lib/viommu/8d/{OWN}.json")).unwrap(), recorded, "{xml}");
    }
}

/// libvirt writes an umlaut in an attribute of metadata as a reference. The metadata of other programs exceed viommu's limits
/// here.
#[test]
fn what_other_programs_write_into_the_metadata_stops_no_guest() {
    let many = |text: &str| (0..65).map(|number| text.replace('#', &number.to_string())).collect::<Vec<_>>().concat();
    let (attributes, namespaces) = (many(" a#='1'"), many("<p:c xmlns:p='u#'/>"));
    let uri = "u".repeat(300);
    for reference in ["", "&#xE4;", "&#228;", "&#x1F600;", "&#10;"] {
        for other in [
            format!("<x:a xmlns:x='u' n='{reference}'{attributes}/>"),
            format!("<x:a xmlns:x='u' n='{reference}'>{namespaces}</x:a>"),
            format!("<x:a xmlns:x='{uri}' n='{reference}'/>"),
            format!("<x:a xmlns:x='u' n='{reference}'><x:b:c/></x:a>"),
        ] {
            let xml = domain("/usr/bin/qemu-system-x86_64", &format!("<metadata>{other}</metadata>"));
            for event in [Event::Prepare, Event::Start, Event::Started, Event::Migrate] {
                let outcome = decided(event, &xml);
                assert!(outcome.refusal.is_none() && outcome.log.is_empty(), "{event:?} {other}: {outcome:?}");
            }
        }
    }
}

/// The numbers of devices that a guest gets at a boot and at a restore, by the state that `start` writes.
fn devices(xml: &str, uuid: &str) -> (usize, Option<usize>) {
    assert_event("start", &hook(START, xml), None);
    let text = fs::read_to_string(format!("/run/viommu/{uuid}.json")).unwrap();
    let state = GuestState::parse(&text, uuid.parse().unwrap(), boot_clock().as_secs()).unwrap();
    (state.boot.devices.len(), state.incoming.map(|edits| edits.devices.len()))
}

/// The request of a guest of the host route can be a rule of the configuration, which is not saved with the guest.
#[test]
fn a_restore_on_the_host_route_gives_the_recorded_viommu() {
    // `started` sees the processes of other tests.
    const OWN: &str = "8d6f2c4e-3b0a-4f7e-9a51-000000000004";
    if !sandbox::inside("decisions::a_restore_on_the_host_route_gives_the_recorded_viommu") {
        return;
    }
    let xml = domain(HOST_ROUTE, "").replace(UUID, OWN);
    let rule = |guest: &str| fs::write(CONFIG, format!("[[domain]]\nname = '{guest}'\nmodel = 'intel'\n")).unwrap();
    let runs = |words: &[&str]| {
        let qemu = sandbox::stand_in(&[&["-uuid", OWN], words].concat());
        assert_event("started", &hook(STARTED, &xml), None);
        end(qemu);
        assert_event("saved", &hook(["release", "end", "saved"], &xml), None);
    };
    rule("g");
    assert_eq!(devices(&xml, OWN), (1, Some(1)));
    runs(&["-device", "intel-iommu"]);
    fs::remove_file(CONFIG).unwrap();
    for _ in 0..2 {
        assert_eq!(devices(&xml, OWN), (0, Some(1)), "the rule is gone, and the guest is restored");
        runs(&["-device", "intel-iommu", "-incoming", "defer"]);
    }
    assert_eq!(devices(&xml, OWN), (0, Some(1)));
    runs(&[]);
    assert_eq!(devices(&xml, OWN), (0, Some(0)), "the guest has booted without the rule");
    rule("other");
    assert_eq!(devices(&xml, OWN), (0, Some(0)), "a rule for another guest");
    rule("g");
    assert_eq!(devices(&xml, OWN), (1, Some(0)), "the rule is back, and the guest is restored");
    runs(&["-device", "intel-iommu"]);
    // The guest runs elsewhere for a time, without a rule.
    fs::remove_file(CONFIG).unwrap();
    assert_event("migrate", &hook(MIGRATE, &xml), None);
    assert_eq!(devices(&xml, OWN), (0, Some(0)), "it comes from another host");
}
