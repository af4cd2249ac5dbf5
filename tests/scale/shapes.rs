//! Documents of a variable size and a certain shape: realistic ones, and hostile ones.

use super::sized;

/// A document of this shape; the number gives its size.
pub(crate) struct Shape {
    pub(crate) what: &'static str,
    /// The number for a document of about 50 KB.
    pub(crate) number: usize,
    pub(crate) make: fn(usize) -> String,
    /// Whether the document is refused before it is parsed.
    pub(crate) refused: bool,
}

/// Repeats the text, with the repetition's number in place of `#`.
fn numbered(count: usize, piece: &str) -> String {
    (1..=count).map(|number| piece.replace('#', &number.to_string())).collect()
}

/// The gateway with additional elements before its `</devices>`.
fn with_devices(devices: &str) -> String {
    sized::GATEWAY.replace("  </devices>", &format!("{devices}  </devices>"))
}

/// The gateway with additional elements in its metadata.
fn with_arguments(arguments: &str) -> String {
    let open = "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>";
    sized::GATEWAY.replace("</domain>", &format!("{open}{arguments}</q:commandline></domain>"))
}

fn with_metadata(metadata: &str) -> String {
    sized::GATEWAY.replace("  </metadata>", &format!("{metadata}</metadata>"))
}

const HOSTDEV: &str =
    "    <hostdev mode='subsystem' type='pci'><source><address domain='#' bus='1' slot='0' function='0'/></source>";

fn hostdevs(count: usize) -> String {
    with_devices(&numbered(count, &format!("{HOSTDEV}</hostdev>\n")))
}

/// All devices behind all bridges.
fn bridges(count: usize) -> String {
    let bridge =
        "    <controller type='pci' index='#' model='pci-bridge'><address type='pci' bus='@' slot='1'/></controller>\n";
    let chain: String =
        (1..=count).map(|n| bridge.replace('#', &n.to_string()).replace('@', &(n - 1).to_string())).collect();
    let device = format!("{HOSTDEV}<address type='pci' bus='{count}' slot='2'/></hostdev>\n");
    with_devices(&(chain + &numbered(count, &device)))
}

/// The same, all in `<qemu:commandline>`.
fn hidden_bridges(count: usize) -> String {
    let bridge = "<q:arg value='-device'/><q:arg value='pci-bridge,id=b#,bus=b@'/>\n";
    let chain: String =
        (1..=count).map(|n| bridge.replace('#', &n.to_string()).replace('@', &(n - 1).to_string())).collect();
    let device = format!("<q:arg value='-device'/><q:arg value='vfio-pci,host=#:1:0.0,bus=b{count}'/>\n");
    with_arguments(&(chain + &numbered(count, &device)))
}

/// Displays, each with an override.
fn displays(count: usize) -> String {
    let videos = numbered(count, "    <video><model type='vga'/><alias name='ua-#'/></video>\n");
    let overrides = numbered(
        count,
        "<q:device alias='ua-#'><q:frontend><q:property name='vgamem_mb' type='unsigned' value='64'/></q:frontend></q:device>\n",
    );
    let open = "  <q:override xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\n";
    with_devices(&videos).replace("</domain>", &format!("{open}{overrides}</q:override></domain>"))
}

fn vcpus(count: usize) -> String {
    let pins = numbered(count, "    <vcpupin vcpu='#' cpuset='#'/>\n");
    let guest = sized::GATEWAY.replace("  </cputune>", &format!("{pins}  </cputune>"));
    guest.replace("<vcpu placement='static'>8<", &format!("<vcpu placement='static'>{count}<"))
}

fn cells(count: usize) -> String {
    let cells = numbered(count, "      <cell id='#' cpus='#' memory='1048576' unit='KiB' memAccess='shared'/>\n");
    sized::GATEWAY.replace("    <cache mode", &format!("    <numa>\n{cells}    </numa>\n    <cache mode"))
}

fn arguments(count: usize) -> String {
    let pair =
        "<q:arg value='-device'/><q:arg value='e1000e,id=n#'/><q:arg value='-global'/><q:arg value='e1000e.p#=1'/>\n";
    with_arguments(&numbered(count, pair))
}

