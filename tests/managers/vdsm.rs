//! `before_vm_start` as vdsm runs it (lib/vdsm/common/hooks.py, `_runHooksDir`), with the domain of oVirt's engine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::kept::is_kept;
use crate::program::{Ran, feed};
use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;
use crate::{RECORDED_HOST, named, sandbox, without_kvm};

const DOMAIN: &str = include_str!("../data/ovirt-engine.xml");
const HOST: &str = include_str!("../data/host.json");

/// vdsm's uid and gid.
const VDSM: u32 = 36;

/// vdsm's temporary file: `tempfile.mkstemp()`, so only its owner can read it.
struct Temporary(PathBuf);

impl Temporary {
    fn new(content: &str) -> Temporary {
        let directory = Path::new("/run/vdsm-tmp");
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o1777)).unwrap();
        let file = directory.join("tmpk3x_9f2a");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Temporary(file)
    }

    fn content(&self) -> String {
        fs::read_to_string(&self.0).unwrap()
    }

    /// Other files in the same directory.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.parent().unwrap()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| Some(name.as_str()) != self.0.file_name().and_then(|name| name.to_str())).collect()
    }
}

/// The script by its absolute path, without arguments; the environment contains all input.
fn script(point: &str, file: &Temporary, properties: &[(&str, &str)]) -> Command {
    let mut script = Command::new(named(&format!("hooks/{point}/50_viommu")));
    script.envs(properties.iter().copied()).env("_hook_domxml", &file.0);
    script
        .env("vmId", "9a7e6d31-c08f-4b25-8e14-b5d2f7036ca9")
        .env("PYTHONPATH", ":/usr/lib/python3/site-packages/vdsm");
    script
}

fn before_vm_start(file: &Temporary, properties: &[(&str, &str)]) -> Ran {
    feed(&mut script("before_vm_start", file, properties), b"")
}

