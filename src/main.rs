//! The binary: picks the personality from argv[0] and from nothing else.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use viommu::{cli, plan, wrapper};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let argv0 = arguments.next().unwrap_or_default();
    if is_wrapper(&argv0) {
        let refusal = wrapper::run(&argv0, arguments.collect());
        cli::refuse(&refusal);
        return ExitCode::FAILURE;
    }
    if is_hook(&argv0) {
        return cli::hook::from_libvirt(arguments);
    }
    cli::run([OsString::from("viommu")].into_iter().chain(arguments))
}

fn is_wrapper(argv0: &OsStr) -> bool {
    let name = Path::new(argv0).file_name().and_then(OsStr::to_str);
    name.and_then(|name| name.strip_prefix(plan::WRAPPER_PREFIX)).is_some_and(|real| real.starts_with("qemu-system-"))
}

/// libvirt runs hooks by their absolute path below one of two directories.
fn is_hook(argv0: &OsStr) -> bool {
    let directory = Path::new(argv0).parent().and_then(Path::file_name).and_then(OsStr::to_str);
    matches!(directory, Some("hooks" | "qemu.d"))
}
