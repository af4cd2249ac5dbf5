//! libvirt's `qemu` hook: what each event may do, and what happens when something fails.
//!
//! `NAME OPERATION SUB-OPERATION EXTRA`, the domain XML on stdin. libvirt ignores what a hook prints except at `migrate
//! begin` and `restore begin`, shows what it says on stderr when it fails, and holds the domain's lock meanwhile (src/util/
//! virhook.c, docs/hooks.rst).
//!
//! Should: answer from files within a millisecond; refuse a guest that asks and cannot have; let everything else pass.
//! Mustn't: call libvirt, start a program, wait for anything, fail at `reconnect` (libvirt then kills the running guest) or at
//! `restore` (libvirt 11.3 then says that the guest was started, and deletes its managed-save image).

mod decide;
mod effect;
mod event;
mod prefilter;

pub use decide::decide;
pub use effect::{Effect, Outcome, perform};
pub use event::Event;
