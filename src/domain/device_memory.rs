//! Memory that QEMU maps into the guest beside its RAM: what devices bring along. libvirt does not count it.
//!
//! NVDIMMs, virtio-pmem and other `<memory>` devices are not among it, because libvirt counts them as RAM
//! (`virDomainDefGetMemoryTotal`).

use std::collections::BTreeMap;

use super::lookup::{attribute, overrides};
use super::memory::{KIB, MIB, not_a_number, size};
use super::number::{decimal, decimal32};
use crate::note::Note;
use crate::qemu::{self, DeviceMemory, Globals};
use crate::xml::Element;

/// libvirt's size of a `<shmem>` that has none (`qemuDomainShmemDefPostParse`).
const SHMEM: u64 = 4 * MIB;

/// The memory of all devices, those of `<qemu:commandline>` included.
///
/// # Errors
///
/// [`crate::note::Code::DomainInvalid`] where libvirt refuses a size.
pub(super) fn device_memory(domain: Element<'_, '_>, commandline: &[String]) -> Result<DeviceMemory, Note> {
    let shmem = domain.all(&["devices", "shmem"]).into_iter().map(shmem).collect::<Result<Vec<u64>, Note>>()?;
    let shmem = shmem.into_iter().map(|extra| DeviceMemory { usual: 0, extra });
    let mut videos = domain.all(&["devices", "video"]);
    // libvirt moves the primary one to the front, and names them by their place.
    videos.sort_by_key(|video| video.child_prop("model", "primary") != Some("yes"));
    let mut memory = shmem.fold(qemu::device_memory(commandline), |sum, memory| sum + memory);
    let (globals, overrides) = (Globals::of(commandline), overrides(domain));
    for (index, video) in videos.into_iter().enumerate() {
        let Some(model) = video.child("model") else { continue };
        readable(model)?;
        let Some((drivers, mut properties)) = display(model) else { continue };
        let alias = attribute(video, &["alias"], "name").map_or_else(|| format!("video{index}"), str::to_owned);
        for &(name, value) in overrides.get(alias.as_str()).into_iter().flatten() {
            match value {
                Some(value) => properties.insert(name.to_owned(), value.to_owned()),
                None => properties.remove(name),
            };
        }
        let global = |name: &str| drivers.iter().find_map(|driver| globals.get(driver, name));
        let value = |name: &str| properties.get(name).map(String::as_str).or_else(|| global(name));
        memory = memory + DeviceMemory::of(drivers.first().copied().unwrap_or_default(), value);
    }
    Ok(memory)
}

/// Refuses a `<video><model>` with a number that libvirt cannot read, of whatever type (`virDomainVideoModelDefParseXML`).
fn readable(model: Element<'_, '_>) -> Result<(), Note> {
    for name in ["ram", "vram", "vram64", "vgamem", "heads"] {
        if let Some(text) = model.prop(name).filter(|text| decimal32(text).is_none()) {
            return Err(not_a_number(&format!("{name} of a video model"), text));
        }
    }
    Ok(())
}

/// One with a doorbell is as large as its server says, which the domain may repeat.
fn shmem(shmem: Element<'_, '_>) -> Result<u64, Note> {
    let doorbell = shmem.child_prop("model", "type") == Some("ivshmem-doorbell");
    let bytes = size(shmem, &[], "size", 1)?.filter(|&bytes| bytes > 0);
    Ok(bytes.unwrap_or(if doorbell { 0 } else { SHMEM }))
}

