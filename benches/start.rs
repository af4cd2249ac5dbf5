//! What viommu adds to the start of a guest: `cargo bench --bench start`, as root.
//!
//! Whole processes, from spawn to exit, against a static C program that does nothing; runs alternate, so that a noisy
//! machine is noisy for all. The state files stand on a tmpfs in a mount namespace of the benchmark's own.
#![expect(clippy::disallowed_methods, reason = "a benchmark has effects")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "what fails here fails the benchmark"
)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use viommu::domain::Uuid;
use viommu::qemu::Edits;
use viommu::state::{DIRECTORY, State};
use viommu::sys::process::boot_clock;

const RUNS: usize = 200;
const UUID: &str = "8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93";

/// A program run in a certain way.
struct Subject {
    what: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    stdin: Option<PathBuf>,
}

fn main() {
    if std::env::var_os("VIOMMU_BENCH_NAMESPACE").is_none() {
        let error = Command::new("unshare")
            .args(["--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .env("VIOMMU_BENCH_NAMESPACE", "1")
            .exec();
        println!("SKIPPED: unshare: {error}");
        return;
    }
    let work = std::env::temp_dir().join(format!("viommu-bench-{}", std::process::id()));
    let subjects = prepare(&work);
    let mut times: Vec<Vec<Duration>> = vec![Vec::with_capacity(RUNS); subjects.len()];
    for run in 0..RUNS + 10 {
        for (subject, times) in subjects.iter().zip(&mut times) {
            let taken = subject.run();
            // The first runs fill caches.
            if run >= 10 {
                times.push(taken);
            }
        }
    }
    fs::remove_dir_all(&work).unwrap();

    for times in &mut times {
        times.sort();
    }
    let floor = times[0][RUNS / 2];
    println!("| what | median µs | p90 µs | beyond the C program µs | times the C program |\n|---|---|---|---|---|");
    for (subject, times) in subjects.iter().zip(&times) {
        let (median, p90) = (times[RUNS / 2], times[RUNS * 9 / 10]);
        let ratio = median.as_nanos() as f64 / floor.as_nanos() as f64;
        let beyond = median.saturating_sub(floor).as_micros();
        println!("| {} | {} | {} | {beyond} | {ratio:.2} |", subject.what, median.as_micros(), p90.as_micros());
    }
}

fn prepare(work: &Path) -> Vec<Subject> {
    fs::create_dir_all(work.join("hooks")).unwrap();
    let viommu = PathBuf::from(env!("CARGO_BIN_EXE_viommu"));
    let link = |name: &str| {
        let link = work.join(name);
        std::os::unix::fs::symlink(&viommu, &link).unwrap();
        link
    };
    fs::write(work.join("noop.c"), "int main(void) { return 0; }\n").unwrap();
    let noop = work.join("noop");
    succeed(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(&noop).arg(work.join("noop.c")));

    fs::create_dir_all(DIRECTORY).unwrap();
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", DIRECTORY]));
    let uuid: Uuid = UUID.parse().unwrap();
    let device = "intel-iommu,id=ua-viommu0,intremap=on,caching-mode=on,eim=on,aw-bits=48";
    let edits = Edits {
        machine: [("kernel_irqchip".to_owned(), "split".to_owned())].into(),
        devices: vec![device.to_owned()],
        ..Edits::default()
    };
    let state = State::new(uuid, boot_clock(), noop.display().to_string(), edits, None);
    fs::write(Path::new(DIRECTORY).join(format!("{UUID}.json")), state.to_json()).unwrap();

    let asking = work.join("asking.xml");
    let domain =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/domains/dpdk-gateway.xml")).unwrap();
    // 20 KB, as libvirt's live XML of a guest with many devices.
    let padding = "<!-- a device more -->\n".repeat((20_000 - domain.len()) / 23);
    fs::write(&asking, domain.replace("  <devices>\n", &format!("  <devices>\n{padding}"))).unwrap();
    let silent = work.join("silent.xml");
    fs::write(&silent, fs::read_to_string(&asking).unwrap().replace("urn:libvirt-viommu:1", "urn:other")).unwrap();

    let hook = link("hooks/qemu");
    let event = |what, operation: &str, stdin: &PathBuf| Subject {
        what,
        program: hook.clone(),
        arguments: ["dpdk-gateway", operation, "begin", "-"].map(str::to_owned).into(),
        stdin: Some(stdin.clone()),
    };
    let devices = (1..30)
        .flat_map(|slot| ["-device".into(), format!("{{\"driver\":\"pcie-root-port\",\"addr\":\"{slot:#x}\"}}")]);
    let mut guest: Vec<String> =
        ["-name", "guest=bench", "-machine", "pc-q35-7.2,usb=off", "-uuid", UUID].map(str::to_owned).into();
    guest.extend(devices);
    vec![
        Subject { what: "a static C program that does nothing", program: noop, arguments: guest.clone(), stdin: None },
        Subject {
            what: "the same behind the wrapper, vIOMMU inserted",
            program: link("viommu-qemu-system-x86_64"),
            arguments: guest,
            stdin: None,
        },
        event("hook, prepare begin, 20 KB, with a request", "prepare", &asking),
        event("hook, prepare begin, 20 KB, without a request", "prepare", &silent),
        event("hook, reconnect begin", "reconnect", &asking),
    ]
}

fn succeed(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

impl Subject {
    fn run(&self) -> Duration {
        let stdin = self.stdin.as_ref().map_or_else(Stdio::null, |path| fs::File::open(path).unwrap().into());
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        command.status().unwrap();
        start.elapsed()
    }
}
