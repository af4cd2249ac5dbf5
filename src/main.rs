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
        wrapper::linger();
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

/// libvirt runs hooks by their absolute path: `hooks/qemu`, and whatever stands in `hooks/qemu.d`.
fn is_hook(argv0: &OsStr) -> bool {
    let path = Path::new(argv0);
    let directory = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
    match directory {
        Some("hooks") => path.file_name() == Some(OsStr::new("qemu")),
        Some("qemu.d") => true,
        _ => false,
    }
}
