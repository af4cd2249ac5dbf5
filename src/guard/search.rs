//! The search for the process of one guest among those that came after the hook, look by look.
//!
//! A process is the guest's QEMU if its command line names the guest and one of these holds: libvirt has put it into the
//! guest's cgroup, which happens before the emulator's exec; or it was a child of the daemon that had not executed anything
//! until a moment ago, so that no code of a guest can have run in it. Both outlast a process that is looked at late, the
//! second only by [`FRESH`].

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use rustix::process::Pid;

use crate::host::guest_process::Identity;
use crate::host::libvirt::{Daemon, Image};
use crate::sys::pinned::Pinned;
use crate::sys::process;

/// How long after a look at a child of the daemon its first command line is believed. A QEMU needs longer from its exec to
/// the first byte that a tenant wrote.
const FRESH: Duration = Duration::from_millis(20);
/// How long a number is tried that no process has yet: the kernel gives out the number first.
const BORN_WITHIN: Duration = Duration::from_millis(100);
/// More new numbers than that since the last look, and all processes are looked at instead.
const MOST_NUMBERS: i32 = 1024;
/// When all processes are looked at for the first time, in case that the number given out last is not to be had. The time
/// doubles each time.
const ALL_AFTER: Duration = Duration::from_secs(1);

/// What shows whose process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    Cgroup,
    Child,
}

impl Evidence {
    pub(super) fn words(self) -> &'static str {
        match self {
            Evidence::Cgroup => "the process is in libvirt's cgroup of the guest",
            Evidence::Child => "the process was the daemon's child and executed the guest's emulator",
        }
    }
}

/// A process that may become the guest's.
struct Candidate {
    process: Pinned,
    image: Image,
    /// When it was last seen with the daemon's image, or first seen without.
    seen: Duration,
}

enum Verdict {
    Guest(Evidence),
    Undecided,
    Other,
}

pub(super) struct Search<'a> {
    guest: &'a Identity,
    daemon: &'a Daemon,
    /// The last number that was looked at.
    last: Option<i32>,
    /// Numbers without a process, and when they were first tried.
    unborn: HashMap<Pid, Duration>,
    candidates: Vec<Candidate>,
    next_listing: Duration,
    listings: Duration,
    unproven: Option<Pid>,
}

impl<'a> Search<'a> {
    /// A search that begins behind the number that was given out last when the hook ran.
    pub(super) fn new(guest: &'a Identity, daemon: &'a Daemon, last: Option<i32>) -> Search<'a> {
        Search {
            guest,
            daemon,
            last,
            unborn: HashMap::new(),
            candidates: Vec::new(),
            next_listing: process::boot_clock() + ALL_AFTER,
            listings: ALL_AFTER,
            unproven: None,
        }
    }

    /// Looks once.
    pub(super) fn look(&mut self) -> Option<(Pinned, Evidence)> {
        let now = process::boot_clock();
        for pid in self.numbers(now) {
            match Pinned::open(pid) {
                Ok(process) => self.candidates.push(Candidate { process, image: Image::None, seen: now }),
                // Not born yet, or gone already; any other error is that of a thread.
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {
                    self.unborn.entry(pid).or_insert(now);
                }
                Err(_) => {}
            }
        }
        self.unborn.retain(|_, tried| now.saturating_sub(*tried) < BORN_WITHIN);
        for mut candidate in std::mem::take(&mut self.candidates) {
            match self.judge(&mut candidate) {
                Verdict::Guest(evidence) => return Some((candidate.process, evidence)),
                Verdict::Undecided => self.candidates.push(candidate),
                Verdict::Other => {}
            }
        }
        None
    }

    /// Whether a child of the daemon is left that may become the guest's process.
    pub(super) fn has_children(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.image == Image::Child)
    }

    /// Why no process was taken for the guest's.
    pub(super) fn missing(&self) -> String {
        match self.unproven {
            Some(pid) => format!(
                "process {} names the guest, but libvirt has not put it into the guest's cgroup, and it was not seen as a child of \
                 the daemon",
                pid.as_raw_nonzero()
            ),
            None => "no process that names the guest was executed".to_owned(),
        }
    }

    /// The numbers to look at: those that were given out since the last look, and those that had no process then.
    fn numbers(&mut self, now: Duration) -> Vec<Pid> {
        let last = std::mem::replace(&mut self.last, process::last_number());
        let new = last.zip(self.last).map(|(old, new)| (old, new.wrapping_sub(old)));
        let mut numbers: Vec<Pid> = match new {
            Some((old, count @ 0..=MOST_NUMBERS)) if now < self.next_listing => {
                (1..=count).filter_map(|next| Pid::from_raw(old + next)).chain(self.unborn.keys().copied()).collect()
            }
            _ => {
                self.listings *= 2;
                self.next_listing = now + self.listings;
                process::all()
            }
        };
        numbers.retain(|pid| self.candidates.iter().all(|candidate| candidate.process.pid() != *pid));
        numbers
    }

    fn judge(&mut self, candidate: &mut Candidate) -> Verdict {
        let now = process::boot_clock();
        match self.daemon.image_of(&candidate.process) {
            Ok(Image::None) => self.executed(candidate),
            Ok(image) => {
                candidate.image = image;
                candidate.seen = now;
                Verdict::Undecided
            }
            // A kernel thread has no executable; a process that has ended, neither.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Verdict::Other,
            Err(_) => self.executed(candidate),
        }
    }

    fn executed(&mut self, candidate: &Candidate) -> Verdict {
        let arguments = candidate.process.arguments();
        let age = process::boot_clock().saturating_sub(candidate.seen);
        if arguments.is_empty() && age <= FRESH {
            // In the middle of execve(2), the new program has no arguments yet.
            return Verdict::Undecided;
        }
        if !self.guest.is_named_by(&arguments) {
            return Verdict::Other;
        }
        if self.guest.owns_cgroup_of(&candidate.process) {
            return Verdict::Guest(Evidence::Cgroup);
        }
        if candidate.image == Image::Child && age <= FRESH {
            return Verdict::Guest(Evidence::Child);
        }
        self.unproven = Some(candidate.process.pid());
        Verdict::Other
    }
}
