/* Host memory that can be lent: blocks of alloc_lendable (memfds), and shared mappings of files as
 * /proc/self/maps shows them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "src/base/error.h"
#include "transport/ipc/backend.h"

static bool host_available(void)
{
    return true;
}

static weft_status_t host_open(weft_transport_t *transport, int32_t device, weft_error_t *error)
{
    (void)device, (void)error;
    transport->base.queue = "host";
    transport->base.device = -1;
    return WEFT_OK;
}

static void host_close(weft_transport_t *transport)
{
    (void)transport;
}

/* ---- /proc/self/maps ---- */

typedef struct area {
    uint64_t begin, end, offset, inode;
    dev_t device;
    bool shared;
    char path[512];
} area_t;

static bool parse_area(const char *line, area_t *area)
{
    unsigned long long begin, end, offset, inode;
    unsigned major_number, minor_number;
    char rights[5];
    int path = 0;
    if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &begin, &end, rights, &offset, &major_number,
               &minor_number, &inode, &path) != 7)
        return false;
    *area = (area_t){begin, end, offset, inode, makedev(major_number, minor_number), rights[3] == 's', ""};
    snprintf(area->path, sizeof area->path, "%s", line + path);
    area->path[strcspn(area->path, "\n")] = '\0';
    return true;
}

/* Whether `next` goes on where `area` ends, in the same file: the kernel splits areas, for instance by their
 * rights. */
static bool continues(const area_t *area, const area_t *next)
{
    return area->shared && next->shared && area->inode != 0 && next->inode == area->inode &&
           next->device == area->device && next->begin == area->end &&
           next->offset == area->offset + (area->end - area->begin);
}

/* The area that `address` lies in; `found` ends at 0 when there is none. */
static weft_status_t find_area(uint64_t address, area_t *found, weft_error_t *error)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char *line = NULL;
    size_t capacity = 0;
    area_t next;
    memset(found, 0, sizeof *found);
    if (!maps)
        return weft_fail(error, WEFT_ERR_SYSTEM, "reading /proc/self/maps: %s", strerror(errno));
    while (getline(&line, &capacity, maps) > 0 && parse_area(line, &next)) {
        if (continues(found, &next))
            found->end = next.end;
        else if (found->end > address)
            break;
        else
            *found = next;
    }
    free(line);
    fclose(maps);
    if (address < found->begin || found->end <= address)
        found->end = 0;
    return WEFT_OK;
}

/* ---- What memory is ---- */

static const weft_ipc_block_t *find_block(const weft_transport_t *transport, uint64_t address)
{
    const weft_ipc_block_t *block = transport->blocks;
    while (block && address - (uintptr_t)block->data >= block->bytes) /* a difference below 0 is large */
        block = block->next;
    return block;
}

static weft_ipc_allocation_t of_block(const weft_ipc_block_t *block)
{
    return (weft_ipc_allocation_t){.kind = IPC_FILE,
                                   .address = (uintptr_t)block->data,
                                   .bytes = block->bytes,
                                   .identity = {0, block->serial, 1}};
}

static weft_ipc_allocation_t of_area(const area_t *area)
{
    return (weft_ipc_allocation_t){.kind = IPC_FILE,
                                   .address = area->begin,
                                   .bytes = area->end - area->begin,
                                   .file_offset = area->offset,
                                   .identity = {area->device, area->inode, 0}};
}

static weft_status_t refuse(const void *pointer, const char *kind, weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_ARGUMENT,
                     "memory at %p is %s, which another process cannot read; lend memory of alloc_lendable "
                     "or a MAP_SHARED "
                     "mapping of a file in /dev/shm",
                     pointer, kind);
}

/* Open the file behind an area by its name, and see that it is the one. */
static weft_status_t open_area(const area_t *area, const void *pointer, int *fd, weft_error_t *error)
{
    struct stat file;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    bool regular =
        !stat(area->path, &file) && S_ISREG(file.st_mode); /* opening a device might do something */
    int opened = regular ? open(area->path, O_RDONLY | O_CLOEXEC) : -1;
    if (regular && opened < 0 && (errno == EMFILE || errno == ENFILE))
        return weft_fail(error, WEFT_ERR_SYSTEM, "opening %s: %s", area->path, strerror(errno));
    if (opened < 0 || fstat(opened, &file) || file.st_dev != area->device || file.st_ino != area->inode) {
        weft_ipc_close_fds(&opened, 1);
        return refuse(pointer, "a mapping of a file that cannot be opened by its name any more", error);
    }
    if (area->offset + (area->end - area->begin) > ((uint64_t)file.st_size + page - 1) / page * page) {
        close(opened);
        return refuse(pointer, "a mapping that reaches behind the end of its file", error);
    }
    *fd = opened;
    return WEFT_OK;
}

