//! `viommu apply` and `viommu remove` with a real libvirtd: what virsh shows before and after is what counts.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

#[path = "../support/mod.rs"]
mod support;

mod corpus;
mod guide;
mod safety;
mod undo;
mod wrapper;

use support::libvirt::{Guest, Libvirt, Output};

/// Where root's backups are.
pub(crate) const BACKUP: &str = "/var/lib/viommu/backup";

/// The UUID of the guests here; one of them exists at a time.
pub(crate) const UUID: &str = "0d9c9d0f-5a3e-4c58-9a3c-6f2e0c1d7b44";

/// A q35 guest whose metadata asks for this model; nothing asks for nothing. It has a password.
pub(crate) fn domain(name: &str, asks: &str) -> String {
    let metadata = if asks.is_empty() {
        String::new()
    } else {
        format!("<metadata><viommu xmlns='urn:libvirt-viommu:1' model='{asks}'/></metadata>")
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

/// Defines a domain of which nothing is kept from an earlier life.
#[track_caller]
pub(crate) fn guest<'a>(lab: &'a Libvirt, xml: &str) -> Guest<'a> {
    lab.run(&format!("rm -rf {BACKUP}")).ok();
    lab.guest(xml)
}

/// The domain in libvirt's store, with its password.
pub(crate) fn stored(lab: &Libvirt, name: &str) -> String {
    lab.virsh(&["dumpxml", "--inactive", "--security-info", "--domain", name]).ok()
}

/// Refused with this code, in one line that names the domain.
#[track_caller]
pub(crate) fn assert_refused(output: &Output, code: &str, name: &str) {
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.starts_with(&format!("viommu: error[{code}]: {name}: ")), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
}
