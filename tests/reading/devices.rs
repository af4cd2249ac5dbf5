//! The `<devices>` of a document.

use crate::documents::{Dice, SWITCHES};

pub(crate) fn devices(dice: &mut Dice) -> String {
    let emulator = dice.mostly(
        "<emulator>/usr/bin/qemu-system-x86_64</emulator>",
        6,
        &[
            "",
            "<emulator/>",
            "<emulator> /usr/bin/qemu-system-x86_64</emulator>",
            "<emulator>/usr/bin/qemu-<!-- c -->system-x86_64</emulator>",
            "<emulator>/usr/bin/qemu-system-x86_64</emulator><emulator>/bin/true</emulator>",
            "<x:emulator>/bin/true</x:emulator>",
            "<emulator><![CDATA[/usr/bin/]]>qemu-system-x86_64</emulator>",
        ],
    );
    let mut pieces = vec![emulator.to_owned()];
    for _ in 0..dice.roll(4) {
        pieces.push(match dice.roll(7) {
            0 => iommu(dice),
            1 | 2 => hostdev(dice),
            3 => controller(dice),
            4 => image(dice),
            5 => module(dice),
            _ => ats(dice),
        });
    }
    if dice.roll(4) == 0 {
        dice.shuffle(&mut pieces);
    }
    match dice.roll(6) {
        0 => format!("<devices/><devices>{}</devices>", pieces.concat()),
        1 => format!("<devices>{}</devices>", pieces.join("</devices><devices>")),
        _ => format!("<devices>{}</devices>", pieces.concat()),
    }
}

fn iommu(dice: &mut Dice) -> String {
    let model = dice.mostly(
        "model='intel'",
        4,
        &["model='virtio'", "model='Intel'", "", "x:model='virtio' model='intel'", "model='intel' x:model='virtio'"],
    );
    let switch = |dice: &mut Dice, name| format!(" {name}='{}'", dice.mostly("on", 5, &SWITCHES));
    let mut driver = String::new();
    for name in ["caching_mode", "iotlb"] {
        if dice.roll(2) == 0 {
            driver += &switch(dice, name);
        }
    }
    if dice.roll(3) == 0 {
        driver.extend([format!(
            " aw_bits='{}'",
            dice.mostly("48", 2, &["39", "048", " 48", "48 ", "+48", "0x30", "48.0", ""])
        )]);
    }
    driver += dice.mostly("", 8, &[" x:caching_mode='off'", " unknown='on'"]);
    let again = dice.mostly("", 8, &["<driver caching_mode='off'/>", "<x:driver/>", "<address type='pci'/>"]);
    format!("<iommu {model}><driver{driver}/>{again}</iommu>")
}

fn address(dice: &mut Dice, bus: &str) -> String {
    let slot = dice.mostly("0x00", 4, &["0", "00", "+0", " 0", "0x0 ", "0X1", "010", "8", "08", "31", "32", "-1", ""]);
    let function = dice.mostly("0x0", 6, &["1", "7", "8", "x", "+1"]);
    let domain = dice.mostly("domain='0x0000' ", 6, &["", "domain='1' ", "domain='0x10000' ", "x:domain='7' "]);
    format!("{domain}bus='{bus}' slot='{slot}' function='{function}'")
}

fn hostdev(dice: &mut Dice) -> String {
    let bus = dice.mostly("0x05", 4, &["5", "05", "0xde", "222", "010", "256", " 6"]);
    let source = address(dice, bus);
    let driver = dice.mostly(
        "<driver name='vfio'/>",
        4,
        &["", "<driver/>", "<driver name='kvm'/>", "<driver name='xen'/>", "<driver name='vfio'/><driver name='kvm'/>"],
    );
    let guest = dice.mostly(
        "",
        3,
        &[
            "<address type='unassigned'/>",
            "<address type='pci'/>",
            "<address type='pci' domain='0' bus='0' slot='0x1e' function='0'/>",
            "<address type='pci' bus='0x00' slot='29' function='0'/><address type='unassigned'/>",
            "<address type='usb'/>",
            "<address x:type='unassigned' type='pci'/>",
        ],
    );
    let mode =
        dice.mostly("mode='subsystem' ", 6, &["", "mode='capabilities' ", "mode='subsys' ", "x:mode='capabilities' "]);
    match dice.roll(10) {
        0 => format!(
            "<hostdev {mode}type='mdev' model='vfio-pci'><source><address uuid='{}'/></source>{guest}</hostdev>",
            dice.pick(&[
                "53764d0e-85a0-42b4-af5c-2046b460b1dc",
                "53764D0E85A042B4AF5C2046B460B1DC",
                " 53764d0e 85a042b4af5c2046b460b1dc",
                "5376"
            ])
        ),
        1 => format!(
            "<interface type='hostdev'><mac address='52:54:00:00:00:01'/>{driver}<source><address type='pci' {source}/></source>{guest}</interface>"
        ),
        2 => {
            format!("<hostdev {mode}type='pci'>{driver}<source/><source><address {source}/></source>{guest}</hostdev>")
        }
        3 => format!(
            "<hostdev {mode}type='pci'>{driver}<source><address {source}/><address bus='9'/></source>{guest}</hostdev>"
        ),
        4 => {
            format!("<hostdev {mode}type='usb'><source><vendor id='0x1234'/><product id='0xabcd'/></source></hostdev>")
        }
        5 => format!("<hostdev {mode}type='pci'>{driver}<source/>{guest}</hostdev>"),
        6 => format!("<interface type='hostdev'><source><address {source}/></source></interface>"),
        _ => format!(
            "<hostdev {mode}type='pci' managed='yes'>{driver}<source><address {source}/></source>{guest}</hostdev>"
        ),
    }
}

