//! libvirt's daemon: by the lock on its pidfile, and by the hook that it runs.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use rustix::process::Pid;

use crate::plan::HOST_ROUTE;
use crate::sys::fs;
use crate::sys::pinned::{MemoryLayout, Pinned};
use crate::sys::process;
use crate::xml;

/// The process that holds libvirt's lock on a pidfile, if it is the one whose pid the file holds.
///
/// libvirt locks the file's first byte before it writes the pid (`virPidFileAcquirePathFull`, `virFileLock`). This holds for a
/// file in a directory that is root's alone, as that of the daemon is. That of a guest is not: `guest_process`.
#[must_use]
pub fn locked_pid(pidfile: &Path) -> Option<Pid> {
    let file = fs::open(pidfile).ok()?;
    let mut text = String::new();
    (&file).take(32).read_to_string(&mut text).ok()?;
    let written: i32 = text.trim().parse().ok()?;
    let mut lock = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).ok()?,
        l_whence: i16::try_from(nix::libc::SEEK_SET).ok()?,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETLK(&mut lock)).ok()?;
    let held = i32::from(lock.l_type) != nix::libc::F_UNLCK && lock.l_pid == written;
    held.then(|| Pid::from_raw(written)).flatten()
}

/// The running daemon of the system that runs QEMU, by its pidfile. Daemons of other containers and of users have other
/// pidfiles.
#[must_use]
pub fn running() -> Option<(&'static str, Pid)> {
    let pid = |name: &str| locked_pid(Path::new(&format!("/run/{name}.pid")));
    ["virtqemud", "libvirtd"].into_iter().find_map(|name| Some((name, pid(name)?)))
}

/// Whether a process finds the links of the host route before every other program.
#[must_use]
pub fn has_host_route(pid: Pid) -> bool {
    let environment = fs::head(&process::file(pid, "environ"), 1 << 20).unwrap_or_default();
    let path = environment.split('\0').find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':').next().is_some_and(|first| first.rsplit('/').next() == Some(HOST_ROUTE))
}

/// The persistent definition of a domain, as libvirt stores it.
///
/// # Errors
/// What the kernel says; `InvalidData` where users other than root may have written it.
pub fn definition(domain: &str) -> io::Result<String> {
    let directory = Path::new("/etc/libvirt/qemu");
    if domain.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::check_trusted_directory(directory)?;
    fs::read_trusted(&directory.join(format!("{domain}.xml")), xml::MAX_BYTES as u64)
}

/// The daemon that runs a hook, as it was when the hook ran.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Pinned,
    arguments: Vec<OsString>,
    layout: Option<MemoryLayout>,
}

impl Daemon {
    /// The daemon that runs this hook: the nearest ancestor that is one. A hook may be called through a shell script.
    ///
    /// # Errors
    /// What the kernel says; `NotFound` where no ancestor is a daemon.
    pub fn of_this_hook() -> io::Result<Daemon> {
        let none = || {
            let message = "neither libvirtd nor virtqemud is among the hook's ancestors";
            io::Error::new(io::ErrorKind::NotFound, message)
        };
        Daemon::of(ancestor().ok_or_else(none)?)
    }

    /// A process as the daemon.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(pid: Pid) -> io::Result<Daemon> {
        let process = Pinned::open(pid)?;
        Ok(Daemon { arguments: process.arguments(), layout: process.layout(), process })
    }

    /// Whether a process has the daemon's arguments, as a child has until it executes something. Any process can have these.
    #[must_use]
    pub fn looks_like(&self, arguments: &[OsString]) -> bool {
        self.arguments == arguments
    }

    /// Whether the daemon has a layout by which its children can be told from other processes.
    #[must_use]
    pub fn has_layout(&self) -> bool {
        self.layout.is_some()
    }

    /// Whether a process is a child of the daemon that has not executed anything since fork(2): it has the daemon's layout.
    /// None where the daemon's layout is not known.
    #[must_use]
    pub fn forked(&self, process: &Pinned) -> Option<bool> {
        let layout = self.layout.as_ref()?;
        Some(process.pid() != self.process.pid() && process.layout().as_ref() == Some(layout))
    }
}

fn ancestor() -> Option<Pid> {
    let mut pid = rustix::process::getppid()?;
    for _ in 0..8 {
        let link = fs::link_name(&process::file(pid, "exe"))?;
        if matches!(link.trim_end_matches(" (deleted)"), "libvirtd" | "virtqemud") {
            return Some(pid);
        }
        pid = process::parent(pid)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_is_no_path() {
        for name in ["../../passwd", "/etc/passwd", "a/b"] {
            assert_eq!(definition(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
