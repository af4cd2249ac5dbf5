use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

// libvirt's command lines on three real hosts for a domain with <iommu model='intel'>, two VFIO devices and the split
// irqchip, without options that no rule reads. {machine}, {iommu} replace libvirt's own text.

/// libvirt 7.0 for QEMU 5.2: every -device as key=value, the vIOMMU first and without an id.
const LIBVIRT_7_0: &str = "\
    -name guest=s2,debug-threads=on -S -machine pc-q35-5.2,accel=tcg,usb=off,dump-guest-core=off{machine},memory-backend=pc.ram \
    -object memory-backend-ram,id=pc.ram,size=402653184 -overcommit mem-lock=off \
    -uuid 374b1079-5271-47cd-a0ad-2bbac33e9657 -display none -no-user-config -nodefaults \
    -chardev socket,id=charmonitor,fd=30,server,nowait -mon chardev=charmonitor,id=monitor,mode=control \
    -rtc base=utc -no-shutdown -boot strict=on {iommu} \
    -device pcie-root-port,port=0x8,chassis=1,id=pci.1,bus=pcie.0,multifunction=on,addr=0x1 \
    -device pcie-root-port,port=0x9,chassis=2,id=pci.2,bus=pcie.0,addr=0x1.0x1 \
    -add-fd set=1,fd=33 -chardev file,id=charserial0,path=/dev/fdset/1,append=on \
    -device isa-serial,chardev=charserial0,id=serial0 \
    -device vfio-pci,host=0000:01:00.0,id=hostdev0,bus=pci.1,addr=0x0 \
    -device vfio-pci,host=0000:02:00.0,id=hostdev1,bus=pci.2,addr=0x0 \
    -sandbox on,obsolete=deny -msg timestamp=on";

/// libvirt 11.3 for QEMU 10.0: every -device in JSON, the vIOMMU first.
const LIBVIRT_11_3: &str = r#"
    -name guest=s2,debug-threads=on -S -machine pc-q35-10.0,usb=off{machine},dump-guest-core=off,memory-backend=pc.ram,acpi=on
    -accel tcg -object {"qom-type":"memory-backend-ram","id":"pc.ram","size":402653184} -overcommit mem-lock=off
    -uuid 3a21c2ee-5ece-4225-baa4-9a11258f601e -display none -no-user-config -nodefaults
    -chardev socket,id=charmonitor,fd=28,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control
    -rtc base=utc -no-shutdown -boot strict=on {iommu}
    -device {"driver":"pcie-root-port","port":8,"chassis":1,"id":"pci.1","bus":"pcie.0","multifunction":true,"addr":"0x1"}
    -device {"driver":"pcie-root-port","port":9,"chassis":2,"id":"pci.2","bus":"pcie.0","addr":"0x1.0x1"}
    -global ICH9-LPC.noreboot=off -watchdog-action reset
    -device {"driver":"vfio-pci","host":"0000:01:00.0","id":"hostdev0","bus":"pci.1","addr":"0x0"}
    -device {"driver":"vfio-pci","host":"0000:02:00.0","id":"hostdev1","bus":"pci.2","addr":"0x0"}
    -sandbox on,obsolete=deny -msg timestamp=on"#;

