//! The wrapper as libvirt starts it, with the hook's files for it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::program::{VIOMMU, feed, run};
use crate::{CONFIG, NAME, START, STOPPED, UUID, assert_event, guests, hook, sandbox};

const STATE: &str = "/run/viommu/8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93.json";

const STARTED_WITH: [&str; 8] =
    ["-name", "guest=g", "-machine", "pc-q35-7.2", "-uuid", UUID, "-device", "vfio-pci,host=0000:3b:00.0"];

/// The wrapper, with a QEMU that prints its own command line.
fn wrapper() -> &'static Path {
    fs::write("/run/qemu", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    fs::set_permissions("/run/qemu", fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(CONFIG, "[emulators]\nx86_64 = '/run/qemu'\n").unwrap();
    let wrapper = Path::new("/run/viommu-qemu-system-x86_64");
    symlink(VIOMMU, wrapper).unwrap();
    wrapper
}

#[test]
fn the_wrapper_executes_qemu_with_the_hooks_changes() {
    if !sandbox::inside("wrapper::the_wrapper_executes_qemu_with_the_hooks_changes") {
        return;
    }
    let guests = guests();
    let wrapper = wrapper();

    let ran = run(wrapper, &["-version"], b"");
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "-version\n"), "a probe passes");
    assert_event("the hook did not run", &run(wrapper, &STARTED_WITH, b""), Some("state-missing"));
    assert_event("start", &hook(START, &guests.wrapper), None);
    let ran = run(wrapper, &STARTED_WITH, b"");
    assert_event("QEMU", &ran, None);
    let arguments: Vec<_> = ran.stdout.lines().collect();
    let expected = "-device\nvirtio-iommu,id=ua-viommu0,bus=pcie.0,addr=";
    assert!(ran.stdout.contains(expected), "{ran:?}");
    assert_eq!(arguments.len(), STARTED_WITH.len() + 2, "{ran:?}");
    // The UUID of another guest would give it that guest's vIOMMU.
    let other = [&STARTED_WITH[..], &["-uuid", "8d6f2c4e-3b0a-4f7e-9a51-000000000000"]].concat();
    let ran = run(wrapper, &other, b"");
    assert_event("another UUID", &ran, Some("command-line-unsupported"));
    assert!(ran.stderr.contains("remove it from <qemu:commandline>"), "{ran:?}");
    assert_event("stopped", &hook(STOPPED, &guests.wrapper), None);
    assert_event("a start that has ended", &run(wrapper, &STARTED_WITH, b""), Some("state-missing"));
}

/// No guard raises the limit: the wrapper waits for it until its timeout.
#[test]
fn a_limit_that_is_not_raised_in_time_stops_qemu() {
    if !sandbox::inside("wrapper::a_limit_that_is_not_raised_in_time_stops_qemu") {
        return;
    }
    let guests = guests();
    let wrapper = wrapper();
    assert_event("start", &hook(START, &guests.wrapper), None);
    let mut state: serde_json::Value = serde_json::from_str(&fs::read_to_string(STATE).unwrap()).unwrap();
    state["memlock"] = (1_u64 << 40).into();
    fs::write(STATE, state.to_string()).unwrap();
    let limited = format!("ulimit -l 64; exec {} \"$@\"", wrapper.display());
    let began = Instant::now();
    let ran = run("bash", &[&["-c", &limited, "bash"][..], &STARTED_WITH].concat(), b"");
    assert_event("no guard", &ran, Some("memlock-timeout"));
    assert!(began.elapsed() >= Duration::from_secs(10), "the guard has ten seconds: {ran:?}");
}

/// libvirt starts the wrapper under QEMU's own name, and the guest's hook did not run.
#[test]
fn without_the_hook_a_guest_of_the_host_route_is_refused_with_the_way_to_switch_it_off() {
    if !sandbox::inside("wrapper::without_the_hook_a_guest_of_the_host_route_is_refused_with_the_way_to_switch_it_off")
    {
        return;
    }
    let wrapper = wrapper();
    let emulator = Path::new("/run/qemu-system-x86_64");
    symlink(VIOMMU, emulator).unwrap();
    let advice = |program: &Path, code: &str| {
        let ran = run(program, &STARTED_WITH, b"");
        assert_event("no hook", &ran, Some(code));
        ran.stderr.contains("viommu host-route off")
    };
    assert!(advice(emulator, "state-missing"));
    assert!(!advice(wrapper, "state-missing"), "the domain names this emulator itself");
    fs::create_dir_all("/run/viommu").unwrap();
    fs::write(STATE, "{}").unwrap();
    assert!(!advice(emulator, "state-invalid"));
    assert!(!advice(wrapper, "state-invalid"));
}

