//! Installs viommu, uses it, upgrades it and removes it: by `install.sh` and by the Debian package. No file may remain,
//! no file of another owner may change, and every guest must still start.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "install/interrupted.rs"]
mod interrupted;
#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs;

use support::libvirt::{Libvirt, Suite, bare};
use support::on_both_suites;
use support::packages::{Packages, packages};

on_both_suites! {
    a_package_is_installed_and_removed_without_a_trace
    the_script_installs_and_uninstalls_without_a_trace
    files_of_other_programs_are_not_changed
    a_hook_of_the_administrator_runs_first
    the_administrator_can_replace_the_main_hook_in_every_way
    install_into_the_main_hook_on_request
    a_dispatcher_of_the_administrator_hides_no_request
}

/// Debian unstable, which shows incompatibilities of the next Debian first.
mod sid {
    use super::Suite;

    #[test]
    fn a_package_is_installed_and_removed_without_a_trace() {
        super::a_package_is_installed_and_removed_without_a_trace(Suite::Sid);
    }

    #[test]
    fn the_script_installs_and_uninstalls_without_a_trace() {
        super::the_script_installs_and_uninstalls_without_a_trace(Suite::Sid);
    }
}

const REAL: &str = "/usr/bin/qemu-system-x86_64";
const WRAPPER: &str = "/usr/bin/viommu-qemu-system-x86_64";
const MAIN: &str = "/etc/libvirt/hooks/qemu";
const OWN: &str = "/etc/libvirt/hooks/qemu.d/50-viommu";
const UUID: &str = "6a1f3c52-0d47-4b8e-9c11-5e2d7f80a913";

/// A guest without a disk, with or without a request for a vIOMMU.
fn domain(emulator: &str, with_request: bool) -> String {
    let metadata = "<metadata><viommu xmlns='urn:libvirt-viommu:1' model='intel'/></metadata>";
    format!(
        "<domain type='qemu'><name>guest</name><uuid>{UUID}</uuid>{}
           <memory unit='MiB'>128</memory><vcpu>1</vcpu>
           <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
           <devices><emulator>{emulator}</emulator></devices>
         </domain>",
        if with_request { metadata } else { "" }
    )
}

/// Starts and ends a guest. Returns whether its QEMU has the vIOMMU.
#[track_caller]
fn start(lab: &Libvirt, xml: &str) -> bool {
    let guest = lab.guest(xml);
    guest.virsh("start", &[]).ok();
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
    let line = lab.run("tr '\\0' ' ' </proc/$(cat /run/libvirt/qemu/guest.pid)/cmdline").ok();
    assert!(line.contains("-uuid"), "{line}");
    line.contains("intel-iommu")
}

/// Asserts all features of a host with viommu.
#[track_caller]
fn guests_start(lab: &Libvirt) {
    assert!(!start(lab, &domain(REAL, false)));
    assert!(start(lab, &domain(WRAPPER, true)));
    lab.put("/tmp/old.xml", domain(REAL, true));
    let rewritten = lab.run("viommu rewrite /tmp/old.xml; rm /tmp/old.xml").ok();
    assert!(rewritten.contains("<iommu model='intel'>"), "{rewritten}");
    assert!(start(lab, &rewritten));
}

/// Waits until libvirtd has loaded the hook, because the script does not wait for the effect of its signal. A guest
/// whose request cannot be met is then refused.
#[track_caller]
fn hook_is_seen(lab: &Libvirt) -> String {
    let guest = lab.guest(&domain(REAL, true));
    lab.wait_for("! virsh -q start guest 2>/run/refusal || { virsh -q destroy guest; false; }");
    drop(guest);
    let refusal = lab.get("/run/refusal");
    assert!(refusal.contains("error[wrapper-missing]"), "{refusal}");
    refusal
}

