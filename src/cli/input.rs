//! Reads the domain, and the facts about its host.
#![expect(clippy::disallowed_methods, reason = "the command line may read files; the hook does not come here")]

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::config::{self, Config};
use crate::decide::{self, Decided};
use crate::domain::Domain;
use crate::host::probe::Places;
use crate::host::{self, Emulator, Host};
use crate::note::Note;
use crate::request::{Keys, Purpose, Request, RequestedModel, Source, VirtioScope};
use crate::sys::fs;
use crate::sys::stderr::complain;
use crate::version::Version;
use crate::xml;

use super::Failure;
use super::virsh::Connection;

/// The request on the command line.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Request (overrides metadata and configuration)")]
pub(super) struct RequestOptions {
    /// vIOMMU model
    #[arg(long, value_parser = models())]
    model: Option<String>,
    /// Lock all of the guest's memory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    locked_memory: Option<bool>,
    /// Translate for virtio devices: off, on (network interfaces), all
    #[arg(long, value_name = "SCOPE", value_parser = VirtioScope::parse)]
    virtio: Option<VirtioScope>,
    /// What the vIOMMU is for: dma, interrupts (without DMA translation)
    #[arg(long, value_name = "PURPOSE", value_parser = Purpose::parse)]
    purpose: Option<Purpose>,
}

fn models() -> PossibleValuesParser {
    RequestedModel::all().map(RequestedModel::as_str).into()
}

/// The host on which the domain will run.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Host options (default: the local host)")]
pub(super) struct HostOptions {
    #[command(flatten)]
    known: FactOptions,
    /// Configuration file [default: /etc/viommu.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Facts about a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Host options (default: the local host)")]
pub(super) struct FactOptions {
    /// Version of libvirt
    #[arg(long, value_name = "VERSION")]
    libvirt_version: Option<Version>,
    /// Version of QEMU
    #[arg(long, value_name = "VERSION")]
    qemu_version: Option<Version>,
    /// Address width of the host's IOMMU, bits
    #[arg(long, value_name = "BITS")]
    host_aw_bits: Option<u8>,
    /// sysfs mount point [default: /sys]
    #[arg(long, value_name = "DIR", value_parser = sysfs)]
    sysfs: Option<PathBuf>,
    /// Output of 'viommu capabilities --format json' on another host; repeatable for 'plan'
    #[arg(long, value_name = "FILE")]
    host: Vec<PathBuf>,
}

/// A directory with the structure of sysfs.
fn sysfs(path: &str) -> Result<PathBuf, String> {
    let directory = PathBuf::from(path);
    if directory.join("class").is_dir() {
        Ok(directory)
    } else {
        Err("not a sysfs: it has no directory 'class'".to_owned())
    }
}

/// Opens a file, or stdin for `-` or `None`.
pub(super) fn open(source: Option<&str>) -> Result<Box<dyn Read>, Failure> {
    match source {
        None | Some("-") => {
            if io::stdin().is_terminal() {
                complain("reading from stdin: end with Ctrl-D, or name a file");
            }
            Ok(Box::new(io::stdin().lock()))
        }
        Some(path) => match File::open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(unreadable(path, &error)),
        },
    }
}

/// The name for messages of what [`open()`] opens.
pub(super) fn name(source: Option<&str>) -> &str {
    source.filter(|name| *name != "-").unwrap_or("stdin")
}

/// Reads a domain from a file, or from stdin for `-` or `None`.
pub(super) fn file(source: Option<&str>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // A little more than the limit, so that the XML parser refuses larger input.
    let read = fs::read_past(open(source)?, xml::MAX_BYTES, &mut bytes);
    read.map_err(|error| unreadable(name(source), &error))?;
    Ok(bytes)
}

/// Reads a domain as [`file()`] does, or from virsh by its name or UUID.
pub(super) fn domain_xml(source: Option<&str>, connection: &Connection) -> Result<Vec<u8>, Failure> {
    let Some(name) = no_file(source) else { return file(source) };
    let dumped = connection.virsh().and_then(|virsh| virsh.dump(name, &["--inactive"]));
    dumped.map_err(|reason| Failure::Usage(format!("{name} is neither a file nor a domain: {reason}")))
}

/// The source, if it is neither stdin nor a file. A path with a slash counts as a file: libvirt allows no name with one.
pub(super) fn no_file(source: Option<&str>) -> Option<&str> {
    source.filter(|name| *name != "-" && !name.contains('/') && !Path::new(name).exists())
}

pub(super) fn unreadable(name: &str, error: &io::Error) -> Failure {
    let denied = error.kind() == io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root();
    Failure::Usage(format!("cannot read {name}: {error}{}", if denied { "; run this as root" } else { "" }))
}

