//! `viommu apply` and `remove` with a script as virsh, for behaviour that needs no libvirt; and a plan for several
//! hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::program::{Ran, VIOMMU, feed, run};
use crate::{EXAMPLE, HOST, NO_CONFIG, assert_refused, assert_unusable, example};

/// A world-accessible directory with a virsh that keeps one domain in a file beside it.
fn desk(test: &str) -> PathBuf {
    let desk = std::env::temp_dir().join(format!("viommu-cli-apply-{}-{test}", std::process::id()));
    let _ = fs::remove_dir_all(&desk);
    fs::create_dir_all(desk.join("bin")).unwrap();
    let script = "#!/bin/sh\ncd \"${0%/*}/..\"\ncase $* in\n*uri) cat uri ;;\n*dumpxml*) cat domain.xml ;;\n\
                  *list*persistent*) [ ! -e stuck ] || { cat stuck >&2; exit 1; }; \
                  grep -o '[0-9a-f-]\\{36\\}' domain.xml | head -1 ;;\n*list*) ;;\n\
                  *define*) [ ! -e broken ] || { cat broken >&2; exit 1; }; cat /dev/stdin >new.xml; mv new.xml domain.xml ;;\nesac\n";
    for (name, content) in [("script", script), ("domain.xml", &example()), ("uri", "qemu:///system\n")] {
        fs::write(desk.join(name), content).unwrap();
        fs::set_permissions(desk.join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::set_permissions(&desk, fs::Permissions::from_mode(0o777)).unwrap();
    program(&desk.join("script"), &desk.join("bin/virsh"));
    program(VIOMMU.as_ref(), &desk.join("viommu"));
    desk
}

/// Copies a program by another process. A child that another test starts could hold this process's writable descriptor
/// for a moment, and the execution would fail with ETXTBSY.
fn program(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

/// Runs viommu, as the user `nobody` if the test runs as root, so that no backup goes to a system directory.
fn viommu(desk: &Path, path: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(desk.join("viommu"));
    command.args(arguments).env("PATH", path).env("HOME", desk.join("home")).env_remove("XDG_STATE_HOME");
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    feed(command.current_dir(desk.join("bin")), b"")
}

fn path(desk: &Path) -> String {
    format!("{}:/usr/bin:/bin", desk.join("bin").display())
}

/// Without a URI an ordinary user's virsh connects to the user's own libvirt, which does not have the system's domains.
#[test]
fn an_ordinary_user_sees_that_the_system_connection_is_used() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can become another user");
        return;
    }
    let desk = desk("user");
    fs::write(desk.join("stuck"), "error: no such domain\n").unwrap();
    let ran = viommu(&desk, &path(&desk), &["apply", "--all", "--yes"]);
    assert_unusable(&ran, "error: no such domain; run it as root, or with --connect qemu:///system");
    let ran = viommu(&desk, &path(&desk), &["apply", "--all", "--yes", "--connect", "qemu:///system"]);
    assert!(ran.status == 2 && !ran.stderr.contains("run it as root"), "{ran:?}");
    fs::remove_dir_all(&desk).unwrap();
}

/// A domain without a request: the message contains a command that a shell accepts for every name.
#[test]
fn apply_shows_how_to_request_a_viommu() {
    let desk = desk("silent");
    let apply = |name: &str, metadata: &str| {
        let from = example().find("<metadata>").unwrap()..example().find("</metadata>").unwrap();
        let mut text = example();
        text.replace_range(from, &format!("<metadata>{metadata}"));
        fs::write(desk.join("domain.xml"), text.replace("<name>dpdk-gateway<", &format!("<name>{name}<"))).unwrap();
        viommu(&desk, &path(&desk), &["apply", "--host", &fs::canonicalize(HOST).unwrap().display().to_string(), "x"])
    };
    let ran = apply("plain", "");
    assert!(ran.status == 0 && ran.stdout.contains("does not request a vIOMMU"), "{ran:?}");
    assert!(ran.stdout.contains("virsh metadata plain urn:libvirt-viommu:1 --key viommu"), "{ran:?}");
    let uuid = "8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93";
    for name in ["a;id", "$(id)", "`id`", "a'b", "-rf", "a b", "a&quot;b", "a&#10;b"] {
        let ran = apply(name, "");
        assert!(ran.stdout.contains(&format!("virsh metadata {uuid} urn:")), "{name}: {ran:?}");
    }
    let ran = apply("near", "<viommu xmlns='urn:libvirt-viommu' model='intel'/>");
    assert!(ran.stdout.contains("warning[request-ignored]") && ran.stdout.contains("'urn:libvirt-viommu'"), "{ran:?}");
    fs::remove_dir_all(&desk).unwrap();
}

#[test]
fn virsh_is_never_run_from_the_working_directory() {
    let desk = desk("path");
    for path in [".", "", "bin:.", "/nonexistent"] {
        let ran = viommu(&desk, path, &["apply", "--yes", "dpdk-gateway"]);
        assert_unusable(&ran, "virsh is not in PATH: install libvirt-clients");
    }
    assert_eq!(fs::read_to_string(desk.join("domain.xml")).unwrap(), example());
    fs::remove_dir_all(desk).unwrap();
}

#[test]
fn an_ordinary_user_has_a_backup_directory() {
    let desk = desk("home");
    let verb = |verb: &str| {
        let host = fs::canonicalize(HOST).unwrap();
        let facts = ["--config", NO_CONFIG, "--host", host.to_str().unwrap()];
        let facts = if verb == "apply" { &facts[..] } else { &[] };
        let ran = viommu(&desk, &path(&desk), &[&[verb, "--yes", "dpdk-gateway"], facts].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.stdout
    };
    let printed = verb("apply");
    let backup = desk.join("home/.local/state/viommu/backup");
    assert!(printed.contains(backup.to_str().unwrap()), "{printed}");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o7777, 0o700);
    assert!(fs::read_to_string(desk.join("domain.xml")).unwrap().contains("<iommu model='intel'>"));
    verb("remove");
    assert_eq!(fs::read_to_string(desk.join("domain.xml")).unwrap(), example());
    fs::remove_dir_all(desk).unwrap();
}

#[test]
fn a_failed_list_of_domains_is_an_error() {
    let desk = desk("stuck");
    fs::write(desk.join("stuck"), "error: Failed to list domains\n").unwrap();
    let host = fs::canonicalize(HOST).unwrap();
    let known = ["apply", "--yes", "dpdk-gateway", "--config", NO_CONFIG, "--host", host.to_str().unwrap()];
    let ran = viommu(&desk, &path(&desk), &known);
    assert!(ran.status == 2 && ran.stderr.contains("Failed to list domains"), "{ran:?}");
    assert_eq!(fs::read_to_string(desk.join("domain.xml")).unwrap(), example());
    fs::remove_dir_all(desk).unwrap();
}

#[test]
fn a_domain_that_libvirt_refuses_is_not_changed() {
    let desk = desk("broken");
    fs::write(desk.join("broken"), "error: XML error: no\n").unwrap();
    let host = fs::canonicalize(HOST).unwrap();
    let known = ["apply", "--yes", "dpdk-gateway", "--config", NO_CONFIG, "--host", host.to_str().unwrap()];
    let ran = viommu(&desk, &path(&desk), &known);
    assert_refused(&ran, "define-refused");
    assert!(ran.stderr.contains("XML error: no"), "{ran:?}");
    assert_eq!(fs::read_to_string(desk.join("domain.xml")).unwrap(), example());
    fs::remove_dir_all(desk).unwrap();
}

#[test]
fn apply_to_another_host_needs_that_hosts_facts() {
    let desk = desk("remote");
    fs::write(desk.join("uri"), "qemu+ssh://root@far/system\n").unwrap();
    let ran = viommu(&desk, &path(&desk), &["apply", "--yes", "--connect", "far", "dpdk-gateway"]);
    assert_unusable(&ran, "qemu+ssh://root@far/system is on another host");
    let host = fs::canonicalize(HOST).unwrap();
    let known = ["apply", "--dry-run", "dpdk-gateway", "--config", NO_CONFIG, "--host", host.to_str().unwrap()];
    assert_eq!(viommu(&desk, &path(&desk), &known).status, 0);
    fs::remove_dir_all(desk).unwrap();
}

#[test]
fn results_keep_the_order_of_the_hosts() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli/place");
    fs::create_dir_all(&directory).unwrap();
    let host = fs::read_to_string(HOST).unwrap();
    let file = |name: &str, content: String| {
        fs::write(directory.join(name), content).unwrap();
        directory.join(name).to_str().unwrap().to_owned()
    };
    let off = file("off.json", host.replace("\"iommu\": true", "\"iommu\": false"));
    let old = file("old.json", host.replace("\"11.3.0\"", "\"8.2.0\""));
    let plan = |hosts: &[&str], more: &[&str]| {
        let mut all = vec!["plan", "--config", NO_CONFIG, EXAMPLE];
        all.extend(hosts.iter().flat_map(|host| ["--host", host]));
        run(VIOMMU, &[&all, more].concat(), b"")
    };
    let ran = plan(&[&off, HOST, &old], &["--model", "virtio"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(lines[0].starts_with(&format!("{off}: no, error[host-unsuitable]: ")), "{ran:?}");
    assert_eq!(lines[1], format!("{HOST}: yes, virtio"));
    assert!(lines[2].starts_with(&format!("{old}: no, error[model-unsupported-by-libvirt]: ")), "{ran:?}");

    let json = plan(&[&off, HOST, &old], &["--model", "virtio", "--format", "json"]).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let suitable: Vec<_> = (0..3).map(|index| json["hosts"][index]["suitable"].as_bool().unwrap()).collect();
    assert_eq!(suitable, [false, true, false]);
    assert_eq!(json["hosts"][2]["reason"]["code"], "model-unsupported-by-libvirt");
    assert_eq!(json["hosts"][1]["plan"]["iommu"]["model"], "virtio");

    // No host can run it.
    assert_eq!(plan(&[&off, &old], &["--model", "virtio"]).status, 1);
    assert_refused(&plan(&[HOST], &["--model", "smmuv3"]), "model-arch-mismatch");
    assert_unusable(&plan(&[HOST, "missing.json"], &[]), "missing.json");
    assert_unusable(&plan(&[HOST, &old], &["--format", "diff"]), "one host");
    assert_unusable(&run(VIOMMU, &["rewrite", "--host", HOST, "--host", &old, EXAMPLE], b""), "several hosts");
}