static weft_status_t host_describe(weft_transport_t *transport, const void *pointer,
                                   weft_ipc_allocation_t *allocation, int *fd, weft_error_t *error)
{
    const weft_ipc_block_t *block = find_block(transport, (uintptr_t)pointer);
    area_t area;
    if (block) {
        *fd = fcntl(block->fd, F_DUPFD_CLOEXEC, 0);
        if (*fd < 0)
            return weft_fail(error, WEFT_ERR_SYSTEM, "%s", strerror(errno));
        *allocation = of_block(block);
        return WEFT_OK;
    }
    WEFT_TRY(find_area((uintptr_t)pointer, &area, error));
    if (!area.end)
        return refuse(pointer, "no host memory, and config.memory is \"host\"", error);
    if (!area.shared)
        return refuse(pointer, "private memory (malloc, or mmap without MAP_SHARED)", error);
    WEFT_TRY(open_area(&area, pointer, fd, error));
    *allocation = of_area(&area);
    return WEFT_OK;
}

static bool host_unchanged(weft_transport_t *transport, const weft_ipc_allocation_t *allocation)
{
    const weft_ipc_block_t *block = find_block(transport, allocation->address);
    area_t area;
    weft_ipc_allocation_t now;
    weft_error_t error;
    if (block)
        now = of_block(block);
    else if (find_area(allocation->address, &area, &error) == WEFT_OK && area.end && area.shared)
        now = of_area(&area);
    else
        return false;
    return memcmp(&now, allocation, sizeof now) == 0;
}

/* ---- Mapping ---- */

static weft_status_t host_map(weft_transport_t *transport, const weft_ipc_table_t *table, size_t i, int fd,
                              weft_ipc_mapping_t *mappings, weft_error_t *error)
{
    (void)transport;
    const weft_ipc_allocation_t *allocation = &table->allocations[i];
    if (allocation->kind != IPC_FILE)
        return weft_fail(error, WEFT_ERR_PROTOCOL, "it is no host memory");
    void *mapped = mmap(NULL, allocation->bytes, PROT_READ, MAP_SHARED, fd, (off_t)allocation->file_offset);
    if (mapped == MAP_FAILED)
        return weft_fail(error, WEFT_ERR_SYSTEM, "mapping %llu bytes: %s",
                         (unsigned long long)allocation->bytes, strerror(errno));
    mappings[i] = (weft_ipc_mapping_t){mapped, allocation->bytes, 0};
    return WEFT_OK;
}

static void host_unmap(weft_transport_t *transport, const weft_ipc_allocation_t *allocation,
                       const weft_ipc_mapping_t *mapping)
{
    (void)transport, (void)allocation;
    munmap(mapping->address, mapping->bytes);
}

/* ---- alloc_lendable ---- */

static weft_status_t host_alloc(weft_transport_t *transport, weft_ipc_block_t *block, weft_error_t *error)
{
    block->data = MAP_FAILED;
    block->fd = memfd_create("weft-lendable", MFD_CLOEXEC);
    if (block->fd >= 0 && !ftruncate(block->fd, (off_t)block->bytes))
        block->data = mmap(NULL, block->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, block->fd, 0);
    if (block->data == MAP_FAILED) {
        weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: %zu bytes of shared memory: %s",
                  transport->base.rank, block->bytes, strerror(errno));
        weft_ipc_close_fds(&block->fd, 1);
        return WEFT_ERR_NO_MEMORY;
    }
    return WEFT_OK;
}

static void host_free(weft_transport_t *transport, weft_ipc_block_t *block)
{
    (void)transport;
    munmap(block->data, block->bytes);
    weft_ipc_close_fds(&block->fd, 1);
}

const weft_ipc_memory_t weft_ipc_host_memory = {
    .name = "host",
    .available = host_available,
    .open = host_open,
    .close = host_close,
    .describe = host_describe,
    .unchanged = host_unchanged,
    .map = host_map,
    .unmap = host_unmap,
    .alloc = host_alloc,
    .free = host_free,
};
