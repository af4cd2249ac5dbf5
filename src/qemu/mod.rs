//! QEMU's command line: how the emulator was started, and the vIOMMU written into it.
//!
//! Knows options, machine keys and `-device` in every dialect that libvirt 7.0 to 12.8 speaks to QEMU 5.2 to 11.1. Must not decide
//! anything: what to change comes as [`Edits`] from the plan. Everything that is not edited keeps its bytes and its place, be it
//! UTF-8 or not.

mod arguments;
mod device;
mod iommu;
mod machine;
mod option;
mod rewrite;
mod slots;
mod vfio;

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::{Deserialize, Serialize};

pub use iommu::{FoundIommu, find_iommu};
pub use rewrite::{Rewritten, rewrite};
pub use vfio::{FoundVfio, find_vfio};

/// What is to change on QEMU's command line. Plain data: it is part of the plan and of the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    /// Keys to set in the `-machine` value: `kernel_irqchip=split`, `iommu=smmuv3`.
    #[serde(default)]
    pub machine: BTreeMap<String, String>,
    /// `-device` values in key=value form to insert before the first `-device`; a virtio-iommu-pci without `addr=` gets a free
    /// slot of pcie.0.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Properties to set on the intel-iommu that is on the command line already: QEMU's names (`caching-mode`, `eim`,
    /// `aw-bits` …), values as key=value text (`on`, `off`, `48`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub existing: BTreeMap<String, String>,
    /// `-overcommit mem-lock=on`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lock_memory: bool,
}

impl Edits {
    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Edits::default()
    }
}

/// How libvirt or a person started the emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// A capability probe, `-help`, `-version`, `-device help`, anything without `-uuid`: to be passed through untouched.
    Other,
    /// A guest: libvirt starts none without `-uuid`, and probes none with it.
    Guest {
        /// The value of `-uuid`, as written: not checked, so not fit for a path as it is.
        uuid: String,
        /// `guest=` of `-name`, commas undoubled. Bytes that are not UTF-8 are replaced.
        name: Option<String>,
        /// Whether `-incoming` or `-loadvm` is there: the guest has run before and comes back as it was.
        incoming: bool,
    },
}

/// Tells a guest from everything else that a QEMU binary is started for, by its arguments without `argv[0]`.
///
/// When in doubt it is a guest: then somebody is told that the start is refused, and no guest runs without its vIOMMU.
pub fn classify(arguments: &[OsString]) -> Invocation {
    let (mut uuid, mut name, mut incoming) = (None, None, false);
    for option in arguments::options(arguments) {
        let value = option.value.unwrap_or_default().to_string_lossy();
        match option.name {
            "h" | "help" | "version" => return Invocation::Other,
            "machine" | "M" if machine::asks_for_help(&value) => return Invocation::Other,
            // In JSON a device is named, never asked for; commas and question marks there are a tenant's own text.
            "device" if !value.trim_start().starts_with('{') && option::asks_for_help(&value, "driver") => {
                return Invocation::Other;
            }
            "cpu" | "accel" if option::asks_for_help(&value, option.name) => return Invocation::Other,
            "uuid" => uuid = option.value.map(|_| value.into_owned()),
            // As in QEMU, a later -name without guest= does not take the name away.
            "name" => {
                let pairs = option::parse(&value, "guest");
                name = option::get(&pairs, "guest").map(str::to_owned).or(name);
            }
            "incoming" | "loadvm" => incoming = true,
            _ => {}
        }
    }
    match uuid {
        Some(uuid) if machine::machine_type(arguments).as_deref() != Some("none") => {
            Invocation::Guest { uuid, name, incoming }
        }
        _ => Invocation::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn classified(words: &[&str]) -> Invocation {
        classify(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn guest(uuid: &str, name: Option<&str>, incoming: bool) -> Invocation {
        Invocation::Guest { uuid: uuid.to_owned(), name: name.map(str::to_owned), incoming }
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
    fn capability_probe_is_no_guest() {
        #[rustfmt::skip]
        let probe = [
            "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg",
            "-qmp", "unix:/var/lib/libvirt/qemu/qmp-XXXXXX/qmp.monitor,server=on,wait=off",
            "-pidfile", "/var/lib/libvirt/qemu/qmp-XXXXXX/qmp.pid", "-daemonize",
        ];
        assert_eq!(classified(&probe), Invocation::Other);
    }

    // A channel's name is free text: it must not make a guest pass for a question.
    #[test]
    fn text_in_a_json_device_is_no_question() {
        let device = r#"{"driver":"virtserialport","name":"org.x,help,?,y"}"#;
        assert_eq!(classified(&["-uuid", "u", "-device", device]), guest("u", None, false));
    }

    #[test]
    fn a_guest_that_was_saved_comes_in() {
        assert_eq!(classified(&["-uuid", "u", "-incoming", "defer"]), guest("u", None, true));
        assert_eq!(classified(&["-uuid", "u", "-loadvm", "snap"]), guest("u", None, true));
    }

    #[test]
    fn questions_are_no_guests() {
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
    fn words_of_a_guest_are_no_questions() {
        let words = ["-append", "-help", "-name", "guest=help", "-uuid", "U", "-device", "e1000e,id=help", "-M", "q35"];
        assert_eq!(classified(&words), guest("U", Some("help"), false));
        assert_eq!(classified(&["-name", "-uuid", "x"]), Invocation::Other);
        assert_eq!(classified(&["-machine", "none", "-M", "q35", "-uuid", "U"]), guest("U", None, false));
    }

    #[test]
    fn guest_is_known_by_uuid_and_name() {
        assert_eq!(
            classified(&["-name", "guest=s2,debug-threads=on", "-uuid", "374b1079-5271-47cd-a0ad-2bbac33e9657"]),
            guest("374b1079-5271-47cd-a0ad-2bbac33e9657", Some("s2"), false)
        );
        assert_eq!(
            classified(&["-name", "guest=foo=1,,bar=2,debug-threads=on", "-name", "process=x", "--uuid", "U"]),
            guest("U", Some("foo=1,bar=2"), false)
        );
        assert_eq!(classified(&["-uuid", "U", "-name", "short,process=qemu:short"]), guest("U", Some("short"), false));
        assert_eq!(classified(&["-uuid"]), Invocation::Other);
    }

    #[test]
    fn incoming_guest_is_told_apart() {
        assert_eq!(classified(&["-uuid", "U", "-incoming", "defer"]), guest("U", None, true));
        assert_eq!(classified(&["-uuid", "U", "-append", "-incoming"]), guest("U", None, false));
    }

    #[test]
    fn name_that_is_not_utf8_is_no_obstacle() {
        let arguments = ["-uuid".into(), "U".into(), "-name".into(), OsStr::from_bytes(b"guest=\xff").into()];
        assert_eq!(classify(&arguments), guest("U", Some("\u{fffd}"), false));
    }
}
