//! The files and processes that the hook leaves on the host, and their removal.

#[path = "faults.rs"]
mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use viommu::hook::{Effect, Outcome, perform};
use viommu::note::Code;
use viommu::qemu::Edits;
use viommu::state::GuestState;
use viommu::sys::process;

use crate::program::{VIOMMU, feed, run};
use crate::{
    NAME, OTHERS, PREPARE, RELEASE, START, STARTED, STOPPED, UUID, assert_event, end, guests, hook, host, sandbox,
};

fn state_file() -> PathBuf {
    Path::new("/run/viommu").join(UUID).with_extension("json")
}

/// All files below the directories that the hook could change: kind, mode, time, and content of each.
fn listing() -> BTreeMap<PathBuf, String> {
    fn walk(path: &Path, into: &mut BTreeMap<PathBuf, String>) {
        let metadata = fs::symlink_metadata(path).unwrap();
        let content = if metadata.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
        let facts = format!("{:o} {}.{} {content:?}", metadata.mode(), metadata.mtime(), metadata.mtime_nsec());
        into.insert(path.to_owned(), facts);
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                walk(&entry.unwrap().path(), into);
            }
        }
    }
    let mut listing = BTreeMap::new();
    for path in ["/run", "/etc", "/var/lib", "/var/cache"] {
        walk(Path::new(path), &mut listing);
    }
    listing
}

#[test]
fn a_start_writes_the_state_and_the_end_removes_it() {
    // `started` sees the processes of other tests.
    const OWN: &str = "8d6f2c4e-3b0a-4f7e-9a51-000000000002";
    if !sandbox::inside("effects::a_start_writes_the_state_and_the_end_removes_it") {
        return;
    }
    let guests = guests();
    let wrapper = guests.wrapper.replace(UUID, OWN);
    let [state_file, record_file] =
        ["/run/viommu", "/var/lib/viommu/8d"].map(|directory| Path::new(directory).join(OWN).with_extension("json"));
    let before = listing();
    for event in [PREPARE, STARTED].into_iter().chain(OTHERS) {
        hook(event, &wrapper);
    }
    assert_eq!(listing(), before, "only `start` writes");
    // A guest without the wrapper and with a sufficient limit needs no state, with or without a request.
    for xml in [&guests.native, &guests.plain, &guests.requesting] {
        hook(START, xml);
        assert_eq!(listing(), before);
    }

    assert_event("start", &hook(START, &wrapper), None);
    let mode = |path: &Path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.uid(), metadata.mode() & 0o7777)
    };
    assert_eq!((mode(Path::new("/run/viommu")), mode(&state_file)), ((0, 0o755), (0, 0o644)));
    let text = fs::read_to_string(&state_file).unwrap();
    let state = GuestState::parse(&text, OWN.parse().unwrap(), process::boot_clock().as_secs()).unwrap();
    assert_eq!(state.emulator, "/usr/bin/qemu-system-x86_64");
    assert_eq!(state.boot.devices, ["virtio-iommu,id=ua-viommu0,bus=pcie.0"]);
    assert_eq!((state.incoming, state.memlock), (Some(state.boot), None));
    let names = |directory: &str| fs::read_dir(directory).unwrap().count();
    assert_eq!(names("/run/viommu"), 1, "no temporary file stays");

    // Every start writes a new file.
    let inode = fs::metadata(&state_file).unwrap().ino();
    assert_event("start again", &hook(START, &wrapper), None);
    assert_ne!(fs::metadata(&state_file).unwrap().ino(), inode);

    // `started` writes the record of the vIOMMU.
    assert_event("started", &hook(STARTED, &wrapper), None);
    assert_eq!((mode(&record_file), names("/var/lib/viommu/8d")), ((0, 0o600), 1));
    assert_event("stopped", &hook(STOPPED, &wrapper), None);
    assert!(!state_file.exists() && record_file.exists());
    assert_event("start", &hook(START, &wrapper), None);
    assert_event("release", &hook(RELEASE, &wrapper), None);
    assert!(!state_file.exists() && record_file.exists());
    assert_event("migrated", &hook(["release", "end", "migrated"], &wrapper), None);
    assert!(!record_file.exists());
    assert_event("release again", &hook(RELEASE, &wrapper), None);
}

