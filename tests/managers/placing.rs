//! The facts about a host for schedulers, checked with the rules of the programs that read them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::program::{VIOMMU, run};

/// libvirt 11.3, QEMU 10.0 for x86_64 alone, an IOMMU of 39 bits.
const HOST: &[&str] = &["--host", "tests/data/host.json"];
/// The same with 48 bits and a libvirt without virtio-iommu.
const OLD: &[&str] = &["--host", "tests/data/host.json", "--host-aw-bits", "48", "--libvirt-version", "7.0.0"];
/// No facts are known.
const NOTHING: &[&str] = &["--host", "tests/data/nothing.json"];

fn capabilities(format: &str, host: &[&str]) -> String {
    let ran = run(VIOMMU, &[&["capabilities", "--format", format][..], host].concat(), b"");
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    ran.stdout
}

#[test]
fn capabilities_lists_models_and_reasons() {
    let text = capabilities("text", HOST);
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("guests on")).collect();
    assert_eq!(lines[0], "guests on x86_64, /usr/bin/qemu-system-x86_64");
    assert_eq!((lines[1], lines[3]), ("  intel      yes", "  virtio     yes"));
    assert!(lines[2].starts_with("  smmuv3     no [model-arch-mismatch]: "), "{text}");
    assert!(
        lines[4].starts_with("  amd        no [model-unsupported-by-libvirt]: libvirt 11.3.0 does not know"),
        "{text}"
    );
    assert_eq!(lines[5], "  auto       yes: intel");
    assert_eq!(lines[7], "guests on aarch64");
    assert!(
        lines[9].starts_with(
            "  smmuv3     no [model-unsupported-by-qemu]: this host's libvirt knows no emulator for aarch64"
        ),
        "{text}"
    );
    let old = capabilities("text", OLD);
    assert!(old.contains("  virtio     no [model-unsupported-by-libvirt]: libvirt 7.0.0 does not know"), "{old}");
    assert!(old.contains("  auto       yes: intel"), "{old}");
}

/// The rules of nova/compute/provider_config.py: SCHEMA_V1 (a quoted `meta.schema_version` of major 1, one way of
/// identification, traits of `^[A-Z0-9_]{1,255}$`), and `_validate_traits` (only `CUSTOM_` ones).
fn provider_traits(text: &str) -> Vec<&str> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let head: Vec<&str> = lines.by_ref().take(6).collect();
    assert_eq!(
        head,
        [
            "meta:",
            "  schema_version: '1.0'",
            "providers:",
            "  - identification:",
            "      uuid: $COMPUTE_NODE",
            "    traits:"
        ]
    );
    let list = lines.next().unwrap();
    if list == "      additional: []" {
        assert_eq!(lines.next(), None);
        return Vec::new();
    }
    assert_eq!(list, "      additional:");
    let traits: Vec<&str> = lines.map(|line| line.strip_prefix("        - ").unwrap()).collect();
    for own in &traits {
        assert!(own.starts_with("CUSTOM_") && own.len() <= 255, "{own}");
        assert!(own.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'), "{own}");
    }
    assert!(!traits.is_empty());
    traits
}

#[test]
fn nova_takes_the_provider_configuration() {
    let own = |model: &str| format!("CUSTOM_VIOMMU_MODEL_{model}");
    assert_eq!(provider_traits(&capabilities("placement", HOST)), ["INTEL", "VIRTIO", "AUTO"].map(own));
    let old = capabilities("placement", OLD);
    assert_eq!(provider_traits(&old), [own("INTEL"), own("AUTO"), "CUSTOM_VIOMMU_AW_BITS_48".to_owned()]);
    assert_eq!(provider_traits(&capabilities("placement", NOTHING)), [""; 0]);
    // Each trait by its real name (os_traits/compute/viommu.py), with the reason if the host lacks it.
    for line in [
        "#   COMPUTE_VIOMMU_MODEL_INTEL   yes",
        "#   COMPUTE_VIOMMU_MODEL_VIRTIO  no [model-unsupported-by-libvirt]: libvirt 7.0.0 does not know",
        "#   COMPUTE_VIOMMU_MODEL_SMMUV3  no [model-unsupported-by-qemu]: ",
        "#   COMPUTE_VIOMMU_MODEL_AUTO    yes",
    ] {
        assert!(old.contains(line), "{line}\n{old}");
    }
}

