//! The figures as tables and as a chart, in `docs/performance.md` and `docs/performance.svg`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Figure;
use crate::subjects::{FLOOR, LXML, PREPARE, RECONNECT, XMLSTARLET};

const BEGIN: &str = "<!-- generated: cargo bench --bench start -->\n";
const END: &str = "<!-- end of the generated part -->\n";

/// The figures of one size.
type Measured = (&'static str, Vec<Figure>);

pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::from("| what | median µs | 10 % to 90 % µs | times the C program |\n|---|---:|---:|---:|\n");
    for Figure { what, median, spread: (low, high) } in figures {
        let ratio = median / figures[0].median;
        writeln!(text, "| {what} | {median:.0} | {low:.0} to {high:.0} | {ratio:.2} |").unwrap();
    }
    text
}

/// Rewrites the generated part of the page, and the chart.
pub(crate) fn write(figures: &[Measured]) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let page = fs::read_to_string(docs.join("performance.md")).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let tables: String = figures.iter().map(|(size, figures)| format!("### {size}\n\n{}\n", table(figures))).collect();
    let chart_link = "![Medians on a logarithmic scale](performance.svg)";
    let text = format!("{head}{BEGIN}{}\n{chart_link}\n\n{}\n{tables}{END}{tail}", machine(), claims(figures));
    fs::write(docs.join("performance.md"), text).unwrap();
    fs::write(docs.join("performance.svg"), chart(figures)).unwrap();
}

/// What the figures mean is nothing without the machine.
fn machine() -> String {
    let line = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(key));
        found.map(|value| value.trim_start_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
    };
    let output = |program: &str| {
        let output = Command::new(program).arg("-r").output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = line("/proc/loadavg", "").split(' ').next().unwrap_or_default().to_owned();
    format!(
        "Measured on {processors} × {}, Linux {}, with a load of {load} at the end.\n",
        line("/proc/cpuinfo", "model name"),
        output("uname")
    )
}

/// The comparisons that this project promises to keep, at 20 KB.
fn claims(figures: &[Measured]) -> String {
    let Some((_, figures)) = figures.iter().find(|(size, _)| *size == "20 KB") else { return String::new() };
    let median = |what: &str| figures.iter().find(|figure| figure.what == what).map(|figure| figure.median);
    let rows = [
        ("`prepare begin` with a request, times the C program", PREPARE, FLOOR, "at most 1.8"),
        ("`reconnect begin`, times the C program", RECONNECT, FLOOR, "at most 1.3"),
        ("bash with xmlstarlet, times `prepare begin`", XMLSTARLET, PREPARE, "at least 5"),
        ("Python with lxml, times `prepare begin`", LXML, PREPARE, "at least 40"),
    ];
    let mut text = String::from("| at 20 KB | measured | promised |\n|---|---:|---:|\n");
    for (what, this, that, promise) in rows {
        let ratio =
            median(this).zip(median(that)).map_or("–".to_owned(), |(this, that)| format!("{:.2}", this / that));
        writeln!(text, "| {what} | {ratio} | {promise} |").unwrap();
    }
    text
}

/// Bars of the medians on a logarithmic scale, one group for each size, whiskers from 10 % to 90 %.
fn chart(figures: &[Measured]) -> String {
    const LEFT: f64 = 300.0;
    const DECADE: f64 = 110.0;
    const ROW: f64 = 20.0;
    let x = |micros: f64| LEFT + (micros.max(100.0) / 100.0).log10() * DECADE;
    let mut body = String::new();
    let mut y = 40.0;
    for (size, figures) in figures {
        writeln!(body, "<text x='10' y='{:.0}' font-weight='bold'>domain of {size}</text>", y + 4.0).unwrap();
        y += ROW;
        for Figure { what, median, spread: (low, high) } in figures {
            let colour = if what.starts_with("hook") || what.starts_with("viommu") || what.contains("wrapper") {
                "#2a6fb0"
            } else {
                "#9a9a9a"
            };
            let (end, middle) = (x(*median), y + ROW / 2.0 - 4.0);
            writeln!(
                body,
                "<text x='{:.0}' y='{:.0}' text-anchor='end'>{what}</text><rect x='{LEFT}' y='{:.0}' width='{:.1}' height='12' \
                 fill='{colour}'/><path d='M{:.1} {middle:.0}H{:.1}' stroke='#222'/><text x='{:.1}' y='{:.0}'>{}</text>",
                LEFT - 8.0,
                y + 10.0,
                y,
                end - LEFT,
                x(*low),
                x(*high),
                x(*high).max(end) + 6.0,
                y + 10.0,
                duration(*median),
            )
            .unwrap();
            y += ROW;
        }
        y += ROW / 2.0;
    }
    let mut scale = String::new();
    for (label, micros) in
        [("0.1 ms", 1e2), ("1 ms", 1e3), ("10 ms", 1e4), ("100 ms", 1e5), ("1 s", 1e6), ("10 s", 1e7)]
    {
        let at = x(micros);
        writeln!(
            scale,
            "<path d='M{at:.0} 26V{y:.0}' stroke='#ddd'/><text x='{at:.0}' y='20' text-anchor='middle'>{label}</text>"
        )
        .unwrap();
    }
    let (width, height) = (x(1e7) + 60.0, y + 10.0);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0} {height:.0}' font-family='sans-serif' font-size='11'>\n\
         <rect width='100%' height='100%' fill='#fff'/>\n{scale}{body}</svg>\n"
    )
}

fn duration(micros: f64) -> String {
    if micros < 1000.0 { format!("{micros:.0} µs") } else { format!("{:.1} ms", micros / 1000.0) }
}
