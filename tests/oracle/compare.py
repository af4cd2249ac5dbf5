#!/usr/bin/env python3
"""Compare the locked-memory part of 'viommu plan' with the oracle, over random domains.

Prints each difference; exit status 1 if there is one, or if most domains are refused.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

import domains  # noqa: E402
import oracle  # noqa: E402


def cases(count, seed):
    for index in range(count):
        generator = domains.Generator(f"{seed}/{index}")
        text = generator.domain()
        yield index, text, generator.libvirt, generator.qemu, generator.model()


def hosts(scratch):
    """Facts of hosts in the form of 'viommu capabilities': all of these versions, with an IOMMU and much memory."""
    for libvirt, qemus in domains.RELEASES:
        for qemu in qemus:
            for arch in ("x86_64", "aarch64"):
                facts = {
                    "arch": arch,
                    "libvirt": libvirt,
                    "emulators": [{"path": "", "arch": None, "version": qemu, "flags": None}],
                    "iommu": True,
                    "aw_bits": 48,
                    "iommu_groups": {},
                    "memory_bytes": 1 << 46,
                    "page_bytes": 4096,
                    "allow_unsafe_interrupts": None,
                }
                pathlib.Path(scratch, f"{libvirt}-{qemu}-{arch}.json").write_text(json.dumps(facts), encoding="utf-8")


def planned(binary, scratch, text, libvirt, qemu, model):
    # A host's facts, so that the result does not depend on this machine.
    arch = "aarch64" if "aarch64" in text else "x86_64"
    host = pathlib.Path(scratch, f"{libvirt}-{qemu}-{arch}.json")
    options = ["--host", host, "--config", f"{scratch}/viommu.toml", "--model", model]
    run = subprocess.run(
        [binary, "plan", "--format", "json", *options, "-"], input=text, capture_output=True, text=True, check=False
    )
    if run.returncode not in (0, 1) or not run.stdout:
        raise SystemExit(f"compare: viommu failed: {run.stderr}{text}")
    plan = json.loads(run.stdout)
    memlock = plan["memlock"]
    memlock["address_spaces"] = sorted(sorted(space["devices"]) for space in memlock["address_spaces"])
    errors = [note["code"] for note in plan["notes"] if note["level"] == "error"]
    return memlock, errors


def differences(binary, scratch, case):
    _, text, libvirt, qemu, model = case
    memlock, errors = planned(binary, scratch, text, libvirt, qemu, model)
    second = oracle.Oracle(text, domains.version(libvirt), domains.version(qemu), model)
    refused = second.refused()
    found = []
    if refused and refused not in errors or errors and not refused:
        found.append(("refused", refused, errors))
    for key, value in second.memlock(refused).items():
        if memlock[key] != value:
            found.append((key, value, memlock[key]))
    return case, refused, found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("viommu", help="the binary")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", type=int, help="show one domain and its numbers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pathlib.Path(scratch, "viommu.toml").touch()
        hosts(scratch)
        chosen = list(cases(arguments.count, arguments.seed))
        if arguments.only is not None:
            chosen = chosen[arguments.only : arguments.only + 1]
            print(*chosen[0][1:], sep="\n")
        kinds = collections.Counter()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for case, refused, found in pool.map(lambda c: differences(arguments.viommu, scratch, c), chosen):
                kinds["refused" if refused else "planned"] += 1
                kinds["different"] += bool(found)
                for key, expected, got in found:
                    what = f"domain {case[0]} (libvirt {case[2]}, QEMU {case[3]}, model {case[4]})"
                    print(f"{what}: {key}: oracle {expected}, viommu {got}")
        counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("planned", "refused", "different"))
        print(f"{len(chosen)} domains, seed {arguments.seed}: {counts}")
        vacuous = arguments.only is None and kinds["planned"] <= kinds["refused"]
        return 1 if kinds["different"] or vacuous else 0


if __name__ == "__main__":
    sys.exit(main())
