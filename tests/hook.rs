//! libvirt's hook, event by event, as the binary that libvirt runs: each event's permitted effects, and no other
//! effects.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program that runs the hook in a sandbox"
)]

#[path = "hook/decisions.rs"]
mod decisions;
#[path = "hook/effects.rs"]
mod effects;
#[path = "support/host.rs"]
mod host;
#[path = "hook/missing.rs"]
mod missing;
#[path = "support/program.rs"]
mod program;
#[path = "support/sandbox.rs"]
mod sandbox;
#[path = "hook/wrapper.rs"]
mod wrapper;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};

use program::{Ran, VIOMMU, feed, run};

const CONFIG: &str = "/etc/viommu.toml";
const NAME: &str = "dpdk-gateway";
const UUID: &str = "8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93";

const PREPARE: [&str; 3] = ["prepare", "begin", "-"];
const START: [&str; 3] = ["start", "begin", "-"];
const STARTED: [&str; 3] = ["started", "begin", "-"];
const STOPPED: [&str; 3] = ["stopped", "end", "-"];
const RELEASE: [&str; 3] = ["release", "end", "destroyed"];
const MIGRATE: [&str; 3] = ["migrate", "begin", "-"];

/// Events that must always succeed: other events of libvirt, events that libvirt does not call, and possible future
/// events.
const OTHERS: [[&str; 3]; 8] = [
    ["restore", "begin", "-"],
    ["reconnect", "begin", "-"],
    ["attach", "begin", "-"],
    ["prepare", "end", "-"],
    ["start", "end", "-"],
    ["release", "begin", "-"],
    ["backup", "begin", "-"],
    ["-", "-", "-"],
];

/// The hook, as libvirt calls it.
fn hook(event: [&str; 3], xml: impl AsRef<[u8]>) -> Ran {
    let [operation, sub_operation, extra] = event;
    let running =
        std::str::from_utf8(xml.as_ref()).ok().filter(|_| operation.starts_with("start")).map(sandbox::running);
    let xml = running.as_ref().map_or(xml.as_ref(), String::as_bytes);
    run(sandbox::hook(), &[NAME, operation, sub_operation, extra], xml)
}

/// Guests of the example: it has a request, no vIOMMU, and QEMU as its emulator.
struct Guests {
    requesting: String,
    plain: String,
    native: String,
    wrapper: String,
    broken: String,
    broken_plain: String,
}

fn guests() -> Guests {
    sandbox::hook();
    host::write(9_000_000);
    let requesting = fs::read_to_string("examples/domains/dpdk-gateway.xml").unwrap();
    let change = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let plain = change(&requesting, "<viommu:viommu xmlns:viommu='urn:libvirt-viommu:1' model='auto'/>", "");
    let native = run(VIOMMU, &["rewrite", "--model", "intel"], requesting.as_bytes()).stdout;
    assert!(native.contains("<iommu model='intel'>"), "{native}");
    // One device only, so that libvirt's own limit is sufficient, and a model that every host supports.
    let second = requesting.rfind("    <hostdev").unwrap()..requesting.rfind("    <serial").unwrap();
    let mut wrapper = requesting.clone();
    wrapper.replace_range(second, "");
    let wrapper = change(&wrapper, "/usr/bin/qemu-system", "/usr/bin/viommu-qemu-system");
    let wrapper = change(&wrapper, "model='auto'", "model='virtio'");
    // Whole by its start and its end, and not well-formed.
    let broken = |text: &str| change(text, "<features>", "<<features>");
    Guests { broken: broken(&requesting), broken_plain: broken(&plain), requesting, plain, native, wrapper }
}

/// Asserts the exit status and the streams: a refusal is one line with its code; otherwise there is no output.
fn assert_event(what: &str, ran: &Ran, refusal: Option<&str>) {
    match refusal {
        None => assert!(ran.status == 0 && ran.stderr.is_empty(), "{what}: {ran:?}"),
        Some(code) => {
            assert_eq!(ran.status, 1, "{what}: {ran:?}");
            assert!(ran.stderr.starts_with(&format!("viommu: error[{code}]: ")), "{what}: {ran:?}");
            assert!(ran.stderr.ends_with('\n') && ran.stderr.lines().count() == 1, "{what}: {ran:?}");
        }
    }
}

