//! The guard: raises the locked-memory limit of one guest's QEMU, once, at the only moment when that lasts.
//!
//! libvirt's child writes its pidfile, then has its own (lower) limit set, and execs the emulator last of all. So the guard
//! waits until `/proc/PID/exe` is no longer the daemon's file: from there on libvirt does not touch the limit, and neither
//! the wrapper (which waits for it) nor QEMU (which has to initialise first) has locked anything.
//!
//! The guard is a process of its own. It holds no stream of the hook, because libvirt waits for their end, keeps only the two
//! capabilities that it needs, and ends when the guest's state file, its process or the daemon goes. It acts on a pinned pid
//! only and never lowers a limit.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{ForkResult, close, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use rustix::process::Pid;

use crate::host::libvirt;
use crate::limit::Limit;
use crate::note::{Code, Note};
use crate::state;
use crate::sys::fs;
use crate::sys::journal::{self, Priority};
use crate::sys::process::{self, FileId};

/// How often the guard looks. exec to the first mapping takes QEMU tens of milliseconds.
const INTERVAL: Duration = Duration::from_millis(1);
/// After this many polls the start is slow for another reason, such as the relabelling of disks.
const PATIENT_AFTER: u32 = 20_000;
const PATIENT_INTERVAL: Duration = Duration::from_millis(10);

/// What a guard has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The guest's state file; when it goes, the start is over.
    pub state: PathBuf,
    /// Where libvirt writes the pid of the emulator.
    pub pidfile: PathBuf,
    /// What the guest needs.
    pub limit: Limit,
    /// No wrapper waits for the limit, so every millisecond counts.
    pub urgent: bool,
    /// For the log.
    pub uuid: String,
}

/// Everything that has to be looked up while the hook still runs, because the daemon may be gone later.
struct Watch {
    order: Order,
    state: File,
    daemon: OwnedFd,
    daemon_executable: FileId,
}

/// Forks a guard off and returns at once.
///
/// # Errors
/// `memlock-no-privilege` where the daemon cannot be watched or no process can be made.
pub fn start(order: Order) -> Result<(), Note> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let message = format!("the locked-memory limit cannot be raised: {what}: {error}");
        Note::error(Code::MemlockNoPrivilege, message)
    };
    let daemon = libvirt::daemon().ok_or_else(|| {
        failed("who would tell when", &"neither libvirtd nor virtqemud is among the hook's ancestors")
    })?;
    let watch = Watch {
        state: fs::open(&order.state).map_err(|error| failed("state file", &error))?,
        daemon: process::pin(daemon).map_err(|error| failed("pidfd of the daemon", &error))?,
        daemon_executable: process::executable(daemon).map_err(|error| failed("executable of the daemon", &error))?,
        order,
    };
    // SAFETY: this process has one thread, so nothing can hold a lock that the child would miss.
    #[expect(unsafe_code, reason = "no safe call makes a process without executing a program, which a hook must not")]
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { .. }) => Ok(()),
        Ok(ForkResult::Child) => {
            watch.live();
            std::process::exit(0);
        }
        Err(error) => Err(failed("fork", &error)),
    }
}

/// How a guard ended.
#[derive(Debug)]
enum End {
    Raised(process::LockLimit),
    StateGone,
    GuestGone,
    DaemonGone,
    TooLate,
    Failed(std::io::Error),
}

impl Watch {
    fn live(self) {
        detach(&[self.state.as_raw_fd(), self.daemon.as_raw_fd()]);
        if self.order.urgent {
            process::prefer_scheduling();
        }
        let kept = [Capability::CAP_SYS_RESOURCE, Capability::CAP_SYS_PTRACE];
        let end = match keep_only(&kept) {
            Ok(()) => self.watch(),
            Err(error) => End::Failed(std::io::Error::other(error)),
        };
        if matches!(end, End::GuestGone | End::DaemonGone) && process::has_ended(self.daemon.as_fd()) {
            self.remove_state();
        }
        let (priority, what) = match &end {
            End::Raised(limit) => (Priority::Info, format!("locked-memory limit raised to {:#}", limit.hard)),
            End::StateGone => (Priority::Info, "the start is over, nothing to raise".to_owned()),
            End::GuestGone => (Priority::Info, "the guest ended before its emulator was executed".to_owned()),
            End::DaemonGone => (Priority::Info, "the daemon ended before the guest had a process".to_owned()),
            End::TooLate => (Priority::Warning, "the emulator was not executed in time".to_owned()),
            End::Failed(error) => (Priority::Warning, format!("the locked-memory limit was not raised: {error}")),
        };
        journal::log(
            priority,
            &format!("guest {}: {what}", self.order.uuid),
            &[("VIOMMU_DOMAIN_UUID", &self.order.uuid)],
        );
    }

