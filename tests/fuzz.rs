//! Replays the inputs that fuzzing found, and the seeds, with the same properties: `fuzz/run` finds inputs, this test
//! keeps them.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program; a panic fails the test"
)]

#[path = "../fuzz/properties/capabilities.rs"]
mod capabilities;
#[path = "../fuzz/properties/command_line.rs"]
mod command_line;
#[path = "../fuzz/properties/configuration.rs"]
mod configuration;
#[path = "../fuzz/properties/domain.rs"]
mod domain;
#[path = "../fuzz/properties/explain.rs"]
mod explain;
#[path = "../fuzz/properties/state.rs"]
mod state;

use std::fs;
use std::path::Path;

type Check = fn(&[u8]);

/// Every target of `fuzz/Cargo.toml`, by its name.
const TARGETS: [(&str, Check); 6] = [
    ("capabilities", capabilities::check),
    ("command_line", command_line::check),
    ("configuration", configuration::check),
    ("domain", domain::check),
    ("explain", explain::check),
    ("state", state::check),
];

/// Checks every file of a directory, which may be missing.
fn replay(directory: &Path, check: Check) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    for path in &paths {
        println!("{}", path.display());
        check(&fs::read(path).unwrap());
    }
    paths.len()
}

#[test]
fn earlier_findings_stay_corrected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (target, check) in TARGETS {
        replay(&root.join("fuzz/regressions").join(target), check);
        let seeds =
            if target == "domain" { root.join("examples/domains") } else { root.join("fuzz/seeds").join(target) };
        assert!(replay(&seeds, check) > 0, "{target} has no seeds");
    }
}

/// `fuzz/run` and the page of the long run contain each target.
#[test]
fn every_target_is_replayed() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let named: Vec<_> = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    assert_eq!(named.len(), TARGETS.len());
    let noted = include_str!("../docs/threats.md");
    for (target, _) in TARGETS {
        assert!(named.contains(&target) && noted.contains(&format!("\n| `{target}` |")), "{target}");
    }
}
