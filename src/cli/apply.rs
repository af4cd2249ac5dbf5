//! `viommu apply`: gives domains the vIOMMU that they ask for, in libvirt's store.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};

use crate::config::Config;
use crate::decide::Decided;
use crate::domain::Domain;
use crate::note::{Code, Note};
use crate::plan::{self, Plan, Route, wrapped_emulator};
use crate::rewrite::{rewrite, with_emulator};
use crate::sys::process;
use crate::text::printable;
use crate::xml::{self, Document};

use super::Failure;
use super::backup::{Backup, Copy};
use super::input::{self, HostOptions, RequestOptions};
use super::redefine::{self, Targets};
use super::report::{self, Paint};
use super::virsh::{Stored, Virsh};

/// Give domains the vIOMMU that they ask for: show the change, ask, define them through virsh.
///
/// Keeps a backup, and takes effect when the guest is started next. A domain that needs no change is left alone. With
/// several domains one that fails does not stop the others, and the exit status is 1.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    targets: Targets,
    /// How the vIOMMU is to reach QEMU; as the domain's emulator says, where nothing is said here
    #[arg(long, value_enum)]
    route: Option<Way>,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    host: HostOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// In the domain XML, as libvirt's own device
    Native,
    /// By the wrapper as the emulator, which adds it to QEMU's command line
    Wrapper,
}

impl From<Way> for Route {
    fn from(way: Way) -> Route {
        match way {
            Way::Native => Route::Native,
            Way::Wrapper => Route::Wrapper,
        }
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    if arguments.route == Some(Way::Wrapper) && !arguments.request.is_empty() {
        let message = "the wrapper adds what the domain asks for at each start: put the request into its metadata (virsh \
                       metadata) or into the configuration, not on the command line";
        return Err(Failure::Usage(message.to_owned()));
    }
    let virsh = arguments.targets.virsh()?;
    let uri = virsh.uri()?;
    if names_another_host(&uri) && !arguments.host.is_recorded() {
        let message = "is on another host, whose libvirt, QEMU and IOMMU are not known here: name what 'viommu capabilities \
                       --format json' prints there with --host";
        return Err(Failure::Usage(format!("{uri} {message}")));
    }
    let all = || Ok(virsh.all()?.iter().map(ToString::to_string).collect());
    arguments.targets.each(all, out, |name, out| {
        let stored = virsh.stored(name)?;
        apply(arguments, &virsh, &stored, out).map_err(|failure| failure.of_domain(&stored.name))
    })
}

/// `qemu+ssh://host/system`: the authority of the URI is not empty.
fn names_another_host(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with('/'))
}

fn apply(arguments: &Arguments, virsh: &Virsh, stored: &Stored, out: &mut impl Write) -> Result<(), Failure> {
    let config = arguments.host.configuration()?;
    let (plan, text) = changed(arguments, stored, &config)?;
    let Some(text) = text else {
        let served = plan.route == Route::Wrapper && plan.iommu.is_some();
        let wrapper = if served { " (its emulator is the wrapper)" } else { "" };
        return Ok(writeln!(out, "{}: nothing to change{wrapper}", printable(&stored.name))?);
    };
    report::headline(&plan, Paint::when(io::stdout().is_terminal()), out)?;

    let backup = Backup::of(stored.uuid)?;
    let again = backup.read(Copy::Applied).is_some();
    let before = if again { redefine::original(stored, &backup, &config)? } else { stored.xml.clone() };
    let keep = || {
        backup.keep(Copy::Before, &before)?;
        // So that it counts as applied, whatever happens from here on.
        if again { Ok(()) } else { backup.keep(Copy::Applied, &text) }
    };
    let defined = arguments.targets.redefine(virsh, stored, &text, out, keep);
    let Ok(Some(known)) = defined else {
        if !again {
            backup.forget(Copy::Applied);
        }
        return defined.map(|_| ());
    };
    // libvirt writes it in its own words.
    backup.keep(Copy::Applied, &virsh.stored(&stored.uuid.to_string())?.xml)?;
    let kept = backup.path(Copy::Before);
    writeln!(out, "{}: changed; what it was before is in {}", printable(&stored.name), kept.display())?;
    Ok(redefine::say_when(&known, &stored.name, out)?)
}

/// The plan, and the domain as it is to be; none where it is that already.
fn changed(arguments: &Arguments, stored: &Stored, config: &Config) -> Result<(Plan, Option<String>), Failure> {
    let document = xml::parse(stored.xml.as_bytes())?;
    let route = arguments.route.map(Route::from);
    let switched = match route {
        Some(route) => switched(&document, route, config)?,
        None => None,
    };
    // Decided about the domain that it is going to be: libvirt counts no vIOMMU that the wrapper adds.
    let text = switched.as_deref().unwrap_or(document.text());
    let Decided { document: target, plan, .. } = input::decide(text.as_bytes(), &arguments.request, &arguments.host)?;
    let plan = plan?;
    let changed = match plan.route {
        Route::Native => rewrite(&target, &plan)?.or(switched),
        // Who asks for nothing gets no wrapper: it would refuse each start of a host without the hook.
        Route::Wrapper => switched.filter(|_| plan.request.asks() || plan.iommu.is_some()),
    };
    Ok((plan, changed))
}

/// The domain with the emulator of this route; none where it has it.
///
/// # Errors
/// `emulator-missing` where the wrapper would start another QEMU than the domain has.
fn switched(document: &Document<'_>, route: Route, config: &Config) -> Result<Option<String>, Note> {
    let domain = Domain::read(document)?;
    let virtual_machine = matches!(domain.virt_type.as_str(), "kvm" | "qemu");
    if plan::route(&domain) == route || !virtual_machine {
        return Ok(None);
    }
    let emulator = domain.emulator.as_deref().unwrap_or_default();
    if let Some(real) = wrapped_emulator(emulator) {
        return with_emulator(document, &config.emulator_behind(real)).map(Some);
    }
    let wrapper = plan::wrapper_for(domain.arch.as_deref());
    let real = config.emulator_behind(wrapped_emulator(&wrapper).unwrap_or_default());
    let same_file = || Some(process::file_id(emulator.as_ref()).ok()? == process::file_id(real.as_ref()).ok()?);
    if emulator != real && same_file() != Some(true) {
        let message = format!(
            "the domain's emulator is {emulator}, and {wrapper} would start {real}: name the former under [emulators] in {}",
            crate::config::PATH
        );
        return Err(Note::error(Code::EmulatorMissing, message));
    }
    with_emulator(document, &wrapper).map(Some)
}
