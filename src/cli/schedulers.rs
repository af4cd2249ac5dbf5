//! What schedulers are told about a host, in their own words: OpenStack's placement, node-feature-discovery, Ansible.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::capability::{Offer, gives};
use crate::host::Host;
use crate::note::{Code, Note};
use crate::request::RequestedModel;
use crate::version::Version;

use super::report;

/// Nova writes this width into every vIOMMU, so a host with less cannot pass devices through behind one.
const NOVA_AW_BITS: u8 = 48;

/// The names of os_traits/compute/viommu.py.
fn trait_of(model: RequestedModel) -> String {
    format!("COMPUTE_VIOMMU_MODEL_{}", model.as_str().to_ascii_uppercase())
}

/// A provider configuration (nova/compute/provider_config.py, which allows only traits of the `CUSTOM_` kind), with the
/// commands for the standard traits in its comments.
pub(super) fn placement(host: &Host, offers: &[Offer<'_>], out: &mut impl Write) -> io::Result<()> {
    let models: Vec<_> = RequestedModel::models().map(|model| (model, gives(host, offers, model))).collect();
    writeln!(
        out,
        "# Which vIOMMU models this host can start, for OpenStack's scheduler (viommu capabilities --format placement).\n#"
    )?;
    for (model, outcome) in &models {
        let answer = answer(outcome);
        writeln!(out, "#   {:<27}  {answer}", trait_of(*model))?;
    }
    let given: Vec<_> = models.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(model, _)| *model).collect();
    let traits = given.iter().flat_map(|model| [" --trait ".to_owned(), trait_of(*model)]).collect::<String>();
    writeln!(
        out,
        "#
# As commands, for whoever has the administrator's credentials; a trait that this host does not have is taken away.
# nova-compute puts what it believes itself back at its next update.
#   viommu capabilities --format placement | sed -n 's/^#\\$ //p' | sh -e
#
#$ placement='openstack --os-placement-api-version 1.6 resource provider'
#$ node=$($placement list --name \"${{NODE:-$(hostname -f)}}\" -f value -c uuid)
#$ traits=$($placement trait list \"$node\" -f value -c name)
#$ others=$(printf '%s\\n' \"$traits\" | sed -n '/^COMPUTE_VIOMMU_MODEL_/!s/^./--trait &/p')
#$ $placement trait set $others{traits} \"$node\"
#
# As a provider configuration of nova-compute, which lasts: this file is one. Put it into /etc/nova/provider_config/ and
# start nova-compute again.
meta:
  schema_version: '1.0'
providers:
  - identification:
      uuid: $COMPUTE_NODE
    traits:"
    )?;
    let mut own: Vec<String> = given.iter().map(|model| trait_of(*model).replacen("COMPUTE", "CUSTOM", 1)).collect();
    if host.aw_bits.is_some_and(|bits| bits >= NOVA_AW_BITS) {
        own.push(format!("CUSTOM_VIOMMU_AW_BITS_{NOVA_AW_BITS}"));
    }
    if own.is_empty() {
        return writeln!(out, "      additional: []");
    }
    writeln!(out, "      additional:")?;
    own.iter().try_for_each(|own| writeln!(out, "        - {own}"))
}

/// A file of the local feature source (source/local/local.go): a label a line, `#` for what people read.
pub(super) fn nfd(host: &Host, offers: &[Offer<'_>], out: &mut impl Write) -> io::Result<()> {
    // The only prefix that every version takes without being told.
    const PREFIX: &str = "feature.node.kubernetes.io/viommu";
    writeln!(out, "# Which vIOMMU models this node can give (viommu capabilities --format nfd).")?;
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

/// What Ansible finds in `ansible_local.viommu`.
#[derive(Debug, Serialize)]
pub(super) struct Facts<'a> {
    arch: Option<&'a str>,
    libvirt: Option<Version>,
    iommu: Option<bool>,
    aw_bits: Option<u8>,
    memory_bytes: Option<u64>,
    /// Of any emulator.
    models: BTreeMap<&'static str, Fact>,
    emulators: Vec<EmulatorFact<'a>>,
}

#[derive(Debug, Serialize)]
struct EmulatorFact<'a> {
    arch: &'static str,
    path: Option<&'a str>,
    version: Option<Version>,
    models: BTreeMap<&'static str, Fact>,
}

#[derive(Debug, Serialize)]
struct Fact {
    supported: bool,
    code: Option<Code>,
    reason: Option<String>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(host: &'a Host, offers: &'a [Offer<'a>]) -> Facts<'a> {
        let emulators = offers.iter().map(|offer| EmulatorFact {
            arch: offer.arch,
            path: offer.emulator.map(|emulator| emulator.path.as_str()),
            version: offer.emulator.and_then(|emulator| emulator.version),
            models: offer
                .models
                .iter()
                .map(|(model, outcome)| (model.as_str(), Fact::new(outcome.as_ref().err())))
                .collect(),
        });
        Facts {
            arch: host.arch.as_deref(),
            libvirt: host.libvirt,
            iommu: host.iommu,
            aw_bits: host.aw_bits,
            memory_bytes: host.memory_bytes,
            models: RequestedModel::models()
                .map(|m| (m.as_str(), Fact::new(gives(host, offers, m).err().as_ref())))
                .collect(),
            emulators: emulators.collect(),
        }
    }
}

impl Fact {
    fn new(refusal: Option<&Note>) -> Fact {
        let (code, reason) = refusal.map(|note| (note.code, note.message.clone())).unzip();
        Fact { supported: refusal.is_none(), code, reason }
    }
}
