//! The medians as bars on a logarithmic scale, a group for each size, with whiskers from 10 % to 90 %.

use std::fmt::Write;

use crate::Figure;

/// The left end of the bars.
const LEFT: f64 = 290.0;
/// Width of a power of ten.
const DECADE: f64 = 105.0;
const ROW: f64 = 20.0;
const OURS: &str = "#2a6fb0";
const OTHERS: &str = "#9a9a9a";

/// The first line of the scale, microseconds.
const FIRST: f64 = 100.0;

const SCALE: [(&str, f64); 6] =
    [("0.1 ms", 1e2), ("1 ms", 1e3), ("10 ms", 1e4), ("100 ms", 1e5), ("1 s", 1e6), ("10 s", 1e7)];

fn x(micros: f64) -> f64 {
    LEFT + (micros.max(FIRST) / FIRST).log10() * DECADE
}

/// The chart as SVG.
pub(crate) fn draw(sizes: &[(&str, Vec<Figure>)]) -> String {
    let mut bars = String::new();
    let mut y = 40.0;
    for (size, figures) in sizes {
        writeln!(bars, "<text x='10' y='{:.0}' font-weight='bold'>a domain of {size}</text>", y + 4.0).unwrap();
        y += ROW;
        for figure in figures {
            bar(&mut bars, figure, y);
            y += ROW;
        }
        y += ROW / 2.0;
    }
    let mut scale = String::new();
    for (label, micros) in SCALE {
        let at = x(micros);
        writeln!(
            scale,
            "<path d='M{at:.0} 26V{y:.0}' stroke='#ddd'/><text x='{at:.0}' y='20' text-anchor='middle'>{label}</text>"
        )
        .unwrap();
    }
    let (width, height) = (x(1e7) + 30.0, y + 10.0);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0} {height:.0}' font-family='sans-serif' font-size='11'>\n\
         <title>Time from spawn to exit, medians, logarithmic</title>\n<rect width='100%' height='100%' fill='#fff'/>\n{scale}{bars}</svg>\n"
    )
}

fn bar(bars: &mut String, figure: &Figure, y: f64) {
    let Figure { what, median, spread: (low, high) } = figure;
    let colour = if what.starts_with("viommu") { OURS } else { OTHERS };
    let (end, low, high) = (x(*median), x(*low), x(*high));
    let (label, text, top, middle) = (LEFT - 8.0, y + 10.0, y, y + 6.0);
    writeln!(bars, "<text x='{label:.0}' y='{text:.0}' text-anchor='end'>{what}</text>").unwrap();
    writeln!(bars, "<rect x='{LEFT}' y='{top:.0}' width='{:.1}' height='12' fill='{colour}'/>", end - LEFT).unwrap();
    writeln!(bars, "<path d='M{low:.1} {middle:.0}H{high:.1}' stroke='#222'/>").unwrap();
    writeln!(bars, "<text x='{:.1}' y='{text:.0}'>{}</text>", high.max(end) + 6.0, duration(*median)).unwrap();
}

/// A duration in a readable unit.
pub(crate) fn duration(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        ..1e4 => format!("{:.2} ms", micros / 1e3),
        ..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}
