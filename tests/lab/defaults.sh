#!/bin/bash
# Prints the properties of the vIOMMUs in the Debian roots' QEMUs: the address width by machine type, and whether they can
# migrate.
#
#   tests/lab/defaults.sh SUITE… >docs/proof/viommu-defaults.md      bullseye bookworm trixie sid backports, made by root.sh
set -euo pipefail
lab=${VIOMMU_LAB:-target/lab}

ask() { # SUITE ARCH MACHINE COMMAND [-device X]…: what the monitor of a stopped guest answers
    local suite=$1 arch=$2 machine=$3 command=$4
    shift 4
    printf '%s\nquit\n' "$command" | timeout 60 chroot "$lab/roots/$suite" "qemu-system-$arch" -machine "$machine" -accel tcg -S \
        -nodefaults -display none -monitor stdio "$@" 2>&1 | tr -d '\r' || true
}

width() { # SUITE MACHINE DEVICE
    ask "$1" x86_64 "$2" 'info qtree' -device "$3" | awk -F' = ' '/aw-bits = /{ print $2 + 0; exit }'
}

widths() { # SUITE DEVICE: the width of each machine type, those alike together
    local machine bits last='' first='' previous='' text=''
    while read -r machine; do
        bits=$(width "$1" "$machine" "$2")
        if [ "$bits" != "$last" ]; then
            [ -z "$first" ] || text+="${last:-none}: $first to $previous; "
            first=${machine#pc-q35-} last=$bits
        fi
        previous=${machine#pc-q35-}
    done < <(chroot "$lab/roots/$1" qemu-system-x86_64 -machine help | grep -oE '^pc-q35-[0-9.]+' | sort -V)
    if [ -n "$first" ]; then echo "$text${last:-none}: $first to $previous"; else echo 'no such property'; fi
}

migrates() { # SUITE ARCH MACHINE [-device X]…
    local suite=$1 arch=$2 machine=$3 answer
    shift 3
    answer=$(ask "$suite" "$arch" "$machine" $'migrate "exec:cat>/dev/null"\ninfo migrate' "$@")
    case $answer in
        *completed*) echo yes ;;
        *non-migratable* | *'not supported'*) echo no ;;
        *'not a valid device'* | *'not found'* | *-no-acpi*) echo - ;;
        *) echo "unclear: ${answer##*$'\n'}" ;;
    esac
}

cat <<'PAGE'
# What each QEMU says of its vIOMMUs

Written by `tests/lab/defaults.sh`, which starts the QEMUs of the Debian releases (stopped, without KVM) and asks their monitors.

## Address width without `aw_bits`, by machine type of q35

| QEMU | intel-iommu | virtio-iommu-pci |
|---|---|---|
PAGE
for suite; do
    version=$(chroot "$lab/roots/$suite" qemu-system-x86_64 -version | grep -oEm1 '[0-9]+\.[0-9]+\.[0-9]+' | head -1)
    echo "| $version ($suite) | $(widths "$suite" intel-iommu) | $(widths "$suite" virtio-iommu-pci) |"
done
cat <<'PAGE'

## Migration of a guest with emulated devices

`-` where this QEMU does not have the device on that machine. The last but one column is `amd-iommu` as libvirt 11.5 and newer write it, with its PCI function.

| QEMU | intel | virtio | amd alone | amd with AMDVI-PCI | smmuv3 |
|---|---|---|---|---|---|
PAGE
for suite; do
    version=$(chroot "$lab/roots/$suite" qemu-system-x86_64 -version | grep -oEm1 '[0-9]+\.[0-9]+\.[0-9]+' | head -1)
    echo "| $version ($suite) | $(migrates "$suite" x86_64 q35 -device intel-iommu) | $(migrates "$suite" x86_64 q35 -device virtio-iommu-pci) |" \
        "$(migrates "$suite" x86_64 q35 -device amd-iommu) |" \
        "$(migrates "$suite" x86_64 q35 -device AMDVI-PCI,id=pci -device amd-iommu,pci-id=pci) |" \
        "$(migrates "$suite" aarch64 virt,iommu=smmuv3) |"
done
