//! `onDefineDomain` as KubeVirt's sidecar-shim runs it (cmd/sidecars/sidecar_shim.go), with virt-launcher's domain.

use std::fs;

use crate::kept::is_kept;
use crate::program::{Ran, VIOMMU, run};
use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;
use crate::{RECORDED_HOST, named, sandbox, without_kvm};

const DOMAIN: &str = include_str!("../data/virt-launcher.xml");
const VMI: &str = include_str!("../../examples/kubevirt/vmi.json");

/// The versions inside a virt-launcher.
const LAUNCHER: &str = r#"{"arch": "x86_64", "libvirt": "11.3.0", "emulators": [{"version": "10.0.13"}]}"#;

fn on_define_domain(vmi: &str, domain: &str) -> Ran {
    run(named("onDefineDomain"), &["--vmi", vmi, "--domain", domain], b"")
}

/// The instance with these annotations of viommu.
fn requesting(annotations: &str) -> String {
    let vmi = VMI.replace(r#""viommu.libvirt/model": "auto""#, annotations);
    assert!(annotations == r#""viommu.libvirt/model": "auto""# || vmi != VMI);
    vmi
}

#[test]
fn the_annotations_are_the_request() {
    if !sandbox::inside("kubevirt::the_annotations_are_the_request") {
        return;
    }
    fs::write(RECORDED_HOST, LAUNCHER).unwrap();
    for (annotations, added) in [
        (r#""viommu.libvirt/model": "auto""#, "<iommu model='intel'"),
        (r#""viommu.libvirt/model": "auto", "viommu.libvirt/virtio-iommu-driver": "true""#, "<iommu model='virtio'"),
        (r#""viommu.libvirt/model": "intel""#, "intremap='on'"),
        (r#""viommu.libvirt/model": "intel", "viommu.libvirt/aw-bits": "39""#, "aw_bits='39'"),
        (r#""viommu.libvirt/model": "intel", "viommu.libvirt/hotplug": "true""#, "caching_mode='on'"),
        // KubeVirt's interfaces are of the model virtio-non-transitional, with a tap device.
        (r#""viommu.libvirt/model": "intel", "viommu.libvirt/virtio": "on""#, "iommu='on' ats='on'"),
    ] {
        let ran = on_define_domain(&requesting(annotations), DOMAIN);
        let bytes = ran.stdout.replace('"', "'");
        assert!(ran.status == 0 && bytes.contains(added), "{annotations}: {ran:?}");
        assert!(is_kept(DOMAIN, &ran.stdout), "unknown parts stay:\n{}", ran.stdout);
        assert_eq!(
            on_define_domain(&requesting(annotations), &ran.stdout).stdout,
            ran.stdout,
            "a second run changes nothing"
        );
    }
    let lock = r#""viommu.libvirt/model": "intel", "viommu.libvirt/locked-memory": "true""#;
    let bounded =
        DOMAIN.replace("\t<os>", "\t<memoryBacking>\n\t\t<hugepages></hugepages>\n\t</memoryBacking>\n\t<os>");
    let ran = on_define_domain(&requesting(lock), &bounded);
    assert!(ran.stdout.contains("<locked/>") && is_kept(&bounded, &ran.stdout), "{ran:?}");
    assert!(ran.stderr.contains("warning[memlock-in-pod]: <locked/> needs an unlimited"), "{ran:?}");
}

/// Two GPUs behind a vIOMMU need guest memory twice and 1 GiB. KubeVirt 1.8 sets it once and 1 GiB; its overhead, which
/// the ratio multiplies, is at least the 1 GiB for VFIO.
#[test]
fn the_log_has_the_settings_for_the_limit() {
    if !sandbox::inside("kubevirt::the_log_has_the_settings_for_the_limit") {
        return;
    }
    fs::write(RECORDED_HOST, LAUNCHER).unwrap();
    let intel = requesting(r#""viommu.libvirt/model": "intel""#);
    let gib = |number: u64| number << 30;
    let memory = gib(8);
    let ran = on_define_domain(&intel, DOMAIN);
    let message =
        format!("info[memlock-in-pod]: QEMU needs {} bytes of locked memory, and in a pod", 2 * memory + gib(1));
    assert!(ran.stderr.contains(&message), "{ran:?}");
    assert!(ran.stderr.contains("addedOverhead: 8192Mi, ") && ran.stderr.contains(r#"Ratio: "9";"#), "{ran:?}");
    let hotplug = DOMAIN.replacen("\t<os>", "\t<maxMemory slots=\"4\" unit=\"GiB\">32</maxMemory>\n\t<os>", 1);
    let ran = on_define_domain(&intel, &hotplug);
    let message = format!(
        "warning[memlock-in-pod]: QEMU needs {} bytes of locked memory, more than libvirt sets, and",
        2 * gib(32) + gib(1)
    );
    assert!(ran.stderr.contains(&message) && ran.stderr.contains("addedOverhead: 57344Mi, "), "{ran:?}");
    let one = DOMAIN.split_once("<hostdev").zip(DOMAIN.rsplit_once("<hostdev")).unwrap();
    let ran = on_define_domain(&intel, &format!("{}<hostdev{}", one.0.0, one.1.1));
    assert!(ran.status == 0 && !ran.stderr.contains("memlock-in-pod"), "{ran:?}");
}

#[test]
fn a_machine_without_a_request_is_printed_unchanged() {
    if !sandbox::inside("kubevirt::a_machine_without_a_request_is_printed_unchanged") {
        return;
    }
    let plain = requesting(r#""viommu.example/model": "intel""#);
    let none = requesting(r#""viommu.libvirt/model": "none""#);
    for broken in ["", "not = [valid"] {
        fs::write("/etc/viommu.toml", broken).unwrap();
        fs::write(RECORDED_HOST, broken).unwrap();
        for vmi in ["{}", &plain, &none] {
            for domain in [DOMAIN, "<domain", "<domain type='kvm'>\u{e4}</domain>\r\n\r\n"] {
                let ran = on_define_domain(vmi, domain);
                assert_eq!((ran.status, ran.stdout.as_str()), (0, domain), "{vmi}: {}", ran.stderr);
            }
        }
    }
}

#[test]
fn a_request_that_cannot_be_met_prints_no_domain() {
    if !sandbox::inside("kubevirt::a_request_that_cannot_be_met_prints_no_domain") {
        return;
    }
    fs::write(RECORDED_HOST, LAUNCHER).unwrap();
    let i440fx = DOMAIN.replace("q35", "pc");
    let intel = requesting(r#""viommu.libvirt/model": "intel""#);
    for (vmi, domain, message) in [
        (
            requesting(r#""viommu.libvirt/model": "Intel""#),
            DOMAIN,
            "error[model-unknown]: unknown vIOMMU model 'Intel' in the VMI",
        ),
        (
            requesting(r#""viommu.libvirt/modell": "intel""#),
            DOMAIN,
            "error[request-conflict]: unknown key 'viommu.libvirt/modell' in the VMI",
        ),
        (requesting(r#""viommu.libvirt/aw-bits": 40"#), DOMAIN, "error[request-conflict]"),
        (requesting(r#""viommu.libvirt/model": "smmuv3""#), DOMAIN, "error[model-arch-mismatch]"),
        (intel.clone(), i440fx.as_str(), "error[machine-unsupported]"),
        (intel.clone(), "<domain", "error[xml-malformed]"),
        // An empty document hides the request in its metadata.
        ("{}".to_owned(), "", "error[xml-malformed]"),
        ("{".to_owned(), DOMAIN, "viommu: --vmi is not a virtual machine instance"),
    ] {
        let ran = on_define_domain(&vmi, domain);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{message}");
        assert!(ran.stderr.contains(message) && ran.stderr.lines().count() == 1, "{message}: {}", ran.stderr);
    }
    for arguments in [&["--vmi", "{}"][..], &["--domain", DOMAIN], &[], &["plan", DOMAIN]] {
        let ran = run(named("onDefineDomain"), arguments, b"");
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(!ran.stderr.is_empty());
    }
    // An instance with a request is refused if the facts are unreadable.
    fs::write(RECORDED_HOST, "{").unwrap();
    let ran = on_define_domain(&intel, DOMAIN);
    assert!(ran.status == 1 && ran.stderr.contains("error[config-invalid]: /etc/viommu-host.json"), "{ran:?}");
    fs::remove_file(RECORDED_HOST).unwrap();
    let ran = on_define_domain(&intel, DOMAIN);
    assert!(
        ran.status == 0 && ran.stderr.contains("info[host-fact-assumed]"),
        "the output names the assumption: {ran:?}"
    );
}

/// The image is `FROM scratch`: no libraries, no /proc, no /dev.
#[test]
fn nothing_but_the_binary_is_needed() {
    if !sandbox::inside("kubevirt::nothing_but_the_binary_is_needed") {
        return;
    }
    fs::create_dir_all("/run/image/usr/bin").unwrap();
    fs::copy(VIOMMU, "/run/image/usr/bin/onDefineDomain").unwrap();
    let intel = requesting(r#""viommu.libvirt/model": "intel""#);
    let ran = run("chroot", &["/run/image", "/usr/bin/onDefineDomain", "--vmi", &intel, "--domain", DOMAIN], b"");
    assert!(ran.status == 0 && ran.stdout.contains("<iommu"), "{ran:?}");
}

on_both_suites!(libvirt_defines_what_is_printed);

/// As in a virt-launcher: an ordinary user's libvirt, whose capabilities the sidecar cannot read.
fn libvirt_defines_what_is_printed(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    lab.put("/run/domain.xml", without_kvm(DOMAIN));
    for model in ["auto", "intel", "virtio"] {
        lab.put("/run/vmi.json", requesting(&format!(r#""viommu.libvirt/model": "{model}""#)));
        let script = "set -e
            rm -rf /run/pod; mkdir -p /run/pod/run; ln -s /usr/bin/viommu /run/pod/onDefineDomain
            viommu capabilities --format json >/etc/viommu-host.json
            chown -R libvirt-qemu /run/pod; cd /run/pod
            sidecar() { setpriv --reuid libvirt-qemu --clear-groups env PATH=/run/pod:$PATH \"$@\"; }
            sidecar onDefineDomain --vmi \"$(cat /run/vmi.json)\" --domain \"$(cat /run/domain.xml)\" >new.xml
            session() { setpriv --reuid libvirt-qemu --clear-groups env HOME=/run/pod XDG_RUNTIME_DIR=/run/pod/run \\
                virsh -q -c qemu:///session \"$@\"; }
            session define new.xml
            session dumpxml --inactive ml_trainer
            session undefine ml_trainer >&2; rm /etc/viommu-host.json";
        let defined = lab.run(script).ok();
        assert!(defined.contains("<iommu model='") && defined.contains("http://kubevirt.io"), "{model}: {defined}");
        if model == "intel" {
            assert!(defined.contains("caching_mode='on'") && defined.contains("<ioapic driver='qemu'/>"), "{defined}");
        }
    }
    lab.run("pkill -u libvirt-qemu libvirtd");
}
