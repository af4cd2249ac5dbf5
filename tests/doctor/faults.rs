//! One fault at a time. The report names each as the first and only fault, with its code.

use std::fs;

use crate::host::{HOOK, Host, RULES, UUID, limits, now};

/// Breaks one thing on a healthy host, and checks the first line and the exit status.
#[track_caller]
fn fault(name: &str, expected: (&str, &str), words: &str, break_it: impl FnOnce(&Host)) {
    let host = Host::healthy(name);
    break_it(&host);
    let (report, status) = host.report();
    let first = &report["checks"][0];
    assert_eq!((first["state"].as_str(), first["code"].as_str()), (Some(expected.0), Some(expected.1)), "{report:#}");
    assert!(first["message"].as_str().unwrap().contains(words), "{first:#}");
    assert!(first["remedy"].as_str().is_some_and(|remedy| remedy.len() > 5), "{first:#}");
    let broken = i32::from(expected.0 == "broken");
    assert_eq!((report["broken"].as_i64(), status), (Some(i64::from(broken)), broken), "{report:#}");
    assert_eq!(report["warnings"], 1 - broken, "{report:#}");
    // The same in the text format, on one line.
    let ran = host.examine(&[]);
    let line = ran.stdout.lines().next().unwrap();
    assert!(line.starts_with(expected.0) && line.ends_with(&format!("[{}]", expected.1)), "{line}");
}

/// An unusual state that is not a fault.
#[track_caller]
fn fine(name: &str, change: impl FnOnce(&Host)) {
    let host = Host::healthy(name);
    change(&host);
    let (report, status) = host.report();
    assert_eq!((report["broken"].as_i64(), report["warnings"].as_i64(), status), (Some(0), Some(0), 0), "{report:#}");
}

const HOUR: u64 = 3600;
const UNUSABLE: (&str, &str) = ("broken", "hook-unusable");
const MISSING_QEMU: (&str, &str) = ("broken", "emulator-missing");
const SECOND_DEVICE: &str = "<controller type='pci' index='2' model='pcie-root-port'>
      <address type='pci' domain='0' bus='0' slot='3' function='0'/></controller>
    <hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='2' slot='0' function='0'/></source>
      <address type='pci' domain='0' bus='2' slot='0' function='0'/></hostdev>";
const CONFINED: (&str, &str) = ("broken", "confined");

#[test]
fn no_hook() {
    fault("no-hook", UNUSABLE, "no qemu hook", |host| host.remove(HOOK));
}

#[test]
fn a_hook_that_is_not_executable() {
    fault("not-executable", UNUSABLE, "not executable", |host| {
        host.remove(HOOK);
        fs::copy(host.path("usr/bin/viommu"), host.path(HOOK)).unwrap();
        host.mode(HOOK, 0o644);
    });
}

#[test]
fn a_hook_of_another_program() {
    let foreign = |host: &Host| host.program(HOOK, "#!/bin/sh\nlogger \"$@\"\n");
    fault("foreign", UNUSABLE, "another program", foreign);
    fine("foreign-and-ours", |host| {
        foreign(host);
        host.link("etc/libvirt/hooks/qemu.d/50-viommu", "/usr/bin/viommu");
    });
    fine("foreign-calls-ours", |host| host.program(HOOK, "#!/bin/sh\nexec viommu hook \"$@\"\n"));
    fine("foreign-calls-ours-first", |host| {
        let buffered = "xml=$(cat)\nprintf '%s\\n' \"$xml\" | viommu hook \"$@\" || exit 1\n";
        host.program(HOOK, &format!("#!/bin/bash\n# Ours.\n{buffered}logger \"$@\"\n"));
    });
    // Like the dispatcher of VFIO-Tools with a call at its end: another program has already read stdin.
    fault("foreign-calls-ours-last", ("warning", "hook-unusable"), "before viommu", |host| {
        host.program(HOOK, "#!/bin/bash\ncat - >/dev/null\nexec viommu hook \"$@\"\n");
    });
    fine("a-copy", |host| host.program(HOOK, "\x7fELF of another version, urn:libvirt-viommu:1"));
}

/// The host route is on: systemd's file, and the daemon's environment.
fn routed(host: &Host) {
    host.directory("run/systemd/system");
    host.file("etc/systemd/system/libvirtd.service.d/zz-viommu-host-route.conf", "");
    host.daemon("environ", "LANG=C\0PATH=/usr/lib/libvirt-host-route:/usr/bin\0");
    host.link("usr/lib/libvirt-host-route/qemu-system-x86_64", "/usr/bin/viommu");
}

