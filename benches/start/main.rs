//! The time that viommu adds to the start of a guest, compared with alternatives: `cargo bench --bench start`, as root.
//! Writes the figures into `docs/proof/performance.md` and the chart beside it.
//!
//! The benchmark measures whole processes, from spawn to exit, against a static C program that does nothing. Runs
//! alternate, so that the load of the machine affects all programs. The state files are on a tmpfs in the benchmark's
//! own mount namespace. A number after
//! `--` sets the number of rounds, and prints the page without writing it.
#![expect(clippy::disallowed_methods, reason = "a benchmark does I/O")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::format_collect,
    clippy::panic,
    reason = "a panic fails the benchmark"
)]

mod chart;
mod hostile;
#[path = "../../tests/scale/memory.rs"]
mod memory;
mod page;
#[expect(dead_code, reason = "tests/scale.rs uses the rest")]
#[path = "../../tests/scale/shapes.rs"]
mod shapes;
#[path = "../../tests/support/sized.rs"]
mod sized;
mod subjects;

use std::os::unix::process::CommandExt;
use std::process::Command;

use page::Page;
use subjects::{Subject, Workshop};

/// Rounds for each size of the domain. The documented limits are for 20 KB and 1 MB.
const SIZES: [(&str, usize, usize); 4] =
    [("1 KB", 1_000, 50), ("20 KB", 20_000, 200), ("1 MB", 1_000_000, 30), ("10 MB", 10_000_000, 10)];

/// The result of one program at one size, in microseconds.
struct Figure {
    what: &'static str,
    median: f64,
    /// The 10th and the 90th percentile.
    spread: (f64, f64),
}

fn main() {
    if std::env::var_os("VIOMMU_BENCH_NAMESPACE").is_none() {
        let error = Command::new("unshare")
            .args(["--mount", "--"])
            .args(std::env::args_os())
            .env("VIOMMU_BENCH_NAMESPACE", "1")
            .exec();
        println!("SKIPPED: unshare: {error}");
        return;
    }
    let few: Option<usize> = std::env::args().find_map(|argument| argument.parse().ok());
    let workshop = Workshop::open();
    let sizes = SIZES.map(|(size, bytes, rounds)| {
        println!("a domain of {size}");
        (size, measure(&workshop.subjects(bytes), few.unwrap_or(rounds)))
    });
    println!("hostile documents and memory");
    let page = Page {
        sizes: sizes.into(),
        hostile: hostile::all(&workshop, few.unwrap_or(20)),
        memory: memory::DENSE.map(|(what, make)| (what, memory_of(&workshop, make))).into(),
    };
    if few.is_some() {
        println!("{}", page.text());
    } else {
        page.write();
    }
}

/// Runs all subjects alternately; each round reverses the order.
fn measure(subjects: &[Subject], rounds: usize) -> Vec<Figure> {
    let mut times = vec![Vec::with_capacity(rounds); subjects.len()];
    // The first rounds only fill caches.
    let warm = (rounds / 20).max(1);
    for round in 0..rounds + warm {
        for turn in 0..subjects.len() {
            let number = if round % 2 == 0 { turn } else { subjects.len() - 1 - turn };
            if round % subjects[number].every > 0 {
                continue;
            }
            let taken = subjects[number].run();
            // Every run of a slow program counts.
            if round >= warm || subjects[number].every > 1 {
                times[number].push(taken.as_nanos() as f64 / 1000.0);
            }
        }
    }
    let figure = |(subject, mut times): (&Subject, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        let at = |tenths: usize| times[(times.len() - 1) * tenths / 10];
        Figure { what: subject.what, median: at(5), spread: (at(1), at(9)) }
    };
    subjects.iter().zip(times).map(figure).collect()
}

/// Peak memory for 1 MB and 10 MB of input, as multiples of the input.
fn memory_of(workshop: &Workshop, make: fn(usize) -> String) -> [f64; 2] {
    [1_000_000, 10_000_000].map(|bytes| {
        let text = make(bytes);
        memory::peak(&workshop.path("viommu"), &workshop.path(""), &text) as f64 * 1024.0 / text.len() as f64
    })
}
