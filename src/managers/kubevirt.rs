//! KubeVirt's hook sidecar: `onDefineDomain --vmi JSON --domain XML`, as KubeVirt's sidecar-shim runs it (cmd/sidecars/
//! sidecar_shim.go). What is printed is the domain that virt-launcher defines; any status but 0 keeps it from being defined.
//!
//! The request is in annotations of the virtual machine instance, such as `viommu.libvirt/model`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use clap::Parser;
use serde_json::Value;

use super::rewritten;
use crate::limit::Limit;
use crate::note::{Code, Level, Note};
use crate::plan::Plan;
use crate::request::{Keys, Source};
use crate::sys::stderr;

/// The name by which the shim finds a hook.
pub const NAME: &str = "onDefineDomain";

/// KubeVirt's onDefineDomain hook: prints the domain XML with the vIOMMU that the annotations ask for.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100)]
struct Arguments {
    /// The virtual machine instance
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    vmi: OsString,
    /// The domain
    #[arg(long, value_name = "XML", allow_hyphen_values = true)]
    domain: OsString,
}

/// Answers one call.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from([OsString::from(NAME)].into_iter().chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => {
            stderr::report(&error);
            return error.use_stderr().into();
        }
    };
    let keys = match annotations(arguments.vmi.as_bytes()) {
        Ok(keys) => keys,
        Err(error) => {
            stderr::complain(&format!("--vmi is not a virtual machine instance: {error}"));
            return 1;
        }
    };
    let domain = arguments.domain.as_bytes();
    let mut out = io::stdout().lock();
    let printed = match keys.and_then(|keys| rewritten(domain, &keys, memlock)) {
        Ok(Some(text)) => out.write_all(text.as_bytes()),
        Ok(None) => out.write_all(domain),
        Err(refusal) => {
            stderr::say(&refusal);
            return 1;
        }
    };
    match printed.and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) => {
            // The status tells the caller to drop a domain that was printed in part.
            stderr::complain(&format!("cannot print the domain: {error}"));
            1
        }
    }
}

/// The request in the annotations.
fn annotations(vmi: &[u8]) -> serde_json::Result<Result<Keys, Note>> {
    let vmi: Value = serde_json::from_slice(vmi)?;
    let annotations = vmi.pointer("/metadata/annotations").and_then(Value::as_object);
    let own = annotations.into_iter().flatten().filter(|(name, _)| name.starts_with(Source::Kubevirt.prefix()));
    // Kubernetes has string annotations only.
    let own = own.map(|(name, value)| (name, value.as_str().unwrap_or("not a string")));
    Ok(Keys::read(Source::Kubevirt, own))
}

/// Says which limit the guest needs if virt-handler may set a lower one. Up to KubeVirt 1.8 it sets guest memory and an
/// overhead, of which 1 GiB is for VFIO (pkg/virt-handler/isolation, `AdjustQemuProcessMemoryLimits`).
fn memlock(plan: &Plan) -> Option<Note> {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let memory = plan.domain.memory_bytes;
    let needed = match plan.memlock.required_bytes.filter(|_| plan.memlock.managed)? {
        Limit::Unlimited => {
            let message = "<locked/> needs an unlimited locked-memory limit, which KubeVirt 1.9 and older do not set: libvirt in the pod \
                           fails with \"cannot limit locked memory of process\"; with these versions remove viommu.libvirt/locked-memory";
            return Some(Note::warning(Code::MemlockInPod, message));
        }
        Limit::Bytes(needed) => needed,
    };
    let missing = needed.checked_sub(memory.saturating_add(GIB)).filter(|missing| *missing > 0)?;
    let too_low = if plan.memlock.raise { ", more than libvirt sets" } else { "" };
    let message = format!(
        "QEMU needs {needed} bytes of locked memory{too_low}, and in a pod only virt-handler can set the limit: KubeVirt 1.8 needs \
         memory.reservedOverhead.addedOverhead: {}Mi, and 1.7 and older additionalGuestMemoryOverheadRatio: \"{}\"; late releases of 1.8, \
         and 1.9, count guest memory once for each VFIO device; later ones set no limit for VFIO guests",
        missing.div_ceil(MIB),
        needed.saturating_sub(memory).div_ceil(GIB),
    );
    let level = if plan.memlock.raise { Level::Warning } else { Level::Info };
    Some(Note { level, ..Note::warning(Code::MemlockInPod, message) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_annotations_count() {
        let asked = annotations(
            br#"{"metadata": {"annotations": {"viommu.libvirt/model": "auto", "viommu.libvirt/aw-bits": "39",
                "kubevirt.io/model": "intel", "viommu.libvirt/hotplug": "true", "viommu.libvirt/locked-memory": "false"}}}"#,
        );
        let expected = Keys {
            model: Some("auto".to_owned()),
            locked_memory: Some(false),
            aw_bits: Some(39),
            hotplug: Some(true),
            ..Keys::of(Source::Kubevirt)
        };
        assert_eq!(asked.unwrap(), Ok(expected));
        for nothing in
            ["{}", r#"{"metadata": {"annotations": null}}"#, r#"{"metadata": {"name": "viommu.libvirt/model"}}"#]
        {
            assert_eq!(annotations(nothing.as_bytes()).unwrap(), Ok(Keys::of(Source::Kubevirt)), "{nothing}");
        }
        let odd = annotations(br#"{"metadata": {"annotations": {"viommu.libvirt/modell": "intel"}}}"#).unwrap();
        assert!(odd.unwrap_err().message.contains("'viommu.libvirt/modell'"));
        assert!(annotations(b"{").is_err());
    }
}
