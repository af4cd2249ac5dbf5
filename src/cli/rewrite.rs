//! `viommu rewrite`: the filter.

use std::io::Write;

use clap::Args;

use crate::rewrite::rewrite;

use super::Failure;
use super::input::{self, HostOptions, RequestOptions};
use super::terminal::Output;

/// Filter: read domain XML, write the rewritten domain XML, and change no other byte
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File with domain XML; - or nothing reads stdin
    file: Option<String>,
    #[command(flatten)]
    request: RequestOptions,
    #[command(flatten)]
    host: HostOptions,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    let bytes = input::file(arguments.file.as_deref())?;
    let source = arguments.file.as_deref();
    let decided =
        input::decide(&bytes, &arguments.request, &arguments.host).map_err(|failure| failure.of_input(source))?;
    match rewrite(&decided.document, &decided.plan?)? {
        Some(text) => out.write_all(text.as_bytes())?,
        None => out.write_all(&bytes)?,
    }
    Ok(0)
}
