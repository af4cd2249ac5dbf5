//! A guest with an XML of a certain size: the example of a DPDK gateway with additional disks.

#![allow(dead_code, reason = "each test program uses a part")]

/// The example in the repository: it has a request for a vIOMMU and two passed-through devices.
pub(crate) const GATEWAY: &str = include_str!("../../examples/domains/dpdk-gateway.xml");

/// Its UUID.
pub(crate) const UUID: &str = "8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93";

/// The request in its metadata.
const REQUEST: &str = "<viommu:viommu xmlns:viommu='urn:libvirt-viommu:1' model='auto'/>";

/// The guest with disks up to about `bytes` of XML; below the example's size, a minimal domain of about 1 KB.
pub(crate) fn requesting(bytes: usize) -> String {
    // libvirt keeps no comments.
    let gateway = without(GATEWAY, "<!--\n", "-->\n");
    if bytes < gateway.len() {
        let parts = [
            ("    <libosinfo:libosinfo", "</libosinfo:libosinfo>\n"),
            ("  <cputune>", "</cputune>\n"),
            ("  <cpu ", "</cpu>\n"),
            ("  <clock", "</clock>\n"),
            ("    <interface", "</interface>\n"),
            ("    <serial", "</rng>\n"),
        ];
        return parts.iter().fold(gateway, |text, (from, to)| without(&text, from, to));
    }
    let disk = |number: usize| {
        format!(
            "    <disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2' discard='unmap'/>\n      \
             <source file='/var/lib/libvirt/images/data-{number}.qcow2'/>\n      <target dev='sd{number}' bus='scsi'/>\n    \
             </disk>\n"
        )
    };
    let count = bytes.saturating_sub(gateway.len()) / disk(1000).len();
    let disks: String = (0..count).map(disk).collect();
    gateway.replacen("    <interface", &format!("{disks}    <interface"), 1)
}

/// Removes the first part between these two texts.
fn without(text: &str, from: &str, to: &str) -> String {
    let (head, rest) = text.split_once(from).unwrap_or((text, ""));
    head.to_owned() + rest.split_once(to).map_or("", |(_, tail)| tail)
}

/// The same guest without its request.
pub(crate) fn plain(bytes: usize) -> String {
    requesting(bytes).replace(REQUEST, "")
}

/// The same guest with the wrapper, with a model that every host supports and one device, so that libvirt's own limit
/// is sufficient.
pub(crate) fn wrapped(bytes: usize) -> String {
    let mut guest = requesting(bytes).replace("/usr/bin/qemu-system", "/usr/bin/viommu-qemu-system");
    guest = guest.replace("model='auto'", "model='virtio'");
    let second = guest.rfind("    <hostdev").unwrap_or(0)..guest.rfind("    <serial").unwrap_or(0);
    guest.replace_range(second, "");
    guest
}
