//! Refusals by the wrapper, each in the output of `virsh start`: a guest never runs without its requested vIOMMU.

use crate::guests::{Arch, CONFIG, STATE, refused_with, viommu, wrapped};
use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;

on_both_suites! {
    without_the_hook_no_wrapped_guest_starts
    a_state_that_is_not_this_guests_own_is_refused
    a_state_directory_of_another_owner_is_refused
    without_the_real_qemu_no_wrapped_guest_starts
}

fn without_the_hook_no_wrapped_guest_starts(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    {
        let _removed = lab.without_hook();
        refused_with(&guest, "start", &[], "state-missing");
    }
    guest.virsh("start", &[]).ok();
    assert_eq!(viommu(&guest).driver, "intel-iommu");
}

/// Changes of a state file between the hook and the wrapper, as bash commands on `$state`.
const DAMAGES: [(&str, &str); 16] = [
    ("state-missing", "rm $state"),
    ("state-invalid", "sed -i 's/\"written\":[0-9]*/\"written\":1/' $state"),
    ("state-invalid", "sed -i 's/\"written\":/&9/' $state"),
    ("state-invalid", "chmod 666 $state"),
    ("state-invalid", "chmod 664 $state"),
    ("state-invalid", "chmod 600 $state"),
    ("state-invalid", "chown libvirt-qemu $state"),
    ("state-invalid", "mv $state /run/viommu/other && ln -s other $state"),
    ("state-invalid", "rm $state && mkdir $state"),
    ("state-invalid", "rm $state && mkfifo -m 644 $state"),
    ("state-invalid", "echo garbage >$state"),
    ("state-invalid", ": >$state"),
    ("state-invalid", "sed -i 's/\"uuid\":\"6a1f3c52/\"uuid\":\"00000000/' $state"),
    ("state-invalid", "sed -i 's/\"format\":1/\"format\":2/' $state"),
    ("state-invalid", "head -c 100000 /dev/zero | tr '\\0' ' ' >>$state"),
    ("state-invalid", "chmod 777 /run/viommu"),
];

fn a_state_that_is_not_this_guests_own_is_refused(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    for (code, damage) in DAMAGES {
        let _damaging = lab.file(
            "/etc/libvirt/hooks/qemu.d/90-damage",
            format!("#!/bin/bash\nstate={STATE}\n[ $2 != start ] || {{ {damage}; }} >&2\n"),
        );
        refused_with(&guest, "start", &[], code);
        lab.run("rm -rf /run/viommu").ok();
    }
    guest.virsh("start", &[]).ok();
    assert_eq!(viommu(&guest).driver, "intel-iommu");
}

fn a_state_directory_of_another_owner_is_refused(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    for place in [
        "mkdir -m 777 /run/viommu",
        "mkdir /run/viommu; chown libvirt-qemu /run/viommu",
        "mkdir -m 755 /run/other; ln -s other /run/viommu",
        "touch /run/viommu",
    ] {
        lab.run(&format!("rm -rf /run/viommu /run/other; {place}")).ok();
        refused_with(&guest, "start", &[], "state-unwritable");
    }
    lab.run("rm -rf /run/viommu /run/other").ok();
}

fn without_the_real_qemu_no_wrapped_guest_starts(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    // The last two would make the wrapper execute itself without an end.
    for path in ["/usr/bin/qemu-system-missing", "/usr/bin", "/etc/passwd", "/usr/bin/viommu", Arch::X86.wrapper()] {
        let _config = lab.file(CONFIG, format!("[emulators]\nx86_64 = '{path}'\n"));
        refused_with(&guest, "start", &[], "emulator-missing");
    }
    guest.virsh("start", &[]).ok();
}
