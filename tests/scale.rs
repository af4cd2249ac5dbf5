//! Time and memory grow as the input does, whatever its shape. Time is counted in instructions, which a busy machine does
//! not change.

#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program"
)]

#[path = "support/callgrind.rs"]
mod callgrind;
#[path = "support/host.rs"]
mod host;
#[path = "scale/memory.rs"]
mod memory;
#[path = "support/release.rs"]
mod release;
#[path = "support/sandbox.rs"]
mod sandbox;
#[path = "scale/shapes.rs"]
mod shapes;
#[path = "support/sized.rs"]
mod sized;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use callgrind::instructions;
use shapes::{SHAPES, Shape};

const PREPARE: [&str; 4] = ["g", "prepare", "begin", "-"];

/// The release binary as libvirt's hook, on a host of which everything is known.
fn hook(binary: &Path) -> PathBuf {
    host::write(9_000_000);
    fs::create_dir_all("/run/test/hooks").unwrap();
    symlink(binary, "/run/test/hooks/qemu").unwrap();
    "/run/test/hooks/qemu".into()
}

#[test]
fn twice_the_input_takes_twice_the_time() {
    let Some(binary) = release::release().filter(|_| callgrind::available()) else { return };
    if !sandbox::inside("twice_the_input_takes_twice_the_time") {
        return;
    }
    let hook = hook(&binary);
    let count = |text: &str| instructions(&hook, &PREPARE, text.as_bytes());
    let (least, _) = count("<domain/>");
    let mut worse = Vec::new();
    println!(
        "| {:40} | bytes | instructions for each | growth for twice the bytes |\n|---|---:|---:|---:|",
        "what grows"
    );
    for Shape { what, number, make, refused } in SHAPES {
        let [small, large] = [make(number), make(number * 2)];
        let ((once, status), (twice, _)) = (count(&small), count(&large));
        // Who asks, and has no vIOMMU in the XML and no wrapper, is refused as well: for another reason.
        assert_eq!(status, 1, "{what}");
        let bytes = large.len() as f64 / small.len() as f64;
        let growth = twice.saturating_sub(least) as f64 / once.saturating_sub(least).max(1) as f64 * 2.0 / bytes;
        let each = once.saturating_sub(least) as f64 / small.len() as f64;
        println!("| {what:40} | {:6} | {each:6.1} | {growth:4.2} |", small.len());
        // What is refused at once costs no more for more.
        if growth > 2.2 || (refused && each > 100.0) {
            worse.push(what);
        }
    }
    assert!(worse.is_empty(), "not linear: {worse:?}");
}

/// Other guests' state files are nothing to look at.
#[test]
fn two_thousand_guests_cost_nothing() {
    let Some(binary) = release::release().filter(|_| callgrind::available()) else { return };
    if !sandbox::inside("two_thousand_guests_cost_nothing") {
        return;
    }
    let hook = hook(&binary);
    let guest = sized::wrapped(20_000);
    let events = [PREPARE, ["g", "start", "begin", "-"], ["g", "started", "begin", "-"], ["g", "stopped", "end", "-"]];
    let all = || events.map(|event| instructions(&hook, &event, guest.as_bytes()));
    let alone = all();
    for directory in ["/run/viommu", "/var/lib/viommu"] {
        fs::create_dir_all(directory).unwrap();
        for number in 0..2000 {
            fs::write(format!("{directory}/{number:08x}-3b0a-4f7e-9a51-2f6f0c1d7e93.json"), "{}").unwrap();
        }
    }
    for (event, ((before, status), (after, same))) in events.iter().zip(alone.into_iter().zip(all())) {
        println!("{event:?}: {before} alone, {after} among two thousand");
        assert_eq!((status, same), (0, 0), "{event:?}");
        assert!(after < before + before / 50, "{event:?}: {before}, and {after} among two thousand");
    }
}

#[test]
fn five_hundred_at_once() {
    let Some(binary) = release::release() else { return };
    if !sandbox::inside("five_hundred_at_once") {
        return;
    }
    let hook = hook(&binary);
    let guest = sized::wrapped(20_000);
    let start = |number: usize| {
        let mut command = Command::new(&hook);
        command.args(["g", "start", "begin", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let guest = guest.replace("8d6f2c4e", &format!("{number:08x}"));
        (command.spawn().unwrap(), guest)
    };
    // All of them wait for their XML before the first gets it.
    let mut running: Vec<(Child, String)> = (0..500).map(start).collect();
    for (child, guest) in &mut running {
        child.stdin.take().unwrap().write_all(guest.as_bytes()).unwrap();
    }
    for (child, _) in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let files = fs::read_dir("/run/viommu").unwrap().count();
    assert_eq!(files, 500, "a state file for each, and nothing else");
}

#[test]
fn memory_grows_as_the_input_does() {
    let Some(binary) = release::release() else { return };
    if !sandbox::inside("memory_grows_as_the_input_does") {
        return;
    }
    fs::create_dir_all("/run/test").unwrap();
    host::write(9_000_000);
    println!("| what | input KiB | peak KiB | times the input |\n|---|---:|---:|---:|");
    for (what, make) in memory::DENSE {
        for bytes in [1_000_000, 2_000_000, 3_900_000, 10_000_000] {
            let text = make(bytes);
            let (peak, input) = (memory::peak(&binary, Path::new("/run/test"), &text), text.len() as u64 / 1024);
            println!("| {what} | {input} | {peak} | {:.1} |", peak as f64 / input as f64);
            assert!(peak <= 20 * input, "{what}: {peak} KiB for {input} KiB");
        }
    }
}