/// libvirt 12.8 for QEMU 11.1: the vIOMMU comes after the root ports, and the monitor is an -object.
const LIBVIRT_12_8: &str = r#"
    -name guest=s2,debug-threads=on -S -machine pc-q35-11.1,usb=off{machine},dump-guest-core=off,memory-backend=pc.ram,acpi=on
    -accel tcg -object {"qom-type":"memory-backend-ram","id":"pc.ram","size":402653184} -overcommit mem-lock=off
    -uuid 89cf2fa1-89fb-4df9-ae72-dc215db504b5 -display none -no-user-config -nodefaults
    -chardev socket,id=charmonitor,fd=27,server=on,wait=off
    -object {"qom-type":"monitor-qmp","id":"monitor","chardev":"charmonitor"} -rtc base=utc -no-shutdown -boot strict=on
    -device {"driver":"pcie-root-port","port":8,"chassis":1,"id":"pci.1","bus":"pcie.0","multifunction":true,"addr":"0x1"}
    -device {"driver":"pcie-root-port","port":9,"chassis":2,"id":"pci.2","bus":"pcie.0","addr":"0x1.0x1"} {iommu}
    -device {"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}
    -device {"driver":"vfio-pci","host":"0000:01:00.0","id":"hostdev0","bus":"pci.1","addr":"0x0"}
    -device {"driver":"vfio-pci","host":"0000:02:00.0","id":"hostdev1","bus":"pci.2","addr":"0x0"}
    -sandbox on,obsolete=deny -msg timestamp=on"#;

const SAMPLES: [&str; 3] = [LIBVIRT_7_0, LIBVIRT_11_3, LIBVIRT_12_8];
const TEXT_IOMMU: &str = "intel-iommu,intremap=on,caching-mode=on,aw-bits=48";
const JSON_IOMMU: &str = r#"{"driver":"intel-iommu","id":"iommu0","intremap":"on","caching-mode":true,"aw-bits":48}"#;

/// A sample with these values inserted: none of its arguments contains a blank.
fn sample(text: &str, machine: &str, iommu: &str) -> Vec<OsString> {
    text.replace("{machine}", machine).replace("{iommu}", iommu).split_whitespace().map(OsString::from).collect()
}

fn words(text: &str) -> Vec<OsString> {
    sample(text, "", "")
}

fn added(device: &str) -> Edits {
    Edits { devices: vec![device.to_owned()], ..Edits::default() }
}

fn machine(key: &str, value: &str) -> Edits {
    Edits { machine: [(key.to_owned(), value.to_owned())].into(), ..Edits::default() }
}

fn existing(properties: &[(&str, &str)]) -> Edits {
    let existing = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Edits { existing, ..Edits::default() }
}

fn rewritten(arguments: &[OsString], edits: &Edits) -> Vec<OsString> {
    rewrite(arguments, edits).unwrap()
}

fn code(arguments: &[OsString], edits: &Edits) -> Code {
    rewrite(arguments, edits).unwrap_err().code
}

/// The sorted keys of `-machine` and the list of devices: QEMU's view, without the order that it ignores.
fn seen_by_qemu(arguments: &[OsString]) -> (Vec<String>, Vec<Device>) {
    let machine: String =
        arguments::values(arguments, &["machine"]).map(|(_, value)| value.to_str().unwrap()).collect();
    let mut keys: Vec<_> = machine.split(',').map(str::to_owned).collect();
    keys.sort();
    (keys, iommu::devices(arguments).map(|(_, device)| device).collect())
}

#[test]
fn nothing_to_change_changes_nothing() {
    for text in SAMPLES {
        let arguments = words(text);
        assert_eq!(rewrite(&arguments, &Edits::default()).unwrap(), arguments);
    }
}

// The acceptance criterion: a start without <iommu> becomes libvirt's command line with it.
#[test]
fn added_vtd_equals_the_native_one() {
    for (text, device) in [(LIBVIRT_7_0, TEXT_IOMMU.to_owned()), (LIBVIRT_11_3, format!("{TEXT_IOMMU},id=iommu0"))] {
        let native = if text == LIBVIRT_7_0 { TEXT_IOMMU } else { JSON_IOMMU };
        let native = sample(text, ",kernel_irqchip=split", &format!("-device {native}"));
        let edits = Edits { devices: vec![device], ..machine("kernel_irqchip", "split") };
        let ours = rewritten(&words(text), &edits);
        assert_eq!(seen_by_qemu(&ours), seen_by_qemu(&native));
        assert_eq!(ours.len(), native.len());
    }
}

#[test]
fn only_the_machine_changes_and_only_two_arguments_come() {
    for text in SAMPLES {
        let before = words(text);
        let edits = Edits { devices: vec![TEXT_IOMMU.to_owned()], ..machine("kernel_irqchip", "split") };
        let after = rewritten(&before, &edits);
        let first = before.iter().position(|word| word == "-device").unwrap();
        assert_eq!(after[first], "-device");
        assert_eq!(after[first + 1], TEXT_IOMMU);
        let mut rest = after;
        rest.drain(first..first + 2);
        let changed: Vec<_> = before.iter().zip(&rest).filter(|(old, new)| old != new).collect();
        assert_eq!(before.len(), rest.len());
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].1.to_str().unwrap(), format!("{},kernel_irqchip=split", changed[0].0.to_str().unwrap()));
    }
}

