//! The limit includes the memory of devices that QEMU maps beside RAM: a guest boots with a limit slightly above its
//! containers' locked memory, and does not boot with one slightly below.

use std::ffi::OsString;

use viommu::limit::Limit;

use crate::qemu::fake;
use crate::support::libvirt::Suite;
use crate::topology::{Dialect, THREE, Topology};
use crate::{GIB, decide, edited};

/// Firmware and option ROMs of two containers, and the default memory of a display.
const LITTLE: u64 = 64 << 20;

/// Two devices behind root ports, and a device with its own memory: as libvirt's XML, and as QEMU's arguments.
fn guests() -> [(Topology, [&'static str; 4]); 3] {
    let two = || Topology::q35("").root_ports(&THREE[..2]);
    let backend = r#"{"qom-type":"memory-backend-ram","id":"shmmem-shmem0","size":1073741824,"share":true}"#;
    let ivshmem = r#"{"driver":"ivshmem-plain","id":"shmem0","memdev":"shmmem-shmem0","bus":"pcie.0","addr":"0x8"}"#;
    let shmem = "<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>1024</size>
        <address type='pci' domain='0' bus='0' slot='8' function='0'/></shmem>";
    let vga = r#"{"driver":"VGA","id":"video0","vgamem_mb":256,"bus":"pcie.0","addr":"0x9"}"#;
    let video = "<video><model type='vga' vram='262144' heads='1' primary='yes'/>
        <address type='pci' domain='0' bus='0' slot='9' function='0'/></video>";
    let hidden = [
        "-object",
        "memory-backend-ram,id=m,size=512M,share=on",
        "-device",
        "ivshmem-plain,memdev=m,bus=pcie.0,addr=8",
    ];
    [
        (two().more_devices(shmem), ["-object", backend, "-device", ivshmem]),
        (two().more_devices(video), ["-device", vga, "-global", "VGA.xres=1024"]),
        (two().arguments(&hidden), ["-boot", "menu=off", "-rtc", "base=utc"]),
    ]
}

#[test]
fn device_memory_is_within_the_limit() {
    let Some(fake) = fake() else { return };
    for suite in Suite::ALL {
        for (topology, words) in guests() {
            let plan = decide(fake, &topology, "intel", suite, None).unwrap();
            let Some(Limit::Bytes(required)) = plan.memlock.required_bytes else { unreachable!("{plan:?}") };
            let mut arguments: Vec<OsString> = edited(&topology, Dialect::Json, &plan.qemu);
            arguments.retain(|argument| argument != "-S");
            arguments.extend(words.map(OsString::from));
            let boot = |limit| fake.boot(suite, "x86_64", &arguments, &[("FAKEVFIO_LIMIT", limit)]);
            let enough = boot(required - GIB + LITTLE);
            assert!(enough.started, "{words:?}: {} {}", enough.stderr, enough.answers);
            assert!(enough.peak > required - GIB - LITTLE, "{words:?}: only {} of {required} bytes", enough.peak);
            let short = boot(required - GIB - LITTLE);
            assert!(!short.started && short.stderr.contains("(Cannot allocate memory)"), "{words:?}: {}", short.stderr);
        }
    }
}