#[test]
fn the_host_route() {
    fine("route", |host| {
        routed(host);
        host.define("nova", "qemu-system-x86_64", "");
        let file = "etc/libvirt/qemu/nova.xml";
        let text = fs::read_to_string(host.path(file)).unwrap();
        host.file(file, &text.replace("/usr/bin/qemu", "/usr/lib/libvirt-host-route/qemu"));
    });
    let started = ("broken", "hook-not-loaded");
    fault("route-not-restarted", started, "started before it was switched on", |host| {
        routed(host);
        host.daemon("environ", "PATH=/usr/bin\0");
    });
    let link = "usr/lib/libvirt-host-route/qemu-system-x86_64";
    fault("route-no-link", MISSING_QEMU, "does not exist: libvirt's default emulator is QEMU itself", |host| {
        routed(host);
        host.remove(link);
    });
    fault("route-wrong-link", ("warning", "emulator-missing"), "does not lead to viommu", |host| {
        routed(host);
        host.link(link, "/usr/bin/false");
    });
    fault("route-off", ("warning", "hook-not-loaded"), "started before it was switched off", |host| {
        routed(host);
        host.remove("etc/systemd/system/libvirtd.service.d");
    });
    let host = Host::healthy("route-without-hook");
    routed(&host);
    host.remove(HOOK);
    let (report, _) = host.report();
    let route = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "host-route").unwrap();
    assert_eq!((&route["state"], &route["code"]), (&"broken".into(), &"hook-unusable".into()), "{route:#}");
}

#[test]
fn a_qemu_that_libvirt_has_not_probed() {
    let stale = |host: &Host| {
        let cache = fs::read_to_string(host.path("var/cache/libvirt/qemu/capabilities/0.xml")).unwrap();
        host.file(
            "var/cache/libvirt/qemu/capabilities/2.xml",
            &cache.replace("/usr/bin/qemu-", "/usr/bin/viommu-qemu-"),
        );
    };
    fine("probed", stale);
    fault("not-probed", ("warning", "emulator-stale"), "newer than what libvirt found out", |host| {
        stale(host);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        host.program("usr/bin/qemu-system-x86_64", "\x7fELF of a newer version");
    });
}

#[test]
fn a_hook_that_is_a_dangling_link() {
    fault("dangling", UNUSABLE, "a file that does not exist", |host| host.link(HOOK, "/usr/local/bin/viommu"));
}

#[test]
fn a_libvirt_without_the_hook_directory() {
    let in_directory = |host: &Host| {
        host.remove(HOOK);
        host.link("etc/libvirt/hooks/qemu.d/50-viommu", "/usr/bin/viommu");
    };
    // The same version also lacks other features; that message is the second.
    let host = Host::healthy("directory");
    in_directory(&host);
    host.versions(6_004_000, 10_000_002);
    let (report, status) = host.report();
    let codes = [0, 1].map(|at| report["checks"][at]["code"].clone());
    assert_eq!((codes, status), (["hook-unusable".into(), "version-unsupported".into()], 1), "{report:#}");
    fine("directory-fine", in_directory);
}

#[test]
fn a_daemon_that_was_not_reloaded() {
    let older = |host: &Host| host.daemon_started(now() - HOUR);
    let broken = ("broken", "hook-not-loaded");
    fault("not-reloaded", broken, "was not reloaded since", |host| {
        host.remove("run/viommu");
        older(host);
        host.systemd(now() - HOUR);
    });
    fine("reloaded", |host| {
        host.remove("run/viommu");
        older(host);
        host.systemd(now() + 5);
    });
    // Without systemd, files of the hook show its runs …
    fine("has-run", older);
    // … and without these files the state is unknown, which is a warning.
    fault("doubt", ("warning", "hook-not-loaded"), "no record shows", |host| {
        host.remove("run/viommu");
        older(host);
    });
    // An earlier hook is sufficient: libvirt only records that a hook exists.
    fine("no-daemon", |host| host.remove("run/libvirtd.pid"));
}

#[test]
fn a_guest_that_the_hook_was_not_called_for() {
    let host = Host::healthy("not-called");
    host.daemon_started(now() - HOUR);
    host.remove("run/viommu");
    host.guest_runs(2 << 30, &["-device", "vfio-pci,host=1:0.0"]);
    let (report, status) = host.report();
    assert_eq!(status, 1);
    let codes = [0, 1].map(|at| report["checks"][at]["code"].clone());
    assert_eq!(codes, ["hook-not-loaded", "request-unmet"], "the cause first: {report:#}");
}

