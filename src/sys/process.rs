//! Processes: numbers, this process's own limits, clocks, what a process executes. `pinned` has what is done to another one.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caps::{CapSet, Capability};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{SysconfVar, sysconf};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};

use crate::limit::Limit;
use crate::text::labelled;

/// RLIMIT_MEMLOCK of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockLimit {
    /// What the kernel enforces.
    pub soft: Limit,
    /// Up to where the process itself may raise it.
    pub hard: Limit,
}

impl From<Rlimit> for LockLimit {
    fn from(limit: Rlimit) -> LockLimit {
        LockLimit { soft: Limit::of_kernel(limit.current), hard: Limit::of_kernel(limit.maximum) }
    }
}

impl From<LockLimit> for Rlimit {
    fn from(limit: LockLimit) -> Rlimit {
        Rlimit { current: limit.soft.for_kernel(), maximum: limit.hard.for_kernel() }
    }
}

/// The kernel's page size, bytes: what the C library was told when the process began. `None` where it does not say.
#[must_use]
pub fn page_bytes() -> Option<u64> {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok())
}

/// Installed memory, bytes: `MemTotal` of `/proc/meminfo`.
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    nix::sys::sysinfo::sysinfo().ok().map(|known| known.ram_total())
}

/// This process's own limit.
#[must_use]
pub fn own_lock_limit() -> LockLimit {
    getrlimit(Resource::Memlock).into()
}

/// Raises this process's own soft limit to its hard one.
///
/// # Errors
/// What the kernel says.
pub fn use_hard_lock_limit() -> io::Result<()> {
    let hard = own_lock_limit().hard;
    Ok(setrlimit(Resource::Memlock, LockLimit { soft: hard, hard }.into())?)
}

/// Whether two paths lead to one file.
#[must_use]
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    file_id(one).is_ok_and(|one| file_id(other).is_ok_and(|other| one == other))
}

/// The identity of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// The file that a path leads to.
///
/// # Errors
/// What the kernel says.
pub fn file_id(path: &Path) -> io::Result<FileId> {
    let metadata = std::fs::metadata(path)?;
    Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
}

/// Time since the machine booted, suspended time included. No administrator and no NTP can set it back.
#[must_use]
pub fn boot_clock() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(Duration::ZERO, Duration::from)
}

/// What a process needs to raise the limit of another user's process.
pub const RAISES_LIMITS: [Capability; 2] = [Capability::CAP_SYS_RESOURCE, Capability::CAP_SYS_PTRACE];

/// Whether this process can probably raise the limit of another user's process. The kernel wants [`RAISES_LIMITS`] in the initial
/// user namespace; in another one a process has them all, and may raise nothing. A security module or a seccomp filter can
/// still refuse.
#[must_use]
pub fn may_raise_limits() -> bool {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    RAISES_LIMITS.into_iter().all(has) && in_initial_user_namespace()
}

/// The kernel gives the initial user namespace a fixed inode (`PROC_USER_INIT_INO`, include/linux/proc_ns.h, since Linux
/// 3.8). A namespace with an identical `uid_map` has another one.
fn in_initial_user_namespace() -> bool {
    const PROC_USER_INIT_INO: u64 = 0xEFFF_FFFD;
    file_id(Path::new("/proc/self/ns/user")).is_ok_and(|file| file.inode == PROC_USER_INIT_INO)
}

/// The parent of a process.
#[must_use]
pub fn parent(pid: Pid) -> Option<Pid> {
    stat_field(&stat(pid)?, 4)?.parse().ok().and_then(Pid::from_raw)
}

/// When a process was started, seconds since the epoch; a second off at most.
#[must_use]
pub fn started(pid: Pid) -> Option<u64> {
    // The counters of many processors come before it.
    let text = super::fs::head(Path::new("/proc/stat"), 4 << 20)?;
    let booted: u64 = labelled(&text, "btime ")?.parse().ok()?;
    Some(booted + start_ticks(pid)? / TICKS)
}

/// Clock ticks in a second: the kernel's USER_HZ, which is the same on every architecture that libvirt has a vIOMMU for.
pub const TICKS: u64 = 100;

/// When a process was started, clock ticks since the machine booted.
#[must_use]
pub fn start_ticks(pid: Pid) -> Option<u64> {
    stat_field(&stat(pid)?, 22)?.parse().ok()
}

/// A file in `/proc/PID`.
#[must_use]
pub fn file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn stat(pid: Pid) -> Option<String> {
    let stat = super::fs::bytes(&file(pid, "stat"), 1024)?;
    Some(String::from_utf8_lossy(&stat).into_owned())
}

/// A field of a `/proc/PID/stat`, by its number in proc_pid_stat(5), from the third on: the second, the name, may itself hold
/// blanks and parentheses.
pub(super) fn stat_field(stat: &str, number: usize) -> Option<&str> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number.checked_sub(3)?)
}

/// All processes that this process can see, by number.
#[must_use]
pub fn all() -> Vec<Pid> {
    super::fs::names(Path::new("/proc")).iter().filter_map(|name| Pid::from_raw(name.parse().ok()?)).collect()
}

/// The number that the kernel gave out last, to a process or a thread. Numbers are given out in their order, and from the
/// lowest free one again after the highest.
#[must_use]
pub fn last_number() -> Option<i32> {
    super::fs::head(Path::new("/proc/loadavg"), 128)?.split_whitespace().nth(4)?.parse().ok()
}

/// Ends this process by a signal after so many seconds, whatever system call it is in.
pub fn end_after(seconds: u32) {
    // The parent may have ignored or blocked it, which a child inherits.
    // SAFETY: no handler is set.
    #[expect(unsafe_code, reason = "signal(2) has no safe form, as with a handler it would not be")]
    let _ = unsafe { signal(Signal::SIGALRM, SigHandler::SigDfl) };
    let _ = SigSet::from(Signal::SIGALRM).thread_unblock();
    let _ = nix::unistd::alarm::set(seconds);
}

/// Sets this process to nice -5. Failure is ignored.
pub fn lower_nice() {
    let _ = rustix::process::setpriority_process(None, -5);
}

/// Switches this process to SCHED_RR, or to nice -5 where that is not permitted. Failure is ignored.
pub fn prefer_scheduling() {
    let parameter = nix::libc::sched_param { sched_priority: 1 };
    // SAFETY: pid 0 is this process, and the parameter lives until the call returns.
    #[expect(unsafe_code, reason = "neither nix nor rustix has sched_setscheduler")]
    let refused = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_RR, &raw const parameter) } != 0;
    if refused {
        lower_nice();
    }
}

/// The file that this process executes.
///
/// # Errors
/// What the kernel says.
pub fn own_file() -> io::Result<FileId> {
    file_id(Path::new("/proc/self/exe"))
}

/// How many bytes this thread has read so far.
#[cfg(test)]
pub(crate) fn bytes_read() -> u64 {
    let io = super::fs::head(Path::new("/proc/thread-self/io"), 4096).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the test needs a process that ends")]

    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn a_process_ends_when_its_time_is_up() {
        const MARK: &str = "VIOMMU_TEST_ENDS";
        if std::env::var_os(MARK).is_some() {
            super::end_after(1);
            std::thread::sleep(std::time::Duration::from_secs(60));
            return;
        }
        // An ignored signal stays ignored when a program is executed.
        let mut child = Command::new("sh");
        child.args(["-c", "trap '' ALRM; exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
        child.args(["--exact", "sys::process::tests::a_process_ends_when_its_time_is_up"]).env(MARK, "1");
        assert_eq!(child.status().unwrap().signal(), Some(nix::libc::SIGALRM));
    }
}
