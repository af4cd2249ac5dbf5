"""Random domains of the kinds that change locked memory; the same seed gives the same domains."""

import random
import uuid

MIB = 1 << 20
# libvirt's versions, and the QEMU versions of the same distributions.
RELEASES = [
    ("7.0.0", ["5.2.0"]),
    ("8.6.0", ["6.2.0", "7.0.0"]),
    ("8.7.0", ["7.1.0"]),
    ("9.2.0", ["7.2.0"]),
    ("9.3.0", ["7.2.0", "8.0.0"]),
    ("11.3.0", ["9.2.0", "10.0.2"]),
    ("12.8.0", ["10.2.0", "11.1.0"]),
]


def version(text):
    return tuple(int(part) for part in text.split("."))


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.libvirt, qemus = self.random.choice(RELEASES)
        self.qemu = self.random.choice(qemus)
        self.arm = self.chance(0.08) and self.since(8, 6)
        self.i440fx = not self.arm and self.chance(0.05)
        self.commandline = []
        self.overrides = []
        self.devices = []
        self.memory_devices = []
        self.host_bus = 0
        self.slots = {}
        self.buses = []
        self.native = self.hidden = None
        self.iommufd = self.since(12, 8) and self.chance(0.1)

    # Small helpers

    def chance(self, probability):
        return self.random.random() < probability

    def since(self, *release):
        return version(self.libvirt) >= release

    def pick(self, *choices):
        return self.random.choice(choices)

    def size(self, element, count, attributes=""):
        """The same number of bytes in one of libvirt's units."""
        units = [(1, "b"), (1, "bytes"), (1 << 10, "KiB"), (1 << 10, "k"), (1 << 10, None), (1000, "KB")]
        units += [(1 << 20, "MiB"), (1 << 20, "M"), (1 << 20, "mib"), (10**6, "MB"), (1 << 30, "GiB"), (1 << 30, "G")]
        factor, unit = self.pick(*[u for u in units if count % u[0] == 0])
        unit = "" if unit is None else f" unit='{unit}'"
        return f"<{element}{attributes}{unit}>{count // factor}</{element}>"

    # PCI topology

    def address(self, bus, slot, function=0, more=""):
        form = "{:#x}" if self.chance(0.9) else "{}"
        bus, slot, function = (form.format(value) for value in (bus, slot, function))
        return f"<address type='pci' domain='0x0000' bus='{bus}' slot='{slot}' function='{function}'{more}/>"

    def slot(self, bus):
        self.slots[bus] = self.slots.get(bus, 2 if bus == 0 else 0) + 1
        return self.slots[bus]

    def controller(self, model, bus, slot, inner=""):
        index = len(self.buses) + 1
        self.buses.append(model)
        self.devices.append(
            f"<controller type='pci' index='{index}' model='{model}'>{inner}{self.address(bus, slot)}</controller>"
        )
        return index

    def port(self, bus=0):
        """A root port, sometimes with a switch of one port below it."""
        port = self.controller("pcie-root-port", bus, self.slot(bus))
        if self.chance(0.1):
            port = self.controller("pcie-switch-downstream-port", self.controller("pcie-switch-upstream-port", port, 0), 0)
        return port

    def bridge(self, bus=0):
        """A conventional bridge, of one of the three models, sometimes with a second one below it."""
        if self.arm or self.chance(0.5):
            index = self.controller("pcie-to-pci-bridge", self.port(bus), 0)
        elif bus == 0:
            index = self.controller("dmi-to-pci-bridge", 0, self.slot(0))
            if self.chance(0.6):
                index = self.controller("pci-bridge", index, self.slot(index))
            return index
        else:
            index = self.controller("pcie-to-pci-bridge", self.port(bus), 0)
        if self.chance(0.3):
            index = self.controller("pci-bridge", index, self.slot(index))
        return index

    def expander(self):
        index = self.controller("pcie-expander-bus", 0, self.slot(0), f"<target busNr='{100 + 20 * len(self.buses)}'/>")
        way = self.pick("none", "override", "global") if version(self.qemu) >= (6, 1) else "none"
        if way == "override":
            self.overrides.append(index)
        elif way == "global":
            self.commandline += ["-global", f"pxb-pcie.bypass_iommu={self.pick('on', 'true')}"]
        return index

    # Devices

    def host(self, function=0):
        if not function:
            self.host_bus += 1
        return self.host_bus, function

    def passthrough(self, guest, function=0):
        bus, function = self.host(function)
        source = f"<source><address domain='0x0000' bus='{bus:#04x}' slot='0x00' function='{function:#x}'/></source>"
        driver = "<driver iommufd='yes'/>" if self.iommufd else self.pick("", "<driver name='vfio'/>")
        if self.chance(0.2):
            source = source.replace("<address ", "<address type='pci' ")
            self.devices.append(f"<interface type='hostdev' managed='yes'>{driver}{source}{guest}</interface>")
        else:
            self.devices.append(f"<hostdev mode='subsystem' type='pci' managed='yes'>{driver}{source}{guest}</hostdev>")

    def mdev(self, guest):
        name = uuid.UUID(int=self.random.getrandbits(128))
        self.devices.append(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
            f"<source><address uuid='{name}'/></source>{guest}</hostdev>"
        )

    def vfio(self):
        """One to six VFIO devices at one kind of place."""
        way = self.random.random()
        count = self.pick(1, 1, 1, 2, 2, 3, 4, 6)
        if self.i440fx:
            bus = self.pick(0, self.controller("pci-bridge", 0, self.slot(0)))
            for _ in range(count):
                self.passthrough(self.address(bus, self.slot(bus)))
        elif way < 0.25:
            for _ in range(count):
                self.passthrough("" if self.chance(0.5) else self.address(self.port(), 0))
        elif way < 0.40:
            bus = self.bridge()
            for _ in range(count):
                (self.mdev if self.chance(0.2) else self.passthrough)(self.address(bus, self.slot(bus)))
        elif way < 0.55:
            bus = self.expander()
            for _ in range(count):
                below = self.bridge(bus) if self.chance(0.3) else self.port(bus)
                self.passthrough(self.address(below, self.slot(below) if "port" not in self.buses[below - 1] else 0))
        elif way < 0.70:
            port = self.port()
            for function in range(count):
                more = " multifunction='on'" if function == 0 and count > 1 else ""
                self.passthrough(self.address(port, 0, function, more), function)
        elif way < 0.85:
            for _ in range(count):
                self.mdev("" if self.chance(0.5) else self.address(self.port(), 0))
        else:
            for _ in range(count):
                self.passthrough(self.address(0, self.slot(0)))

    def nvme(self, tag, children):
        self.host_bus += 1
        device = " device='disk'" if tag == "disk" else ""
        return (
            f"<{tag} type='nvme'{device}>"
            f"<source type='pci' managed='yes' namespace='{self.pick(1, 2)}'>"
            f"<address domain='0x0000' bus='{self.host_bus:#04x}' slot='0x00' function='0x0'/></source>{children}</{tag}>"
        )

    def disk(self, letter):
        """A disk with a chain of up to three images, of files, NVMe and vDPA."""
        kinds = ["file", "nvme"] + (["vhostvdpa"] if self.since(11, 3) else [])
        chain = [self.random.choice(kinds) for _ in range(self.pick(1, 1, 2, 3))]
        inner = "<backingStore/>" if self.chance(0.5) else ""
        for level, kind in reversed(list(enumerate(chain))):
            tag = "backingStore" if level else "disk"
            rest = "<format type='raw'/>" if level else f"<target dev='vd{letter}' bus='virtio'/>"
            if kind == "nvme":
                inner = self.nvme(tag, rest + inner)
            else:
                source = "file='/i.qcow2'" if kind == "file" else "dev='/dev/vhost-vdpa-9'"
                store = self.data_store() if kind == "file" and self.since(11, 3) and self.chance(0.1) else ""
                device = " device='disk'" if tag == "disk" else ""
                inner = f"<{tag} type='{kind}'{device}><source {source}>{store}</source>{rest}{inner}</{tag}>"
        self.devices.append(inner)

    def data_store(self):
        self.host_bus += 1
        kind = self.pick("nvme", "file")
        address = f"<address domain='0x0000' bus='{self.host_bus:#04x}' slot='0x00' function='0x0'/>"
        source = "file='/raw'" if kind == "file" else "type='pci' managed='yes' namespace='1'"
        return f"<dataStore type='{kind}'><format type='raw'/><source {source}>{address if kind == 'nvme' else ''}</source></dataStore>"

    def hide_image(self):
        self.host_bus += 1
        device = f"0000:{self.host_bus:02x}:00.0"
        node = f"n{self.host_bus}"
        self.commandline += self.pick(
            ["-drive", f"file=nvme://{device}/1,if=none,id={node}"],
            ["-drive", f"driver=nvme,device={device},namespace=1,if=none,id={node}"],
            ["-blockdev", f"driver=nvme,node-name={node},device={device},namespace=1"],
            ["-blockdev", f'{{"driver":"nvme","node-name":"{node}","device":"{device}","namespace":1}}'],
            ["-blockdev", f"driver=file,node-name={node},filename=/nvme"],
        )

    # RAM-backed devices

    def shmem(self):
        size = self.pick(1, 4, 64, 1024, 2048) * MIB
        element = "" if self.chance(0.15) else self.shmem_size(size)
        kinds = ["ivshmem-plain", "ivshmem-plain", "ivshmem", None] + (["ivshmem-doorbell"] if element else [])
        kind = self.random.choice(kinds)
        model = f"<model type='{kind}'/>" if kind else ""
        self.devices.append(f"<shmem name='s{len(self.devices)}'>{model}{element}</shmem>")

    def shmem_size(self, size):
        # libvirt reads a size without a unit in bytes here.
        factor, unit = self.pick((1, ""), (1, " unit='B'"), (1 << 10, " unit='KiB'"), (MIB, " unit='M'"))
        return f"<size{unit}>{size // factor}</size>"

    def video(self):
        kind = self.pick("vga", "vga", "qxl", "bochs", "vmvga", "virtio", "cirrus")
        vram = self.pick(8192, 16384, 20000, 32768, 65536, 131072, 262144)
        if kind == "qxl":
            keys = f" ram='{self.pick(65536, 100000, 262144)}' vram='{self.pick(65536, 70000, 524288)}'"
            keys += f" vgamem='{self.pick(16384, 65536, 262144)}'"
            keys += f" vram64='{1024 * self.pick(64, 256)}'" if self.chance(0.2) else ""
        elif kind in ("vga", "bochs", "vmvga"):
            keys = f" vram='{vram}'" if self.chance(0.8) else ""
        else:
            keys = ""
        keys += " primary='yes'" if self.chance(0.3) else ""
        self.devices.append(f"<video><model type='{kind}'{keys}/></video>")

    def hide_display(self):
        size = self.pick("", ",vgamem_mb=8", ",vgamem_mb=64", ",vgamem_mb=1024")
        self.commandline += ["-device", "VGA" + size]
        if self.chance(0.5):
            self.commandline += ["-global", f"VGA.vgamem_mb={self.pick(16, 100, 256)}"]

    def backend(self):
        """Memory in <qemu:commandline> only."""
        name = f"m{len(self.commandline)}"
        size = self.pick("1G", "512M", "268435456", "2g")
        driver, key = self.pick(
            ("ivshmem-plain", "memdev"), ("virtio-pmem-pci", "memdev"), ("nvdimm", "memdev"), ("cxl-type3", "volatile-memdev")
        )
        if version(self.qemu) >= (6, 2) and self.chance(0.3):
            backend = f'{{"qom-type":"memory-backend-ram","id":"{name}","size":268435456}}'
            device = f'{{"driver":"{driver}","{key}":"{name}","id":"d{name}"}}'
        else:
            backend = f"memory-backend-file,id={name},mem-path=/dev/shm/{name},share=on,size={size}"
            device = f"{driver},{key}={name},id=d{name}"
        pair = ["-object", backend, "-device", device]
        self.commandline += pair if self.chance(0.7) else pair[2:] + pair[:2]

    def memory_device(self, model):
        size = self.pick(128, 256, 512, 1024) * MIB + (self.pick(1, 1024, 333) * 1024 if self.chance(0.1) else 0)
        self.memory_devices.append(size)
        source = "<source><path>/tmp/n</path></source>" if model in ("nvdimm", "virtio-pmem") else ""
        node = "" if model in ("virtio-pmem", "sgx-epc") else "<node>0</node>"
        more = "<block unit='KiB'>2048</block><requested unit='KiB'>0</requested>" if model == "virtio-mem" else ""
        target = f"<target>{self.size('size', size)}{node}{more}</target>"
        self.devices.append(f"<memory model='{model}'>{source}{target}</memory>")

    # vIOMMUs

    def iommu(self):
        if self.i440fx:
            return
        if self.arm:
            model = self.pick("virtio", "smmuv3")
        elif self.since(12, 8) and version(self.qemu) >= (10, 2) and self.chance(0.2):
            model = "amd"
        else:
            model = self.pick("intel", "intel", "virtio") if self.since(8, 3) and version(self.qemu) >= (7, 0) else "intel"
        self.native = model
        drivers = ("", "<driver caching_mode='on'/>", "<driver intremap='on' caching_mode='on'/>")
        driver = self.pick(*drivers) if model == "intel" else ""
        self.devices.append(f"<iommu model='{model}'>{driver}</iommu>")

    def hide_iommu(self):
        if self.i440fx:
            return
        if self.arm:
            self.hidden = self.pick("virtio", "smmuv3")
        else:
            self.hidden = self.pick("intel", "intel", "intel", "virtio", "amd")
        caching = "on" if self.chance(0.85) else "off"
        device = {
            "intel": self.pick(f"intel-iommu,caching-mode={caching}", f"intel-iommu,intremap=on,caching-mode={caching},id=v0"),
            "amd": self.pick("amd-iommu", "amd-iommu,intremap=on,id=v0"),
            "virtio": self.pick("virtio-iommu-pci,addr=0x1e", "virtio-iommu,bus=pcie.0,addr=0x1e"),
            "smmuv3": None,
        }[self.hidden]
        if self.hidden == "smmuv3":
            self.commandline += ["-machine", "iommu=smmuv3"]
            return
        if self.hidden == "intel" and version(self.qemu) >= (6, 2) and self.chance(0.1):
            device = f'{{"driver":"intel-iommu","id":"v0","caching-mode":{"true" if caching == "on" else "false"}}}'
        # Interrupt remapping needs it (x86_iommu_realize).
        if self.hidden in ("intel", "amd"):
            self.commandline += ["-machine", "kernel_irqchip=split"]
        self.commandline += ["-device", device]

    def hide_vfio(self):
        for _ in range(self.pick(1, 2)):
            bus, _ = self.host()
            conventional = [i + 1 for i, model in enumerate(self.buses) if "to-pci" in model or model == "pci-bridge"]
            where = ""
            if conventional and self.chance(0.4):
                bridge = self.random.choice(conventional)
                where = f",bus=pci.{bridge},addr={self.slot(bridge):#x}"
            if self.chance(0.2):
                device = f"vfio-pci,sysfsdev=/sys/bus/mdev/devices/{uuid.UUID(int=self.random.getrandbits(128))}"
            else:
                device = f"vfio-pci,host={self.pick('', '0000:')}{bus:02x}:00.0"
            self.commandline += ["-device", device + where]

    # The domain

    def domain(self):
        for _ in range(self.pick(0, 1, 1, 1, 2, 2, 3)):
            self.vfio()
        if self.chance(0.25):
            for letter in "abc"[: self.pick(1, 2, 3)]:
                self.disk(letter)
        if self.chance(0.15):
            for number in range(self.pick(1, 2)):
                self.devices.append(f"<interface type='vdpa'><source dev='/dev/vhost-vdpa-{number}'/></interface>")
        if self.chance(0.1):
            source = "<source><vendor id='0x1234'/><product id='0xbeef'/></source>"
            self.devices.append(f"<hostdev mode='subsystem' type='usb'>{source}</hostdev>")
        choice = self.random.random()
        if choice < 0.2:
            self.iommu()
        elif choice < 0.4 and not (self.arm and not self.since(8, 6)):
            self.hide_iommu()
        if self.chance(0.1):
            self.hide_vfio()
        if self.chance(0.05) and version(self.qemu) >= (6, 1):
            self.commandline += ["-machine", self.pick("default_bus_bypass_iommu=on", "default-bus-bypass-iommu=on")]
        for chance, make in ((0.2, self.shmem), (0.2, self.video), (0.06, self.backend), (0.05, self.hide_display), (0.04, self.hide_image)):
            while self.chance(chance):
                make()
        self.random.shuffle(self.devices)
        memory = self.memory()
        return self.document(memory)

    def memory(self):
        hotplug = self.chance(0.3)
        models = ["dimm", "nvdimm"] + (["virtio-pmem"] if self.since(7, 1) else []) + (["virtio-mem"] if self.since(7, 9) else [])
        if self.since(9, 2) and self.chance(0.03):
            self.memory_device("sgx-epc")
        if hotplug and self.chance(0.5):
            for _ in range(self.pick(1, 1, 2)):
                self.memory_device(self.random.choice(models))
        initial = self.pick(512, 1024, 1536, 2048, 3000, 8192, 98304) * MIB
        ragged = self.chance(0.1)
        cells = []
        if hotplug or self.chance(0.1):
            count = self.pick(1, 2)
            cells = [initial // count + (self.pick(1, 100, 1023) * 1024 if ragged else 0) for _ in range(count)]
            initial = sum(cells)
        elif ragged:
            initial += self.pick(1, 100, 1023) * 1024
        # With <numa>, its sum counts, independent of <memory>.
        more = self.pick(1, 2) * MIB if cells and self.chance(0.1) else 0
        text = self.size("memory", initial + sum(self.memory_devices) + more)
        if hotplug:
            maximum = initial + sum(self.memory_devices) + self.pick(0, 1024, 4096, 16384) * MIB
            # libvirt takes a maximum without slots since virtio-mem needs none.
            slots = "" if self.since(8, 6) and self.chance(0.2) else f" slots='{self.pick(1, 16)}'"
            text += self.size("maxMemory", maximum, slots)
        if cells:
            numa = "".join(
                f"<cell id='{i}' cpus='{2 * i}-{2 * i + 1}'{self.cell(size)}/>" for i, size in enumerate(cells)
            )
            text += f"<cpu mode='host-passthrough'><numa>{numa}</numa></cpu>"
        if self.chance(0.08):
            limit = self.pick(initial // 2, initial, initial * 2, initial * 4, initial * 100 + 512)
            text += f"<memtune>{self.size('hard_limit', limit)}</memtune>"
        elif self.chance(0.02):
            text += "<memtune><hard_limit unit='KiB'>9007199254740991</hard_limit></memtune>"
        if self.chance(0.06):
            text += "<memoryBacking><locked/></memoryBacking>"
        return text

    def cell(self, size):
        factor, unit = self.pick(*[u for u in ((1024, ""), (1024, " unit='KiB'"), (MIB, " unit='MiB'")) if size % u[0] == 0])
        return f" memory='{size // factor}'{unit}"

    def document(self, memory):
        machine = "virt" if self.arm else "pc-i440fx-4.2" if self.i440fx else self.pick("q35", "pc-q35-4.2")
        arch = "aarch64" if self.arm else "x86_64"
        emulator = f"qemu-system-{arch}"
        if self.chance(0.25):
            emulator = "viommu-" + emulator
        arguments = "".join(f"<qemu:arg value='{word}'/>" for word in self.commandline)
        override = "".join(
            f"<qemu:device alias='pci.{index}'><qemu:frontend>"
            "<qemu:property name='bypass_iommu' type='bool' value='true'/></qemu:frontend></qemu:device>"
            for index in self.overrides
        )
        loader = " firmware='efi'" if self.arm else ""
        return (
            f"<domain type='{self.pick('kvm', 'kvm', 'qemu')}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
            f"<name>oracle</name><uuid>7d1f0c52-1111-4b6a-9a10-0c8e2f6a0150</uuid>{memory}<vcpu>4</vcpu>"
            f"<os{loader}><type arch='{arch}' machine='{machine}'>hvm</type></os><features><acpi/><apic/></features>"
            f"<devices><emulator>/usr/bin/{emulator}</emulator>"
            + "".join(f"\n{device}" for device in self.devices) + "\n</devices>"
            + (f"<qemu:commandline>{arguments}</qemu:commandline>" if arguments else "")
            + (f"<qemu:override>{override}</qemu:override>" if override else "")
            + (
                f"<qemu:capabilities><qemu:del capability='{self.pick('device.json', 'device.json+hotplug')}'/></qemu:capabilities>"
                if self.hidden and self.chance(0.1) else ""
            )
            + "</domain>\n"
        )

    def model(self):
        """The request: mostly none, or one for the model of the existing vIOMMU."""
        if self.chance(0.4):
            return "none"
        there = self.native or self.hidden
        if there == "amd":
            return self.pick("none", "none", "auto")
        if there and self.chance(0.9):
            return self.pick(there, "auto")
        if self.arm:
            return self.pick("virtio", "auto")
        return self.pick("intel", "intel", "intel", "virtio", "auto", "auto")
