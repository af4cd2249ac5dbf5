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
