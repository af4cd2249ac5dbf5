//! The figures as the generated part of `docs/proof/performance.md`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::hostile::{Hostile, LARGER};
use crate::subjects::{FLOOR, LXML, NO_REQUEST, PREPARE, RECONNECT, XMLSTARLET};
use crate::{Figure, chart};

const BEGIN: &str = "<!-- generated: cargo bench --bench start -->\n";
const END: &str = "<!-- end of the generated part -->\n";

/// All measured values.
pub(crate) struct Page {
    /// By the size of the domain.
    pub(crate) sizes: Vec<(&'static str, Vec<Figure>)>,
    pub(crate) hostile: Vec<Hostile>,
    /// Peak memory for 1 MB and 10 MB of input, as multiples of the input.
    pub(crate) memory: Vec<(&'static str, [f64; 2])>,
}

impl Page {
    /// Rewrites the generated part of the page, and the chart.
    pub(crate) fn write(&self) {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/proof");
        let page = fs::read_to_string(docs.join("performance.md")).unwrap();
        let (head, rest) = page.split_once(BEGIN).unwrap();
        let (_, tail) = rest.split_once(END).unwrap();
        fs::write(docs.join("performance.md"), format!("{head}{BEGIN}{}{END}{tail}", self.text())).unwrap();
        fs::write(docs.join("performance.svg"), chart::draw(&self.sizes)).unwrap();
    }

    pub(crate) fn text(&self) -> String {
        let sizes: String = self
            .sizes
            .iter()
            .map(|(size, figures)| format!("### A domain of {size}\n\n{}\n", times(figures)))
            .collect();
        format!(
            "{}\n{}\n![Medians on a logarithmic scale](performance.svg)\n\n{sizes}{}\n{}",
            machine(),
            self.promises(),
            self.hostile_table(),
            self.memory_table()
        )
    }

    /// The limits that the project promises.
    fn promises(&self) -> String {
        let median = |size: &str, what: &str| {
            let (_, figures) = self.sizes.iter().find(|(name, _)| *name == size)?;
            Some(figures.iter().find(|figure| figure.what == what)?.median)
        };
        let ratio = |this, that| median("20 KB", this).zip(median("20 KB", that)).map(|(this, that)| this / that);
        let memory = self.memory.iter().flat_map(|(_, multiples)| multiples).copied().fold(0.0, f64::max);
        let rows = [
            ("20 KB: the hook at `prepare` with a request, times the C program", "at most 2", ratio(PREPARE, FLOOR)),
            ("20 KB: the hook at `prepare` without one, times the C program", "at most 1.3", ratio(NO_REQUEST, FLOOR)),
            ("20 KB: the hook at `reconnect`, times the C program", "at most 1.3", ratio(RECONNECT, FLOOR)),
            ("20 KB: bash with xmlstarlet, times the hook", "at least 5", ratio(XMLSTARLET, PREPARE)),
            ("20 KB: Python with lxml, times the hook", "at least 40", ratio(LXML, PREPARE)),
            (
                "1 MB: the hook at `prepare` with a request, ms",
                "at most 25",
                median("1 MB", PREPARE).map(|us| us / 1e3),
            ),
            ("peak memory, times the input, at the worst", "at most 20", Some(memory)),
        ];
        let mut text = String::from("| what | promised | measured |\n|---|---|---:|\n");
        for (what, promise, measured) in rows {
            let measured = measured.map_or("not measured".to_owned(), |measured| format!("{measured:.2}"));
            writeln!(text, "| {what} | {promise} | {measured} |").unwrap();
        }
        text
    }

    fn hostile_table(&self) -> String {
        let mut text = format!(
            "### Documents that were made to hurt\n\nThe hook at `prepare`, for a document and for one that is {LARGER} times as long. \
             All of them ask; `wrapper-missing` is what a guest hears with which nothing else is wrong.\n\n\
             | what grows | refused with | KB | ms | KB | ms |\n|---|---|---:|---:|---:|---:|\n"
        );
        for Hostile { what, code, bytes, micros } in &self.hostile {
            let [small, large] = bytes.map(|bytes| bytes.div_ceil(1000));
            let [once, then] = micros.map(|micros| micros / 1000.0);
            writeln!(text, "| {what} | `{code}` | {small} | {once:.2} | {large} | {then:.2} |").unwrap();
        }
        text
    }

    fn memory_table(&self) -> String {
        let mut text = String::from(
            "### Memory\n\nPeak memory of `viommu rewrite`, as multiples of the input. The densest documents that are accepted stand \
             below the disks; denser ones are refused.\n\n| what grows | 1 MB | 10 MB |\n|---|---:|---:|\n",
        );
        for (what, [small, large]) in &self.memory {
            writeln!(text, "| {what} | {small:.1} | {large:.1} |").unwrap();
        }
        text
    }
}

fn times(figures: &[Figure]) -> String {
    let mut text = String::from("| what | median | 10 % to 90 % | times the C program |\n|---|---:|---:|---:|\n");
    for Figure { what, median, spread: (low, high) } in figures {
        let ratio = median / figures[0].median;
        let [median, low, high] = [median, low, high].map(|micros| chart::duration(*micros));
        writeln!(text, "| {what} | {median} | {low} to {high} | {ratio:.2} |").unwrap();
    }
    text
}

/// The machine of the measurement.
fn machine() -> String {
    let line = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(key));
        found.map(|value| value.trim_start_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
    };
    let kernel = Command::new("uname").arg("-r").output().unwrap().stdout;
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let virtual_machine =
        if line("/proc/cpuinfo", "flags").contains(" hypervisor") { " (a virtual machine)" } else { "" };
    let load = line("/proc/loadavg", "").split(' ').take(3).collect::<Vec<_>>().join(", ");
    format!(
        "Measured on {processors} × {}{virtual_machine}, Linux {}; load averages at the end: {load}.\n",
        line("/proc/cpuinfo", "model name"),
        String::from_utf8_lossy(&kernel).trim(),
    )
}
