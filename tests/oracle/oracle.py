"""The locked memory that a domain needs and that libvirt sets, computed a second time, in another language than the product.

It was written from the behaviour of libvirt and QEMU, not from the product's code: how libvirt reads and aligns memory
(virDomainDefPostParseMemory, qemuDomainAlignMemorySizes), its limit in each release (qemuDomainGetMemLockLimitBytes), and QEMU's
requester ids (pci_device_iommu_address_space). All sizes are bytes.
"""

import json
import re
import xml.etree.ElementTree as ElementTree

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
UNLIMITED = "unlimited"
# libvirt's VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, KiB: a hard limit of this size means no limit.
NO_HARD_LIMIT = 9007199254740991

HIDDEN = {
    "intel-iommu": "intel",
    "virtio-iommu": "virtio",
    "virtio-iommu-pci": "virtio",
    "amd-iommu": "amd",
    "arm-smmuv3": "smmuv3",
}
CONVENTIONAL = ("dmi-to-pci-bridge", "pci-bridge", "pcie-to-pci-bridge")


def up(value, step):
    return -(-value // step) * step


def power_of_two(value):
    return 1 << max(value - 1, 0).bit_length()


def scaled(element, default="KiB"):
    """virScaleInteger: KiB, MiB … and K, M … are powers of 1024; KB, MB … of 1000; any case."""
    unit = (element.get("unit") or default).lower()
    if unit in ("b", "byte", "bytes"):
        factor = 1
    else:
        base = 1000 if unit[1:] == "b" else 1024
        factor = base ** ("kmgtpe".index(unit[0]) + 1)
    return int(element.text) * factor


def memory_size(element):
    """virDomainParseMemory: whole KiB, rounded up."""
    return up(scaled(element), KIB)


class Memory:
    """The guest's maximum memory, after libvirt's alignment."""

    def __init__(self, root):
        modules = [
            up(memory_size(m.find("target/size")), 2 * MIB) for m in root.findall("devices/memory")
        ]
        cells = [
            up(up(scaled_attribute(c, "memory"), KIB), MIB) for c in root.findall("cpu/numa/cell")
        ]
        if cells:
            initial = sum(cells)
        else:
            total = memory_size(root.find("memory"))
            present = sum(memory_size(m.find("target/size")) for m in root.findall("devices/memory"))
            initial = up(total - present, MIB)
        self.total = initial + sum(modules)
        maximum = root.find("maxMemory")
        self.maximum = self.total
        if maximum is not None:
            self.maximum = max(self.total, up(memory_size(maximum), MIB))


def scaled_attribute(element, name):
    copy = ElementTree.Element("size", {"unit": element.get("unit", "KiB")})
    copy.text = element.get(name)
    return scaled(copy)


def number(text):
    return int(text, 0)


def place(address):
    """Bus, slot and function of a guest's PCI address."""
    return tuple(number(address.get(key, "0")) for key in ("bus", "slot", "function"))


def host_address(address):
    return "%04x:%02x:%02x.%x" % tuple(
        number(address.get(key, "0")) for key in ("domain", "bus", "slot", "function")
    )


def arguments(root):
    """Pairs of option and value in <qemu:commandline>."""
    words = [a.get("value") for a in root.findall(f"{QEMU}commandline/{QEMU}arg")]
    pairs = []
    for position, word in enumerate(words):
        if word.startswith("-") and position + 1 < len(words) and not words[position + 1].startswith("-"):
            pairs.append((word.lstrip("-"), words[position + 1]))
    return pairs


def properties(value, first):
    """The keys of one option value, JSON or key=value."""
    if value.startswith("{"):
        found = json.loads(value)
        return {key: ("on" if v is True else "off" if v is False else str(v)) for key, v in found.items()}
    found = {}
    for position, part in enumerate(value.split(",")):
        key, equals, text = part.partition("=")
        if position == 0 and not equals:
            key, text = first, key
        found[key] = text if equals or position == 0 else "on"
    return found


def size_option(text):
    """QEMU's sizes: bytes, or K, M, G, T as powers of 1024."""
    match = re.fullmatch(r"(\d+)([bkmgt]?)", text.lower())
    return int(match.group(1)) * 1024 ** "bkmgt".index(match.group(2) or "b")


class Topology:
    """The guest's PCI buses: the requester id that QEMU assigns to a device."""

    def __init__(self, root):
        self.controllers = {
            number(c.get("index", "0")): c for c in root.findall("devices/controller") if c.get("type") == "pci"
        }
        self.root_bypasses = False
        self.bypassing = set()
        every = False
        for option, value in arguments(root):
            keys = properties(value, "type" if option in ("machine", "M") else "driver")
            if option in ("machine", "M"):
                for spelling in ("default_bus_bypass_iommu", "default-bus-bypass-iommu"):
                    self.root_bypasses |= keys.get(spelling) in ("on", "true", "yes")
            if option == "global":
                every |= keys.get("pxb-pcie.bypass_iommu") in ("on", "true", "yes")
        for device in root.findall(f"{QEMU}override/{QEMU}device"):
            for prop in device.findall(f"{QEMU}frontend/{QEMU}property"):
                if prop.get("name") == "bypass_iommu" and prop.get("value") == "true":
                    self.bypassing.add(int(device.get("alias").removeprefix("pci.")))
        if every:
            self.bypassing |= {
                index for index, c in self.controllers.items() if c.get("model") == "pcie-expander-bus"
            }

    def requester(self, where):
        """The requester id, and whether the host bridge above it bypasses the IOMMU."""
        bus, slot, function = where
        alias = (bus, slot, function)
        while bus:
            controller = self.controllers[bus]
            model = controller.get("model")
            if model == "pcie-expander-bus":
                return alias, bus in self.bypassing
            above = place(controller.find("address"))
            if model == "pcie-to-pci-bridge":
                alias = (bus, 0, 0)
            elif model in CONVENTIONAL:
                alias = above
            bus = above[0]
        return alias, self.root_bypasses


class Oracle:
    def __init__(self, text, libvirt, qemu, model):
        self.root = ElementTree.fromstring(text)
        self.libvirt, self.qemu, self.model = libvirt, qemu, model
        self.memory = Memory(self.root)
        self.topology = Topology(self.root)
        self.devices = self.known_devices()
        self.known = len(self.devices)
        self.devices += self.hidden_devices()
        self.native = self.root.find("devices/iommu")
        self.hidden = self.hidden_iommu()
        self.nvme_images, self.nvme_disks = self.images("nvme")
        self.vdpa_images, _ = self.images("vhostvdpa")
        self.nvme_hidden, self.vdpa_hidden = self.uncounted("nvme"), self.uncounted("vhostvdpa")
        self.vdpa_interfaces = sum(i.get("type") == "vdpa" for i in self.root.findall("devices/interface"))

    def known_devices(self):
        """VFIO devices in libvirt's XML: label and guest address (None: libvirt gives it a root port of its own)."""
        found = []
        for device in self.root.find("devices"):
            if device.tag == "hostdev" and device.get("type") == "pci" or (
                device.tag == "interface" and device.get("type") == "hostdev"
            ):
                label = host_address(device.find("source/address"))
            elif device.tag == "hostdev" and device.get("type") == "mdev":
                label = device.find("source/address").get("uuid")
            else:
                continue
            address = device.find("address")
            found.append((label, None if address is None else place(address)))
        return found

    def hidden_devices(self):
        found = []
        for option, value in arguments(self.root):
            keys = properties(value, "driver")
            if option != "device" or keys.get("driver") not in ("vfio-pci", "vfio-pci-nohotplug"):
                continue
            label = keys.get("host") or keys["sysfsdev"].rsplit("/", 1)[-1]
            if keys.get("host") and label.count(":") == 1:
                label = "0000:" + label
            where = None
            bus = re.fullmatch(r"pci\.(\d+)", keys.get("bus", ""))
            if bus:
                slot, _, function = keys.get("addr", "0").partition(".")
                where = (int(bus.group(1)), int(slot, 16), int(function or "0", 16))
            found.append((label, where or (0, f"own {len(found)}", 0)))
        return found

    def hidden_iommu(self):
        for option, value in arguments(self.root):
            if option == "device":
                keys = properties(value, "driver")
                if keys.get("driver") in HIDDEN:
                    form = "json" if value.startswith("{") else "keyval"
                    return HIDDEN[keys["driver"]], {**keys, "form": form}
            if option in ("machine", "M") and properties(value, "type").get("iommu") == "smmuv3":
                return "smmuv3", {}
        return None

    def images(self, kind):
        """Images of a kind in the backing chains, and disks that have one."""
        images = disks = 0
        for disk in self.root.findall("devices/disk"):
            count = int(disk.get("type") == kind)
            layer = disk.find("backingStore")
            while layer is not None:
                count += layer.get("type") == kind
                layer = layer.find("backingStore")
            images += count
            disks += count > 0
        return images, disks

    def uncounted(self, kind):
        """Images that QEMU opens and libvirt does not count: the data of a qcow2 image, and those of <qemu:commandline>."""
        stores = sum(s.get("type") == kind for d in self.root.findall("devices/disk") for s in d.iter("dataStore"))
        driver = {"nvme": "nvme", "vhostvdpa": "virtio-blk-vhost-vdpa"}[kind]
        for option, value in arguments(self.root):
            if option in ("drive", "blockdev"):
                keys = properties(value, "")
                stores += keys.get("driver") == driver or keys.get("file", "").startswith(driver + ":")
        return stores

    # What the plan does to the domain

    def wrapped(self):
        emulator = self.root.findtext("devices/emulator") or ""
        return emulator.rsplit("/", 1)[-1].startswith("viommu-qemu-system-")

    def bypasses(self, where):
        # libvirt may put a device without an address on any root port: the less favourable case counts.
        return where is not None and self.topology.requester(where)[1]

    def translated(self, devices):
        """Whether one of these devices is behind the vIOMMU."""
        return any(not self.bypasses(where) for _, where in devices)

    def aliased(self):
        """Two devices with one requester id, which virtio-iommu refuses."""
        ids = [self.topology.requester(where) for _, where in self.devices if where is not None]
        seen = [alias for alias, bypass in ids if not bypass]
        return len(seen) != len(set(seen))

    def refused(self):
        """A reason why the request cannot be met; only reasons that apply to the generated domains."""
        if self.model == "none":
            return None
        if "i440fx" in self.root.find("os/type").get("machine"):
            return "machine-unsupported"
        there = self.native.get("model") if self.native is not None else self.hidden[0] if self.hidden else None
        if there and self.model not in ("auto", there):
            return "iommu-conflict"
        if self.hidden and self.hidden[0] == "intel" and (self.devices or self.vdpa()):
            if self.hidden[1].get("caching-mode") != "on":
                return "iommu-conflict"
        # QEMU's SMMUv3 has no MAP notifier.
        if there == "smmuv3" and self.translated(self.devices):
            return "smmuv3-with-vfio"
        if self.hidden and self.precedes_hidden():
            return "iommu-conflict"
        # amd-iommu translates for VFIO devices with dma-remap=on only, which libvirt cannot set.
        if there == "amd" and self.translated(self.devices):
            return "iommu-conflict"
        # SMMUv3 serves only VFIO devices that bypass it: 'auto' is virtio on AArch64 if another one exists.
        arm = self.root.find("os/type").get("arch") == "aarch64"
        model = there or ("virtio" if self.model == "auto" and arm and self.translated(self.devices) else self.model)
        if model == "virtio" and not self.hidden:
            if self.libvirt < (8, 3):
                return "model-unsupported-by-libvirt"
            if self.qemu < (7, 0):
                return "model-unsupported-by-qemu"
        if model == "virtio" and self.aliased():
            return "virtio-aliased-devices"
        # The memory at the start; memory that may be plugged later does not refuse the guest.
        limit = self.hard_limit()
        if limit is not None and limit < self.containers(True) * (self.memory.total + self.extra()):
            return "hard-limit-too-low"
        return None

    def precedes_hidden(self):
        """Whether QEMU creates a VFIO device before the vIOMMU of <qemu:commandline>, which it then bypasses.

        Devices as key=value come first, in their order, then those as JSON. libvirt's own devices come before those of
        <qemu:commandline>.
        """
        if "form" not in self.hidden[1]:
            return False
        json_iommu = self.hidden[1]["form"] == "json"
        known, rest = self.devices[: self.known], self.devices[self.known :]
        first = (known if json_iommu or not self.writes_json() else []) + (rest if json_iommu else [])
        return self.translated(first)

    def writes_json(self):
        """Whether libvirt writes -device in JSON: 7.9 and 7.10 with QEMU 6.2, from 8.1 on with QEMU 7.0 (its NEWS.rst)."""
        removed = {d.get("capability") for d in self.root.findall(f"{QEMU}capabilities/{QEMU}del")}
        if self.libvirt < (8, 0):
            return self.libvirt >= (7, 9) and self.qemu >= (6, 2) and "device.json" not in removed
        return self.libvirt >= (8, 1) and self.qemu >= (7, 0) and "device.json+hotplug" not in removed

    # Locked memory

    def address_spaces(self, viommu):
        """Sets of devices that share an address space."""
        if not viommu:
            return [sorted(label for label, _ in self.devices)] if self.devices else []
        spaces = {}
        for position, (label, where) in enumerate(self.devices):
            if where is None:
                key = position
            else:
                alias, bypass = self.topology.requester(where)
                key = "common" if bypass else alias
            spaces.setdefault(key, []).append(label)
        return [sorted(labels) for labels in spaces.values()]

    def nvme(self):
        return self.nvme_images + self.nvme_hidden

    def vdpa(self):
        return self.vdpa_interfaces + self.vdpa_images + self.vdpa_hidden

    def containers(self, viommu):
        """Each maps all of guest memory: address spaces, images on NVMe, vDPA devices."""
        return len(self.address_spaces(viommu)) + self.nvme() + self.vdpa()

    def reserve(self, copies):
        """libvirt's 1 GiB, or 8 MiB of firmware and the displays' default memory in each container if that is more."""
        usual = sum(display(video)[0] for video in self.root.findall("devices/video/model"))
        usual += sum(display(video)[0] for video in self.hidden_displays())
        return max(GIB, copies * (usual + 8 * MIB))

    def hidden_displays(self):
        """VGA displays of <qemu:commandline>, in the form of libvirt's: -global counts where the device says nothing itself."""
        size = 16
        for option, value in arguments(self.root):
            if option == "global" and value.startswith("VGA.vgamem_mb="):
                size = int(value.partition("=")[2])
        for option, value in arguments(self.root):
            keys = properties(value, "driver")
            if option == "device" and keys.get("driver") == "VGA":
                vram = int(keys.get("vgamem_mb", size)) * 1024
                yield ElementTree.Element("model", {"type": "vga", "vram": str(vram)})

    def extra(self):
        """Guest memory beside RAM. Memory devices of libvirt lie within its total and its maximum."""
        extra = sum(display(video)[1] for video in self.hidden_displays())
        for shmem in self.root.findall("devices/shmem"):
            size = shmem.find("size")
            extra += 4 * MIB if size is None else scaled(size, "b")
        for video in self.root.findall("devices/video/model"):
            extra += display(video)[1]
        backends, named = {}, []
        for option, value in arguments(self.root):
            if option == "object":
                keys = properties(value, "qom-type")
                if keys["qom-type"].startswith("memory-backend"):
                    backends[keys["id"]] = size_option(keys["size"])
            if option == "device":
                keys = properties(value, "driver")
                named += [keys[key] for key in ("memdev", "volatile-memdev", "persistent-memdev") if key in keys]
        return extra + sum(backends[name] for name in named)

    def hard_limit(self):
        element = self.root.find("memtune/hard_limit")
        if element is None or up(scaled(element), KIB) >= NO_HARD_LIMIT * KIB:
            return None
        return up(scaled(element), KIB)

    def libvirt_bytes(self, iommu):
        """qemuDomainGetMemLockLimitBytes of the release; iommu: whether libvirt's domain has one."""
        if self.hard_limit() is not None:
            return self.hard_limit()
        if self.root.find("memoryBacking/locked") is not None:
            return UNLIMITED
        vdpa = self.vdpa_interfaces if self.libvirt >= (7, 2) else 0
        if self.libvirt < (8, 7):
            factor = int(self.known + self.nvme_disks + vdpa > 0)
        elif self.libvirt < (9, 3):
            vfio = self.known + self.nvme_disks
            factor = vdpa + (vfio if iommu else min(vfio, 1))
        else:
            # Disks with an NVMe image, but each vDPA image: read from the machine code of 11.3
            # (qemuDomainGetNumVDPADevices).
            vdpa += self.vdpa_images
            factor = vdpa + self.nvme_disks + (self.known if iommu else min(self.known, 1))
        return factor * self.memory.total + GIB if factor else None

    def memlock(self, refused):
        adds = self.model != "none" and not refused and self.native is None and not self.hidden
        viommu = adds or self.native is not None or self.hidden is not None
        spaces = self.address_spaces(viommu)
        libvirt = self.libvirt_bytes(self.native is not None or (adds and not self.wrapped()))
        copies = self.containers(viommu)
        if self.hard_limit() is not None or libvirt == UNLIMITED:
            required = libvirt
        else:
            required = copies * (self.memory.maximum + self.extra()) + self.reserve(copies) if copies else None
        # A domain without a vIOMMU and without a request is not changed; a refused guest does not start.
        due = isinstance(required, int) and (libvirt is None or libvirt != UNLIMITED and required > libvirt)
        raises = viommu and due and not refused
        return {
            "address_spaces": sorted(spaces),
            "nvme_disks": self.nvme(),
            "vdpa_devices": self.vdpa(),
            "required_bytes": required,
            "libvirt_bytes": libvirt,
            "raise": raises,
        }


def display(model):
    """QEMU's default memory of a display, and what it has above that."""

    def kib(name, default):
        return power_of_two(int(model.get(name) or default) * KIB)

    def split(size, default):
        return min(size, default), max(size - default, 0)

    if model.get("type") in ("vga", "vmvga"):
        # QEMU takes no more than 512 MiB.
        return split(min(kib("vram", 16 * KIB), 512 * MIB), 16 * MIB)
    if model.get("type") == "bochs":
        return split(kib("vram", 16 * KIB), 16 * MIB)
    if model.get("type") == "qxl":
        # The 64-bit region exists only where it is larger than the 32-bit one, and maps the same memory again.
        ram = max(kib("ram", 64 * KIB), 2 * kib("vgamem", 16 * KIB))
        vram, vram64 = kib("vram", 64 * KIB), kib("vram64", 1)
        return split(ram + vram + (vram64 if vram64 > vram else 0), 128 * MIB)
    return (8 * MIB if model.get("type") == "virtio" else 0), 0
