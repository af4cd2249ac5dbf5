//! `viommu doctor`: each fault that it must find, one at a time on a host without another fault, and a host without
//! faults.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program that makes hosts and breaks them"
)]

mod support;

#[path = "doctor/faults.rs"]
mod faults;
#[path = "doctor/host.rs"]
mod host;
#[path = "doctor/libvirt.rs"]
mod libvirt;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "this program only starts the binary under test")]
mod program;
#[path = "support/sandbox.rs"]
mod sandbox;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use host::Host;
use program::feed;

#[test]
fn a_healthy_host_has_no_findings() {
    let host = Host::healthy("healthy");
    let (report, status) = host.report();
    let found: Vec<_> =
        report["checks"].as_array().unwrap().iter().map(|check| check["state"].as_str().unwrap()).collect();
    assert!(found.iter().all(|state| *state == "ok") && status == 0, "{report:#}");
    assert!(found.len() > 12, "{found:?}");
    let ran = host.examine(&[]);
    assert!(ran.status == 0 && ran.stderr.is_empty(), "{ran:?}");
    assert!(ran.stdout.ends_with("\neverything is in place\n") && !ran.stdout.contains("broken"), "{ran:?}");
    assert!(!ran.stdout.contains('\x1b'), "{ran:?}");
}

#[test]
fn the_report_as_json() {
    let host = Host::healthy("json");
    host.remove(host::HOOK);
    let (report, status) = host.report();
    assert_eq!((&report["broken"], &report["warnings"], status), (&1.into(), &0.into(), 1));
    let keys: Vec<&str> = report["checks"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["name", "state", "code", "message", "remedy"]);
    assert_eq!(report["checks"][0]["name"], "hook");
    // A check without a fault has neither a code nor a remedy.
    let last = report["checks"].as_array().unwrap().last().unwrap();
    assert!(last["state"] == "ok" && last["code"].is_null() && last["remedy"].is_null(), "{last}");
}

#[test]
fn faults_are_red_on_a_terminal_only() {
    let host = Host::healthy("colours");
    host.remove(host::HOOK);
    let colours = |no_color: Option<&str>| {
        let doctor = host.command();
        let words = [doctor.get_program()].into_iter().chain(doctor.get_args()).map(|word| word.to_str().unwrap());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &words.collect::<Vec<_>>().join(" "), "/dev/null"]);
        command.env("TERM", "xterm").env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
        let ran = feed(&mut command, b"");
        assert!(ran.status == 1 && ran.stdout.contains("hook-unusable"), "{ran:?}");
        ran.stdout
    };
    assert!(!host.examine(&[]).stdout.contains('\x1b'));
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: script(1) is not installed, so the output on a terminal was not tested");
        return;
    }
    assert!(colours(None).starts_with("\x1b[31mbroken"));
    assert!(!colours(Some("1")).contains('\x1b'));
    host.link(host::HOOK, "/usr/bin/viommu");
    let healthy = || host.report().1;
    assert_eq!(healthy(), 0, "the hook is back");
}

/// doctor escapes a tenant's name before it prints it.
#[test]
fn names_are_escaped_on_a_terminal() {
    let host = Host::healthy("names");
    host.define("evil&#x9b;2J\u{202e}", "qemu-system-x86_64", "");
    for arguments in [&[][..], &["--format", "json"]] {
        let ran = host.examine(arguments);
        assert!(ran.status == 1 && ran.stdout.contains("evil\\u"), "{ran:?}");
        assert!(!ran.stdout.contains(['\u{9b}', '\u{202e}', '\x1b']), "{ran:?}");
    }
}

/// The report lists the QEMUs that guests use, with their versions; on a host without systemd no remedy calls systemd.
#[test]
fn facts_and_remedies_are_those_of_this_host() {
    let host = Host::healthy("qemus");
    host.file(
        "var/cache/libvirt/qemu/capabilities/2.xml",
        "<qemuCaps>\n  <emulator>/usr/bin/qemu-system-aarch64</emulator>\n  <selfvers>11003000</selfvers>\n  \
         <version>10000003</version>\n  <arch>aarch64</arch>\n",
    );
    let qemus = || {
        let (report, _) = host.report();
        let named = report["checks"].as_array().unwrap().iter().filter(|check| check["name"] == "QEMU").cloned();
        named.map(|check| check["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(qemus(), ["/usr/bin/qemu-system-x86_64: QEMU 10.0.2"]);
    host.define("arm", "qemu-system-aarch64", "");
    assert_eq!(qemus(), ["/usr/bin/qemu-system-aarch64: QEMU 10.0.3", "/usr/bin/qemu-system-x86_64: QEMU 10.0.2"]);

    let host = Host::healthy("no-systemd");
    host.remove("run/viommu");
    host.daemon_started(host::now() - 3600);
    let remedy = || host.report().0["checks"][0]["remedy"].as_str().unwrap().to_owned();
    assert!(remedy().starts_with("kill -HUP "), "{}", remedy());
    host.directory("run/systemd/system");
    assert!(remedy().starts_with("systemctl reload libvirtd"), "{}", remedy());
}

/// For a user without access to /etc/libvirt/qemu the report does not say that there are no guests.
#[test]
fn an_ordinary_user_gets_the_list_of_unread_files() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can become another user");
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program::VIOMMU, "doctor", "--format", "json"]);
    let ran = feed(&mut command, b"");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let state = |name: &str| checks.iter().find(|check| check["name"] == name).map(|check| check["state"].clone());
    assert_eq!((state("guests"), state("user")), (Some("unknown".into()), Some("unknown".into())), "{report:#}");
}

