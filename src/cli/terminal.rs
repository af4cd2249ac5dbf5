//! The output: its formats, and the colours and the width of the terminal.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::note::Level;
use crate::text::{printable_json, wrap};

/// An output format. Each verb has some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// For programs, and for --host
    Json,
    /// The change of the domain XML only
    Diff,
    /// For OpenStack: a provider configuration for nova-compute
    Placement,
    /// For Kubernetes: a feature file for node-feature-discovery
    Nfd,
    /// For Ansible: a local fact
    Ansible,
}

impl Format {
    /// Parses one of the formats of a verb.
    pub(super) fn parser(formats: &[Format]) -> impl TypedValueParser<Value = Format> {
        let parser = PossibleValuesParser::new(formats.iter().filter_map(ValueEnum::to_possible_value));
        // The parser accepts the names of the formats only.
        parser.map(|name| Format::from_str(&name, false).unwrap_or(Format::Text))
    }
}

/// Standard output or standard error: on a terminal with colours and wrapped lines.
pub(super) struct Output {
    stream: Box<dyn Write>,
    colour: bool,
    /// Columns; `None` where the output is not a terminal.
    width: Option<usize>,
}

impl Output {
    pub(super) fn stdout() -> Output {
        Output::of(io::stdout().lock())
    }

    pub(super) fn stderr() -> Output {
        Output::of(io::stderr().lock())
    }

    /// No colours with NO_COLOR (<https://no-color.org>), or if TERM names no terminal or a dumb one.
    #[expect(clippy::disallowed_methods, reason = "NO_COLOR and TERM are settings of every command")]
    fn of(stream: impl Write + AsFd + IsTerminal + 'static) -> Output {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        let width = rustix::termios::tcgetwinsize(&stream).ok().map(|size| usize::from(size.ws_col));
        Output {
            colour: stream.is_terminal() && set("NO_COLOR").is_none() && !dumb,
            // A terminal of unknown size reports 0.
            width: width.filter(|width| *width >= 20),
            stream: Box::new(stream),
        }
    }

    /// The columns to fill; `otherwise` where the output is not a terminal.
    pub(super) fn width(&self, otherwise: usize) -> usize {
        self.width.unwrap_or(otherwise)
    }

    pub(super) fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn level(&self, level: Level, text: &str) -> String {
        let colour = match level {
            Level::Error => "31",
            Level::Warning => "33",
            Level::Info => "36",
        };
        self.paint(colour, text)
    }

    /// Writes a line. On a terminal it is wrapped, and the next lines begin at the column `hang`.
    pub(super) fn line(&mut self, line: &str, hang: usize) -> io::Result<()> {
        match self.width {
            Some(width) => writeln!(self, "{}", wrap(line, width, hang)),
            None => writeln!(self, "{line}"),
        }
    }

    /// Writes a value behind a label of so many columns.
    pub(super) fn row(&mut self, label: &str, columns: usize, value: &str) -> io::Result<()> {
        self.line(&format!("{label:columns$}{value}"), columns)
    }

    /// Writes a blank line and a heading.
    pub(super) fn heading(&mut self, text: &str) -> io::Result<()> {
        writeln!(self, "\n{}", self.bold(text))
    }

    /// Writes a value as JSON.
    pub(super) fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let json = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        writeln!(self, "{}", printable_json(&json))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
