//! The hook alone: it refuses a guest whose request is not met, changes no other guest, and never affects a running
//! guest.

use crate::guests::{Arch, CONFIG, MODELS, command_line, domain, driver_of, pid, viommu, viommus, without_numbers};
use crate::guests::{refused_with, start};
use crate::support::libvirt::{Libvirt, Suite, shared};
use crate::support::on_both_suites;

on_both_suites! {
    an_unmet_request_is_refused_until_the_domain_is_rewritten
    save_and_restore_pass_the_filter_unchanged
    a_broken_configuration_fails_no_running_guest
    a_broken_configuration_refuses_only_requests
    a_guest_without_a_request_starts_as_without_the_hook
}

/// A configuration that is not TOML, and one with an unknown key.
const BROKEN: [&str; 2] = ["[default\nmodel = ", "[default]\nmodels = 'intel'\n"];

fn native(arch: Arch, model: &str) -> String {
    domain(arch, arch.real(), &format!("model='{model}'"))
}

/// The operator's commands.
fn rewrite(lab: &Libvirt) {
    lab.run("set -o pipefail; virsh dumpxml --inactive live | viommu rewrite | virsh define /dev/stdin").ok();
}

fn an_unmet_request_is_refused_until_the_domain_is_rewritten(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for (arch, model) in MODELS {
        let guest = lab.guest(&native(arch, model));
        refused_with(&guest, "start", &[], "wrapper-missing");
        let sentence = guest.virsh("start", &[]).stderr;
        assert!(sentence.contains("run 'viommu apply live'"), "{sentence}");

        rewrite(&lab);
        guest.virsh("start", &[]).ok();
        assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
        assert_eq!(viommu(&guest).driver, driver_of(model), "{}", suite.name());
        // QEMU's getter of this property supports no third value, and aborts a guest with a virtio-iommu.
        if model == "smmuv3" {
            let property = r#"{"execute":"qom-get","arguments":{"path":"/machine","property":"iommu"}}"#;
            let answer = guest.virsh("qemu-monitor-command", &[property]).ok();
            assert!(answer.contains(r#""return":"smmuv3""#), "{answer}");
        }
        // The guest's XML now contains the requested vIOMMU, so that a second rewrite changes nothing.
        let defined = guest.virsh("dumpxml", &["--inactive"]).ok();
        rewrite(&lab);
        assert_eq!(guest.virsh("dumpxml", &["--inactive"]).ok(), defined);
    }
}

fn save_and_restore_pass_the_filter_unchanged(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for (arch, model) in MODELS {
        let guest = lab.guest(&native(arch, model));
        rewrite(&lab);
        guest.virsh("start", &[]).ok();
        let (had, xml) = (viommu(&guest), guest.virsh("dumpxml", &[]).ok());
        guest.virsh("save", &["/tmp/live.save"]).ok();
        lab.virsh(&["restore", "/tmp/live.save"]).ok();
        assert_eq!(viommu(&guest), had, "{model} on {}", suite.name());
        // libvirt marks a guest whose XML a hook has replaced.
        assert_eq!(lab.run("grep -c \"<taint flag='hook-script'/>\" /run/libvirt/qemu/live.xml").stdout, "0\n");
        let without_id =
            |xml: &str| xml.split_once(" id='").map(|(_, rest)| rest.split_once('\'').unwrap().1.to_owned());
        let settled = |xml: &str| without_id(xml).unwrap().replace("/domain-1-", "/domain-#-");
        let again = guest.virsh("dumpxml", &[]).ok();
        assert_eq!(settled(&again), settled(&xml), "{model} on {}", suite.name());
    }
}

fn a_broken_configuration_fails_no_running_guest(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for (arch, attributes) in [(Arch::X86, "model='intel'"), (Arch::X86, "")] {
        let guest = lab.guest(&domain(arch, arch.real(), attributes));
        rewrite(&lab);
        guest.virsh("start", &[]).ok();
        let started = pid(&lab);
        for broken in BROKEN {
            let _config = lab.file(CONFIG, broken);
            lab.hook_log();
            lab.restart_libvirtd();
            lab.wait_for("grep -q reconnect /run/hooks.log");
            assert_eq!(lab.hook_log(), ["live reconnect begin -"]);
            assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running", "{broken}");
            assert_eq!(pid(&lab), started);
        }
    }
}

fn a_broken_configuration_refuses_only_requests(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for broken in BROKEN {
        let _config = lab.file(CONFIG, broken);
        let guest = lab.guest(&native(Arch::X86, "intel"));
        refused_with(&guest, "start", &[], "config-invalid");
        drop(guest);
        lab.syslog();
        let guest = lab.guest(&domain(Arch::X86, Arch::X86.real(), ""));
        guest.virsh("start", &[]).ok();
        assert_eq!(viommus(&guest), []);
        // The guest started, and the log contains a message.
        let log = lab.syslog();
        assert!(log.contains(CONFIG), "{log}");
    }
}

fn a_guest_without_a_request_starts_as_without_the_hook(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    // Other tests may have left records.
    let files = || lab.run("ls /run/viommu /var/lib/viommu").stdout;
    let before = files();
    for arch in [Arch::X86, Arch::Arm] {
        let begin = || {
            let guest = lab.guest(&domain(arch, arch.real(), ""));
            start(&guest);
            let events = lab.hook_log();
            (without_numbers(&command_line(&lab)), files(), events)
        };
        lab.hook_log();
        let (without, ..) = {
            let _removed = lab.without_hook();
            begin()
        };
        assert!(without.len() > 20 && without[0] == arch.real(), "{without:?}");
        lab.hook_log();
        for config in ["", "[[domain]]\nname = 'other'\nmodel = 'intel'\n", BROKEN[0], BROKEN[1]] {
            let _config = lab.file(CONFIG, config);
            let (with, left, events) = begin();
            assert_eq!(with, without, "{config}");
            assert_eq!(left, before, "{config}");
            assert!(events.contains(&"live start begin -".to_owned()), "{events:?}");
            lab.hook_log();
        }
    }
}
