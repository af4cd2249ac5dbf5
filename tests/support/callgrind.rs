//! Instructions of whole processes, counted by valgrind's callgrind: the number does not depend on the machine's load.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "starts valgrind"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether valgrind is installed. `VIOMMU_REQUIRE_LAB` makes it mandatory.
pub(crate) fn available() -> bool {
    let found = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "valgrind is missing");
    if !found {
        println!("SKIPPED: no valgrind");
    }
    found
}

/// All instructions of the program in user space, and its exit status.
pub(crate) fn instructions(program: &Path, arguments: &[&str], stdin: &[u8]) -> (u64, i32) {
    counted(Command::new("valgrind"), program, arguments, stdin)
}

/// The same for a program without access to the machine's processes, so that their number has no effect. Needs root of
/// a namespace.
pub(crate) fn instructions_alone(program: &Path, arguments: &[&str], stdin: &[u8]) -> (u64, i32) {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "valgrind"]);
    counted(command, program, arguments, stdin)
}

fn counted(mut command: Command, program: &Path, arguments: &[&str], stdin: &[u8]) -> (u64, i32) {
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args(arguments);
    // The caller's environment must not affect the count. The C library would choose functions by the CPU.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX512F,-ERMS");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(pipe.write_all(stdin)));
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        let collected = words.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
        let collected = collected.unwrap_or_else(|| panic!("valgrind did not count: {words}"));
        (collected, output.status.code().unwrap_or_else(|| panic!("{}: {words}", output.status)))
    })
}