    /// A daemon that ended in the middle of a start has forgotten it, so no hook will see its end.
    fn remove_state(&self) {
        // Not that of a next start, which has replaced it.
        if self.state.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
            let _ = fs::remove(&self.order.state);
        }
    }

    fn watch(&self) -> End {
        let deadline = process::boot_clock().as_secs() + state::MAX_AGE;
        let mut guest: Option<(Pid, OwnedFd)> = None;
        for look in 0u32.. {
            // An unlinked or replaced state file has no name left.
            if self.state.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
                return End::StateGone;
            }
            if guest.is_none() {
                guest = libvirt::pinned(&self.order.pidfile);
            }
            match &guest {
                Some((_, pidfd)) if process::has_ended(pidfd.as_fd()) => return End::GuestGone,
                Some((pid, pidfd)) => match process::executable(*pid) {
                    Ok(file) if file != self.daemon_executable => {
                        // The pid is pinned, so if the process still lives now, it is the one whose executable was read.
                        if process::has_ended(pidfd.as_fd()) {
                            return End::GuestGone;
                        }
                        return process::raise_lock_limit(*pid, self.order.limit).map_or_else(End::Failed, End::Raised);
                    }
                    // Without CAP_SYS_PTRACE this would never end.
                    Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return End::Failed(error),
                    _ => {}
                },
                None if process::has_ended(self.daemon.as_fd()) => return End::DaemonGone,
                None => {}
            }
            if process::boot_clock().as_secs() > deadline {
                return End::TooLate;
            }
            let watched = guest.as_ref().map_or(&self.daemon, |(_, pidfd)| pidfd);
            let interval = if look < PATIENT_AFTER { INTERVAL } else { PATIENT_INTERVAL };
            if process::has_ended(watched.as_fd()) {
                // A daemon that is gone would make every poll return at once.
                std::thread::sleep(interval);
            } else {
                process::wait_for_end(watched, interval);
            }
        }
        End::TooLate
    }
}

/// Leaves the hook's session, directory and streams behind.
fn detach(kept: &[i32]) {
    // None of these can fail in a fresh child for a reason that would be worth stopping for.
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = fs::open_for_update(Path::new("/dev/null")) {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    } else {
        // libvirt waits for the end of these, so in a host without /dev/null they must go all the same.
        let _ = (close(0), close(1), close(2));
    }
    for fd in fs::names(Path::new("/proc/self/fd")).iter().filter_map(|name| name.parse::<i32>().ok()) {
        if fd > 2 && !kept.contains(&fd) {
            let _ = close(fd);
        }
    }
}

/// Gives up every capability but those named, for good, and looks whether it worked.
fn keep_only(kept: &[Capability]) -> Result<(), String> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(|error| error.to_string())?;
    let keep: CapsHashSet = kept.iter().copied().filter(|capability| permitted.contains(capability)).collect();
    for capability in caps::all() {
        if !keep.contains(&capability) {
            // Needs CAP_SETPCAP, which a container may lack; without it nothing can be gained from the bounding set either.
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    let none = CapsHashSet::new();
    for (set, value) in [(CapSet::Inheritable, &none), (CapSet::Effective, &keep), (CapSet::Permitted, &keep)] {
        caps::set(None, set, value).map_err(|error| error.to_string())?;
        if caps::read(None, set).map_err(|error| error.to_string())? != *value {
            return Err(format!("the {set:?} capabilities could not be dropped"));
        }
    }
    Ok(())
}
