//! `viommu explain`: what a code, or a line of a log, means.

use std::io::{BufReader, IsTerminal, Write};

use clap::Args;

use crate::explain::{self, Findings};
use crate::note::Code;

use super::Failure;
use super::input;
use super::report::Paint;

/// Say what a code means, or the lines of a log, and what to do.
#[derive(Debug, Args)]
#[command(
    after_help = "Without an argument on a terminal, it lists the codes. A log in which nothing is known is no error: it says \
                        so, and exits with 0."
)]
pub(super) struct Arguments {
    /// A code, or a log such as /var/log/libvirt/qemu/NAME.log; - or nothing reads stdin
    #[arg(value_name = "CODE|LOGFILE")]
    subject: Option<String>,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    let paint = Paint::when(std::io::stdout().is_terminal());
    let subject = arguments.subject.as_deref();
    match subject.and_then(Code::from_name).and_then(explain::code) {
        Some(page) => write!(out, "{}\n\n{}", paint.bold(page.title), explain::plain(page.text, "  "))?,
        None if subject.is_none() && std::io::stdin().is_terminal() => list(paint, out)?,
        None => log(subject, paint, out)?,
    }
    Ok(0)
}

fn list(paint: Paint, out: &mut impl Write) -> Result<(), Failure> {
    for page in Code::ALL.iter().filter_map(|code| explain::code(*code)) {
        let what = page.text.split("\n\n").next().unwrap_or_default();
        write!(out, "{}\n{}", paint.bold(page.title), explain::plain(what, "  "))?;
    }
    Ok(())
}

fn log(source: Option<&str>, paint: Paint, out: &mut impl Write) -> Result<(), Failure> {
    let name = input::name(source);
    let unreadable = |failure| match failure {
        Failure::Usage(why) if !name.contains('/') => {
            Failure::Usage(format!("{name} is not a code, and as a log: {why}"))
        }
        failure => failure,
    };
    let log = input::open(source).map_err(unreadable)?;
    let findings = Findings::read(BufReader::new(log)).map_err(|error| input::unreadable(name, &error))?;
    let mut separator = "";
    for (finding, page) in findings.iter() {
        let lines = if finding.count == 1 { "1 line".to_owned() } else { format!("{} lines, the last", finding.count) };
        write!(out, "{separator}{}\n  {lines}: {}\n\n", paint.bold(page.title), finding.line)?;
        write!(out, "{}", explain::plain(page.text, "  "))?;
        for (number, code) in page.codes().enumerate() {
            writeln!(out, "  {} viommu explain {code}", if number == 0 { "more:" } else { "     " })?;
        }
        separator = "\n";
    }
    if separator.is_empty() {
        writeln!(
            out,
            "nothing known in {} lines. What is known are viommu's own codes, and what QEMU, libvirt and the kernel say about \
             vIOMMUs, VFIO and locked memory; a guest's log is /var/log/libvirt/qemu/NAME.log",
            findings.lines
        )?;
    }
    Ok(())
}
