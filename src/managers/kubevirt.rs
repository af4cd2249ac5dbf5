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
use crate::domain::Metadata;
use crate::request::Source;
use crate::sys::stderr;

/// The name by which the shim finds a hook.
pub const NAME: &str = "onDefineDomain";

/// What our annotations begin with.
const ANNOTATION: &str = "viommu.libvirt/";

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
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from([OsString::from(NAME)].into_iter().chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return error.use_stderr().into();
        }
    };
    let asked = match annotations(arguments.vmi.as_bytes()) {
        Ok(asked) => asked,
        Err(error) => {
            stderr::complain(&format!("--vmi is not a virtual machine instance: {error}"));
            return 1;
        }
    };
    let domain = arguments.domain.as_bytes();
    let mut out = io::stdout().lock();
    let printed = match rewritten(domain, Source::Kubevirt, &asked) {
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

/// What the annotations ask for.
fn annotations(vmi: &[u8]) -> serde_json::Result<Metadata> {
    let vmi: Value = serde_json::from_slice(vmi)?;
    let mut asked = Metadata::default();
    let annotations = vmi.pointer("/metadata/annotations").and_then(Value::as_object);
    for (name, value) in annotations.into_iter().flatten() {
        let Some(key) = name.strip_prefix(ANNOTATION) else { continue };
        // Annotations are strings in Kubernetes; the text of any other value is invalid for every key.
        asked.set(key, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(asked)
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
        let some = |text: &str| Some(text.to_owned());
        let expected = Metadata {
            model: some("auto"),
            locked_memory: some("false"),
            aw_bits: some("39"),
            hotplug: some("true"),
            unknown: Vec::new(),
        };
        assert_eq!(asked.unwrap(), expected);
        for nothing in
            ["{}", r#"{"metadata": {"annotations": null}}"#, r#"{"metadata": {"name": "viommu.libvirt/model"}}"#]
        {
            assert_eq!(annotations(nothing.as_bytes()).unwrap(), Metadata::default(), "{nothing}");
        }
        let odd = annotations(br#"{"metadata": {"annotations": {"viommu.libvirt/modell": "intel"}}}"#).unwrap();
        assert_eq!(odd.unknown, ["modell"]);
        assert!(annotations(b"{").is_err());
    }
}
