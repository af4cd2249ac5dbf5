//! What viommu adds to the start of a guest, beside what others would: `cargo bench --bench start`, as root. Writes the
//! figures into `docs/performance.md` and the chart beside it.
//!
//! Whole processes, from spawn to exit, against a static C program that does nothing; runs alternate, so that a noisy
//! machine is noisy for all. The state files stand on a tmpfs in a mount namespace of the benchmark's own. A number behind
//! `--` makes that many rounds instead, and writes nothing.
#![expect(clippy::disallowed_methods, reason = "a benchmark has effects")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::format_collect,
    reason = "what fails here fails the benchmark"
)]

mod page;
#[path = "../../tests/support/sized.rs"]
mod sized;
mod subjects;

use std::os::unix::process::CommandExt;
use std::process::Command;

use subjects::{Subject, Workshop};

/// Rounds for each size of the domain. The claims are made at 20 KB.
const SIZES: [(&str, usize, usize); 4] =
    [("1 KB", 1_000, 50), ("20 KB", 20_000, 200), ("1 MB", 1_000_000, 30), ("10 MB", 10_000_000, 10)];

/// What came of one way to start at one size, microseconds.
struct Figure {
    what: &'static str,
    median: f64,
    /// A tenth of the runs is faster than the first, and a tenth slower than the second.
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
    let mut figures = Vec::new();
    for (size, bytes, rounds) in SIZES {
        let of_size = measure(&workshop.subjects(bytes), few.unwrap_or(rounds));
        println!("{size}\n{}", page::table(&of_size));
        figures.push((size, of_size));
    }
    if few.is_none() {
        page::write(&figures);
    }
}

/// Runs everything in turn. What fails to start is left out.
fn measure(subjects: &[Subject], rounds: usize) -> Vec<Figure> {
    let mut times = vec![Vec::with_capacity(rounds); subjects.len()];
    // The first rounds fill caches.
    let warm = (rounds / 20).max(1);
    for round in 0..rounds + warm {
        for (subject, times) in subjects.iter().zip(&mut times) {
            let taken = subject.run();
            if round >= warm {
                times.push(taken.as_nanos() as f64 / 1000.0);
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
