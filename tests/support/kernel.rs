//! What a hook's process asks of the kernel.

#![allow(dead_code, reason = "no test program uses everything")]
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "starts processes for a test"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

const INPUT: &str = "/run/test/input.xml";

/// A program that runs the hook at the beginning of an event, or with it as an argument.
fn command(program: &Path, before: &[&str], event: &str, xml: &str) -> Command {
    fs::write(INPUT, xml).unwrap();
    let mut command = Command::new(program);
    command.args(before).args(["g", event, "begin", "-"]).env_clear();
    command.stdin(fs::File::open(INPUT).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Page faults that need no disk, the fewest of some runs: the first ones read the binary.
pub(crate) fn page_faults(hook: &Path, event: &str, xml: &str) -> u64 {
    let once = || {
        let mut child = command(hook, &[], event, xml).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        // Ended, and not forgotten yet.
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        child.wait().unwrap();
        // The tenth field of proc(5); the second is a name in parentheses.
        stat.rsplit(')').next().unwrap().split_whitespace().nth(7).unwrap().parse().unwrap()
    };
    (0..10).map(|_| once()).min().unwrap()
}

/// System calls; none where there is no strace.
pub(crate) fn system_calls(hook: &Path, event: &str, xml: &str) -> usize {
    const TRACE: &str = "/run/test/trace";
    let before = ["-o", TRACE, hook.to_str().unwrap()];
    if command(Path::new("/usr/bin/strace"), &before, event, xml).status().is_err() {
        println!("SKIPPED: system calls, for want of strace");
        return 0;
    }
    // The last line says how it ended.
    fs::read_to_string(TRACE).unwrap().lines().count() - 1
}
