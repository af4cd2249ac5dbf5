//! Processors: how many, in which topology, and the APIC ids that follow from it.

use super::lookup::string;
use super::number::decimal32;
use super::{Topology, Vcpus};
use crate::note::{Code, Note};
use crate::xml::Element;

/// CPU models whose vendor is AMD, by the start of libvirt's name for them (`src/cpu_map/x86_*.xml`).
const AMD_MODELS: [&str; 4] = ["epyc", "opteron", "athlon", "phenom"];

impl Vcpus {
    /// Reads `<vcpu>` and `<cpu><topology>` of a `<domain>`.
    ///
    /// # Errors
    ///
    /// [`Code::DomainInvalid`] where libvirt refuses the number.
    pub(super) fn read(domain: Element<'_, '_>) -> Result<Vcpus, Note> {
        // The content of <vcpu> is the maximum (virDomainVcpuParse); current= is only how many are plugged at the start.
        let number = domain.child("vcpu").map(Element::string);
        let maximum = number.as_deref().map_or(Some(1), decimal32).filter(|&maximum| maximum > 0);
        Ok(Vcpus {
            maximum: maximum.ok_or_else(no_number)?,
            topology: domain.child("cpu").and_then(|cpu| cpu.child("topology")).map(Topology::read),
        })
    }

    /// The APIC id that QEMU gives to the last possible vCPU of an x86 guest, which is the highest of all.
    ///
    /// Each level of the topology has a field of its own, as wide as its count needs when rounded up to a power of two,
    /// so ids have gaps and grow faster than the number of vCPUs (`x86_apicid_from_cpu_idx()` in QEMU's
    /// include/hw/i386/topology.h). Saturates at the largest 32-bit number.
    #[must_use]
    pub fn highest_apic_id(&self) -> u32 {
        // Without a topology libvirt passes sockets=N,cores=1,threads=1 (qemuBuildSmpCommandLine).
        let flat = Topology { dies: 1, clusters: 1, cores: 1, threads: 1 };
        let topology = self.topology.unwrap_or(flat);
        let mut index = self.maximum.saturating_sub(1);
        let mut id = 0_u128;
        let mut offset = 0;
        for count in [topology.threads, topology.cores, topology.clusters, topology.dies] {
            let count = count.max(1);
            id |= field(index % count, offset);
            index /= count;
            offset += (count - 1).checked_ilog2().map_or(0, |bit| bit + 1);
        }
        // What is left counts sockets, whose field has no upper end.
        u32::try_from(id | field(index, offset)).unwrap_or(u32::MAX)
    }
}

fn no_number() -> Note {
    Note::error(
        Code::DomainInvalid,
        "libvirt does not accept the domain's number of vCPUs: write a whole number into <vcpu>",
    )
}

/// The number in a field that starts at bit `offset`.
fn field(number: u32, offset: u32) -> u128 {
    // Four fields of at most 32 bits: only a zero can be shifted by 128.
    u128::from(number).checked_shl(offset).unwrap_or(0)
}

impl Topology {
    fn read(topology: Element<'_, '_>) -> Topology {
        let count = |name| topology.prop(name).and_then(decimal32).filter(|&count| count > 0).unwrap_or(1);
        Topology { dies: count("dies"), clusters: count("clusters"), cores: count("cores"), threads: count("threads") }
    }
}

