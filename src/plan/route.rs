//! How a vIOMMU reaches QEMU: by the domain XML, or by the wrapper as the emulator. Whether an emulator is the wrapper is known by
//! its path.

use serde::Serialize;

use crate::domain::Domain;

/// What the wrapper's name begins with; the rest is the name of the real QEMU.
const WRAPPER_PREFIX: &str = "viommu-";
/// The directory of the links that are libvirt's default emulators on a host with the host route. The hook's prefilter looks for
/// no part of its name.
pub const HOST_ROUTE: &str = "libvirt-host-route";

/// How a vIOMMU reaches QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// The domain XML says it.
    Native,
    /// The emulator is the wrapper, which edits QEMU's command line.
    Wrapper,
}

/// How a vIOMMU reaches this domain's QEMU.
#[must_use]
pub fn route(domain: &Domain) -> Route {
    if domain.emulator.as_deref().and_then(wrapped_emulator).is_some() { Route::Wrapper } else { Route::Native }
}

/// Whether a path is a link of the host route: libvirt's default emulator, which no domain has chosen.
#[must_use]
pub fn is_host_route(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    parts.next().is_some_and(|name| name.starts_with("qemu-system-")) && parts.next() == Some(HOST_ROUTE)
}

/// Whether the domain names the wrapper itself as its emulator. That is a request.
#[must_use]
pub fn chose_wrapper(domain: &Domain) -> bool {
    route(domain) == Route::Wrapper && !domain.emulator.as_deref().is_some_and(is_host_route)
}

/// The file name of the real QEMU, where a path is that of a wrapper.
#[must_use]
pub fn wrapped_emulator(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let real = name.strip_prefix(WRAPPER_PREFIX).or_else(|| is_host_route(path).then_some(name))?;
    real.starts_with("qemu-system-").then_some(real)
}

/// The wrapper for guests of an architecture, by its path. A 32-bit x86 guest runs in the 64-bit QEMU too
/// (`virQEMUCapsIsArchSupported`).
#[must_use]
pub fn wrapper_for(arch: Option<&str>) -> String {
    let arch = if arch == Some("aarch64") { "aarch64" } else { "x86_64" };
    format!("/usr/bin/{WRAPPER_PREFIX}qemu-system-{arch}")
}
