//! `viommu rewrite`: the filter.

use std::io::Write;

use clap::Args;

use crate::rewrite::rewrite;

use super::Failure;
use super::input::{self, HostOptions, RequestOptions};

/// Filter: domain XML in, rewritten domain XML out, every other byte as it was.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A file with domain XML; - or nothing reads stdin
    file: Option<String>,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    host: HostOptions,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    let bytes = input::file(arguments.file.as_deref())?;
    let decided = input::decide(&bytes, &arguments.request, &arguments.host)?;
    match rewrite(&decided.document, &decided.plan?)? {
        Some(text) => out.write_all(text.as_bytes())?,
        None => out.write_all(&bytes)?,
    }
    Ok(0)
}
