//! `viommu apply` and `viommu remove` with a real libvirtd: the tests compare virsh's output before and after.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

#[path = "../support/mod.rs"]
mod support;

mod corpus;
mod guide;
mod safety;
mod undo;
mod wrapper;

use support::libvirt::{Guest, Libvirt, Output};

/// The directory of root's backups.
pub(crate) const BACKUP: &str = "/var/lib/viommu/backup";

/// The UUID of the guests in these tests; one of them exists at a time.
pub(crate) const UUID: &str = "0d9c9d0f-5a3e-4c58-9a3c-6f2e0c1d7b44";

/// A q35 guest with a password. Its metadata requests this model; an empty `model` writes no request.
pub(crate) fn domain(name: &str, model: &str) -> String {
    let metadata = if model.is_empty() {
        String::new()
    } else {
        format!("<metadata><viommu xmlns='urn:libvirt-viommu:1' model='{model}'/></metadata>")
    };
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{UUID}</uuid>{metadata}
           <memory unit='MiB'>128</memory><vcpu>1</vcpu>
           <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
           <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
             <graphics type='vnc' port='-1' autoport='yes' passwd='sesame'/>
           </devices>
         </domain>"
    )
}

/// Defines a domain and removes all data of an earlier domain with its UUID.
#[track_caller]
pub(crate) fn guest<'a>(lab: &'a Libvirt, xml: &str) -> Guest<'a> {
    lab.run(&format!("rm -rf {BACKUP}")).ok();
    lab.guest(xml)
}

/// The domain in libvirt's store, with its password.
pub(crate) fn stored(lab: &Libvirt, name: &str) -> String {
    lab.virsh(&["dumpxml", "--inactive", "--security-info", "--domain", name]).ok()
}

/// Asserts a refusal with this code, in one line with the domain's name.
#[track_caller]
pub(crate) fn assert_refused(output: &Output, code: &str, name: &str) {
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.starts_with(&format!("viommu: error[{code}]: {name}: ")), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
}
