//! `viommu` gives libvirt/QEMU guests a virtual IOMMU and the locked-memory limit that PCI passthrough behind it needs.
//!
//! One direction of data: bytes → facts → plan → bytes. The core (`xml`, `domain`, `request`, `plan`, `rewrite`, `qemu`)
//! does no I/O and reads no clock or environment; `hook`, `wrapper`, `guard`, `host::probe`, `sys` and `cli` are the thin
//! shell around it. Every route and every verb runs the one decision function, `plan::plan`.

pub mod domain;
pub mod note;
pub mod qemu;
pub mod version;
pub mod xml;
