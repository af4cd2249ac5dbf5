//! Documents before and after an edit, written by hand: the expected text is that of a manual 'virsh edit'.

use super::*;
use crate::domain::Domain;
use crate::host::Host;
use crate::plan;
use crate::request::{Request, RequestedModel, Source};

fn asks(model: &str) -> Request {
    Request { model: RequestedModel::parse(model).unwrap(), source: Source::Metadata, ..Request::default() }
}

fn rewritten(before: &str, request: &Request) -> Result<Option<String>, Note> {
    let document = xml::parse(before.as_bytes()).unwrap();
    let plan = plan::plan(&Domain::read(&document).unwrap(), request, &Host::default());
    plan.map_err(|refusal| refusal.note).and_then(|plan| rewrite(&document, &plan))
}

/// Checks the result, and that a second edit changes nothing.
#[track_caller]
fn becomes(before: &str, request: &Request, after: &str) {
    assert_eq!(rewritten(before, request).unwrap().as_deref(), Some(after));
    assert_eq!(rewritten(after, request), Ok(None), "not idempotent");
}

#[test]
fn intel_is_added_with_its_io_apic() {
    let before = "<domain type='kvm'>
  <name>g</name>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features>
    <acpi/>
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <memballoon model='none'/>
  </devices>
</domain>
";
    let after = "<domain type='kvm'>
  <name>g</name>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features>
    <acpi/>
    <ioapic driver='qemu'/>
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <memballoon model='none'/>
    <iommu model='intel'>
      <driver intremap='on' eim='on' aw_bits='48'/>
    </iommu>
  </devices>
</domain>
";
    becomes(before, &asks("intel"), after);
}

#[test]
fn virtio_and_smmuv3_have_no_driver_element() {
    let before = "<domain type='kvm'>
  <os firmware='efi'><type arch='ARCH' machine='MACHINE'>hvm</type></os>
  <features><acpi/></features>
  <devices/>
</domain>
";
    let after = "<domain type='kvm'>
  <os firmware='efi'><type arch='ARCH' machine='MACHINE'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <iommu model='MODEL'/>
  </devices>
</domain>
";
    for (model, arch, machine) in
        [("virtio", "x86_64", "q35"), ("virtio", "aarch64", "virt"), ("smmuv3", "aarch64", "virt")]
    {
        let fill = |text: &str| text.replace("ARCH", arch).replace("MACHINE", machine).replace("MODEL", model);
        becomes(&fill(before), &asks(model), &fill(after));
    }
}

#[test]
fn a_requested_width_of_virtio_is_written() {
    let before = "<domain type='kvm'>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
  </devices>
</domain>
";
    let after = "<domain type='kvm'>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <iommu model='virtio'>
      <driver aw_bits='39'/>
    </iommu>
  </devices>
</domain>
";
    becomes(before, &Request { aw_bits: Some(39), ..asks("virtio") }, after);
}

#[test]
fn an_existing_one_is_completed_and_nothing_else_changes() {
    let before = r#"<domain type="kvm">
  <os><type arch="x86_64" machine="q35">hvm</type></os>
  <features><ioapic driver="qemu"/></features>
  <devices>
    <hostdev mode="subsystem" type="pci"><source><address bus="1"/></source><address type="pci" bus="1"/></hostdev>
    <iommu model="intel">  <!-- mine -->
      <driver intremap="on" dma_translation="on" />
      <alias name="iommu0"/>
    </iommu>
  </devices>
</domain>
"#;
    let after = before.replace(" />", " caching_mode='on' eim='on' aw_bits='48' />");
    becomes(before, &asks("auto"), &after);
}

#[test]
fn an_existing_one_without_a_driver_gets_one() {
    let before = "<domain type='kvm'>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features>
    <ioapic driver='qemu'/>
  </features>
  <devices>
    <iommu model='intel'/>
  </devices>
</domain>
";
    let after = "<domain type='kvm'>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features>
    <ioapic driver='qemu'/>
  </features>
  <devices>
    <iommu model='intel'>
      <driver intremap='on' eim='on' aw_bits='48'/>
    </iommu>
  </devices>
</domain>
";
    becomes(before, &asks("intel"), after);
}