#[test]
fn a_wrapper_without_its_qemu() {
    let native = format!("usr/bin/qemu-system-{}", std::env::consts::ARCH);
    fault("no-qemu", MISSING_QEMU, &native, |host| {
        host.remove(&native);
        host.remove("var/cache/libvirt/qemu/capabilities");
        host.versions(11_003_000, 10_000_002);
    });
    fault("itself", MISSING_QEMU, "not QEMU", |host| {
        let path = "/usr/bin/viommu";
        host.file("etc/viommu.toml", &format!("[emulators]\n{} = \"{path}\"\n", std::env::consts::ARCH));
    });
    fault("no-link", MISSING_QEMU, "does not exist", |host| host.remove("usr/bin/viommu-qemu-system-x86_64"));
    fault("wrong-link", MISSING_QEMU, "does not lead to viommu", |host| {
        host.link("usr/bin/viommu-qemu-system-x86_64", "qemu-system-x86_64");
    });
    // The package has links for other architectures, too.
    let foreign = if std::env::consts::ARCH == "x86_64" { "aarch64" } else { "x86_64" };
    if foreign == "aarch64" {
        fine("foreign-qemu", |host| host.remove("usr/bin/qemu-system-aarch64"));
    }
}

#[test]
fn apparmor_refuses_the_wrapper() {
    fault("no-rules", CONFINED, "/usr/bin/viommu rmix", |host| host.remove(RULES));
    fault("half-the-rules", CONFINED, "/run/viommu", |host| {
        host.file(RULES, "/usr/bin/viommu rmix,\n#/run/viommu/*.json r,\n");
    });
    fault("far-away", CONFINED, "/opt/viommu", |host| {
        host.program("opt/viommu", "\x7fELF urn:libvirt-viommu:1");
        host.link(HOOK, "/opt/viommu");
    });
    // Debian before libvirt 9.6 has no directory, and reads a local file.
    let old = "  #include <local/abstractions/libvirt-qemu>\n";
    fault("old-layout", CONFINED, "lack", |host| host.file("etc/apparmor.d/abstractions/libvirt-qemu", old));
    fine("old-layout-fine", |host| {
        host.file("etc/apparmor.d/abstractions/libvirt-qemu", old);
        host.file(
            "etc/apparmor.d/local/abstractions/libvirt-qemu",
            &fs::read_to_string("hooks/apparmor/viommu").unwrap(),
        );
        host.remove(RULES);
    });
    // Unconfined guests need no rule.
    fine("unconfined", |host| {
        host.remove(RULES);
        host.daemon("attr/current", "unconfined\n");
    });
    fine("no-driver", |host| {
        host.remove(RULES);
        host.file("etc/libvirt/qemu.conf", "security_driver = \"none\"\n");
    });
}

#[test]
fn selinux_refuses_the_wrapper() {
    let label = |host: &Host, path: &str, kind: &str| {
        let context = format!("system_u:object_r:{kind}:s0\0");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(host.path(path), "security.selinux", context.as_bytes(), flags).is_ok()
    };
    let enforcing = |host: &Host| {
        host.remove("sys/module/apparmor");
        host.file("sys/fs/selinux/enforce", "1");
        label(host, "usr/bin/viommu", "qemu_exec_t");
        label(host, "run/viommu", "viommu_run_t");
    };
    let probe = Host::healthy("labels");
    if !label(&probe, "usr/bin/viommu", "bin_t") {
        println!("SKIPPED: labels cannot be set here");
        return;
    }
    fine("labelled", enforcing);
    fault("bin_t", CONFINED, "instead of qemu_exec_t", |host| {
        enforcing(host);
        label(host, "usr/bin/viommu", "bin_t");
    });
    fault("unreadable-state", CONFINED, "may not read /run/viommu", |host| {
        enforcing(host);
        label(host, "run/viommu", "virt_runtime_t");
    });
    fault("labelled-hook", CONFINED, "every guest", |host| {
        enforcing(host);
        host.program(HOOK, "\x7fELF urn:libvirt-viommu:1");
        label(host, HOOK, "virt_etc_rw_t");
    });
    fine("permissive", |host| {
        enforcing(host);
        label(host, "usr/bin/viommu", "bin_t");
        host.file("sys/fs/selinux/enforce", "0");
    });
}

#[test]
fn a_host_without_an_iommu() {
    let off = ("broken", "host-iommu-off");
    fault("iommu-off", off, "is off", |host| {
        host.remove("sys/class/iommu/dmar0");
        host.remove("sys/kernel/iommu_groups/11");
    });
    fault("no-groups", off, "no groups", |host| host.remove("sys/kernel/iommu_groups/11"));
}

