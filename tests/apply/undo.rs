//! `remove` after later edits: they stay, and so does each element that viommu did not add.

use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;
use crate::{BACKUP, domain, guest, stored};

on_both_suites! {
    later_edits_survive_a_removal
    a_viommu_of_the_user_stays
    without_a_backup_every_viommu_is_removed
}

/// An edit like virt-xml's: the stored XML through sed.
fn edit(name: &str, sed: &str) -> String {
    format!("virsh -q dumpxml --inactive --security-info {name} | sed '{sed}' | virsh -q define /dev/stdin")
}

fn later_edits_survive_a_removal(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = guest(&lab, &domain("later", "intel"));
    lab.run(&edit("later", "s/>1<.vcpu>/>2<\\/vcpu>/")).ok();
    let edited = stored(&lab, "later");
    lab.run(&edit("later", "s/>2<.vcpu>/>1<\\/vcpu>/")).ok();
    lab.run("viommu apply --yes later").ok();
    lab.run(&edit("later", "s/>1<.vcpu>/>2<\\/vcpu>/")).ok();
    // After a second `apply` with a change, the original is still known.
    lab.run(&edit("later", "s/ aw_bits=.48.//")).ok();
    let printed = lab.run("viommu apply --yes later").ok();
    assert!(printed.contains("set /domain/devices/iommu/driver"), "{printed}");
    lab.run("viommu remove --yes later").ok();
    assert_eq!(stored(&lab, "later"), edited);
    drop(guest);
}

fn a_viommu_of_the_user_stays(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let own = "<features><acpi/><ioapic driver='qemu'/></features><devices><iommu model='intel'><driver intremap='on'/></iommu>";
    let guest =
        guest(&lab, &domain("own", "intel").replace("<features><acpi/></features>", "").replace("<devices>", own));
    let began = stored(&lab, "own");
    lab.run("viommu apply --yes own").ok();
    assert!(stored(&lab, "own").contains("aw_bits='48'"));
    lab.run("viommu remove --yes own").ok();
    assert_eq!(stored(&lab, "own"), began, "added attributes are removed, the rest stays");
    lab.run("viommu apply --yes own && virsh -q desc own --config later").ok();
    lab.run("viommu remove --yes own").ok();
    assert!(stored(&lab, "own").contains("<iommu model='intel'>"));
    drop(guest);
}

fn without_a_backup_every_viommu_is_removed(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = guest(&lab, &domain("bare", "intel"));
    let began = stored(&lab, "bare");
    lab.run(&format!("viommu apply --yes bare && rm -r {BACKUP}")).ok();
    let output = lab.run("viommu remove bare");
    assert!(output.status == 1 && output.stdout.contains("-    <iommu model='intel'>"), "{output:?}");
    lab.run("viommu remove --yes bare").ok();
    assert_eq!(stored(&lab, "bare"), began);
    // `remove` also accepts a domain from which another tool removed the vIOMMU.
    lab.run(&format!("viommu apply --yes bare && {}", edit("bare", "/<iommu/,/<.iommu/d; /<ioapic/d"))).ok();
    assert_eq!(lab.run("viommu remove bare").ok(), "bare: nothing to change\n");
    assert_eq!(stored(&lab, "bare"), began);
    drop(guest);
}