#[test]
fn devices_keep_their_order_and_get_their_slot() {
    let edits = Edits { devices: vec!["a".to_owned(), "b".to_owned()], ..Edits::default() };
    assert_eq!(
        rewritten(&words("-name -device --device c -device d"), &edits),
        words("-name -device -device a -device b --device c -device d")
    );
    assert_eq!(rewritten(&words("-S -M q35"), &edits), words("-S -M q35 -device a -device b"));
}

#[test]
fn virtio_gets_the_highest_free_slot() {
    for text in SAMPLES {
        let result = rewrite(&words(text), &added("virtio-iommu-pci,id=ua-viommu0,bus=pcie.0")).unwrap();
        assert!(result.contains(&"virtio-iommu-pci,id=ua-viommu0,bus=pcie.0,addr=0x1e".into()));
    }
    let result = rewrite(&words("-device e1000e,bus=pcie.0,addr=1e.0"), &added("virtio-iommu,bus=pcie.0")).unwrap();
    assert_eq!(result, words("-device virtio-iommu,bus=pcie.0,addr=0x1d -device e1000e,bus=pcie.0,addr=1e.0"));
}

#[test]
fn address_of_the_edit_is_kept() {
    let result = rewrite(&words(LIBVIRT_11_3), &added("virtio-iommu-pci,bus=pcie.0,addr=0x1c")).unwrap();
    assert!(result.contains(&"virtio-iommu-pci,bus=pcie.0,addr=0x1c".into()));
}

#[test]
fn full_root_bus_is_refused() {
    let full: Vec<OsString> =
        (1..0x1f).flat_map(|slot| ["-device".into(), format!("e1000e,bus=pcie.0,addr={slot:x}").into()]).collect();
    assert_eq!(code(&full, &added("virtio-iommu-pci,bus=pcie.0")), Code::CommandLineUnsupported);
    assert!(rewrite(&full, &added("intel-iommu")).is_ok());
}

#[test]
fn second_iommu_is_refused() {
    let native = sample(LIBVIRT_12_8, "", &format!("-device {JSON_IOMMU}"));
    let note = rewrite(&native, &added("virtio-iommu-pci,bus=pcie.0")).unwrap_err();
    assert_eq!(note.code, Code::IommuConflict);
    assert!(note.message.contains("(intel-iommu)"), "{}", note.message);
    assert!(note.message.ends_with("QEMU does not support multiple vIOMMUs for x86 yet."), "{}", note.message);

    let virt = words("-machine virt-10.0,iommu=smmuv3 -device virtio-net-pci");
    let note = rewrite(&virt, &added("virtio-iommu-pci,bus=pcie.0")).unwrap_err();
    assert_eq!(note.code, Code::IommuConflict);
    assert!(note.message.ends_with("virt machine does not support multiple IOMMUs"), "{}", note.message);

    let virt = words("-machine virt -device virtio-iommu-pci");
    assert_eq!(code(&virt, &machine("iommu", "smmuv3")), Code::IommuConflict);
    // An existing vIOMMU does not prevent edits that add none.
    assert!(rewrite(&native, &machine("kernel_irqchip", "split")).is_ok());
}

#[test]
fn smmuv3_is_set_on_the_machine() {
    assert_eq!(
        rewritten(&words("-machine virt-9.2,usb=off,gic-version=3 -accel kvm"), &machine("iommu", "smmuv3")),
        words("-machine virt-9.2,usb=off,gic-version=3,iommu=smmuv3 -accel kvm")
    );
}

