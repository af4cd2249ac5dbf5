//! The wrapper executes the same QEMU that libvirt would have started, with the vIOMMU added.

use crate::guests::{
    Arch, CONFIG, MODELS, RECORD, STATE, UUID, command_line, domain, driver_of, pid, start, values, viommu, viommus,
    without_numbers, wrapped,
};
use crate::support::libvirt::{Libvirt, Suite, shared};
use crate::support::on_both_suites;

on_both_suites! {
    a_wrapped_guest_has_its_viommu
    a_wrapped_guest_without_a_request_has_no_viommu
    a_virtio_iommu_takes_a_slot_that_is_free
    the_process_is_the_one_that_libvirt_started
    qemu_gets_the_environment_and_descriptors_of_libvirt
    the_state_lasts_as_long_as_the_guest
}

fn a_wrapped_guest_has_its_viommu(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for (arch, model) in MODELS {
        let guest = lab.guest(&wrapped(arch, model));
        guest.virsh("start", &[]).ok();
        assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
        let found = viommu(&guest);
        assert_eq!(found.driver, driver_of(model), "{}", suite.name());
        if model == "intel" {
            assert_eq!(found.properties["intremap"], "\"on\"");
            assert_eq!(found.properties["aw-bits"], "48 (0x30)");
            // QEMU 7.2 has no eim under TCG.
            assert_eq!(found.properties["eim"] == "\"on\"", suite == Suite::Trixie, "{found:?}");
        }
        // The vIOMMU comes before all devices of the guest, so that none bypasses it.
        let words = command_line(&lab);
        let devices = values(&words, "-device");
        if model == "smmuv3" {
            assert!(values(&words, "-machine")[0].contains(",iommu=smmuv3"), "{words:?}");
        } else {
            assert!(devices[0].contains("-iommu"), "{devices:?}");
        }
        assert!(devices.last().unwrap().contains("virtio-"), "{devices:?}");
        // libvirt's XML does not contain it.
        assert!(!guest.virsh("dumpxml", &[]).ok().contains("<iommu"));
    }
}

fn a_wrapped_guest_without_a_request_has_no_viommu(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for arch in [Arch::X86, Arch::Arm] {
        let begin = |emulator: &str| {
            let guest = lab.guest(&domain(arch, emulator, ""));
            start(&guest);
            assert_eq!(viommus(&guest), []);
            without_numbers(&command_line(&lab))
        };
        assert_eq!(begin(arch.wrapper())[1..], begin(arch.real())[1..], "{}", suite.name());
    }
}

fn a_virtio_iommu_takes_a_slot_that_is_free(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for arch in [Arch::X86, Arch::Arm] {
        // A device of the guest has the slot that the vIOMMU would get.
        let guest = lab.guest(&wrapped(arch, "virtio").replace("slot='5'", "slot='0x1e'"));
        start(&guest);
        assert_eq!(viommu(&guest).properties["addr"], "1d.0", "{arch:?} on {}", suite.name());
        // The id of the virtio specification: 0x1040 and 23.
        let buses = guest.virsh("qemu-monitor-command", &["--hmp", "info pci"]).ok();
        let buses = buses.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(buses.contains("Bus 0, device 29, function 0: Class 0255: PCI device 1af4:1057"), "{buses}");
    }
}

