//! Time and memory grow linearly with the input, for every shape. The test counts instructions, which do not depend on
//! the machine's load.

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
#[path = "support/kernel.rs"]
mod kernel;
#[path = "scale/memory.rs"]
mod memory;
#[path = "support/release.rs"]
mod release;
#[path = "scale/route.rs"]
mod route;
#[path = "support/sandbox.rs"]
mod sandbox;
#[path = "scale/shapes.rs"]
mod shapes;
#[path = "support/sized.rs"]
mod sized;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use callgrind::instructions;
use kernel::{HOOK, begin};
use shapes::{SHAPES, Shape};

#[test]
fn twice_the_input_takes_twice_the_time() {
    let Some(binary) = release::release().filter(|_| callgrind::available()) else { return };
    if !sandbox::inside("twice_the_input_takes_twice_the_time") {
        return;
    }
    kernel::host(&binary, &[HOOK]);
    let count = |text: &str| instructions(Path::new(HOOK), &begin("prepare"), text.as_bytes());
    let (least, _) = count("<domain/>");
    let mut worse = Vec::new();
    println!(
        "| {:40} | bytes | instructions for each | growth for twice the bytes |\n|---|---:|---:|---:|",
        "what grows"
    );
    for Shape { what, number, make, refused } in SHAPES {
        let [small, large] = [make(number), make(number * 2)];
        let ((once, status), (twice, _)) = (count(&small), count(&large));
        // A guest with a request, without a vIOMMU in the XML and without the wrapper, is also refused, for another
        // reason.
        assert_eq!(status, 1, "{what}");
        let bytes = large.len() as f64 / small.len() as f64;
        let growth = growth(least, once, twice) * 2.0 / bytes;
        let each = once.saturating_sub(least) as f64 / small.len() as f64;
        println!("| {what:40} | {:6} | {each:6.1} | {growth:4.2} |", small.len());
        // The cost of an early refusal does not depend on the size.
        if growth > 2.2 || (refused && each > 100.0) {
            worse.push(what);
        }
    }
    assert!(worse.is_empty(), "not linear: {worse:?}");
}

/// Instructions for twice the input, divided by those for the input: about two at most for linear growth.
fn growth(least: u64, once: u64, twice: u64) -> f64 {
    twice.saturating_sub(least) as f64 / once.saturating_sub(least).max(1) as f64
}

#[test]
fn twice_the_log_takes_twice_the_time() {
    let Some(binary) = release::release().filter(|_| callgrind::available()) else { return };
    let count = |log: &str| {
        let (count, status) = instructions(&binary, &["explain"], log.as_bytes());
        assert_eq!(status, 0);
        count
    };
    let least = count("");
    // Real messages, and lines that make a search slow: 40 KB, so that twice the size is not truncated yet.
    for (what, piece) in [
        ("messages", include_str!("../docs/messages.md")),
        ("codes", "error[auto-model]\n"),
        ("codes on one line", "error[auto-model]"),
        ("beginnings of a code", "error["),
        ("beginnings of a message", "vfio_dma_map("),
        ("all pairs of many messages", &include_str!("../docs/messages.md").replace('\n', "|")),
        ("control characters", "\x1b"),
        ("command line", "-device x \\\n"),
        ("empty lines", "\n"),
    ] {
        let log = piece.repeat((30_000 / piece.len()).max(1));
        let (once, twice) = (count(&log), count(&log.repeat(2)));
        let growth = growth(least, once, twice);
        println!(
            "{what:30} {:6} bytes {:5.1} instructions for each, {growth:.2}",
            log.len(),
            once as f64 / log.len() as f64
        );
        assert!(growth < 2.2, "{what}: {growth}");
    }
}

/// libvirt writes an argument for each device, and the edits read all of them.
#[test]
fn twice_the_arguments_take_twice_the_time() {
    let Some(binary) = release::release().filter(|_| callgrind::available()) else { return };
    if !sandbox::inside("twice_the_arguments_take_twice_the_time") {
        return;
    }
    let wrapper = "/run/test/hooks/viommu-qemu-system-x86_64";
    kernel::host(&binary, &[HOOK, wrapper]);
    fs::write("/etc/viommu.toml", "[emulators]\nx86_64 = '/nonexistent/qemu'\n").unwrap();
    let (_, status) = instructions(Path::new(HOOK), &begin("start"), sized::wrapped(20_000).as_bytes());
    assert_eq!(status, 0);
    let count = |number: usize, more: &[&str]| {
        let guest = ["-name", "guest=g", "-machine", "pc-q35-7.2", "-uuid", sized::UUID];
        let guest = [&guest, more.repeat(number).as_slice()].concat();
        let (count, status) = instructions(Path::new(wrapper), &guest, b"");
        assert_eq!(status, 1, "it tried to execute the missing file");
        count
    };
    let least = count(0, &[]);
    for more in [
        &["-device", r#"{"driver":"pcie-root-port","port":8,"chassis":1,"id":"pci.1","bus":"pcie.0"}"#][..],
        &["-device", "e1000e,id=a,,b,bus=pcie.0,addr=0x2"],
        &["-machine", "usb=off"],
        &["-overcommit", "mem-lock=off"],
        &["-accel", "kvm,kernel-irqchip=split"],
        &["disk.img"],
        &["-option-of-2040", "value"],
    ] {
        let (once, twice) = (count(250, more), count(500, more));
        let growth = growth(least, once, twice);
        println!("{:40} {:6} instructions for each, {growth:.2}", more.concat().split_at(8).0, (once - least) / 250);
        assert!(growth < 2.2, "{more:?}: {growth}");
    }
}

/// State files and records of other guests.
fn two_thousand_states_and_records() {
    let uuid = |number: u32| format!("{:02x}{number:06x}-3b0a-4f7e-9a51-2f6f0c1d7e93", number % 256);
    for number in 0..2000 {
        let uuid = uuid(number);
        for directory in ["/run/viommu", &format!("/var/lib/viommu/{uuid:.2}")] {
            fs::create_dir_all(directory).unwrap();
            fs::write(format!("{directory}/{uuid}.json"), "{}").unwrap();
        }
    }
}

/// The hook does not read state files of other guests.
#[test]
fn two_thousand_guests_add_no_instructions() {
    let Some(binary) = release::release().filter(|_| callgrind::available()) else { return };
    if !sandbox::inside("two_thousand_guests_add_no_instructions") {
        return;
    }
    kernel::host(&binary, &[HOOK]);
    let guest = sized::wrapped(20_000);
    let events = [begin("prepare"), begin("start"), begin("started"), ["g", "stopped", "end", "-"]];
    let all = || events.map(|event| instructions(Path::new(HOOK), &event, guest.as_bytes()));
    let alone = all();
    two_thousand_states_and_records();
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
    kernel::host(&binary, &[HOOK]);
    let guest = sized::wrapped(20_000);
    let start = |number: usize| {
        let mut command = Command::new(HOOK);
        command.args(begin("start")).stdin(Stdio::piped()).stderr(Stdio::piped());
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