/// 64 records whose UUIDs have the same first characters, and one more guest. The guest of the oldest record runs.
#[test]
fn the_oldest_record_of_a_guest_that_has_ended_is_removed() {
    // `started` sees the processes of other tests.
    const OWN: &str = "8d6f2c4e-3b0a-4f7e-9a51-000000000003";
    if !sandbox::inside("effects::the_oldest_record_of_a_guest_that_has_ended_is_removed") {
        return;
    }
    let wrapper = guests().wrapper.replace(UUID, OWN);
    let record = |number: u32| format!("/var/lib/viommu/8d/8d000000-3b0a-4f7e-9a51-{number:012x}.json");
    let write = |path: &str| fs::write(path, "{}").unwrap();
    fs::create_dir_all("/var/lib/viommu/8d").unwrap();
    fs::create_dir("/var/lib/viommu/8e").unwrap();
    assert_event("start", &hook(START, &wrapper), None);
    write(&record(0).replace("/var/lib/viommu/8d", "/run/viommu"));
    (0..2).for_each(|number| write(&record(number)));
    // The hook compares the times of files in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    (2..64).for_each(|number| write(&record(number)));
    write("/var/lib/viommu/8e/8e000000-3b0a-4f7e-9a51-000000000000.json");
    let names = |directory: &str| fs::read_dir(directory).unwrap().count();
    for _ in 0..2 {
        assert_event("started", &hook(STARTED, &wrapper), None);
        assert!(Path::new(&format!("/var/lib/viommu/8d/{OWN}.json")).exists());
        assert_eq!((names("/var/lib/viommu/8d"), names("/var/lib/viommu/8e")), (64, 1));
        assert!(!Path::new(&record(1)).exists() && Path::new(&record(0)).exists());
    }
}

#[test]
fn a_directory_of_another_owner_is_not_written_to() {
    if !sandbox::inside("effects::a_directory_of_another_owner_is_not_written_to") {
        return;
    }
    let guests = guests();
    fs::create_dir("/run/elsewhere").unwrap();
    let open = |path: &str| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    let places: [(&str, &dyn Fn()); 3] = [
        ("others may write", &|| {
            fs::create_dir("/run/viommu").unwrap();
            open("/run/viommu");
        }),
        ("a symbolic link", &|| symlink("/run/elsewhere", "/run/viommu").unwrap()),
        ("a file", &|| fs::write("/run/viommu", "").unwrap()),
    ];
    for (what, make) in places {
        make();
        assert_event(what, &hook(START, &guests.wrapper), Some("state-unwritable"));
        assert_event(what, &hook(START, &guests.plain), None);
        assert_event(what, &hook(STOPPED, &guests.wrapper), None);
        assert!(fs::read_dir("/run/elsewhere").unwrap().next().is_none());

        // A guest without a request starts as on a host without viommu.
        let state = GuestState::new(
            UUID.parse().unwrap(),
            process::boot_clock().as_secs(),
            String::new(),
            Edits::default(),
            None,
        );
        let written = |asks| {
            let effects = vec![Effect::WriteState(Box::new(state.clone()))];
            let mut outcome = Outcome { effects, asks, ..Outcome::default() };
            perform(&mut outcome);
            (outcome.refusal.map(|note| note.code), outcome.log.first().map(|note| note.code))
        };
        assert_eq!(written(true), (Some(Code::StateUnwritable), None), "{what}");
        assert_eq!(written(false), (None, Some(Code::StateUnwritable)), "{what}");
        fs::remove_file("/run/viommu").or_else(|_| fs::remove_dir("/run/viommu")).unwrap();
    }
}

/// System calls that change files or contact another process. A dry run may use none of them; `open` depends on its
/// flags.
const CHANGES: [&str; 26] = [
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "rmdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "truncate",
    "ftruncate",
    "link",
    "symlink",
    "mknod",
    "socket",
    "connect",
    "sendto",
    "sendmsg",
    "fork",
    "vfork",
    "clone",
    "clone3",
];

/// The calls of a program with such an effect, from strace.
fn changes(arguments: &[&str], xml: &str) -> Vec<String> {
    changes_by(Command::new("strace"), arguments, xml)
}

/// Runs a program as root of its own user namespace: with every capability, but none in the initial namespace.
const NAMESPACE: [&str; 2] = ["unshare", "--map-root-user"];

fn changes_by(mut strace: Command, arguments: &[&str], xml: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hook-{}.trace", std::process::id()));
    strace.args(["-f", "-qq", "-o"]).arg(&file).arg(VIOMMU).args(arguments);
    feed(&mut strace, xml.as_bytes());
    let trace = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(trace.contains("execve("), "{trace}");
    let changes = trace.lines().filter(|line| {
        let call = line.split_once(' ').map_or(*line, |(_pid, call)| call.trim_start());
        let name = call.split('(').next().unwrap_or_default();
        let opened = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag));
        let written = name.contains("write") && !call.contains("write(1,") && !call.contains("write(2,");
        name.starts_with("open") && opened
            || written
            || CHANGES.contains(&name)
            || name == "prlimit64" && !call.contains(", NULL, ")
    });
    changes.map(str::to_owned).collect()
}