fn nova(count: usize) -> String {
    let specs = numbered(count, "<n:extraSpec name='a:#'>#</n:extraSpec>");
    with_metadata(&format!(
        "<n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:flavor name='f'><n:extraSpecs>{specs}\
         </n:extraSpecs></n:flavor></n:instance>"
    ))
}

pub(crate) const SHAPES: [Shape; 25] = [
    Shape { what: "disks", number: 50_000, make: sized::requesting, refused: false },
    Shape { what: "1,000 passed-through devices", number: 1000, make: hostdevs, refused: false },
    Shape { what: "devices behind bridges behind bridges", number: 200, make: bridges, refused: false },
    Shape { what: "4,096 vCPUs, each pinned", number: 4096, make: vcpus, refused: false },
    Shape { what: "500 NUMA cells", number: 500, make: cells, refused: false },
    Shape { what: "hidden devices behind hidden bridges", number: 1200, make: hidden_bridges, refused: false },
    Shape { what: "displays with overrides", number: 1000, make: displays, refused: false },
    Shape { what: "QEMU arguments", number: 800, make: arguments, refused: false },
    Shape { what: "Nova extra specs", number: 1000, make: nova, refused: false },
    Shape {
        what: "vIOMMUs",
        number: 2000,
        make: |n| with_devices(&"<iommu model='intel'/>".repeat(n)),
        refused: false,
    },
    Shape { what: "elements in elements", number: 16_000, make: |n| with_metadata(&"<a>".repeat(n)), refused: true },
    Shape {
        what: "attributes of one element",
        number: 4500,
        make: |n| with_metadata(&format!("<a{}/>", numbered(n, " a#='#'"))),
        refused: true,
    },
    Shape {
        what: "elements of 64 attributes",
        number: 80,
        make: |n| with_metadata(&format!("<a{}/>", numbered(64, " a#='#'")).repeat(n)),
        refused: false,
    },
    Shape {
        what: "namespaces in namespaces",
        number: 2200,
        make: |n| with_metadata(&numbered(n, "<a xmlns:p#='urn:#'>")),
        refused: true,
    },
    Shape {
        what: "a namespace of a long name",
        number: 50_000,
        make: |n| with_metadata(&format!("<a xmlns:p='{}'/>", "u".repeat(n))),
        refused: true,
    },
    Shape {
        what: "attributes of a namespace",
        number: 100,
        make: |n| {
            with_metadata(&format!(
                "<p:x xmlns:p='{}'>{}</p:x>",
                "u".repeat(256),
                format!("<a{}/>", numbered(60, " p:a#=''")).repeat(n)
            ))
        },
        refused: false,
    },
    Shape {
        what: "entities of entities",
        number: 2500,
        make: |n| format!("<!DOCTYPE d [{}]>{}", numbered(n, "<!ENTITY e# '&e;&e;'>"), sized::GATEWAY),
        refused: true,
    },
    Shape {
        what: "references in a text",
        number: 10_000,
        make: |n| with_metadata(&format!("<a>{}</a>", "&amp;".repeat(n))),
        refused: false,
    },
    Shape {
        what: "one long text",
        number: 50_000,
        make: |n| with_metadata(&format!("<a>{}</a>", "x\r\n".repeat(n / 3))),
        refused: false,
    },
    Shape {
        what: "one long attribute",
        number: 50_000,
        make: |n| with_metadata(&format!("<a b='{}'/>", "x\t".repeat(n / 2))),
        refused: false,
    },
    Shape {
        what: "pieces of one text",
        number: 4000,
        make: |n| with_metadata(&format!("<a>{}</a>", "x<![CDATA[y]]>".repeat(n))),
        refused: false,
    },
    Shape { what: "tiny elements", number: 12_000, make: |n| with_devices(&"<a/>".repeat(n)), refused: false },
    Shape {
        what: "tiny elements and texts",
        number: 4000,
        make: |n| with_devices(&"<a/>12345678".repeat(n)),
        refused: false,
    },
    Shape { what: "comments", number: 7000, make: |n| with_devices(&"<!---->".repeat(n)), refused: false },
    Shape {
        what: "open comments",
        number: 12_000,
        make: |n| sized::GATEWAY.replace("</domain>", &"<!--".repeat(n)),
        refused: true,
    },
];
