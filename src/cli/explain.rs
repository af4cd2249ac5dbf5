//! `viommu explain`: the meaning of a code, or of the lines of a log.

use std::io::{BufReader, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use similar::get_close_matches;

use crate::explain::{self, Findings, Page};
use crate::note::{Code, Level};
use crate::sys::fs;
use crate::text::count;

use super::Failure;
use super::input;
use super::terminal::Output;

/// Bytes of a message catalogue that are read; libvirt's largest has 2 MiB.
const MAX_CATALOGUE: usize = 8 << 20;
/// Columns where the output is not a terminal.
const WIDTH: usize = 96;

/// Explain a code, or the lines of a log, and say what to do
#[derive(Debug, Args)]
#[command(
    after_help = "Without an argument on a terminal, it lists the codes. A log without known lines is not an error: the exit \
                  status is 0."
)]
pub(super) struct Arguments {
    /// Code, or a log such as /var/log/libvirt/qemu/NAME.log; - or nothing reads stdin
    #[arg(value_name = "CODE|LOGFILE")]
    subject: Option<String>,
    /// List the codes
    #[arg(long, conflicts_with = "subject")]
    list: bool,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    let subject = arguments.subject.as_deref();
    if arguments.list || (subject.is_none() && std::io::stdin().is_terminal()) {
        for page in Code::ALL.iter().filter_map(|code| explain::code(*code)) {
            let summary = page.text.split("\n\n").next().unwrap_or_default();
            write!(out, "{}\n{}", out.bold(page.title), plain(summary, out))?;
        }
        return Ok(0);
    }
    match subject.and_then(code) {
        Some(page) => write!(out, "{}\n\n{}", out.bold(page.title), plain(page.text, out))?,
        None => log(subject, out)?,
    }
    Ok(0)
}

fn plain(markdown: &str, out: &Output) -> String {
    explain::plain(markdown, "  ", out.width(WIDTH))
}

/// The name in `error[CODE]`, as messages have it; else the subject itself.
fn name_of(subject: &str) -> &str {
    let bracketed = Level::ALL.iter().find_map(|level| subject.trim().strip_prefix(level.as_str())?.strip_prefix('['));
    bracketed.map_or(subject, |rest| rest.split(']').next().unwrap_or_default())
}

fn code(subject: &str) -> Option<&'static Page> {
    Code::from_name(name_of(subject)).and_then(explain::code)
}

/// What to say about a subject that is neither a code nor a file.
fn unknown(subject: &str) -> Failure {
    let names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let similar = get_close_matches(name_of(subject), &names, 3, 0.6);
    let hint = if similar.is_empty() {
        "list the codes with 'viommu explain --list'".to_owned()
    } else {
        format!("similar codes: {}", similar.join(", "))
    };
    Failure::Usage(format!("{subject} is neither a code nor a file; {hint}"))
}

/// The catalogues of libvirt and of the C library, of each language that libvirt has one for.
fn catalogues() -> Vec<Vec<u8>> {
    const LOCALES: &str = "/usr/share/locale";
    let read = |language: &str, domain: &str| {
        fs::bytes(&Path::new(LOCALES).join(language).join("LC_MESSAGES").join(domain), MAX_CATALOGUE)
    };
    let languages = fs::names(Path::new(LOCALES));
    let of_libvirt = languages.iter().filter_map(|language| Some((language, read(language, "libvirt.mo")?)));
    of_libvirt.flat_map(|(language, catalogue)| [Some(catalogue), read(language, "libc.mo")]).flatten().collect()
}

fn log(source: Option<&str>, out: &mut Output) -> Result<(), Failure> {
    if let Some(subject) = input::no_file(source) {
        return Err(unknown(subject));
    }
    let log = input::open(source)?;
    let findings = Findings::read(BufReader::new(log), catalogues)
        .map_err(|error| input::unreadable(input::name(source), &error))?;
    let mut separator = "";
    for finding in &findings.found {
        let page = finding.page;
        let last = if finding.count == 1 { "" } else { ", the last" };
        writeln!(out, "{separator}{}", out.bold(page.title))?;
        out.line(&format!("  {}{last}: {}\n", count(finding.count, "line"), finding.line), 4)?;
        write!(out, "{}", plain(page.text, out))?;
        for (number, code) in page.codes().enumerate() {
            writeln!(out, "  {} viommu explain {code}", if number == 0 { "more:" } else { "     " })?;
        }
        separator = "\n";
    }
    if separator.is_empty() {
        let line = format!(
            "nothing known in {}; known are viommu's codes, and messages of QEMU, libvirt and the kernel about vIOMMUs, \
             passed-through devices and locked memory; the log of a guest is /var/log/libvirt/qemu/NAME.log",
            count(findings.lines, "line")
        );
        out.line(&line, 0)?;
    }
    Ok(())
}