#[test]
fn existing_vtd_is_completed_in_its_own_spelling() {
    let edits = existing(&[("caching-mode", "on"), ("eim", "on"), ("intremap", "on")]);
    let json = |text: &str| sample(LIBVIRT_12_8, "", &format!("-device {text}"));
    assert_eq!(
        rewritten(&json(r#"{"driver":"intel-iommu","id":"iommu0","caching-mode":false,"aw-bits":48}"#), &edits),
        json(r#"{"driver":"intel-iommu","id":"iommu0","caching-mode":true,"aw-bits":48,"eim":"on","intremap":"on"}"#)
    );
    let text = |text: &str| sample(LIBVIRT_7_0, "", &format!("-device {text}"));
    assert_eq!(
        rewritten(&text("intel-iommu,caching-mode=off"), &edits),
        text("intel-iommu,caching-mode=on,eim=on,intremap=on")
    );
}

#[test]
fn missing_vtd_cannot_be_completed() {
    let edits = existing(&[("caching-mode", "on")]);
    assert_eq!(code(&words(LIBVIRT_11_3), &edits), Code::CommandLineUnsupported);
    assert_eq!(code(&words("-device virtio-iommu-pci"), &edits), Code::CommandLineUnsupported);
}

#[test]
fn memory_is_locked_despite_an_earlier_option() {
    let edits = Edits { lock_memory: true, ..Edits::default() };
    for (before, after) in [
        ("-S -overcommit mem-lock=off -device e1000e", "-S -overcommit mem-lock=on -device e1000e"),
        ("-overcommit cpu-pm=on,mem-lock=on-fault", "-overcommit cpu-pm=on,mem-lock=on"),
        ("-overcommit mem-lock=on -overcommit mem-lock=off", "-overcommit mem-lock=on -overcommit mem-lock=on"),
        ("-overcommit cpu-pm=on -S", "-overcommit cpu-pm=on -S -overcommit mem-lock=on"),
        ("-S", "-S -overcommit mem-lock=on"),
    ] {
        assert_eq!(rewritten(&words(before), &edits), words(after));
    }
}

#[test]
fn an_option_does_not_take_an_appended_argument_as_its_value() {
    let edits = Edits { lock_memory: true, ..Edits::default() };
    for before in ["-S -nic", "-M q35 -S --device"] {
        assert_eq!(code(&words(before), &edits), Code::CommandLineUnsupported, "{before}");
        assert_eq!(rewritten(&words(before), &Edits::default()), words(before));
    }
    assert_eq!(rewritten(&words("-S -name -nic"), &edits), words("-S -name -nic -overcommit mem-lock=on"));
}

#[test]
fn bytes_that_are_not_utf8_pass_through() {
    let raw = |bytes: &[u8]| -> OsString { OsStr::from_bytes(bytes).into() };
    let mut before = words("-M q35 -kernel X -device Y -device intel-iommu");
    before[3] = raw(b"/boot/\xff");
    before[5] = raw(b"vfio-pci,sysfsdev=/\xfe,bus=pcie.0,addr=0x1e");
    let after = rewritten(&before, &Edits { lock_memory: true, ..existing(&[("eim", "on")]) });
    assert_eq!(after[..7], before[..7]);
    assert_eq!(after[7..], words("intel-iommu,eim=on -overcommit mem-lock=on"));

    before.truncate(6);
    let result = rewrite(&before, &added("virtio-iommu-pci,bus=pcie.0")).unwrap();
    assert!(
        result.contains(&"virtio-iommu-pci,bus=pcie.0,addr=0x1d".into()),
        "the address in an argument that is not UTF-8 counts"
    );

    before[1] = raw(b"q35,firmware=\xff");
    assert_eq!(code(&before, &machine("kernel_irqchip", "split")), Code::CommandLineUnsupported);
}

#[test]
fn explicit_in_kernel_irqchip_is_refused() {
    let arguments = sample(LIBVIRT_11_3, ",kernel_irqchip=on", "");
    assert_eq!(code(&arguments, &machine("kernel_irqchip", "split")), Code::IrqchipConflict);
}
