//! The binary: picks the personality from argv[0] and from nothing else.
//!
//! It begins with C's `main`. Rust's own reads `/proc/self/maps`, to be able to tell an overflow of the stack from other errors,
//! and that is a tenth of all that a hook's run takes. What else it does is in `sys::process::begin`.

#![no_main]

use std::ffi::{OsStr, OsString, c_int};
use std::path::Path;

use viommu::managers::{kubevirt, vdsm};
use viommu::sys::{process, stderr};
use viommu::{cli, wrapper};

#[cfg(not(target_env = "gnu"))]
compile_error!("std::env::args() knows nothing without Rust's main, but with the GNU C library");

#[expect(unsafe_code, reason = "the C library calls it by this very name")]
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    process::begin();
    // What stands in buffers is written here, too.
    std::process::exit(run().into())
}

/// Runs the personality, for the exit status.
fn run() -> u8 {
    let mut arguments = std::env::args_os();
    let argv0 = arguments.next().unwrap_or_default();
    if let Some(real) = wrapper::stands_for(&argv0) {
        let refusal = wrapper::run(&argv0, real, arguments.collect());
        stderr::say(&refusal);
        wrapper::linger();
        return 1;
    }
    if is_hook(&argv0) {
        return cli::hook::from_libvirt(arguments);
    }
    if Path::new(&argv0).file_name() == Some(OsStr::new(kubevirt::NAME)) {
        return kubevirt::run(arguments);
    }
    if let Some(point) = directory(&argv0).and_then(vdsm::Point::of) {
        return vdsm::run(point);
    }
    cli::run([OsString::from("viommu")].into_iter().chain(arguments))
}

/// libvirt runs hooks by their absolute path: `hooks/qemu`, and whatever stands in `hooks/qemu.d`.
fn is_hook(argv0: &OsStr) -> bool {
    match directory(argv0) {
        Some("hooks") => Path::new(argv0).file_name() == Some(OsStr::new("qemu")),
        Some("qemu.d") => true,
        _ => false,
    }
}

/// The name of the directory that the program was started from.
fn directory(argv0: &OsStr) -> Option<&str> {
    Path::new(argv0).parent().and_then(Path::file_name).and_then(OsStr::to_str)
}