#[test]
fn the_custom_properties_are_the_request() {
    if !sandbox::inside("vdsm::the_custom_properties_are_the_request") {
        return;
    }
    fs::write(RECORDED_HOST, HOST).unwrap();
    for (properties, added) in [
        (&[("viommu", "auto")][..], r#"<iommu model="intel""#),
        (&[("viommu", "auto"), ("viommu_virtio_iommu_driver", "true")], r#"<iommu model="virtio""#),
        (&[("viommu", "intel")], r#"caching_mode="on""#),
        (&[("viommu", "intel"), ("viommu_aw_bits", "39")], r#"aw_bits="39""#),
        (
            &[("viommu", "intel"), ("viommu_hotplug", "yes"), ("viommu_locked_memory", "no")],
            r#"<ioapic driver="qemu"/>"#,
        ),
    ] {
        let file = Temporary::new(DOMAIN);
        let ran = before_vm_start(&file, properties);
        let text = file.content();
        assert!(ran.status == 0 && text.replace('\'', "\"").contains(added), "{properties:?}: {ran:?}\n{text}");
        assert!(is_kept(DOMAIN, &text), "unknown parts stay:\n{text}");
        assert_eq!(fs::metadata(&file.0).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(file.left(), [""; 0]);
        let inode = fs::metadata(&file.0).unwrap().ino();
        assert_eq!(before_vm_start(&file, properties).status, 0);
        assert_eq!(
            (file.content(), fs::metadata(&file.0).unwrap().ino()),
            (text, inode),
            "a second run changes nothing"
        );
    }
}

#[test]
fn a_machine_without_a_request_keeps_its_file() {
    if !sandbox::inside("vdsm::a_machine_without_a_request_keeps_its_file") {
        return;
    }
    for broken in ["", "not = [valid"] {
        fs::write("/etc/viommu.toml", broken).unwrap();
        fs::write(RECORDED_HOST, broken).unwrap();
        for properties in [&[][..], &[("viommu", "")], &[("viommu", "none")]] {
            for domain in [DOMAIN, "<domain"] {
                let file = Temporary::new(domain);
                let inode = fs::metadata(&file.0).unwrap().ino();
                let ran = before_vm_start(&file, properties);
                assert_eq!((ran.status, file.content().as_str()), (0, domain), "{properties:?}: {}", ran.stderr);
                assert_eq!(fs::metadata(&file.0).unwrap().ino(), inode);
            }
        }
    }
}

/// Exit status 2 stops vdsm's later hooks; 1 does not. Both stop the machine's start.
#[test]
fn exit_statuses_are_those_of_vdsm() {
    if !sandbox::inside("vdsm::exit_statuses_are_those_of_vdsm") {
        return;
    }
    fs::write(RECORDED_HOST, HOST).unwrap();
    let i440fx = DOMAIN.replace("pc-q35-7.2", "pc-i440fx-7.2");
    for (properties, domain, message) in [
        (
            &[("viommu", "Intel")][..],
            DOMAIN,
            "error[model-unknown]: unknown vIOMMU model 'Intel' in the custom property",
        ),
        (
            &[("viommu", "intel"), ("viommu_aw_bits", "57")],
            DOMAIN,
            "error[request-conflict]: invalid value viommu_aw_bits='57' in the custom",
        ),
        (&[("viommu", "intel"), ("viommu_aw_bits", "48")], DOMAIN, "error[aw-bits-exceed-host]"),
        (&[("viommu", "intel")], &i440fx, "error[machine-unsupported]"),
        (&[("viommu", "intel")], "<domain", "error[xml-malformed]"),
    ] {
        let file = Temporary::new(domain);
        let ran = before_vm_start(&file, properties);
        assert_eq!((ran.status, file.content().as_str()), (2, domain), "{message}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{message}: {}", ran.stderr);
    }
    let file = Temporary::new(DOMAIN);
    let missing = Temporary(file.0.with_extension("missing"));
    assert_eq!(before_vm_start(&missing, &[]).status, 1);
    let ran = feed(script("before_vm_start", &file, &[]).env_remove("_hook_domxml"), b"");
    assert!(ran.status == 1 && ran.stderr.contains("_hook_domxml is not set"), "{ran:?}");
}

#[test]
fn a_running_machine_is_not_changed() {
    if !sandbox::inside("vdsm::a_running_machine_is_not_changed") {
        return;
    }
    for domain in [DOMAIN, "<domain"] {
        for value in ["auto", "intel", "nonsense"] {
            let file = Temporary::new(domain);
            let ran = feed(&mut script("before_vm_migrate_destination", &file, &[("viommu", value)]), b"");
            assert_eq!((ran.status, file.content().as_str(), ran.stderr.as_str()), (0, domain, ""));
        }
    }
}

/// vdsm restores a suspended machine as it was.
#[test]
fn a_suspended_machine_is_not_changed() {
    if !sandbox::inside("vdsm::a_suspended_machine_is_not_changed") {
        return;
    }
    fs::write(RECORDED_HOST, HOST).unwrap();
    let suspended = DOMAIN.replacen("<domain ", "<domain id=\"7\" ", 1);
    assert_ne!(suspended, DOMAIN);
    for model in ["intel", "nonsense"] {
        let file = Temporary::new(&suspended);
        let ran = before_vm_start(&file, &[("viommu", model)]);
        assert_eq!((ran.status, file.content().as_str(), ran.stderr.as_str()), (0, suspended.as_str(), ""));
    }
}

#[test]
fn only_warnings_and_assumed_facts_are_logged() {
    if !sandbox::inside("vdsm::only_warnings_and_assumed_facts_are_logged") {
        return;
    }
    let logged = || {
        let ran = before_vm_start(&Temporary::new(DOMAIN), &[("viommu", "auto")]);
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.stderr
    };
    assert!(logged().contains("info[host-fact-assumed]"));
    fs::write(RECORDED_HOST, HOST).unwrap();
    // 'viommu plan' shows why auto is this model.
    assert!(!logged().contains("info["));
}

#[test]
fn recorded_facts_that_others_can_write_are_not_used() {
    if !sandbox::inside("vdsm::recorded_facts_that_others_can_write_are_not_used") {
        return;
    }
    fs::write(RECORDED_HOST, HOST).unwrap();
    fs::set_permissions(RECORDED_HOST, fs::Permissions::from_mode(0o666)).unwrap();
    let file = Temporary::new(DOMAIN);
    let ran = before_vm_start(&file, &[("viommu", "auto")]);
    assert_eq!((ran.status, file.content().as_str()), (2, DOMAIN), "{ran:?}");
    assert!(ran.stderr.contains("error[config-invalid]") && ran.stderr.contains(RECORDED_HOST), "{ran:?}");
}

#[test]
fn owner_and_mode_survive() {
    if !sandbox::inside("vdsm::owner_and_mode_survive") {
        return;
    }
    let give = |file: &Temporary| chown(&file.0, Some(VDSM), Some(VDSM));
    if give(&Temporary::new(DOMAIN)).is_err() {
        // A user namespace has no user except root that could own the file.
        return;
    }
    let kept = |file: &Temporary| {
        let metadata = fs::metadata(&file.0).unwrap();
        assert!(file.content().contains("<iommu"));
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    for mode in [0o600, 0o640, 0o664] {
        // As root, and as vdsm's user.
        for user in [0, VDSM] {
            let file = Temporary::new(DOMAIN);
            give(&file).unwrap();
            fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
            let mut script = script("before_vm_start", &file, &[("viommu", "intel")]);
            let ran = feed(script.uid(user).gid(user), b"");
            assert_eq!((ran.status, kept(&file)), (0, (VDSM, VDSM, mode)), "{user}: {}", ran.stderr);
        }
    }
    // In a directory that vdsm cannot write to, the file stays complete.
    let file = Temporary::new(DOMAIN);
    give(&file).unwrap();
    fs::set_permissions(file.0.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = feed(script("before_vm_start", &file, &[("viommu", "intel")]).uid(VDSM).gid(VDSM), b"");
    assert_eq!((ran.status, file.content().as_str()), (2, DOMAIN), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot be replaced: Permission denied"), "{}", ran.stderr);
}

/// The script as a child of another program, which may observe its end by a signal.
fn below(program: &[&str], file: &Temporary) -> Output {
    let script = script("before_vm_start", file, &[("viommu", "intel")]);
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(script.get_program());
    command.envs(script.get_envs().map(|(name, value)| (name, value.unwrap())));
    command.output().unwrap()
}

#[test]
fn a_crash_during_the_write_leaves_the_old_file_complete() {
    if !sandbox::inside("vdsm::a_crash_during_the_write_leaves_the_old_file_complete") {
        return;
    }
    // The kernel kills it during a write (SIGXFSZ), or lets the write fail, as on a full disk.
    let file = Temporary::new(DOMAIN);
    let output = below(&["bash", "-c", "ulimit -c 0 -f 1; exec \"$0\""], &file);
    assert_eq!((output.status.code(), file.content().as_str()), (None, DOMAIN), "{output:?}");
    assert_eq!(file.left().len(), 1, "a partial temporary file remains");
    let file = Temporary::new(DOMAIN);
    let output = below(&["bash", "-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\""], &file);
    assert_eq!((output.status.code(), file.content().as_str()), (Some(2), DOMAIN), "{output:?}");
    assert_eq!(file.left(), [""; 0]);
    // Killed after all writes and before the rename.
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "strace is not installed");
        println!("SKIPPED: strace is not installed, so nothing was killed between write and rename");
        return;
    }
    let file = Temporary::new(DOMAIN);
    let inject = "inject=rename,renameat,renameat2:signal=KILL:error=EIO";
    let output = below(&["strace", "-f", "-o", "/dev/null", "-e", inject], &file);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!((file.content().as_str(), file.left().len()), (DOMAIN, 1));
    let written = fs::read_to_string(file.0.parent().unwrap().join(&file.left()[0])).unwrap();
    assert!(written.contains("<iommu") && written.trim_end().ends_with("</domain>"), "the temporary file was complete");
}

on_both_suites!(libvirt_defines_the_hooks_result a_restored_machine_is_not_changed);

fn libvirt_defines_the_hooks_result(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for model in ["auto", "intel", "virtio"] {
        lab.put("/run/domain.xml", without_kvm(DOMAIN));
        let script = format!(
            "set -e
            mkdir -p /run/hooks/before_vm_start; ln -sf /usr/bin/viommu /run/hooks/before_vm_start/50_viommu
            viommu={model} _hook_domxml=/run/domain.xml /run/hooks/before_vm_start/50_viommu
            virsh -q define /run/domain.xml
            virsh -q dumpxml --inactive vnf-04
            virsh -q undefine vnf-04 >&2"
        );
        let defined = lab.run(&script).ok();
        assert!(
            defined.contains("<iommu model='") && defined.contains("ovirt-vm:clusterVersion"),
            "{model}: {defined}"
        );
    }
}

/// At a restore vdsm passes the XML that libvirt printed for the machine when it ran (lib/vdsm/virt/vm.py,
/// `migration_parameters`), with the current properties, and ignores the script's result. A refusal would prevent the
/// restore.
fn a_restored_machine_is_not_changed(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let domain = |iommu: &str| {
        format!(
            "<domain type='qemu'><name>suspended</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
               <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/><ioapic driver='qemu'/></features>
               <devices>{iommu}</devices>
             </domain>"
        )
    };
    for iommu in ["", "<iommu model='intel'><driver intremap='on'/></iommu>"] {
        let guest = lab.guest(&domain(iommu));
        guest.virsh("start", &[]).ok();
        for property in ["virtio", "intel", "smmuv3", "nonsense"] {
            lab.run(&format!(
                "set -e
                mkdir -p /run/hooks/before_vm_start; ln -sf /usr/bin/viommu /run/hooks/before_vm_start/50_viommu
                virsh -q dumpxml suspended >/run/ran.xml; cp /run/ran.xml /run/restored.xml
                viommu={property} _hook_domxml=/run/restored.xml /run/hooks/before_vm_start/50_viommu
                cmp /run/ran.xml /run/restored.xml"
            ))
            .ok();
        }
    }
}
