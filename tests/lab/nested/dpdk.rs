//! DPDK in a guest with two passed-through network cards: `dpdk.sh`, run by hand, because the guest is emulated twice.

use super::TRIXIE;

#[test]
#[ignore = "5 minutes: cargo test --test nested testpmd -- --ignored"]
fn testpmd_forwards_between_passed_through_ports() {
    let Some(results) = TRIXIE.run("dpdk", 330) else { return };
    for (route, emulator, native) in
        [("native", "qemu-system-x86_64", "1"), ("wrapper", "viommu-qemu-system-x86_64", "0")]
    {
        let dpdk = results.of(&format!("dpdk-{route}"));
        for (key, value) in [
            ("status", "0"),
            ("applied", "0"),
            ("viommus", "1"),
            ("emulator", emulator),
            ("native", native),
            ("remapping", "1"),
            ("unsafe_interrupts", "N"),
            ("bound", "2"),
            // The counters of L1's interfaces at the other ends, the two network cards, and the generator.
            ("wire_sent", "10000"),
            ("wire_received", "10000"),
            ("port0", "received-10000-missed-0-errors-0"),
            ("port1", "sent-10000-errors-0"),
            ("testpmd", "0"),
            ("message", "sent 10000 received 10000"),
        ] {
            dpdk.assert_value(key, value);
        }
        assert!(["N", "unsupported"].contains(&dpdk.get("no_iommu")), "{}", dpdk.line);
        let groups: Vec<_> = dpdk.get("ports").split(',').filter_map(|port| port.split_once("-group-")).collect();
        assert!(groups.len() == 2 && groups[0].1 != groups[1].1, "not one group for each: {}", dpdk.line);
        assert!(groups.iter().all(|(_, group)| group.contains("-type-DMA")), "not translated: {}", dpdk.line);
        results.of(&format!("dpdk-{route}-end")).assert_clean();
    }
}
