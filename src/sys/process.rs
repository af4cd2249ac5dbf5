//! Processes: pidfds, limits, the boot clock, what a process executes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, prlimit, setrlimit};

use crate::limit::Limit;

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

/// The kernel's page size, bytes.
#[must_use]
pub fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Memory that the kernel has to give, bytes: `MemTotal` of `/proc/meminfo`.
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

/// The limit of another process.
///
/// # Errors
/// What the kernel says; ESRCH where the process is gone.
pub fn lock_limit(pid: Pid) -> io::Result<LockLimit> {
    let text = super::fs::head(Path::new(&format!("/proc/{}/limits", pid.as_raw_nonzero())), 4096)
        .ok_or(io::ErrorKind::NotFound)?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("Max locked memory")).ok_or(io::ErrorKind::InvalidData)?;
    let mut words = line.split_whitespace();
    let mut next = || match words.next() {
        Some("unlimited") => Ok(Limit::Unlimited),
        word => word.and_then(|word| word.parse().ok()).map(Limit::Bytes).ok_or(io::ErrorKind::InvalidData),
    };
    Ok(LockLimit { soft: next()?, hard: next()? })
}

/// Raises soft and hard limit of another process to at least `limit`; never lowers either.
///
/// # Errors
/// What the kernel says: EPERM without CAP_SYS_RESOURCE, ESRCH where the process is gone.
pub fn raise_lock_limit(pid: Pid, limit: Limit) -> io::Result<LockLimit> {
    let old = lock_limit(pid)?;
    let new = LockLimit { soft: old.soft.max(limit), hard: old.hard.max(limit) };
    if new != old {
        prlimit(Some(pid), Resource::Memlock, new.into())?;
    }
    Ok(new)
}

/// Pins a process: its pid cannot be given to another one while this descriptor has not become readable.
///
/// # Errors
/// What the kernel says.
pub fn pin(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether a pinned process has ended.
#[must_use]
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Sleeps until a pinned process ends, `timeout` at most.
pub fn wait_for_end(pidfd: &OwnedFd, timeout: Duration) {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // A signal ends the sleep early, which a polling caller does not notice.
    let _ = poll(&mut fds, Some(&timeout));
}

/// A file, by what the kernel knows it by.
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

/// The file that a process executes.
///
/// # Errors
/// What the kernel says: EACCES without CAP_SYS_PTRACE, ENOENT where the process is gone.
pub fn executable(pid: Pid) -> io::Result<FileId> {
    file_id(Path::new(&format!("/proc/{}/exe", pid.as_raw_nonzero())))
}

/// Time since the machine booted, suspended time included. No administrator and no NTP can set it back.
#[must_use]
pub fn boot_clock() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(Duration::ZERO, Duration::from)
}

/// Whether this process can probably raise the limit of another user's process. The kernel wants CAP_SYS_RESOURCE and
/// CAP_SYS_PTRACE in the initial user namespace; in another one a process has them all, and may raise nothing. A security
/// module or a seccomp filter can still refuse.
#[must_use]
pub fn may_raise_limits() -> bool {
    let has = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false);
    has(caps::Capability::CAP_SYS_RESOURCE) && has(caps::Capability::CAP_SYS_PTRACE) && in_initial_user_namespace()
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
    status_field(pid, 4)?.parse().ok().and_then(Pid::from_raw)
}

/// When a process was started, seconds since the epoch; a second off at most.
#[must_use]
pub fn started(pid: Pid) -> Option<u64> {
    // The kernel's USER_HZ, which is the same on every architecture that libvirt has a vIOMMU for.
    const TICKS: u64 = 100;
    let ticks: u64 = status_field(pid, 22)?.parse().ok()?;
    // The counters of many processors come before it.
    let text = super::fs::head(Path::new("/proc/stat"), 4 << 20)?;
    let booted: u64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks / TICKS)
}

/// A field of `/proc/PID/stat`, by its number in proc(5), from the third on: the second, the name, may itself hold blanks
/// and parentheses.
fn status_field(pid: Pid, number: usize) -> Option<String> {
    let stat = super::fs::head(Path::new(&format!("/proc/{}/stat", pid.as_raw_nonzero())), 1024)?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number.checked_sub(3)?).map(str::to_owned)
}

/// The arguments of a process, without `argv[0]`; none where it is gone.
#[must_use]
pub fn arguments(pid: Pid) -> Vec<std::ffi::OsString> {
    let line = super::fs::head(Path::new(&format!("/proc/{}/cmdline", pid.as_raw_nonzero())), 4 << 20);
    line.unwrap_or_default().split('\0').skip(1).map(Into::into).collect()
}

/// Switches this process to SCHED_RR, or to nice -20 where that is not permitted. Failure is ignored.
pub fn prefer_scheduling() {
    let parameter = nix::libc::sched_param { sched_priority: 1 };
    // SAFETY: pid 0 is this process, and the parameter lives until the call returns.
    #[expect(unsafe_code, reason = "neither nix nor rustix has sched_setscheduler")]
    let refused = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_RR, &raw const parameter) } != 0;
    if refused {
        let _ = rustix::process::setpriority_process(None, -20);
    }
}

/// The file that this process executes.
///
/// # Errors
/// What the kernel says.
pub fn own_file() -> io::Result<FileId> {
    file_id(Path::new("/proc/self/exe"))
}
