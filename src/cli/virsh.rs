//! Runs virsh: lists domains, reads their XML, and redefines them.
//!
//! Names are never options (`--domain NAME`), and later calls for the same domain use its UUID.
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

/// The libvirt connection.
#[derive(Debug, Default, Args)]
pub(super) struct Connection {
    /// libvirt connection URI, as for virsh
    #[arg(long, value_name = "URI")]
    connect: Option<String>,
}

/// virsh and its connection.
pub(super) struct Virsh {
    program: PathBuf,
    uri: Option<String>,
}

/// A domain as libvirt stores it, for the next start.
pub(super) struct Stored {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) xml: String,
}

/// The state of a domain.
pub(super) struct DomainState {
    /// libvirt stores it.
    pub(super) persistent: bool,
    pub(super) running: bool,
    /// Its next start restores a saved state (`virsh managedsave`).
    pub(super) saved: bool,
}

impl Connection {
    /// The libvirt whose guests the hook serves, whatever the environment says.
    pub(super) fn system() -> Connection {
        Connection { connect: Some("qemu:///system".to_owned()) }
    }

    /// Finds virsh.
    ///
    /// # Errors
    /// It is not installed.
    pub(super) fn virsh(&self) -> Result<Virsh, String> {
        let missing = "virsh is not in PATH: install libvirt-clients (Debian, Ubuntu) or libvirt-client (Fedora, RHEL)";
        let program = find().ok_or(missing)?;
        Ok(Virsh { program, uri: self.connect.clone() })
    }
}

/// Finds virsh in PATH, without relative directories: root's working directory may belong to another user.
fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let directories = env::split_paths(&path).filter(|directory| directory.is_absolute());
    directories.map(|directory| directory.join("virsh")).find(|file| fs::is_executable(file))
}

impl Virsh {
    /// Runs virsh with a text on its stdin.
    ///
    /// # Errors
    /// virsh's error, in one line.
    fn run(&self, arguments: &[&str], stdin: &str) -> Result<Vec<u8>, String> {
        let mut command = Command::new(&self.program);
        if let Some(uri) = &self.uri {
            command.args(["--connect", uri]);
        }
        // The output is parsed, so it must not be translated.
        command.arg("--quiet").args(arguments).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |error| format!("{} cannot be run: {error}", self.program.display());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut pipe) = child.stdin.take() {
            // If virsh ends without reading, its stderr says why.
            let _ = pipe.write_all(stdin.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(output.stdout);
        }
        let reason = complaint.trim().replace('\n', "; ");
        let reason = if reason.is_empty() { format!("virsh ended with {}", output.status) } else { reason };
        // Without a URI virsh connects to the system's libvirt only as root.
        let session = self.uri.is_none() && !rustix::process::geteuid().is_root();
        let hint = if session { "; run it as root, or with --connect qemu:///system" } else { "" };
        Err(reason + hint)
    }

    /// The XML of a domain, by its name or UUID.
    ///
    /// # Errors
    /// virsh's error.
    pub(super) fn dump(&self, name: &str, options: &[&str]) -> Result<Vec<u8>, String> {
        // With --domain a name that begins with a dash is not an option.
        self.run(&[&["dumpxml"], options, &["--domain", name]].concat(), "")
    }

    /// A domain as it will be started next, with passwords, because it is redefined.
    pub(super) fn stored(&self, name: &str) -> Result<Stored, Failure> {
        let bytes = self.dump(name, &["--inactive", "--security-info"])?;
        let document = xml::parse(&bytes)?;
        let domain = Domain::read(&document)?;
        let nameless = || Failure::Usage(format!("virsh printed no UUID for {name}"));
        let uuid = domain.uuid.ok_or_else(nameless)?;
        Ok(Stored { uuid, name: domain.name, xml: document.text().to_owned() })
    }

    /// Every domain that libvirt stores.
    pub(super) fn all(&self) -> Result<Vec<Uuid>, Failure> {
        self.list(&["--all", "--persistent"])
    }

    /// Domains, by these options of `virsh list`.
    pub(super) fn list(&self, which: &[&str]) -> Result<Vec<Uuid>, Failure> {
        let listed = self.run(&[&["list", "--uuid"], which].concat(), "")?;
        Ok(String::from_utf8_lossy(&listed).lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// The state of a domain, from lists of UUIDs: those cannot be confused with names.
    pub(super) fn known(&self, uuid: Uuid) -> Result<DomainState, Failure> {
        // One call per list: with several commands in one call virsh reports the failure of the last one only.
        Ok(DomainState {
            persistent: self.all()?.contains(&uuid),
            running: self.list(&[])?.contains(&uuid),
            saved: self.list(&["--all", "--with-managed-save"])?.contains(&uuid),
        })
    }

    /// The URI of the connection, also for an alias and without `--connect`.
    pub(super) fn uri(&self) -> Result<String, Failure> {
        let uri = self.run(&["uri"], "")?;
        Ok(String::from_utf8_lossy(&uri).trim().to_owned())
    }

    /// Redefines a domain; libvirt validates it against its schema. The XML goes through a pipe because it has passwords.
    ///
    /// # Errors
    /// `define-refused` with libvirt's error.
    pub(super) fn define(&self, xml: &str) -> Result<(), Note> {
        let defined = self.run(&["define", "--validate", "--file", "/dev/stdin"], xml);
        defined.map(drop).map_err(|reason| {
            let message = format!("libvirt rejects the changed domain, and its definition stays as it was: {reason}");
            Note::error(Code::DefineRefused, message)
        })
    }
}
