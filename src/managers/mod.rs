//! Programs that managers run on a domain's XML before it is defined: the native route, without a command line.
//!
//! A machine without a request gets its XML back byte for byte, whatever else is wrong; one whose request cannot be met is
//! refused. A machine that has run already is never changed.

pub mod kubevirt;
pub mod vdsm;

use std::path::Path;

use crate::decide::{self, Undecided};
use crate::domain::Domain;
use crate::host::probe::Places;
use crate::host::{self, Host};
use crate::note::{Code, Level, Note};
use crate::plan::{self, Plan};
use crate::request::{Keys, Request};
use crate::rewrite::rewrite;
use crate::sys::{fs, stderr};

/// The output of `viommu capabilities --format json`, for processes that cannot read libvirt's capability cache: vdsm is not
/// root, and the libvirt of a virt-launcher is in another container.
pub const RECORDED_HOST: &str = "/etc/viommu-host.json";

/// The rewritten domain XML for a machine with this request of its manager; `None` where nothing changes. `remark` is what the
/// manager's log must have about the plan.
///
/// # Errors
/// Why the machine must not start.
fn rewritten(xml: &[u8], keys: &Keys, remark: impl Fn(&Plan) -> Option<Note>) -> Result<Option<String>, Note> {
    let mut log = Vec::new();
    let outcome = match decide::decide(xml, keys, host::config::load(), facts) {
        Ok(decided) => {
            log.extend(decided.log);
            let noteworthy = |note: &&Note| note.level == Level::Warning || note.code == Code::HostFactAssumed;
            log.extend(plan::kept(&decided.plan).notes.iter().filter(noteworthy).cloned());
            log.extend(decided.plan.as_ref().ok().and_then(remark));
            decided.plan.map_err(|refusal| refusal.note).and_then(|plan| rewrite(&decided.document, &plan))
        }
        Err(Undecided { note, asks: true }) => Err(note),
        Err(Undecided { note, asks: false }) => {
            log.push(note);
            Ok(None)
        }
    };
    log.iter().for_each(stderr::say);
    outcome
}

/// The facts of this host, completed from the recorded ones where this process cannot read the cache.
fn facts(domain: &Domain, request: Option<&Request>) -> Result<Host, Note> {
    if request.is_none() {
        return Ok(Host::default());
    }
    let mut host = Places::default().host_for(domain);
    if host.libvirt.is_none() {
        let recorded = recorded(Path::new(RECORDED_HOST))?;
        (host.libvirt, host.emulators) = (recorded.libvirt, recorded.emulators);
        host.aw_bits = host.aw_bits.or(recorded.aw_bits);
    }
    Ok(host)
}

fn recorded(path: &Path) -> Result<Host, Note> {
    let unusable = |why: &str| Note::error(Code::ConfigInvalid, format!("{} cannot be used: {why}", path.display()));
    match fs::read_trusted(path, 4 << 20) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| unusable(&error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Host::default()),
        Err(error) => Err(unusable(&error.to_string())),
    }
}
