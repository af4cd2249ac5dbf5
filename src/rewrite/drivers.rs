//! The `<driver>` of virtio devices: what a plan adds to it, and the way back.

use crate::domain::devices;
use crate::plan::Attributes;
use crate::xml::{Edit, Element};

use super::set_driver;

/// Sets what the devices lack.
pub(super) fn translate<'d, 'a>(domain: Element<'d, 'a>, lacks: &[(usize, Attributes)], edits: &mut Vec<Edit<'d, 'a>>) {
    let devices: Vec<_> = devices(domain).collect();
    for (at, driver) in lacks {
        let Some(device) = devices.get(*at) else { continue };
        set_driver(*device, driver, edits);
    }
}

/// Removes the attributes that the device did not have before.
pub(super) fn undo<'d, 'a>(domain: Element<'d, 'a>, before: Element<'_, '_>, edits: &mut Vec<Edit<'d, 'a>>) {
    let (now, before) = (numbered(domain), numbered(before));
    for (key, device) in now {
        let Some(driver) = device.child("driver") else { continue };
        let Some((_, old)) = before.iter().find(|(other, _)| *other == key) else { continue };
        let old = old.child("driver");
        let had = |name: &str| old.is_some_and(|old| old.attr(name).is_some());
        let added: Vec<_> =
            ["iommu", "ats"].into_iter().filter(|name| driver.attr(name) == Some("on") && !had(name)).collect();
        let bare = driver.attributes().count() == added.len() && driver.elements().next().is_none();
        if old.is_none() && bare && !added.is_empty() {
            edits.push(Edit::Remove { element: driver });
        } else {
            edits.extend(added.into_iter().map(|name| Edit::RemoveAttribute { element: driver, name }));
        }
    }
}

/// Every virtio device, by what names it and a number among those of the same name. libvirt moves devices, but never past one of
/// their own kind.
fn numbered<'d, 'a>(domain: Element<'d, 'a>) -> Vec<((String, usize), Element<'d, 'a>)> {
    let mut found: Vec<((String, usize), Element<'d, 'a>)> = Vec::new();
    for device in devices(domain) {
        let part = |child, name| device.child(child).and_then(|child| child.attr(name)).unwrap_or_default();
        let name = match device.name() {
            "interface" => part("mac", "address").to_ascii_lowercase(),
            "disk" => part("target", "dev").to_owned(),
            "controller" => [device.attr("type"), device.attr("index")].map(Option::unwrap_or_default).join(" "),
            "rng" | "input" => String::new(),
            _ => continue,
        };
        let name = format!("{} {name}", device.name());
        let number = found.iter().filter(|((other, _), _)| *other == name).count();
        found.push(((name, number), device));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    fn undone(now: &str, before: &str) -> String {
        let (now, before) = (xml::parse(now.as_bytes()).unwrap(), xml::parse(before.as_bytes()).unwrap());
        let mut edits = Vec::new();
        undo(now.root(), before.root(), &mut edits);
        xml::apply(&now, &edits).unwrap()
    }

    #[test]
    fn remove_deletes_additions_and_nothing_else() {
        let before = "<domain><devices><interface type='user'><mac address='52:54:00:00:00:0A'/></interface>
<rng/><rng><driver ats='on'/></rng><disk><target dev='vda'/><driver name='qemu'/></disk></devices></domain>";
        let edits = [(0, &["iommu", "ats"][..]), (1, &["iommu"]), (2, &["iommu"]), (3, &["iommu", "ats"])]
            .map(|(at, names)| (at, names.iter().map(|name| (*name, "on".to_owned())).collect()));
        let document = xml::parse(before.as_bytes()).unwrap();
        let mut added = Vec::new();
        translate(document.root(), &edits, &mut added);
        let now = xml::apply(&document, &added).unwrap();
        assert!(now.contains("<driver name='qemu' iommu='on' ats='on'/>"), "{now}");
        assert!(
            now.contains("<driver ats='on' iommu='on'/>") && now.contains("<rng><driver iommu='on'/></rng>"),
            "{now}"
        );
        let opened = before.replace("<rng/>", "<rng></rng>");
        assert_eq!(undone(&now, before), opened);
        assert_eq!(undone(&now, &now), now);
        // A device that was added later keeps its attributes.
        assert_eq!(undone(&now, "<domain/>"), now);
    }

    #[test]
    fn devices_are_matched_by_their_mac_address() {
        let nic = |mac: &str, driver: &str| format!("<interface><mac address='{mac}'/>{driver}</interface>");
        let on = "<driver iommu='on'/>";
        let before = format!("<domain><devices>{}{}</devices></domain>", nic("a", ""), nic("b", on));
        let now = format!("<domain><devices>{}{}</devices></domain>", nic("b", on), nic("A", on));
        let expected = format!("<domain><devices>{}{}</devices></domain>", nic("b", on), nic("A", ""));
        assert_eq!(undone(&now, &before), expected);
    }
}