/// A dry run finds out from the capabilities and the namespace whether the daemon could raise a limit. A test by
/// setting a limit would be a change.
#[test]
fn a_dry_run_sets_no_limit() {
    if !sandbox::inside("effects::a_dry_run_sets_no_limit") {
        return;
    }
    let guests = guests();
    let two_devices = guests.requesting.replace("/usr/bin/qemu-system", "/usr/bin/viommu-qemu-system");
    let arguments = ["hook", "--dry-run", NAME, "start", "begin"];
    let ran = run(NAMESPACE[0], &[&NAMESPACE[1..], &[VIOMMU], &arguments].concat(), two_devices.as_bytes());
    assert!(ran.status == 1 && ran.stderr.contains("[memlock-no-privilege]"), "{ran:?}");
    let ran = run(VIOMMU, &arguments, two_devices.as_bytes());
    if process::may_raise_limits() {
        assert!(ran.status == 0 && ran.stdout.contains("would raise the locked-memory limit"), "{ran:?}");
    } else {
        assert!(ran.status == 1 && ran.stderr.contains("[memlock-no-privilege]"), "{ran:?}");
    }
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("VIOMMU_REQUIRE_STRACE").is_none(), "strace is not installed");
        println!("SKIPPED: strace is not installed");
        return;
    }
    assert_eq!(changes(&arguments, &two_devices), [""; 0]);
    let mut strace = Command::new(NAMESPACE[0]);
    strace.args([NAMESPACE[1], "strace"]);
    assert_eq!(changes_by(strace, &arguments, &two_devices), [""; 0], "in a namespace");
}

#[test]
fn a_dry_run_changes_nothing() {
    if !sandbox::inside("effects::a_dry_run_changes_nothing") {
        return;
    }
    let guests = guests();
    let traced = Command::new("strace").arg("-V").output().is_ok();
    if !traced {
        assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "strace is not installed");
        println!("SKIPPED: strace is not installed, so only the files were compared");
    }
    // A state to remove, and a record to forget.
    assert_event("start", &hook(START, &guests.wrapper), None);
    let before = listing();
    for (event, xml, words) in [
        (PREPARE, &guests.requesting, "would refuse: wrapper-missing"),
        (PREPARE, &guests.wrapper, "would print the rewritten XML"),
        (START, &guests.wrapper, "would write the state"),
        (START, &guests.requesting, "would refuse: wrapper-missing"),
        (STARTED, &guests.wrapper, "would let the guest pass"),
        (STOPPED, &guests.wrapper, "would remove the state"),
        (["release", "end", "migrated"], &guests.wrapper, "would forget"),
        (OTHERS[0], &guests.broken, "would let the guest pass"),
    ] {
        let arguments = [&["hook", "--dry-run", NAME][..], &event].concat();
        let ran = run(VIOMMU, &arguments, xml.as_bytes());
        assert!(ran.stdout.contains(words), "{event:?}: {ran:?}");
        assert_eq!(ran.status, i32::from(words.contains("refuse")), "the status is that of a real run: {ran:?}");
        assert_eq!(listing(), before, "{event:?}");
        if traced {
            assert_eq!(changes(&arguments, xml), [""; 0], "{event:?}");
            assert_eq!(listing(), before, "{event:?}");
        }
    }
    if traced {
        assert_eq!(changes(&["plan"], &guests.requesting), [""; 0], "plan changes nothing");
        // The same call without --dry-run shows that this test can find such calls.
        let real = changes(&["hook", NAME, "start", "begin"], &guests.wrapper).join("\n");
        assert!(real.contains("rename") && real.contains("O_CREAT") && real.contains("write("), "{real}");
    }
}

