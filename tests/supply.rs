//! The parts of the binary: each has a reason and a licence, and the bill of materials lists it.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test program"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn table(name: &str) -> toml::Table {
    file(name).parse().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The packages that go into the binary or into its build, by their ids.
fn shipped() -> BTreeMap<String, Value> {
    let cargo = env::var_os("CARGO").unwrap();
    let mut command = Command::new(cargo);
    command.args(["metadata", "--offline", "--locked", "--format-version=1"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes: BTreeMap<_, _> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| (text(&node["id"]), node)).collect();
    let mut wanted = vec![text(&metadata["resolve"]["root"])];
    let mut found = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        if found.insert(id) {
            let dependencies = nodes[id]["deps"].as_array().unwrap().iter();
            // The kind of a normal dependency is null.
            let shipped = dependencies.filter(|dependency| {
                dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
            });
            wanted.extend(shipped.map(|dependency| text(&dependency["pkg"])));
        }
    }
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| found.contains(text(&package["id"])))
        .map(|p| (text(&p["id"]).to_owned(), p.clone()))
        .collect()
}

#[test]
fn every_direct_dependency_has_a_reason() {
    let manifest = table("Cargo.toml");
    let page = file("docs/dependencies.md");
    let documented: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name)).collect();
    let direct: BTreeSet<_> = ["dependencies", "dev-dependencies"]
        .iter()
        .flat_map(|section| manifest[*section].as_table().unwrap().keys().map(String::as_str))
        .collect();
    assert_eq!(documented, direct, "docs/dependencies.md");
}

#[test]
fn every_licence_is_allowed() {
    let policy = table("deny.toml");
    let allowed: Vec<_> =
        policy["licenses"]["allow"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    for package in shipped().values() {
        let licence = text(&package["license"]).replace('/', " OR ").replace(['(', ')'], "");
        // Each part of an AND must be allowed, by one part of its OR.
        let holds = licence.split(" AND ").all(|all| all.split(" OR ").any(|one| allowed.contains(&one.trim())));
        assert!(holds, "{} is under {licence}", package["name"]);
        assert!(
            package["source"].is_null() || text(&package["source"]).starts_with("registry+"),
            "{}",
            package["name"]
        );
    }
}

/// `packaging/sbom` lists the same packages as cargo's metadata, with the checksums of the lock file.
#[test]
fn bill_of_materials() {
    let shipped = shipped();
    let sbom = Command::new("packaging/sbom").current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(sbom.status.success(), "{}", String::from_utf8_lossy(&sbom.stderr));
    let bill: Value = serde_json::from_slice(&sbom.stdout).unwrap();
    assert_eq!((text(&bill["bomFormat"]), text(&bill["specVersion"])), ("CycloneDX", "1.5"));
    let own = &bill["metadata"]["component"];
    assert_eq!((text(&own["name"]), text(&own["version"])), ("viommu", env!("CARGO_PKG_VERSION")));
    let lock = table("Cargo.lock");
    let sums: BTreeMap<_, _> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| {
            let [name, version] = ["name", "version"].map(|key| package[key].as_str().unwrap());
            Some(((name, version), package.get("checksum")?.as_str().unwrap()))
        })
        .collect();
    let mut listed = BTreeSet::new();
    for component in bill["components"].as_array().unwrap() {
        let (name, version) = (text(&component["name"]), text(&component["version"]));
        assert_eq!(text(&component["hashes"][0]["content"]), sums[&(name, version)], "{name}");
        assert_eq!(text(&component["purl"]), format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")));
        listed.insert((name, version, text(&component["licenses"][0]["expression"]).to_owned()));
    }
    let expected: BTreeSet<_> = shipped
        .values()
        .filter(|package| !package["source"].is_null())
        .map(|package| {
            (text(&package["name"]), text(&package["version"]), text(&package["license"]).replace('/', " OR "))
        })
        .collect();
    assert!(listed.is_subset(&expected), "{listed:?}");
    // cargo's metadata also lists crates that are not compiled: rustix's other back end, and toml's writer.
    let only_in_metadata: Vec<_> = expected.difference(&listed).map(|(name, ..)| *name).collect();
    assert_eq!(only_in_metadata, ["errno", "toml_writer"]);
    assert!(listed.iter().any(|(name, ..)| *name == "roxmltree"));
    assert!(listed.iter().all(|(name, ..)| *name != "proptest"), "no dependency of the tests is shipped");
    assert!(listed.len() <= 50, "{} crates: check whether each is necessary", listed.len());
}
