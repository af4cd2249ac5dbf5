//! The guard: raises the locked-memory limit of one guest's QEMU, once, at the only moment when that lasts.
//!
//! libvirt's child has its own (lower) limit set, and execs the emulator last of all. So the guard waits until the guest's
//! process has executed the emulator: from there on libvirt does not touch the limit, and neither the
//! wrapper (which waits for it) nor QEMU (which has to initialise first) has locked anything. `search` finds that process.
//!
//! The guard is a process of its own. It holds no stream of the hook, because libvirt waits for their end, keeps only the two
//! capabilities that it needs, and ends when the guest's state file or the daemon goes. It acts only on a pinned process that
//! is proven to be the guest's, and never lowers a limit.

mod search;

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{ForkResult, close, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::host::guest_process::Identity;
use crate::host::libvirt::Daemon;
use crate::limit::Limit;
use crate::note::{Code, Level, Note};
use crate::state::{self, store};
use crate::sys::fs;
use crate::sys::journal;
use crate::sys::process;

use search::{Evidence, Search};

/// How often the guard looks. exec to the first mapping takes QEMU tens of milliseconds.
const INTERVAL: Duration = Duration::from_millis(1);
/// The same where the wrapper waits: libvirt's child lives for longer than that before it executes the emulator.
const WAITED_FOR_INTERVAL: Duration = Duration::from_millis(10);
/// On a host without processor time, where the wrapper waits, the guard sleeps for so many times as long as it looked, and at
/// most this long: twenty guards must leave time to twenty starts.
const SHARE: u32 = 4;
const LONGEST_INTERVAL: Duration = Duration::from_millis(100);
/// After this many polls the start is slow for another reason, such as the relabelling of disks.
const PATIENT_AFTER: u32 = 20_000;
const PATIENT_INTERVAL: Duration = Duration::from_millis(10);

/// When the kernel ends the guard, seconds: after its own deadline.
const DEADLINE: u32 = 16 * 60;

/// What a guard has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What tells the guest's process from all others.
    pub guest: Identity,
    /// What the guest needs.
    pub limit: Limit,
    /// No wrapper waits for the limit, so every millisecond counts.
    pub urgent: bool,
}

/// Everything that has to be looked up while the hook still runs, because the daemon may be gone later.
struct Watch {
    order: Order,
    /// The guest's state file; when it goes, the start is over.
    state: File,
    daemon: Daemon,
    /// The number that the kernel gave out last.
    last: Option<i32>,
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
    let watch = Watch {
        state: fs::open(&store::state_file(order.guest.uuid)).map_err(|error| failed("state file", &error))?,
        daemon: Daemon::of_this_hook().map_err(|error| failed("daemon", &error))?,
        last: process::last_number(),
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
    Raised(process::LockLimit, Evidence),
    StateGone(String),
    DaemonGone,
    TooLate(String),
    Failed(std::io::Error),
}

impl Watch {
    fn live(self) {
        process::end_after(DEADLINE);
        detach(&[self.state.as_raw_fd(), self.daemon.process.descriptor()]);
        if self.order.urgent {
            process::prefer_scheduling();
        } else {
            process::lower_nice();
        }
        let end = match keep_only(&process::RAISES_LIMITS) {
            Ok(()) => self.watch(),
            Err(error) => End::Failed(std::io::Error::other(error)),
        };
        if matches!(end, End::DaemonGone) {
            self.remove_state();
        }
        let (level, what) = match &end {
            End::Raised(limit, evidence) => {
                (Level::Info, format!("locked-memory limit raised to {:#}; {}", limit.hard, evidence.words()))
            }
            End::StateGone(missing) => (Level::Info, format!("the start is over, no limit was raised: {missing}")),
            End::DaemonGone => (Level::Info, "the daemon ended before the guest had a process".to_owned()),
            End::TooLate(missing) => (Level::Warning, format!("no limit was raised in time: {missing}")),
            End::Failed(error) => (Level::Warning, format!("the locked-memory limit was not raised: {error}")),
        };
        let uuid = self.order.guest.uuid.to_string();
        journal::log(level, &format!("guest {uuid}: {what}"), &[("VIOMMU_DOMAIN_UUID", &uuid)]);
    }

    /// A daemon that ended in the middle of a start has forgotten it, so no hook will see its end.
    fn remove_state(&self) {
        // Not that of a next start, which has replaced it.
        if !self.state_is_gone() {
            let _ = fs::remove(&store::state_file(self.order.guest.uuid));
        }
    }

    /// An unlinked or replaced state file has no name left.
    fn state_is_gone(&self) -> bool {
        self.state.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    fn watch(&self) -> End {
        let deadline = process::boot_clock().as_secs() + state::MAX_AGE;
        let mut search = Search::new(&self.order.guest, self.order.urgent, &self.daemon, self.last);
        for look in 0u32.. {
            if self.state_is_gone() {
                return End::StateGone(search.missing());
            }
            let daemon_has_ended = self.daemon.process.has_ended();
            let began = process::boot_clock();
            if let Some((process, evidence)) = search.look() {
                // For `started`, `memlock` and doctor.
                if let Some(started) = process::start_ticks(process.pid()) {
                    let _ = store::write_process(self.order.guest.uuid, process.pid(), started);
                }
                let raised = process.raise_lock_limit(self.order.limit);
                return raised.map_or_else(End::Failed, |limit| End::Raised(limit, evidence));
            }
            if daemon_has_ended && !search.has_children() {
                return End::DaemonGone;
            }
            if process::boot_clock().as_secs() > deadline {
                return End::TooLate(search.missing());
            }
            let spent = process::boot_clock().saturating_sub(began);
            let interval = match look {
                _ if !self.order.urgent => (spent * SHARE).clamp(WAITED_FOR_INTERVAL, LONGEST_INTERVAL),
                0..PATIENT_AFTER => INTERVAL,
                _ => PATIENT_INTERVAL,
            };
            if daemon_has_ended {
                // A poll would return at once.
                std::thread::sleep(interval);
            } else {
                self.daemon.process.wait_for_end(interval);
            }
        }
        End::TooLate(search.missing())
    }
}

/// Leaves the hook's session, directory and streams behind.
fn detach(kept: &[RawFd]) {
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
