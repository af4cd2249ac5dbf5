//! The program's peak memory for a document.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use super::sized;

/// A document of about this number of bytes.
type Make = fn(usize) -> String;

/// Documents with the highest memory for each byte, and realistic guests. Denser documents are refused, which shows no
/// peak.
pub(crate) const DENSE: [(&str, Make); 3] = [
    ("disks", sized::requesting),
    ("tiny elements and texts", |bytes| with_devices(&"<a/>12345678".repeat(bytes / 12))),
    ("tiny attributes", |bytes| {
        let names = ('a'..='z').flat_map(|first| ["", "b"].map(|second| format!(" {first}{second}=''")));
        let element = format!("<a{}/>", names.collect::<String>());
        with_devices(&element.repeat(bytes / element.len()))
    }),
];

/// The gateway with additional elements before its `</devices>`.
fn with_devices(devices: &str) -> String {
    sized::GATEWAY.replace("  </devices>", &format!("{devices}  </devices>"))
}

/// Peak memory of `viommu rewrite`, KiB: it writes at the end, and a full pipe blocks it. The function writes the
/// document into the directory.
pub(crate) fn peak(binary: &Path, directory: &Path, text: &str) -> u64 {
    let input = directory.join("input.xml");
    fs::write(&input, text).unwrap();
    let mut command = Command::new(binary);
    command.arg("rewrite").stdin(fs::File::open(input).unwrap()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0]).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "the document is too small to see its peak");
    drop(output);
    child.wait().unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
