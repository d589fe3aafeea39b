/* Lending: what is shown to other ranks, and memory made for it.
 *
 * In: runs of this rank's memory. Out: the run table, from which a server's replies are made, then the
 * version word. Invariant: table and generation change only while the version word is 0. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/error.h"
#include "transport/ipc/backend.h"

/* ---- The allocations under the runs, by address ---- */

/* Where the allocation with `address` is, or would have to be. */
static bool find(const weft_ipc_lent_t *lent, uint64_t address, size_t *at)
{
    size_t low = 0, high = lent->num_allocations;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const weft_ipc_allocation_t *allocation = &lent->allocations[middle];
        if (address < allocation->address)
            high = middle;
        else if (address - allocation->address >= allocation->bytes)
            low = middle + 1;
        else
            return *at = middle, true;
    }
    *at = low;
    return false;
}

static bool grow(weft_ipc_lent_t *lent)
{
    if (lent->num_allocations < lent->capacity)
        return true;
    size_t capacity = lent->capacity ? 2 * lent->capacity : 64;
    weft_ipc_allocation_t *allocations = realloc(lent->allocations, capacity * sizeof *allocations);
    if (!allocations)
        return false;
    lent->allocations = allocations;
    int *fds = realloc(lent->fds, capacity * sizeof *fds);
    if (!fds)
        return false;
    lent->fds = fds;
    lent->capacity = capacity;
    return true;
}

static weft_status_t insert(weft_transport_t *transport, weft_ipc_lent_t *lent, uint64_t address, size_t at,
                            weft_error_t *error)
{
    weft_ipc_allocation_t allocation = {0};
    int fd = -1;
    if (!grow(lent))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory");
    WEFT_TRY(
        transport->memory->describe(transport, (const void *)(uintptr_t)address, &allocation, &fd, error));
    size_t behind = lent->num_allocations++ - at;
    memmove(&lent->allocations[at + 1], &lent->allocations[at], behind * sizeof lent->allocations[0]);
    memmove(&lent->fds[at + 1], &lent->fds[at], behind * sizeof lent->fds[0]);
    lent->allocations[at] = allocation;
    lent->fds[at] = fd;
    return WEFT_OK;
}

/* Make sure that the table has what the run lies in: one allocation, or pieces of cuMemMap that touch. */
static weft_status_t cover(weft_transport_t *transport, weft_ipc_lent_t *lent, const weft_lent_run_t *run,
                           weft_error_t *error)
{
    uint64_t begin = (uintptr_t)run->data, end = begin + run->bytes, at = begin;
    bool pieces = true;
    if (end < begin)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "%p with %llu bytes wraps around", run->data,
                         (unsigned long long)run->bytes);
    while (at < end) {
        size_t i = 0;
        if (pieces && !find(lent, at, &i))
            WEFT_TRY(insert(transport, lent, at, i, error));
        pieces = pieces && (at == begin || lent->allocations[i].kind == IPC_CUDA_VMM);
        if (!pieces)
            return weft_fail(error, WEFT_ERR_ARGUMENT,
                             "%p with %llu bytes ends %llu bytes behind its allocation", run->data,
                             (unsigned long long)run->bytes, (unsigned long long)(end - at));
        pieces = lent->allocations[i].kind == IPC_CUDA_VMM;
        at = lent->allocations[i].address + lent->allocations[i].bytes;
    }
    return WEFT_OK;
}

/* ---- The table ---- */

static weft_ipc_run_t describe_run(const weft_ipc_lent_t *lent, const weft_lent_run_t *run)
{
    size_t at = 0;
    if (!run->data || run->bytes == 0)
        return (weft_ipc_run_t){.ld_elems = run->ld_elems};
    find(lent, (uintptr_t)run->data, &at);
    return (weft_ipc_run_t){at, (uintptr_t)run->data - lent->allocations[at].address, run->bytes,
                            run->ld_elems};
}

static weft_status_t write_all(int fd, const void *data, size_t bytes, weft_error_t *error)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t wrote = write(fd, (const char *)data + done, bytes - done);
        if (wrote < 0 && errno != EINTR)
            return weft_fail(error, WEFT_ERR_SYSTEM, "writing the run table: %s", strerror(errno));
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    return WEFT_OK;
}

static weft_status_t write_table(weft_ipc_lent_t *lent, weft_error_t *error)
{
    size_t allocation_bytes = lent->num_allocations * sizeof lent->allocations[0];
    size_t bytes = sizeof(weft_ipc_table_t) + allocation_bytes + lent->num_runs * sizeof(weft_ipc_run_t);
    weft_ipc_table_t *table = malloc(bytes);
    if (!table)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory");
    *table = (weft_ipc_table_t){lent->generation, lent->num_allocations, lent->num_runs};
    if (allocation_bytes)
        memcpy(table->allocations, lent->allocations, allocation_bytes);
    weft_ipc_run_t *runs = (weft_ipc_run_t *)(table->allocations + lent->num_allocations);
    for (uint32_t i = 0; i < lent->num_runs; i++)
        runs[i] = describe_run(lent, &lent->runs[i]);
    lent->table = memfd_create("weft-runs", MFD_CLOEXEC);
    weft_status_t status = lent->table < 0
                               ? weft_fail(error, WEFT_ERR_SYSTEM, "memfd_create: %s", strerror(errno))
                               : write_all(lent->table, table, bytes, error);
    free(table);
    return status;
}

