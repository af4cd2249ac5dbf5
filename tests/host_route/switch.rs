//! The route's drop-ins for systemd, and the commands that remove them.

use std::fs;

use crate::support::libvirt::{Suite, bare};
use crate::support::on_both_suites;
use crate::{HOOK, ROUTE, host};

on_both_suites! {
    the_drop_ins_keep_the_path_of_the_unit
    the_uninstallation_switches_the_route_off_first
}

/// A stand-in for systemd's commands that the script uses: a unit with its own PATH, and one without.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>/run/systemctl.log
case $* in
show-environment) printf 'LANG=C\nPATH=/usr/bin:/sbin\n' ;;
"show --property Environment --value libvirtd.service") echo 'A=1 PATH=/opt/bin:/usr/bin B=2' ;;
esac
"#;

fn the_drop_ins_keep_the_path_of_the_unit(suite: Suite) {
    let Some(lab) = host(suite) else { return };
    lab.put("/usr/local/bin/systemctl", SYSTEMCTL);
    lab.run("mkdir -p /run/systemd/system").ok();
    let files = "cd /etc/systemd/system; grep -r PATH . | sort";
    let before = lab.run(files).stdout;
    lab.run("viommu host-route on --dry-run").ok();
    assert_eq!(lab.run(files).stdout, before);
    let on = format!(
        "./libvirtd.service.d/zz-viommu-host-route.conf:Environment=PATH={ROUTE}:/opt/bin:/usr/bin\n\
         ./virtqemud.service.d/zz-viommu-host-route.conf:Environment=PATH={ROUTE}:/usr/bin:/sbin\n"
    );
    for _ in 0..2 {
        let printed = lab.run("viommu host-route on").ok();
        assert!(printed.contains("until: systemctl restart libvirtd"), "{printed}");
        assert_eq!(lab.run(files).ok(), on);
    }
    assert_eq!(lab.run("grep -c daemon-reload /run/systemctl.log").ok(), "2\n");
    let printed = lab.run("viommu host-route status").ok();
    assert!(printed.contains("libvirtd.service: on") && printed.contains(": off\n"), "{printed}");
    // A removal of the hook also switches the route off.
    lab.run("/usr/lib/libvirt-viommu/attach --undo").ok();
    assert_eq!(lab.run(files).stdout, before);
    assert_eq!(lab.run("viommu host-route on; viommu host-route off").status, 0);
    assert_eq!(lab.run(files).stdout, before);
    assert_eq!(lab.run(&format!("readlink {HOOK}")).ok(), "/usr/bin/viommu\n");
    // Only root may switch it.
    let printed = lab.run("setpriv --reuid 65534 --clear-groups viommu host-route on");
    assert_eq!(printed.status, 2, "{printed:?}");
}

fn the_uninstallation_switches_the_route_off_first(suite: Suite) {
    const DROP_INS: &str = "find /etc/systemd/system -name zz-viommu-host-route.conf";
    let Some(lab) = bare(suite) else { return };
    let copy = "cp -r install.sh hooks examples docs man completions packaging *.md LICENSE*";
    #[expect(clippy::disallowed_methods, reason = "copies the files that the script installs")]
    let copied =
        std::process::Command::new("sh").args(["-c", &format!("{copy} \"$0\"")]).arg(&lab.share).status().unwrap();
    assert!(copied.success());
    fs::copy(env!("CARGO_BIN_EXE_viommu"), lab.share.join("binary")).unwrap();
    lab.run("cd /share && VIOMMU_BINARY=/share/binary ./install.sh").ok();
    lab.put("/usr/local/bin/systemctl", SYSTEMCTL);
    lab.run("mkdir -p /run/systemd/system; viommu host-route on").ok();
    assert_eq!(lab.run(DROP_INS).ok().lines().count(), 2);
    let printed = lab.run("cd /share && VIOMMU_BINARY=/share/binary ./install.sh --uninstall --dry-run").ok();
    let line = |what: &str| printed.lines().position(|line| line.starts_with("would run: rm ") && line.ends_with(what));
    assert!(line("zz-viommu-host-route.conf").unwrap() < line(HOOK).unwrap(), "{printed}");
    lab.run("cd /share && VIOMMU_BINARY=/share/binary ./install.sh --uninstall").ok();
    assert_eq!(lab.run(DROP_INS).ok(), "");
    assert_ne!(lab.run(&format!("ls {HOOK}")).status, 0);
}
