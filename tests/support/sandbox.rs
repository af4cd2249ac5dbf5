//! A sandbox in which the hook may write and cannot see this machine: each test runs again as a process in its own
//! mount namespace, with empty file systems over the directories that the hook reads and writes.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "starts the test program again and prints its output"
)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

/// Set in the process that runs inside.
const INSIDE: &str = "VIOMMU_TEST_INSIDE";

/// The hidden directories: state, configuration, host facts, records, the capability cache.
const HIDDEN: &str = "/run /etc /sys /var/lib /var/cache";

const ENTER: &str = "set -e; mount --make-rprivate /
    for directory in $HIDDEN; do mount -t tmpfs -o mode=755 tmpfs $directory; done
    exec \"$0\" \"$@\"";

/// Whether this process is inside. Otherwise runs the test of this name inside, and fails if it fails.
///
/// An ordinary user also gets a user namespace, in which there are no files of other users. On a machine that does not
/// permit namespaces the test is skipped, unless `VIOMMU_REQUIRE_LAB` is set.
pub(crate) fn inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let program = env::current_exe().unwrap();
    let hidden = HIDDEN.split(' ').find(|directory| program.starts_with(directory));
    assert_eq!(hidden, None, "the sandbox would hide {}", program.display());
    let unshare = |own_user: bool| {
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount").args(own_user.then_some("--map-root-user"));
        unshare
    };
    let possible = |own_user: &bool| unshare(*own_user).arg("true").status().is_ok_and(|status| status.success());
    let Some(own_user) = [false, true].into_iter().find(possible) else {
        assert!(env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "{test} needs a mount namespace");
        println!("SKIPPED: {test} needs root, or user namespaces");
        return false;
    };
    let mut command = unshare(own_user);
    command.args(["sh", "-c", ENTER]).arg(program).args(["--exact", test, "--include-ignored", "--nocapture"]);
    let output = command.env(INSIDE, "1").env("HIDDEN", HIDDEN).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{printed}");
    assert!(output.status.success() && printed.contains("1 passed"), "{test} failed inside");
    false
}

/// libvirt's number for the guest of a stand-in.
pub(crate) const ID: u32 = 7;

/// A stand-in for the QEMU of a domain, in the domain's cgroup, with a locked-memory limit of 64 KiB. Returns when the
/// process has that limit. The machine's cgroups stay unchanged: a file hides the process's entry in /proc.
pub(crate) fn qemu(domain: &str, arguments: &[&str]) -> Child {
    let qemu = stand_in(arguments);
    let cgroup = format!("machine/qemu-{ID}-{domain}.libvirt-qemu");
    fs::create_dir_all(Path::new("/sys/fs/cgroup").join(&cgroup)).unwrap();
    // As before libvirt 11.3: owned by root.
    fs::create_dir_all("/run/libvirt/qemu").unwrap();
    let membership = PathBuf::from(format!("/run/cgroup-of-{}", qemu.id()));
    fs::write(&membership, format!("0::/{cgroup}/emulator\n")).unwrap();
    let mut mount = Command::new("mount");
    mount.arg("--bind").arg(&membership).arg(format!("/proc/{}/cgroup", qemu.id()));
    assert!(mount.status().unwrap().success());
    qemu
}

/// The same without a cgroup.
pub(crate) fn stand_in(arguments: &[&str]) -> Child {
    let mut command = Command::new("bash");
    command.arg0("qemu").args(["-c", "ulimit -l 64; read -r line", "qemu"]).args(arguments);
    let mut qemu = command.stdin(Stdio::piped()).spawn().unwrap();
    let limits = format!("/proc/{}/limits", qemu.id());
    while fs::read_to_string(&limits).unwrap().lines().all(|line| !line.contains(" 65536 ")) {
        assert_eq!(qemu.try_wait().unwrap(), None, "the stand-in for QEMU ended");
        std::thread::yield_now();
    }
    qemu
}

/// The XML of a running domain, in libvirt's status format.
pub(crate) fn running(xml: &str) -> String {
    xml.replacen("<domain type='kvm'", &format!("<domain type='kvm' id='{ID}'"), 1)
}

/// The binary under libvirt's name of a hook.
pub(crate) fn hook() -> PathBuf {
    let directory = PathBuf::from("/run/test/hooks");
    fs::create_dir_all(&directory).unwrap();
    let hook = directory.join("qemu");
    if !hook.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_viommu"), &hook).unwrap();
    }
    hook
}