#[test]
fn a_state_of_another_owner_is_not_used() {
    if !sandbox::inside("wrapper::a_state_of_another_owner_is_not_used") {
        return;
    }
    let guests = guests();
    let wrapper = wrapper();
    let open = |path: &str| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    // A user namespace has no other users.
    let give = |path: &str| chown(path, Some(65_534), None).unwrap_or_else(|_| open(path));
    let breakages: [(&str, &dyn Fn()); 8] = [
        ("the directory is open to others", &|| open("/run/viommu")),
        ("another user owns the directory", &|| give("/run/viommu")),
        ("the file is open to others", &|| open(STATE)),
        ("another user owns the file", &|| give(STATE)),
        ("a symbolic link", &|| {
            fs::rename(STATE, "/run/elsewhere").unwrap();
            symlink("/run/elsewhere", STATE).unwrap();
        }),
        ("a directory", &|| {
            fs::remove_file(STATE).unwrap();
            fs::create_dir(STATE).unwrap();
        }),
        ("half a file", &|| fs::write(STATE, "{\"format\":1").unwrap()),
        ("a hard link below a directory that is open to others", &|| {
            fs::hard_link(STATE, "/run/viommu/second").unwrap();
            open("/run");
        }),
    ];
    for (what, breakage) in breakages {
        assert_event(what, &hook(START, &guests.wrapper), None);
        assert_event(what, &run(wrapper, &STARTED_WITH, b""), None);
        breakage();
        assert_event(what, &run(wrapper, &STARTED_WITH, b""), Some("state-invalid"));
        fs::remove_dir_all("/run/viommu").unwrap();
    }
}

#[test]
fn a_configuration_cannot_make_the_wrapper_run_itself_or_break_a_probe() {
    const ITSELF: &str = "wrapper::a_configuration_cannot_make_the_wrapper_run_itself_or_break_a_probe";
    if !sandbox::inside(ITSELF) {
        return;
    }
    let wrapper = wrapper();
    fs::write(CONFIG, format!("[emulators]\nx86_64 = '{}'\n", wrapper.display())).unwrap();
    let ran = feed(Command::new("timeout").arg("20").arg(wrapper).arg("-version"), b"");
    assert_event("itself", &ran, Some("emulator-missing"));
    assert!(ran.stderr.contains("is viommu itself"), "{ran:?}");
    // The name of QEMU without a configuration, installed on this machine or not.
    fs::remove_file(CONFIG).unwrap();
    let unconfigured = run(wrapper, &["-version"], b"");
    fs::write(CONFIG, "no TOML").unwrap();
    let broken = run(wrapper, &["-version"], b"");
    assert_eq!(broken.status, unconfigured.status);
    let warning = "viommu: warning[config-invalid]: /etc/viommu.toml ";
    assert!(broken.stderr.starts_with(warning), "{broken:?}");
    assert!(broken.stderr.contains("; this probe runs /usr/bin/qemu-system-x86_64\n"), "{broken:?}");
    assert!(broken.stderr.ends_with(&unconfigured.stderr), "{broken:?}");
    // libvirt probes as QEMU's user, who cannot read this configuration.
    fs::write(CONFIG, "[emulators]\nx86_64 = '/run/qemu'\n").unwrap();
    fs::set_permissions(CONFIG, fs::Permissions::from_mode(0o600)).unwrap();
    let mut as_another = Command::new("setpriv");
    as_another.args(["--reuid", "65534", "--clear-groups"]).arg(wrapper).arg("-version");
    let other = feed(&mut as_another, b"");
    // A user namespace has no other user to switch to.
    if other.status != 127 {
        assert!(other.stderr.starts_with(warning) && other.stderr.contains("Permission denied"), "{other:?}");
    }
}

/// A program with the wrapper's name may be another program. The running guest shows whether it has its vIOMMU.
#[test]
fn another_program_with_the_wrappers_name_is_logged() {
    if !sandbox::inside("wrapper::another_program_with_the_wrappers_name_is_logged") {
        return;
    }
    let guests = guests();
    let noticed = "would log: error[request-unmet]: the guest runs without the vIOMMU that it asks for: its emulator \
                   /usr/bin/viommu-qemu-system-x86_64 is not viommu's wrapper\n";
    for (devices, logged) in [(&[][..], true), (&["-device", "virtio-iommu,id=ua-viommu0"], false)] {
        assert_event("start", &hook(START, &guests.wrapper), None);
        let mut qemu = sandbox::qemu(NAME, &[&["-uuid", UUID], devices].concat());
        let xml = sandbox::running(&guests.wrapper);
        let ran = run(VIOMMU, &["hook", "--dry-run", NAME, "started", "begin"], xml.as_bytes());
        assert_eq!((ran.status, ran.stdout.contains(noticed)), (0, logged), "{ran:?}");
        assert_eq!(ran.stdout.contains("would record the vIOMMU"), !logged, "{ran:?}");
        drop(qemu.stdin.take());
        qemu.wait().unwrap();
    }
}
