//! libvirt's `qemu` hook.
//!
//! `NAME OPERATION SUB-OPERATION EXTRA`, the domain XML on stdin. libvirt ignores what a hook prints except at `migrate
//! begin` and `restore begin`, shows what it says on stderr when it fails, and holds the domain's lock meanwhile (src/util/
//! virhook.c, docs/hooks.rst).
//!
//! The hook decides from files within a millisecond, refuses a guest whose request cannot be met, and lets every other guest
//! pass. It never calls libvirt, starts a program or waits, and never fails at `reconnect` (libvirt then kills the running
//! guest) or at `restore` (libvirt 11.3 then reports the guest as started and deletes its managed-save image).

mod decide;
mod effect;
mod event;
mod missing;
mod prefilter;

pub use decide::decide;
pub use effect::{Effect, Outcome, perform};
pub use event::Event;
pub use missing::decide_without_document;