static weft_status_t build(weft_transport_t *transport, weft_ipc_lent_t *lent, const weft_lent_run_t *runs,
                           uint32_t count, weft_error_t *error)
{
    lent->runs = calloc((size_t)count + 1, sizeof *runs);
    if (!lent->runs)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory");
    lent->num_runs = count;
    if (count)
        memcpy(lent->runs, runs, count * sizeof *runs);
    for (uint32_t i = 0; i < count; i++) {
        weft_status_t status = runs[i].data ? cover(transport, lent, &runs[i], error) : WEFT_OK;
        if (status != WEFT_OK) {
            weft_error_prefix(error, "run %u", i);
            return status;
        }
    }
    return write_table(lent, error);
}

/* ---- lend and unlend ---- */

static void free_lent(weft_transport_t *transport, weft_ipc_lent_t *lent)
{
    for (size_t i = 0; i < lent->num_allocations && transport->memory->forget; i++)
        transport->memory->forget(transport, &lent->allocations[i]);
    weft_ipc_close_fds(lent->fds, lent->num_allocations);
    weft_ipc_close_fds(&lent->table, 1);
    free(lent->fds);
    free(lent->allocations);
    free(lent->runs);
}

void weft_ipc_lent_free(weft_transport_t *transport)
{
    free_lent(transport, &transport->lent);
    transport->lent = (weft_ipc_lent_t){.table = -1};
}

/* Not the addresses alone: memory freed and allocated again may stand where the old one was. */
static bool same_as_before(weft_transport_t *transport, const weft_lent_run_t *runs, uint32_t count)
{
    const weft_ipc_lent_t *lent = &transport->lent;
    if (lent->table < 0 || lent->num_runs != count ||
        (count && memcmp(lent->runs, runs, count * sizeof *runs)))
        return false;
    for (size_t i = 0; i < lent->num_allocations; i++)
        if (!transport->memory->unchanged(transport, &lent->allocations[i]))
            return false;
    return true;
}

static weft_status_t renew(weft_transport_t *transport, const weft_lent_run_t *runs, uint32_t count,
                           weft_error_t *error)
{
    weft_ipc_lent_t made = {.table = -1, .generation = transport->lent.generation + 1};
    weft_status_t status = build(transport, &made, runs, count, error);
    if (status != WEFT_OK) {
        free_lent(transport, &made);
        weft_error_prefix(error, "rank %u: ipc", transport->base.rank);
        return status;
    }
    free_lent(transport, &transport->lent);
    transport->lent = made;
    atomic_store(&transport->segment->generation, made.generation);
    return WEFT_OK;
}

weft_status_t weft_ipc_lendable(weft_transport_t *transport, const weft_lent_run_t *run, weft_error_t *error)
{
    weft_ipc_lent_t tried = {.table = -1};
    pthread_mutex_lock(&transport->mutex);
    weft_status_t status = cover(transport, &tried, run, error);
    free_lent(transport, &tried);
    pthread_mutex_unlock(&transport->mutex);
    if (status != WEFT_OK)
        weft_error_prefix(error, "rank %u: ipc", transport->base.rank);
    return status;
}

weft_status_t weft_ipc_lend(weft_transport_t *transport, uint64_t version, const weft_lent_run_t *runs,
                            uint32_t count, weft_error_t *error)
{
    WEFT_TRY(weft_ipc_refuse_failed(transport, "lend", error));
    if (version == 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rank %u: ipc: version 0 cannot be lent; versions begin with 1",
                         transport->base.rank);
    weft_ipc_unlend(transport);
    pthread_mutex_lock(&transport->mutex);
    weft_status_t status = WEFT_OK;
    if (!same_as_before(transport, runs, count))
        status = renew(transport, runs, count, error);
    pthread_mutex_unlock(&transport->mutex);
    if (status == WEFT_OK)
        atomic_store(&transport->segment->version, version);
    return status;
}

/* What the caller writes to its memory from here on comes after the 0, in the eyes of every rank. */
void weft_ipc_unlend(weft_transport_t *transport)
{
    if (transport->segment) /* a renewal that failed leaves none */
        atomic_store(&transport->segment->version, 0);
    weft_ipc_fence();
    pthread_mutex_lock(
        &transport->mutex); /* the server may be exporting what was lent: its end is waited for */
    pthread_mutex_unlock(&transport->mutex);
}

/* ---- Memory made to be lent ---- */

weft_status_t weft_ipc_alloc_lendable(weft_transport_t *transport, size_t bytes, void **memory,
                                      weft_error_t *error)
{
    WEFT_TRY(weft_ipc_refuse_failed(transport, "alloc_lendable", error));
    weft_ipc_block_t *block = calloc(1, sizeof *block);
    if (!block)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: out of memory", transport->base.rank);
    block->fd = -1;
    block->bytes = bytes ? bytes : 1;
    weft_status_t status = transport->memory->alloc(transport, block, error);
    if (status != WEFT_OK) {
        free(block);
        return status;
    }
    pthread_mutex_lock(&transport->mutex);
    block->serial = ++transport->num_blocks_ever;
    block->next = transport->blocks;
    transport->blocks = block;
    pthread_mutex_unlock(&transport->mutex);
    *memory = block->data;
    return WEFT_OK;
}

static weft_ipc_block_t *take_block(weft_transport_t *transport, const void *memory)
{
    pthread_mutex_lock(&transport->mutex);
    weft_ipc_block_t **link = &transport->blocks;
    while (*link && (*link)->data != memory)
        link = &(*link)->next;
    weft_ipc_block_t *block = *link;
    if (block)
        *link = block->next;
    pthread_mutex_unlock(&transport->mutex);
    return block;
}

void weft_ipc_free_lendable(weft_transport_t *transport, void *memory)
{
    weft_ipc_block_t *block = memory ? take_block(transport, memory) : NULL;
    if (!block)
        return;
    transport->memory->free(transport, block);
    free(block);
}
