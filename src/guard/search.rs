//! The search for the process of one guest among those that came after the hook, look by look.
//!
//! A process is the guest's QEMU if its command line names the guest and it was a child of the daemon that had not executed
//! anything until a moment ago, so that no code of a guest can have run in it. The moment may be longer if the process is in
//! libvirt's cgroup of the guest. Where libvirt's pidfiles are root's, that cgroup is enough by itself.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use rustix::process::Pid;

use crate::host::guest_process::Identity;
use crate::host::libvirt::Daemon;
use crate::sys::pinned::Pinned;
use crate::sys::process;

/// How long after a look at a child of the daemon its first command line is believed. To forge it, a guest that starts at the
/// same time would have to take over its QEMU within that time, and the guard to get no processor time meanwhile.
const FRESH: Duration = Duration::from_secs(1);
/// The same for a process that libvirt has put into the guest's cgroup: as long as the wrapper waits. Where QEMU's user can
/// write pidfiles, it can choose which process libvirt puts there, but only a child of the daemon counts.
const FRESH_IN_CGROUP: Duration = Duration::from_secs(10);
/// A number that no process has yet, because the kernel gives out the number first, is tried again after this time, and then
/// after twice as much, [`MOST_TRIES`] times in all, which takes ten seconds: a host without processor time stops fork(2) in
/// between. Most such numbers are those of processes that have ended.
const BORN_AFTER: Duration = Duration::from_millis(5);
const MOST_TRIES: u32 = 12;
/// The time between two looks at a child, for each child that there is, where the wrapper waits: twenty guards watch twenty starts.
const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The longest time between two looks at a child; far less than [`FRESH`].
const AGAIN_AT_LAST: Duration = Duration::from_millis(200);
/// More new numbers than that since the last look, and only those are looked at that have a process.
const MOST_NUMBERS: i32 = 1024;
/// When all processes are looked at for the first time, in case that the number given out last is not to be had. The time
/// doubles each time.
const ALL_AFTER: Duration = Duration::from_secs(3);
/// Of all processes so many are looked at in one look, so that the daemon's children are looked at in between: a host has
/// thousands of processes, and what a look at a child shows is old after [`FRESH`].
const LISTED_AT_ONCE: usize = 64;

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
    /// When it was first seen, if its number was new then. Later when it last had the daemon's arguments, where the daemon's
    /// layout is not known.
    seen: Option<Duration>,
    /// When it was last seen as a child of the daemon that has not executed anything.
    child_at: Option<Duration>,
}

enum Verdict {
    Guest(Evidence),
    Undecided,
    Other,
}

pub(super) struct Search<'a> {
    guest: &'a Identity,
    daemon: &'a Daemon,
    /// No wrapper waits, so that each look is at every candidate.
    urgent: bool,
    /// The last number that was looked at.
    last: Option<i32>,
    /// Numbers without a process: how often they were tried, and when to try them again.
    unborn: HashMap<Pid, (u32, Duration)>,
    candidates: Vec<Candidate>,
    /// What is left of a listing of all processes.
    listed: VecDeque<Pid>,
    next_listing: Duration,
    listings: Duration,
    unproven: Option<Pid>,
}

