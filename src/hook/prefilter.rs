//! Byte searches that save parsing a domain's XML: most guests ask for nothing, and most events need only the UUID.
//!
//! Pure. Where a search is not certain, the document is parsed.

use memchr::memmem;

use crate::domain::Uuid;
use crate::plan;
use crate::xml;

/// A domain without any of these has no request and gives no reason for a warning.
const WORDS: [&str; 6] = [
    // <iommu>, our own metadata, the wrapper, hw:viommu_model, and every vIOMMU of a <qemu:commandline>.
    "mmu",
    // Nova's other key, and the keys for which Nova locks memory by itself.
    "locked_memory",
    "cpu_realtime",
    "mem_encryption",
    // A limit that is too low for VFIO devices is logged.
    "hard_limit",
    // An escape in the JSON of a <qemu:commandline> can be any letter of the above.
    "\\u",
];

/// libvirt writes a domain's UUID within this many bytes: the name before it is part of a file name, hence short.
const HEAD: usize = 2048;

/// Whether the guest may have a request, or a reason for a warning.
pub(super) fn may_ask(xml: &[u8]) -> bool {
    !xml::is_plain(xml) || WORDS.iter().any(|word| memmem::find(xml, word.as_bytes()).is_some())
}

/// The file name of the emulator, where that is a link of the host route. libvirt writes the emulator as the first device
/// (`virDomainDefFormatInternalSetRootName`), behind the metadata, which can quote another one; no attribute behind it has a
/// raw line end.
pub(super) fn host_route(xml: &[u8]) -> Option<&str> {
    const DEVICES: &[u8] = b"\n  <devices>\n    ";
    let devices = xml.get(memmem::rfind(xml, DEVICES)? + DEVICES.len()..)?;
    let path = devices.strip_prefix(b"<emulator>")?;
    let path = std::str::from_utf8(path.get(..memchr::memchr(b'<', path)?)?).ok()?;
    plan::is_host_route(path).then(|| path.rsplit('/').next())?
}

/// The UUID where libvirt writes it: behind the name, the root's first child (`virDomainDefFormatInternalSetRootName`). None
/// for a document that begins in any other way.
pub(super) fn uuid(xml: &[u8]) -> Option<Uuid> {
    let head = xml.get(..HEAD).unwrap_or(xml);
    let rest = behind(head.strip_prefix(b"<domain")?, b">\n  <name>")?;
    let rest = behind(rest, b"</name>\n  <uuid>")?;
    let end = memmem::find(rest, b"</uuid>")?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

/// What follows a piece of markup, if it is the next one.
fn behind<'a>(text: &'a [u8], piece: &[u8]) -> Option<&'a [u8]> {
    let at = memmem::find(text, piece)?;
    let (before, rest) = text.split_at_checked(at)?;
    if before.contains(&b'<') { None } else { rest.get(piece.len()..) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_sign_of_a_request() {
        for text in [
            "<iommu model='intel'/>",
            "<viommu:viommu xmlns:viommu='urn:libvirt-viommu:1' model='auto'/>",
            "<emulator>/usr/bin/viommu-qemu-system-x86_64</emulator>",
            "<q:arg value='-device'/><q:arg value='amd-iommu'/>",
            "<q:arg value='virt,iommu=smmuv3'/>",
            "<q:arg value='arm-smmuv3,id=s'/>",
            "<nova:extraSpec name='hw:viommu_model'>auto</nova:extraSpec>",
            "<nova:extraSpec name='hw:locked_memory'>True</nova:extraSpec>",
            "<nova:extraSpec name='hw:cpu_realtime'>yes</nova:extraSpec>",
            "<nova:property name='hw_mem_encryption'>true</nova:property>",
            "<nova:extraSpec name='hw:&#108;ocked_memory'>True</nova:extraSpec>",
            "<nova:extraSpec name='hw:&l;ocked_memory'>True</nova:extraSpec>",
            "<memtune><hard_limit unit='KiB'>1</hard_limit></memtune>",
            r#"<q:arg value='{"driver":"intel-io\u006dmu"}'/>"#,
        ] {
            assert!(may_ask(format!("<domain>{text}</domain>").as_bytes()), "{text}");
        }
        assert!(!may_ask(b"<domain type='kvm'><name>a &amp; b</name><memory>1</memory></domain>"));
    }

    #[test]
    fn a_link_of_the_host_route_is_distinguished_from_other_emulators() {
        let guest = |path: &str| format!("<domain>\n  <devices>\n    <emulator>{path}</emulator>\n");
        let route = guest("/usr/lib/libvirt-host-route/qemu-system-x86_64");
        assert!(!may_ask(route.as_bytes()), "a plain guest of the route must not be parsed");
        assert_eq!(host_route(route.as_bytes()), Some("qemu-system-x86_64"));
        for path in
            ["/usr/bin/qemu-system-x86_64", "/usr/bin/viommu-qemu-system-x86_64", "/usr/lib/libvirt-host-route/sh"]
        {
            assert_eq!(host_route(guest(path).as_bytes()), None, "{path}");
        }
        // Other programs write what they like into the metadata.
        let quoting = |path: &str| {
            let emulator = "<emulator>/usr/lib/libvirt-host-route/qemu-system-aarch64</emulator>";
            let guest = guest(path);
            let devices = guest.strip_prefix("<domain>").unwrap();
            format!(
                "<domain>\n  <metadata><x:old xmlns:x='u'>\n  <devices>\n    {emulator}</devices></x:old></metadata>{devices}"
            )
        };
        let found = |path: &str| host_route(quoting(path).as_bytes()).map(str::to_owned);
        assert_eq!(found("/usr/bin/qemu-system-x86_64"), None);
        assert_eq!(found("/usr/lib/libvirt-host-route/qemu-system-x86_64").as_deref(), Some("qemu-system-x86_64"));
    }

    #[test]
    fn the_uuid_where_libvirt_writes_it() {
        const UUID: &str = "3a21c2ee-5ece-4225-baa4-9a11258f601e";
        let found = |text: &str| uuid(text.replace("UUID", UUID).as_bytes()).map(|uuid| uuid.to_string());
        let own = "<uuid>UUID</uuid>\n";
        for start in ["<domain type='kvm' id='7' xmlns:qemu='urn:q'>", "<domain>"] {
            assert_eq!(found(&format!("{start}\n  <name>a &lt; b</name>\n  {own}")).as_deref(), Some(UUID), "{start}");
        }
        for text in [
            // A name without a UUID after it, or a layout that libvirt does not write.
            "<domain>\n  <name>a</name>\n  <title>t</title>\n  ",
            "<domain>\n  <metadata>\n  <name>a</name>\n  ",
            "<domain>\n  <name>a<!--</name>\n  ",
            "<domain><name>a</name>\n  ",
            "<!-- --><domain>\n  <name>a</name>\n  ",
            "<domainsnapshot>\n  <name>a</name>\n  <domain>\n  ",
            "<domstatus><domain>\n  <name>a</name>\n  ",
        ] {
            assert_eq!(found(&format!("{text}{own}")), None, "{text}");
        }
        assert_eq!(found("<domain>\n  <name>a</name>\n  <uuid>../../x</uuid>"), None);
        assert_eq!(found("<domain>\n  <name>a</name>\n  <uuid>UUID"), None);
        assert_eq!(found(&format!("<domain>\n  <name>{}</name>\n  {own}", "a".repeat(HEAD))), None);
    }
}
