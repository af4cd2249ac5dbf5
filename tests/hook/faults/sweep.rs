//! Every system call of the hook, with every error and with an early end of file: at each event, for guests with a
//! request by each route and for guests without a request.
//!
//! `VIOMMU_FAULTS=all cargo test --test hook sweep -- --nocapture` makes every run; without `VIOMMU_FAULTS` it is every
//! tenth. The calls of the C library and Rust before `main` count separately: no code of viommu runs there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use viommu::state::GuestState;
use viommu::sys::process;

use super::{STATE, traced};
use crate::{CONFIG, Guests, MIGRATE, NAME, PREPARE, RELEASE, START, STARTED, STOPPED, UUID, guests, sandbox};

const ERRORS: [&str; 10] =
    ["EACCES", "EAGAIN", "EINTR", "EINVAL", "EIO", "EMFILE", "ENOENT", "ENOMEM", "ENOSPC", "EPERM"];

const RESTORE: [&str; 3] = ["restore", "begin", "-"];
const RECONNECT: [&str; 3] = ["reconnect", "begin", "-"];
const EVENTS: [[&str; 3]; 8] = [PREPARE, START, STARTED, STOPPED, RELEASE, MIGRATE, RESTORE, RECONNECT];

const JOURNAL: &str = "/run/systemd/journal/socket";
const XML: &str = "/run/test/domain.xml";
const TRACE: &str = "/run/test/trace";

/// The kind of a guest for the hook.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its request cannot be met: every start is refused.
    Refused,
    /// The same, with a request by a rule of the configuration.
    RefusedByRule,
    /// Has a request, and the vIOMMU in its XML.
    Native,
    /// Has a request, and the wrapper adds the vIOMMU.
    Wrapper,
    /// Has no request.
    Plain,
    /// Has no request, and its emulator is a link of the host route, which needs a marker file.
    Marked,
}

struct Guest {
    name: &'static str,
    kind: Kind,
    xml: String,
}

fn cases(guests: &Guests) -> Vec<Guest> {
    let nova = "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:flavor><nova:extraSpecs>
        <nova:extraSpec name='hw:viommu_model'>intel</nova:extraSpec></nova:extraSpecs></nova:flavor></nova:instance>";
    let viommu = "<viommu:viommu xmlns:viommu='urn:libvirt-viommu:1' model='auto'/>";
    let routed = |xml: &str, from: &str| xml.replace(from, "/usr/lib/libvirt-host-route/qemu-system");
    let guest = |name, kind, xml: String| Guest { name, kind, xml };
    vec![
        guest("metadata", Kind::Refused, guests.requesting.clone()),
        guest("nova", Kind::Refused, guests.requesting.replace(viommu, nova)),
        guest("rule", Kind::RefusedByRule, guests.plain.clone()),
        guest("native", Kind::Native, guests.native.clone()),
        guest("wrapper", Kind::Wrapper, guests.wrapper.clone()),
        guest("host route", Kind::Wrapper, routed(&guests.wrapper, "/usr/bin/viommu-qemu-system")),
        guest("plain", Kind::Plain, guests.plain.clone()),
        guest("plain on the host route", Kind::Marked, routed(&guests.plain, "/usr/bin/qemu-system")),
    ]
}

/// A system call: its name, and its number among the calls of that name.
#[derive(Debug, Clone)]
struct Call {
    name: String,
    number: usize,
    line: String,
    before_main: bool,
}

/// The system calls of a hook run without a fault.
fn calls(event: [&str; 3]) -> Vec<Call> {
    let output = traced_hook(&["-o", TRACE], event);
    assert!(output.status.code().is_some_and(|status| status < 2), "{output:?}");
    let trace = fs::read_to_string(TRACE).unwrap();
    let lines: Vec<&str> = trace.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    // Rust's start-up ends with the handlers of its guard pages.
    let main = lines.iter().rposition(|line| line.starts_with("rt_sigaction(SIGBUS")).unwrap() + 1;
    let mut numbers = BTreeMap::<&str, usize>::new();
    let calls = lines.iter().enumerate().filter_map(|(index, line)| {
        let (name, _) = line.split_once('(')?;
        let number = numbers.entry(name).or_default();
        *number += 1;
        Some(Call { name: name.to_owned(), number: *number, line: (*line).to_owned(), before_main: index < main })
    });
    // A search for the guest's process reads each process of the machine in the same way.
    let totals =
        |name: &str| lines.iter().filter(|line| line.split_once('(').is_some_and(|(own, _)| own == name)).count();
    let calls = calls.filter(|call| call.number <= 20 || call.number + 5 > totals(&call.name));
    // brk(2) returns the old break and no error; the C library treats an error as an address.
    calls.filter(|call| !matches!(call.name.as_str(), "execve" | "exit_group" | "brk")).collect()
}

