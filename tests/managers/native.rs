//! Nova's libvirt driver with viommu, and stand-ins for its imports. `tests/lab/nova` runs it in the real Nova.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::{named, sandbox};

/// The part of Nova and oslo.concurrency that the driver uses; prints the domain, or the reason of the refusal.
const NOVA: &str = r#"
import runpy, subprocess, sys, types

class InvalidInput(Exception):
    def __init__(self, reason):
        super().__init__(reason)

class ProcessExecutionError(Exception):
    def __init__(self, stderr):
        super().__init__("the command failed")
        self.stderr = stderr

class LibvirtDriver:
    def _get_guest_xml(self, context, xml=None):
        return xml

def execute(*command, process_input):
    ended = subprocess.run(command, input=process_input.encode(), capture_output=True)
    if ended.returncode:
        raise ProcessExecutionError(ended.stderr.decode())
    return ended.stdout.decode(), ended.stderr.decode()

for name, contents in {
    "nova": {"exception": types.SimpleNamespace(InvalidInput=InvalidInput)},
    "nova.virt.libvirt": {"driver": types.SimpleNamespace(LibvirtDriver=LibvirtDriver)},
    "nova.virt": {},
    "oslo_concurrency": {"processutils": types.SimpleNamespace(execute=execute, ProcessExecutionError=ProcessExecutionError)},
}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(contents)
driver = runpy.run_path("examples/nova/viommu.py")["Driver"]()
try:
    sys.stdout.write(driver._get_guest_xml("context", xml=sys.stdin.read()))
except InvalidInput as refusal:
    print("refused:", refusal)
"#;

fn instance(extra_spec: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'><name>instance-00000001</name><memory>1048576</memory><vcpu>1</vcpu>
           <metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:flavor name='f'><n:extraSpecs>{extra_spec}
             </n:extraSpecs></n:flavor></n:instance></metadata>
           <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>{devices}</devices></domain>"
    )
}

fn passed(xml: &str, path: &str) -> String {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", NOVA]).env("PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
    String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn novas_driver_passes_each_domain_through_the_filter() {
    if !sandbox::inside("native::novas_driver_passes_each_domain_through_the_filter") {
        return;
    }
    let viommu = named("bin/viommu");
    let path = viommu.parent().unwrap().to_str().unwrap();
    let plain = instance("", "");
    assert_eq!(passed(&plain, path), plain);
    let driver = "<driver intremap='on' caching_mode='on' aw_bits='48' eim='on' iotlb='on'/>";
    let of_nova = instance(
        "<n:extraSpec name='hw:viommu_model'>virtio</n:extraSpec>",
        &format!("<iommu model='virtio'>{driver}</iommu>"),
    );
    let repaired = passed(&of_nova, path);
    assert!(repaired.contains("<iommu model='virtio'") && !repaired.contains("<driver"), "{repaired}");
    let arm =
        of_nova.replace("arch='x86_64' machine='q35'", "arch='aarch64' machine='virt'").replace("'virtio'", "'smmuv3'");
    let arm = arm.replace(">virtio<", ">smmuv3<").replace("<features>", "<features><ioapic driver='qemu'/>");
    let repaired = passed(&arm, path);
    assert!(repaired.contains("<iommu model='smmuv3'"), "{repaired}");
    assert!(!repaired.contains("<driver") && !repaired.contains("<ioapic"), "{repaired}");
    let own = passed(&instance("<n:extraSpec name='viommu:model'>intel</n:extraSpec>", ""), path);
    assert!(own.contains("<iommu model='intel'>"), "{own}");
    let misspelt = passed(&instance("<n:extraSpec name='viommu:modle'>intel</n:extraSpec>", ""), path);
    assert!(misspelt.starts_with("refused: viommu: error[request-conflict]: "), "{misspelt}");
    // Without viommu no instance starts, and the error says so.
    let missing = passed(&plain, "/nonexistent");
    assert!(missing.starts_with("refused: ") && missing.contains("'viommu'"), "{missing}");
}
