//! `viommu remove`: the way back from `viommu apply`.

use std::io::{IsTerminal, Write};

use clap::Args;

use crate::config::Config;
use crate::host;
use crate::text::printable;

use super::Failure;
use super::backup::{self, Backup, Copy};
use super::redefine::{self, Targets};
use super::report::Paint;
use super::virsh::{Stored, Virsh};

/// Take away what apply has added: show the change, ask, define the domains through virsh.
///
/// A domain that nobody has touched since becomes what it was, byte for byte; in another one later edits stay, and so does
/// a vIOMMU that stood there before apply. A domain that apply has not changed here loses any vIOMMU; --all leaves such ones
/// alone. What the domain asks for stays in its metadata.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    targets: Targets,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    let virsh = arguments.targets.virsh()?;
    let all = || {
        let applied = backup::applied()?;
        Ok(virsh.all()?.iter().filter(|uuid| applied.contains(uuid)).map(ToString::to_string).collect())
    };
    let config = host::config::load()?;
    arguments.targets.each(all, out, |name, out| {
        let stored = virsh.stored(name)?;
        remove(&arguments.targets, &virsh, &stored, &config, out).map_err(|failure| failure.of_domain(&stored.name))
    })
}

fn remove(
    targets: &Targets,
    virsh: &Virsh,
    stored: &Stored,
    config: &Config,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let backup = Backup::of(stored.uuid)?;
    let text = redefine::original(stored, &backup, config)?;
    let shown = printable(&stored.name);
    if text == stored.xml {
        // Somebody else has taken it away.
        backup.forget(Copy::Applied);
        return Ok(writeln!(out, "{shown}: nothing to change")?);
    }
    writeln!(out, "{}", Paint::when(std::io::stdout().is_terminal()).bold(&shown))?;
    let keep = || backup.keep(Copy::Removed, &stored.xml);
    let Some(known) = targets.redefine(virsh, stored, &text, out, keep)? else { return Ok(()) };
    backup.forget(Copy::Applied);
    writeln!(out, "{shown}: changed; what it was before is in {}", backup.path(Copy::Removed).display())?;
    Ok(redefine::say_when(&known, &stored.name, out)?)
}
