//! The memory of a host PCI function that a guest maps: its base address registers (BARs).

/// The sum of the memory BARs, bytes, by the function's `resource` file in sysfs: first and last address and flags of each
/// resource, of which the first six are the BARs (`resource_show`, drivers/pci/pci-sysfs.c).
pub(super) fn memory(resource: &str) -> u64 {
    const BARS: usize = 6;
    /// `IORESOURCE_MEM` (include/linux/ioport.h).
    const MEMORY: u64 = 0x200;
    let bytes = |line: &str| {
        let mut words = line.split_whitespace().map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        let (first, last, flags) = (words.next()??, words.next()??, words.next()??);
        (flags & MEMORY != 0).then(|| last.saturating_sub(first).saturating_add(1))
    };
    resource.lines().take(BARS).filter_map(bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A GTX 970. lspci prints: Memory at f6000000 [size=16M], e0000000 [size=256M], f0000000 [size=32M], I/O ports at
    // e000 [size=128], Expansion ROM at f7000000 [disabled] [size=512K].
    #[test]
    fn only_bars_and_only_memory_count() {
        let resource = "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n\
             0x00000000e0000000 0x00000000efffffff 0x000000000014220c\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x00000000f0000000 0x00000000f1ffffff 0x000000000014220c\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x000000000000e000 0x000000000000e07f 0x0000000000040101\n\
             0x00000000f7000000 0x00000000f707ffff 0x0000000000046200\n";
        assert_eq!(memory(resource), (16 + 256 + 32) << 20);
        for nonsense in ["", "0x1", "x y z\n", "0x0 0xffffffffffffffff 0x200\n0x0 0xffffffffffffffff 0x200\n"] {
            assert!([0, u64::MAX].contains(&memory(nonsense)), "{nonsense}");
        }
    }
}
