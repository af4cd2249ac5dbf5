//! Containers of libvirt, as kolla has them: whether libvirt's daemon is in another one, and whether this one keeps the hook.

use std::path::Path;

use crate::config;
use crate::note::Code;
use crate::state::store;
use crate::sys::{fs, process};

use super::install::BINARY;
use super::{Check, SharedFacts, install};

const NAME: &str = "container";

/// Nothing where no container is involved.
pub(super) fn checks(known: &SharedFacts, image: bool) -> Vec<Check> {
    let elsewhere = elsewhere(known).filter(|_| !image);
    elsewhere.into_iter().chain(lost_with_the_container(known)).collect()
}

/// libvirt's daemon has another root directory: its hooks and its configuration are not those of this host.
fn elsewhere(known: &SharedFacts) -> Option<Check> {
    let daemon = known.daemon.as_ref()?;
    let its_root = process::file_id(&process::file(daemon.pid, "root")).ok()?;
    if process::file_id(Path::new("/")).is_ok_and(|root| root == its_root) {
        return None;
    }
    let message = format!(
        "{} (pid {}) runs in a container, or in a chroot: its hooks and its configuration are not the files that were read here",
        daemon.name, daemon.pid
    );
    Some(Check::unknown(NAME, message, "run viommu doctor in it; for kolla: docker exec nova_libvirt viommu doctor"))
}

fn lost_with_the_container(known: &SharedFacts) -> Option<Check> {
    if ["/.dockerenv", "/run/.containerenv"].iter().all(|mark| fs::entry(Path::new(mark)).is_none()) {
        return None;
    }
    let hook = install::ours(known)?;
    // The hook is a link: what counts is the layer of the directory that holds it.
    let hooks = hook.path.rsplit_once('/')?.0;
    let files = [hooks, BINARY, config::PATH, store::RECORDS];
    let lost: Vec<&str> = files.into_iter().filter(|path| fs::is_in_overlay(Path::new(path))).collect();
    if lost.is_empty() {
        return Some(Check::ok(NAME, "the hook and its files outlive this container"));
    }
    let message = format!("a recreated container loses {}", lost.join(", "));
    let remedy = "build an image with viommu, or mount the files from the host (kolla: nova_libvirt_extra_volumes)";
    Some(Check::warning(NAME, Code::HookInImage, message, remedy))
}
