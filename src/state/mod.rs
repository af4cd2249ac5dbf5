//! What the hook writes for the wrapper and the guard of one guest.
//!
//! Pure but for `store`: the format and its rules. The file is root's, in a directory of root's. A guest can read it and nothing
//! else, so that the wrapper takes numbers and names from it alone.

pub mod store;

use serde::{Deserialize, Serialize};

use crate::domain::{Domain, Uuid};
use crate::limit::Limit;
use crate::model::Model;
use crate::note::{Code, Note};
use crate::plan::Plan;
use crate::qemu::Edits;
use crate::request::{Request, RequestedModel};

/// How long after the hook a guest's emulator may still be started, seconds of the boot clock. libvirt relabels disks in
/// between, which takes minutes on slow storage; an older file is a leftover of a start that never came to an end.
pub const MAX_AGE: u64 = 15 * 60;

const FORMAT: u32 = 1;

/// The state of one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestState {
    format: u32,
    /// The guest.
    pub uuid: String,
    /// When the hook wrote it, seconds of the boot clock.
    pub written: u64,
    /// The real QEMU, by absolute path.
    pub emulator: String,
    /// What to change on the command line of a guest that boots.
    pub boot: Edits,
    /// The same for one that is restored or migrated in; none where its vIOMMU cannot be reproduced.
    pub incoming: Option<Edits>,
    /// The locked-memory limit to wait for.
    pub memlock: Option<Limit>,
}

impl GuestState {
    /// A new state.
    #[must_use]
    pub fn new(uuid: Uuid, written: u64, emulator: String, boot: Edits, incoming: Option<Edits>) -> GuestState {
        GuestState { format: FORMAT, uuid: uuid.to_string(), written, emulator, boot, incoming, memlock: None }
    }

    /// The file's content.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and maps with string keys always become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a state for the guest of this UUID, `now` seconds into the boot clock.
    ///
    /// # Errors
    /// `state-invalid` where the content is not ours, belongs to another guest, or is a leftover.
    pub fn parse(text: &str, uuid: Uuid, now: u64) -> Result<GuestState, Note> {
        let invalid = |what: &str| {
            let message =
                format!("{} {what}: start the guest again through libvirt", store::state_file(uuid).display());
            Note::error(Code::StateInvalid, message)
        };
        let state: GuestState =
            serde_json::from_str(text).map_err(|error| invalid(&format!("cannot be understood ({error})")))?;
        if state.format != FORMAT {
            return Err(invalid("was written by another version of viommu"));
        }
        if state.uuid != uuid.to_string() {
            return Err(invalid("belongs to another guest"));
        }
        if now < state.written || now - state.written > MAX_AGE {
            return Err(invalid("is a leftover of an earlier start"));
        }
        Ok(state)
    }
}

/// What a guest runs with, for a later restore: QEMU loads a stream into a vIOMMU with other attributes without an error. The
/// machine type and the VFIO devices must match, so that an image of an earlier, different guest does not get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    machine: Option<String>,
    vfio: Vec<String>,
    edits: Edits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto: Option<Auto>,
}

/// What `auto` became, and for which request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Auto {
    request: String,
    model: String,
}

impl Record {
    /// What a running guest of this shape was started with.
    #[must_use]
    pub fn new(domain: &Domain, plan: &Plan, edits: Edits) -> Record {
        let model = plan.iommu.as_ref().and_then(|iommu| iommu.model);
        let model = model.filter(|_| plan.request.model == RequestedModel::Auto);
        let auto = model.map(|model| Auto { request: text(&plan.request), model: model.name().to_owned() });
        Record { machine: domain.machine.clone(), vfio: shape(domain), edits, auto }
    }

    /// What `auto` became, if the record is of a guest like this one with this request.
    #[must_use]
    pub fn auto_for(self, domain: &Domain, request: &Request) -> Option<Model> {
        let same = self.machine == domain.machine && self.vfio == shape(domain);
        let auto = self.auto.filter(|auto| same && auto.request == text(request))?;
        Model::of_name(&auto.model)
    }

    /// The edits, if the record is of a guest with this machine type and these VFIO devices.
    #[must_use]
    pub fn edits_for(self, domain: &Domain) -> Option<Edits> {
        (self.machine == domain.machine && self.vfio == shape(domain)).then_some(self.edits)
    }
}

fn text(request: &Request) -> String {
    let json = serde_json::to_string(request).unwrap_or_default();
    format!("{json} {}", request.specification_order)
}

