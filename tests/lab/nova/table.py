#!/usr/bin/python3
"""Inside the lab: the results of instances, for each request and each source, as a generated part of docs/proof/nova.md.

    table.py DOOR FILE [lives]      stock, route or native, which is set up already; adds its results to FILE
    table.py page FILE DEBIAN       prints the page's part, with the name of the release
"""
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

from standins import image_id

NOVA = "http://127.0.0.1:8774/v2.1"
DOORS = {"stock": "no door", "route": "host route", "native": "native door"}
# The instance's request, its extra specs, and its image and project if they differ from the defaults. The line's number
# gives the flavor's name; services.sh writes the rules for the flavor "nfv" and the project "telco".
REQUESTS = [
    ("nothing", {}),
    ("flavor `hw:viommu_model=intel`", {"hw:viommu_model": "intel"}),
    ("flavor `hw:viommu_model=virtio`", {"hw:viommu_model": "virtio"}),
    ("flavor `hw:viommu_model=auto`", {"hw:viommu_model": "auto"}),
    ("image `hw_viommu_model=intel`", {}, {"image": "hw-intel"}),
    ("image `hw_viommu_model=virtio`", {}, {"image": "hw-virtio"}),
    ("flavor `hw:viommu_model=intel`, image `hw_machine_type=pc`", {"hw:viommu_model": "intel"}, {"image": "pc"}),
    ("flavor `viommu:model=intel`", {"viommu:model": "intel"}),
    ("flavor `viommu:model=virtio`", {"viommu:model": "virtio"}),
    ("flavor `viommu:model=auto`", {"viommu:model": "auto"}),
    ("flavor `viommu:model=none`", {"viommu:model": "none"}),
    ("flavor `viommu:model=virtoi` (misspelt value)", {"viommu:model": "virtoi"}),
    ("flavor `viommu:modle=virtio` (misspelt key)", {"viommu:modle": "virtio"}),
    ("rule `nova-flavor = \"nfv\"`, model virtio", {}, {"flavor": "nfv"}),
    ("rule `nova-project = \"telco\"`, model intel", {}, {"project": "telco"}),
]
# The instances whose operations are shown: source, request, and the request for the resize.
LIVES = [
    ("route", "nothing", "flavor `viommu:model=virtio`"),
    ("route", "flavor `viommu:model=virtio`", "flavor `viommu:model=intel`"),
    ("native", "flavor `hw:viommu_model=virtio`", "flavor `hw:viommu_model=intel`"),
]
STEPS = [
    ("hard reboot", "reboot", {"type": "HARD"}, "ACTIVE"),
    ("stop", "os-stop", None, "SHUTOFF"),
    ("start", "os-start", None, "ACTIVE"),
    ("suspend", "suspend", None, "SUSPENDED"),
    ("resume", "resume", None, "ACTIVE"),
    ("rescue", "rescue", {}, "RESCUE"),
    ("unrescue", "unrescue", None, "ACTIVE"),
    ("resize", "resize", None, "VERIFY_RESIZE"),
    ("confirm the resize", "confirmResize", None, "ACTIVE"),
]


