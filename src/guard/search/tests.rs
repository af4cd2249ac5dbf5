#![expect(clippy::disallowed_methods, reason = "the tests need other processes")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use super::*;
use crate::domain::Domain;

// One UUID for each test, because the tests see each other's processes.
const UUIDS: [&str; 3] = [
    "3a21c2ee-5ece-4225-baa4-9a1125800001",
    "3a21c2ee-5ece-4225-baa4-9a1125800002",
    "3a21c2ee-5ece-4225-baa4-9a1125800003",
];

fn guest(uuid: &str) -> Identity {
    Identity::of(&Domain { uuid: uuid.parse().ok(), ..Domain::default() }).unwrap()
}

/// This process in the role of the daemon.
fn daemon() -> Daemon {
    Daemon::of(rustix::process::getpid()).unwrap()
}

/// A command line with the guest's UUID.
fn emulator(uuid: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "read -r line", "qemu", "-name", "guest=demo", "-uuid", uuid]).stdin(Stdio::piped());
    command
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

/// Waits for a change that takes milliseconds, for a minute at most.
fn until(mut happened: impl FnMut() -> bool) {
    let begin = process::boot_clock();
    while !happened() {
        assert!(
            process::boot_clock().saturating_sub(begin) < Duration::from_secs(60),
            "the condition did not become true"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A child of this process before its exec, like libvirt's child at first.
struct Waiting {
    pid: Pid,
    stream: UnixStream,
    thread: JoinHandle<Child>,
}

impl Waiting {
    #[expect(unsafe_code, reason = "the child must wait between fork and exec")]
    fn start(uuid: &str) -> Waiting {
        let (mut inside, mut stream) = UnixStream::pair().unwrap();
        let mut command = emulator(uuid);
        // SAFETY: the closure makes system calls, and allocates no memory.
        unsafe {
            command.pre_exec(move || {
                inside.write_all(&rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes())?;
                inside.read_exact(&mut [0])
            })
        };
        let thread = thread::spawn(move || command.spawn().unwrap());
        let mut number = [0; 4];
        stream.read_exact(&mut number).unwrap();
        Waiting { pid: Pid::from_raw(i32::from_ne_bytes(number)).unwrap(), stream, thread }
    }

    /// Searches until the child is a candidate.
    fn seen_by<'a>(&self, search: &'a mut Search<'_>) -> &'a mut Candidate {
        let is_it = |candidate: &Candidate| candidate.process.pid() == self.pid && candidate.child_at.is_some();
        until(|| search.candidates.iter().any(is_it) || search.look().is_some());
        assert!(search.candidates.iter().any(is_it));
        search.candidates.iter_mut().find(|candidate| is_it(candidate)).unwrap()
    }

    fn execute(mut self) -> Child {
        self.stream.write_all(&[0]).unwrap();
        self.thread.join().unwrap()
    }
}

#[test]
fn a_child_of_the_daemon_is_the_guests_once_it_names_the_guest() {
    let (guest, daemon) = (guest(UUIDS[0]), daemon());
    for urgent in [true, false] {
        let mut search = Search::new(&guest, urgent, &daemon, process::last_number());
        let waiting = Waiting::start(UUIDS[0]);
        waiting.seen_by(&mut search);
        assert!(search.has_children());
        let child = waiting.execute();
        let found = (0..1000).find_map(|_| {
            thread::sleep(Duration::from_millis(1));
            search.look()
        });
        let (process, evidence) = found.unwrap();
        assert_eq!((process.pid(), evidence), (pid_of(&child), Evidence::Child));
        end(child);
    }
}

#[test]
fn an_old_observation_of_a_child_is_no_evidence() {
    let (guest, daemon) = (guest(UUIDS[1]), daemon());
    let mut search = Search::new(&guest, true, &daemon, process::last_number());
    let waiting = Waiting::start(UUIDS[1]);
    let candidate = waiting.seen_by(&mut search);
    candidate.child_at = candidate.child_at.map(|at| at.saturating_sub(FRESH));
    let child = waiting.execute();
    until(|| search.unproven.is_some() || search.look().is_some());
    let unproven = format!("process {} names the guest, but it was not seen", child.id());
    assert!(search.missing().starts_with(&unproven), "{}", search.missing());
    end(child);
}

#[test]
fn a_process_that_only_names_the_guest_is_not_the_guests() {
    let (guest, daemon) = (guest(UUIDS[2]), daemon());
    let mut search = Search::new(&guest, true, &daemon, process::last_number());
    // Its long command line must not cost the guard time.
    let child = emulator(UUIDS[2]).args(vec!["x".repeat(100 << 10); 10]).spawn().unwrap();
    let before = process::bytes_read();
    for _ in 0..20 {
        assert!(search.look().is_none());
        thread::sleep(Duration::from_millis(1));
    }
    let read = process::bytes_read() - before;
    assert!(read < 1 << 20, "{read} bytes");
    let missing = "no child of the daemon was seen that executed the guest's emulator";
    assert_eq!((search.unproven, search.missing().as_str()), (None, missing));
    end(child);
}

// A host has thousands of kernel threads, and daemons without an argument.
#[test]
fn old_processes_without_arguments_are_not_watched() {
    let (guest, daemon) = (guest(UUIDS[0]), daemon());
    let other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut search = Search::new(&guest, false, &daemon, None);
    search.listed = [pid_of(&other)].into();
    assert!(search.look().is_none());
    let watched: Vec<_> = search.candidates.iter().map(|candidate| candidate.process.pid()).collect();
    assert!(!watched.contains(&pid_of(&other)), "{watched:?}");
    end(other);
}

// This bound makes the guard read a child of the daemon again in time.
#[test]
fn a_listing_is_spread_over_several_calls() {
    let (guest, daemon) = (guest(UUIDS[0]), daemon());
    let mut search = Search::new(&guest, false, &daemon, None);
    search.listed = vec![rustix::process::getpid(); 3 * LISTED_AT_ONCE].into();
    for left in [2, 1, 0] {
        assert!(search.look().is_none());
        assert_eq!(search.listed.len(), left * LISTED_AT_ONCE);
    }
}
