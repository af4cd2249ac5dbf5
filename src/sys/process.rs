//! Processes: pidfds, limits, the boot clock, what a process executes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
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

/// Seconds since the machine booted, suspended time included. No administrator and no NTP can set it back.
#[must_use]
pub fn boot_clock() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0, |now| u64::try_from(now.tv_sec()).unwrap_or(0))
}

/// Whether this process can raise the limit of another user's process to `limit`. The capabilities alone do not tell: in a
/// user namespace they are all there and count for nothing. So this process raises its own hard limit, which harms nobody.
#[must_use]
pub fn may_raise_limits(limit: Limit) -> bool {
    let has = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false);
    let own = own_lock_limit();
    let one_more = Limit::of_kernel(own.hard.for_kernel().and_then(|bytes| bytes.checked_add(1)));
    let higher = LockLimit { hard: limit.max(one_more), ..own };
    has(caps::Capability::CAP_SYS_RESOURCE)
        && has(caps::Capability::CAP_SYS_PTRACE)
        && setrlimit(Resource::Memlock, higher.into()).is_ok()
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

/// What Rust's own `main` would have done before ours, as far as it is needed.
///
/// Descriptors 0 to 2 are open afterwards: a closed one would be given to the next file that is opened, and be printed into.
/// Whoever writes to a reader that went away gets an error (EPIPE), and no signal that ends him: libvirt would take a killed
/// hook for a refusal. Aborts where there is no `/dev/null`, as Rust does.
pub fn begin() {
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        if rustix::io::fcntl_getfd(stream).is_ok() {
            continue;
        }
        // The lowest free number is this one.
        match super::fs::open_for_update(Path::new("/dev/null")) {
            Ok(file) => drop(file.into_raw_fd()),
            Err(_) => std::process::abort(),
        }
    }
    // SAFETY: no handler is set that could run at a wrong time, and no other thread is there yet.
    #[expect(unsafe_code, reason = "signal(2) has no safe form, as with a handler it would not be")]
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
}

/// Asks for the processor ahead of everybody else: a real-time slice, else the best nice value. Whoever is refused goes on
/// at his usual pace.
pub fn hurry() {
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
