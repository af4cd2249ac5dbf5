//! `viommu capabilities`: what is known about this host.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::host::probe::Places;
use crate::text;

use super::{Failure, report};

/// Show what is known about this host, for a plan made elsewhere.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How to say it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Another sysfs than /sys
    #[arg(long, value_name = "DIR")]
    sysfs: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For 'viommu plan --host'
    Json,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let mut places = Places::default();
    if let Some(sysfs) = &arguments.sysfs {
        places.sysfs.clone_from(sysfs);
    }
    let host = places.whole_host();
    if arguments.format == Format::Json {
        report::json(&host, out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let unknown = || "not known".to_owned();
    writeln!(
        out,
        "libvirt      {}",
        host.libvirt.map_or_else(|| "not known (its capability cache is root's)".to_owned(), |v| v.to_string())
    )?;
    for emulator in &host.emulators {
        let version = emulator.version.map_or_else(unknown, |version| version.to_string());
        writeln!(out, "emulator     {} (QEMU {version}, {})", emulator.path, emulator.arch.as_deref().unwrap_or("?"))?;
    }
    let iommu = match host.iommu {
        Some(true) => "on".to_owned(),
        Some(false) => {
            "off: no device can be passed through (kernel arguments intel_iommu=on or amd_iommu=on, firmware setting)"
                .to_owned()
        }
        None => unknown(),
    };
    writeln!(out, "host IOMMU   {iommu}")?;
    writeln!(out, "width        {}", host.aw_bits.map_or_else(unknown, |bits| format!("{bits} bits")))?;
    writeln!(out, "groups       {} PCI functions in IOMMU groups", host.iommu_groups.len())?;
    writeln!(out, "memory       {}", host.memory_bytes.map_or_else(unknown, text::bytes))?;
    Ok(ExitCode::SUCCESS)
}
