//! Reads the host's configuration, `/etc/viommu.toml`.

use std::path::Path;

use crate::config::{Config, PATH};
use crate::note::{Code, Note};
use crate::sys::fs;

/// A larger file is not a configuration, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The configuration of the host; a missing file is an empty one.
///
/// # Errors
/// `config-invalid`.
pub fn load() -> Result<Config, Note> {
    match fs::read_trusted(Path::new(PATH), MAX_BYTES) {
        Ok(text) => Config::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Note::error(Code::ConfigInvalid, format!("{PATH} cannot be used: {error}"))),
    }
}

/// What the wrapper executes where an emulator does not exist: RHEL's QEMU, which libvirt, too, takes for the host's own architecture
/// (`virQEMUCapsGetDefaultEmulator`).
#[must_use]
pub fn in_place_of(emulator: &str) -> Option<&'static str> {
    let own = emulator.strip_prefix("/usr/bin/qemu-system-") == Some(std::env::consts::ARCH);
    own.then_some("/usr/libexec/qemu-kvm")
}
