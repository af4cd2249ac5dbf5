//! A guest with the wrapper that is restored from a saved image has the vIOMMU of its earlier run, independent of a new
//! decision.

use crate::guests::{
    Arch, CONFIG, MODELS, RECORD, STATE, Viommu, domain, refused_with, start, viommu, viommus, wrapped,
};
use crate::support::libvirt::{Guest, Libvirt, Suite, shared};
use crate::support::on_both_suites;

on_both_suites! {
    restored_guests_keep_their_viommu
    later_decisions_do_not_affect_a_restore
    a_restored_guest_is_recorded_as_it_runs
    a_guest_without_a_viommu_is_restored_without_one
    without_a_record_only_a_named_model_is_restored
    a_failed_restore_can_be_tried_again
    migration_needs_a_named_model
    a_running_guest_is_not_refused
    snapshots_are_restored_with_their_viommu
}

const IMAGE: &str = "/tmp/live.save";

/// Both ways to save a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    File,
    Managed,
}

fn save(guest: &Guest<'_>, way: Way) {
    match way {
        Way::File => guest.virsh("save", &[IMAGE]).ok(),
        Way::Managed => guest.virsh("managedsave", &[]).ok(),
    };
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "shut off");
}

fn restore(lab: &Libvirt, guest: &Guest<'_>, way: Way) {
    match way {
        Way::File => lab.virsh(&["restore", IMAGE]).ok(),
        Way::Managed => guest.virsh("start", &[]).ok(),
    };
    // Running or paused, as before the save.
    assert_ne!(guest.virsh("domstate", &[]).ok().trim(), "shut off");
}

fn restored_guests_keep_their_viommu(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for (arch, model) in MODELS {
        let guest = lab.guest(&wrapped(arch, model));
        guest.virsh("start", &[]).ok();
        let had = viommu(&guest);
        for way in [Way::File, Way::Managed] {
            save(&guest, way);
            restore(&lab, &guest, way);
            assert_eq!(viommu(&guest), had, "{model} {way:?} on {}", suite.name());
        }
    }
}

/// Asserts that a restore is refused with this code; the guest does not run, and its image remains.
#[track_caller]
fn not_restored(lab: &Libvirt, guest: &Guest<'_>, way: Way, code: &str) {
    match way {
        Way::File => {
            let output = lab.virsh(&["restore", IMAGE]);
            assert_ne!(output.status, 0);
            assert!(output.stderr.contains(&format!("viommu: error[{code}]: ")), "{}", output.stderr);
            assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "shut off");
        }
        Way::Managed => {
            refused_with(guest, "start", &[], code);
            assert!(guest.virsh("dominfo", &[]).ok().lines().any(|line| line == "Managed save:   yes"));
        }
    }
}

/// Starts a guest with this configuration, and saves it.
fn saved_under(lab: &Libvirt, guest: &Guest<'_>, config: &str, way: Way) -> Vec<Viommu> {
    let _config = lab.file(CONFIG, config);
    start(guest);
    let had = viommus(guest);
    save(guest, way);
    had
}

const INTEL: &str = "[default]\nmodel = 'intel'\n";
const NARROW: &str = "[default]\nmodel = 'intel'\naw-bits = 39\n";
const VIRTIO: &str = "[default]\nmodel = 'virtio'\n";
const AUTO: &str = "[default]\nmodel = 'auto'\n";
const NOTHING: &str = "";

fn later_decisions_do_not_affect_a_restore(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&domain(Arch::X86, Arch::X86.wrapper(), ""));
    for way in [Way::File, Way::Managed] {
        for (then, now) in
            [(INTEL, NARROW), (NARROW, INTEL), (INTEL, VIRTIO), (VIRTIO, INTEL), (AUTO, INTEL), (INTEL, NOTHING)]
        {
            let had = saved_under(&lab, &guest, then, way);
            assert_eq!(had.len(), 1);
            let _config = lab.file(CONFIG, now);
            restore(&lab, &guest, way);
            assert_eq!(viommus(&guest), had, "{then}, now {now}, {way:?} on {}", suite.name());
            guest.virsh("destroy", &[]).ok();
        }
    }
}

fn a_restored_guest_is_recorded_as_it_runs(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&domain(Arch::X86, Arch::X86.wrapper(), ""));
    let had = saved_under(&lab, &guest, INTEL, Way::File);
    let _config = lab.file(CONFIG, NARROW);
    // The second restore must not use the result of the first decision.
    for _ in 0..3 {
        restore(&lab, &guest, Way::File);
        assert_eq!(viommus(&guest), had, "{}", suite.name());
        save(&guest, Way::File);
    }
}

fn a_guest_without_a_viommu_is_restored_without_one(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&domain(Arch::X86, Arch::X86.wrapper(), ""));
    for now in [INTEL, VIRTIO, NOTHING] {
        // The earlier run with a vIOMMU has ended, and does not describe the saved run.
        let _ = saved_under(&lab, &guest, INTEL, Way::File);
        assert_eq!(saved_under(&lab, &guest, NOTHING, Way::File), []);
        let _config = lab.file(CONFIG, now);
        restore(&lab, &guest, Way::File);
        assert_eq!(viommus(&guest), [], "now {now} on {}", suite.name());
        guest.virsh("destroy", &[]).ok();
    }
}

