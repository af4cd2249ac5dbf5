//! One process, pinned by a pidfd, and the locked-memory limit that it alone is given.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, pidfd_open, prlimit};

use crate::limit::Limit;
use crate::text::labelled;

use super::fs;
use super::process::{self, LockLimit};

/// A process, identified by a pidfd: another process that gets its number later is not taken for it.
///
/// The kernel's interfaces take a number (`/proc/PID`, prlimit(2)). The number belongs to this process until it has ended
/// and its parent has fetched its status, so what was read or done by number is this process's if it lives afterwards.
#[derive(Debug)]
pub struct Pinned {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Pinned {
    /// Pins the process that has this number now.
    ///
    /// # Errors
    /// What the kernel says: ESRCH where there is none, EINVAL or ENOENT for the number of a thread.
    pub fn open(pid: Pid) -> io::Result<Pinned> {
        Ok(Pinned { pid, pidfd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The number of the descriptor, for a process that closes all others.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.poll(Duration::ZERO)
    }

    /// Sleeps until the process ends, `timeout` at most.
    pub fn wait_for_end(&self, timeout: Duration) {
        self.poll(timeout);
    }

    fn poll(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // A signal ends the sleep early, which a polling caller does not notice.
        poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    /// The arguments of the process, without `argv[0]`; none where it has ended or executes a program at this moment.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        self.arguments_within(4 << 20).unwrap_or_default()
    }

    /// [`Self::arguments`] of a command line with less than this number of bytes; else `None`.
    #[must_use]
    pub fn arguments_within(&self, bytes: usize) -> Option<Vec<OsString>> {
        let line = self.bytes("cmdline", bytes).unwrap_or_default();
        let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
        (line.len() < bytes).then(|| words.skip(1).map(|word| OsStr::from_bytes(word).to_owned()).collect())
    }

    /// The first `limit` bytes of a file in `/proc/PID`, as far as they are text: a process chooses its own name.
    #[must_use]
    pub fn text(&self, name: &str, limit: usize) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(name, limit)?).into_owned())
    }

    fn bytes(&self, name: &str, limit: usize) -> Option<Vec<u8>> {
        let bytes = fs::bytes(&process::file(self.pid, name), limit);
        if self.has_ended() { None } else { bytes }
    }

    /// The locked-memory limit of the process.
    ///
    /// # Errors
    /// What the kernel says; `NotFound` where the process has ended.
    pub fn lock_limit(&self) -> io::Result<LockLimit> {
        let text = self.text("limits", 4096).ok_or(io::ErrorKind::NotFound)?;
        let mut words = labelled(&text, "Max locked memory").ok_or(io::ErrorKind::InvalidData)?.split_whitespace();
        let mut next = || match words.next() {
            Some("unlimited") => Ok(Limit::Unlimited),
            word => word.and_then(|word| word.parse().ok()).map(Limit::Bytes).ok_or(io::ErrorKind::InvalidData),
        };
        Ok(LockLimit { soft: next()?, hard: next()? })
    }