#[test]
fn missing_features_come_behind_the_os() {
    let before = "<domain type='kvm'>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <clock offset='utc'/>
  <devices/>
</domain>
";
    let after = "<domain type='kvm'>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features>
    <ioapic driver='qemu'/>
  </features>
  <clock offset='utc'/>
  <devices>
    <iommu model='intel'>
      <driver intremap='on' eim='on' aw_bits='48'/>
    </iommu>
  </devices>
</domain>
";
    becomes(before, &asks("intel"), after);
}

#[test]
fn missing_devices_come_last() {
    let before = "<domain type='kvm'>
  <os><type arch='aarch64' machine='virt'>hvm</type></os>
</domain>
";
    let after = "<domain type='kvm'>
  <os><type arch='aarch64' machine='virt'>hvm</type></os>
  <devices>
    <iommu model='smmuv3'/>
  </devices>
</domain>
";
    becomes(before, &asks("smmuv3"), after);
}

#[test]
fn an_io_apic_without_a_driver_gets_one() {
    let before = "<domain type='kvm'><os><type arch='x86_64' machine='q35'>hvm</type></os><features><ioapic/></features>\
                  <devices><iommu model='intel'><driver intremap='on' eim='on' aw_bits='48'/></iommu></devices></domain>";
    becomes(before, &asks("intel"), &before.replace("<ioapic/>", "<ioapic driver='qemu'/>"));
}

#[test]
fn memory_backing_is_made_behind_the_memory() {
    let locks = Request { locked_memory: true, ..Request::default() };
    let before = "<domain type='kvm'>
  <name>g</name>
  <memory unit='KiB'>1048576</memory>
  <vcpu>1</vcpu>
</domain>
";
    let after = "<domain type='kvm'>
  <name>g</name>
  <memory unit='KiB'>1048576</memory>
  <memoryBacking>
    <locked/>
  </memoryBacking>
  <vcpu>1</vcpu>
</domain>
";
    becomes(before, &locks, after);
    let current = |text: &str| {
        let memory = "<memory unit='KiB'>1048576</memory>\n";
        text.replace(memory, &format!("{memory}  <currentMemory>1048576</currentMemory>\n"))
    };
    becomes(&current(before), &locks, &current(after));
}

#[test]
fn existing_memory_backing_is_extended_in_novas_order() {
    // From Nova's test_config_memory_backing: hugepages, nosharepages, locked.
    let before = "<domain type='kvm'>
  <memoryBacking>
    <hugepages/>
  </memoryBacking>
</domain>
";
    let after = "<domain type='kvm'>
  <memoryBacking>
    <hugepages/>
    <nosharepages/>
    <locked/>
  </memoryBacking>
</domain>
";
    let request = Request { locked_memory: true, lock_implied: true, nosharepages: true, ..Request::default() };
    becomes(before, &request, after);
}

#[test]
fn one_line_stays_one_line() {
    becomes(
        "<domain type='kvm'><os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>",
        &asks("intel"),
        "<domain type='kvm'><os><type arch='x86_64' machine='q35'>hvm</type></os><features><ioapic driver='qemu'/></features>\
         <devices><iommu model='intel'><driver intremap='on' eim='on' aw_bits='48'/></iommu></devices></domain>",
    );
}

#[test]
fn line_ends_do_not_change() {
    let before = "<?xml version='1.0'?>\r\n<domain type='kvm'>\r\n  <os><type arch='aarch64' machine='virt'>hvm</type></os>\r\n  \
                  <devices>\r\n  </devices>\r\n</domain>\r\n";
    let after = before.replace("  </devices>", "    <iommu model='smmuv3'/>\r\n  </devices>");
    becomes(before, &asks("smmuv3"), &after);
}

#[test]
fn nothing_to_change_is_nothing() {
    let domain = "<domain type='kvm'><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>";
    assert_eq!(rewritten(domain, &Request::default()), Ok(None));
    assert_eq!(rewritten(domain, &asks("intel")).unwrap_err().code, Code::MachineUnsupported);
}

#[test]
fn an_element_of_a_foreign_namespace_is_not_libvirts() {
    let before = "<domain type='kvm'><os><type arch='aarch64' machine='virt'>hvm</type></os>\
                  <devices><iommu xmlns='urn:x'/></devices></domain>";
    let after = before.replace("</devices>", "<iommu model='smmuv3'/></devices>");
    becomes(before, &asks("smmuv3"), &after);
}
