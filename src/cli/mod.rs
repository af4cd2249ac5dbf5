//! The operator's command line, one file for each verb.

mod apply;
mod backup;
mod capabilities;
mod doctor;
mod explain;
pub mod hook;
mod host_route;
mod input;
mod memlock;
mod place;
mod plan;
mod redefine;
mod remove;
mod report;
mod rewrite;
mod schedulers;
mod virsh;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::{Parser, Subcommand};

use crate::note::Note;
use crate::plan::Refusal;
use crate::sys::stderr::{complain, say};

/// A virtual IOMMU for libvirt/QEMU guests, with the locked-memory limit that PCI passthrough behind it needs.
#[derive(Debug, Parser)]
#[command(name = "viommu", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit status: 0 done; 1 refused (the reason and its code on stderr); 2 wrong usage or unreadable input; \
                        3 only with --exit-code."
)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what would be done for a domain, and why; change nothing
    Plan(plan::Arguments),
    /// Filter: domain XML in, rewritten domain XML out, every other byte as it was
    Rewrite(rewrite::Arguments),
    /// Give domains the vIOMMU that they ask for: show the change, ask, define them through virsh
    Apply(apply::Arguments),
    /// Take away what apply has added: show the change, ask, define the domains through virsh
    Remove(remove::Arguments),
    /// Show (and raise) the locked-memory limit of a running guest
    Memlock(memlock::Arguments),
    /// Show what is known about this host, and which models it can give
    Capabilities(capabilities::Arguments),
    /// Check whether everything is in place on this host, and say what to do about what is not
    ///
    /// Changes nothing. Exits with 1 if something is broken: some guest would not get what it asks for. Run it as root.
    Doctor(doctor::Arguments),
    /// Say what a code means, or the lines of a log, and what to do
    Explain(explain::Arguments),
    /// Run libvirt's hook by hand
    Hook(hook::Arguments),
    /// Make the wrapper the default emulator of this host's libvirt, or QEMU again
    HostRoute(host_route::Arguments),
}

/// Why a verb ended without doing what it should.
#[derive(Debug)]
enum Failure {
    /// The request cannot be met.
    Refused(Note),
    /// The input cannot be read, or an option cannot be meant.
    Usage(String),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<Note> for Failure {
    fn from(note: Note) -> Failure {
        Failure::Refused(note)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal.note)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// Runs the command line.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // Help and version are errors to clap; it knows which stream and status each of them wants.
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let mut out = io::stdout().lock();
    let done = match arguments.verb {
        Verb::Plan(arguments) => plan::run(&arguments, &mut out),
        Verb::Rewrite(arguments) => rewrite::run(&arguments, &mut out),
        Verb::Apply(arguments) => apply::run(&arguments, &mut out),
        Verb::Remove(arguments) => remove::run(&arguments, &mut out),
        Verb::Memlock(arguments) => memlock::run(&arguments, &mut out),
        Verb::Capabilities(arguments) => capabilities::run(&arguments, &mut out),
        Verb::Doctor(arguments) => doctor::run(&arguments, &mut out),
        Verb::Explain(arguments) => explain::run(&arguments, &mut out),
        Verb::Hook(arguments) => return hook::run(&arguments, &mut out),
        Verb::HostRoute(arguments) => host_route::run(&arguments),
    };
    match done.and_then(|status| out.flush().map(|()| status).map_err(Failure::from)) {
        Ok(status) => status,
        Err(failure) => failure.report(),
    }
}

impl Failure {
    /// The same, where it is one of several domains'.
    fn of_domain(self, name: &str) -> Failure {
        match self {
            Failure::Refused(note) => Failure::Refused(Note { message: format!("{name}: {}", note.message), ..note }),
            Failure::Usage(message) => Failure::Usage(format!("{name}: {message}")),
            Failure::Output(error) => Failure::Output(error),
        }
    }

    fn report(self) -> u8 {
        match self {
            Failure::Refused(note) => {
                say(&note);
                1
            }
            Failure::Usage(message) => {
                complain(&message);
                2
            }
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Output(error) => {
                complain(&format!("cannot write the output: {error}"));
                2
            }
        }
    }
}