/// The QEMU types that libvirt may choose for a `<video><model>`, and the sizes that it gives them, which are in KiB in the domain;
/// none for a display without memory that QEMU maps (`qemuBuildDeviceVideoCmd`).
fn display(model: Element<'_, '_>) -> Option<(&'static [&'static str], BTreeMap<String, String>)> {
    let sizes = |sizes: &[(&str, &str, u64)]| {
        let size = |&(attribute, property, unit): &(&str, &str, u64)| {
            let kibibytes = model.prop(attribute).and_then(decimal)?;
            let bytes = kibibytes.saturating_mul(KIB);
            // libvirt rounds up to a power of two.
            let bytes = bytes.checked_next_power_of_two().unwrap_or(bytes);
            (kibibytes > 0).then(|| (property.to_owned(), (bytes / unit).to_string()))
        };
        sizes.iter().filter_map(size).collect()
    };
    Some(match model.prop("type") {
        Some("qxl") => (
            &["qxl", "qxl-vga"],
            sizes(&[
                ("ram", "ram_size", 1),
                ("vram", "vram_size", 1),
                ("vram64", "vram64_size_mb", MIB),
                ("vgamem", "vgamem_mb", MIB),
            ]),
        ),
        Some("bochs") => (&["bochs-display"], sizes(&[("vram", "vgamem", 1)])),
        Some("vmvga") => (&["vmware-svga"], sizes(&[("vram", "vgamem_mb", MIB)])),
        Some("vga") | None => (&["VGA"], sizes(&[("vram", "vgamem_mb", MIB)])),
        // libvirt leaves its memory to QEMU.
        Some("virtio") => (&["virtio-vga", "virtio-gpu-pci", "virtio-vga-gl", "virtio-gpu-gl-pci"], BTreeMap::new()),
        Some(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::read::{from_text, refused};

    fn memory(devices: &str) -> u64 {
        from_text(&format!("<domain><devices>{devices}</devices></domain>")).device_memory.extra
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

    /// Each of these was given to libvirt 7.0 and 11.3.
    #[test]
    fn numbers_of_a_display_are_libvirts() {
        for model in
            ["vram='16M'", "vram='-1'", "vram='0x4000'", "vram='4294967296'", "vram=''", "ram='x'", "heads='x'"]
        {
            for kind in ["vga", "cirrus", "virtio", "qxl"] {
                refused(&format!("<domain><devices><video><model type='{kind}' {model}/></video></devices></domain>"));
            }
        }
        for model in ["vram=' 16384'", "vram='+16384'", "vram='0'"] {
            assert_eq!(memory(&format!("<video><model type='vga' {model}/></video>")), 0, "{model}");
        }
    }

    #[test]
    fn displays_have_default_memory() {
        let usual = |models: &[&str]| {
            let videos: Vec<_> = models.iter().map(|model| format!("<video><model {model}/></video>")).collect();
            from_text(&format!("<domain><devices>{}</devices></domain>", videos.concat())).device_memory.usual
        };
        assert_eq!(usual(&["type='qxl'", "type='qxl' ram='65536' vram='65536' vgamem='16384'"]), 256 * MIB);
        assert_eq!(usual(&["type='vga'", "type='bochs'", "type='vmvga'"]), 48 * MIB);
        assert_eq!(usual(&["type='virtio'", "type='cirrus'", "type='none'", "type='ramfb'"]), 8 * MIB);
        assert_eq!(usual(&["type='vga' vram='131072'"]), 16 * MIB);
    }

    #[test]
    fn what_libvirt_does_not_see() {
        let memory = |videos: &str, arguments: &[&str], overridden: &str| {
            let arguments: Vec<_> = arguments.iter().map(|value| format!("<q:arg value='{value}'/>")).collect();
            let arguments = arguments.concat();
            let text = format!(
                "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><devices>{videos}</devices>
                   <q:commandline>{arguments}</q:commandline>
                   <q:override><q:device alias='{overridden}'><q:frontend>
                     <q:property name='vgamem_mb' type='unsigned' value='64'/></q:frontend></q:device></q:override></domain>"
            );
            from_text(&text).device_memory.extra
        };
        let vga = "<video><model type='vga' vram='32768'/></video>";
        assert_eq!(memory("", &["-device", "VGA,vgamem_mb=32"], "video0"), 16 * MIB);
        assert_eq!(memory(vga, &[], "net0"), 16 * MIB);
        assert_eq!(memory(vga, &["-device", "VGA,vgamem_mb=32"], "video0"), (48 + 16) * MIB, "it replaces the size");
        let two = "<video><model type='cirrus'/></video><video><model type='vga' primary='yes'/></video>";
        assert_eq!(memory(two, &[], "video0"), 48 * MIB, "the primary display is the first");
        let named = "<video><model type='vga'/><alias name='ua-x'/></video>";
        assert_eq!(memory(named, &[], "ua-x"), 48 * MIB);
        // libvirt gives sizes to VGA and not to virtio.
        assert_eq!(memory(vga, &["-global", "VGA.vgamem_mb=128"], ""), 16 * MIB);
        let virtio = "<video><model type='virtio'/></video>";
        assert_eq!(memory(virtio, &["-global", "virtio-gpu-pci.hostmem=1G"], ""), 1024 * MIB);
    }
}
