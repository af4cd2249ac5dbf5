//! Domain documents from a seed. Each contains a few parts that a parser could read in several ways.

use crate::devices;

/// A generator of numbers that are the same in every run (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % (sides as u64)).unwrap()
    }

    pub(crate) fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.roll(words.len())]
    }

    /// A usual value; an odd one in one of three times `rarity` cases.
    pub(crate) fn mostly<'a>(&mut self, usual: &'a str, rarity: usize, odd: &[&'a str]) -> &'a str {
        if self.roll(3 * rarity) == 0 { self.pick(odd) } else { usual }
    }

    pub(crate) fn shuffle(&mut self, pieces: &mut [String]) {
        for index in (1..pieces.len()).rev() {
            pieces.swap(index, self.roll(index + 1));
        }
    }
}

/// A document, and the UUID by which libvirt finds its domain.
pub(crate) struct Made {
    pub(crate) xml: String,
    pub(crate) uuid: String,
}

const SIZES: [&str; 19] = [
    "1048576",
    " 1048576",
    "1048576 ",
    "+1048576",
    "0x100000",
    "1.5",
    "-1",
    "1e6",
    "01048576",
    "1<!-- c -->048576",
    "<![CDATA[1048576]]>",
    "&#49;048576",
    "",
    " ",
    "1<b>048576</b>",
    "9223372036854775807",
    "1049000",
    "2097153",
    "1 048576",
];
const UNITS: [&str; 21] = [
    "",
    " unit='KiB'",
    " unit='k'",
    " unit='K'",
    " unit='KB'",
    " unit='kib'",
    " unit='b'",
    " unit='bytes'",
    " unit='BYTE'",
    " unit=''",
    " unit=' KiB'",
    " unit='MiB'",
    " unit='GiBi'",
    " unit='X'",
    " unit='kk'",
    " unit='Kb'",
    " unit='EiB'",
    " x:unit='MiB'",
    " unit='&#75;iB'",
    " unit='kB'",
    " unit='iB'",
];
const NUMBERS: [&str; 11] = ["4", " 4", "4 ", "+4", "04", "0x4", "-4", "4.0", "&#52;", "", "\t\n4"];
pub(crate) const SWITCHES: [&str; 8] = ["on", "off", "yes", "On", "", " on", "o&#110;", "true"];

/// The document of a seed; equal in every run.
pub(crate) fn document(seed: u64) -> Made {
    let dice = &mut Dice::new(seed);
    let (uuid, uuid_text) = uuid(dice, seed);
    let mut parts = vec![
        names(dice, seed),
        uuid_text,
        memory(dice),
        vcpu(dice),
        os(dice),
        features(dice),
        cpu(dice),
        memtune(dice),
        backing(dice),
        devices::devices(dice),
        commandline(dice),
        metadata(dice),
    ];
    if dice.roll(4) == 0 {
        dice.shuffle(&mut parts);
    }
    let between = dice.mostly("\n", 6, &["", "<!-- between -->", "<?between?>", "\n<x:other/>\n"]);
    let kind =
        dice.mostly("type='qemu'", 12, &["type='qemu' x:type='kvm'", "x:type='kvm' type='qemu'", "type=' qemu'"]);
    let xml = format!(
        "<domain {kind} xmlns:x='urn:x' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{}</domain>",
        parts.join(between)
    );
    Made { xml, uuid }
}

fn names(dice: &mut Dice, seed: u64) -> String {
    let odd = [
        "<name>NAME </name>",
        "<name> NAME</name>",
        "<name>\tNAME</name>",
        "<name>NAME\n</name>",
        "<name>NA/ME</name>",
        "<name>NAME<!-- c --> b</name>",
        "<name><![CDATA[NAME <]]>&amp;</name>",
        "<name>NAME&#x20;</name>",
        "<name>NAME<b>b</b>c</name>",
        "<name>NAME</name><name>second</name>",
        "<name/><name>NAME</name>",
        "<name>NAME<?p i?> é</name>",
        "<name>NAME&quot;&apos;&gt;</name>",
        "<x:name>x</x:name><name>NAME</name>",
        "<name>NAME\u{a0}</name>",
        "<name>NAME&#13;</name>",
        "<name>  </name>",
    ];
    dice.mostly("<name>NAME</name>", 3, &odd).replace("NAME", &format!("reading{seed}"))
}

