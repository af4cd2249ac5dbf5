//! `viommu remove`: undoes `viommu apply`.

use std::io::Write;

use clap::Args;

use crate::config::Config;
use crate::host;
use crate::text::printable;

use super::Failure;
use super::backup::{self, Backup, Snapshot};
use super::redefine::{self, Targets};
use super::terminal::Output;
use super::virsh::{Stored, Virsh};

/// Remove what apply has added: show the change, ask for confirmation, redefine the domains through virsh
///
/// A domain that was not changed since apply becomes what it was before, byte for byte. In another domain later edits stay, and
/// so does a vIOMMU from before apply. A domain that apply has not changed on this host loses any vIOMMU, but not with --all.
/// The request stays in the domain's metadata.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    targets: Targets,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    let virsh = arguments.targets.connection.virsh()?;
    let all = || {
        let applied = backup::applied()?;
        Ok(virsh.all()?.into_iter().filter(|uuid| applied.contains(uuid)).collect())
    };
    let config = host::config::load()?;
    let targets = &arguments.targets;
    targets.each(&virsh, all, out, |stored, out| remove(targets, &virsh, stored, &config, out))
}

fn remove(targets: &Targets, virsh: &Virsh, stored: &Stored, config: &Config, out: &mut Output) -> Result<(), Failure> {
    let backup = Backup::of(stored.uuid)?;
    let text = redefine::original(stored, &backup, config)?;
    let shown = printable(&stored.name);
    if text == stored.xml {
        // It was removed by other means.
        backup.forget(Snapshot::Applied);
        return Ok(writeln!(out, "{shown}: nothing to change")?);
    }
    writeln!(out, "{}", out.bold(&shown))?;
    let keep = || backup.keep(Snapshot::Removed, &stored.xml);
    let Some(known) = targets.redefine(virsh, stored, &text, out, keep)? else { return Ok(()) };
    backup.forget(Snapshot::Applied);
    Ok(redefine::say_changed(&known, &stored.name, &backup.path(Snapshot::Removed), out)?)
}
