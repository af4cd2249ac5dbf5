//! `viommu plan`: the dry run.

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};

use crate::decide::Decided;
use crate::rewrite::rewrite;

use super::input::{self, HostOptions, RequestOptions};
use super::report::{self, Paint};
use super::virsh::Connection;
use super::{Failure, place, say};

/// Show what would be done for a domain, and why; change nothing.
///
/// With --host several times: which of those hosts can take the domain, and why the others cannot; exit status 1 where none
/// can.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A file with domain XML, or a domain that virsh knows; - or nothing reads stdin
    #[arg(value_name = "FILE|DOMAIN")]
    source: Option<String>,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Exit with 3 when something would change
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    host: HostOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// Only the change of the domain XML
    Diff,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    let bytes = input::domain_xml(arguments.source.as_deref(), &arguments.connection)?;
    if let Some(hosts) = arguments.host.each_recorded() {
        if arguments.format == Format::Diff || arguments.exit_code {
            return Err(Failure::Usage("--format diff and --exit-code are for one host".to_owned()));
        }
        return place::run(&bytes, &arguments.request, hosts, arguments.format == Format::Json, out);
    }
    let Decided { document, domain, plan, .. } = input::decide(&bytes, &arguments.request, &arguments.host)?;
    let rewritten = match &plan {
        Ok(plan) => rewrite(&document, plan)?,
        Err(_) => None,
    };
    let paint = Paint::when(std::io::stdout().is_terminal());
    match arguments.format {
        Format::Json => match &plan {
            Ok(plan) => report::json(plan, out)?,
            Err(refusal) => report::json(refusal, out)?,
        },
        Format::Diff => report::diff(document.text(), rewritten.as_deref(), paint, "", out)?,
        Format::Text => report::plan(&domain, &plan, document.text(), rewritten.as_deref(), paint, out)?,
    }
    if let Err(refusal) = plan {
        out.flush()?;
        say(&refusal.note);
        return Ok(1);
    }
    Ok(if arguments.exit_code && rewritten.is_some() { 3 } else { 0 })
}
