//! Common parts of `apply` and `remove`: the domains, the difference, the confirmation, and a redefinition that loses no
//! concurrent edit.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use clap::Args;

use crate::config::Config;
use crate::domain::Uuid;
use crate::note::{Code, Note};
use crate::rewrite::undo;
use crate::text::printable;
use crate::xml;

use super::Failure;
use super::backup::{Backup, Snapshot};
use super::report;
use super::terminal::Output;
use super::virsh::{Connection, DomainState, Stored, Virsh};

/// The domains, and how to change them.
#[derive(Debug, Args)]
pub(super) struct Targets {
    /// Names or UUIDs of domains
    #[arg(value_name = "DOMAIN", required_unless_present = "all")]
    domains: Vec<String>,
    /// Every domain; for remove every domain that apply has changed
    #[arg(long, conflicts_with = "domains")]
    all: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    /// Show the change only
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) connection: Connection,
}

impl Targets {
    /// Calls `change` for each named domain, or for `all`. A failure for one does not stop the others.
    pub(super) fn each(
        &self,
        virsh: &Virsh,
        all: impl FnOnce() -> Result<Vec<Uuid>, Failure>,
        out: &mut Output,
        change: impl Fn(&Stored, &mut Output) -> Result<(), Failure>,
    ) -> Result<u8, Failure> {
        let one = |name: &str, out: &mut Output| {
            let stored = virsh.stored(name)?;
            change(&stored, out).map_err(|failure| failure.of(&stored.name))
        };
        if let [name] = self.domains.as_slice() {
            return one(name, out).map(|()| 0);
        }
        let names = if self.all { all()?.iter().map(Uuid::to_string).collect() } else { self.domains.clone() };
        if names.is_empty() {
            writeln!(out, "no domains, nothing to change")?;
        }
        let mut failed = false;
        for name in &names {
            match one(name, out) {
                Ok(()) => {}
                Err(Failure::Output(error)) => return Err(Failure::Output(error)),
                Err(failure) => {
                    out.flush()?;
                    failure.report();
                    failed = true;
                }
            }
        }
        Ok(u8::from(failed))
    }

    /// Shows the difference, asks, and defines the domain. `backup` is called before anything is changed.
    ///
    /// Returns the state of the redefined domain; `None` after a dry run.
    pub(super) fn redefine(
        &self,
        virsh: &Virsh,
        stored: &Stored,
        xml: &str,
        out: &mut Output,
        backup: impl FnOnce() -> Result<(), Note>,
    ) -> Result<Option<DomainState>, Failure> {
        report::diff(&without_secrets(&stored.xml), &without_secrets(xml), "  ", out)?;
        let known = virsh.known(stored.uuid)?;
        if !known.persistent {
            let message = "the domain is transient, so libvirt stores no definition to change: rewrite the XML from which it is \
                           created (viommu rewrite)";
            return Err(Note::error(Code::DomainTransient, message).into());
        }
        if self.dry_run {
            return Ok(None);
        }
        out.flush()?;
        self.confirm(&stored.name)?;
        backup()?;
        // Another program may still redefine it in the moment before the definition below.
        let now = virsh.stored(&stored.uuid.to_string())?;
        if now.xml != stored.xml {
            let message =
                "the domain was changed in the meantime: review it and run the command again; nothing was changed";
            return Err(Note::error(Code::DomainChanged, message).into());
        }
        virsh.define(xml)?;
        Ok(Some(known))
    }

    fn confirm(&self, name: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        let refused = |message: &str| Failure::from(Note::error(Code::NotConfirmed, message));
        if !io::stdin().is_terminal() {
            return Err(refused(
                "cannot ask for confirmation: stdin is not a terminal; review with --dry-run, then pass --yes",
            ));
        }
        let _ = write!(io::stderr(), "Define {} like this? [y/N] ", printable(name));
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer);
        let yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
        if yes { Ok(()) } else { Err(refused("not confirmed; nothing was changed")) }
    }
}

/// The domain without the changes of `apply`: byte for byte if it was not changed since, else its present XML without what
/// `apply` added. Without a backup of `apply`: without any vIOMMU.
///
/// # Errors
/// The backup or the domain cannot be parsed or edited.
pub(super) fn original(stored: &Stored, backup: &Backup, config: &Config) -> Result<String, Note> {
    let before = backup.read(Snapshot::Before);
    if let Some(before) = &before {
        if backup.read(Snapshot::Applied).as_ref() == Some(&stored.xml) {
            return Ok(before.clone());
        }
    }
    let before = before.as_ref().map(|before| xml::parse(before.as_bytes())).transpose()?;
    let document = xml::parse(stored.xml.as_bytes())?;
    let text = undo(&document, before.as_ref(), |name| config.emulator_behind(name))?;
    Ok(text.unwrap_or_else(|| stored.xml.clone()))
}

/// Prints where the previous definition is, and when the change takes effect.
pub(super) fn say_changed(known: &DomainState, name: &str, previous: &Path, out: &mut Output) -> io::Result<()> {
    let name = printable(name);
    writeln!(out, "{name}: changed; the previous definition is in {}", previous.display())?;
    if known.running {
        let what = "is running: the change takes effect when it is shut down and started again";
        writeln!(out, "{name}: {what} (a reboot of the guest is not enough)")?;
    } else if known.saved {
        let what = "has a saved state, which is restored unchanged: the change takes effect at the start after that";
        writeln!(out, "{name}: {what}")?;
    }
    Ok(())
}

/// XML without the passwords that libvirt prints on request only.
fn without_secrets(xml: &str) -> String {
    // libvirt writes each of the two on its own line, with this quote.
    let secrets = [("<graphics ", " passwd='", "'"), ("<cookie ", ">", "<")];
    let without = |line: &str| {
        let (_, start, end) = secrets.iter().find(|(tag, ..)| line.trim_start().starts_with(tag))?;
        let (head, rest) = line.split_once(start)?;
        Some(format!("{head}{start}***{end}{}", rest.split_once(end)?.1))
    };
    xml.split_inclusive('\n').map(|line| without(line).unwrap_or_else(|| line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        let xml = "<domain>\n  <graphics type='vnc' port='-1' passwd='se&apos;cret' keymap='de'>\n    <cookie name='a'>b</cookie>\n\
                   <name> passwd='x'</name>\n";
        let shown = "<domain>\n  <graphics type='vnc' port='-1' passwd='***' keymap='de'>\n    <cookie name='a'>***</cookie>\n\
                     <name> passwd='x'</name>\n";
        assert_eq!(without_secrets(xml), shown);
    }
}
