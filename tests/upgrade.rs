//! A host with an earlier version of viommu, running and saved guests, and its own hook is upgraded to this version and
//! downgraded again: real libvirt, real QEMU, and the versions' own installation scripts and packages.

#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test harness; a panic fails the test"
)]

#[path = "live/guests.rs"]
#[allow(dead_code, reason = "tests/live uses the rest")]
mod guests;
#[path = "support/second_host.rs"]
mod second_host;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use guests::{Arch, Viommu, domain, viommus, viommus_in, wrapped};
use second_host::SecondHost;
use support::libvirt::{Guest, Libvirt, Suite, bare};
use support::packages::packages;

/// Its hook is a link in libvirt's main place; its records do not contain the model that `auto` became.
const EARLIER: &str = "957c1dd";

const MAIN: &str = "/etc/libvirt/hooks/qemu";
const OWN: &str = "/etc/libvirt/hooks/qemu.d/50-viommu";
/// The administrator's own hook, which libvirt runs before viommu's.
const USERS: &str = "/etc/libvirt/hooks/qemu.d/20-mine";
const USERS_TEXT: &str = "#!/bin/sh\necho \"$1 $2\" >>/run/mine.log\n";

/// The second host has the earlier version, as its script installs it.
const SECOND_HAS_EARLIER: &str = "mount --bind /share/earlier/viommu usr/bin/viommu
    rm -f etc/libvirt/hooks/qemu.d/50-viommu
    ln -s /usr/bin/viommu etc/libvirt/hooks/qemu";

/// The earlier version, built once; `None` if this clone does not contain it.
fn earlier() -> Option<PathBuf> {
    let lab = std::env::var_os("VIOMMU_LAB").map_or_else(|| Path::new("target/lab").to_owned(), PathBuf::from);
    let directory = lab.join("releases").join(EARLIER);
    let mut script = Command::new("tests/lab/release.sh");
    let output = script.arg(EARLIER).arg(&directory).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Some(directory),
        Some(3) => {
            println!("SKIPPED: {}", printed.trim());
            None
        }
        _ => panic!("{printed}"),
    }
}

