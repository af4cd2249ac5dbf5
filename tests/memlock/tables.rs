//! The need of guests to lock memory and libvirt's limit, from other sources than viommu.

/// Title, and rows of: guest | libvirt | needs | libvirt sets | known from.
///
/// The first table has guests that really ran, with VFIO devices emulated in software: the limit is from
/// /proc/PID/limits; the need is `VmLck` rounded up to whole guest memories, and libvirt's 1 GiB. For the second table,
/// QEMU 10.0's containers were counted (`vfio_container_connect`). The other numbers are
/// `qemuDomainGetMemLockLimitBytes` and
/// `virDomainDefGetMemoryTotal` computed by hand.
pub(crate) const TABLES: [(&str, &str); 4] = [
    (
        "Guests that were started",
        "2 devices, no vIOMMU | 7.0.0 | 1476395008 | 1476395008 | libvirt 7.0 to 12.8: VmLck 392960 kB
        2 devices, intel | 9.0.0 | 1879048192 | 1879048192 | libvirt 9.0 to 12.8: VmLck 785920 kB
        2 devices, virtio | 12.8.0 | 1879048192 | 1879048192 | libvirt 12.8: VmLck 785920 kB
        3 devices, intel | 11.3.0 | 2281701376 | 2281701376 | libvirt 11.3 and 12.8: VmLck 1178880 kB
        4 devices, intel | 11.3.0 | 2684354560 | 2684354560 | libvirt 11.3 and 12.8: VmLck 1571840 kB
        4 devices, intel | 7.0.0 | 2684354560 | 1476395008 | libvirt 7.0: fails at the fourth device
        4 devices, intel by the wrapper | 11.3.0 | 2684354560 | 1476395008 | libvirt 7.0 to 12.8: fails at the fourth device; raised, VmLck 1571840 kB
        4 devices, intel by the wrapper, hard_limit of 2560 MiB | 7.0.0 | 2684354560 | 2684354560 | libvirt 7.0 to 12.8: VmLck 1571840 kB
        4 devices, intel in qemu:commandline | 9.0.0 | 2684354560 | 1476395008 | libvirt 9.0: fails at the fourth device; raised, VmLck 1571840 kB
        2 devices, 1.5 GiB, intel | 9.0.0 | 4294967296 | 4294967296 | libvirt 9.0 to 12.8: VmLck 3145728 kB
        2 devices, 1.5 GiB, intel | 7.0.0 | 4294967296 | 2684354560 | libvirt 7.0: fails at the second device
        3 devices, 1.5 GiB, intel by the wrapper | 9.0.0 | 5905580032 | 2684354560 | libvirt 9.0: fails at the second device; raised, VmLck 4717824 kB
        AArch64: 2 devices, virtio | 11.3.0 | 1879048192 | 1879048192 | libvirt 9.0 and 11.3: VmLck 786432 kB
        AArch64: 4 devices, virtio by the wrapper | 11.3.0 | 2684354560 | 1476395008 | libvirt 9.0 and 11.3: fails at the fourth device; with 2684354560, VmLck 1572864 kB
        2 devices by iommufd, no vIOMMU | 12.9.0 | 1476395008 | 1476395008 | libvirt 12.9: VmLck 393472 kB
        2 devices by iommufd, intel | 12.9.0 | 1879048192 | 1879048192 | libvirt 12.9: VmLck 786944 kB
        4 devices by iommufd, intel | 12.9.0 | 2684354560 | 2684354560 | libvirt 12.9: VmLck 1573888 kB
        4 devices by iommufd, intel by the wrapper | 12.9.0 | 2684354560 | 1476395008 | libvirt 12.9: fails at the fourth device; raised, VmLck 1573888 kB
        2 devices behind one pcie-to-pci-bridge, intel | 9.0.0 | 1476395008 | 1879048192 | libvirt 9.0: VmLck of one memory; libvirt counts devices",
    ),
    (
        "Where the devices are",
        "2 behind dmi-to-pci-bridge and pci-bridge, 1 behind a root port, intel | 11.3.0 | 3221225472 | 4294967296 | QEMU: one requester for a conventional bus
        2 functions of one slot, intel | 11.3.0 | 3221225472 | 3221225472 | QEMU: each function is a requester
        1 behind each of 2 pcie-expander-buses, intel | 11.3.0 | 3221225472 | 3221225472 | QEMU: 2 containers
        the same, and both bypass the vIOMMU | 11.3.0 | 2147483648 | 3221225472 | QEMU: 1 container for all that bypasses
        the same and 1 on the default bus, which alone bypasses | 11.3.0 | 4294967296 | 4294967296 | QEMU: 2 containers, and 1 for what bypasses
        2 mediated devices, intel | 11.3.0 | 3221225472 | 3221225472 | QEMU: 2 containers; the vendor's driver pins on demand, at most this
        1 mediated device, 1 PCI device, no vIOMMU | 11.3.0 | 2147483648 | 2147483648 | QEMU: 1 container
        no device, intel | 11.3.0 | - | - | nothing is pinned
        1 device, and 1 with an unassigned address, intel | 11.3.0 | 2147483648 | 3221225472 | QEMU does not get it, libvirt counts it
        1 device, and 1 as an interface, intel | 11.3.0 | 3221225472 | 3221225472 | an interface of type hostdev is a VFIO device too",
    ),
    (
        "Kinds of memory",
        "2 NUMA cells of 512 MiB, 2 devices, intel | 11.3.0 | 3221225472 | 3221225472 | the cells are the memory
        the same and a DIMM of 512 MiB | 11.3.0 | 4294967296 | 4294967296 | a DIMM is mapped in every container
        2 devices and 1 GiB of ivshmem, intel | 11.3.0 | 4294967296 | 2147483648 | QEMU maps it beside RAM in every container, and libvirt does not count it
        2 devices and video memory of 128 MiB, intel | 11.3.0 | 2382364672 | 2147483648 | QEMU's default is 16 MiB
        2 devices, 524289 KiB, intel | 11.3.0 | 2149580800 | 2149580800 | libvirt rounds 512 MiB and 1 KiB up to 513 MiB
        1 GiB that can grow to 4, 2 devices, intel | 11.3.0 | 9663676416 | 3221225472 | a memory hot-plug beyond the limit kills QEMU
        locked memory, 2 devices, intel | 11.3.0 | unlimited | unlimited | libvirt's test pc-locked+hostdev
        locked memory and a hard_limit of 2 GiB | 11.3.0 | 2147483648 | 2147483648 | libvirt's test pc-hardlimit+locked+hostdev",
    ),
    (
        "What libvirt of which version counts",
        "2 devices, 1.5 GiB, intel | 8.6.0 | 4294967296 | 2684354560 | one memory for all devices
        2 devices, 1.5 GiB, intel | 8.7.0 | 4294967296 | 4294967296 | one for each device behind an iommu
        2 devices, NVMe disk, vDPA interface and disk, intel | 7.0.0 | 3087007744 | 1476395008 | 5 memories needed, 1 counted
        2 devices, NVMe disk, vDPA interface and disk, intel | 8.6.0 | 3087007744 | 1476395008 | 5 needed, 1 counted
        2 devices, NVMe disk, vDPA interface and disk, intel | 8.7.0 | 3087007744 | 2684354560 | 5 needed, 4 counted: the vDPA disk is not
        2 devices, NVMe disk, vDPA interface and disk, intel | 9.0.0 | 3087007744 | 2684354560 | 5 needed, 4 counted: the vDPA disk is not
        2 devices, NVMe disk, vDPA interface and disk, intel | 9.3.0 | 3087007744 | 3087007744 | 5 needed, 5 counted
        2 devices, NVMe disk, vDPA interface and disk, intel | 11.3.0 | 3087007744 | 3087007744 | 5 needed, 5 counted
        2 devices, NVMe disk, vDPA interface and disk | 8.6.0 | 2684354560 | 1476395008 | 4 needed, 1 counted
        2 devices, NVMe disk, vDPA interface and disk | 9.0.0 | 2684354560 | 1879048192 | 4 needed, 2 counted: the interface, and 1 for VFIO and NVMe
        2 devices, NVMe disk, vDPA interface and disk | 11.3.0 | 2684354560 | 2684354560 | 4 needed, 4 counted
        1 device and an NVMe disk | 9.0.0 | 3221225472 | 2147483648 | 2 needed, 1 counted
        1 device and an NVMe disk | 11.3.0 | 3221225472 | 3221225472 | libvirt's test pc-hostdev-nvme
        an NVMe disk with an NVMe backing file | 11.3.0 | 3221225472 | 2147483648 | QEMU opens each image, libvirt counts the disk
        a vDPA interface | 7.0.0 | 2147483648 | - | not counted before 7.2.0
        a vDPA interface | 7.2.0 | 2147483648 | 2147483648 | counted since 7.2.0
        a vDPA interface | 11.3.0 | 2147483648 | 2147483648 | counted since 7.2.0",
    ),
];
