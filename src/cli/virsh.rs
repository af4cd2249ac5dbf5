//! virsh, as a program: which domains there are, their XML, and defining them anew.
//!
//! Names never become options (`--domain NAME`), and what is looked at again later is named by its UUID.
#![expect(clippy::disallowed_methods, reason = "the command line may start virsh; the hook does not come here")]

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

use crate::domain::{Domain, Uuid};
use crate::note::{Code, Note};
use crate::sys::fs;
use crate::xml;

use super::Failure;

/// Which libvirt a domain's name is looked up in.
#[derive(Debug, Default, Args)]
pub(super) struct Connection {
    /// libvirt connection URI for virsh
    #[arg(long, value_name = "URI")]
    connect: Option<String>,
}

/// virsh and the libvirt that it talks to.
pub(super) struct Virsh {
    program: PathBuf,
    uri: Option<String>,
}

/// A domain as libvirt has it in store: what its next start will be.
pub(super) struct Stored {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) xml: String,
}

/// What libvirt knows about a domain besides its XML.
pub(super) struct Known {
    /// It is in libvirt's store.
    pub(super) persistent: bool,
    pub(super) running: bool,
    /// Its next start restores a saved state (`virsh managedsave`).
    pub(super) saved: bool,
}

impl Connection {
    /// Finds virsh.
    ///
    /// # Errors
    /// One sentence where it is not installed.
    pub(super) fn virsh(&self) -> Result<Virsh, String> {
        let missing = "virsh is not in PATH: install libvirt-clients (Debian, Ubuntu) or libvirt-client (Fedora, RHEL)";
        let program = find().ok_or(missing)?;
        Ok(Virsh { program, uri: self.connect.clone() })
    }
}

/// PATH without its relative directories: root may stand in a directory of somebody else's.
fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let directories = env::split_paths(&path).filter(|directory| directory.is_absolute());
    directories
        .map(|directory| directory.join("virsh"))
        .find(|file| fs::entry(file).is_some_and(|entry| entry.executable))
}

impl Virsh {
    /// Runs virsh with something on its stdin.
    ///
    /// # Errors
    /// What virsh complains about, in one line.
    fn run(&self, arguments: &[&str], stdin: &str) -> Result<Vec<u8>, String> {
        let mut command = Command::new(&self.program);
        if let Some(uri) = &self.uri {
            command.args(["--connect", uri]);
        }
        // What virsh prints is read by a program here.
        command.arg("--quiet").args(arguments).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |error| format!("{} cannot be run: {error}", self.program.display());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut pipe) = child.stdin.take() {
            // One that ends without reading says why on stderr.
            let _ = pipe.write_all(stdin.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(output.stdout);
        }
        let reason = complaint.trim().replace('\n', "; ");
        Err(if reason.is_empty() { format!("virsh ended with {}", output.status) } else { reason })
    }

    /// The XML of a domain, by its name or UUID.
    ///
    /// # Errors
    /// What virsh complains about.
    pub(super) fn dump(&self, name: &str, options: &[&str]) -> Result<Vec<u8>, String> {
        // --domain: a name that begins with a dash is no option.
        self.run(&[&["dumpxml"], options, &["--domain", name]].concat(), "")
    }

    /// A domain as it will be started next, passwords included: it is to be defined anew.
    pub(super) fn stored(&self, name: &str) -> Result<Stored, Failure> {
        let bytes = self.dump(name, &["--inactive", "--security-info"]).map_err(Failure::Usage)?;
        let document = xml::parse(&bytes)?;
        let domain = Domain::read(&document)?;
        let nameless = || Failure::Usage(format!("virsh gave no UUID for {name}"));
        let uuid = domain.uuid.ok_or_else(nameless)?;
        Ok(Stored { uuid, name: domain.name, xml: document.text().to_owned() })
    }

    /// Every domain in libvirt's store.
    pub(super) fn all(&self) -> Result<Vec<Uuid>, Failure> {
        let listed = self.run(&["list", "--uuid", "--all", "--persistent"], "").map_err(Failure::Usage)?;
        Ok(uuids(&String::from_utf8_lossy(&listed)).collect())
    }

    /// What is known about a domain. Taken from lists of UUIDs, in which no domain's name can pass for something else.
    pub(super) fn known(&self, uuid: Uuid) -> Result<Known, Failure> {
        // One by one: of several commands in one call only the last one's failure would be told.
        let listed = |which: &[&str]| {
            let list = self.run(&[&["list", "--uuid"], which].concat(), "").map_err(Failure::Usage)?;
            Ok::<bool, Failure>(uuids(&String::from_utf8_lossy(&list)).any(|listed| listed == uuid))
        };
        Ok(Known {
            persistent: listed(&["--all", "--persistent"])?,
            running: listed(&[])?,
            saved: listed(&["--all", "--with-managed-save"])?,
        })
    }

    /// The URI that virsh has connected to: also that of an alias, or of no `--connect` at all.
    pub(super) fn uri(&self) -> Result<String, Failure> {
        let uri = self.run(&["uri"], "").map_err(Failure::Usage)?;
        Ok(String::from_utf8_lossy(&uri).trim().to_owned())
    }

    /// Defines a domain after libvirt has checked it against its schema. The XML goes through a pipe: it holds passwords.
    ///
    /// # Errors
    /// `define-refused` with what libvirt says.
    pub(super) fn define(&self, xml: &str) -> Result<(), Note> {
        match self.run(&["define", "--validate", "--file", "/dev/stdin"], xml) {
            Ok(_) => Ok(()),
            Err(reason) => {
                let message = format!("libvirt does not take the changed domain, which stays as it was: {reason}");
                Err(Note::error(Code::DefineRefused, message))
            }
        }
    }
}

fn uuids(list: &str) -> impl Iterator<Item = Uuid> {
    list.lines().filter_map(|line| line.trim().parse().ok())
}
