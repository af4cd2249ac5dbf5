//! `viommu apply --route wrapper` changes the emulator.

use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;
use crate::{assert_refused, domain, guest, stored};

on_both_suites! {
    apply_sets_the_wrapper_and_remove_unsets_it
    the_real_emulator_stays_findable
}

const WRAPPER: &str = "/usr/bin/viommu-qemu-system-x86_64";

fn apply_sets_the_wrapper_and_remove_unsets_it(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = guest(&lab, &domain("wrapped", "intel"));
    let began = stored(&lab, "wrapped");
    let usage = lab.run("viommu apply --yes --route wrapper --model intel wrapped");
    assert!(usage.status == 2 && usage.stderr.contains("metadata"), "{usage:?}");
    lab.run("viommu apply --yes --route wrapper wrapped").ok();
    let applied = stored(&lab, "wrapped");
    assert_eq!(applied, began.replace("/usr/bin/qemu-system-x86_64", WRAPPER));
    // QEMU has the vIOMMU that libvirt's XML does not show.
    guest.virsh("start", &["--paused"]).ok();
    let tree = guest.virsh("qemu-monitor-command", &["--hmp", "info qtree"]).ok();
    assert!(tree.contains("dev: intel-iommu"), "{tree}");
    guest.virsh("destroy", &[]).ok();
    // Without `--route` the route does not change.
    let printed = lab.run("viommu apply --yes wrapped").ok();
    assert_eq!(printed, "wrapped: nothing to change (its emulator is the wrapper)\n");
    lab.run("viommu remove --yes wrapped").ok();
    assert_eq!(stored(&lab, "wrapped"), began);

    // A change of the route in each direction, and a removal.
    lab.run("viommu apply --yes wrapped").ok();
    let native = stored(&lab, "wrapped");
    lab.run("viommu remove --yes wrapped && viommu apply --yes --route wrapper wrapped").ok();
    lab.run("viommu apply --yes --route native wrapped").ok();
    assert_eq!(stored(&lab, "wrapped"), native);
    lab.run("viommu remove --yes wrapped").ok();
    assert_eq!(stored(&lab, "wrapped"), began);

    // A domain without a request gets no wrapper: the wrapper refuses each start on a host without the hook.
    lab.run("virsh -q metadata wrapped urn:libvirt-viommu:1 --remove --config").ok();
    let printed = lab.run("viommu apply --yes --route wrapper wrapped").ok();
    assert!(printed.starts_with("wrapped: nothing to change: the domain does not request a vIOMMU"), "{printed}");
    drop(guest);
}

fn the_real_emulator_stays_findable(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let own = "/usr/bin/qemu-of-my-own";
    lab.run(&format!("cp /usr/bin/qemu-system-x86_64 {own}")).ok();
    let guest = guest(&lab, &domain("special", "intel").replace("/usr/bin/qemu-system-x86_64", own));
    let began = stored(&lab, "special");
    let output = lab.run("viommu apply --yes --route wrapper special");
    assert_refused(&output, "emulator-missing", "special");
    assert!(output.stderr.contains(own) && output.stderr.contains("[emulators]"), "{output:?}");
    assert_eq!(stored(&lab, "special"), began);
    let config = lab.file("/etc/viommu.toml", format!("[emulators]\nx86_64 = \"{own}\"\n"));
    lab.run("chmod 644 /etc/viommu.toml; viommu apply --yes --route wrapper special").ok();
    assert!(stored(&lab, "special").contains(WRAPPER));
    lab.run("viommu remove --yes special").ok();
    assert_eq!(stored(&lab, "special"), began);
    drop((guest, config));
    lab.run(&format!("rm {own}")).ok();
}
