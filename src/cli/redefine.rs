//! What `apply` and `remove` have in common: which domains, the difference, the question, and a definition that loses
//! nobody's edit.

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::config::Config;
use crate::note::{Code, Note};
use crate::rewrite::undo;
use crate::text::printable;
use crate::xml;

use super::Failure;
use super::backup::{Backup, Copy};
use super::report::{self, Paint};
use super::virsh::{Connection, Known, Stored, Virsh};

/// Which domains, and how.
#[derive(Debug, Args)]
pub(super) struct Targets {
    /// Names or UUIDs of domains
    #[arg(value_name = "DOMAIN", required_unless_present = "all")]
    domains: Vec<String>,
    /// Every domain
    #[arg(long, conflicts_with = "domains")]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Show the change, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Targets {
    /// # Errors
    /// Where virsh is missing.
    pub(super) fn virsh(&self) -> Result<Virsh, Failure> {
        self.connection.virsh().map_err(Failure::Usage)
    }

    /// Does something to each of the domains that were named, or to `all`. One that fails does not stop the others.
    pub(super) fn each<O: Write>(
        &self,
        all: impl FnOnce() -> Result<Vec<String>, Failure>,
        out: &mut O,
        mut one: impl FnMut(&str, &mut O) -> Result<(), Failure>,
    ) -> Result<u8, Failure> {
        if let [name] = self.domains.as_slice() {
            return one(name, out).map(|()| 0);
        }
        let names = if self.all { all()? } else { self.domains.clone() };
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
    /// What is known about the domain that was defined; nothing after a dry run.
    pub(super) fn redefine(
        &self,
        virsh: &Virsh,
        stored: &Stored,
        xml: &str,
        out: &mut impl Write,
        backup: impl FnOnce() -> Result<(), Note>,
    ) -> Result<Option<Known>, Failure> {
        let paint = Paint::when(io::stdout().is_terminal());
        report::diff(&without_secrets(&stored.xml), Some(&without_secrets(xml)), paint, "  ", out)?;
        let known = virsh.known(stored.uuid)?;
        if !known.persistent {
            let message = "the domain is transient: libvirt keeps no definition of it that could be changed. Rewrite the XML \
                           that it is created from (viommu rewrite)";
            return Err(Note::error(Code::DomainTransient, message).into());
        }
        if self.dry_run {
            return Ok(None);
        }
        out.flush()?;
        self.confirm(&stored.name)?;
        backup()?;
        // Between here and the definition nobody can be kept out; a moment is less than the time that a person needs.
        let now = virsh.stored(&stored.uuid.to_string())?;
        if now.xml != stored.xml {
            let message = "somebody has changed the domain meanwhile: look at it and run again; nothing was changed";
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
            return Err(refused("stdin is no terminal, so nobody can be asked: look at --dry-run, then use --yes"));
        }
        let _ = write!(io::stderr(), "Define {} like this? [y/N] ", printable(name));
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer);
        let yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
        if yes { Ok(()) } else { Err(refused("it was not confirmed, and nothing was changed")) }
    }
}

/// The domain as it would be had `apply` never been there: byte for byte where nobody has touched it since, else what it is
/// now without what `apply` has added. Where nothing is known of an `apply`, without any vIOMMU.
///
/// # Errors
/// Where what is kept, or the domain, cannot be edited.
pub(super) fn original(stored: &Stored, backup: &Backup, config: &Config) -> Result<String, Note> {
    let before = backup.read(Copy::Before);
    if let Some(before) = &before {
        if backup.read(Copy::Applied).as_ref() == Some(&stored.xml) {
            return Ok(before.clone());
        }
    }
    let before = before.as_ref().map(|before| xml::parse(before.as_bytes())).transpose()?;
    let document = xml::parse(stored.xml.as_bytes())?;
    let text = undo(&document, before.as_ref(), |name| config.emulator_behind(name))?;
    Ok(text.unwrap_or_else(|| stored.xml.clone()))
}

/// Says from when on the change counts.
pub(super) fn say_when(known: &Known, name: &str, out: &mut impl Write) -> io::Result<()> {
    let name = printable(name);
    if known.running {
        let what = "is running and keeps what it has: the change takes effect when it is shut down and started again";
        writeln!(out, "{name}: {what} (a reboot from inside is not enough)")?;
    } else if known.saved {
        let what = "is saved and comes back with what it had: the change takes effect at the start after that";
        writeln!(out, "{name}: {what}")?;
    }
    Ok(())
}

/// XML as it may be shown: what libvirt gives only to those who ask for it is not for terminals and logs.
fn without_secrets(xml: &str) -> String {
    let mut shown = String::with_capacity(xml.len());
    for line in xml.split_inclusive('\n') {
        let tag = line.trim_start();
        // libvirt writes each of the two on a line of its own, with this quote.
        let (start, end) = if tag.starts_with("<graphics ") {
            (" passwd='", '\'')
        } else if tag.starts_with("<cookie ") {
            (">", '<')
        } else {
            ("", '\0')
        };
        let secret = line.split_once(start).filter(|_| !start.is_empty());
        match secret.and_then(|(head, rest)| Some((head, rest.split_once(end)?.1))) {
            Some((head, tail)) => shown.extend([head, start, "***", &end.to_string(), tail]),
            None => shown.push_str(line),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let xml = "<domain>\n  <graphics type='vnc' port='-1' passwd='se&apos;cret' keymap='de'>\n    <cookie name='a'>b</cookie>\n\
                   <name> passwd='x'</name>\n";
        let shown = "<domain>\n  <graphics type='vnc' port='-1' passwd='***' keymap='de'>\n    <cookie name='a'>***</cookie>\n\
                     <name> passwd='x'</name>\n";
        assert_eq!(without_secrets(xml), shown);
    }
}
