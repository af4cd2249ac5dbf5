//! Turns a plan into new domain XML: every change of the plan becomes an edit, every other byte stays.
//!
//! Pure. The place of a new element is decided here; `xml` splices the bytes.

mod drivers;
mod undo;

use crate::note::{Code, Note};
use crate::plan::{DomainEdit, Plan};
use crate::xml::{self, Document, Edit, Element, NewElement, PatchError};

pub use undo::undo;

/// The domain XML after the plan's changes; none where there is nothing to change.
///
/// # Errors
/// `xml-malformed` where the document leaves no place for a change.
pub fn rewrite(document: &Document<'_>, plan: &Plan) -> Result<Option<String>, Note> {
    if plan.changes.is_empty() {
        return Ok(None);
    }
    let domain = document.root();
    let mut edits = Vec::new();
    let mut backing = Vec::new();
    for change in &plan.changes {
        match &change.edit {
            DomainEdit::AddIommu(model, driver) => {
                let driver = if driver.is_empty() { Vec::new() } else { vec![driver_element(driver)] };
                add_to(domain, "devices", &[], vec![element("iommu", &[("model", model.name())], driver)], &mut edits);
            }
            DomainEdit::CompleteIommu(driver) => {
                domain.path(&["devices", "iommu"]).into_iter().for_each(|iommu| set_driver(iommu, driver, &mut edits));
            }
            DomainEdit::TranslateVirtio(_, devices) => drivers::translate(domain, devices, &mut edits),
            DomainEdit::RemoveIommuDriver => remove_all(domain, &["devices", "iommu", "driver"], &mut edits),
            DomainEdit::SplitIoapic => split_ioapic(domain, &mut edits),
            DomainEdit::RemoveIoapic => remove_all(domain, &["features", "ioapic"], &mut edits),
            DomainEdit::ForbidPageSharing => backing.push(element("nosharepages", &[], Vec::new())),
            DomainEdit::LockMemory => backing.push(element("locked", &[], Vec::new())),
        }
    }
    if !backing.is_empty() {
        add_to(domain, "memoryBacking", &["currentMemory", "memory"], backing, &mut edits);
    }
    xml::apply(document, &edits).map(Some).map_err(|error| no_place(&error))
}

/// The domain XML with another `<emulator>`.
///
/// # Errors
/// `xml-malformed` where the document has none.
pub fn with_emulator(document: &Document<'_>, path: &str) -> Result<String, Note> {
    let Some(element) = document.root().path(&["devices", "emulator"]) else {
        return Err(Note::error(Code::XmlMalformed, "the domain has no <emulator>: add one"));
    };
    let edit = Edit::SetText { element, value: path.to_owned() };
    xml::apply(document, &[edit]).map_err(|error| no_place(&error))
}

fn no_place(error: &PatchError) -> Note {
    Note::error(Code::XmlMalformed, format!("the domain XML leaves no place for the change: {error}"))
}

/// Sets attributes of a device's `<driver>`, of which the first counts, or adds it.
fn set_driver<'d, 'a>(device: Element<'d, 'a>, driver: &[(&'static str, String)], edits: &mut Vec<Edit<'d, 'a>>) {
    match device.child("driver") {
        Some(element) => {
            edits.extend(driver.iter().map(|(name, value)| Edit::SetAttribute { element, name, value: value.clone() }));
        }
        None => edits.push(Edit::Append { parent: device, new: driver_element(driver) }),
    }
}

fn remove_all<'d, 'a>(domain: Element<'d, 'a>, path: &[&str], edits: &mut Vec<Edit<'d, 'a>>) {
    edits.extend(domain.all(path).into_iter().map(|element| Edit::Remove { element }));
}

fn split_ioapic<'d, 'a>(domain: Element<'d, 'a>, edits: &mut Vec<Edit<'d, 'a>>) {
    let driver = ("driver", "qemu");
    // The last of several counts. libvirt ignores one without a driver.
    if let Some(element) = domain.all(&["features", "ioapic"]).pop() {
        edits.push(Edit::SetAttribute { element, name: driver.0, value: driver.1.to_owned() });
    } else {
        add_to(domain, "features", &["os"], vec![element("ioapic", &[driver], Vec::new())], edits);
    }
}

/// Appends to a child of the domain, or adds the child: after the first of its usual neighbours that is there, else last.
fn add_to<'d, 'a>(
    domain: Element<'d, 'a>,
    name: &'static str,
    neighbours: &[&str],
    children: Vec<NewElement>,
    edits: &mut Vec<Edit<'d, 'a>>,
) {
    if let Some(parent) = domain.child(name) {
        edits.extend(children.into_iter().map(|new| Edit::Append { parent, new }));
        return;
    }
    let new = element(name, &[], children);
    edits.push(match neighbours.iter().find_map(|neighbour| domain.child(neighbour)) {
        Some(sibling) => Edit::InsertAfter { sibling, new },
        None => Edit::Append { parent: domain, new },
    });
}

fn driver_element(driver: &[(&'static str, String)]) -> NewElement {
    NewElement { name: "driver", attributes: driver.to_vec(), children: Vec::new() }
}

fn element(name: &'static str, attributes: &[(&'static str, &str)], children: Vec<NewElement>) -> NewElement {
    let attributes = attributes.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    NewElement { name, attributes, children }
}

#[cfg(test)]
mod tests;
