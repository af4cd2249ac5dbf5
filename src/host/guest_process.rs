//! Which process is a guest's QEMU.
//!
//! Everything that QEMU's user may write proves nothing: a command line, an executable, a pidfile or status file of libvirt
//! where their directory is that user's (libvirt 11.3). A cgroup is root's work, but libvirt moves the process there whose
//! number it reads in the pidfile, so that it proves something only where the pidfile does. What always proves it is a child
//! of the daemon, which `guard` sees and records. A security label is no evidence: an unconfined process of QEMU's user may
//! take on the label of any guest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::domain::{Domain, Uuid};
use crate::qemu::{self, Invocation};
use crate::state::store;
use crate::sys::pinned::Pinned;
use crate::sys::{fs, process};

/// Where libvirt has the pidfiles of guests.
const PIDFILES: &str = "/run/libvirt/qemu";

/// Where a host has its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Why no process is known to be the guest's, for messages.
pub const MISSING: &str = "no guard has recorded its process, and no process is in libvirt's cgroup for it on a host whose pidfiles are root's";

/// What tells a guest's process from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Stands on QEMU's command line.
    pub uuid: Uuid,
    /// libvirt's number for the guest.
    id: Option<u32>,
    name: String,
}

impl Identity {
    /// The identity of a guest that runs or starts; none for a domain without UUID.
    #[must_use]
    pub fn of(domain: &Domain) -> Option<Identity> {
        Some(Identity { uuid: domain.uuid?, id: domain.id, name: domain.name.clone() })
    }

    /// Whether QEMU was started for this guest, by its arguments. Any process can have these.
    #[must_use]
    pub fn is_named_by(&self, arguments: &[OsString]) -> bool {
        guest_of(arguments) == Some(self.uuid)
    }

    /// Whether a process is this guest's because libvirt has put it into the guest's cgroup, and only root could make
    /// libvirt take another process for it.
    #[must_use]
    pub fn owns(&self, process: &Pinned) -> bool {
        pidfiles_are_roots() && self.has_in_cgroup(process)
    }

    /// The process of a guest: the one that its guard has recorded, or one in its cgroup that was started for it. The guest
    /// itself can have made more of those; QEMU is the oldest.
    ///
    /// The command line comes last: any process can make its own one megabytes long, and the hook looks with a lock held.
    #[must_use]
    pub fn process(&self) -> Option<Pinned> {
        let recorded = store::process(self.uuid).and_then(|(pid, started)| {
            let process = Pinned::open(pid).ok()?;
            let is_same = process::start_ticks(pid) == Some(started) && !process.has_ended();
            is_same.then_some(process)
        });
        let is_guest = |process: &Pinned| self.has_in_cgroup(process) && self.is_named_by(&process.arguments());
        recorded.or_else(|| pidfiles_are_roots().then(|| oldest(process::all().into_iter(), is_guest)).flatten())
    }

    /// The answer to `question` that all processes have in common that name the guest and were started after a time (seconds of
    /// the boot clock). Any process can name the guest, so the result is `None` where two answers differ, or where the command
    /// lines of all new processes are too long together.
    #[must_use]
    pub fn agreed_since<T: PartialEq>(&self, boot_seconds: u64, question: impl Fn(&[OsString]) -> T) -> Option<T> {
        /// Of all new processes together. QEMU's command line has some tens of thousands.
        const MOST_BYTES: usize = 1 << 20;
        let is_new = |pid: &Pid| process::start_ticks(*pid).is_some_and(|ticks| ticks / process::TICKS >= boot_seconds);
        let mut left = MOST_BYTES;
        let mut agreed = None;
        for process in process::all().into_iter().filter(is_new).filter_map(|pid| Pinned::open(pid).ok()) {
            let arguments = process.arguments_within(left)?;
            left = left.saturating_sub(arguments.iter().map(|argument| argument.len() + 1).sum());
            if self.is_named_by(&arguments) {
                let answer = question(&arguments);
                if agreed.as_ref().is_some_and(|agreed| *agreed != answer) {
                    return None;
                }
                agreed = Some(answer);
            }
        }
        agreed
    }

    /// Whether libvirt has put a process into this guest's cgroup. Only root can: each directory up to the root of the
    /// hierarchy is root's, so that no other user can have made the cgroup, or can move a process into it.
    #[must_use]
    pub fn has_in_cgroup(&self, process: &Pinned) -> bool {
        let memberships = process.text("cgroup", 64 << 10).unwrap_or_default();
        memberships.lines().filter_map(|line| self.place(line)).any(|(mounts, path)| {
            mounts.iter().any(|mount| {
                let directory = mount.join(path);
                let mut up_to_the_root = directory.ancestors().take_while(|above| above.starts_with(CGROUPS));
                up_to_the_root.all(|above| fs::check_trusted_directory(above).is_ok())
            })
        })
    }