/// The process state of QEMU with the wrapper equals that without; the test below compares its inputs.
fn the_process_is_the_one_that_libvirt_started(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let begin = |emulator: &str| {
        let guest = lab.guest(&domain(Arch::X86, emulator, "model='virtio'"));
        // As a native guest the hook would refuse it.
        lab.run("virsh dumpxml --inactive live | sed s,/viommu-qemu,/qemu, | viommu rewrite >/tmp/native.xml").ok();
        if emulator == Arch::X86.real() {
            lab.virsh(&["define", "/tmp/native.xml"]).ok();
        }
        guest.virsh("start", &["--paused"]).ok();
        let pid = pid(&lab);
        assert_eq!(lab.run(&format!("readlink /proc/{pid}/exe")).ok(), "/usr/bin/qemu-system-x86_64\n");
        assert_eq!(command_line(&lab)[0], emulator);
        // libvirt's own record of the guest contains the same pid, and the process is not libvirt's child any more.
        let status = lab.get("/run/libvirt/qemu/live.xml");
        assert!(status.contains(&format!(" pid='{pid}'")), "{status}");
        lab.run(&format!(
            "cd /proc/{pid}; tr '\\0' '\\n' <environ | sed 's,/domain-[0-9]*-,/domain-#-,' | sort
             for fd in fd/*; do readlink $fd; done | sed 's,[0-9]*,,g' | sort
             grep -E '^(Umask|Uid|Gid|Groups|NSpid|SigBlk|SigIgn|SigCgt|Cap...|NoNewPrivs|Seccomp):' status | grep -v NSpid
             cat oom_score_adj; readlink cwd root; cat limits"
        ))
        .ok()
    };
    assert_eq!(begin(Arch::X86.wrapper()), begin(Arch::X86.real()), "{}", suite.name());
}

/// A stand-in for QEMU that records its arguments and environment, and then executes QEMU.
const RECORDER: &str = r#"#!/bin/bash
for word; do
    if [ "$word" = -uuid ]; then
        { echo "pid $$"
          for fd in /proc/$$/fd/*; do
              number=${fd##*/}
              # bash's own: the script, and what it writes here.
              [ "$number" = 255 ] && continue
              [ "$number" = 99 ] && continue
              echo "fd $number $(readlink "$fd" | sed 's,[0-9]\+,,g') $(grep flags "/proc/$$/fdinfo/$number")"
          done
          tr '\0' '\n' </proc/$$/environ | sed 's,/domain-[0-9]*-,/domain-#-,' | sort
          # Not SigBlk: the shell itself blocks signals while it forks. The running QEMU's is compared elsewhere.
          grep -E '^(Umask|Uid|Gid|Groups|SigIgn|Cap...|NoNewPrivs|Seccomp):' /proc/$$/status
          cat /proc/$$/limits /proc/$$/oom_score_adj; nice; readlink /proc/$$/cwd; chrt -p $$ | sed 's,.*:,,'
          [ "$(ps -o sid=,pgid= -p $$ | tr -d ' ')" = $$$$ ] && echo 'leads its session'
        } 99>&- >/tmp/recorded.$$ 2>&1
        mv /tmp/recorded.$$ /tmp/recorded
    fi
done
exec /usr/bin/qemu-system-x86_64 "$@"
"#;

fn qemu_gets_the_environment_and_descriptors_of_libvirt(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    lab.put("/usr/bin/qemu-system-recorder", RECORDER);
    let _config = lab.file(CONFIG, "[emulators]\nx86_64 = '/usr/bin/qemu-system-recorder'\n");
    let begin = |emulator: &str, attributes: &str| {
        let guest = lab.guest(&domain(Arch::X86, emulator, attributes));
        guest.virsh("start", &["--paused"]).ok();
        let recorded = lab.get("/tmp/recorded");
        let (pid_line, rest) = recorded.split_once('\n').unwrap();
        // libvirt's pid is that of the stand-in.
        assert_eq!(pid_line, format!("pid {}", pid(&lab)));
        (rest.to_owned(), viommus(&guest).len())
    };
    let (native, none) = begin("/usr/bin/qemu-system-recorder", "");
    let (wrapped, one) = begin(Arch::X86.wrapper(), "model='intel'");
    assert_eq!((none, one), (0, 1));
    assert_eq!(wrapped, native, "{}", suite.name());
    let ignored = native.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let sigpipe = 1u64 << (13 - 1);
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & sigpipe, 0, "{native}");
    assert!(
        native.contains("fd 0 /dev/null") && native.contains("HOME=/var/lib/libvirt/qemu/domain-#-live"),
        "{native}"
    );
}

fn the_state_lasts_as_long_as_the_guest(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let state =
        |lab: &Libvirt| lab.run(&format!("stat -c '%U %G %a %F' {STATE} /run/viommu; ls -A /run/viommu")).stdout;
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    guest.virsh("start", &[]).ok();
    let running = format!("root root 644 regular file\nroot root 755 directory\n{UUID}.json\n");
    assert_eq!(state(&lab), running);
    assert_eq!(lab.run(&format!("stat -c '%U %a' {RECORD} /var/lib/viommu")).ok(), "root 600\nroot 755\n");
    lab.restart_libvirtd();
    assert_eq!(guest.virsh("domstate", &[]).ok().trim(), "running");
    assert_eq!(state(&lab), running);
    guest.virsh("destroy", &[]).ok();
    assert_eq!(state(&lab), "root root 755 directory\n");
    // A failed start leaves no file.
    lab.put("/etc/libvirt/hooks/qemu.d/90-veto", "#!/bin/bash\n[ $2 != start ]\n");
    let output = guest.virsh("start", &[]);
    lab.run("rm /etc/libvirt/hooks/qemu.d/90-veto").ok();
    assert_ne!(output.status, 0);
    assert_eq!(state(&lab), "root root 755 directory\n");
}
