//! Calls of QEMU without a guest, by libvirt or a user: the wrapper must not change their output.

use crate::guests::Arch;
use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;

on_both_suites! {
    probes_are_answered_by_qemu_itself
    libvirt_finds_the_same_capabilities
}

/// The arguments of `QEMU`, in bash syntax.
const QUESTIONS: [&str; 9] = [
    "-version",
    "--version",
    "-help",
    "-machine help",
    "-M help",
    "-device help",
    "-device intel-iommu,help -device virtio-iommu-pci,help",
    "-cpu help",
    "-machine none,accel=kvm:tcg -nodefaults -no-user-config -nographic -S -qmp stdio",
];

fn probes_are_answered_by_qemu_itself(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for arch in [Arch::X86, Arch::Arm] {
        let (real, wrapper) = (arch.real(), arch.wrapper());
        for question in QUESTIONS {
            // -help prints argv[0], so the test calls the real QEMU with the wrapper's name. The last QMP event
            // contains the time.
            let ask = |program: &str| {
                lab.run(&format!(
                    "printf '%s\\n' '{{\"execute\":\"qmp_capabilities\"}}' '{{\"execute\":\"query-version\"}}' \
                         '{{\"execute\":\"qom-list-types\"}}' '{{\"execute\":\"query-command-line-options\"}}' \
                         '{{\"execute\":\"query-machines\"}}' '{{\"execute\":\"quit\"}}' |
                       (exec -a {wrapper} {program} {question}) >/tmp/answer 2>/tmp/complaint
                     status=$?
                     sed -i '/\"timestamp\"/d' /tmp/answer
                     wc -c </tmp/answer; md5sum </tmp/answer; cat /tmp/complaint; exit $status"
                ))
            };
            let (expected, answer) = (ask(real), ask(wrapper));
            assert_eq!(answer, expected, "{question} on {}", suite.name());
            assert!(!expected.stdout.starts_with("0\n") || question.starts_with("-device intel"), "{expected:?}");
        }
    }
}

fn libvirt_finds_the_same_capabilities(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    for (arch, name, machine) in [(Arch::X86, "x86_64", "q35"), (Arch::Arm, "aarch64", "virt")] {
        let ask = |path: &str| {
            let printed =
                lab.virsh(&["domcapabilities", "--emulatorbin", path, "--arch", name, "--machine", machine]).ok();
            printed.replace(path, "QEMU")
        };
        assert_eq!(ask(arch.wrapper()), ask(arch.real()), "{}", suite.name());
    }
}