    /// Where this guest's cgroup would be, of a line of `/proc/PID/cgroup`: the places where its hierarchy may be mounted,
    /// and the path in it.
    fn place<'a>(&self, line: &'a str) -> Option<([PathBuf; 2], &'a str)> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.strip_prefix('/')?;
        let mut end = 0;
        let found = path.split('/').find_map(|component| {
            let start = end;
            end = start + component.len() + 1;
            self.is_cgroup(component).then_some(start + component.len())
        })?;
        let path = path.get(..found)?;
        let mount = match controllers {
            "" => "unified",
            "name=systemd" => "systemd",
            named => named,
        };
        let plain = |text: &str| text.split('/').all(|component| !component.is_empty() && component != "..");
        let mounts = [PathBuf::from(CGROUPS), Path::new(CGROUPS).join(mount)];
        (plain(path) && plain(mount)).then_some((mounts, path))
    }

    /// Whether libvirt gives this guest's cgroup a name: a scope of systemd's machined, or without machined a directory
    /// (`virDomainDriverGenerateMachineName`, `virSystemdMakeScopeName`, `virCgroupNewDomainPartition`).
    ///
    /// The number makes it unique while the daemon runs. Which dots and hyphens of the guest's name stay depends on
    /// libvirt's version, so that letters and digits are compared.
    fn is_cgroup(&self, component: &str) -> bool {
        /// A machine's name from this length on may lack the end of the guest's, bytes.
        const CUT: usize = 60;
        let component = component.replace("\\x2d", "-");
        let machine = component
            .strip_prefix("machine-")
            .and_then(|machine| machine.strip_suffix(".scope"))
            .or_else(|| component.strip_suffix(".libvirt-qemu"));
        let number = self.id.map(|id| format!("qemu-{id}")).unwrap_or_default();
        let Some((machine, rest)) = machine.and_then(|machine| Some((machine, machine.strip_prefix(&number)?))) else {
            return false;
        };
        let letters = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let (found, wanted) = (letters(rest), letters(&self.name));
        let cut = machine.len() >= CUT && wanted.starts_with(&found);
        self.id.is_some() && (rest.is_empty() || rest.starts_with('-')) && (found == wanted || cut)
    }
}

fn pidfiles_are_roots() -> bool {
    fs::check_trusted_directory(Path::new(PIDFILES)).is_ok()
}

fn guest_of(arguments: &[OsString]) -> Option<Uuid> {
    match qemu::classify(arguments) {
        Invocation::Guest { uuid, .. } => uuid.parse().ok(),
        Invocation::Ambiguous | Invocation::Other => None,
    }
}

/// The processes of this host that were started as a guest's QEMU, or say so.
pub struct Guests(Vec<(Uuid, Pid)>);

impl Guests {
    /// Looks at all processes.
    #[must_use]
    pub fn look() -> Guests {
        let guest = |pid| Some((guest_of(&Pinned::open(pid).ok()?.arguments())?, pid));
        Guests(process::all().into_iter().filter_map(guest).collect())
    }

    /// The process that says that it is the guest's: for a report, where nothing proves it. No limit may be raised for it.
    #[must_use]
    pub fn unproven(&self, guest: &Identity) -> Option<Pinned> {
        let named = self.0.iter().filter(|(uuid, _)| *uuid == guest.uuid).map(|(_, pid)| *pid);
        oldest(named, |process| guest.is_named_by(&process.arguments()))
    }
}

