//! Where a domain and the facts about its host come from.
#![expect(
    clippy::disallowed_methods,
    reason = "the command line may read files and start virsh; the hook does not come here"
)]

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::config::{self, Config};
use crate::domain::Domain;
use crate::hook::configuration;
use crate::host::probe::Places;
use crate::host::{Emulator, Host};
use crate::note::Note;
use crate::plan::{self, Plan};
use crate::request::{Request, Wishes};
use crate::version::Version;
use crate::xml::{self, Document};

use super::Failure;

/// What the guest asks for, over everything that is written elsewhere.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Request (stronger than metadata and configuration)")]
pub(super) struct RequestOptions {
    /// vIOMMU model: none, intel, smmuv3, virtio, auto
    #[arg(long)]
    model: Option<String>,
    /// Lock all of the guest's memory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    locked_memory: Option<bool>,
    /// Another configuration file than /etc/viommu.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The host that the domain is to run on.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Host (this one, where nothing else is said)")]
pub(super) struct HostOptions {
    /// libvirt's version
    #[arg(long, value_name = "VERSION")]
    libvirt_version: Option<Version>,
    /// QEMU's version
    #[arg(long, value_name = "VERSION")]
    qemu_version: Option<Version>,
    /// Address width of the host's IOMMU, bits
    #[arg(long, value_name = "BITS")]
    host_aw_bits: Option<u8>,
    /// Another sysfs than /sys
    #[arg(long, value_name = "DIR")]
    sysfs: Option<PathBuf>,
    /// What 'viommu capabilities --format json' printed on another host
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
}

/// Which libvirt a domain's name is looked up in.
#[derive(Debug, Default, Args)]
pub(super) struct Connection {
    /// libvirt connection URI for virsh
    #[arg(long, value_name = "URI")]
    connect: Option<String>,
}

/// Reads a domain: a file, `-` or nothing for stdin.
pub(super) fn file(source: Option<&str>) -> Result<Vec<u8>, Failure> {
    match source {
        None | Some("-") => limited(io::stdin().lock(), "stdin"),
        Some(path) => match File::open(path) {
            Ok(file) => limited(file, path),
            Err(error) => Err(unreadable(path, &error)),
        },
    }
}

/// Reads a domain: as [`file()`], else the name or UUID of a domain that virsh knows.
pub(super) fn domain_xml(source: Option<&str>, connection: &Connection) -> Result<Vec<u8>, Failure> {
    match source {
        // libvirt allows no name with a slash.
        Some(name) if name != "-" && !name.contains('/') && !Path::new(name).exists() => {
            dump(name, &["--inactive"], connection)
        }
        source => file(source),
    }
}

/// The XML of a domain that virsh knows.
pub(super) fn dump(name: &str, options: &[&str], connection: &Connection) -> Result<Vec<u8>, Failure> {
    let mut virsh = Command::new("virsh");
    if let Some(uri) = &connection.connect {
        virsh.args(["--connect", uri]);
    }
    // --domain: a name that begins with a dash is no option.
    let output = virsh.arg("--quiet").arg("dumpxml").args(options).arg("--domain").arg(name).output();
    match output {
        Ok(output) if output.status.success() => Ok(output.stdout),
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            Err(Failure::Usage(format!("{name} is neither a file nor a domain that virsh knows: {reason}")))
        }
        Err(error) => {
            Err(Failure::Usage(format!("{name} is not a file, and virsh cannot be asked for a domain: {error}")))
        }
    }
}

/// Reads a little more than a domain may have, so that the reader of the XML is the one who refuses it.
pub(super) fn limited(mut input: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    input.by_ref().take(xml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
    Ok(bytes)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::Usage(format!("cannot read {name}: {error}"))
}

/// Decides about a domain as the options say.
///
/// A broken request is a plan too: one that refuses.
pub(super) fn decide(
    document: &Document<'_>,
    request: &RequestOptions,
    host: &HostOptions,
) -> Result<(Domain, Plan), Failure> {
    let domain = Domain::read(document)?;
    let wishes = Wishes { model: request.model.clone(), locked_memory: request.locked_memory, ..Wishes::default() };
    let config = match &request.config {
        Some(path) => named_configuration(path)?,
        None => configuration(Path::new(config::PATH))?,
    };
    let facts = host.facts(&domain)?;
    let plan = match Request::of(&domain, &wishes, &config) {
        Ok(request) => plan::plan(&domain, &request, &facts),
        Err(refusal) => plan::refused(&domain, refusal),
    };
    Ok((domain, plan))
}

impl HostOptions {
    /// What the decision needs to know for one domain: of a recorded host, or of this one; then what the options say instead.
    pub(super) fn facts(&self, domain: &Domain) -> Result<Host, Failure> {
        self.read(|places| places.host_for(domain))
    }

    /// Everything that can be known, from the same sources.
    pub(super) fn whole(&self) -> Result<Host, Failure> {
        self.read(Places::whole_host)
    }

    fn read(&self, this_host: impl FnOnce(&Places) -> Host) -> Result<Host, Failure> {
        let mut host = match &self.host {
            Some(file) => recorded(file)?,
            None => this_host(&self.places()),
        };
        if self.libvirt_version.is_some() {
            host.libvirt = self.libvirt_version;
        }
        if self.host_aw_bits.is_some() {
            host.aw_bits = self.host_aw_bits;
        }
        if self.qemu_version.is_some() {
            // The probed flags speak of another QEMU.
            host.emulators = vec![Emulator { version: self.qemu_version, ..Emulator::default() }];
        } else if self.libvirt_version.is_some() {
            // So does a flag that another libvirt did not look for.
            host.emulators.iter_mut().for_each(|emulator| emulator.flags = None);
        }
        Ok(host)
    }

    fn places(&self) -> Places {
        let mut places = Places::default();
        if let Some(sysfs) = &self.sysfs {
            places.sysfs.clone_from(sysfs);
        }
        places
    }
}

/// The configuration that the user names. Unlike the host's own, which the hook trusts, it may be anybody's, and it has to
/// be there.
fn named_configuration(path: &Path) -> Result<Config, Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&name, &error))?;
    // The sentence speaks of the host's own configuration.
    Config::parse(&text).map_err(|note| Note::error(note.code, note.message.replacen(config::PATH, &name, 1)).into())
}

fn recorded(file: &Path) -> Result<Host, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(&file.display().to_string(), &error))?;
    let not_a_host = |why: &str| {
        Failure::Usage(format!("{} is not what 'viommu capabilities --format json' prints: {why}", file.display()))
    };
    let host: Host = serde_json::from_str(&text).map_err(|error| not_a_host(&error.to_string()))?;
    // An empty object is a host of which nothing is known; one that holds only other things was meant for somebody else.
    if host == Host::default() && text.contains(':') {
        return Err(not_a_host("it says nothing about a host"));
    }
    Ok(host)
}
