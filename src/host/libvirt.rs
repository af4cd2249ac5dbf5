//! libvirt's processes: the daemon that runs the hook, and the QEMU of a guest, by libvirt's pidfile.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::sys::{fs, process};

/// Where libvirt writes the pid of a domain's emulator. The name is escaped as XML (`virPidFileBuildPath`).
#[must_use]
pub fn pidfile(domain: &str) -> PathBuf {
    let mut name = String::with_capacity(domain.len());
    for c in domain.chars() {
        match c {
            '&' => name.push_str("&amp;"),
            '<' => name.push_str("&lt;"),
            '>' => name.push_str("&gt;"),
            '"' => name.push_str("&quot;"),
            '\'' => name.push_str("&apos;"),
            // A name with a slash has no pidfile, and must not lead anywhere else.
            '/' => {}
            c => name.push(c),
        }
    }
    PathBuf::from(format!("/run/libvirt/qemu/{name}.pid"))
}

/// The guest's process, pinned. The lock is read again after pinning: it ends with the process, so the process that holds it
/// then is the one that was pinned.
#[must_use]
pub fn pinned(pidfile: &Path) -> Option<(Pid, OwnedFd)> {
    let pid = locked_pid(pidfile)?;
    let pidfd = process::pin(pid).ok()?;
    (locked_pid(pidfile) == Some(pid)).then_some((pid, pidfd))
}

/// The process that holds libvirt's lock on a pidfile, if it is the one whose pid the file holds.
///
/// libvirt's child locks the file's first byte before it writes its pid, and QEMU keeps the lock to its end
/// (`virPidFileAcquirePathFull`, `virFileLock`). QEMU has inherited the descriptor and can write any number into the file;
/// the kernel names the holder of the lock.
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

/// The daemon that runs this hook: the nearest ancestor that is one. A hook may be called through a shell script, whose own
/// executable does not tell when libvirt's child has left the daemon's.
#[must_use]
pub fn daemon() -> Option<Pid> {
    let mut pid = rustix::process::getppid()?;
    for _ in 0..8 {
        let link = fs::link_name(Path::new(&format!("/proc/{}/exe", pid.as_raw_nonzero())))?;
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
    fn finds_libvirts_pidfile() {
        // virPidFileBuildPath writes the name through virBufferEscapeString.
        assert_eq!(
            pidfile("a&b<c>'d'\"e\""),
            Path::new("/run/libvirt/qemu/a&amp;b&lt;c&gt;&apos;d&apos;&quot;e&quot;.pid")
        );
        assert_eq!(pidfile("../../etc/passwd"), Path::new("/run/libvirt/qemu/....etcpasswd.pid"));
    }
}
