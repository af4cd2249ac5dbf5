//! libvirt's own domains through the whole program: a guest without a request is unchanged, and the XML of a guest with
//! a request keeps every original byte.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test program that prints its counts")]

#[path = "support/corpus.rs"]
mod corpus;
#[expect(dead_code, reason = "only the fuzz target uses its entry point")]
#[path = "../fuzz/properties/domain.rs"]
mod domain;
#[path = "support/program.rs"]
mod program;
#[path = "support/sandbox.rs"]
mod sandbox;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use corpus::documents;
use domain::{check_prefilter, hosts, is_kept, rewritten};
use program::{VIOMMU, run};
use viommu::config::Config;
use viommu::hook::{self, Effect, Event};
use viommu::host::probe::Places;
use viommu::request::{Keys, Source};

/// Every event of the hook, and two that libvirt does not have.
const EVENTS: [(&str, &str, &str); 10] = [
    ("prepare", "begin", "-"),
    ("start", "begin", "-"),
    ("started", "begin", "-"),
    ("stopped", "end", "-"),
    ("release", "end", "destroyed"),
    ("migrate", "begin", "-"),
    ("restore", "begin", "-"),
    ("reconnect", "begin", "-"),
    ("attach", "begin", "-"),
    ("dance", "begin", "-"),
];

/// Files of a host without facts.
fn nowhere() -> Places {
    let nowhere = PathBuf::from("/nonexistent");
    Places {
        sysfs: nowhere.clone(),
        devices: nowhere.clone(),
        capabilities: nowhere.clone(),
        networks: [nowhere.clone(), nowhere],
        memory: || None,
    }
}

#[test]
fn guests_without_a_request_are_not_changed() {
    let mut effects = BTreeMap::new();
    let documents = documents();
    for (path, text) in &documents {
        for (operation, sub_operation, extra) in EVENTS {
            let event = Event::of(operation, sub_operation);
            let outcome = hook::decide(event, extra, text.as_bytes(), Ok(Config::default()), &|domain| {
                nowhere().host_for(domain)
            });
            let what = format!("{} at {operation}: {outcome:?}", path.display());
            assert!(outcome.refusal.is_none() && outcome.print.is_none(), "{what}");
            if viommu::xml::parse(text.as_bytes()).is_ok() {
                check_prefilter(text, event);
            }
            for effect in &outcome.effects {
                // A start leaves nothing behind, and an end removes leftovers of any origin.
                assert!(matches!(effect, Effect::RemoveState(_) | Effect::Forget(_)), "{what}");
                *effects.entry((operation, matches!(effect, Effect::Forget(_)))).or_insert(0) += 1;
            }
        }
    }
    println!("{} domains at {} events; removals: {effects:?}", documents.len(), EVENTS.len());
}

#[test]
fn the_hook_prints_nothing_without_a_request() {
    if !sandbox::inside("the_hook_prints_nothing_without_a_request") {
        return;
    }
    let hook = sandbox::hook();
    let documents = documents();
    // Each domain and event needs a process. Threads share the work among the processors.
    let share = documents.len().div_ceil(thread::available_parallelism().unwrap().get()).max(1);
    thread::scope(|scope| {
        let hook = &hook;
        for documents in documents.chunks(share) {
            scope.spawn(move || {
                for (path, text) in documents {
                    for (operation, sub_operation, extra) in EVENTS {
                        let ran = run(hook, &["corpus", operation, sub_operation, extra], text.as_bytes());
                        let silent = ran.status == 0 && ran.stdout.is_empty() && ran.stderr.is_empty();
                        assert!(silent, "{} at {operation}: {ran:?}", path.display());
                    }
                }
            });
        }
    });
    assert!(!Path::new("/run/viommu").exists() && !Path::new("/var/lib/viommu").exists());
    println!("{} domains at {} events", documents.len(), EVENTS.len());
}

#[test]
fn a_request_keeps_every_byte_of_the_document() {
    let documents = documents();
    let mut counted: BTreeMap<(&str, &str, String), usize> = BTreeMap::new();
    for (path, text) in &documents {
        for (host_name, host) in &hosts() {
            for (request, locked_memory) in
                [("intel", None), ("virtio", None), ("smmuv3", None), ("auto", None), ("auto", Some(true))]
            {
                let keys = Keys { model: Some(request.to_owned()), locked_memory, ..Keys::of(Source::Cli) };
                let what = format!("{} with {request} on {host_name}", path.display());
                let request = if locked_memory.is_some() { "auto, locked" } else { request };
                *counted.entry((host_name, request, rewritten(&what, text, &keys, host))).or_default() += 1;
            }
        }
    }
    for ((host, request, result), number) in &counted {
        println!("{host:13} {request:13} {result:32} {number:5}");
    }
    // The corpus has 85 q35 and 56 Arm virt domains. Without these minimums the test would pass if viommu refused all
    // of them.
    for (request, least) in [("intel", 60), ("virtio", 20), ("smmuv3", 40), ("auto", 110), ("auto, locked", 1)] {
        let rewritten = counted.get(&("libvirt 12.8", request, "rewritten".to_owned())).copied().unwrap_or(0);
        assert!(documents.is_empty() || rewritten >= least, "{rewritten} rewritten for {request}");
    }
}

#[test]
fn the_program_does_the_same() {
    let mut counted: BTreeMap<i32, usize> = BTreeMap::new();
    for (path, text) in documents().iter().step_by(24) {
        let what = path.display();
        let same = run(VIOMMU, &["rewrite", "--model", "none"], text.as_bytes());
        assert!(same.status == 0 && same.stdout == *text && same.stderr.is_empty(), "{what}: {}", same.stderr);
        for model in ["intel", "virtio", "smmuv3", "auto"] {
            let first = run(VIOMMU, &["rewrite", "--model", model], text.as_bytes());
            *counted.entry(first.status).or_default() += 1;
            match first.status {
                0 => {
                    assert!(is_kept(text, &first.stdout) && first.stderr.is_empty(), "{what}: {first:?}");
                    let second = run(VIOMMU, &["rewrite", "--model", model], first.stdout.as_bytes());
                    assert!(second.status == 0 && second.stdout == first.stdout, "{what}: {second:?}");
                }
                1 => {
                    assert!(first.stdout.is_empty() && first.stderr.starts_with("viommu: error["), "{what}: {first:?}");
                    assert_eq!(first.stderr.lines().count(), 1, "{what}: {first:?}");
                }
                _ => panic!("{what}: {first:?}"),
            }
        }
    }
    println!("exit status and how often: {counted:?}");
}