fn traced_hook(options: &[&str], event: [&str; 3]) -> Output {
    let mut command = Command::new("strace");
    command.arg("-qq").args(options).arg(sandbox::hook()).arg(NAME).args(event);
    command.stdin(fs::File::open(XML).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().unwrap()
}

/// The errors of a run.
fn wrong(
    guest: &Guest,
    event: [&str; 3],
    clean: i32,
    fault: (&Call, &str),
    output: &Output,
    log: &str,
) -> Option<String> {
    let Some(status) = output.status.code().filter(|status| *status < 2) else {
        return Some("it ends by a signal or with another status".to_owned());
    };
    let (call, error) = fault;
    if let Some(half) = half_done() {
        return Some(half);
    }
    if !matches!(event, PREPARE | START | MIGRATE) {
        return (status != 0).then(|| "a running guest is harmed".to_owned());
    }
    let stdin = call.line.starts_with("read(0,");
    // Without the configuration the hook has no rules, so the log must contain an error. A missing file is not an
    // error, and without a connection to the log there is no line.
    let unlogged = error == "ENOENT"
        || matches!(call.name.as_str(), "socket" | "sendto" | "ioctl")
        || log.contains("config-invalid");
    match (guest.kind, status) {
        (Kind::Plain, 1) if !stdin => Some("a guest without a request is refused".to_owned()),
        (Kind::Refused, 0) if clean == 1 => Some("it starts without its requested vIOMMU".to_owned()),
        (Kind::RefusedByRule, 0) if clean == 1 && !unlogged => {
            Some("the rule is ignored without a log line".to_owned())
        }
        (Kind::Wrapper | Kind::Marked, 0) if event == START && state().is_none() => {
            Some("it starts without a state".to_owned())
        }
        _ => None,
    }
}

fn state() -> Option<GuestState> {
    let text = fs::read_to_string(STATE).ok()?;
    GuestState::parse(&text, UUID.parse().unwrap(), process::boot_clock().as_secs()).ok()
}

/// A partial or unexpected file.
fn half_done() -> Option<String> {
    for directory in ["/run/viommu", "/var/lib/viommu/8d"] {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let whole = path.file_name().unwrap() == format!("{UUID}.json").as_str()
                && fs::read_to_string(&path).is_ok_and(|text| serde_json::from_str::<serde_json::Value>(&text).is_ok());
            if !whole {
                return Some(format!("it leaves {}", path.display()));
            }
        }
    }
    None
}

/// Restores the host: an event of a running guest finds the state of its start.
fn reset(event: [&str; 3], state: Option<&str>) {
    let _ = fs::remove_dir_all("/run/viommu");
    let _ = fs::remove_dir_all("/var/lib/viommu");
    if let Some(state) = state.filter(|_| !matches!(event, PREPARE | START | MIGRATE)) {
        fs::create_dir("/run/viommu").unwrap();
        fs::write(STATE, state).unwrap();
    }
}

#[test]
fn every_call_of_the_kernel_that_fails() {
    if !sandbox::inside("effects::faults::sweep::every_call_of_the_kernel_that_fails") || !traced() {
        return;
    }
    let every = if std::env::var_os("VIOMMU_FAULTS").is_some() { 1 } else { 10 };
    let cases = cases(&guests());
    fs::create_dir_all(Path::new(JOURNAL).parent().unwrap()).unwrap();
    let journal = UnixDatagram::bind(JOURNAL).unwrap();
    journal.set_nonblocking(true).unwrap();
    let log_lines = || {
        let mut buffer = vec![0; 65536];
        std::iter::from_fn(|| {
            journal.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
        .collect::<String>()
    };
    let (mut number, mut runs, mut before_main, mut died_before_main) = (0_u32, 0_u32, 0_u32, 0_u32);
    let mut faults = Vec::new();
    for guest in &cases {
        let rule =
            if guest.kind == Kind::RefusedByRule { "[[domain]]\nname = 'dpdk-*'\nmodel = 'intel'\n" } else { "" };
        fs::write(CONFIG, rule).unwrap();
        fs::write(XML, sandbox::running(&guest.xml)).unwrap();
        reset(START, None);
        traced_hook(&["-o", "/dev/null"], START);
        let kept = fs::read_to_string(STATE).ok();
        for event in EVENTS {
            reset(event, kept.as_deref());
            let clean = traced_hook(&["-o", "/dev/null"], event).status.code().unwrap();
            reset(event, kept.as_deref());
            for call in calls(event) {
                let end = matches!(call.name.as_str(), "read" | "getdents64").then_some("retval=0");
                for error in ERRORS.into_iter().chain(end) {
                    // Before main every run is the same.
                    if call.before_main && (guest.kind, event) != (Kind::Wrapper, START) {
                        continue;
                    }
                    number += 1;
                    if number % every != 0 {
                        continue;
                    }
                    reset(event, kept.as_deref());
                    log_lines();
                    let what = if error.starts_with("retval") { error.to_owned() } else { format!("error={error}") };
                    let inject = format!("inject={}:{what}:when={}", call.name, call.number);
                    let output = traced_hook(&["-o", "/dev/null", "-e", &inject], event);
                    if call.before_main {
                        before_main += 1;
                        died_before_main += u32::from(output.status.code().is_none_or(|status| status > 1));
                        continue;
                    }
                    runs += 1;
                    let wrong = wrong(guest, event, clean, (&call, error), &output, &log_lines());
                    faults.extend(wrong.map(|wrong| {
                        format!("{} {event:?} {inject} ({}): {wrong}: {output:?}", guest.name, call.line)
                    }));
                }
            }
        }
    }
    println!(
        "{runs} runs with a fault, {} of them wrong; {before_main} before main, of which {died_before_main} died",
        faults.len()
    );
    assert!(runs >= 10_000 / every, "only {runs} runs");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