impl<'a> Search<'a> {
    /// A search that begins behind the number that was given out last when the hook ran.
    pub(super) fn new(guest: &'a Identity, urgent: bool, daemon: &'a Daemon, last: Option<i32>) -> Search<'a> {
        Search {
            guest,
            urgent,
            daemon,
            last,
            unborn: HashMap::new(),
            candidates: Vec::new(),
            listed: VecDeque::new(),
            next_listing: process::boot_clock() + ALL_AFTER,
            listings: ALL_AFTER,
            unproven: None,
        }
    }

    /// Looks once.
    pub(super) fn look(&mut self) -> Option<(Pinned, Evidence)> {
        let now = process::boot_clock();
        for pid in self.new_numbers(now) {
            self.pin(pid, now, true);
        }
        for pid in self.listed.drain(..LISTED_AT_ONCE.min(self.listed.len())).collect::<Vec<_>>() {
            self.pin(pid, now, false);
        }
        self.unborn.retain(|_, (tries, _)| *tries < MOST_TRIES);
        let children = self.candidates.iter().filter(|candidate| candidate.child_at.is_some()).count();
        let again = (AGAIN_AFTER * u32::try_from(children).unwrap_or(u32::MAX)).min(AGAIN_AT_LAST);
        for mut candidate in std::mem::take(&mut self.candidates) {
            let recent = |at: Duration| now.saturating_sub(at) < again;
            if !self.urgent && candidate.child_at.is_some_and(recent) {
                self.candidates.push(candidate);
                continue;
            }
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
        self.candidates.iter().any(|candidate| candidate.child_at.is_some())
    }

    /// Why no process was taken for the guest's.
    pub(super) fn missing(&self) -> String {
        match self.unproven {
            Some(pid) => {
                let known = self.daemon.has_layout();
                let layout = if known { "" } else { " (its memory layout is not random, or cannot be read)" };
                format!(
                    "process {pid} names the guest, but it was not seen as a child of the daemon{layout} right before, and libvirt has \
                     not put it into the guest's cgroup on a host whose pidfiles are root's"
                )
            }
            None => "no child of the daemon was seen that executed the guest's emulator".to_owned(),
        }
    }

    /// The numbers that were given out since the last look, and those that had no process then. Now and then all processes are
    /// listed, too.
    fn new_numbers(&mut self, now: Duration) -> Vec<Pid> {
        let last = std::mem::replace(&mut self.last, process::last_number());
        let mut numbers: Vec<Pid> =
            self.unborn.iter().filter(|(_, (_, next))| *next <= now).map(|(pid, _)| *pid).collect();
        match last.zip(self.last) {
            Some((old, new)) if (0..=MOST_NUMBERS).contains(&new.wrapping_sub(old)) => {
                numbers.extend((old + 1..=new).filter_map(Pid::from_raw));
            }
            Some((old, new)) => {
                let given_out = |pid: &Pid| {
                    let (above, below) = (pid.as_raw_pid() > old, pid.as_raw_pid() <= new);
                    // The numbers began again where the new one is lower.
                    if new < old { above || below } else { above && below }
                };
                numbers.extend(process::all().into_iter().filter(given_out));
            }
            None => {}
        }
        if now >= self.next_listing {
            self.listings *= 2;
            self.next_listing = now + self.listings;
            self.listed = process::all().into();
        }
        numbers
    }

    /// Makes the process of a number a candidate. A number that has none is tried again if it is new.
    fn pin(&mut self, pid: Pid, now: Duration, new: bool) {
        if self.candidates.iter().any(|candidate| candidate.process.pid() == pid) {
            return;
        }
        // The kernel gives the same error for a thread, for a number that no process has yet, and for one that ended.
        let is_known = || process::start_ticks(pid).is_some();
        let (process, known) = match Pinned::open(pid) {
            Err(_) if is_known() => (Pinned::open(pid).ok(), true),
            process => (process.ok(), false),
        };
        if let Some(process) = process {
            self.unborn.remove(&pid);
            self.candidates.push(Candidate { process, seen: new.then_some(now), child_at: None });
        } else if new && !known {
            let (tries, next) = self.unborn.entry(pid).or_insert((0, now));
            *next = now + BORN_AFTER * 2u32.saturating_pow(*tries);
            *tries += 1;
        }
    }

    fn judge(&mut self, candidate: &mut Candidate) -> Verdict {
        let now = process::boot_clock();
        match self.daemon.forked(&candidate.process) {
            Some(true) => {
                candidate.child_at = Some(now);
                return Verdict::Undecided;
            }
            // Nothing else proves anything, and any process can make its own command line one megabytes long.
            Some(false) if candidate.child_at.is_none() && !self.guest.owns(&candidate.process) => {
                return Verdict::Other;
            }
            _ => {}
        }
        let arguments = candidate.process.arguments();
        if self.guest.is_named_by(&arguments) {
            return self.executed(candidate);
        }
        let is_daemons = self.daemon.looks_like(&arguments);
        if is_daemons && !self.daemon.has_layout() {
            candidate.seen = Some(now);
        }
        // In the middle of execve(2), a program has no arguments yet. A process that has ended, and a kernel thread, have none.
        let seen = candidate.child_at.or(candidate.seen);
        let recent = seen.is_some_and(|at| now.saturating_sub(at) <= FRESH_IN_CGROUP);
        let executes = (is_daemons || arguments.is_empty()) && recent && !candidate.process.has_ended();
        if executes { Verdict::Undecided } else { Verdict::Other }
    }

    fn executed(&mut self, candidate: &Candidate) -> Verdict {
        let age = candidate.child_at.map(|at| process::boot_clock().saturating_sub(at));
        if age.is_some_and(|age| age <= FRESH || age <= FRESH_IN_CGROUP && self.guest.has_in_cgroup(&candidate.process))
        {
            return Verdict::Guest(Evidence::Child);
        }
        if self.guest.owns(&candidate.process) {
            return Verdict::Guest(Evidence::Cgroup);
        }
        self.unproven = Some(candidate.process.pid());
        Verdict::Other
    }
}

#[cfg(test)]
mod tests;
