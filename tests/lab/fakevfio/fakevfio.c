/*
 * VFIO without kernel support: the library answers QEMU's calls from memory, and logs them.
 *
 *     gcc -std=gnu11 -O2 -U_FORTIFY_SOURCE -shared -fPIC -o fakevfio.so fakevfio.c
 *     LD_PRELOAD=./fakevfio.so qemu-system-x86_64 ... -device vfio-pci,host=0000:01:00.0
 *
 * QEMU is real: the guest address space of a device, whether the device's group joins a container or gets a new one, the
 * mappings of each container and their time, QEMU's refusals and their messages.
 *
 * The kernel (drivers/vfio) is simulated: every group is viable and fits into every container; all devices are the same
 * Ethernet controller without BARs, interrupts or PCI Express; mapped bytes count as locked bytes, in all containers
 * together, as RLIMIT_MEMLOCK does. Unlike here, a real kernel locks nothing when memory is mapped for mediated devices
 * only, and refuses a group that its IOMMU cannot serve. sysfs is not simulated here: see qemu.sh.
 *
 * Messages on standard error, one per line: "fakevfio: container 1", "fakevfio: container 1 group 11",
 * "fakevfio: container 1 device 0000:01:00.0", and "fakevfio: peak BYTES" at each new maximum of mapped bytes.
 *
 * Environment: FAKEVFIO_LIMIT, the maximum of locked bytes (default: unlimited); FAKEVFIO_AW_BITS, the address width
 * of the host's IOMMU (48).
 *
 * QEMUs of older systems than the compiling one load the library. It therefore calls only functions whose glibc symbol
 * version is twenty years old, and calls the replaced functions by system call and not by dlsym().
 */
#define _DEFAULT_SOURCE /* not _GNU_SOURCE, with which a new glibc has a strtoull() that older ones lack */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/vfio.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* The object of a file descriptor. Each descriptor is an empty memfd, so that QEMU can dup, poll and close it. */
enum kind { FOREIGN, CONTAINER, GROUP, DEVICE };
static struct {
    enum kind kind;
    int number;    /* of the container, counted from 1, or of the group */
    int container; /* that the group is in; 0 if none */
} files[1024];

/* The mappings. A slot with size 0 is free. */
static struct { int container; uint64_t iova, size; } mappings[4096];
static int containers;
static uint64_t locked, peak;

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static int fail(int error)
{
    errno = error;
    return -1;
}

static int new_file(enum kind kind, int number)
{
    int fd = syscall(SYS_memfd_create, "fakevfio", 0);
    if (fd < 0 || fd >= COUNT(files))
        abort();
    files[fd].kind = kind;
    files[fd].number = number;
    files[fd].container = 0;
    return fd;
}

/* --- containers: type 1, version 2 (drivers/vfio/vfio_iommu_type1.c) ---------------------------------------------------- */

static int map(int container, const struct vfio_iommu_type1_dma_map *wanted)
{
    int slot = 0;
    if ((wanted->iova + wanted->size - 1) >> setting("FAKEVFIO_AW_BITS", 48))
        return fail(EINVAL);
    if (locked + wanted->size > setting("FAKEVFIO_LIMIT", UINT64_MAX))
        return fail(ENOMEM);
    while (mappings[slot].size)
        if (++slot == COUNT(mappings))
            abort();
    mappings[slot].container = container;
    mappings[slot].iova = wanted->iova;
    mappings[slot].size = wanted->size;
    locked += wanted->size;
    if (locked > peak) {
        peak = locked;
        dprintf(2, "fakevfio: peak %llu\n", (unsigned long long)peak);
    }
    return 0;
}

/* All mappings within the range; QEMU also unmaps ranges that are partly or completely unmapped. */
static uint64_t unmap(int container, uint64_t first, uint64_t last)
{
    uint64_t unmapped = 0;
    for (int slot = 0; slot < COUNT(mappings); slot++) {
        uint64_t iova = mappings[slot].iova, size = mappings[slot].size;
        if (size && mappings[slot].container == container && iova >= first && iova + size - 1 <= last) {
            unmapped += size;
            mappings[slot].size = 0;
        }
    }
    locked -= unmapped;
    return unmapped;
}

/* The capability with the width of the host's IOMMU: one range on either side of x86's MSI window. */
static int info(struct vfio_iommu_type1_info *info)
{
    struct {
        struct vfio_iommu_type1_info_cap_iova_range range;
        struct vfio_iova_range ranges[2];
    } capability = {
        .range = { .header = { .id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, .version = 1 }, .nr_iovas = 2 },
        .ranges = { { 0, 0xfedfffff }, { 0xfef00000, (UINT64_C(1) << setting("FAKEVFIO_AW_BITS", 48)) - 1 } },
    };
    uint32_t room = info->argsz;
    info->flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
    info->iova_pgsizes = 1 << 12 | 1 << 21 | 1 << 30;
    info->argsz = sizeof(*info) + sizeof(capability);
    info->cap_offset = 0;
    if (room >= info->argsz) { /* QEMU asks first for the size, then for the content */
        info->cap_offset = sizeof(*info);
        memcpy(info + 1, &capability, sizeof(capability));
    }
    return 0;
}