/// A host without passthrough, VFIO and KVM, whose guests have no request, has no fault.
#[test]
fn a_host_that_needs_nothing() {
    let nothing = |host: &Host| {
        for path in
            ["run/libvirt/qemu", "etc/libvirt/qemu", "sys/class/iommu/dmar0", "lib/modules", "dev/kvm", "run/viommu"]
        {
            host.remove(path);
        }
        host.remove("sys/kernel/iommu_groups/11");
        host.file("etc/libvirt/qemu/plain.xml", "<domain type='qemu'><name>plain</name></domain>");
    };
    fine("needs-nothing", nothing);
    // A fault of viommu does not affect a guest yet.
    fault("needs-no-hook", ("warning", "hook-unusable"), "no qemu hook", |host| {
        nothing(host);
        host.remove(HOOK);
    });
    fault("needs-no-version", ("warning", "version-unsupported"), "6.9.0", |host| {
        nothing(host);
        host.versions(6_009_000, 10_000_002);
    });
}

#[test]
fn a_binary_that_is_another_program_or_missing() {
    fault("overwritten", UNUSABLE, "/usr/bin/viommu is another program", |host| {
        // The links to it are then neither wrappers nor a hook; that message is the second.
        host.program("usr/bin/viommu", "#!/bin/sh\n");
        host.remove("usr/bin/viommu-qemu-system-aarch64");
        host.remove("usr/bin/viommu-qemu-system-x86_64");
        host.remove("run/libvirt/qemu");
        host.remove("run/viommu");
    });
    fault("not-installed", UNUSABLE, "viommu is not installed", |host| {
        for path in ["usr/bin/viommu", HOOK, "usr/bin/viommu-qemu-system-aarch64", "usr/bin/viommu-qemu-system-x86_64"]
        {
            host.remove(path);
        }
        host.remove("run/libvirt/qemu");
        host.remove("run/viommu");
    });
}

#[test]
fn a_kernel_without_vfio() {
    fault("no-vfio", ("broken", "vfio-missing"), "vfio_pci", |host| host.remove("lib/modules"));
    fine("vfio-loaded", |host| {
        host.remove("lib/modules");
        host.directory("sys/module/vfio_pci");
    });
}

#[test]
fn devices_by_iommufd() {
    let by_iommufd = |host: &Host| {
        let device = SECOND_DEVICE.replace("<source>", "<driver iommufd='yes'/><source>");
        host.define("by-iommufd", "viommu-qemu-system-x86_64", &device);
    };
    let missing = ("broken", "vfio-missing");
    fault("no-iommufd", missing, "no /dev/iommu", by_iommufd);
    fault("iommufd-unknown-to-libvirt", missing, "libvirt 11.3.0 ignores", |host| {
        by_iommufd(host);
        host.file("dev/iommu", "");
    });
    fine("iommufd", |host| {
        by_iommufd(host);
        host.file("dev/iommu", "");
        host.versions(12_009_000, 11_001_003);
    });
}

#[test]
fn interrupts_that_are_not_isolated() {
    let parameter = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    fault("interrupts", ("warning", "unsafe-interrupts"), "any interrupt", |host| host.file(parameter, "Y\n"));
}

#[test]
fn kvm_without_the_split_irqchip() {
    let release = |host: &Host, release: &str| {
        host.file("proc/sys/kernel/osrelease", &format!("{release}\n"));
        host.directory("sys/module/vfio_pci");
    };
    if cfg!(target_arch = "x86_64") {
        fault("irqchip", ("broken", "split-irqchip-missing"), "4.3.0", |host| release(host, "4.3.0-1-amd64"));
    }
    fine("irqchip-fine", |host| release(host, "4.4.0-1-amd64"));
    fault("no-kvm", ("warning", "split-irqchip-missing"), "/dev/kvm", |host| host.remove("dev/kvm"));
}

#[test]
fn a_daemon_that_may_not_raise_limits() {
    let may_not = ("broken", "memlock-no-privilege");
    // The privileges that Docker leaves to a container.
    let needed = |name, words, break_it: fn(&Host)| {
        // No guest needs a higher limit than libvirt's …
        fault(name, ("warning", "memlock-no-privilege"), words, break_it);
        // … until one guest has two devices, and the wrapper adds a vIOMMU that libvirt does not count.
        fault(&format!("{name}-needed"), may_not, words, |host| {
            host.define("two", "viommu-qemu-system-x86_64", SECOND_DEVICE);
            break_it(host);
        });
    };
    needed("container", "no CAP_SYS_RESOURCE and no CAP_SYS_PTRACE", |host| host.capabilities(0xa804_25fb));
    needed("ptrace", "CAP_SYS_PTRACE", |host| host.capabilities(u64::MAX >> 23 & !(1 << 19)));
    needed("user-namespace", "user namespace", |host| host.daemon("uid_map", "         0     100000      65536\n"));
}

