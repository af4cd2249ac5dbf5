//! Tests the lab itself: the features that the other tests with a real libvirt need, with guests without a request.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

mod support;

use support::libvirt::{Suite, shared};
use support::on_both_suites;

/// A running guest without a boot device: 128 MiB, no disk.
fn x86_64(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
           <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
         </domain>"
    )
}

/// The same on AArch64, with firmware.
fn aarch64(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
           <os firmware='efi'><type arch='aarch64' machine='virt'>hvm</type></os>
           <features><acpi/><gic version='3'/></features><cpu mode='custom'><model>cortex-a57</model></cpu>
         </domain>"
    )
}

on_both_suites! {
    versions_are_those_of_the_suites
    nothing_of_the_machine_is_accessible
    guests_of_both_architectures_start
    hooks_are_called_with_the_domain
    a_hook_that_fails_at_prepare_stops_the_start
    save_and_restore
    guests_outlive_libvirtd
    results_of_definitions_are_separated
    command_lines_are_split_into_words
}

fn versions_are_those_of_the_suites(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let version = lab.run("virsh version --daemon").ok();
    assert!(version.contains(&format!("Running against daemon: {}\n", suite.libvirt())), "{version}");
    assert!(version.contains(&format!("Running hypervisor: QEMU {}.", suite.qemu())), "{version}");
}

fn nothing_of_the_machine_is_accessible(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    assert_eq!(lab.run("ls /sys/class/net").ok(), "lo\n");
    assert_eq!(lab.run("ls /dev/kvm /dev/vfio/[0-9]* 2>/dev/null").stdout, "");
    assert_eq!(lab.run("grep -c cgroup /proc/self/mounts").stdout, "0\n");
    // Only the script's mounts, so that no path except /share leads to the machine's files.
    let mounts = lab.run("cut -d' ' -f2 /proc/self/mounts | sort | xargs").ok();
    assert_eq!(mounts, "/ /dev /dev/pts /dev/shm /proc /run /share /sys /sys/kernel/iommu_groups /tmp\n");
}

fn guests_of_both_architectures_start(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for xml in [x86_64("plain"), aarch64("plain")] {
        let guest = lab.guest(&xml);
        guest.virsh("start", &[]).ok();
        assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
        let pid = lab.get("/run/libvirt/qemu/plain.pid");
        assert!(lab.run(&format!("readlink /proc/{pid}/exe")).ok().starts_with("/usr/bin/qemu-system-"));
        guest.virsh("destroy", &[]).ok();
        assert_eq!(lab.run(&format!("ls -d /proc/{pid}")).stdout, "");
    }
}

fn hooks_are_called_with_the_domain(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    lab.put("/etc/libvirt/hooks/qemu", "#!/bin/bash\necho \"$*\" >>/run/mine.log\n");
    let guest = lab.guest(&x86_64("hooked"));
    lab.hook_log();
    guest.virsh("start", &[]).ok();
    guest.virsh("destroy", &[]).ok();
    // libvirt gives the reason of a release only since 10.5.0 (docs/hooks.rst).
    let reason = if suite == Suite::Bookworm { "-" } else { "destroyed" };
    let events =
        ["prepare begin -", "start begin -", "started begin -", "stopped end -", &format!("release end {reason}")];
    let expected = events.map(|event| format!("hooked {event}"));
    assert_eq!(lab.hook_log(), expected);
    assert_eq!(lab.run("cat /run/mine.log; rm /run/mine.log").ok().lines().collect::<Vec<_>>(), expected);
    let xml = lab.get("/run/hooks/hooked.start.xml");
    assert!(xml.starts_with("<domain type='qemu' id='") && xml.contains("<alias name='pci.1'/>"), "{xml}");
    lab.hook_is_viommu();
}

fn a_hook_that_fails_at_prepare_stops_the_start(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    lab.put("/etc/libvirt/hooks/qemu", "#!/bin/bash\n[ $2 != prepare ] || { echo 'not this one' >&2; exit 7; }\n");
    let guest = lab.guest(&x86_64("refused"));
    let output = guest.virsh("start", &[]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("Failed to start domain 'refused'"), "{}", output.stderr);
    assert!(output.stderr.contains("/etc/libvirt/hooks/qemu refused prepare begin -"), "{}", output.stderr);
    assert!(output.stderr.contains("unexpected exit status 7: not this one"), "{}", output.stderr);
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "shut off");
    lab.hook_is_viommu();
}

fn save_and_restore(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&x86_64("saved"));
    guest.virsh("start", &[]).ok();
    lab.hook_log();
    guest.virsh("save", &["/tmp/saved"]).ok();
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "shut off");
    lab.virsh(&["restore", "/tmp/saved"]).ok();
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
    let events = lab.hook_log();
    let operations: Vec<&str> = events.iter().map(|event| event.split(' ').nth(1).unwrap()).collect();
    assert_eq!(operations, ["stopped", "release", "restore", "prepare", "start", "started"]);
}

fn guests_outlive_libvirtd(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&x86_64("kept"));
    guest.virsh("start", &[]).ok();
    let pid = lab.get("/run/libvirt/qemu/kept.pid");
    let daemon = lab.get("/run/lab-libvirtd.pid");
    lab.hook_log();
    lab.restart_libvirtd();
    assert_ne!(lab.get("/run/lab-libvirtd.pid"), daemon);
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
    assert_eq!(lab.get("/run/libvirt/qemu/kept.pid"), pid);
    // libvirtd reconnects to its guests in threads, and does not wait for them.
    lab.wait_for("grep -q reconnect /run/hooks.log");
    assert_eq!(lab.hook_log(), ["kept reconnect begin -"]);
}

fn results_of_definitions_are_separated(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let good = x86_64("it's <one> & \"same\"").replace("<one> &", "&lt;one&gt; &amp;");
    let bad = good.replace("q35", "pc").replace("<vcpu>", "<devices><iommu model='intel'/></devices><vcpu>");
    let verdicts = lab.define_many(&[good.as_str(), &bad, "<domain>", &good, &aarch64("same"), &bad]);
    let refused =
        Err("unsupported configuration: IOMMU device: 'intel' is only supported with Q35 machines".to_owned());
    assert_eq!(verdicts[0], Ok(()));
    assert_eq!(verdicts[1], refused);
    assert!(verdicts[2].as_ref().is_err_and(|message| message.contains("Premature end of data")), "{verdicts:?}");
    assert_eq!(verdicts[3..], [Ok(()), Ok(()), refused]);
    assert_eq!(lab.virsh(&["list", "--all", "--name"]).ok().trim(), "");
}

fn command_lines_are_split_into_words(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let hostdev = "<devices><hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio'/>
        <source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev></devices></domain>";
    let words = lab.domxml_to_native(&x86_64("it's").replace("</domain>", hostdev)).unwrap();
    assert_eq!(words[..3], ["/usr/bin/qemu-system-x86_64", "-name", "guest=it's,debug-threads=on"]);
    let vfio = words.iter().find(|word| word.contains("vfio-pci")).unwrap();
    assert!(vfio.starts_with(r#"{"driver":"vfio-pci","host":"0000:01:00.0","id":"hostdev0","#), "{vfio}");
    let refused = lab.domxml_to_native(&x86_64("no").replace("<vcpu>1", "<vcpu>5000")).unwrap_err();
    assert!(refused.contains("Maximum CPUs greater than"), "{refused}");
}
