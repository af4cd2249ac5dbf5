//! `viommu capabilities`: the facts about this host, and the models that it can give.

use std::io::{self, Write};

use clap::Args;

use crate::capability::{self, Offer};
use crate::host::Host;
use crate::text::{self, printable};

use super::input::FactOptions;
use super::terminal::{Format, Output};
use super::{Failure, report, schedulers};

const FORMATS: &[Format] = &[Format::Text, Format::Json, Format::Placement, Format::Nfd, Format::Ansible];
/// Columns before the values.
const LABEL: usize = 13;

/// Show the facts about this host, which vIOMMU models it can give, and why not the others
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Output format
    #[arg(long, value_parser = Format::parser(FORMATS), default_value = "text")]
    format: Format,
    #[command(flatten)]
    host: FactOptions,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    let host = arguments.host.whole()?;
    let offers = capability::offers(&host);
    match arguments.format {
        Format::Json => out.json(&host)?,
        Format::Placement => schedulers::placement(&host, &offers, out)?,
        Format::Nfd => schedulers::nfd(&host, &offers, out)?,
        Format::Ansible => out.json(&schedulers::ansible(&host, &offers))?,
        Format::Text | Format::Diff => text(&host, &offers, out)?,
    }
    Ok(0)
}

fn text(host: &Host, offers: &[Offer<'_>], out: &mut Output) -> io::Result<()> {
    let unknown = || "not known".to_owned();
    let libvirt =
        host.libvirt.map_or("not known (run this as root, after 'virsh capabilities')".to_owned(), |v| v.to_string());
    let mut facts = vec![("libvirt", libvirt)];
    facts.extend(host.emulators.iter().map(|emulator| {
        let version = emulator.version.map_or_else(unknown, |version| version.to_string());
        let arch = emulator.arch.as_deref().unwrap_or("?");
        ("emulator", format!("{} (QEMU {version}, {arch})", emulator.path))
    }));
    let iommu = match host.iommu {
        Some(true) => "on",
        Some(false) => {
            "off: no device can be passed through (turn it on in the firmware; kernel argument intel_iommu=on on Intel)"
        }
        None => "not known",
    };
    let iommufd = match capability::iommufd(host) {
        Some(Ok(())) => "yes".to_owned(),
        Some(Err(why)) => format!("no: {why}"),
        None => unknown(),
    };
    facts.extend([
        ("host IOMMU", iommu.to_owned()),
        ("iommufd", iommufd),
        ("width", host.aw_bits.map_or_else(unknown, |bits| format!("{bits} bits"))),
        ("groups", format!("{} PCI functions in IOMMU groups", host.iommu_groups.len())),
        ("memory", host.memory_bytes.map_or_else(unknown, text::bytes)),
    ]);
    for (label, value) in facts {
        out.row(label, LABEL, &printable(&value))?;
    }
    for offer in offers {
        let path = offer.emulator.map(|emulator| emulator.path.as_str()).filter(|path| !path.is_empty());
        let path = path.map(|path| format!(", {}", printable(path))).unwrap_or_default();
        writeln!(out, "\nguests on {}{path}", offer.arch)?;
        for (model, outcome) in &offer.models {
            let answer = match outcome {
                Ok(given) if given.as_str() == model.as_str() => "yes".to_owned(),
                Ok(given) => format!("yes: {}", given.as_str()),
                Err(note) => report::no(note),
            };
            out.row(&format!("  {}", model.as_str()), LABEL, &answer)?;
        }
    }
    Ok(())
}
