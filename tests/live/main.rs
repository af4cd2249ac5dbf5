//! The hook and the wrapper at work: real libvirt, real QEMU, guests that start, are saved and come back.
//!
//! Nothing here looks at what viommu says it does. What counts is QEMU's own word (`info qtree`, the machine's properties),
//! the kernel's (`/proc`), and what virsh shows to whoever typed it.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here fails the test")]

#[path = "../support/mod.rs"]
mod support;

mod capabilities;
mod guests;
mod hostile;
mod native;
mod probes;
mod refusals;
mod restore;
mod wrapper;
