//! The capabilities of a host in the formats of schedulers: OpenStack's placement, node-feature-discovery, Ansible.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::capability::{Offer, gives};
use crate::host::Host;
use crate::model::Model;
use crate::note::Note;
use crate::request::RequestedModel;

use super::report;
use super::terminal::Output;

/// Nova sets this width for every vIOMMU, so a host with less cannot pass devices through behind one.
const NOVA_AW_BITS: u8 = 48;

/// The names of os_traits/compute/viommu.py.
fn trait_of(model: RequestedModel) -> String {
    format!("COMPUTE_VIOMMU_MODEL_{}", model.as_str().to_ascii_uppercase())
}

/// A provider configuration (nova/compute/provider_config.py, which allows only traits of the `CUSTOM_` kind).
pub(super) fn placement(host: &Host, offers: &[Offer<'_>], out: &mut Output) -> io::Result<()> {
    // Nova has neither a value nor a trait for the others.
    let nova = [Model::Intel, Model::Smmuv3, Model::Virtio];
    let of_nova = nova.into_iter().map(RequestedModel::Model).chain([RequestedModel::Auto]);
    let models: Vec<_> = of_nova.map(|model| (model, gives(host, offers, model))).collect();
    let command = "viommu capabilities --format placement";
    writeln!(out, "# The vIOMMU models of this host, for OpenStack's scheduler ({command}).\n#")?;
    for (model, outcome) in &models {
        writeln!(out, "#   {:<27}  {}", trait_of(*model), answer(outcome))?;
    }
    let given: Vec<_> = models.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(model, _)| *model).collect();
    // The attributes that Nova writes are those of this model, and QEMU has it for x86.
    let stock = host.arch.as_deref() == Some("x86_64") && given.contains(&RequestedModel::Model(Model::Intel));
    writeln!(
        out,
        "#
#   hw:viommu_model with a stock Nova:  {}
#   viommu:model in a flavor:           {}
#
# Put this file into /etc/nova/provider_config/ and restart nova-compute. $COMPUTE_NODE may occur in one file only.
meta:
  schema_version: '1.0'
providers:
  - identification:
      uuid: $COMPUTE_NODE
    traits:",
        if stock { "intel" } else { "none" },
        match host.host_route {
            Some(true) => "each of these models, because the host route is on",
            Some(false) => "none, because the host route is off (viommu host-route on)",
            None => "unknown: whether the host route is on can be read only by root on the running host",
        }
    )?;
    let mut own: Vec<String> = given.iter().map(|model| trait_of(*model).replacen("COMPUTE", "CUSTOM", 1)).collect();
    if host.aw_bits.is_some_and(|bits| bits >= NOVA_AW_BITS) {
        own.push(format!("CUSTOM_VIOMMU_AW_BITS_{NOVA_AW_BITS}"));
    }
    if host.host_route == Some(true) {
        own.push("CUSTOM_VIOMMU_HOST_ROUTE".to_owned());
    }
    if own.is_empty() {
        return writeln!(out, "      additional: []");
    }
    writeln!(out, "      additional:")?;
    own.iter().try_for_each(|own| writeln!(out, "        - {own}"))
}

/// A file of the local feature source (source/local/local.go): one label per line, comments with `#`.
pub(super) fn nfd(host: &Host, offers: &[Offer<'_>], out: &mut Output) -> io::Result<()> {
    // The only prefix that every version accepts without configuration.
    const PREFIX: &str = "feature.node.kubernetes.io/viommu";
    writeln!(out, "# The vIOMMU models of this node (viommu capabilities --format nfd).")?;
    for model in RequestedModel::models() {
        match gives(host, offers, model) {
            Ok(()) => writeln!(out, "{PREFIX}-{}=true", model.as_str())?,
            Err(note) => writeln!(out, "# {}: {}", model.as_str(), report::no(&note))?,
        }
    }
    if let Some(iommu) = host.iommu {
        writeln!(out, "{PREFIX}-host-iommu={iommu}")?;
    }
    host.aw_bits.map_or(Ok(()), |bits| writeln!(out, "{PREFIX}-host-aw-bits={bits}"))
}

fn answer(outcome: &Result<(), Note>) -> String {
    match outcome {
        Ok(()) => "yes".to_owned(),
        Err(note) => report::no(note),
    }
}

/// The Ansible fact `ansible_local.viommu`. Its `models` are those that any emulator has.
pub(super) fn ansible(host: &Host, offers: &[Offer<'_>]) -> Value {
    let fact = |refusal: Option<&Note>| {
        let (code, reason) = refusal.map(|note| (note.code, &note.message)).unzip();
        json!({ "supported": refusal.is_none(), "code": code, "reason": reason })
    };
    let emulators = offers.iter().map(|offer| {
        let models = offer.models.iter().map(|(model, outcome)| (model.as_str(), fact(outcome.as_ref().err())));
        json!({
            "arch": offer.arch,
            "path": offer.emulator.map(|emulator| &emulator.path),
            "version": offer.emulator.and_then(|emulator| emulator.version),
            "models": models.collect::<BTreeMap<_, _>>(),
        })
    });
    let models =
        RequestedModel::models().map(|model| (model.as_str(), fact(gives(host, offers, model).err().as_ref())));
    json!({
        "arch": host.arch,
        "libvirt": host.libvirt,
        "iommu": host.iommu,
        "aw_bits": host.aw_bits,
        "memory_bytes": host.memory_bytes,
        "models": models.collect::<BTreeMap<_, _>>(),
        "emulators": emulators.collect::<Vec<_>>(),
    })
}