    /// Raises soft and hard limit of the process to at least `limit`; never lowers either.
    ///
    /// prlimit(2) takes a number and no pidfd. Where the process has ended by the time the call returns, another process
    /// may have got the number and the limit; it is given back what it had. It keeps the higher limit for some microseconds.
    ///
    /// # Errors
    /// What the kernel says: EPERM without CAP_SYS_RESOURCE, `NotFound` where the process has ended.
    pub fn raise_lock_limit(&self, limit: Limit) -> io::Result<LockLimit> {
        let old = self.lock_limit()?;
        let new = LockLimit { soft: old.soft.max(limit), hard: old.hard.max(limit) };
        if new == old {
            return Ok(new);
        }
        let replaced = prlimit(Some(self.pid), Resource::Memlock, new.into())?;
        if self.has_ended() {
            let other = Pinned::open(self.pid);
            if other.is_ok_and(|other| other.lock_limit().is_ok_and(|limit| limit == new)) {
                let _ = prlimit(Some(self.pid), Resource::Memlock, replaced);
            }
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(new)
    }
}

/// Where the kernel has put a process's code, data, heap, stack, arguments and environment. The kernel chooses most of it at
/// random in each execve(2), shows it only to processes that may trace this one, and copies it in fork(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLayout(Vec<u64>);

impl Pinned {
    /// The layout; none where it may not be read, and where the kernel did not choose it at random: any program can be
    /// executed with `ADDR_NO_RANDOMIZE` (personality(2)), and has this layout then, too.
    #[must_use]
    pub fn layout(&self) -> Option<MemoryLayout> {
        layout(&self.text("stat", 2048)?)
    }
}

fn layout(stat: &str) -> Option<MemoryLayout> {
    /// `startcode`, `endcode`, `startstack`, `start_data`, `end_data`, `start_brk`, `arg_start`, `arg_end`, `env_start`, `env_end`
    /// of proc_pid_stat(5).
    const FIELDS: [usize; 10] = [26, 27, 28, 45, 46, 47, 48, 49, 50, 51];
    let fields = FIELDS.map(|number| process::stat_field(stat, number)?.parse().ok());
    let fields: Option<Vec<u64>> = fields.into_iter().collect();
    // A reader who may not trace the process gets 0 and 1.
    let readable = fields.filter(|fields| fields.iter().all(|field| *field > 1))?;
    readable.last().copied().is_some_and(is_random).then_some(MemoryLayout(readable))
}

/// Whether the kernel put the stack at a random place, and with it all else (`PF_RANDOMIZE`, fs/binfmt_elf.c), by the end of
/// the environment. Otherwise the stack ends with the address space: a power of two, on x86 one page less (`STACK_TOP`).
/// Between the environment and that end is the name of the program, at most `PATH_MAX` bytes (`create_elf_tables`).
/// A random place is as near as that once in 100,000 times.
fn is_random(env_end: u64) -> bool {
    const NEAR: u64 = 16 << 10;
    env_end.checked_next_power_of_two().is_some_and(|end| end - env_end > NEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Pinned {
        Pinned::open(rustix::process::getpid()).unwrap()
    }

    #[test]
    fn a_pinned_process_has_its_arguments_and_limit() {
        let own = own();
        assert!(!own.has_ended());
        assert_eq!(own.lock_limit().unwrap(), process::own_lock_limit());
        assert_eq!(own.arguments(), std::env::args_os().skip(1).collect::<Vec<_>>());
    }

    // The kernel returns these bytes unchanged; libvirt with the locale C truncates a guest's name at such a byte.
    #[test]
    fn invalid_utf8_hides_no_argument() {
        #![expect(clippy::disallowed_methods, reason = "the test needs another process")]
        let cut = OsStr::from_bytes(b"file=/domain-3-\xc3");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", r"printf 'a\303' >/proc/$$/comm; echo; read -r line", "sh"]).arg(cut).args(["-uuid", "u"]);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).spawn().unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pinned = Pinned::open(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()).unwrap();
        assert_eq!(pinned.arguments().get(3..), Some(&[cut.to_owned(), "-uuid".into(), "u".into()][..]));
        assert!(process::start_ticks(pinned.pid()).is_some() && pinned.layout().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    // The text has the form of proc_pid_stat(5), with the name "a) b" and each number equal to its field's number times
    // 2^40.
    #[test]
    fn an_unreadable_memory_layout_is_none() {
        let numbers: Vec<String> = (4..=52).map(|number: u64| (number << 40).to_string()).collect();
        let stat = format!("7 (a) b) S {}", numbers.join(" "));
        let found = layout(&stat).unwrap();
        assert_eq!(found, MemoryLayout([26, 27, 28, 45, 46, 47, 48, 49, 50, 51].map(|number| number << 40).to_vec()));
        let with = |number: u64, other: &str| stat.replace(&format!(" {} ", number << 40), &format!(" {other} "));
        assert_eq!(layout(&with(28, "0")), None);
        assert_eq!(layout(&with(26, "1")), None);
        assert_eq!(layout("7 (a"), None);
    }

    // setarch(8) switches the kernel's randomization off.
    #[test]
    fn a_layout_without_randomization_is_none() {
        #![expect(clippy::disallowed_methods, reason = "the test needs another process")]
        let has_layout = |command: &[&str]| {
            let mut child = std::process::Command::new(command[0]);
            let mut child = child.args(&command[1..]).env("LONG", "x".repeat(100_000)).spawn().unwrap();
            let pinned = Pinned::open(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()).unwrap();
            while pinned.arguments() != ["60"] {
                assert!(!pinned.has_ended(), "{command:?}");
            }
            let layout = pinned.layout();
            child.kill().unwrap();
            child.wait().unwrap();
            layout.is_some()
        };
        assert!(has_layout(&["sleep", "60"]));
        assert!(!has_layout(&["setarch", "-R", "sleep", "60"]));
        assert!(is_random(0x7fff_7c92_4fe9) && is_random(0xffff_0000_0000));
        assert!(!is_random(0x7fff_ffff_efe9) && !is_random(0xffff_ffff_ffe8));
    }

    // The kernel is the second source: the layout of a child changes with an exec, and equals this process's before.
    #[test]
    fn only_a_fork_has_the_layout() {
        #![expect(clippy::disallowed_methods, reason = "the test needs another process")]
        let own = own();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pinned = Pinned::open(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()).unwrap();
        assert!(own.layout().is_some());
        assert_ne!(pinned.layout(), own.layout());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pinned.has_ended());
        assert_eq!(pinned.arguments(), [""; 0]);
        assert_eq!(pinned.layout(), None);
        assert_eq!(pinned.raise_lock_limit(Limit::Unlimited).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