/// The traits for Nova's own keys do not depend on the host route; those for viommu's keys do.
#[test]
fn placement_distinguishes_novas_keys_from_viommus() {
    let recorded = std::fs::read_to_string("tests/data/host.json").unwrap();
    let on = |state: &str| {
        let file = std::env::temp_dir().join(format!("viommu-placing-{state}-{}.json", std::process::id()));
        std::fs::write(&file, recorded.replacen('{', &format!("{{\"host_route\": {state},"), 1)).unwrap();
        let text = capabilities("placement", &["--host", file.to_str().unwrap()]);
        std::fs::remove_file(file).unwrap();
        assert!(text.contains("#   hw:viommu_model with a stock Nova:  intel\n"), "{text}");
        text
    };
    let (off, on) = (on("false"), on("true"));
    assert!(off.contains("#   viommu:model in a flavor:           none, because the host route is off"), "{off}");
    assert!(on.contains("#   viommu:model in a flavor:           each of these models"), "{on}");
    assert!(provider_traits(&on).contains(&"CUSTOM_VIOMMU_HOST_ROUTE"));
    assert!(!provider_traits(&off).contains(&"CUSTOM_VIOMMU_HOST_ROUTE"));
    let nothing = capabilities("placement", NOTHING);
    assert!(nothing.contains("stock Nova:  none\n#   viommu:model in a flavor:           unknown: "), "{nothing}");
}

/// The rules of node-feature-discovery's source/local/local.go (a `name=value` a line, `#` comments, `# +` directives, 64 KiB)
/// and pkg/apis/nfd/validate (a prefix; none of Kubernetes' but `feature.node.kubernetes.io`; Kubernetes' label syntax).
fn labels(text: &str) -> BTreeMap<&str, &str> {
    assert!(text.len() < 64 * 1024);
    let mut labels = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with('#') {
            assert!(!line.starts_with("# +"), "it would be a directive: {line}");
            continue;
        }
        let (name, value) = line.split_once('=').unwrap();
        let (prefix, short) = name.split_once('/').unwrap();
        assert_eq!(prefix, "feature.node.kubernetes.io");
        for part in [short, value] {
            let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            assert!(
                part.len() <= 63 && alphanumeric(part.chars().next()) && alphanumeric(part.chars().last()),
                "{line}"
            );
            assert!(part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{line}");
        }
        assert_eq!(labels.insert(short, value), None, "{line}");
    }
    labels
}

#[test]
fn node_feature_discovery_takes_the_feature_file() {
    let text = capabilities("nfd", HOST);
    let expected = [
        ("viommu-auto", "true"),
        ("viommu-host-aw-bits", "39"),
        ("viommu-host-iommu", "true"),
        ("viommu-intel", "true"),
        ("viommu-virtio", "true"),
    ];
    assert_eq!(labels(&text).into_iter().collect::<Vec<_>>(), expected);
    assert!(text.contains("# smmuv3: no [model-unsupported-by-qemu]: "), "{text}");
    assert!(labels(&capabilities("nfd", NOTHING)).is_empty());
    // A node without a libvirt: options give the versions of its virt-launchers.
    let launcher = [NOTHING, &["--libvirt-version", "11.3.0", "--qemu-version", "10.0.0"]].concat();
    assert_eq!(labels(&capabilities("nfd", &launcher)).len(), 3);
}

#[test]
fn ansible_finds_facts() {
    let facts: Value = serde_json::from_str(&capabilities("ansible", OLD)).unwrap();
    assert_eq!((&facts["libvirt"], &facts["aw_bits"], &facts["iommu"]), (&"7.0.0".into(), &48.into(), &true.into()));
    assert_eq!(facts["models"]["intel"], serde_json::json!({"supported": true, "code": null, "reason": null}));
    assert_eq!(facts["models"]["virtio"]["code"], "model-unsupported-by-libvirt");
    assert_eq!(facts["emulators"][0]["path"], "/usr/bin/qemu-system-x86_64");
    assert_eq!(facts["emulators"][0]["models"]["auto"]["supported"], true);
    assert_eq!((&facts["emulators"][1]["arch"], &facts["emulators"][1]["path"]), (&"aarch64".into(), &Value::Null));
}