fn controller(dice: &mut Dice) -> String {
    let index = dice.mostly("1", 3, &["01", "0x1", " 1", "1 ", "+1", "010", "8", "-1", ""]);
    let model = dice.mostly(
        "pcie-root-port",
        2,
        &["pcie-to-pci-bridge", "dmi-to-pci-bridge", "pci-bridge", "pcie-expander-bus", "PCI-bridge", ""],
    );
    let bus = dice.mostly(index, 6, &["1", "010", "0x8"]);
    let device = format!(
        "<hostdev mode='subsystem' type='pci'><driver name='vfio'/><source><address domain='0' bus='7' slot='0' function='0'/></source>
           <address type='pci' domain='0' bus='{bus}' slot='{}' function='0'/></hostdev>",
        dice.mostly("0x00", 2, &["1", "0x1", "2"])
    );
    format!("<controller type='pci' index='{index}' model='{model}'/>{device}")
}

fn image(dice: &mut Dice) -> String {
    let nvme = |dice: &mut Dice, bus| {
        format!("<source type='pci' managed='yes' namespace='1'><address {}/></source>", address(dice, bus))
    };
    let (first, second) = (nvme(dice, "0x08"), nvme(dice, "0x09"));
    match dice.roll(8) {
        0 => format!("<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>{first}<target dev='vda' bus='virtio'/></disk>"),
        1 => format!("<disk type='nvme' device='disk'><driver name='qemu' type='qcow2'/>{first}<backingStore type='nvme'><format type='raw'/>{second}</backingStore><target dev='vda' bus='virtio'/></disk>"),
        2 => format!("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/x'/><backingStore type='nvme'><format type='raw'/>{second}<backingStore/></backingStore><target dev='vda' bus='virtio'/></disk>"),
        3 => format!("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/x'/><backingStore><format type='raw'/><backingStore type='nvme'><format type='raw'/>{second}</backingStore></backingStore><target dev='vda' bus='virtio'/></disk>"),
        4 => format!("<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>{first}{second}<target dev='vda' bus='virtio'/></disk>"),
        5 => "<disk type='nvme' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='sata'/></disk>".to_owned(),
        6 => "<interface type='vdpa'><mac address='52:54:00:00:00:02'/><source dev='/dev/vhost-vdpa-0'/></interface>".to_owned(),
        _ => "<disk type='vhostvdpa' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='/dev/vhost-vdpa-1'/><target dev='vdb' bus='virtio'/></disk>".to_owned(),
    }
}

fn module(dice: &mut Dice) -> String {
    let size = dice.mostly("524288", 3, &["524289", " 524288", "524288 ", "1.5", "<!-- c -->524288", ""]);
    let unit = dice.mostly(" unit='KiB'", 3, &["", " unit='K'", " unit='MiB'", " unit='GiBi'"]);
    let model = dice.mostly("dimm", 6, &["DIMM", ""]);
    let again = dice.mostly("", 6, &["<size unit='KiB'>1</size>"]);
    format!("<memory model='{model}'><target><size{unit}>{size}</size>{again}<node>0</node></target></memory>")
}

fn ats(dice: &mut Dice) -> String {
    let switch = dice.mostly("on", 3, &SWITCHES);
    let again = dice.mostly("", 6, &["<driver name='vhost' ats='off'/>", "<driver x:ats='off'/>"]);
    format!(
        "<interface type='user'><mac address='52:54:00:00:00:03'/><model type='virtio'/><driver ats='{switch}'/>{again}</interface>"
    )
}
