//! Nova's test cases, if the file exists.

#![expect(clippy::disallowed_methods, reason = "reads the cases")]
#![expect(clippy::print_stdout, reason = "tests/run reads this line")]

use std::path::Path;
use std::{env, fs};

use serde_json::Value;

/// The cases of one layer.
pub(crate) fn cases(layer: &str) -> Vec<Value> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/nova_cases.json");
    let named = env::var_os("VIOMMU_CASES").map(Into::into);
    let required = named.is_some();
    let path = named.unwrap_or(beside);
    if !path.is_file() {
        assert!(!required, "no Nova cases at {}", path.display());
        println!("SKIPPED: Nova's cases are missing (VIOMMU_CASES)");
        return Vec::new();
    }
    let cases: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let cases: Vec<Value> = cases.into_iter().filter(|case| case["layer"] == layer).collect();
    assert!(!cases.is_empty(), "no case of the layer {layer}");
    cases
}

pub(crate) fn id(case: &Value) -> &str {
    case["id"].as_str().unwrap()
}