/// Puts both versions below /share/earlier and /share/today.
fn bring(lab: &Libvirt, earlier: &Path) {
    let copy = "set -e; mkdir \"$1/earlier\" \"$1/today\"
        cp -a \"$0\"/* \"$1/earlier\"
        cp -a install.sh hooks man completions examples docs ./*.md \"$1/today\"
        cp \"$2\" \"$1/today/viommu\"";
    let mut command = Command::new("sh");
    command.args(["-c", copy]).arg(earlier).arg(&lab.share).arg(env!("CARGO_BIN_EXE_viommu"));
    assert!(command.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
}

/// Runs the installation script of a version.
#[track_caller]
fn install(lab: &Libvirt, version: &str, options: &str) -> String {
    lab.run(&format!("cd /share/{version} && VIOMMU_BINARY=./viommu ./install.sh {options} 2>&1")).ok()
}

/// Waits until libvirtd has loaded the hook, which refuses a guest whose request cannot be met.
#[track_caller]
fn hook_is_seen(lab: &Libvirt, code: &str) {
    let guest = lab.guest(&named(&domain(Arch::X86, Arch::X86.real(), "model='intel'"), "probe", 9));
    lab.wait_for(&format!("virsh -q start probe 2>&1 | grep -qF '[{code}]' || {{ virsh -q destroy probe; false; }}"));
    drop(guest);
}

/// The guest with another name and UUID.
fn named(xml: &str, name: &str, number: u32) -> String {
    let xml = xml.replace("<name>live<", &format!("<name>{name}<"));
    xml.replace("6a1f3c52-", &format!("6a1f3c5{number}-"))
}

#[track_caller]
fn start<'a>(lab: &'a Libvirt, xml: &str) -> (Guest<'a>, Vec<Viommu>) {
    let guest = lab.guest(xml);
    guest.virsh("start", &[]).ok();
    let has = viommus(&guest);
    (guest, has)
}

#[track_caller]
fn runs(guest: &Guest<'_>) {
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running", "{}", guest.name);
}

/// Saves a guest into a file, and restores it.
#[track_caller]
fn restored(lab: &Libvirt, guest: &Guest<'_>) {
    guest.virsh("save", &["/tmp/image"]).ok();
    lab.virsh(&["restore", "/tmp/image"]).ok();
    runs(guest);
}

/// Checks a restored guest, and starts it again.
#[track_caller]
fn starts_again(guest: &Guest<'_>, had: &[Viommu]) {
    assert_eq!(viommus(guest), had, "{}", guest.name);
    guest.virsh("destroy", &[]).ok();
    guest.virsh("start", &[]).ok();
    assert_eq!(viommus(guest), had, "{}", guest.name);
}

/// Starts the guest, rewritten for the native route, with the vIOMMU in libvirt's XML.
#[track_caller]
fn start_native(lab: &Libvirt) -> (Guest<'_>, Vec<Viommu>) {
    lab.put("/tmp/asks.xml", named(&domain(Arch::X86, Arch::X86.real(), "model='intel'"), "up-native", 1));
    let rewritten = lab.run("viommu rewrite /tmp/asks.xml").ok();
    start(lab, &rewritten)
}

/// Migrates a running guest to the second host and back.
#[track_caller]
fn migrates(second: &SecondHost<'_>, guest: &Guest<'_>, had: &[Viommu]) {
    second.take(&guest.name).ok();
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "shut off", "{}", guest.name);
    let tree = second.virsh(&["qemu-monitor-command", &guest.name, "--hmp", "info qtree"]).ok();
    assert_eq!(viommus_in(&tree), had, "{}", guest.name);
    second.give_back(&guest.name).ok();
    runs(guest);
    assert_eq!(viommus(guest), had, "{}", guest.name);
}

/// doctor's findings about the guests.
fn findings(lab: &Libvirt, is_wanted: impl Fn(&serde_json::Value) -> bool) -> Vec<String> {
    let report = lab.run("viommu doctor --format json").stdout;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let wanted = report["checks"].as_array().unwrap().iter().filter(|finding| is_wanted(finding));
    wanted.map(|finding| finding["message"].to_string()).filter(|message| message.contains("up-")).collect()
}

/// Checks a host after the upgrade: the hook is installed, the administrator's own hook is unchanged.
#[track_caller]
fn is_upgraded(lab: &Libvirt) {
    let place = lab.run(&format!("readlink {OWN}; ls -d {MAIN} 2>/dev/null; cat {USERS}")).stdout;
    assert_eq!(place, format!("/usr/bin/viommu\n{USERS_TEXT}"));
    // This host refuses no guest, so doctor may report none.
    assert_eq!(findings(lab, |finding| finding["state"] == "broken"), [""; 0]);
}

#[test]
fn guests_outlive_an_upgrade_and_a_downgrade() {
    let Some(earlier) = earlier() else { return };
    let Some(lab) = bare(Suite::Trixie) else { return };
    bring(&lab, &earlier);
    lab.put(USERS, USERS_TEXT);
    install(&lab, "earlier", "");
    assert_eq!(lab.run(&format!("readlink {MAIN}")).ok(), "/usr/bin/viommu\n");
    hook_is_seen(&lab, "wrapper-missing");

    // In the earlier version's form.
    let native = start_native(&lab);
    let wrapper = start(&lab, &named(&wrapped(Arch::X86, "virtio"), "up-wrapper", 2));
    let plain = start(&lab, &named(&domain(Arch::X86, Arch::X86.real(), ""), "up-plain", 3));
    let saved = start(&lab, &named(&wrapped(Arch::X86, "auto"), "up-saved", 4));
    let managed = start(&lab, &named(&wrapped(Arch::X86, "intel"), "up-managed", 5));
    let counts = [&native, &wrapper, &plain, &saved, &managed].map(|(_, has)| has.len());
    assert_eq!(counts, [1, 1, 0, 1, 1]);
    saved.0.virsh("save", &["/tmp/saved"]).ok();
    managed.0.virsh("managedsave", &[]).ok();
    let states = lab.run("ls /run/viommu/*.json | wc -l").ok();
    assert_ne!(states.trim(), "0");

    install(&lab, "today", "");
    is_upgraded(&lab);
    assert_eq!(lab.run("viommu --version").ok(), lab.run("/share/today/viommu --version").ok());
    lab.restart_libvirtd();
    let second = SecondHost::start(&lab, "", SECOND_HAS_EARLIER);
    for (guest, had) in [&native, &wrapper, &plain] {
        runs(guest);
        assert_eq!(viommus(guest), *had, "{}", guest.name);
        migrates(&second, guest, had);
        restored(&lab, guest);
        starts_again(guest, had);
    }
    lab.virsh(&["restore", "/tmp/saved"]).ok();
    assert_eq!(viommus(&saved.0), saved.1);
    managed.0.virsh("start", &[]).ok();
    assert_eq!(viommus(&managed.0), managed.1);
    // The vIOMMU of these two guests depends on the host: that of `auto`, and intel under TCG.
    let stay = findings(&lab, |finding| finding["name"] == "migration");
    assert!(stay.len() == 1 && stay[0].contains("'viommu explain migration-mismatch'"), "{stay:?}");
    assert!(
        stay[0].contains("up-saved") && stay[0].contains("up-managed") && !stay[0].contains("up-wrapper"),
        "{stay:?}"
    );
    for (guest, _) in [&saved, &managed] {
        let refused = second.take(&guest.name).stderr;
        assert!(refused.contains("error[migration-mismatch]"), "{refused}");
        runs(guest);
    }
    let kvm = "sed \"s/ type='qemu'/ type='kvm'/\"";
    let ask = format!("virsh dumpxml --migratable up-managed | {kvm} | viommu hook up-managed migrate begin - 2>&1");
    assert_eq!(lab.run(&ask).ok(), "");
    drop(second);
    let calls = lab.get("/run/mine.log");
    assert!(calls.contains("up-managed started") && calls.contains("up-wrapper restore"), "{calls}");

    // The steps of a downgrade in docs/install.md.
    saved.0.virsh("save", &["/tmp/saved"]).ok();
    managed.0.virsh("managedsave", &[]).ok();
    lab.put("/etc/viommu.toml", "auto-order = 'specification'\n");
    install(&lab, "today", "--uninstall --yes");
    lab.run("mv /var/lib/viommu/??/*.json /var/lib/viommu/").ok();
    install(&lab, "earlier", "");
    assert_eq!(lab.run(&format!("readlink {MAIN}; ls {OWN} 2>/dev/null")).stdout, "/usr/bin/viommu\n");
    hook_is_seen(&lab, "config-invalid");
    lab.run("rm /etc/viommu.toml").ok();
    hook_is_seen(&lab, "wrapper-missing");
    for (guest, had) in [&native, &wrapper, &plain] {
        runs(guest);
        restored(&lab, guest);
        starts_again(guest, had);
    }
    managed.0.virsh("start", &[]).ok();
    assert_eq!(viommus(&managed.0), managed.1);
    // The record of a guest with `auto` contains a key that the earlier version refuses.
    let refused = lab.virsh(&["restore", "/tmp/saved"]).stderr;
    assert!(refused.contains("error[migration-mismatch]"), "{refused}");
    let model = saved.1[0].driver.split('-').next().unwrap();
    let edit = format!("virsh save-image-dumpxml /tmp/saved | sed \"s/model=.auto./model='{model}'/\" >/tmp/edited");
    lab.run(&format!("{edit}; virsh save-image-define /tmp/saved /tmp/edited")).ok();
    lab.virsh(&["restore", "/tmp/saved"]).ok();
    assert_eq!(viommus(&saved.0), saved.1);
}

/// The same with the Debian packages of both versions, which have the same version number.
#[test]
fn guests_outlive_an_upgrade_and_a_downgrade_of_the_package() {
    let (Some(earlier), Some(packages)) = (earlier(), packages()) else { return };
    let Some(lab) = bare(Suite::Bookworm) else { return };
    for (deb, version) in [(&earlier.join("viommu.deb"), "earlier"), (&packages.deb, "today")] {
        fs::copy(deb, lab.share.join(version).with_extension("deb")).unwrap();
    }
    lab.put(USERS, USERS_TEXT);
    lab.run("dpkg -i /share/earlier.deb").ok();
    assert_eq!(lab.run(&format!("readlink {MAIN}")).ok(), "/usr/bin/viommu\n");
    hook_is_seen(&lab, "wrapper-missing");
    let native = start_native(&lab);
    let wrapper = start(&lab, &named(&wrapped(Arch::X86, "virtio"), "up-wrapper", 2));
    let saved = start(&lab, &named(&wrapped(Arch::X86, "intel"), "up-saved", 4));
    assert_eq!([&native, &wrapper, &saved].map(|(_, has)| has.len()), [1, 1, 1]);
    saved.0.virsh("save", &["/tmp/saved"]).ok();
    let states = || lab.run("cd /run/viommu && sha256sum *.json").ok();
    let before = states();

    lab.run("dpkg -i /share/today.deb").ok();
    is_upgraded(&lab);
    assert_eq!(states(), before);
    lab.restart_libvirtd();
    let all_are_as_before = || {
        for (guest, had) in [&native, &wrapper] {
            runs(guest);
            assert_eq!(viommus(guest), *had, "{}", guest.name);
        }
        lab.virsh(&["restore", "/tmp/saved"]).ok();
        assert_eq!(viommus(&saved.0), saved.1);
    };
    all_are_as_before();
    assert!(lab.get("/run/mine.log").contains("up-saved restore"));

    saved.0.virsh("save", &["/tmp/saved"]).ok();
    lab.run("dpkg -r libvirt-viommu && mv /var/lib/viommu/??/*.json /var/lib/viommu/ && dpkg -i /share/earlier.deb")
        .ok();
    assert_eq!(lab.run(&format!("readlink {MAIN}; ls {OWN} 2>/dev/null")).stdout, "/usr/bin/viommu\n");
    hook_is_seen(&lab, "wrapper-missing");
    lab.restart_libvirtd();
    all_are_as_before();
    assert_eq!(lab.get(USERS), USERS_TEXT);
}