#[test]
fn every_event_with_every_guest() {
    if !sandbox::inside("every_event_with_every_guest") {
        return;
    }
    let guests = guests();
    let (missing, malformed) = (Some("wrapper-missing"), Some("xml-malformed"));
    // no request, native, a request without a vIOMMU, wrapper, broken with a sign of a request, broken without one.
    let table = [
        (PREPARE, [None, None, missing, None, malformed, None]),
        (START, [None, None, missing, None, malformed, None]),
        (STARTED, [None; 6]),
        (MIGRATE, [None, None, None, None, malformed, None]),
        (STOPPED, [None; 6]),
        (RELEASE, [None; 6]),
    ];
    let xmls =
        [&guests.plain, &guests.native, &guests.requesting, &guests.wrapper, &guests.broken, &guests.broken_plain];
    for (event, refusals) in table.into_iter().chain(OTHERS.map(|event| (event, [None; 6]))) {
        for (xml, refusal) in xmls.iter().zip(refusals) {
            let ran = hook(event, xml);
            assert_event(&format!("{event:?} with\n{xml}"), &ran, refusal);
            // libvirt reads the output at `migrate` and `restore`, and no event may change the XML there.
            let rewritten = event == PREPARE && [&guests.requesting, &guests.wrapper].contains(xml);
            assert_eq!(ran.stdout.contains("<iommu model="), rewritten, "{event:?}: {ran:?}");
            assert_eq!(ran.stdout.is_empty(), !rewritten, "{event:?}: {ran:?}");
        }
    }
    // The other directory of hooks, in which hooks have their own names.
    fs::create_dir("/run/test/qemu.d").unwrap();
    symlink(VIOMMU, "/run/test/qemu.d/50-viommu").unwrap();
    let ran = run("/run/test/qemu.d/50-viommu", &[&[NAME][..], &PREPARE].concat(), guests.requesting.as_bytes());
    assert_event("qemu.d", &ran, missing);
}

