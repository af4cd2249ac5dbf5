//! Memory that QEMU maps into the guest beside its RAM: what devices bring along. libvirt does not count it.
//!
//! NVDIMMs, virtio-pmem and other `<memory>` devices are not among it, because libvirt counts them as RAM
//! (`virDomainDefGetMemoryTotal`). Video memory of QEMU's default size is not, either.

use super::lookup::overrides;
use super::memory::{KIB, MIB, size};
use super::number::decimal;
use crate::note::Note;
use crate::qemu;
use crate::xml::Element;

/// libvirt's size of a `<shmem>` that has none (`qemuDomainShmemDefPostParse`).
const SHMEM: u64 = 4 * MIB;

/// Bytes, once for each address space; saturates.
///
/// # Errors
///
/// [`crate::note::Code::DomainInvalid`] where libvirt refuses a size.
pub(super) fn device_memory(domain: Element<'_, '_>, commandline: &[String]) -> Result<u64, Note> {
    let shmem = domain.all(&["devices", "shmem"]).into_iter().map(shmem).collect::<Result<Vec<u64>, Note>>()?;
    let video = domain.all(&["devices", "video", "model"]).into_iter().map(video);
    let hidden = [qemu::device_memory(commandline)];
    let overrides = overrides(domain).into_iter();
    let overridden = overrides.map(|(_, name, value)| qemu::own_memory(name, value.unwrap_or_default()));
    let all = shmem.into_iter().chain(video).chain(overridden).chain(hidden);
    Ok(all.fold(0, u64::saturating_add))
}

/// One with a doorbell is as large as its server says, which the domain may repeat.
fn shmem(shmem: Element<'_, '_>) -> Result<u64, Note> {
    let doorbell = shmem.child_prop("model", "type") == Some("ivshmem-doorbell");
    let bytes = size(shmem, &[], "size", 1)?.filter(|&bytes| bytes > 0);
    Ok(bytes.unwrap_or(if doorbell { 0 } else { SHMEM }))
}

/// What of the memory of a `<video><model>`, in KiB there, exceeds QEMU's default.
fn video(model: Element<'_, '_>) -> u64 {
    let bytes = |name| model.prop(name).and_then(decimal).unwrap_or(0).saturating_mul(KIB);
    let rounded = |bytes: u64| bytes.checked_next_power_of_two().unwrap_or(bytes);
    let above = |bytes: u64, default: u64| rounded(bytes).saturating_sub(default);
    match model.prop("type") {
        // The frame buffer is a part of its RAM, and at most half of it (qxl_init_ramsize). The 64-bit BAR maps the memory of
        // the 32-bit one again, and exists only if it is larger (qxl_realize_common).
        Some("qxl") => {
            let ram = bytes("ram").max(bytes("vgamem").saturating_mul(2));
            let small = model.prop("vram").map_or(64 * MIB, |_| bytes("vram"));
            let large = Some(rounded(bytes("vram64"))).filter(|&large| large > rounded(small)).unwrap_or(0);
            above(ram, 64 * MIB).saturating_add(above(small, 64 * MIB)).saturating_add(large)
        }
        Some("vga" | "vmvga" | "bochs") | None => above(bytes("vram"), 16 * MIB),
        // libvirt leaves the memory of the others to QEMU.
        Some(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::from_text;

    fn memory(devices: &str) -> u64 {
        from_text(&format!("<domain><devices>{devices}</devices></domain>")).device_memory
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn shared_memory() {
        for (shmem, bytes) in [
            // From shmem-plain-doorbell.xml.
            ("<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>128</size></shmem>", 128 * MIB),
            ("<shmem name='s'><size>1048576</size></shmem>", MIB),
            ("<shmem name='s'/>", 4 * MIB),
            ("<shmem name='s'><model type='ivshmem-doorbell'/><server path='/x'/></shmem>", 0),
            ("<shmem name='s'><model type='ivshmem-doorbell'/><size unit='G'>1</size></shmem>", 1024 * MIB),
        ] {
            assert_eq!(memory(shmem), bytes, "{shmem}");
        }
    }

    #[test]
    fn video_memory_above_the_default() {
        for (model, bytes) in [
            ("<model type='vga' vram='16384' heads='1' primary='yes'/>", 0),
            ("<model type='vga'/>", 0),
            ("<model type='vga' vram='131072'/>", 112 * MIB),
            ("<model type='bochs' vram='100000'/>", 112 * MIB),
            ("<model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='1'/>", 0),
            ("<model type='qxl' ram='131072' vram='65536' vgamem='16384'/>", 64 * MIB),
            ("<model type='qxl' ram='65536' vram='65536' vgamem='65536'/>", 64 * MIB),
            ("<model type='qxl' ram='65536' vram='65536' vram64='262144' vgamem='16384'/>", 256 * MIB),
            // 'info pci' of QEMU 7.2 shows no BAR 4 here.
            ("<model type='qxl' ram='65536' vram='131072' vram64='65536' vgamem='16384'/>", 64 * MIB),
            ("<model type='qxl' ram='65536' vram='65536' vram64='100000' vgamem='16384'/>", 128 * MIB),
            ("<model type='virtio' vram='999999'/>", 0),
        ] {
            assert_eq!(memory(&format!("<video>{model}</video>")), bytes, "{model}");
        }
    }

    #[test]
    fn device_memory_in_the_command_line() {
        let domain = from_text(
            "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>
               <q:commandline><q:arg value='-device'/><q:arg value='VGA,vgamem_mb=32'/></q:commandline>
               <q:override><q:device alias='video0'><q:frontend><q:property name='vgamem_mb' type='unsigned' value='64'/>
               </q:frontend></q:device></q:override></domain>",
        );
        assert_eq!(domain.device_memory, (16 + 48) * MIB);
    }
}
