//! `apply` and `remove` never lose a later edit, change nothing without a confirmation, and print each change.

use crate::support::libvirt::{Libvirt, Suite, shared};
use crate::support::on_both_suites;
use crate::{BACKUP, UUID, assert_refused, domain, guest, stored};

on_both_suites! {
    an_edit_in_the_meantime_is_not_lost
    the_backup_is_unchanged_and_private
    nothing_is_changed_without_a_confirmation
    apply_prints_when_a_change_takes_effect
    one_that_fails_does_not_stop_the_others
    hostile_names_are_accepted_and_escaped
}

/// A virsh that runs a script before the second dump of a domain, which comes before the definition.
fn edit_in_between(lab: &Libvirt, edit: &str) -> String {
    let script = format!(
        "#!/bin/bash\n[[ $* != *dumpxml* ]] || echo >>/tmp/dumps\n\
         [[ $(cat /tmp/dumps 2>/dev/null | wc -l) != 2 || $* != *dumpxml* ]] || {edit} >/dev/null\nexec /usr/bin/virsh \"$@\"\n"
    );
    lab.put("/tmp/between/virsh", script);
    "rm -f /tmp/dumps; PATH=/tmp/between:$PATH".to_owned()
}

fn an_edit_in_the_meantime_is_not_lost(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = guest(&lab, &domain("edited", "intel"));
    let edit = "/usr/bin/virsh desc edited --config 'by another user'";
    let between = edit_in_between(&lab, edit);
    assert_refused(&lab.run(&format!("{between} viommu apply --yes edited")), "domain-changed", "edited");
    let now = stored(&lab, "edited");
    assert!(now.contains("<description>by another user</description>") && !now.contains("<iommu"), "{now}");
    // The next `apply` reads the current definition, and so does `remove`.
    lab.run("viommu apply --yes edited").ok();
    let applied = stored(&lab, "edited");
    assert!(applied.contains("<iommu model='intel'>") && applied.contains("by another user"), "{applied}");
    let between = edit_in_between(&lab, "/usr/bin/virsh desc edited --config 'by a third user'");
    assert_refused(&lab.run(&format!("{between} viommu remove --yes edited")), "domain-changed", "edited");
    assert_eq!(stored(&lab, "edited"), applied.replace("by another user", "by a third user"));
    drop(guest);
}

fn the_backup_is_unchanged_and_private(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = guest(&lab, &domain("kept", "intel"));
    let began = stored(&lab, "kept");
    assert!(began.contains("passwd='sesame'"), "{began}");
    let printed = lab.run("umask 0; viommu apply --yes kept").ok();
    let file = format!("{BACKUP}/{UUID}.before.xml");
    assert!(printed.contains(&file), "{printed}");
    assert!(!printed.contains("sesame"), "{printed}");
    assert!(stored(&lab, "kept").contains("passwd='sesame'"), "the password must stay");
    assert_eq!(lab.get(&file), began);
    let modes = format!("stat -c '%a %U' /var/lib/viommu {BACKUP} {BACKUP}/{UUID}.*");
    assert_eq!(lab.run(&modes).ok(), "755 root\n700 root\n600 root\n600 root\n");
    // The printed document can be defined by hand.
    assert_eq!(
        lab.run(&format!("virsh -q define {file} && virsh -q dumpxml --inactive --security-info kept")).ok(),
        began
    );
    lab.run("viommu apply --yes kept && viommu remove --yes kept").ok();
    // The backup holds at most three copies of a domain.
    lab.run("for round in 1 2; do viommu apply --yes kept && viommu remove --yes kept || exit; done").ok();
    lab.run("viommu apply --yes kept").ok();
    assert_eq!(lab.run(&format!("ls {BACKUP} | cut -d. -f2- | xargs")).ok(), "applied.xml before.xml removed.xml\n");
    // A directory that other users can read takes no backup, and without a backup `apply` changes nothing.
    lab.run(&format!("viommu remove --yes kept && chmod 755 {BACKUP}")).ok();
    let output = lab.run("viommu apply --yes kept");
    lab.run(&format!("chmod 700 {BACKUP}")).ok();
    assert_refused(&output, "state-unwritable", "kept");
    assert_eq!(stored(&lab, "kept"), began);
    drop(guest);
}