fn oldest(processes: impl Iterator<Item = Pid>, is_guest: impl Fn(&Pinned) -> bool) -> Option<Pinned> {
    let found = processes.filter_map(|pid| {
        let process = Pinned::open(pid).ok().filter(&is_guest)?;
        Some((process::start_ticks(pid)?, process))
    });
    found.min_by_key(|(started, _)| *started).map(|(_, process)| process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        let uuid = "3a21c2ee-5ece-4225-baa4-9a11258f601e".parse().ok();
        Identity::of(&Domain { uuid, id: Some(3), name: name.to_owned(), ..Domain::default() }).unwrap()
    }

    // The names are from libvirt's tests/virsystemdtest.c, `TEST_MACHINE` and `testScopeName`, with the number 3.
    #[test]
    fn cgroups_have_libvirts_names() {
        let digits = "123456789012345678901234567890123456789012345678901234567890";
        for (name, machine) in [
            ("demo", "qemu-3-demo"),
            ("demo-name", "qemu-3-demo-name"),
            ("demo!name", "qemu-3-demoname"),
            (".demo", "qemu-3-.demo"),
            (".demo", "qemu-3-demo"),
            ("bull\u{1f4a9}", "qemu-3-bull"),
            ("demo..name", "qemu-3-demo.name"),
            ("\u{1f4a9}", "qemu-3"),
            ("victim ", "qemu-3-victim"),
            (digits, "qemu-3-123456789012345678901234567890123456789012345678901234567"),
        ] {
            let identity = identity(name);
            assert!(identity.is_cgroup(&format!("machine-{}.scope", machine.replace('-', "\\x2d"))), "{name}");
            assert!(identity.is_cgroup(&format!("{machine}.libvirt-qemu")), "{name}");
        }
        for (name, component) in [
            ("demo", "qemu-3-demo"),
            ("demo", "qemu-3-demo2.libvirt-qemu"),
            ("demo", "qemu-3-dem.libvirt-qemu"),
            ("demo", "qemu-33-demo.libvirt-qemu"),
            ("3-demo", "qemu-33-demo.libvirt-qemu"),
            ("demo", "qemu-4-demo.libvirt-qemu"),
            ("demo", "lxc-3-demo.libvirt-qemu"),
            ("demo", "qemu-3-demo.libvirt-lxc"),
            ("demo", r"machine-qemu\x2d3\x2ddemo.slice"),
        ] {
            assert!(!identity(name).is_cgroup(component), "{name} {component}");
        }
        assert!(!Identity { id: None, ..identity("demo") }.is_cgroup("qemu-3-demo.libvirt-qemu"));
    }

    #[test]
    fn places_are_below_the_hierarchy_that_the_line_names() {
        let identity = identity("demo");
        let found = |line: &str| {
            let ([_, mount], path) = identity.place(line)?;
            Some((mount.display().to_string(), path.to_owned()))
        };
        let at = |mount: &str, path: &str| Some((format!("/sys/fs/cgroup/{mount}"), path.to_owned()));
        let scope = r"machine.slice/machine-qemu\x2d3\x2ddemo.scope";
        assert_eq!(found(&format!("0::/{scope}/libvirt/emulator")), at("unified", scope));
        assert_eq!(found(&format!("0::/{scope}")), at("unified", scope));
        assert_eq!(found(&format!("1:name=systemd:/{scope}")), at("systemd", scope));
        assert_eq!(
            found("4:cpu,cpuacct:/machine/qemu-3-demo.libvirt-qemu/emulator"),
            at("cpu,cpuacct", "machine/qemu-3-demo.libvirt-qemu")
        );
        for line in [
            "",
            "0::/",
            "0::/machine/qemu-4-demo.libvirt-qemu",
            "0::/../machine/qemu-3-demo.libvirt-qemu",
            "0::machine/qemu-3-demo.libvirt-qemu",
            "5:../..:/machine/qemu-3-demo.libvirt-qemu",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn long_command_lines_of_others_are_not_read() {
        #![expect(clippy::disallowed_methods, reason = "the test needs another process")]
        const LONG: usize = 100 << 10;
        let mut other = std::process::Command::new("sh");
        let pipe = std::process::Stdio::piped;
        other.args(["-c", "echo; read -r line"]).args(vec!["x".repeat(LONG); 10]).stdin(pipe()).stdout(pipe());
        let mut other = other.spawn().unwrap();
        std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let before = process::bytes_read();
        assert!(identity("demo").process().is_none());
        let after = process::bytes_read();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(after - before < 10 * LONG as u64, "{} bytes", after - before);
    }

    #[test]
    fn new_processes_have_to_agree_within_a_bound() {
        #![expect(clippy::disallowed_methods, reason = "the test needs other processes")]
        // Another run of this test on the machine has another guest.
        let uuid = &format!("3a21c2ee-5ece-4225-baa4-{:012x}", std::process::id());
        let identity = Identity::of(&Domain { uuid: uuid.parse().ok(), ..Domain::default() }).unwrap();
        let began = process::boot_clock().as_secs();
        let pipe = std::process::Stdio::piped;
        let start = |words: &[String]| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "echo; read -r line", "qemu", "-name", "guest=a", "-uuid", uuid]).args(words);
            let mut child = command.stdin(pipe()).stdout(pipe()).spawn().unwrap();
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            child
        };
        let last = |arguments: &[OsString]| arguments.last().cloned();
        let agreed = |since| identity.agreed_since(since, last);
        assert_eq!(agreed(began), None);
        let mut children = vec![start(&["one".to_owned()]), start(&["one".to_owned()])];
        assert_eq!(agreed(began), Some(Some(OsString::from("one"))));
        assert_eq!(agreed(began + 1000), None, "an older process is no evidence");
        children.push(start(&["two".to_owned()]));
        assert_eq!(agreed(began), None);
        for mut child in children.drain(1..) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(agreed(began), Some(Some(OsString::from("one"))));
        children.push(start(&vec!["x".repeat(100 << 10); 11]));
        let before = process::bytes_read();
        assert_eq!(agreed(began), None);
        assert!(process::bytes_read() - before < 2 << 20);
        for mut child in children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_guest_is_named_by_its_uuid_alone() {
        let identity = identity("demo");
        let uuid = "3a21c2ee-5ece-4225-baa4-9a11258f601e";
        let named = |words: &[&str]| identity.is_named_by(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(named(&["-name", "guest=other", "-uuid", uuid]));
        assert!(!named(&["-name", "guest=demo", "-uuid", "00000000-0000-0000-0000-000000000000"]));
        assert!(!named(&["-name", "guest=demo"]) && !named(&[]));
        assert_eq!(Identity::of(&Domain::default()), None);
    }
}