fn shape(domain: &Domain) -> Vec<String> {
    domain.vfio.iter().map(|device| device.source.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (GuestState, Uuid) {
        let uuid: Uuid = "3a21c2ee-5ece-4225-baa4-9a11258f601e".parse().unwrap();
        let boot = Edits { devices: vec!["intel-iommu,id=ua-viommu0".into()], ..Edits::default() };
        let mut state = GuestState::new(uuid, 100, "/usr/bin/qemu-system-x86_64".into(), boot, None);
        state.memlock = Some(Limit::Bytes(2_684_354_560));
        (state, uuid)
    }

    #[test]
    fn comes_back_as_it_was_written() {
        let (state, uuid) = state();
        assert_eq!(GuestState::parse(&state.to_json(), uuid, 100).unwrap(), state);
        assert_eq!(GuestState::parse(&state.to_json(), uuid, 100 + MAX_AGE).unwrap(), state);
    }

    /// A state is valid for 15 minutes.
    #[test]
    fn a_leftover_is_older_than_15_minutes() {
        let (state, uuid) = state();
        assert_eq!(GuestState::parse(&state.to_json(), uuid, 1000).unwrap(), state);
        GuestState::parse(&state.to_json(), uuid, 1001).unwrap_err();
    }

    #[test]
    fn a_record_has_what_auto_became_for_the_same_guest_and_request() {
        let domain = |machine: &str, bus: u8| {
            let xml = format!(
                "<domain type='kvm'><name>a</name><os><type arch='x86_64' machine='{machine}'>hvm</type></os>
                   <features><acpi/></features>
                   <devices><hostdev mode='subsystem' type='pci'>
                     <source><address domain='0' bus='{bus}' slot='0' function='0'/></source></hostdev></devices></domain>"
            );
            Domain::read(&crate::xml::parse(xml.as_bytes()).unwrap()).unwrap()
        };
        let request = |model| Request { model, ..Request::default() };
        let record = |model| {
            let domain = domain("pc-q35-10.0", 1);
            let plan = crate::plan::plan(&domain, &request(model), &crate::host::Host::default()).unwrap();
            Record::new(&domain, &plan, Edits::default())
        };
        let became = |record: Record, domain: &Domain, request: &Request| record.auto_for(domain, request);
        let (auto, same) = (request(RequestedModel::Auto), domain("pc-q35-10.0", 1));
        let recorded = || record(RequestedModel::Auto);
        assert_eq!(became(recorded(), &same, &auto), Some(Model::Intel));
        assert_eq!(became(recorded(), &domain("pc-q35-9.0", 1), &auto), None, "another machine type");
        assert_eq!(became(recorded(), &domain("pc-q35-10.0", 2), &auto), None, "another device");
        for other in
            [Request { aw_bits: Some(39), ..auto.clone() }, Request { specification_order: true, ..auto.clone() }]
        {
            assert_eq!(became(recorded(), &same, &other), None, "another request");
        }
        assert_eq!(became(record(RequestedModel::Model(Model::Intel)), &same, &auto), None, "auto was not requested");
        assert_eq!(recorded().edits_for(&same), Some(Edits::default()));
        assert_eq!(recorded().edits_for(&domain("pc-q35-10.0", 2)), None, "another device");
    }

    #[test]
    fn a_record_is_for_the_guest_that_it_was_made_of() {
        let mut domain = Domain { machine: Some("pc-q35-7.2".into()), ..Domain::default() };
        let edits = state().0.boot;
        let plan = crate::plan::plan(&domain, &Request::default(), &crate::host::Host::default()).unwrap();
        let record = Record::new(&domain, &plan, edits.clone());
        assert_eq!(record.clone().edits_for(&domain), Some(edits));
        domain.machine = Some("pc-q35-10.0".into());
        assert_eq!(record.edits_for(&domain), None);
    }

    #[test]
    fn refuses_files_of_other_guests() {
        let (state, uuid) = state();
        let json = state.to_json();
        let other: Uuid = "00000000-0000-4000-8000-000000000000".parse().unwrap();
        for (text, uuid, now) in [
            (json.clone(), other, 100),
            (json.clone(), uuid, 99),
            (json.clone(), uuid, 101 + MAX_AGE),
            (json.replace("\"format\":1", "\"format\":2"), uuid, 100),
            (json.replace("\"boot\"", "\"boots\""), uuid, 100),
            (String::new(), uuid, 100),
        ] {
            assert_eq!(GuestState::parse(&text, uuid, now).unwrap_err().code, Code::StateInvalid, "{text}");
        }
    }
}