fn nothing_is_changed_without_a_confirmation(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = guest(&lab, &domain("asked", "intel"));
    let began = stored(&lab, "asked");
    let output = lab.run("viommu apply --dry-run asked");
    assert!(output.status == 0 && output.stdout.contains("+    <iommu model='intel'>"), "{output:?}");
    let output = lab.run("viommu apply asked");
    assert_refused(&output, "not-confirmed", "asked");
    assert!(output.stderr.contains("--yes"), "{output:?}");
    assert_eq!(stored(&lab, "asked"), began);
    let terminal =
        |answer: &str| lab.run(&format!("echo {answer} | script -qec 'TERM=xterm viommu apply asked' /dev/null"));
    let printed = terminal("n");
    assert!(printed.status == 1 && printed.stdout.contains("Define asked like this? [y/N]"), "{printed:?}");
    assert!(
        printed.stdout.contains("error[not-confirmed]") && printed.stdout.contains("\x1b[32m+    <iommu"),
        "{printed:?}"
    );
    assert_eq!(stored(&lab, "asked"), began);
    assert_eq!(lab.run(&format!("ls {BACKUP}/{UUID}.*")).stdout, "", "an unchanged domain has no backup");
    assert_eq!(terminal("y").status, 0);
    assert!(stored(&lab, "asked").contains("<iommu model='intel'>"));
    // An unchanged domain needs no confirmation.
    let output = lab.run("viommu apply asked");
    assert_eq!((output.status, output.stdout.as_str()), (0, "asked: nothing to change\n"));
    drop(guest);
}

fn apply_prints_when_a_change_takes_effect(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = guest(&lab, &domain("busy", ""));
    guest.virsh("start", &["--paused"]).ok();
    let printed = lab.run("viommu apply --yes --model intel busy").ok();
    assert!(printed.contains("busy: is running: the change takes effect"), "{printed}");
    assert!(!guest.virsh("dumpxml", &[]).ok().contains("<iommu"), "the running guest is unchanged");
    guest.virsh("managedsave", &[]).ok();
    let printed = lab.run("viommu remove --yes busy").ok();
    assert!(printed.contains("busy: has a saved state, which is restored unchanged"), "{printed}");
    guest.virsh("managedsave-remove", &[]).ok();
    let printed = lab.run("viommu apply --yes --model intel busy").ok();
    assert!(!printed.contains("busy: is "), "{printed}");
    drop(guest);
    // A transient guest has no stored definition; a definition would make it persistent.
    lab.put("/tmp/transient.xml", domain("busy", "intel"));
    let _removed = lab.without_hook();
    lab.run("virsh -q create --paused /tmp/transient.xml").ok();
    let output = lab.run("viommu apply --yes busy");
    lab.run("virsh -q destroy busy; virsh -q list --all | grep -c . || true").ok();
    assert_refused(&output, "domain-transient", "busy");
}

fn one_that_fails_does_not_stop_the_others(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guests: Vec<_> = [("a", "smmuv3"), ("b", "intel"), ("c", ""), ("d", "virtio")]
        .into_iter()
        .map(|(name, model)| {
            lab.guest(&domain(name, model).replace(UUID, &UUID.replace("7b44", &format!("7b4{name}"))))
        })
        .collect();
    let plain = stored(&lab, "c");
    let output = lab.run("viommu apply --all --yes");
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.starts_with("viommu: error[model-arch-mismatch]: a: "), "{output:?}");
    assert!(output.stdout.contains("c: nothing to change"), "{output:?}");
    let has = |name: &str| stored(&lab, name).contains("<iommu model=");
    assert_eq!(["a", "b", "c", "d"].map(has), [false, true, false, true]);
    assert_eq!(stored(&lab, "c"), plain);
    let output = lab.run("viommu apply --yes missing b");
    assert!(output.status == 1 && output.stderr.contains("missing"), "{output:?}");
    assert_eq!(lab.run("viommu apply --yes missing").status, 2);
    // `remove --all` changes only domains that `apply` has changed, not one with its own vIOMMU.
    lab.run("virsh -q dumpxml --inactive c | sed 's|</devices>|<iommu model=\"virtio\"/></devices>|' | virsh define /dev/stdin").ok();
    lab.run("viommu remove --all --yes").ok();
    assert_eq!(["a", "b", "c", "d"].map(has), [false, false, true, false]);
    assert_eq!(lab.run("viommu remove --all --yes").ok(), "no domains, nothing to change\n");
    drop(guests);
}

fn hostile_names_are_accepted_and_escaped(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    // U+009B starts a terminal control sequence, as ESC [ does.
    for name in ["--connect", "-x", "--all", "a;touch pwned", "$(touch pwned)", "a\u{9b}2Jb", "x' --connect 'y"] {
        let guest = guest(&lab, &domain(&name.replace('\'', "&apos;"), "virtio"));
        let quoted = name.replace('\'', r"'\''");
        let began = stored(&lab, name);
        let printed = lab.run(&format!("cd /tmp && viommu apply --yes -- '{quoted}'")).ok();
        assert!(printed.contains(": changed") && !printed.contains('\u{9b}'), "{printed}");
        assert!(stored(&lab, name).contains("<iommu model='virtio'>"), "{name}");
        lab.run(&format!("cd /tmp && viommu remove --yes -- '{quoted}' && ! test -e pwned")).ok();
        assert_eq!(stored(&lab, name), began);
        drop(guest);
    }
}