/// Processes of the hook's binary that the hook has left behind.
fn guards() -> Vec<i32> {
    let own = process::file_id(Path::new(VIOMMU)).unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = std::process::id();
    processes
        .filter(|pid| {
            let executable = process::file_id(Path::new(&format!("/proc/{pid}/exe")));
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let ours = format!("VIOMMU_TEST_PARENT={parent}\0");
            executable.is_ok_and(|file| file == own)
                && environment.windows(ours.len()).any(|bytes| bytes == ours.as_bytes())
        })
        .collect()
}

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The hook starts no guard without the privilege to raise limits, so this test needs a host with it: `tests/nested.rs`
/// runs it there.
#[test]
#[ignore = "run by tests/nested.rs, on a host where limits can be raised"]
fn the_guard_raises_the_limit_and_ends() {
    if !sandbox::inside("effects::the_guard_raises_the_limit_and_ends") {
        return;
    }
    assert!(process::may_raise_limits(), "no limit can be raised on this machine");
    let two_devices = guests().requesting.replace("/usr/bin/qemu-system", "/usr/bin/viommu-qemu-system");
    // The guard searches for the daemon among the ancestors of the hook. The stand-in is a shell with that name: it
    // runs the hook, closes its own streams, and lives until a write to its FIFO.
    let daemon = Path::new("/run/test/libvirtd");
    fs::copy("/bin/sh", daemon).unwrap();
    fs::write("/run/test/guest.xml", &two_devices).unwrap();
    let start = || {
        let script = "\"$0\" \"$@\" </run/test/guest.xml; echo status=$?; exec >&- 2>&-; read -r end";
        let mut command = Command::new(daemon);
        command.args(["-c", script]).arg(sandbox::hook()).arg(NAME).args(START);
        command.env("VIOMMU_TEST_PARENT", std::process::id().to_string());
        let mut daemon = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // libvirt waits for the end of the hook's streams, so the guard must close all of them.
        let began = Instant::now();
        let mut printed = String::new();
        daemon.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "status=0\n");
        assert!(began.elapsed() < Duration::from_secs(60), "a process held the hook's streams");
        assert_eq!(guards().len(), 1);
        let text = fs::read_to_string(state_file()).unwrap();
        // Two address spaces of 8 GiB, and 1 GiB.
        assert!(text.contains("\"memlock\":18253611008"), "{text}");
        daemon
    };
    let running = start();
    let pid = guards()[0];
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    // The guard has only CAP_SYS_PTRACE (bit 19) and CAP_SYS_RESOURCE (bit 24), and cannot gain others.
    soon("the guard drops its capabilities", || read("status").contains("CapPrm:\t0000000001080000\n"));
    let status = read("status");
    for (set, capabilities) in
        [("CapEff", "0000000001080000"), ("CapInh", "0000000000000000"), ("CapBnd", "0000000001080000")]
    {
        assert!(status.contains(&format!("{set}:\t{capabilities}\n")), "{set}: {status}");
    }
    let streams = [0, 1, 2].map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap());
    assert!(streams.iter().all(|stream| stream == Path::new("/dev/null")), "{streams:?}");
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(links.filter_map(|link| fs::read_link(link).ok()).count(), 5, "streams, state, daemon");
    assert_event("stopped", &hook(STOPPED, &two_devices), None);
    soon("the guard of a stopped guest ends", || guards().is_empty());
    end(running);
    // A daemon that dies does not report the end of the start.
    end(start());
    soon("the guard of a dead daemon ends", || guards().is_empty());
    assert!(!state_file().exists());
}

#[test]
fn a_limit_that_may_not_be_raised_refuses_only_guests_with_a_request() {
    if !sandbox::inside("effects::a_limit_that_may_not_be_raised_refuses_only_guests_with_a_request") {
        return;
    }
    let guests = guests();
    // libvirt before 8.7.0 does not count the vIOMMU in its own XML.
    host::write(8_000_000);
    let without_request =
        guests.native.replace("<viommu:viommu xmlns:viommu='urn:libvirt-viommu:1' model='auto'/>", "");
    let without_the_privilege = |xml: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_resource"]).arg(sandbox::hook()).arg(NAME).args(START);
        feed(&mut command, xml.as_bytes())
    };
    assert_event("a request", &without_the_privilege(&guests.native), Some("memlock-no-privilege"));
    assert_event("no request", &without_the_privilege(&without_request), None);
    assert!(!state_file().exists());
}

#[test]
fn a_running_guest_with_too_low_a_limit_is_logged() {
    if !sandbox::inside("effects::a_running_guest_with_too_low_a_limit_is_logged") {
        return;
    }
    let two_devices = guests().requesting.replace("/usr/bin/qemu-system", "/usr/bin/viommu-qemu-system");
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    journal.set_nonblocking(true).unwrap();
    let logged = || {
        let mut text = String::new();
        let mut datagram = [0; 4096];
        while let Ok(length) = journal.recv(&mut datagram) {
            text.push_str(&String::from_utf8_lossy(&datagram[..length]));
        }
        text
    };
    // A process that only has the guest's arguments.
    let mut other = sandbox::stand_in(&["-name", "guest=dpdk-gateway", "-uuid", UUID]);
    assert_event("started", &hook(STARTED, &two_devices), None);
    let text = logged();
    assert!(text.contains("is not known: no guard has recorded its process"), "{text}");
    assert!(text.contains("PRIORITY\n\u{1}\0\0\0\0\0\0\x004\n"), "a warning: {text}");
    let mut qemu = sandbox::qemu(NAME, &["-name", "guest=dpdk-gateway", "-uuid", UUID]);
    // This machine may permit a raise or not; in both cases the log contains the low limit.
    assert_event("started", &hook(STARTED, &two_devices), None);
    let text = logged();
    assert!(
        text.contains("memlock-too-low") && text.contains("too low a locked-memory limit")
            || text.contains("raised only"),
        "{text}"
    );
    for process in [&mut other, &mut qemu] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
