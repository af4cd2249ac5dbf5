//! Removes from a domain what a plan has added: the way back from `viommu apply`.
//!
//! Pure. With a backup of the domain, everything that is in the backup stays. Without one every vIOMMU is removed, so the user
//! must see the difference first.

use std::borrow::Cow;

use crate::model::Model;
use crate::note::Note;
use crate::plan::wrapped_emulator;
use crate::xml::{self, Document, Edit, Element};

use super::{drivers, no_place};

/// The domain without its vIOMMU; none where there is nothing to remove.
///
/// `emulator_behind` names the real QEMU behind a wrapper, by the file name of the former.
///
/// # Errors
/// `xml-malformed` where the document cannot be edited.
pub fn undo(
    document: &Document<'_>,
    before: Option<&Document<'_>>,
    emulator_behind: impl Fn(&str) -> String,
) -> Result<Option<String>, Note> {
    let domain = document.root();
    let old = before.map(Document::root);
    let had = |path: &[&str]| old.is_some_and(|old| old.path(path).is_some());
    let mut edits = Vec::new();
    // The user's own vIOMMU stays, also where apply has completed it.
    if !had(&["devices", "iommu"]) {
        let iommus: Vec<Element<'_, '_>> = domain.all(&["devices", "iommu"]);
        // Only such a vIOMMU needs the split irqchip; without a backup it counts as added with it.
        let companion = match old {
            Some(_) => !had(&["features", "ioapic"]),
            None => iommus
                .iter()
                .filter_map(|iommu| Model::of_name(iommu.attr("model")?))
                .any(|model| model.facts().remaps_interrupts),
        };
        let ioapic = domain.all(&["features", "ioapic"]).pop();
        let ioapic = ioapic.filter(|ioapic| companion && ioapic.attr("driver") == Some("qemu"));
        edits.extend(iommus.into_iter().chain(ioapic).map(|element| Edit::Remove { element }));
    }
    for name in ["locked", "nosharepages"] {
        let path = ["memoryBacking", name];
        let ours = old.is_some() && !had(&path);
        edits.extend(domain.path(&path).filter(|_| ours).map(|element| Edit::Remove { element }));
    }
    if let Some(old) = old {
        drivers::undo(domain, old, &mut edits);
    }
    if let Some((element, real)) = emulator_of(domain).and_then(|element| Some((element, wrapped(element)?))) {
        let old = old.and_then(emulator_of);
        // The wrapper may have been there before.
        if old.is_none_or(|old| wrapped(old).is_none()) {
            let value = old.and_then(Element::text).map_or_else(|| emulator_behind(&real), Cow::into_owned);
            edits.push(Edit::SetText { element, value });
        }
    }
    if edits.is_empty() { Ok(None) } else { xml::apply(document, &edits).map(Some).map_err(|error| no_place(&error)) }
}

fn emulator_of<'d, 'a>(domain: Element<'d, 'a>) -> Option<Element<'d, 'a>> {
    domain.path(&["devices", "emulator"])
}

fn wrapped(emulator: Element<'_, '_>) -> Option<String> {
    emulator.text().and_then(|path| wrapped_emulator(&path).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "<domain type='kvm'>
  <features>
    <acpi/>
  </features>
  <devices>
    <emulator>/usr/libexec/qemu-kvm</emulator>
  </devices>
</domain>
";
    const INTEL: &str = "<domain type='kvm'>
  <features>
    <acpi/>
    <ioapic driver='qemu'/>
  </features>
  <devices>
    <emulator>/usr/libexec/qemu-kvm</emulator>
    <iommu model='intel'>
      <driver intremap='on'/>
    </iommu>
  </devices>
</domain>
";

    #[track_caller]
    fn becomes(now: &str, before: Option<&str>, after: Option<&str>) {
        let document = xml::parse(now.as_bytes()).unwrap();
        let before = before.map(|text| xml::parse(text.as_bytes()).unwrap());
        let text = undo(&document, before.as_ref(), |name| format!("/usr/bin/{name}")).unwrap();
        assert_eq!(text.as_deref(), after);
    }

    #[test]
    fn added_elements_are_removed() {
        becomes(INTEL, Some(PLAIN), Some(PLAIN));
        becomes(INTEL, None, Some(PLAIN));
        becomes(PLAIN, Some(PLAIN), None);
        becomes(PLAIN, None, None);
        let virtio = PLAIN.replace("  </devices>", "    <iommu model='virtio'/>\n  </devices>");
        becomes(&virtio, None, Some(PLAIN));
    }

    #[test]
    fn elements_that_the_backup_has_stay() {
        becomes(INTEL, Some(INTEL), None);
        // A vIOMMU that viommu completed needs the split irqchip.
        let lacking = INTEL.replace("    <ioapic driver='qemu'/>\n", "");
        becomes(INTEL, Some(&lacking), None);
        let split = PLAIN.replace("    <acpi/>\n", "    <acpi/>\n    <ioapic driver='qemu'/>\n");
        becomes(INTEL, Some(&split), Some(&split));
        // virtio-iommu does not need it, so viommu did not add it.
        let virtio = split.replace("  </devices>", "    <iommu model='virtio'/>\n  </devices>");
        becomes(&virtio, None, Some(&split));
    }

    #[test]
    fn remove_deletes_only_locked_memory_that_viommu_added() {
        let locked = PLAIN.replace(
            "  <features>",
            "  <memoryBacking>\n    <hugepages/>\n    <nosharepages/>\n    <locked/>\n  </memoryBacking>\n  <features>",
        );
        let huge =
            PLAIN.replace("  <features>", "  <memoryBacking>\n    <hugepages/>\n  </memoryBacking>\n  <features>");
        becomes(&locked, Some(&huge), Some(&huge));
        becomes(&locked, Some(&locked), None);
        becomes(&locked, None, None);
    }

    #[test]
    fn the_real_emulator_replaces_the_wrapper() {
        let wrapped = PLAIN.replace("/usr/libexec/qemu-kvm", "/usr/bin/viommu-qemu-system-x86_64");
        becomes(&wrapped, Some(PLAIN), Some(PLAIN));
        becomes(&wrapped, None, Some(&PLAIN.replace("/usr/libexec/qemu-kvm", "/usr/bin/qemu-system-x86_64")));
        becomes(&wrapped, Some(&wrapped), None);
    }
}