def call(method, path, body=None, project="admin"):
    """Nova's answer, with the first microversion that checks all extra specs of a flavor and newer keys."""
    headers = {"X-Auth-Token": project, "Content-Type": "application/json", "OpenStack-API-Version": "compute 2.96"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(NOVA + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            text = answer.read()
            return json.loads(text) if text else {}
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode()}")


def server(identifier):
    return call("GET", f"/servers/{identifier}")["server"]


def settled(identifier):
    for _ in range(300):
        seen = server(identifier)
        if seen["status"] not in ("BUILD", "REBOOT", "RESIZE") and not seen["OS-EXT-STS:task_state"]:
            return seen
        time.sleep(1)
    sys.exit(f"{identifier}: {seen['status']}, {seen['OS-EXT-STS:task_state']}")


def boot(name, flavor, image="plain", project="admin"):
    wanted = {"name": name, "flavorRef": flavor, "imageRef": image_id(image), "networks": "none"}
    return call("POST", "/servers", {"server": wanted}, project)["server"]["id"]


def vIOMMU(seen):
    """The vIOMMU on the command line of the instance's QEMU, with properties as key=value or as JSON."""
    name = seen["OS-EXT-SRV-ATTR:instance_name"]
    try:
        pid = open(f"/run/libvirt/qemu/{name}.pid").read()
        line = open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return "no QEMU"
    found = re.findall(r"(?:intel|virtio)-iommu|arm-smmuv3|amd-iommu", line)
    return ", ".join(found) or "no vIOMMU"


def sentence(identifier):
    """The reason of the refusal and the refusing program, from the last exception in nova-compute's log."""
    log = open("/var/log/nova/nova-compute.log").read()
    said = re.findall(rf"\[instance: {identifier}\] (?:[\w.]+\.)?(?:\w+): (.+)", log)
    for text in reversed(said):
        ours = re.search(r"viommu: (error\[[\w-]+\]: .*)", text)
        if ours:
            hook = "libvirt: " in text or "hook" in text.lower()
            return ("viommu's hook" if hook else "viommu's filter", ours[1])
        for start, who in (("XML error", "libvirt"), ("unsupported configuration", "libvirt"), ("internal error", "libvirt")):
            if start in text:
                return (who, text[text.index(start):])
        if "vIOMMU" in text:
            return ("Nova", text)
    return ("unknown", said[-1] if said else "")


def numbers():
    return {request[0]: f"f{number}" for number, request in enumerate(REQUESTS)}


def flavor(request):
    options = request[2] if len(request) > 2 else {}
    return options.get("flavor") or numbers()[request[0]]


def make_flavors():
    there = {known["id"] for known in call("GET", "/flavors")["flavors"]}
    for request in REQUESTS:
        if flavor(request) in there:
            continue
        size = {"ram": 64, "vcpus": 1, "disk": 1}
        call("POST", "/flavors", {"flavor": {"name": flavor(request), "id": flavor(request), **size}})
        if request[1]:
            call("POST", f"/flavors/{flavor(request)}/os-extra_specs", {"extra_specs": request[1]})


def boots(door):
    for request in REQUESTS:
        options = {key: value for key, value in (request[2] if len(request) > 2 else {}).items() if key != "flavor"}
        yield request[0], boot(door, flavor(request), **options)


def life(identifier, other):
    yield "boot", "ACTIVE", server(identifier)["status"], vIOMMU(server(identifier))
    for step, action, arguments, wanted in STEPS:
        if action == "resize":
            arguments = {"flavorRef": numbers()[other]}
        call("POST", f"/servers/{identifier}/action", {action: arguments})
        time.sleep(2)
        seen = settled(identifier)
        yield step, wanted, seen["status"], vIOMMU(seen)


def wait_for_host():
    """nova-compute was restarted with libvirtd."""
    good = 0
    while good < 10:
        [service] = call("GET", "/os-services?binary=nova-compute")["services"]
        good = good + 1 if (service["status"], service["state"]) == ("enabled", "up") else 0
        time.sleep(2)


def run(door, lives):
    wait_for_host()
    make_flavors()
    results = {"boots": [], "lives": []}
    booted = dict(boots(door))
    for request, identifier in booted.items():
        seen = settled(identifier)
        result = {"request": request, "door": door, "state": seen["status"]}
        if seen["status"] == "ACTIVE":
            result["viommu"] = vIOMMU(seen)
        else:
            result["who"], result["sentence"] = sentence(identifier)
            result["fault"] = seen.get("fault", {}).get("message", "")
        print(json.dumps(result), file=sys.stderr)
        results["boots"].append(result)
    for where, request, other in LIVES:
        if lives and where == door:
            steps = list(life(booted[request], other))
            print(json.dumps(steps), file=sys.stderr)
            results["lives"].append({"door": door, "request": request, "resize": other, "steps": steps})
    for identifier in booted.values():
        call("DELETE", f"/servers/{identifier}")
    while call("GET", "/servers?all_tenants=1")["servers"]:
        time.sleep(1)
    return results


def page(results, debian):
    boots = [result for part in results for result in part["boots"]]

    def cell(request, door):
        result = next(result for result in boots if (result["request"], result["door"]) == (request, door))
        if "viommu" in result:
            return f"{result['state']}, " + (f"`{result['viommu']}`" if "-" in result["viommu"] else result["viommu"])
        code = re.match(r"error\[([\w-]+)\]", result["sentence"])
        return f"{result['state']}: {result['who']}" + (f", `{code[1]}`" if code else "")

    versions = dict(line.split() for line in open("/packages"))
    shown = [("Nova", "nova-compute"), ("placement", "placement-api"), ("libvirt", "libvirt-daemon"), ("QEMU", "qemu-system-x86")]
    print("Made with " + ", ".join(f"{name} {versions[package]}" for name, package in shown) + f" of {debian}.\n")
    print("| request | " + " | ".join(DOORS.values()) + " |\n|---|" + "---|" * len(DOORS))
    for request in REQUESTS:
        print(f"| {request[0]} | " + " | ".join(cell(request[0], door) for door in DOORS) + " |")
    lives = [life for part in results for life in part["lives"]]
    if lives:
        refusals(boots)
        life_table(lives)


def refusals(boots):
    print("\n## What a refusal says\n")
    print("The first line is the sentence in nova-compute's log, and the second the fault that `openstack server show` prints.\n")
    said = {}
    for result in boots:
        if "sentence" in result:
            fault = result["fault"].replace(str(result.get("id")), "UUID")
            fault = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", fault)
            key = (re.sub(r"instance-[0-9a-f]{8}", "instance-N", result["sentence"]), fault)
            said.setdefault(key, []).append(f"{result['request']}, {DOORS[result['door']]}")
    for (text, fault), whose in said.items():
        print("- " + "; ".join(whose) + f"\n\n  ```text\n  {text}\n  {fault}\n  ```\n")


def life_table(lives):
    print("## The life of an instance\n")
    print("| step | " + " | ".join(f"{life['request']}, {DOORS[life['door']]}" for life in lives) + " |")
    print("|---|" + "---|" * len(lives))
    for number, step in enumerate(["boot"] + [step[0] for step in STEPS]):
        cells = []
        for life in lives:
            _, wanted, state, given = life["steps"][number]
            other = f" (to {life['resize']})" if step == "resize" else ""
            cells.append(("" if state == wanted else "**WRONG** ") + f"{state}, {given}{other}")
        print(f"| {step} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if sys.argv[1] == "page":
        page([json.loads(line) for line in open(sys.argv[2])], sys.argv[3])
    else:
        with open(sys.argv[2], "a") as file:
            print(json.dumps(run(sys.argv[1], sys.argv[3:] == ["lives"])), file=file)