#[test]
fn a_broken_configuration_refuses_only_guests_with_a_request() {
    if !sandbox::inside("a_broken_configuration_refuses_only_guests_with_a_request") {
        return;
    }
    let guests = guests();
    let write = |text: &str| fs::write(CONFIG, text).unwrap();
    let breakages: [(&str, &dyn Fn()); 9] = [
        ("no TOML", &|| write("no TOML")),
        ("an unknown key", &|| write("modell = 'intel'")),
        ("a wrong value", &|| write("[default]\nmodel = 'Intel'")),
        ("others may write", &|| {
            write("");
            fs::set_permissions(CONFIG, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("owned by another user", &|| {
            write("");
            // A user namespace has no other users.
            chown(CONFIG, Some(65_534), None)
                .or_else(|_| fs::set_permissions(CONFIG, fs::Permissions::from_mode(0o666)))
                .unwrap();
        }),
        ("a directory", &|| fs::create_dir(CONFIG).unwrap()),
        ("a symbolic link", &|| symlink("/etc/other.toml", CONFIG).unwrap()),
        ("a pipe without a writer", &|| {
            assert!(Command::new("mkfifo").arg(CONFIG).status().unwrap().success());
        }),
        ("huge", &|| write(&"# long\n".repeat(1 << 20))),
    ];
    for (what, breakage) in breakages {
        breakage();
        for event in [PREPARE, START, MIGRATE] {
            for xml in [&guests.native, &guests.requesting, &guests.wrapper] {
                assert_event(what, &hook(event, xml), Some("config-invalid"));
            }
            assert_event(what, &hook(event, &guests.plain), None);
            assert_event(what, &hook(event, &guests.broken_plain), None);
        }
        for event in [STARTED, STOPPED, RELEASE].into_iter().chain(OTHERS) {
            assert_event(what, &hook(event, &guests.requesting), None);
        }
        fs::remove_file(CONFIG).or_else(|_| fs::remove_dir(CONFIG)).unwrap();
    }
    for xml in [&guests.native, &guests.plain, &guests.wrapper] {
        assert_event("no configuration", &hook(PREPARE, xml), None);
    }
}

/// An administrator's backup can be a hard link. Where other users may write, a hard link can be one of theirs.
#[test]
fn a_hard_link_is_refused_only_where_others_can_make_one() {
    if !sandbox::inside("a_hard_link_is_refused_only_where_others_can_make_one") {
        return;
    }
    let guests = guests();
    fs::write(CONFIG, "").unwrap();
    fs::hard_link(CONFIG, "/etc/viommu.toml.backup").unwrap();
    let asked = || hook(PREPARE, &guests.wrapper);
    // A user namespace has no root directory of its own root.
    if fs::metadata("/").unwrap().uid() == 0 {
        assert_event("a directory of root's", &asked(), None);
    }
    for mode in [0o777, 0o1777, 0o775] {
        fs::set_permissions("/etc", fs::Permissions::from_mode(mode)).unwrap();
        assert_event("a directory of others", &asked(), Some("config-invalid"));
    }
    fs::remove_file("/etc/viommu.toml.backup").unwrap();
    assert_event("one name", &asked(), None);
}

#[test]
fn a_request_that_cannot_be_understood_is_refused() {
    if !sandbox::inside("a_request_that_cannot_be_understood_is_refused") {
        return;
    }
    let guests = guests();
    let nova = |specs: &str| {
        let metadata = format!(
            "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:flavor name='f'>
               <nova:extraSpecs>{specs}</nova:extraSpecs></nova:flavor></nova:instance>"
        );
        let plain = guests.plain.replace("<hugepages>", "<!--").replace("</hugepages>", "-->");
        plain.replace("<metadata>", &metadata)
    };
    let locked = nova("<nova:extraSpec name='hw:locked_memory'>true</nova:extraSpec>");
    let model = nova("<nova:extraSpec name='hw:viommu_model'>Intel</nova:extraSpec>");
    assert!(!locked.replace("vIOMMU", "").contains("viommu"), "the refusal must not depend on this word");
    for event in [PREPARE, START] {
        assert_event("locked memory", &hook(event, &locked), Some("locked-memory-without-page-size"));
        assert_event("a model", &hook(event, &model), Some("model-unknown"));
    }
    for event in [STARTED, STOPPED, RELEASE].into_iter().chain(OTHERS) {
        assert_event("a running guest", &hook(event, &locked), None);
        assert_event("a running guest", &hook(event, &model), None);
    }
    // A rule of the configuration may apply to a guest with an unreadable XML.
    for (rule, refusal) in [("[[domain]]\nname = 'dpdk-*'\nmodel = 'intel'", Some("xml-malformed")), ("", None)] {
        fs::write(CONFIG, rule).unwrap();
        for event in [PREPARE, START] {
            assert_event(rule, &hook(event, &guests.broken_plain), refusal);
        }
    }
}

/// libxml2, and therefore libvirt, treats a namespace prefix without a declaration as a part of the name.
#[test]
fn an_undeclared_prefix_is_read_as_libvirt_does() {
    if !sandbox::inside("an_undeclared_prefix_is_read_as_libvirt_does") {
        return;
    }
    let guests = guests();
    let with_prefix = |xml: &str| xml.replace("</devices>", "</devices>\n  <a:b><c:d e:f=''/></a:b>");
    for (rule, refusal) in [("other", None), (NAME, Some("wrapper-missing"))] {
        fs::write(CONFIG, format!("[[domain]]\nname = '{rule}'\nmodel = 'intel'")).unwrap();
        for event in [PREPARE, START] {
            assert_event(rule, &hook(event, with_prefix(&guests.plain)), refusal);
            assert_event(rule, &hook(event, with_prefix(&guests.requesting)), Some("wrapper-missing"));
            // Other errors in the same document still count.
            assert_event(rule, &hook(event, with_prefix(&guests.broken_plain)), Some("xml-malformed"));
        }
    }
}

#[test]
fn errors_about_a_running_guest_never_fail_the_hook() {
    if !sandbox::inside("errors_about_a_running_guest_never_fail_the_hook") {
        return;
    }
    let guests = guests();
    fs::write(CONFIG, "broken").unwrap();
    fs::write("/run/viommu", "not a directory").unwrap();
    let huge = vec![b'<'; 11 << 20];
    let garbage: [&[u8]; 6] = [b"", b"\0\xff viommu", b"viommu", b"<viommu", &huge, guests.broken.as_bytes()];
    for event in OTHERS.into_iter().chain([STARTED, STOPPED, RELEASE]) {
        for xml in garbage {
            let ran = hook(event, xml);
            assert_event(&format!("{event:?}"), &ran, None);
            assert!(ran.stdout.is_empty());
        }
    }
    // The hook reads stdin only for events with an action, so a writer that neither writes nor closes the pipe does not
    // block it.
    for event in OTHERS {
        let mut waiting = Command::new("timeout");
        waiting.arg("20").arg(sandbox::hook()).arg(NAME).args(event).stdin(Stdio::piped());
        let mut waiting = waiting.spawn().unwrap();
        let open = waiting.stdin.take();
        assert!(waiting.wait().unwrap().success(), "{event:?}");
        drop(open);
    }
    // libvirt never calls with fewer or more arguments; a name can be any text.
    for arguments in [&[][..], &["a"], &["a", "start"], &["--help", "reconnect", "begin", "-", "x"]] {
        let ran = run(sandbox::hook(), arguments, guests.broken.as_bytes());
        assert!(ran.status == 0 && ran.stdout.is_empty() && ran.stderr.is_empty(), "{arguments:?}: {ran:?}");
    }
    for name in ["-x", "--model", "--", "a b", "ä", ""] {
        for event in OTHERS {
            let ran = run(VIOMMU, &[&["hook", name][..], &event].concat(), b"garbage");
            assert_event(&format!("a script that calls 'viommu hook {name:?} {event:?}'"), &ran, None);
        }
    }
}

/// A script passes libvirt's arguments on, and a tenant chooses the name.
#[test]
fn a_name_that_is_an_option_is_a_name() {
    if !sandbox::inside("a_name_that_is_an_option_is_a_name") {
        return;
    }
    let guests = guests();
    fs::create_dir_all("/run/test/hooks").unwrap();
    for path in ["/run/test/hooks/viommu", "/run/test/hooks/50-viommu", "/run/test/v"] {
        symlink(VIOMMU, path).unwrap();
    }
    let programs = [(VIOMMU, &["hook"][..]), ("/run/test/hooks/viommu", &[]), ("/run/test/hooks/50-viommu", &[])];
    for (program, verb) in programs.into_iter().chain([("/run/test/v", &[][..]), ("/run/test/v", &["hook"])]) {
        for name in ["g", "--dry-run", "--sysfs", "-h", "--help", "--version", "--", "-", "hook", "plan", "doctor", ""]
        {
            let call = |words: &[&str], xml: &str| run(program, &[verb, &[name], words].concat(), xml.as_bytes());
            let what = format!("{program} {verb:?} {name:?}");
            let named = |xml: &str| xml.replace("<name>dpdk-gateway</name>", &format!("<name>{name}</name>"));
            assert_event(&what, &call(&["reconnect", "begin", "-"], "garbage"), None);
            assert_event(&what, &call(&PREPARE, &named(&guests.requesting)), Some("wrapper-missing"));
            assert_event(&what, &call(&PREPARE[..2], &named(&guests.requesting)), Some("wrapper-missing"));
            assert_event(&what, &call(&START, &named(&guests.plain)), None);
        }
    }
}

/// A user who leaves the name out wants nothing to happen.
#[test]
fn an_option_without_a_name_has_no_effect() {
    if !sandbox::inside("an_option_without_a_name_has_no_effect") {
        return;
    }
    let guests = guests();
    assert_event("start", &hook(START, &guests.wrapper), None);
    let state = format!("/run/viommu/{UUID}.json");
    let written = fs::metadata(&state).unwrap().modified().unwrap();
    for option in ["--dry-run", "--help", "-h"] {
        let call = |event: &[&str; 3]| run(VIOMMU, &[&["hook", option][..], event].concat(), guests.wrapper.as_bytes());
        for event in [PREPARE, START, MIGRATE] {
            assert_event("another name", &call(&event), Some("xml-malformed"));
        }
        for event in [STARTED, STOPPED, RELEASE] {
            assert_event("another name", &call(&event), None);
        }
        assert_eq!(fs::metadata(&state).unwrap().modified().unwrap(), written);
    }
}

#[test]
fn closed_streams_change_nothing() {
    if !sandbox::inside("closed_streams_change_nothing") {
        return;
    }
    let guests = guests();
    let with = |redirections: &str, event: [&str; 3], xml: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$0\" \"$@\" {redirections}")]).arg(sandbox::hook()).arg(NAME).args(event);
        feed(&mut command, xml.as_bytes()).status
    };
    for redirections in [">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1"] {
        for event in [PREPARE, START] {
            assert_eq!(with(redirections, event, &guests.requesting), 1, "{redirections} {event:?}");
            assert_eq!(with(redirections, event, &guests.native), 0, "{redirections} {event:?}");
            assert_eq!(with(redirections, event, &guests.wrapper), 0, "{redirections} {event:?}");
        }
        for event in [STARTED, STOPPED, RELEASE].into_iter().chain(OTHERS) {
            assert_eq!(with(redirections, event, &guests.requesting), 0, "{redirections} {event:?}");
        }
    }
    for redirections in ["<&-", "<&- >&- 2>&-", "</dev/null"] {
        for event in [STARTED, STOPPED, RELEASE].into_iter().chain(OTHERS) {
            assert_eq!(with(redirections, event, ""), 0, "{redirections} {event:?}");
        }
    }
}

