//! The hook and the wrapper with real libvirt and real QEMU: guests start, are saved and are restored.
//!
//! These tests do not read viommu's own statements. They read QEMU's monitor (`info qtree`, the machine's properties),
//! the kernel's `/proc`, and virsh's output.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic fails the test")]

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
