//! The binary: selects the personality by argv[0], and libvirt's hook also by libvirt's arguments.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use viommu::managers::vdsm::Point;
use viommu::managers::{kubevirt, vdsm};
use viommu::{cli, wrapper};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let argv0 = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    let path = Path::new(&argv0);
    let status = match (path.parent().map_or("", name), name(path)) {
        (_, program) if wrapper::real_name(program).is_some() => wrapper::run(&argv0, arguments),
        (_, kubevirt::NAME) => kubevirt::run(arguments),
        ("hooks" | "qemu.d", _) => cli::hook::from_libvirt(&arguments),
        ("before_vm_start", _) => vdsm::run(Point::BeforeVmStart),
        ("before_vm_migrate_destination", _) => vdsm::run(Point::BeforeVmMigrateDestination),
        (_, program) => match cli::hook::words_of_libvirt(program, &arguments) {
            Some(words) => cli::hook::from_libvirt(words),
            None => cli::run(arguments),
        },
    };
    ExitCode::from(status)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}