#[test]
fn a_limit_that_guests_do_not_get() {
    let surprise = ("warning", "daemon-memlock");
    fault("unlimited", surprise, "no limit", |host| host.daemon("limits", &limits(u64::MAX)));
    fault("limit", surprise, "16 GiB", |host| host.daemon("limits", &limits(16 << 30)));
    fine("small", |host| host.daemon("limits", &limits(8 << 20)));
}

#[test]
fn a_configuration_with_an_error() {
    let invalid = ("broken", "config-invalid");
    fault("typo", invalid, "modle", |host| host.file("etc/viommu.toml", "[default]\nmodle = \"intel\"\n"));
    fault("writable", invalid, "users other than root", |host| {
        host.file("etc/viommu.toml", "");
        host.mode("etc/viommu.toml", 0o666);
    });
    fine("configured", |host| host.file("etc/viommu.toml", "allow-image-request = false\n"));
}

#[test]
fn a_configuration_that_qemus_user_cannot_read() {
    let private = |text: &'static str| {
        move |host: &Host| {
            host.file("etc/viommu.toml", text);
            host.mode("etc/viommu.toml", 0o600);
        }
    };
    let other = "[emulators]\nx86_64 = \"/usr/bin/qemu-system-x86_64\"\n";
    fault("private", ("broken", "config-invalid"), "cannot be read by QEMU's user", private(other));
    fault("private-rules", ("warning", "config-invalid"), "cannot be read by QEMU's user", private("[default]\n"));
}

#[test]
fn guests_that_would_be_refused() {
    fault("refused", ("broken", "wrapper-missing"), "lacking will be refused", |host| {
        host.define("lacking", "qemu-system-x86_64", "");
    });
    fault("conflict", ("broken", "iommu-conflict"), "other will be refused", |host| {
        host.define("other", "qemu-system-x86_64", "<iommu model='virtio'/>");
    });
    fault("flawed", ("warning", "iommu-conflict"), "flawed: the <iommu> has no caching mode", |host| {
        host.define("flawed", "qemu-system-x86_64", "<iommu model='intel'><driver/></iommu><!-- no request -->");
    });
    fault("misplaced", ("warning", "request-ignored"), "misplaced: <iommu> in <cpu>", |host| {
        host.define(
            "misplaced",
            "qemu-system-x86_64",
            "</devices><cpu><iommu model='intel'/></cpu><devices><!-- no request -->",
        );
    });
    fine("wrapped", |host| host.define("wrapped", "viommu-qemu-system-x86_64", ""));
}

#[test]
fn running_guests_without_their_requested_viommu() {
    fault("unmet", ("broken", "request-unmet"), "running runs without", |host| {
        host.guest_runs(2 << 30, &["-device", "vfio-pci,host=1:0.0"]);
    });
    fault("too-low", ("broken", "memlock-too-low"), "may lock 64 KiB and needs 1.5 GiB", |host| {
        host.guest_runs(65536, &["-device", "intel-iommu", "-device", "vfio-pci,host=1:0.0"]);
    });
}

#[test]
fn versions_that_are_not_supported() {
    let unsupported = |state| (state, "version-unsupported");
    fault("old-libvirt", unsupported("broken"), "libvirt 6.9.0 is older", |host| host.versions(6_009_000, 10_000_002));
    fault("old-qemu", unsupported("broken"), "QEMU 5.1.0 is older", |host| host.versions(11_003_000, 5_001_000));
    fault("new-libvirt", unsupported("warning"), "libvirt 12.10.0 is newer", |host| {
        host.versions(12_010_000, 10_000_002);
    });
    fine("newest", |host| host.versions(12_009_000, 11_001_004));
}

/// QEMU's user owns libvirt's directory of running guests and may create any file in it.
#[test]
fn files_of_qemus_user_are_not_guests() {
    fine("forged", |host| {
        host.file("run/libvirt/qemu/forged.xml", "<domstatus");
        std::os::unix::fs::chown(host.path("run/libvirt/qemu/forged.xml"), Some(107), None).unwrap();
    });
}

#[test]
fn leftovers_of_ended_guests() {
    let other = UUID.replace("3a21", "4b32");
    fault("leftover", ("warning", "state-leftover"), &other, |host| {
        host.file(&format!("run/viommu/{other}.json"), "{}");
    });
    fault("directory-mode", ("broken", "state-invalid"), "users other than root", |host| {
        host.mode("run/viommu", 0o777);
    });
}
