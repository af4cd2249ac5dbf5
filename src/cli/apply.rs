//! `viommu apply`: redefines domains with the vIOMMU that they ask for.

use std::io::Write;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::config::Config;
use crate::decide::Decided;
use crate::domain::{Domain, METADATA_NAMESPACE};
use crate::note::{Code, Note};
use crate::plan::{self, Plan, Route, wrapped_emulator};
use crate::rewrite::{rewrite, with_emulator};
use crate::sys::process;
use crate::text::{printable, shell_name};
use crate::xml::{self, Document};

use super::Failure;
use super::backup::{Backup, Snapshot};
use super::input::{self, HostOptions, RequestOptions};
use super::redefine::{self, Targets};
use super::report;
use super::terminal::Output;
use super::virsh::{Stored, Virsh};

/// Give domains the vIOMMU that they ask for: show the change, ask for confirmation, redefine them through virsh
///
/// Keeps a backup. The change takes effect at the next start of the guest. A domain that needs no change stays as it is. With
/// several domains a failure for one does not stop the others, and the exit status is 1.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    targets: Targets,
    #[arg(help = "How the vIOMMU reaches QEMU [default: wrapper if <emulator> is the wrapper, else native]")]
    #[arg(long, value_enum)]
    route: Option<Route>,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    host: HostOptions,
}

impl ValueEnum for Route {
    fn value_variants<'a>() -> &'a [Route] {
        &[Route::Native, Route::Wrapper]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Route::Native => PossibleValue::new("native").help("In the domain XML, as a device of libvirt"),
            Route::Wrapper => {
                PossibleValue::new("wrapper").help("By the wrapper as <emulator>, which adds it to QEMU's command line")
            }
        })
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    if arguments.route == Some(Route::Wrapper) && !arguments.request.is_empty() {
        let message = "with --route wrapper a request on the command line has no effect, because the wrapper reads the request at \
                       each start: put it into the domain's metadata (virsh metadata) or into the configuration";
        return Err(Failure::Usage(message.to_owned()));
    }
    let virsh = arguments.targets.connection.virsh()?;
    let uri = virsh.uri()?;
    if names_another_host(&uri) && !arguments.host.is_recorded() {
        let message = "is on another host, whose libvirt, QEMU and IOMMU are not known here: pass the output of 'viommu \
                       capabilities --format json' on that host with --host";
        return Err(Failure::Usage(format!("{uri} {message}")));
    }
    arguments.targets.each(&virsh, || virsh.all(), out, |stored, out| apply(arguments, &virsh, stored, out))
}

/// `qemu+ssh://host/system`: the authority of the URI is not empty.
fn names_another_host(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with('/'))
}

fn apply(arguments: &Arguments, virsh: &Virsh, stored: &Stored, out: &mut Output) -> Result<(), Failure> {
    let config = arguments.host.configuration()?;
    let (plan, text) = changed(arguments, stored, &config)?;
    let Some(text) = text else {
        return unchanged(&plan, stored, out);
    };
    report::headline(&plan, out)?;

    let backup = Backup::of(stored.uuid)?;
    let again = backup.read(Snapshot::Applied).is_some();
    let before = if again { redefine::original(stored, &backup, &config)? } else { stored.xml.clone() };
    let keep = || {
        backup.keep(Snapshot::Before, &before)?;
        // Before the definition, so that the domain counts as applied also after an interruption.
        if again { Ok(()) } else { backup.keep(Snapshot::Applied, &text) }
    };
    let defined = arguments.targets.redefine(virsh, stored, &text, out, keep);
    let Ok(Some(known)) = defined else {
        if !again {
            backup.forget(Snapshot::Applied);
        }
        return defined.map(|_| ());
    };
    // libvirt stores the XML in its own form.
    backup.keep(Snapshot::Applied, &virsh.stored(&stored.uuid.to_string())?.xml)?;
    Ok(redefine::say_changed(&known, &stored.name, &backup.path(Snapshot::Before), out)?)
}

/// Says why a domain needs no change, and how to request a vIOMMU if it has no request.
fn unchanged(plan: &Plan, stored: &Stored, out: &mut Output) -> Result<(), Failure> {
    let name = printable(&stored.name);
    plan.warnings().try_for_each(|warning| report::note(warning, out))?;
    if plan.request.asks() || plan.iommu.is_some() {
        let served = plan.route == Route::Wrapper && plan.iommu.is_some();
        let wrapper = if served { " (its emulator is the wrapper)" } else { "" };
        return Ok(writeln!(out, "{name}: nothing to change{wrapper}")?);
    }
    let line = format!(
        "{name}: nothing to change: the domain does not request a vIOMMU; to request one, pass --model auto, or run virsh \
         metadata {} {METADATA_NAMESPACE} --key viommu --set \"<viommu model='auto'/>\" --config",
        shell_name(&stored.name, Some(stored.uuid))
    );
    Ok(out.line(&line, 4)?)
}

/// The plan, and the new XML of the domain; `None` if it needs no change.
fn changed(arguments: &Arguments, stored: &Stored, config: &Config) -> Result<(Plan, Option<String>), Failure> {
    let document = xml::parse(stored.xml.as_bytes())?;
    let switched = arguments.route.map(|route| switched(&document, route, config)).transpose()?.flatten();
    // Decided for the domain with its new emulator: libvirt does not count a vIOMMU that the wrapper adds.
    let text = switched.as_deref().unwrap_or(document.text());
    let Decided { document: target, plan, .. } = input::decide(text.as_bytes(), &arguments.request, &arguments.host)?;
    let plan = plan?;
    let changed = match plan.route {
        Route::Native => rewrite(&target, &plan)?.or(switched),
        // A domain that asks for nothing gets no wrapper, which would refuse each start on a host without the hook.
        Route::Wrapper => switched.filter(|_| plan.request.asks() || plan.iommu.is_some()),
    };
    Ok((plan, changed))
}

/// The domain with the emulator of this route; `None` if it has that emulator.
///
/// # Errors
/// `emulator-missing` where the wrapper would start another QEMU than the domain has.
fn switched(document: &Document<'_>, route: Route, config: &Config) -> Result<Option<String>, Note> {
    let domain = Domain::read(document)?;
    if plan::route(&domain) == route || !domain.runs_in_qemu() {
        return Ok(None);
    }
    let emulator = domain.emulator.as_deref().unwrap_or_default();
    if let Some(real) = wrapped_emulator(emulator) {
        return with_emulator(document, &config.emulator_behind(real)).map(Some);
    }
    let wrapper = plan::wrapper_for(domain.arch.as_deref());
    let real = config.emulator_behind(wrapped_emulator(&wrapper).unwrap_or_default());
    if emulator != real && !process::is_same_file(emulator.as_ref(), real.as_ref()) {
        let message = format!(
            "the domain's emulator is {emulator}, but {wrapper} would start {real}: name the former under [emulators] in {}",
            crate::config::PATH
        );
        return Err(Note::error(Code::EmulatorMissing, message));
    }
    with_emulator(document, &wrapper).map(Some)
}