static int container_ioctl(int container, unsigned long request, void *argument)
{
    switch (request) {
    case VFIO_GET_API_VERSION:
        return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION:
        return (uintptr_t)argument == VFIO_TYPE1_IOMMU || (uintptr_t)argument == VFIO_TYPE1v2_IOMMU;
    case VFIO_SET_IOMMU:
        return 0;
    case VFIO_IOMMU_GET_INFO:
        return info(argument);
    case VFIO_IOMMU_MAP_DMA:
        return map(container, argument);
    case VFIO_IOMMU_UNMAP_DMA: {
        struct vfio_iommu_type1_dma_unmap *range = argument;
        range->size = unmap(container, range->iova, range->iova + range->size - 1);
        return 0;
    }
    default:
        return fail(ENOTTY);
    }
}

/* --- groups and devices (drivers/vfio/group.c, drivers/vfio/pci) -------------------------------------------------------- */

/* The offset of a region in a device's file. Only the configuration space has a size. */
#define REGION(index) ((uint64_t)(index) << 12)

static int new_device(int container, const char *name)
{
    /* An Intel I210: vendor, device, command, status, revision, class 0x020000. */
    static const uint8_t config[256] = { 0x86, 0x80, 0x33, 0x15, 0, 0, 0, 0, 3, 0, 0, 2 };
    int fd = new_file(DEVICE, 0);
    if (pwrite(fd, config, sizeof(config), REGION(VFIO_PCI_CONFIG_REGION_INDEX)) != sizeof(config))
        abort();
    dprintf(2, "fakevfio: container %d device %s\n", container, name);
    return fd;
}

static int group_ioctl(int fd, unsigned long request, void *argument)
{
    switch (request) {
    case VFIO_GROUP_GET_STATUS:
        ((struct vfio_group_status *)argument)->flags = VFIO_GROUP_FLAGS_VIABLE;
        return 0;
    case VFIO_GROUP_SET_CONTAINER:
        files[fd].container = files[*(int *)argument].number;
        dprintf(2, "fakevfio: container %d group %d\n", files[fd].container, files[fd].number);
        return 0;
    case VFIO_GROUP_UNSET_CONTAINER:
        files[fd].container = 0;
        return 0;
    case VFIO_GROUP_GET_DEVICE_FD:
        return new_device(files[fd].container, argument);
    default:
        return fail(ENOTTY);
    }
}

static int device_ioctl(unsigned long request, void *argument)
{
    switch (request) {
    case VFIO_DEVICE_GET_INFO: {
        struct vfio_device_info *device = argument;
        device->flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
        device->num_regions = VFIO_PCI_NUM_REGIONS;
        device->num_irqs = VFIO_PCI_NUM_IRQS;
        return 0;
    }
    case VFIO_DEVICE_GET_REGION_INFO: {
        struct vfio_region_info *region = argument;
        int config = region->index == VFIO_PCI_CONFIG_REGION_INDEX;
        region->flags = config ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
        region->size = config ? 256 : 0;
        region->offset = REGION(region->index);
        region->cap_offset = 0;
        return 0;
    }
    case VFIO_DEVICE_GET_IRQ_INFO:
        ((struct vfio_irq_info *)argument)->flags = VFIO_IRQ_INFO_EVENTFD;
        ((struct vfio_irq_info *)argument)->count = 1;
        return 0;
    case VFIO_DEVICE_SET_IRQS:
    case VFIO_DEVICE_RESET:
        return 0;
    default:
        return fail(ENOTTY);
    }
}

/* --- the functions that QEMU calls instead of glibc's --------------------------------------------------------------------- */

int open64(const char *path, int flags, ...)
{
    static const char vfio[] = "/dev/vfio/";
    const char *name = path + strlen(vfio);
    va_list rest;
    va_start(rest, flags);
    unsigned mode = va_arg(rest, unsigned); /* ignored without O_CREAT */
    va_end(rest);
    if (strncmp(path, vfio, strlen(vfio)))
        return syscall(SYS_openat, -100 /* AT_FDCWD */, path, flags, mode);
    if (strcmp(name, "vfio"))
        return new_file(GROUP, strtoull(name, NULL, 10));
    dprintf(2, "fakevfio: container %d\n", ++containers);
    return new_file(CONTAINER, containers);
}

/* open64() in a fortified program. */
int __open64_2(const char *path, int flags)
{
    return open64(path, flags, 0);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    switch (fd >= 0 && fd < COUNT(files) ? files[fd].kind : FOREIGN) {
    case CONTAINER:
        return container_ioctl(files[fd].number, request, argument);
    case GROUP:
        return group_ioctl(fd, request, argument);
    case DEVICE:
        return device_ioctl(request, argument);
    default:
        return syscall(SYS_ioctl, fd, request, argument);
    }
}

int close(int fd)
{
    if (fd >= 0 && fd < COUNT(files)) {
        if (files[fd].kind == CONTAINER)
            unmap(files[fd].number, 0, UINT64_MAX);
        files[fd].kind = FOREIGN;
    }
    return syscall(SYS_close, fd);
}
