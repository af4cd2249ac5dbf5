//! Runs programs as libvirt and users do: arguments, stdin, and the result.

#![expect(clippy::disallowed_methods, clippy::panic, reason = "starts the program under test")]

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

/// The binary under test.
pub(crate) const VIOMMU: &str = env!("CARGO_BIN_EXE_viommu");

/// The result of a program.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program that ends by itself.
pub(crate) fn run<S: AsRef<OsStr>>(program: S, arguments: &[&str], stdin: &[u8]) -> Ran {
    let mut command = Command::new(program);
    feed(command.args(arguments), stdin)
}

/// Runs a command that ends by itself.
pub(crate) fn feed(command: &mut Command, stdin: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A hook without an action does not read its stdin; libvirt permits that.
        scope.spawn(move || drop(pipe.write_all(stdin)));
        let output = child.wait_with_output().unwrap();
        Ran {
            status: output.status.code().unwrap_or_else(|| panic!("{command:?}: {}", output.status)),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    })
}