/// Whether `<cpu>` names AMD as the vendor, itself or through its model.
pub(super) fn is_amd(domain: Element<'_, '_>) -> bool {
    let Some(cpu) = domain.child("cpu") else { return false };
    let text = |name| string(cpu, &[name]).unwrap_or_default().to_ascii_lowercase();
    let model = text("model");
    text("vendor") == "amd" || AMD_MODELS.iter().any(|start| model.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::super::read::{from_text, refused};
    use super::*;

    fn vcpus(maximum: u32, [_sockets, dies, clusters, cores, threads]: [u32; 5]) -> Vcpus {
        Vcpus { maximum, topology: Some(Topology { dies, clusters, cores, threads }) }
    }

    #[test]
    fn apic_ids_as_in_qemus_own_test() {
        // x86_apicid_from_cpu_idx() in QEMU's tests/unit/test-x86-topo.c; the last vCPU's index is the maximum less one.
        for (index, apic_id) in [
            (2, 2),
            (3 + 1, 1 << 2 | 1),
            (2 * 3, 2 << 2),
            (5 * 3 + 2, 5 << 2 | 2),
            (6 * 3, 1 << 5),
            (6 * 3 + 3 + 1, 1 << 5 | 1 << 2 | 1),
            (3 * 6 * 3 + 5 * 3 + 2, 3 << 5 | 5 << 2 | 2),
        ] {
            assert_eq!(vcpus(index + 1, [4, 1, 1, 6, 3]).highest_apic_id(), apic_id, "{index}");
        }
        // The same test fixes the widths: 2 threads 1 bit, 30 cores 5 bits, 3 dies 2 bits; so the second socket is bit 8.
        assert_eq!(vcpus(3 * 30 * 2 + 1, [2, 3, 1, 30, 2]).highest_apic_id(), 1 << 8);
        assert_eq!(vcpus(3 * 30 * 2 + 1, [2, 1, 3, 30, 2]).highest_apic_id(), 1 << 8);
    }

    #[test]
    fn gaps_push_ids_beyond_the_count() {
        // Found with QEMU 10.0: -smp 198,sockets=3,cores=33,threads=2 trips the checks for ids above 255.
        let apic_id = vcpus(198, [3, 1, 1, 33, 2]).highest_apic_id();
        assert_eq!(apic_id, 2 << 7 | 32 << 1 | 1);
        assert!(apic_id > 255);
        assert_eq!(vcpus(256, [2, 1, 1, 64, 2]).highest_apic_id(), 255);
    }

    #[test]
    fn without_a_topology_every_vcpu_is_a_socket() {
        assert_eq!(Vcpus { maximum: 255, topology: None }.highest_apic_id(), 254);
        assert_eq!(Vcpus { maximum: 1, topology: None }.highest_apic_id(), 0);
        assert_eq!(Vcpus::default().highest_apic_id(), 0);
    }

    #[test]
    fn absurd_topologies_end_at_the_largest_number() {
        let large = u32::MAX;
        assert_eq!(vcpus(large, [large; 5]).highest_apic_id(), large - 1);
        assert_eq!(vcpus(large, [large, 3, 3, 3, 3]).highest_apic_id(), large);
        assert_eq!(vcpus(9, [0; 5]).highest_apic_id(), 8);
    }

    #[test]
    fn reads_the_maximum_and_the_topology() {
        let domain = from_text(
            "<domain><vcpu placement='static' current='2'> 8</vcpu>
             <cpu><topology sockets='2' dies='1' cores='2' threads='2'/></cpu></domain>",
        );
        assert_eq!(domain.vcpus, vcpus(8, [2, 1, 1, 2, 2]));
        assert_eq!(from_text("<domain/>").vcpus, Vcpus { maximum: 1, topology: None });
        for vcpu in ["<vcpu/>", "<vcpu>0</vcpu>", "<vcpu>many</vcpu>", "<vcpu>4294967296</vcpu>", "<vcpu>2 </vcpu>"] {
            refused(&format!("<domain>{vcpu}</domain>"));
        }
    }

    #[test]
    fn reads_amds_iommu() {
        for (cpu, amd) in [
            ("<cpu><vendor>AMD</vendor></cpu>", true),
            ("<cpu mode='custom'><model fallback='allow'>EPYC-Rome</model></cpu>", true),
            ("<cpu><model>Opteron_G3</model></cpu>", true),
            ("<cpu><model>phenom</model></cpu>", true),
            ("<cpu><model>athlon</model></cpu>", true),
            ("<cpu><model>Skylake-Server</model><vendor>Intel</vendor></cpu>", false),
            ("<cpu mode='host-passthrough'/>", false),
            ("", false),
        ] {
            assert_eq!(from_text(&format!("<domain>{cpu}</domain>")).amd_cpu, amd, "{cpu}");
        }
    }
}
