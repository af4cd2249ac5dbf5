//! External input of the command line: configuration, facts about a host, virsh's domains, processes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::program::{VIOMMU, feed, run};
use crate::sandbox;
use crate::{EXAMPLE, HOST, NO_CONFIG, assert_refused, assert_unusable, example};

/// A directory for one test's files.
fn directory(test: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(test);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The UUID of the example.
const UUID: &str = "8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93";

#[test]
fn a_named_configuration_counts() {
    let directory = directory("configuration");
    let file = directory.join("other.toml");
    let path = file.to_str().unwrap();
    let plan = |path: &str, domain: &str| run(VIOMMU, &["plan", "--host", HOST, "--config", path], domain.as_bytes());
    let without_model = example().replace(" model='auto'", " hotplug='no'");

    fs::write(&file, "[[domain]]\nname = 'dpdk-*'\nmodel = 'intel'\n").unwrap();
    let ran = plan(path, &without_model);
    assert!(ran.status == 0 && ran.stdout.contains("the host configuration asks for 'intel'"), "{ran:?}");
    if rustix::process::geteuid().is_root() {
        // A file that the user names may have any owner: only the hook's file must be root's.
        chown(&file, Some(65534), None).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(plan(path, &without_model).stdout, ran.stdout);
    }

    for broken in ["[default]\nmodel = 'Intel'\n", "modell = 'intel'\n", "no TOML", "[default]\nlocked-memory = 3\n"] {
        fs::write(&file, broken).unwrap();
        let ran = plan(path, &without_model);
        assert_refused(&ran, "config-invalid");
        assert!(ran.stderr.contains(path), "the message names the invalid file: {ran:?}");
    }
    assert_unusable(&plan(directory.join("missing.toml").to_str().unwrap(), &without_model), "missing.toml");
    assert_unusable(&plan(directory.to_str().unwrap(), &without_model), path.strip_suffix("/other.toml").unwrap());
}

/// A sysfs with an IOMMU of 39 bits (a client CPU's capability register) and the two devices of the example.
fn sysfs(directory: &Path) -> PathBuf {
    let sysfs = directory.join("sys");
    fs::create_dir_all(sysfs.join("class/iommu/dmar0/intel-iommu")).unwrap();
    fs::write(sysfs.join("class/iommu/dmar0/intel-iommu/cap"), "1c0000c40660462\n").unwrap();
    for (function, group) in [(0, 40), (1, 41)] {
        let device = sysfs.join(format!("bus/pci/devices/0000:3b:00.{function}"));
        fs::create_dir_all(&device).unwrap();
        symlink(format!("../../../../kernel/iommu_groups/{group}"), device.join("iommu_group")).unwrap();
    }
    sysfs
}

#[test]
fn a_plan_for_another_host_equals_that_hosts_plan() {
    let directory = directory("host");
    let sysfs = sysfs(&directory);
    let sysfs = sysfs.to_str().unwrap();
    let host = run(VIOMMU, &["capabilities", "--format", "json", "--sysfs", sysfs], b"");
    let facts: Value = serde_json::from_str(&host.stdout).unwrap();
    assert_eq!((&facts["aw_bits"], &facts["iommu"]), (&39.into(), &true.into()));
    assert_eq!(facts["iommu_groups"], serde_json::json!({"0000:3b:00.0": 40, "0000:3b:00.1": 41}));

    let file = directory.join("host.json");
    fs::write(&file, &host.stdout).unwrap();
    let plan = |arguments: &[&str]| {
        let common = ["plan", "--config", NO_CONFIG, "--format", "json", "--model", "intel", EXAMPLE];
        let ran = run(VIOMMU, &[&common, arguments].concat(), b"");
        assert_eq!(ran.status, 0, "{ran:?}");
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let there = plan(&["--sysfs", sysfs]);
    assert_eq!(plan(&["--host", file.to_str().unwrap()]), there);
    assert_eq!(there["iommu"]["driver"]["aw_bits"], "39");
    assert_eq!(there["memlock"]["address_spaces"][1]["iommu_groups"], serde_json::json!([41]));

    // An option wins over a recorded fact.
    let host = ["--host", file.to_str().unwrap()];
    assert_eq!(plan(&[&host[..], &["--host-aw-bits", "48"]].concat())["iommu"]["driver"]["aw_bits"], "48");
    let old = plan(&[&host[..], &["--libvirt-version", "7.0.0"]].concat());
    assert_eq!((&old["memlock"]["libvirt_bytes"], &old["memlock"]["raise"]), (&9_663_676_416_u64.into(), &true.into()));

    for (content, words) in [("{", "host.json"), ("{\"libvirt\": \"new\"}", "host.json"), ("3", "host.json")] {
        fs::write(&file, content).unwrap();
        assert_unusable(&run(VIOMMU, &["plan", "--host", file.to_str().unwrap(), EXAMPLE], b""), words);
    }
    assert_unusable(&run(VIOMMU, &["plan", "--host", "./missing.json", EXAMPLE], b""), "missing.json");
    let text = run(VIOMMU, &["capabilities", "--sysfs", sysfs], b"");
    assert!(text.status == 0 && text.stdout.contains("39 bits"), "{text:?}");
    fs::write(&file, r#"{"libvirt": "12.9.0", "iommufd": true}"#).unwrap();
    let iommufd = |arguments: &[&str]| {
        let host = ["capabilities", "--host", file.to_str().unwrap()];
        let text = run(VIOMMU, &[&host[..], arguments].concat(), b"").stdout;
        text.lines().find_map(|line| line.strip_prefix("iommufd      ")).unwrap_or_default().to_owned()
    };
    assert_eq!(iommufd(&[]), "yes");
    assert!(iommufd(&["--libvirt-version", "11.3.0"]).starts_with("no: libvirt 11.3.0"));
}

/// A virsh that records its arguments in a file, and prints the example for its only domain.
fn virsh(directory: &Path) -> PathBuf {
    let virsh = directory.join("virsh");
    let script = format!(
        "#!/bin/sh\nprintf '%s|' \"$@\" >> '{}'\nfor last; do :; done\n\
         case $last in known|-known|{UUID}) exec cat '{}';; esac\n\
         printf 'error: failed to get domain\\nerror: not found\\n' >&2\nexit 1\n",
        directory.join("arguments").display(),
        directory.join("known.xml").display(),
    );
    fs::write(&virsh, script).unwrap();
    fs::set_permissions(&virsh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("known.xml"), example()).unwrap();
    virsh
}

#[test]
fn a_domain_that_libvirt_has_defined() {
    let directory = directory("virsh");
    virsh(&directory);
    let arguments = || fs::read_to_string(directory.join("arguments")).unwrap_or_default();
    let path = format!("{}:/usr/bin:/bin", directory.display());
    let viommu = |arguments: &[&str]| {
        let _ = fs::remove_file(directory.join("arguments"));
        feed(Command::new(VIOMMU).args(arguments).env("PATH", &path), b"")
    };
    let ran = viommu(&["plan", "--host", HOST, "--config", NO_CONFIG, "--connect", "qemu:///system", "known"]);
    assert!(ran.status == 0 && ran.stdout.contains("dpdk-gateway"), "{ran:?}");
    assert_eq!(arguments(), "--connect|qemu:///system|--quiet|dumpxml|--inactive|--domain|known|");
    assert_eq!(viommu(&["plan", "--host", HOST, "--config", NO_CONFIG, "--", "-known"]).status, 0);

    let ran = viommu(&["plan", "--config", NO_CONFIG, "unknown"]);
    assert_unusable(&ran, "error: failed to get domain; error: not found");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    // `rewrite` reads a file or stdin. For a misspelt file it does not call virsh.
    assert_unusable(&viommu(&["rewrite", "--config", NO_CONFIG, "known"]), "known");
    assert_eq!(arguments(), "");
    // Without virsh the message says so.
    let ran = feed(Command::new(VIOMMU).args(["plan", "known"]).env("PATH", "/nonexistent"), b"");
    assert_unusable(&ran, "virsh");
}

#[test]
fn the_limit_of_a_running_guest() {
    if !sandbox::inside("host::the_limit_of_a_running_guest") {
        return;
    }
    let directory = directory("memlock");
    virsh(&directory);
    // The domain dpdk-gateway is `known` to virsh.
    let arguments = ["-name", "guest=dpdk-gateway", "-uuid", UUID];
    fs::write(directory.join("known.xml"), sandbox::running(&example())).unwrap();
    let mut qemu = sandbox::qemu("dpdk-gateway", &arguments);
    let pid = qemu.id().to_string();
    let path = format!("{}:/usr/bin:/bin", directory.display());
    let memlock = |arguments: &[&str]| {
        let mut command = Command::new(VIOMMU);
        feed(command.args(["memlock", "--config", NO_CONFIG, "--host", HOST]).args(arguments).env("PATH", &path), b"")
    };
    // Two devices of 8 GiB and 1 GiB; a third device needs 8 GiB more.
    let ran = memlock(&["--pid", &pid]);
    assert_refused(&ran, "memlock-too-low");
    for words in ["65536 bytes", "18253611008 bytes", "26843545600 bytes", "0000:3b:00.1"] {
        assert!(ran.stdout.contains(words), "{words}: {ran:?}");
    }
    let ran = memlock(&["--pid", &pid, "--raise"]);
    if viommu::sys::process::may_raise_limits() {
        assert!(ran.status == 0 && ran.stdout.contains("26843545600"), "{ran:?}");
    } else {
        assert_refused(&ran, "memlock-no-privilege");
    }
    // Any process can have this command line, and QEMU's user can write to the directory of pidfiles; the cgroup is
    // libvirt's.
    let mut other = sandbox::stand_in(&arguments);
    assert_unusable(&memlock(&["--pid", &other.id().to_string()]), &format!("is not the QEMU of {UUID}"));
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
    fs::write("/run/libvirt/qemu/dpdk-gateway.pid", other.id().to_string()).unwrap();
    assert_unusable(&memlock(&["known", "--raise"]), "no guard has recorded its process");
    // A cgroup that other users can change.
    let mut forged = sandbox::qemu("dpdk-gateway", &arguments);
    fs::set_permissions("/sys/fs/cgroup/machine", fs::Permissions::from_mode(0o777)).unwrap();
    assert_unusable(&memlock(&["known", "--raise"]), "no guard has recorded its process");
    fs::set_permissions("/sys/fs/cgroup/machine", fs::Permissions::from_mode(0o755)).unwrap();
    assert_refused(&memlock(&["known"]), "memlock-too-low");
    // libvirt 11.3 gives QEMU's user the pidfiles, and moves the named processes into the guest's cgroup.
    std::os::unix::fs::chown("/run/libvirt/qemu", Some(1), Some(1)).unwrap();
    assert_unusable(&memlock(&["known", "--raise"]), "no guard has recorded its process");
    // The guard's record is valid; a process with a reused pid is not the guest.
    fs::create_dir("/run/viommu").unwrap();
    let record = format!("/run/viommu/{UUID}.process");
    let pid = rustix::process::Pid::from_raw(i32::try_from(forged.id()).unwrap()).unwrap();
    let started = viommu::sys::process::start_ticks(pid).unwrap();
    fs::write(&record, format!("{} {started}\n", forged.id())).unwrap();
    fs::set_permissions(&record, fs::Permissions::from_mode(0o600)).unwrap();
    assert_refused(&memlock(&["known"]), "memlock-too-low");
    fs::write(&record, format!("{} {}\n", forged.id(), started + 1)).unwrap();
    assert_unusable(&memlock(&["known"]), "no guard has recorded its process");
    for process in [&mut other, &mut forged] {
        drop(process.stdin.take());
        process.wait().unwrap();
    }
    assert_unusable(&memlock(&["--pid", &std::process::id().to_string()]), "not a guest");
    fs::write(directory.join("known.xml"), example()).unwrap();
    assert_unusable(&memlock(&["known"]), "is not running");
    assert_unusable(&memlock(&["--pid", "0"]), "0");
    assert_unusable(&memlock(&["--pid", "1", "known"]), "cannot be used with");
}