/// Whether a confined guest may execute the wrapper and read its state, according to the profile that AppArmor's parser
/// compiles.
fn apparmor_knows(lab: &Libvirt) -> bool {
    let profile = lab.run(
        r"printf '#include <tunables/global>\nprofile x {\n#include <abstractions/libvirt-qemu>\n}\n' >/tmp/profile
          apparmor_parser --skip-cache --preprocess /tmp/profile && rm /tmp/profile",
    );
    let profile = profile.ok();
    let rules = ["/usr/bin/viommu rmix,", "/run/viommu/*.json r,"].map(|rule| profile.contains(rule));
    assert_eq!(rules[0], rules[1], "{profile}");
    rules[0]
}

/// All files that an installation could change, with their content. Without libvirt's, dpkg's and virsh's own state.
fn files(lab: &Libvirt) -> String {
    lab.run(
        "set -e
         cd /
         skip=(-path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/libvirt -o -path ./root)
         find . -xdev \\( \"${skip[@]}\" \\) -prune -o ! -type f -printf '%y %m %U:%G %l %p\\n' | sort
         find . -xdev \\( \"${skip[@]}\" \\) -prune -o -type f -printf '%m %U:%G %s %p\\n' | sort
         # What is in /etc may have been edited and put back; a file elsewhere must not even have been written anew.
         find etc -type f -print0 | sort -z | xargs -0 sha256sum
         find usr var/lib/systemd -type f -printf '%T@ %p\\n' | sort
         ls -d run/viommu var/lib/viommu 2>/dev/null || :",
    )
    .ok()
}

#[track_caller]
fn assert_same_files(lab: &Libvirt, before: &str) {
    let after = files(lab);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (before, after) = (lines(before), lines(&after));
    let gone: Vec<_> = before.difference(&after).collect();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
}

/// A release for the lab: the package and the unpacked tarball, in two versions; the second is newer.
fn bring(lab: &Libvirt, packages: &Packages) {
    fs::copy(&packages.deb, lab.share.join("old.deb")).unwrap();
    fs::copy(&packages.tarball, lab.share.join("old.tar.gz")).unwrap();
    // The newer version's binary has an additional byte at its end, which has no effect.
    lab.run(
        "set -e
         mkdir /tmp/old /tmp/new
         tar -xzf /share/old.tar.gz -C /tmp/old --strip-components=1
         cp -a /tmp/old/. /tmp/new
         echo >>/tmp/new/viommu
         (cd /tmp/new && sha256sum $(cut -d' ' -f3 SHA256SUMS) >.sums && mv .sums SHA256SUMS)
         dpkg-deb -R /share/old.deb /tmp/deb
         echo >>/tmp/deb/usr/bin/viommu
         sed -i 's/^Version: .*/Version: 99-1/' /tmp/deb/DEBIAN/control
         sed -i \"s, *[^ ]*  usr/bin/viommu$,$(md5sum </tmp/deb/usr/bin/viommu | cut -d' ' -f1)  usr/bin/viommu,\" \
             /tmp/deb/DEBIAN/md5sums
         dpkg-deb -b /tmp/deb /share/new.deb
         rm -r /tmp/deb",
    )
    .ok();
}

/// Installation, upgrade and removal. The commands must leave only the files that the caller names.
fn live(lab: &Libvirt, install: &str, upgrade: &str, uninstall: &str, purge: &str) {
    let before = files(lab);
    assert!(!apparmor_knows(lab));
    lab.run(install).ok();
    hook_is_seen(lab);
    guests_start(lab);
    assert!(apparmor_knows(lab));

    let installed = files(lab);
    let again = lab.run(install).ok();
    assert!(
        install.starts_with("dpkg") || again.starts_with("The files of this version were installed already."),
        "{again}"
    );
    assert_same_files(lab, &installed);

    // Guests start during the upgrade, and a running guest is unaffected.
    let running = domain(WRAPPER, true).replace("guest", "running").replace("6a1f", "6a20");
    let running = lab.guest(&running);
    running.virsh("start", &[]).ok();
    let guest = lab.guest(&domain(WRAPPER, true));
    let log = lab.run(&format!(
        "set -e
         until [ -e /run/enough ]; do virsh -q start guest; virsh -q destroy guest; echo >>/run/starts; done >/run/loop.log 2>&1 &
         until [ -s /run/starts ]; do sleep 0.1; done
         {upgrade}
         count=$(wc -l </run/starts)
         until [ $(($(wc -l </run/starts) - count)) -ge 2 ]; do kill -0 $!; sleep 0.1; done
         touch /run/enough
         wait $!"
    ));
    assert_eq!(log.status, 0, "{log:?}\n{}", lab.run("cat /run/loop.log").stdout);
    drop(guest);
    guests_start(lab);

    if let Some(without_yes) = uninstall.strip_suffix(" --yes") {
        let (before, refused) = (files(lab), lab.run(without_yes));
        assert!(refused.status == 1 && refused.stderr.contains("guest running has the wrapper"), "{refused:?}");
        assert_same_files(lab, &before);
    }
    let printed = lab.run(uninstall);
    // Guests with the wrapper cannot start any more, so the output names them; the removal does not end a running
    // guest.
    assert!(printed.stderr.contains("guest running cannot start while"), "{printed:?}");
    printed.ok();
    lab.run(purge).ok();
    lab.restart_libvirtd();
    assert_eq!(running.virsh("domstate", &[]).ok().trim(), "running");
    drop(running);
    assert!(!start(lab, &domain(REAL, true)), "without the hook no start is refused");
    assert_same_files(lab, &before);
}

fn a_package_is_installed_and_removed_without_a_trace(suite: Suite) {
    let (Some(packages), Some(lab)) = (packages(), bare(suite)) else { return };
    bring(&lab, packages);
    let newer = "dpkg -i /share/new.deb; [ $(dpkg-query -W -f '${Version}' libvirt-viommu) = 99-1 ]";
    live(&lab, "dpkg -i /share/old.deb", newer, "dpkg -r libvirt-viommu", "dpkg -P libvirt-viommu");

    // An upgrade of QEMU, and a later installation of libvirt, both without viommu's script.
    lab.run("dpkg -i /share/old.deb && rm /etc/libvirt/hooks/qemu.d/50-viommu").ok();
    let probed = || {
        let ask = format!("virsh domcapabilities --emulatorbin {WRAPPER} --machine q35 >/dev/null");
        let cache = format!("grep -l '<emulator>{WRAPPER}<' /var/cache/libvirt/qemu/capabilities/*");
        lab.run(&format!("{ask} && sed -n 's/.*<qemuctime>\\(.*\\)<.*/\\1/p' $({cache}); stat -c %Y /usr/bin/viommu"))
            .ok()
    };
    let before = probed();
    let (before_probe, before_modified) = before.split_once('\n').unwrap();
    let upgrade = |path: &str| format!("dpkg-trigger --no-await --by-package=qemu-system-x86 {path}");
    // libvirt compares times in seconds.
    lab.run(&format!("sleep 1.1; {} && dpkg --triggers-only -a", upgrade(REAL))).ok();
    let after = probed();
    let (after_probe, after_modified) = after.split_once('\n').unwrap();
    assert!(before_probe < after_probe, "libvirt probed at {before_probe} and at {after_probe}");
    assert_eq!(before_modified, after_modified, "the binary was not replaced");
    assert_eq!(lab.run(&format!("readlink {OWN}")).ok(), "/usr/bin/viommu\n");
    lab.run(&format!("rm {OWN}")).ok();
    lab.run(&format!("{} && dpkg --triggers-only -a", upgrade("/etc/libvirt/hooks"))).ok();
    assert_eq!(lab.run(&format!("readlink {OWN}")).ok(), "/usr/bin/viommu\n");
}

fn the_script_installs_and_uninstalls_without_a_trace(suite: Suite) {
    let (Some(packages), Some(lab)) = (packages(), bare(suite)) else { return };
    bring(&lab, packages);
    let (old, new) = ("/tmp/old/install.sh", "/tmp/new/install.sh");
    let before = files(&lab);
    for harmless in ["--help", "--dry-run", "--dry-run --uninstall", "--destdir /share/staged"] {
        lab.run(&format!("{old} {harmless}")).ok();
        assert_same_files(&lab, &before);
    }
    live(&lab, old, new, &format!("{new} --uninstall --yes"), &format!("{new} --purge"));
    assert!(lab.run(&format!("{new} --uninstall")).ok().starts_with("viommu is not installed.\n"));
}

fn files_of_other_programs_are_not_changed(suite: Suite) {
    let (Some(packages), Some(lab)) = (packages(), bare(suite)) else { return };
    bring(&lab, packages);
    let install = || lab.run("/tmp/old/install.sh --no-reload");
    let uninstall = || lab.run("/tmp/old/install.sh --purge");

    // Another program with the same name.
    let others_files = files(&lab);
    lab.run("echo mine >/usr/bin/viommu").ok();
    let before = files(&lab);
    let refused = install();
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("/usr/bin/viommu is there"), "{refused:?}");
    assert!(uninstall().stderr.contains("not installed by this script"));
    assert_same_files(&lab, &before);
    lab.run("rm /usr/bin/viommu").ok();

    // Another program is the hook: the output says what to do.
    lab.run("mkdir /etc/libvirt/hooks/qemu.d; cd /etc/libvirt/hooks; echo mine | tee qemu >qemu.d/50-viommu").ok();
    let before = files(&lab);
    let printed = install();
    assert!(printed.stderr.contains("qemu.d/50-viommu is not viommu's"), "{printed:?}");
    uninstall().ok();
    assert_same_files(&lab, &before);
    lab.run("rm -r /etc/libvirt/hooks/qemu*").ok();

    // A file of a package.
    lab.run("dpkg -i /share/old.deb").ok();
    let before = files(&lab);
    assert!(install().stderr.contains("installed from a package"));
    assert!(uninstall().stderr.contains("not installed by this script"));
    assert_same_files(&lab, &before);
    lab.run("dpkg -P libvirt-viommu").ok();

    // A file that was changed after the installation, and a damaged release.
    install().ok();
    lab.run("echo '# more' >>/usr/lib/tmpfiles.d/viommu.conf").ok();
    assert_eq!(lab.run("/tmp/new/install.sh").status, 1);
    assert!(uninstall().stderr.contains("tmpfiles.d/viommu.conf was changed"));
    assert_eq!(lab.run("rm /usr/lib/tmpfiles.d/viommu.conf; ls /usr/bin/viommu* 2>/dev/null").stdout, "");
    assert_same_files(&lab, &others_files);
    lab.run("echo >>/tmp/old/viommu").ok();
    assert!(install().stderr.contains("this release is damaged"));
    assert_same_files(&lab, &others_files);
}

fn a_hook_of_the_administrator_runs_first(suite: Suite) {
    let (Some(packages), Some(lab)) = (packages(), bare(suite)) else { return };
    bring(&lab, packages);
    let mine = "#!/bin/sh
        [ -e /run/viommu/6a1f3c52-0d47-4b8e-9c11-5e2d7f80a913.json ] && after=' after viommu'
        echo \"$2$after\" >>/run/mine.log
        if [ -e /run/mine.fails ]; then echo 'not today' >&2; exit 1; fi\n";
    lab.put("/etc/libvirt/hooks/qemu", mine);
    let before = files(&lab);
    lab.run("/tmp/old/install.sh").ok();
    assert_eq!(lab.get("/etc/libvirt/hooks/qemu"), mine);

    // libvirt's message distinguishes a failure of this hook from one of viommu's hook.
    let ours = hook_is_seen(&lab);
    assert!(ours.contains("/etc/libvirt/hooks/qemu.d/50-viommu guest prepare"), "{ours}");
    lab.run("touch /run/mine.fails").ok();
    let guest = lab.guest(&domain(WRAPPER, true));
    let refusal = guest.virsh("start", &[]);
    assert!(refusal.stderr.contains("/etc/libvirt/hooks/qemu guest prepare"), "{refusal:?}");
    assert!(refusal.stderr.contains("not today") && !refusal.stderr.contains("error["), "{refusal:?}");

    // viommu wrote the state file at `start`.
    lab.run("rm /run/mine.fails /run/mine.log").ok();
    guest.virsh("start", &[]).ok();
    assert_eq!(lab.get("/run/mine.log"), "prepare\nstart\nstarted after viommu\n");
    drop(guest);

    lab.run("/tmp/old/install.sh --purge").ok();
    assert_same_files(&lab, &before);
}

/// Earlier versions put a link to the binary into the main hook's place. `cp` and `wget -O` write through it.
fn the_administrator_can_replace_the_main_hook_in_every_way(suite: Suite) {
    let (Some(packages), Some(lab)) = (packages(), bare(suite)) else { return };
    bring(&lab, packages);
    lab.put("/tmp/mine", "#!/bin/sh\necho \"$2\" >>/run/mine.log\n");
    let earlier = format!("rm -rf {OWN} {MAIN}; ln -s /usr/bin/viommu {MAIN}");
    let release = ["/tmp/old/install.sh", "/tmp/new/install.sh", "/tmp/new/install.sh --purge"];
    let package = ["dpkg -i /share/old.deb", "dpkg -i /share/new.deb", "dpkg -P libvirt-viommu"];
    for [install, upgrade, remove] in [release, package] {
        for write in [
            format!("cp /tmp/mine {MAIN}"),
            format!("cat /tmp/mine >{MAIN}"),
            format!("cp /tmp/mine {MAIN}.new; mv {MAIN}.new {MAIN}"),
            format!("sed -i.bak 's/x/x/' {MAIN}; cp /tmp/mine {MAIN}; rm -f {MAIN}.bak"),
        ] {
            for end in [format!("{upgrade}; {remove}"), remove.to_owned()] {
                lab.run(&format!("{install} && {earlier} && {write}")).ok();
                // The installed binary may now be the user's script.
                let doctor = lab.run("/tmp/old/viommu doctor").stdout;
                let whole = lab.run("cmp /tmp/mine /usr/bin/viommu").status != 0;
                let message = if whole { "no hook is viommu" } else { "/usr/bin/viommu is another program" };
                assert!(doctor.contains(message) && doctor.contains("[hook-unusable]"), "{write}: {doctor}");
                let printed = lab.run(&end);
                let written = lab.run(&format!("cmp /tmp/mine {MAIN} && [ ! -L {MAIN} ] && [ -x {MAIN} ]"));
                assert_eq!(written.status, 0, "{install}, {write}, {end}: {written:?}\n{printed:?}");
                assert_eq!(
                    lab.run(&format!("ls /usr/bin/viommu {OWN} 2>/dev/null; rm {MAIN}")).stdout,
                    "",
                    "{printed:?}"
                );
            }
        }
        // The script replaces the link instead of writing through it, so that each start has a hook.
        lab.run(&format!("{install} && {earlier}; {upgrade}")).ok();
        assert_eq!(lab.run(&format!("readlink {OWN}; ls {MAIN}")).stdout, "/usr/bin/viommu\n");
        hook_is_seen(&lab);
        lab.run(remove).ok();
    }
}

fn install_into_the_main_hook_on_request(suite: Suite) {
    let (Some(packages), Some(lab)) = (packages(), bare(suite)) else { return };
    bring(&lab, packages);
    let before = files(&lab);
    let copied = format!("[ ! -L {MAIN} ] && cmp {MAIN} /usr/bin/viommu && [ ! -e {OWN} ]");
    lab.run("/tmp/old/install.sh").ok();
    lab.run(&format!("/tmp/old/install.sh --hook {MAIN}; {copied}")).ok();
    hook_is_seen(&lab);
    guests_start(&lab);
    // An upgrade keeps the place, and replaces the copy.
    lab.run(&format!("/tmp/new/install.sh; {copied}")).ok();
    // The administrator's own hook is not replaced.
    lab.run("/tmp/new/install.sh --purge").ok();
    assert_same_files(&lab, &before);
    lab.put(MAIN, "mine");
    let printed = lab.run(&format!("/tmp/old/install.sh --hook {MAIN}"));
    assert!(printed.stderr.contains("hooks/qemu is not viommu's, and stays"), "{printed:?}");
    assert_eq!(lab.get(MAIN), "mine");
    lab.run(&format!("[ -L {OWN} ]; rm {MAIN}; /tmp/old/install.sh --purge")).ok();
    assert_same_files(&lab, &before);
}

/// The dispatcher of VFIO-Tools, shortened: it runs the programs in qemu.d/GUEST/OPERATION/SUB-OPERATION.
const VFIO_TOOLS: &str = r#"#!/bin/bash
set -e
HOOKPATH="$(dirname $0)/qemu.d/$1/$2/$3"
if [ -d "$HOOKPATH" ]; then
    while read file; do
        if [ ! -z "$file" ]; then eval \""$file"\" "$@"; fi
    done <<< "$(find -L "$HOOKPATH" -maxdepth 1 -type f -executable -print;)"
fi
"#;

/// A dispatcher that reads all of stdin and calls viommu at its end, as an earlier version of viommu's documentation
/// recommended.
const DRAINS: &str = "#!/bin/bash\ncat - >/dev/null\necho \"$2\" >>/run/mine.log\nexec viommu hook \"$@\"\n";

fn a_dispatcher_of_the_administrator_hides_no_request(suite: Suite) {
    let (Some(packages), Some(lab)) = (packages(), bare(suite)) else { return };
    bring(&lab, packages);
    let page = include_str!("../docs/install.md");
    let lines = page.split_once("```bash\n").unwrap().1.split_once("```").unwrap().0;
    let first = format!("#!/bin/bash\n{lines}echo \"$2\" >>/run/mine.log\n");
    for (dispatcher, finding, wrapped_starts) in [
        (VFIO_TOOLS, "50-viommu is viommu", true),
        (DRAINS, "which may consume the XML", false),
        (&first, "hooks/qemu is viommu", true),
    ] {
        lab.put(MAIN, dispatcher);
        if dispatcher == VFIO_TOOLS {
            let mine = "#!/bin/sh\necho \"$2\" >>/run/mine.log\n";
            lab.put("/etc/libvirt/hooks/qemu.d/guest/prepare/begin/mine.sh", mine);
        }
        for install in ["/tmp/old/install.sh", "/tmp/new/install.sh"] {
            lab.run(&format!("{install}; rm -f /run/mine.log")).ok();
            let doctor = lab.run("viommu doctor").stdout;
            assert!(doctor.contains(finding), "{doctor}");
            let guest = lab.guest(&domain(REAL, true));
            lab.wait_for("! virsh -q start guest 2>/run/refusal || { virsh -q destroy guest; false; }");
            drop(guest);
            assert!(lab.get("/run/refusal").contains("viommu: error["), "{}", lab.get("/run/refusal"));
            // viommu has decided before the rest of the script runs.
            let acted = lab.run("grep -q prepare /run/mine.log").status == 0;
            assert!(!acted || dispatcher != first, "{dispatcher}");
            let guest = lab.guest(&domain(WRAPPER, true));
            assert_eq!(guest.virsh("start", &[]).status == 0, wrapped_starts);
            drop(guest);
            assert!(!wrapped_starts || start(&lab, &domain(WRAPPER, true)));
            assert!(!start(&lab, &domain(REAL, false)));
            assert!(lab.get("/run/mine.log").contains("prepare"));
            assert_eq!(lab.get(MAIN), dispatcher);
        }
        lab.run("/tmp/new/install.sh --purge").ok();
        assert_eq!(lab.get(MAIN), dispatcher);
        lab.run(&format!("[ -x {MAIN} ]; rm -r /etc/libvirt/hooks/qemu*")).ok();
    }
}