fn uuid(dice: &mut Dice, seed: u64) -> (String, String) {
    let hex = format!("3a21c2ee5ece4225baa4{seed:012x}");
    let dashed = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let odd = [
        "<uuid>PLAIN</uuid>",
        "<uuid> DASHED\n</uuid>",
        "<uuid>UPPER</uuid>",
        "<uuid>DASHED-</uuid>",
        "<uuid>-DASHED</uuid>",
        "<uuid>DASHED</uuid><uuid>00000000-0000-0000-0000-000000000001</uuid>",
        "<uuid>DASH<!-- c -->ED</uuid>",
        "<uuid>3a 21 c2-PLAINEND</uuid>",
        "<uuid>DASHEDx</uuid>",
    ];
    let text = dice.mostly("<uuid>DASHED</uuid>", 4, &odd);
    let halves = format!("{}<!-- c -->{}", &dashed[..9], &dashed[9..]);
    let text = text.replace("DASH<!-- c -->ED", &halves).replace("PLAINEND", &hex[6..]);
    (dashed.clone(), text.replace("DASHED", &dashed).replace("PLAIN", &hex).replace("UPPER", &dashed.to_uppercase()))
}

fn memory(dice: &mut Dice) -> String {
    let size = dice.mostly("1048576", 4, &SIZES);
    let unit = dice.mostly(" unit='KiB'", 4, &UNITS);
    let again = dice.mostly(
        "",
        12,
        &["<memory unit='GiB'>2</memory>", "<currentMemory>1000</currentMemory>", "<x:memory>5</x:memory>"],
    );
    format!("<memory{unit}>{size}</memory>{again}")
}

fn vcpu(dice: &mut Dice) -> String {
    let number = dice.mostly("4", 4, &NUMBERS);
    let content = dice.mostly("NUMBER", 12, &["NUMBER<!-- c -->", "<![CDATA[NUMBER]]>", "<b>NUMBER</b>"]);
    let again = dice.mostly("", 12, &["<vcpu>8</vcpu>", "<vcpus/>"]);
    let attributes = dice.mostly(" placement='static'", 6, &["", " current='2'", " x:current='2'"]);
    format!("<vcpu{attributes}>{}</vcpu>{again}", content.replace("NUMBER", number))
}

fn os(dice: &mut Dice) -> String {
    let machine = dice.mostly(
        "machine='q35'",
        4,
        &["machine='pc'", "", "machine=''", "machine='pc-q35-6.2'", "x:machine='pc' machine='q35'"],
    );
    let arch = dice.mostly("arch='x86_64'", 6, &["", "arch='x86&#95;64'", "arch=''"]);
    let kind = dice.mostly("hvm", 12, &["<!-- c -->hvm", "hv<b>m</b>", " hvm"]);
    let loader = dice.mostly(
        "",
        5,
        &[
            "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>",
            "<loader type='rom'>/usr/share/seabios/bios.bin</loader>",
            "<loader type='rom'>/usr/share/seabios/bios.bin</loader><loader type='pflash'>/x</loader>",
            "<loader x:type='rom' readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>",
        ],
    );
    match dice.roll(12) {
        0 => format!("<os><type>{kind}</type></os><os><type {arch} {machine}>{kind}</type>{loader}</os>"),
        1 => format!("<os><type {arch} {machine}>{kind}</type><type arch='aarch64' machine='virt'>hvm</type></os>"),
        2 => format!("<os/><os><boot dev='hd'/>{loader}<type {arch} {machine}>{kind}</type></os>"),
        _ => format!("<os><type {arch} {machine}>{kind}</type>{loader}</os>"),
    }
}

fn features(dice: &mut Dice) -> String {
    let usual = "<features><acpi/><apic/></features>";
    dice.mostly(
        usual,
        2,
        &[
            "",
            "<features/>",
            "<features><acpi/><acpi/></features>",
            "<features/><features><acpi/></features>",
            "<features><x:acpi/></features>",
            "<features><acpi/><ioapic driver='qemu'/></features>",
            "<features><acpi/><ioapic driver='kvm'/><ioapic driver='qemu'/></features>",
            "<features><acpi/><ioapic driver='qemu'/><ioapic driver='kvm'/></features>",
            "<features><ioapic driver='qemu'/></features><features><acpi/><ioapic driver='kvm'/></features>",
            "<features><acpi/><ioapic driver='qemu'/><ioapic/></features>",
            "<features><acpi/><ioapic driver='QEMU'/></features>",
            "<features><acpi/><ioapic x:driver='qemu'/></features>",
            "<features><acpi/><ioapic driver='split'/></features>",
            "<features><acpi>off</acpi></features>",
            "<features><acpi state='off'/></features>",
        ],
    )
    .to_owned()
}

