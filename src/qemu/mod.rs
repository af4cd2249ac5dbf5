//! QEMU's command line: reads how the emulator was started, and writes the vIOMMU into it.
//!
//! Handles options, machine properties and `-device` in every form that a supported libvirt writes. The plan decides what to
//! change, as [`Edits`]. Everything else keeps its bytes and its position, also where it is not UTF-8.

mod arguments;
mod block;
mod bridge;
mod device;
mod iommu;
mod machine;
mod memory;
mod option;
mod rewrite;
mod slots;
mod vfio;
mod virtio;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};

pub use bridge::{BridgePassage, FoundBridge, find_bridges};
pub use device::{Globals, is_on, with_plain_booleans};
pub use iommu::{FoundIommu, Spelling, find_iommu, iommu_drivers};
pub use machine::{KERNEL_IRQCHIP, acpi, get as machine_property, irqchip};
pub use memory::{DeviceMemory, device_memory};
pub use rewrite::rewrite;
pub use vfio::{FoundVfio, count_nvme, count_vdpa, find_vfio, opens_iommufd};
pub use virtio::Translated;

/// The changes of QEMU's command line. Part of the plan and of the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    /// Keys to set in the `-machine` value: `kernel_irqchip=split`, `iommu=smmuv3`.
    #[serde(default)]
    pub machine: BTreeMap<String, String>,
    /// `-device` values in key=value form to insert before the first `-device`; one with `bus=pcie.0` and no `addr=` gets a free
    /// slot there.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Properties to set on the vIOMMU that is already on the command line: QEMU's names (`caching-mode`, `eim`, `aw-bits` …),
    /// values as key=value text (`on`, `off`, `48`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub existing: BTreeMap<String, String>,
    /// Virtio devices that the vIOMMU translates for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtio: Option<Translated>,
    /// `-overcommit mem-lock=on`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lock_memory: bool,
}

impl Edits {
    /// The vIOMMU that is added, by QEMU's name.
    #[must_use]
    pub fn added(&self) -> Option<&str> {
        let device = self.devices.last().and_then(|device| device.split(',').next());
        device.or_else(|| self.machine.get("iommu").map(String::as_str))
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Edits::default()
    }

    /// Whether they add a vIOMMU.
    #[must_use]
    pub fn adds_iommu(&self) -> bool {
        self.added().is_some()
    }
}

/// How the emulator was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// A capability probe, `-help`, `-version`, `-device help`, anything without `-uuid`: to be passed through untouched.
    Other,
    /// A guest: libvirt starts none without `-uuid`, and probes none with it.
    Guest {
        /// The value of `-uuid`, as written: not checked, so not fit for a path as it is.
        uuid: String,
        /// Whether `-incoming` or `-loadvm` is there: the guest has run before and continues.
        incoming: bool,
    },
    /// A guest whose command line has `-uuid` with different values. QEMU uses the last one; libvirt writes one.
    Ambiguous,
}

/// Tells a guest from everything else that a QEMU binary is started for, by its arguments without `argv[0]`.
///
/// In doubt it is a guest: a refused start has a message, and a guest that runs without its vIOMMU has none.
#[must_use]
pub fn classify(arguments: &[OsString]) -> Invocation {
    let (mut uuid, mut incoming) = (None, false);
    for option in arguments::options(arguments) {
        let value = option.value.unwrap_or_default().to_string_lossy();
        match option.name {
            "h" | "help" | "version" => return Invocation::Other,
            "machine" | "M" if option::asks_for_help(&value, machine::TYPE) => return Invocation::Other,
            // JSON never asks for help; commas and question marks in it are a tenant's text.
            "device" if !value.trim_start().starts_with('{') && option::asks_for_help(&value, "driver") => {
                return Invocation::Other;
            }
            "cpu" | "accel" if option::asks_for_help(&value, option.name) => return Invocation::Other,
            "uuid" => uuid = option.value.map(|_| value.into_owned()),
            "incoming" | "loadvm" => incoming = true,
            _ => {}
        }
    }
    match uuid {
        Some(uuid) if machine::get(arguments, machine::TYPE).as_deref() != Some("none") => {
            if renames(arguments, &uuid) { Invocation::Ambiguous } else { Invocation::Guest { uuid, incoming } }
        }
        _ => Invocation::Other,
    }
}

