//! `viommu plan`: the dry run, for one host or for several.

use clap::Args;
use serde_json::{Value, json};

use crate::decide::Decided;
use crate::note::{Level, Note};
use crate::plan::{Plan, Refusal, kept, unsuitable};
use crate::rewrite::rewrite;
use crate::text::printable;

use super::Failure;
use super::input::{self, HostOptions, RequestOptions};
use super::report;
use super::terminal::{Format, Output};
use super::virsh::Connection;

const FORMATS: &[Format] = &[Format::Text, Format::Json, Format::Diff];

/// Show what would be done for a domain, and why; change nothing
///
/// With --host several times: which of those hosts can run the domain, in the order of the options, and why the others cannot;
/// exit status 1 if none can.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File with domain XML, or a domain that virsh knows; - or nothing reads stdin
    #[arg(value_name = "FILE|DOMAIN")]
    source: Option<String>,
    /// Output format
    #[arg(long, value_parser = Format::parser(FORMATS), default_value = "text")]
    format: Format,
    /// Exit with status 3 if something would change
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    host: HostOptions,
}

/// The answer for one of several hosts.
struct Answer {
    /// The file that describes the host.
    host: String,
    /// Why it cannot run the domain; `None` where no known fact speaks against it.
    reason: Option<Note>,
    plan: Result<Plan, Refusal>,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    let source = arguments.source.as_deref();
    let bytes = input::domain_xml(source, &arguments.connection)?;
    if let Some(hosts) = arguments.host.each_recorded() {
        return several(arguments, &bytes, hosts, out);
    }
    let decided =
        input::decide(&bytes, &arguments.request, &arguments.host).map_err(|failure| failure.of_input(source))?;
    let Decided { document, domain, mut plan, host, .. } = decided;
    let mut rewritten = None;
    if let Ok(plan) = &mut plan {
        rewritten = rewrite(&document, plan)?;
        plan.notes.extend(unsuitable(&domain, plan, &host).map(|note| Note { level: Level::Warning, ..note }));
    }
    match arguments.format {
        Format::Json => out.json(&json(&plan))?,
        Format::Diff => rewritten.iter().try_for_each(|text| report::diff(document.text(), text, "", out))?,
        _ => report::plan(&domain, &plan, document.text(), rewritten.as_deref(), out)?,
    }
    if let Err(refusal) = plan {
        return Err(refusal.note.into());
    }
    Ok(if arguments.exit_code && rewritten.is_some() { 3 } else { 0 })
}

fn several(
    arguments: &Arguments,
    bytes: &[u8],
    hosts: Vec<(String, HostOptions)>,
    out: &mut Output,
) -> Result<u8, Failure> {
    if arguments.format == Format::Diff || arguments.exit_code {
        return Err(Failure::Usage("--format diff and --exit-code are for one host".to_owned()));
    }
    let answer = |(host, options): (String, HostOptions)| {
        let decided = input::decide(bytes, &arguments.request, &options)?;
        let reason = match &decided.plan {
            Ok(plan) => unsuitable(&decided.domain, plan, &decided.host),
            Err(refusal) => Some(refusal.note.clone()),
        };
        Ok(Answer { host, reason, plan: decided.plan })
    };
    let answers = hosts.into_iter().map(answer).collect::<Result<Vec<Answer>, Failure>>()?;
    if arguments.format == Format::Json {
        let hosts = answers.iter().map(|Answer { host, reason, plan }| {
            json!({ "host": host, "suitable": reason.is_none(), "reason": reason, "plan": json(plan) })
        });
        out.json(&json!({ "hosts": hosts.collect::<Vec<_>>() }))?;
    } else {
        answers.iter().try_for_each(|answer| out.line(&line(answer), 4))?;
    }
    Ok(u8::from(answers.iter().all(|answer| answer.reason.is_some())))
}

fn json(outcome: &Result<Plan, Refusal>) -> Value {
    match outcome {
        Ok(plan) => json!(plan),
        Err(refusal) => json!(refusal),
    }
}

fn line(answer: &Answer) -> String {
    let host = printable(&answer.host);
    match (&answer.reason, &kept(&answer.plan).iommu) {
        (Some(note), _) => format!("{host}: no, error[{}]: {}", note.code, printable(&note.message)),
        (None, Some(iommu)) => format!("{host}: yes, {}{}", printable(&iommu.name), report::attributes(&iommu.driver)),
        (None, None) => format!("{host}: yes, no vIOMMU"),
    }
}