fn cpu(dice: &mut Dice) -> String {
    let cell = format!("memory='{}'{}", dice.mostly("1048576", 3, &SIZES[..9]), dice.mostly(" unit='KiB'", 3, &UNITS));
    let count = dice.mostly("2", 6, &["1", "02", " 2", "2 ", "+2", "0", "-2", ""]);
    match dice.roll(12) {
        0 => format!("<cpu><topology sockets='1' cores='{count}' threads='2'/></cpu>"),
        1 => format!("<cpu><topology sockets='1' dies='1' cores='{count}' threads='2'/><topology sockets='4' cores='1' threads='1'/></cpu>"),
        2 => format!("<cpu/><cpu><topology sockets='{count}' cores='1' threads='2'/></cpu>"),
        3 => format!("<cpu><numa><cell id='0' cpus='0-3' {cell}/></numa></cpu>"),
        4 => "<cpu><numa><cell id='1' cpus='0' memory='524800'/><cell id='0' cpus='1' memory='524289' unit='KiB'/></numa></cpu>".to_owned(),
        5 => format!("<cpu/><cpu><numa><cell cpus='0' {cell}/></numa></cpu>"),
        6 => format!("<maxMemory slots='{}'{}>{}</maxMemory><cpu><numa><cell cpus='0-3' memory='1048576'/></numa></cpu>",
            dice.mostly("4", 3, &NUMBERS), dice.mostly(" unit='KiB'", 4, &UNITS), dice.mostly("8388608", 3, &SIZES)),
        7 => dice.pick(&[
            "<cpu mode='custom' match='exact'><model fallback='allow'>EPYC</model></cpu>",
            "<cpu match='exact'><model fallback='allow'>EPYC</model><vendor>AMD</vendor></cpu>",
            "<cpu match='exact'><model fallback='allow'> EPYC</model></cpu>",
            "<cpu match='exact'><model fallback='allow'>qemu64</model><vendor>AMD</vendor><vendor>Intel</vendor></cpu>",
            "<cpu match='exact'><model fallback='allow'>Op<!-- c -->teron_G3</model></cpu>",
            "<cpu match='exact'><model fallback='allow'>Skylake-Client</model></cpu><cpu><model>EPYC</model></cpu>",
        ]).to_owned(),
        _ => String::new(),
    }
}

fn memtune(dice: &mut Dice) -> String {
    let size = dice.mostly("4194304", 2, &SIZES);
    let unit = dice.mostly(" unit='KiB'", 3, &UNITS);
    match dice.roll(8) {
        0 => format!("<memtune><hard_limit{unit}>{size}</hard_limit></memtune>"),
        1 => format!("<memtune/><memtune><hard_limit{unit}>{size}</hard_limit></memtune>"),
        2 => format!(
            "<memtune><hard_limit>{size}</hard_limit></memtune><memtune><hard_limit unit='MiB'>7</hard_limit></memtune>"
        ),
        3 => dice
            .pick(&[
                "<memtune><hard_limit>9007199254740991</hard_limit></memtune>",
                "<memtune><hard_limit>9007199254740990</hard_limit></memtune>",
                "<memtune><hard_limit>9007199254740992</hard_limit></memtune>",
                "<memtune><hard_limit unit='b'>9223372036854774784</hard_limit></memtune>",
                "<memtune><hard_limit>0</hard_limit></memtune>",
            ])
            .to_owned(),
        _ => String::new(),
    }
}

fn backing(dice: &mut Dice) -> String {
    dice.mostly(
        "",
        4,
        &[
            "<memoryBacking><locked/></memoryBacking>",
            "<memoryBacking><locked>no</locked></memoryBacking>",
            "<memoryBacking/><memoryBacking><locked/><nosharepages/></memoryBacking>",
            "<memoryBacking><x:locked/></memoryBacking>",
            "<memoryBacking><nosharepages/></memoryBacking><memoryBacking><hugepages/></memoryBacking>",
            "<memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>",
        ],
    )
    .to_owned()
}

fn commandline(dice: &mut Dice) -> String {
    dice.mostly("", 5, &[
        "<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='intel-iommu'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='a'/></qemu:commandline><qemu:commandline><qemu:arg value='b'/></qemu:commandline>",
        "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='a b'/></q:commandline>",
        "<commandline><arg value='-device'/></commandline>", "<qemu:commandline><qemu:arg/></qemu:commandline>",
        "<qemu:commandline><arg value='a'/><qemu:arg x:value='b' value='c'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='&#10;'/><qemu:arg value=''/></qemu:commandline>",
    ])
    .to_owned()
}

fn metadata(dice: &mut Dice) -> String {
    dice.mostly("", 3, &[
        "<metadata><v:viommu xmlns:v='urn:libvirt-viommu:1' model='intel'/></metadata>",
        "<metadata><viommu xmlns='urn:libvirt-viommu:1' model='intel'/></metadata>",
        "<metadata><v:viommu xmlns:v='urn:libvirt-viommu:1' model='none'/><w:viommu xmlns:w='urn:libvirt-viommu:1' model='intel'/></metadata>",
        "<metadata/><metadata><v:viommu xmlns:v='urn:libvirt-viommu:1' model='intel'/></metadata>",
        "<metadata><v:viommu xmlns:v='urn:libvirt-viommu:1' model='i&#110;tel' aw-bits=' 39'/><viommu model='amd'/></metadata>",
        "<metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:flavor><n:extraSpecs>
           <n:extraSpec name='hw:viommu_model'> in<!-- c -->tel </n:extraSpec></n:extraSpecs></n:flavor></n:instance></metadata>",
    ])
    .to_owned()
}