/// Whether `-uuid` gives a guest another UUID than this one.
#[must_use]
pub fn renames<S: AsRef<OsStr>>(arguments: &[S], uuid: &str) -> bool {
    arguments::values(arguments, &["uuid"]).any(|(_, value)| !value.eq_ignore_ascii_case(uuid))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn classified(words: &[&str]) -> Invocation {
        classify(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn guest(uuid: &str, incoming: bool) -> Invocation {
        Invocation::Guest { uuid: uuid.to_owned(), incoming }
    }

    #[test]
    fn edits_are_plain_data() {
        let edits: Edits = serde_json::from_str("{}").unwrap();
        assert!(edits.is_empty());
        assert_eq!(serde_json::to_string(&edits).unwrap(), r#"{"machine":{},"devices":[]}"#);
        let text = r#"{"machine":{"kernel_irqchip":"split"},"devices":["intel-iommu"],"existing":{"eim":"on"},"lock_memory":true}"#;
        let edits: Edits = serde_json::from_str(text).unwrap();
        assert!(!edits.is_empty());
        assert_eq!(serde_json::to_string(&edits).unwrap(), text);
        assert!(!Edits { lock_memory: true, ..Edits::default() }.is_empty());
    }

    // qemuProcessQMPLaunch of libvirt 7.0 to 11.3.
    #[test]
    fn a_capability_probe_is_not_a_guest() {
        #[rustfmt::skip]
        let probe = [
            "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg",
            "-qmp", "unix:/var/lib/libvirt/qemu/qmp-XXXXXX/qmp.monitor,server=on,wait=off",
            "-pidfile", "/var/lib/libvirt/qemu/qmp-XXXXXX/qmp.pid", "-daemonize",
        ];
        assert_eq!(classified(&probe), Invocation::Other);
    }

    // A channel's name is arbitrary text: with it, a guest must not look like a probe.
    #[test]
    fn text_in_a_json_device_is_not_a_probe() {
        let device = r#"{"driver":"virtserialport","name":"org.x,help,?,y"}"#;
        assert_eq!(classified(&["-uuid", "u", "-device", device]), guest("u", false));
    }

    #[test]
    fn a_restored_guest_is_an_incoming_guest() {
        assert_eq!(classified(&["-uuid", "u", "-incoming", "defer"]), guest("u", true));
        assert_eq!(classified(&["-uuid", "u", "-loadvm", "snap"]), guest("u", true));
    }

    #[test]
    fn probes_are_not_guests() {
        for question in [
            &["-version"][..],
            &["--help"],
            &["-h"],
            &["-device", "help"],
            &["-device", "intel-iommu,help"],
            &["-machine", "help"],
            &["-M", "q35,?"],
            &["-cpu", "?"],
            &["-accel", "help"],
            &["-M", "none"],
            &["-machine", "type=none"],
        ] {
            assert_eq!(classified(question), Invocation::Other);
            let with_uuid: Vec<_> = ["-uuid", "u"].iter().chain(question).copied().collect();
            assert_eq!(classified(&with_uuid), Invocation::Other, "{question:?}");
        }
        assert_eq!(classified(&["-machine", "q35", "-name", "x"]), Invocation::Other);
    }

    #[test]
    fn arguments_of_a_guest_are_not_probes() {
        let words = ["-append", "-help", "-name", "guest=help", "-uuid", "U", "-device", "e1000e,id=help", "-M", "q35"];
        assert_eq!(classified(&words), guest("U", false));
        assert_eq!(classified(&["-name", "-uuid", "x"]), Invocation::Other);
        assert_eq!(classified(&["-machine", "none", "-M", "q35", "-uuid", "U"]), guest("U", false));
    }

    #[test]
    fn guest_is_identified_by_its_uuid() {
        let uuid = "374b1079-5271-47cd-a0ad-2bbac33e9657";
        assert_eq!(classified(&["-name", "guest=s2,debug-threads=on", "-uuid", uuid]), guest(uuid, false));
        assert_eq!(classified(&["-name", "process=x", "--uuid", "U"]), guest("U", false));
        assert_eq!(classified(&["-uuid"]), Invocation::Other);
    }

    // system/vl.c: each -uuid replaces the one before.
    #[test]
    fn a_guest_has_one_uuid() {
        let (own, other) = ("374b1079-5271-47cd-a0ad-2bbac33e9657", "3a21c2ee-5ece-4225-baa4-9a11258f6002");
        let same = ["-uuid", own, "--uuid", "374B1079-5271-47CD-A0AD-2BBAC33E9657"];
        assert_eq!(classified(&same), guest("374B1079-5271-47CD-A0AD-2BBAC33E9657", false));
        for ambiguous in [["-uuid", own, "-uuid", other], ["-uuid", own, "--uuid", "x"], ["-uuid", "", "-uuid", own]] {
            assert_eq!(classified(&ambiguous), Invocation::Ambiguous, "{ambiguous:?}");
        }
        assert_eq!(classified(&["-uuid", own, "-append", "-uuid"]), guest(own, false));
        assert_eq!(classified(&["-uuid", own, "-uuid", other, "-version"]), Invocation::Other);
    }

    #[test]
    fn incoming_guest_is_distinguished() {
        assert_eq!(classified(&["-uuid", "U", "-incoming", "defer"]), guest("U", true));
        assert_eq!(classified(&["-uuid", "U", "-append", "-incoming"]), guest("U", false));
    }

    #[test]
    fn name_that_is_not_utf8_is_accepted() {
        let arguments = ["-uuid".into(), "U".into(), "-name".into(), OsStr::from_bytes(b"guest=\xff").into()];
        assert_eq!(classify(&arguments), guest("U", false));
    }
}
