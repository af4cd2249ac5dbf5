//! `viommu capabilities`: what is known about this host, and which models it can give.

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use crate::capability::{self, Offer};
use crate::host::Host;
use crate::text::{self, printable};

use super::input::FactOptions;
use super::{Failure, report, schedulers};

/// Show what is known about this host, which vIOMMU models it can give, and why not the others.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How to say it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    host: FactOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For 'viommu plan --host'
    Json,
    /// For OpenStack: a provider configuration of Nova's, with placement commands in its comments
    Placement,
    /// For Kubernetes: a feature file of node-feature-discovery
    Nfd,
    /// For Ansible: a local fact
    Ansible,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    let host = arguments.host.whole()?;
    let offers = capability::offers(&host);
    match arguments.format {
        Format::Text => people(&host, &offers, out)?,
        Format::Json => report::json(&host, out)?,
        Format::Placement => schedulers::placement(&host, &offers, out)?,
        Format::Nfd => schedulers::nfd(&host, &offers, out)?,
        Format::Ansible => report::json(&schedulers::Facts::new(&host, &offers), out)?,
    }
    Ok(0)
}

fn people(host: &Host, offers: &[Offer<'_>], out: &mut impl Write) -> io::Result<()> {
    let unknown = || "not known".to_owned();
    writeln!(
        out,
        "libvirt      {}",
        host.libvirt.map_or_else(|| "not known (its capability cache is root's)".to_owned(), |v| v.to_string())
    )?;
    for emulator in &host.emulators {
        let version = emulator.version.map_or_else(unknown, |version| version.to_string());
        let arch = emulator.arch.as_deref().unwrap_or("?");
        writeln!(out, "emulator     {} (QEMU {version}, {})", printable(&emulator.path), printable(arch))?;
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
    for offer in offers {
        let path = offer.emulator.map(|emulator| emulator.path.as_str()).filter(|path| !path.is_empty());
        writeln!(
            out,
            "\nguests on {}{}",
            offer.arch,
            path.map_or_else(String::new, |path| format!(", {}", printable(path)))
        )?;
        for (model, outcome) in &offer.models {
            let model = model.as_str();
            match outcome {
                Ok(given) if given == model => writeln!(out, "  {model:<8}   yes")?,
                Ok(given) => writeln!(out, "  {model:<8}   yes: {given}")?,
                Err(note) => writeln!(out, "  {model:<8}   {}", report::no(note))?,
            }
        }
    }
    Ok(())
}
