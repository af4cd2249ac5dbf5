//! The release binary as libvirt's hook in the sandbox, and the page faults and system calls of a process.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "starts processes for a test"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// The path of libvirt's hook.
pub(crate) const HOOK: &str = "/run/test/hooks/qemu";

/// A host with all facts known, and the binary under these names, which select its personality.
pub(crate) fn host(binary: &Path, names: &[&str]) {
    crate::host::write(9_000_000);
    for name in names.iter().map(Path::new) {
        fs::create_dir_all(name.parent().unwrap()).unwrap();
        symlink(binary, name).unwrap();
    }
}

/// The hook's arguments at the beginning of an event.
pub(crate) fn begin(event: &str) -> [&str; 4] {
    ["g", event, "begin", "-"]
}

/// A program with this text on its stdin, without output.
pub(crate) fn command(program: &str, arguments: &[&str], stdin: &str) -> Command {
    const INPUT: &str = "/run/test/input";
    fs::write(INPUT, stdin).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(fs::File::open(INPUT).unwrap());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Page faults of the hook without disk access, the minimum of some runs: the first runs read the binary.
pub(crate) fn page_faults(event: &str, xml: &str) -> u64 {
    let once = || {
        let mut child = command(HOOK, &begin(event), xml).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        // The process has ended, but its entry still exists.
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        child.wait().unwrap();
        // The tenth field of proc(5); the second is a name in parentheses.
        stat.rsplit(')').next().unwrap().split_whitespace().nth(7).unwrap().parse().unwrap()
    };
    (0..10).map(|_| once()).min().unwrap()
}

/// System calls of the hook; 0 without strace.
pub(crate) fn system_calls(event: &str, xml: &str) -> usize {
    trace(HOOK, &begin(event), xml).len()
}

/// The system calls of a program, one per line; empty without strace.
pub(crate) fn trace(program: &str, arguments: &[&str], stdin: &str) -> Vec<String> {
    const TRACE: &str = "/run/test/trace";
    let traced = [&["-o", TRACE, program], arguments].concat();
    if command("/usr/bin/strace", &traced, stdin).status().is_err() {
        println!("SKIPPED: strace is not installed, so no system calls were counted");
        return Vec::new();
    }
    let mut lines: Vec<String> = fs::read_to_string(TRACE).unwrap().lines().map(str::to_owned).collect();
    // The last line is the exit status.
    lines.pop();
    lines
}
