//! `viommu` gives libvirt/QEMU guests a virtual IOMMU and the locked-memory limit that PCI passthrough behind it needs.
//!
//! Data flows in one direction: bytes → facts → plan → bytes. The core (`xml`, `domain`, `model`, `config`, `request`, `plan`,
//! `decide`, `capability`, `rewrite`, `qemu`, `state`, `explain`) does no I/O and reads no clock or environment; `hook`,
//! `wrapper`, `managers`, `guard`, `host`, `state::store`, `doctor`, `sys` and `cli` are the thin shell around it. Every route and
//! every verb runs the one decision function, [`plan::plan`].

pub mod capability;
pub mod cli;
pub mod config;
pub mod decide;
pub mod doctor;
pub mod domain;
pub mod explain;
pub mod guard;
pub mod hook;
pub mod host;
pub mod limit;
pub mod managers;
pub mod model;
pub mod note;
pub mod plan;
pub mod qemu;
pub mod request;
pub mod rewrite;
pub mod state;
pub mod sys;
pub mod text;
pub mod version;
pub mod wrapper;
pub mod xml;
