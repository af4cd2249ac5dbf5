//! An unprivileged user, or a process with the guests' uid, cannot change a guest's plan or get a raised limit.

use crate::guests::{Arch, RECORD, STATE, UUID, pid, viommu, wrapped};
use crate::support::libvirt::{Suite, shared};
use crate::support::on_both_suites;

on_both_suites! {
    no_other_user_changes_a_guests_plan
    no_other_user_raises_a_limit
}

const USERS: [&str; 2] = ["nobody", "libvirt-qemu"];

/// Attacks on the files of a running guest, as bash; `$state`, `$record` and `$pidfile` are the guest's.
const ATTEMPTS: [&str; 12] = [
    "echo forged >$state",
    "echo forged >>$record",
    "rm -f $state",
    "mv $state $state.gone",
    "ln -sf /dev/null $state",
    "cp /etc/passwd /run/viommu/00000000-0000-4000-8000-000000000000.json",
    "cp /etc/passwd /var/lib/viommu/00000000-0000-4000-8000-000000000000.json",
    "mv /run/viommu /run/other",
    "rm -rf /var/lib/viommu",
    "echo 1 >$pidfile",
    "chmod 777 /run/viommu",
    // The hook, by hand, with the guest's own XML: it cannot write either.
    "/usr/bin/viommu hook live start begin - </tmp/live.xml",
];

fn no_other_user_changes_a_guests_plan(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    guest.virsh("start", &[]).ok();
    lab.wait_for(&format!("[ -e {RECORD} ]"));
    let xml = guest.virsh("dumpxml", &[]).ok();
    lab.put("/tmp/live.xml", &xml);
    let listing = || lab.run(&format!("cat {STATE} {RECORD}; ls -lnR /run/viommu /var/lib/viommu")).ok();
    let before = listing();
    for user in USERS {
        for attempt in ATTEMPTS {
            let script = format!(
                "state={STATE} record={RECORD} pidfile=/run/libvirt/qemu/live.pid; export state record pidfile
                 chmod 644 /tmp/live.xml
                 runuser -u {user} -- bash -c '{attempt}'"
            );
            let output = lab.run(&script);
            assert_ne!(output.status, 0, "{user} could: {attempt}");
            assert_eq!(listing(), before, "{user}: {attempt}");
        }
    }
    assert_eq!(viommu(&guest).driver, "intel-iommu");
}

fn no_other_user_raises_a_limit(suite: Suite) {
    let Some(lab) = shared(suite) else { return };
    let guest = lab.guest(&wrapped(Arch::X86, "intel"));
    guest.virsh("start", &[]).ok();
    let limits = |pid: u32| lab.run(&format!("grep 'Max locked memory' /proc/{pid}/limits")).ok();
    let own = limits(pid(&lab));
    for user in USERS {
        // viommu gives an unprivileged user no additional permission.
        let output = lab.run(&format!("runuser -u {user} -- /usr/bin/viommu memlock --pid {} --raise", pid(&lab)));
        assert_ne!(output.status, 0, "{user}: {output:?}");
        assert_eq!(limits(pid(&lab)), own);
        // A process with the arguments of the guest's QEMU is refused, also for root.
        let output = lab.run(&format!(
            "runuser -u {user} -- bash -c 'echo $$ >/tmp/forged.{user}; read -r -t 60 line < <(sleep 60)' \\
                 qemu -name guest=live -uuid {UUID} >/dev/null 2>&1 </dev/null &
             until [ -s /tmp/forged.{user} ]; do sleep 0.05; done
             forged=$(cat /tmp/forged.{user})
             grep 'Max locked memory' /proc/$forged/limits
             /usr/bin/viommu memlock --pid $forged --raise; echo status=$?
             grep 'Max locked memory' /proc/$forged/limits
             kill $forged; rm /tmp/forged.{user}"
        ));
        assert!(
            output.stdout.contains("status=2") && output.stderr.contains("no guard has recorded its process"),
            "{output:?}"
        );
        let limits: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("Max")).collect();
        assert!(limits.len() == 2 && limits[0] == limits[1], "{output:?}");
    }
}
