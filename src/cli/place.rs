//! `viommu plan --host A --host B …`: which of several hosts can take a domain, and why the others cannot.
//!
//! No scheduler: the hosts come in the order in which they were named.

use std::io::Write;

use serde::Serialize;

use crate::note::Note;
use crate::plan::{Plan, Refusal, kept, obstacle};
use crate::text::printable;

use super::Failure;
use super::input::{self, HostOptions, RequestOptions};
use super::report;

/// One host's answer.
#[derive(Serialize)]
struct Answer {
    /// The file that describes the host.
    host: String,
    /// Whether nothing is known against it.
    suitable: bool,
    /// Why it cannot take the domain.
    reason: Option<Note>,
    #[serde(serialize_with = "report::outcome")]
    plan: Result<Plan, Refusal>,
}

/// Asks every host. Exit status 1 where none can take the domain.
pub(super) fn run(
    xml: &[u8],
    request: &RequestOptions,
    hosts: Vec<(String, HostOptions)>,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let ask = |(host, options): (String, HostOptions)| {
        let decided = input::decide(xml, request, &options)?;
        let reason = obstacle(&decided.domain, &decided.plan, &decided.host);
        Ok(Answer { host, suitable: reason.is_none(), reason, plan: decided.plan })
    };
    let answers = hosts.into_iter().map(ask).collect::<Result<Vec<Answer>, Failure>>()?;
    if json {
        report::json(&serde_json::json!({ "hosts": answers }), out)?;
    } else {
        for answer in &answers {
            writeln!(out, "{}", line(answer))?;
        }
    }
    Ok(u8::from(answers.iter().all(|answer| !answer.suitable)))
}

fn line(answer: &Answer) -> String {
    let host = printable(&answer.host);
    match (&answer.reason, &kept(&answer.plan).iommu) {
        (Some(note), _) => format!("{host}: no, error[{}]: {}", note.code, printable(&note.message)),
        (None, Some(iommu)) => format!("{host}: yes, {}{}", printable(&iommu.name), report::attributes(&iommu.driver)),
        (None, None) => format!("{host}: yes, no vIOMMU"),
    }
}