/// On a host without viommu no guest lacks its requested vIOMMU, for root and for other users.
#[test]
fn a_host_without_viommu_is_not_broken() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can change the root directory");
        return;
    }
    let host = Host::healthy("without-viommu");
    for path in ["etc", "run", "var", "lib", "dev", "sys/class", "sys/kernel", "usr/bin", "usr/lib"] {
        host.remove(path);
    }
    fs::copy(program::VIOMMU, host.path("program")).unwrap();
    for user in ["0:0", "65534:65534"] {
        let mut command = Command::new("chroot");
        command.args(["--userspec", user]).arg(host.path("")).args(["/program", "doctor", "--format", "json"]);
        let ran = feed(&mut command, b"");
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let hook = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "hook").unwrap();
        assert_eq!((hook["state"].as_str(), ran.status), (Some("warning"), 0), "{user}: {report:#}");
        assert!(hook["message"].as_str().unwrap().contains("is not installed"), "{user}: {hook}");
    }
}

/// The root directory of an image has no processes, and an empty directory has no facts: the report says "not known"
/// and doctor does not fail.
#[test]
fn doctor_examines_an_image_without_proc_and_sys() {
    let host = Host::healthy("image");
    for path in ["proc", "sys", "dev", "run"] {
        host.remove(path);
    }
    let (report, status) = host.report();
    let codes: Vec<_> =
        report["checks"].as_array().unwrap().iter().filter_map(|check| check["code"].as_str()).collect();
    // An image does not show the running kernel's modules and KVM.
    assert_eq!(status, i32::from(codes.contains(&"vfio-missing")), "{report:#}");
    let nowhere = feed(Command::new(program::VIOMMU).args(["doctor", "--root", "/no/such/directory"]), b"");
    assert!(nowhere.status == 2 && nowhere.stderr.contains("/no/such/directory"), "{nowhere:?}");
}

/// A container of kolla: the image has libvirt's directories, and the host mounts the records.
#[test]
fn a_hook_that_is_lost_with_its_container() {
    const IMAGE: &str = "set -e; root=$0; layer=$(mktemp -d); mount -t tmpfs tmpfs $layer
        for part in etc usr; do
            mkdir -p $layer/$part/upper $layer/$part/work
            mount -t overlay overlay -o lowerdir=$root/$part,upperdir=$layer/$part/upper,workdir=$layer/$part/work $root/$part
        done
        exec \"$@\"";
    let host = Host::healthy("image");
    host.directory("var/lib/viommu");
    let doctor = || {
        let doctor = host.command();
        let root = doctor.get_args().last().unwrap().to_owned();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", IMAGE]).arg(root).arg(doctor.get_program()).args(doctor.get_args());
        feed(&mut command, b"")
    };
    let ran = doctor();
    assert!(ran.status == 0 && !ran.stdout.contains("container"), "a mounted image is not a container: {ran:?}");
    host.file("run/.containerenv", "");
    let ran = doctor();
    let line = "a recreated container loses /etc/libvirt/hooks, /usr/bin/viommu: build an image";
    let words = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(ran.status == 0 && words.contains(line) && words.contains("[hook-in-image]"), "{ran:?}");
    let ran = host.examine(&[]);
    assert!(ran.stdout.contains("the hook and its files outlive this container"), "{ran:?}");
}

/// A host of kolla: /run is shared, and the daemon has its own root directory.
#[test]
fn a_daemon_in_another_container() {
    const DAEMON: &str = "import fcntl, os, sys
file = open('/run/libvirtd.pid', 'w')
file.write(f'{os.getpid()}\\n'); file.flush()
fcntl.lockf(file, fcntl.LOCK_EX)
if sys.argv[1:]: os.chroot(sys.argv[1])
print('ready', flush=True); sys.stdin.read()";
    if !sandbox::inside("a_daemon_in_another_container") {
        return;
    }
    for (root, contained) in [(None, false), (Some("/run"), true)] {
        let mut python = Command::new("python3");
        python.args(["-c", DAEMON]).args(root).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut daemon = python.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let ran = feed(Command::new(program::VIOMMU).arg("doctor"), b"");
        drop(daemon.stdin.take());
        daemon.wait().unwrap();
        let reported = ran.stdout.contains("runs in a container, or in a chroot");
        assert!(ready == "ready\n" && reported == contained && ran.stdout.contains("libvirtd"), "{root:?}: {ran:?}");
    }
}
