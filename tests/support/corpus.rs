//! libvirt's own test domains, if they are available.
//!
//! They are data of libvirt's source (LGPL), not part of this repository. `VIOMMU_CORPUS` names the archive, or a
//! directory with its contents; the default is `../shared/corpus/libvirt-9.0.0.tar.xz` beside the repository. Without
//! it a test prints SKIPPED and passes; `tests/run` counts it as skipped.

#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "finds and unpacks files for tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, process};

/// All domains of the corpus with their paths, sorted. Without a corpus, empty, and a line that begins with `SKIPPED:`.
/// A damaged corpus panics.
pub(crate) fn documents() -> Vec<(PathBuf, String)> {
    fn collect(directory: &Path, into: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "xml") {
                into.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let Some(directory) = corpus() else { return Vec::new() };
    let mut documents = Vec::new();
    collect(&directory, &mut documents);
    documents.sort();
    assert!(documents.len() > 1000, "{} documents in {}", documents.len(), directory.display());
    documents
}

/// The directory that contains `qemuxml2argvdata/`, `genericxml2xmlindata/` and `qemumemlockdata/`.
fn corpus() -> Option<PathBuf> {
    // One thread of this program unpacks, the others wait.
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/libvirt-9.0.0.tar.xz");
    let named = env::var_os("VIOMMU_CORPUS").map(PathBuf::from);
    let source = named.clone().unwrap_or(beside);
    if source.is_dir() {
        return Some(source);
    }
    if !source.is_file() {
        assert!(named.is_none(), "VIOMMU_CORPUS names {}, which does not exist", source.display());
        skipped();
        return None;
    }
    Some(UNPACKED.get_or_init(|| unpacked(&source)).clone())
}

#[expect(clippy::print_stdout, reason = "tests/run reads this line")]
fn skipped() {
    println!("SKIPPED: libvirt's test domains are missing (VIOMMU_CORPUS)");
}

/// Unpacks once; other test programs may do the same at the same time.
fn unpacked(archive: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let done = target.join("corpus");
    if done.is_dir() {
        return done;
    }
    let own = target.join(format!("corpus.{}", process::id()));
    fs::create_dir_all(&own).unwrap();
    let status =
        Command::new("tar").args(["--no-same-owner", "-xf"]).arg(archive).arg("-C").arg(&own).status().unwrap();
    assert!(status.success(), "tar could not unpack {}", archive.display());
    if fs::rename(&own, &done).is_err() {
        // Another program was faster; its copy is equal.
        fs::remove_dir_all(&own).unwrap();
    }
    done
}