#[test]
fn a_restored_guest_needs_the_same_viommu() {
    if !sandbox::inside("a_restored_guest_needs_the_same_viommu") {
        return;
    }
    let guests = guests();
    let model = |model: &str| guests.wrapper.replace("model='virtio'", model);
    let (auto, narrow) = (model("model='auto'"), model("model='intel' aw-bits='39'"));
    let mismatch = Some("migration-mismatch");
    assert_event("the result of auto on the other host is unknown", &hook(MIGRATE, &auto), mismatch);
    assert_event("the width depends on the host", &hook(MIGRATE, model("model='intel'")), mismatch);
    assert_event("the width is named", &hook(MIGRATE, &narrow), None);
    assert_event("a native guest carries its vIOMMU", &hook(MIGRATE, &guests.native), None);
    // Before the wrapper sees QEMU's command line, the hook cannot distinguish a restored guest from a booting one.
    let comes_back = |xml: &str| {
        assert_event("a start", &hook(START, xml), None);
        incoming_devices().is_some()
    };
    assert!(!comes_back(&auto) && !comes_back(&model("model='intel'")) && comes_back(&narrow));
    // A guest that started here, was saved, and is restored; its record outlives the state.
    assert_event("a start", &hook(START, &auto), None);
    let qemu = sandbox::qemu(NAME, &["-uuid", UUID, "-device", "intel-iommu"]);
    assert_event("it runs", &hook(STARTED, &auto), None);
    assert_event("saved", &hook(["release", "end", "saved"], &auto), None);
    assert!(comes_back(&auto), "recorded");
    let other = model("model='virtio'");
    let dry = ["hook", "--dry-run", NAME, "start", "begin", "-"];
    assert!(
        run(VIOMMU, &dry, other.as_bytes()).stdout.contains("[model-changed]"),
        "another model than the recorded one"
    );
    let narrower = run(VIOMMU, &dry, narrow.as_bytes()).stdout;
    let changed = narrower.lines().find(|line| line.contains("[model-changed]")).unwrap_or_default();
    assert!(
        changed.contains("ran with kernel_irqchip=split intel-iommu,") && changed.contains(",aw-bits=39"),
        "{narrower}"
    );
    assert!(!run(VIOMMU, &dry, auto.as_bytes()).stdout.contains("[model-changed]"), "the same model");
    // libvirt 9.0 gives no reason, so the end may have been a save as well.
    assert_event("no reason", &hook(["release", "end", "-"], &auto), None);
    assert!(comes_back(&auto), "recorded");
    assert_event("this host's record does not describe the other host", &hook(MIGRATE, &auto), mismatch);
    // The saved image remains after a failed restore, and after the restored guest was destroyed.
    for reason in ["failed", "destroyed"] {
        assert_event(reason, &hook(["release", "end", reason], &auto), None);
        assert!(comes_back(&auto), "recorded");
    }
    let other_machine = auto.replace("machine='q35'", "machine='pc-q35-7.2'");
    assert!(!comes_back(&other_machine), "an image of an earlier run");
    assert_event("migrated", &hook(["release", "end", "migrated"], &auto), None);
    assert!(!comes_back(&auto), "forgotten");
    end(qemu);

    // A later start without a request: the saved image of that run has no vIOMMU.
    let without_request = auto.replace("model='auto'", "model='none'");
    for (xml, what) in [(&auto, "with"), (&without_request, "without")] {
        assert_event(what, &hook(START, xml), None);
        let qemu = sandbox::qemu(NAME, &["-uuid", UUID, "-device", "intel-iommu"]);
        assert_event(what, &hook(STARTED, xml), None);
        end(qemu);
        assert_event(what, &hook(["release", "end", "-"], xml), None);
    }
    assert_event("restored", &hook(START, &auto), None);
    assert_eq!(incoming_devices(), Some(0), "the last run had no vIOMMU");
    // The saved image has no vIOMMU, so the restored guest has none, independent of the result for a new start.
    let qemu = sandbox::qemu(NAME, &["-uuid", UUID, "-incoming", "defer"]);
    assert_event("it runs", &hook(STARTED, &auto), None);
    end(qemu);
    assert_event("saved again", &hook(["release", "end", "saved"], &auto), None);
    assert_event("restored again", &hook(START, &auto), None);
    assert_eq!(incoming_devices(), Some(0));
}

/// Number of devices that the wrapper would add to a restored guest.
fn incoming_devices() -> Option<usize> {
    let text = fs::read_to_string(format!("/run/viommu/{UUID}.json")).unwrap();
    let state =
        viommu::state::GuestState::parse(&text, UUID.parse().unwrap(), viommu::sys::process::boot_clock().as_secs())
            .unwrap();
    state.incoming.map(|edits| edits.devices.len())
}

fn end(mut qemu: std::process::Child) {
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
}