fn without_a_record_only_a_named_model_is_restored(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for way in [Way::File, Way::Managed] {
        let guest = lab.guest(&wrapped(Arch::X86, "auto"));
        start(&guest);
        let had = viommu(&guest);
        save(&guest, way);
        lab.run(&format!("mv {RECORD} /tmp/record")).ok();
        not_restored(&lab, &guest, way, "migration-mismatch");
        // The image is unchanged.
        lab.run(&format!("mv /tmp/record {RECORD}")).ok();
        restore(&lab, &guest, way);
        assert_eq!(viommu(&guest), had);
        drop(guest);

        for (arch, model) in MODELS.into_iter().filter(|(arch, _)| way == Way::File || *arch == Arch::X86) {
            let guest = lab.guest(&wrapped(arch, model));
            start(&guest);
            let had = viommu(&guest);
            save(&guest, way);
            lab.run(&format!("rm {RECORD}")).ok();
            if model == "intel" {
                // Without KVM eim depends on QEMU's version, which may have been another one then.
                not_restored(&lab, &guest, way, "migration-mismatch");
                continue;
            }
            restore(&lab, &guest, way);
            assert_eq!(viommu(&guest), had, "{model} {way:?} on {}", suite.name());
        }
    }
}

/// After a restore that failed for a temporary reason, the image and the record still exist.
fn a_failed_restore_can_be_tried_again(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "auto"));
    start(&guest);
    let had = viommu(&guest);
    for way in [Way::File, Way::Managed] {
        save(&guest, way);
        {
            // The hook finds the error at every event that can refuse.
            let _config = lab.file(CONFIG, "[broken");
            not_restored(&lab, &guest, way, "config-invalid");
        }
        {
            // Only the wrapper finds the error.
            let damaging = format!("#!/bin/bash\n[ $2 != start ] || rm {STATE}\n");
            let _damaging = lab.file("/etc/libvirt/hooks/qemu.d/90-damage", damaging);
            not_restored(&lab, &guest, way, "state-missing");
        }
        restore(&lab, &guest, way);
        assert_eq!(viommu(&guest), had, "{}", suite.name());
    }
}

/// There is one libvirt here, so the test calls the hook as the destination's libvirt would.
fn migration_needs_a_named_model(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for (arch, model) in [(Arch::X86, "auto"), (Arch::Arm, "auto")].into_iter().chain(MODELS) {
        let guest = lab.guest(&wrapped(arch, model));
        start(&guest);
        // A destination has no state of a guest that does not run there. With KVM every QEMU has eim.
        let output = lab.run(&format!(
            "rm {STATE}
             virsh dumpxml --migratable live | sed \"s/ type='qemu'/ type='kvm'/\" | viommu hook live migrate begin -
             status=$?
             ls {RECORD}
             exit $status"
        ));
        if model == "auto" {
            assert_eq!(output.status, 1);
            assert!(output.stderr.contains("viommu: error[migration-mismatch]: "), "{output:?}");
        } else {
            assert_eq!(output.status, 0, "{output:?}");
            // libvirt would use printed XML as the guest's; and this host's record is from an earlier run.
            assert_eq!(output.stdout, "");
        }
    }
}

/// After a start every error must be harmless, because libvirt kills the guest if the hook fails.
fn a_running_guest_is_not_refused(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    start(&guest);
    lab.virsh(&["dumpxml", "live"]).ok();
    for damage in [
        format!("echo garbage >{STATE}"),
        format!("rm {STATE}"),
        format!("mkdir {STATE}"),
        "rm -rf /var/lib/viommu; touch /var/lib/viommu".to_owned(),
        format!("echo '[broken' >{CONFIG}"),
        "rm /run/libvirt/qemu/live.pid".to_owned(),
    ] {
        let output = lab.run(&format!(
            "cp -a {STATE} /tmp/state; cp -a /run/libvirt/qemu/live.pid /tmp/pid
             {damage}
             virsh dumpxml live | viommu hook live started begin -
             status=$?
             rm -rf {STATE} /var/lib/viommu {CONFIG}; cp -a /tmp/state {STATE}; cp -a /tmp/pid /run/libvirt/qemu/live.pid
             exit $status"
        ));
        assert_eq!((output.status, output.stdout.as_str()), (0, ""), "{damage}: {}", output.stderr);
    }
}

/// An internal snapshot is restored by QEMU's `-loadvm` in libvirt 9.0; libvirt 11.3 loads it through the monitor,
/// which the wrapper does not see.
fn snapshots_are_restored_with_their_viommu(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    if suite != Suite::Bookworm {
        return;
    }
    lab.run("qemu-img create -q -f qcow2 /tmp/live.qcow2 64M && chmod 666 /tmp/live.qcow2").ok();
    let disk = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/tmp/live.qcow2'/>
                  <target dev='vda' bus='virtio'/></disk></devices>";
    let guest = lab.guest(&domain(Arch::X86, Arch::X86.wrapper(), "").replace("</devices>", disk));
    let config = lab.file(CONFIG, INTEL);
    start(&guest);
    let had = viommus(&guest);
    guest.virsh("snapshot-create-as", &["before"]).ok();
    guest.virsh("destroy", &[]).ok();
    drop(config);
    let _config = lab.file(CONFIG, NARROW);
    guest.virsh("snapshot-revert", &["before"]).ok();
    assert_eq!(viommus(&guest), had);
    guest.virsh("destroy", &[]).ok();
    guest.virsh("snapshot-delete", &["before"]).ok();
}