/// Decides about a domain, with the request and the host of the options.
pub(super) fn decide<'a>(xml: &'a [u8], request: &RequestOptions, host: &HostOptions) -> Result<Decided<'a>, Failure> {
    let RequestOptions { model, locked_memory, virtio, purpose } = request;
    let keys = Keys {
        model: model.clone(),
        locked_memory: *locked_memory,
        virtio: *virtio,
        purpose: *purpose,
        ..Keys::of(Source::Cli)
    };
    let config = host.configuration()?;
    let facts = host.known.facts()?;
    let facts = |domain: &Domain, _: Option<&Request>| Ok(facts(domain));
    let decided = decide::decide(xml, &keys, Ok(config), facts);
    Ok(decided.map_err(|undecided| undecided.note)?)
}

impl RequestOptions {
    /// Whether there is no request on the command line.
    pub(super) fn is_empty(&self) -> bool {
        *self == RequestOptions::default()
    }
}

impl HostOptions {
    /// Whether the host is a recorded one.
    pub(super) fn is_recorded(&self) -> bool {
        !self.known.host.is_empty()
    }

    /// The options for each of several recorded hosts, with the name of its file; `None` for less than two.
    pub(super) fn each_recorded(&self) -> Option<Vec<(String, HostOptions)>> {
        let one = |file: &PathBuf| {
            let known = FactOptions { host: vec![file.clone()], ..self.known.clone() };
            (file.display().to_string(), HostOptions { known, ..self.clone() })
        };
        let files = &self.known.host;
        (files.len() > 1).then(|| files.iter().map(one).collect())
    }

    /// The host's configuration, or that of the option.
    pub(super) fn configuration(&self) -> Result<Config, Failure> {
        let Some(path) = &self.config else { return Ok(host::config::load()?) };
        // The message names the host's own configuration.
        let renamed = |message: &str| message.replacen(config::PATH, &path.display().to_string(), 1);
        Ok(Config::parse(&text(path)?).map_err(|note| Note { message: renamed(&note.message), ..note })?)
    }
}

impl FactOptions {
    /// All facts.
    pub(super) fn whole(&self) -> Result<Host, Failure> {
        let host = self.recorded()?.unwrap_or_else(|| self.places().whole_host());
        Ok(self.overridden(host))
    }

    /// The host of the options, with the facts that matter for a domain.
    pub(super) fn facts(&self) -> Result<impl Fn(&Domain) -> Host, Failure> {
        let recorded = self.recorded()?;
        Ok(move |domain: &Domain| self.overridden(recorded.clone().unwrap_or_else(|| self.places().host_for(domain))))
    }

    /// The recorded host; `None` for the local host.
    fn recorded(&self) -> Result<Option<Host>, Failure> {
        match self.host.as_slice() {
            [] => Ok(None),
            [file] => recorded(file).map(Some),
            _ => Err(Failure::Usage("only 'viommu plan' takes several hosts".to_owned())),
        }
    }

    /// The host with the facts of the options.
    fn overridden(&self, mut host: Host) -> Host {
        host.libvirt = self.libvirt_version.or(host.libvirt);
        host.aw_bits = self.host_aw_bits.or(host.aw_bits);
        // A host whose IOMMU has a width has it on.
        host.iommu = self.host_aw_bits.map(|_| true).or(host.iommu);
        if self.qemu_version.is_some() {
            // The recorded flags are those of another QEMU.
            host.emulators = vec![Emulator { version: self.qemu_version, ..Emulator::default() }];
        } else if self.libvirt_version.is_some() {
            // Another libvirt checks for other flags.
            host.emulators.iter_mut().for_each(|emulator| emulator.flags = None);
        }
        host
    }

    fn places(&self) -> Places {
        let local = Places::default();
        Places { sysfs: self.sysfs.clone().unwrap_or(local.sysfs), ..local }
    }
}

/// The text of a file that an option names; it may belong to any user.
fn text(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| unreadable(&file.display().to_string(), &error))
}

fn recorded(file: &Path) -> Result<Host, Failure> {
    let text = text(file)?;
    let not_a_host = |why: &str| {
        Failure::Usage(format!("{} is not output of 'viommu capabilities --format json': {why}", file.display()))
    };
    let host: Host = serde_json::from_str(&text).map_err(|error| not_a_host(&error.to_string()))?;
    // An empty object is a host without known facts; one that has only other keys is not a host.
    if host == Host::default() && text.contains(':') {
        return Err(not_a_host("it has no facts about a host"));
    }
    Ok(host)
}
