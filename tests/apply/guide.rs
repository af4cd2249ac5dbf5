//! The commands of docs/guides/virsh.md, with libvirt.

use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;
use crate::{UUID, domain, guest, stored};

on_both_suites! {
    the_guides_commands_have_the_described_results
    a_rule_of_the_host_applies_to_an_emulator_that_terraform_sets
}

const GUIDE: &str = include_str!("../../docs/guides/virsh.md");

/// A replacement for virt-install 4.1.0: it prints the same XML for the options of the guide, as far as libvirt's
/// behaviour depends on it. The real virt-install needs Python and more packages than the test roots have.
const VIRT_INSTALL: &str = "#!/bin/bash
[ \"$*\" = '--name dpdk2 --memory 2048 --vcpus 2 --machine q35 --osinfo linux2022 --disk none --import --print-xml' ] || exit 9
cat <<'XML'
<domain type='qemu'>
  <name>dpdk2</name>
  <memory>2097152</memory>
  <currentMemory>2097152</currentMemory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='qemu-xhci' ports='15'/>
    <controller type='pci' model='pcie-root'/>
    <console type='pty'/>
  </devices>
</domain>
XML
";

fn the_guides_commands_have_the_described_results(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let dpdk = guest(&lab, &domain("dpdk", ""));
    lab.put("/usr/local/bin/virt-install", VIRT_INSTALL);
    let blocks: Vec<&str> =
        GUIDE.split("```sh host\n").skip(1).map(|rest| rest.split_once("```\n").unwrap().0).collect();
    let [apply, remove, both, install] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let run = |block: &str| lab.run(&format!("set -euo pipefail\n{block}")).ok();
    let began = stored(&lab, "dpdk");
    run(apply);
    assert!(stored(&lab, "dpdk").contains("<iommu model='intel'>"));
    run(remove);
    let requesting = stored(&lab, "dpdk");
    assert!(!requesting.contains("<iommu") && requesting.contains("urn:libvirt-viommu:1"), "{requesting}");
    run(&format!("viommu apply --yes dpdk\n{both}"));
    // libvirt 9.0 keeps the empty element.
    assert_eq!(stored(&lab, "dpdk").replace("  <metadata/>\n", ""), began);
    run(install);
    let made = stored(&lab, "dpdk2");
    lab.run("virsh -q destroy dpdk2; virsh -q undefine dpdk2; rm /usr/local/bin/virt-install").ok();
    assert!(made.contains("<iommu model='intel'>"), "{made}");
    drop(dpdk);
}

fn a_rule_of_the_host_applies_to_an_emulator_that_terraform_sets(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let rule = GUIDE.rsplit("```text\n").next().unwrap().split_once("```").unwrap().0;
    let config = lab.file("/etc/viommu.toml", rule);
    lab.run("chmod 644 /etc/viommu.toml").ok();
    let wrapper = "/usr/bin/viommu-qemu-system-x86_64";
    let xml = domain("dpdk-7", "").replace("/usr/bin/qemu-system-x86_64", wrapper);
    let terraformed = guest(&lab, &xml);
    terraformed.virsh("start", &["--paused"]).ok();
    let tree = terraformed.virsh("qemu-monitor-command", &["--hmp", "info qtree"]).ok();
    assert!(tree.contains("dev: intel-iommu"), "{tree}");
    // The step after the definition, for a domain with QEMU's own emulator path.
    drop(terraformed);
    let command = GUIDE.split("command = \"").nth(1).unwrap().split_once('"').unwrap().0;
    let plain = guest(&lab, &domain("dpdk-8", ""));
    lab.run(&command.replace("${libvirt_domain.dpdk.name}", UUID)).ok();
    assert!(stored(&lab, "dpdk-8").contains("<iommu model='intel'>"));
    drop((plain, config));
}
