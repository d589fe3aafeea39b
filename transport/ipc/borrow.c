/* Borrowing: seeing what a source lends, and having its memory here.
 *
 * In: a source's version word, generation and run table. Out: addresses in this process. Invariant:
 * everything mapped of a source is of one generation. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/error.h"
#include "transport/ipc/backend.h"

/* Reads of lent memory come before the look at the version word: if that still shows the version, nothing of
 * what was read had been overwritten. The generation is looked at twice, since it changes only while the
 * version is 0: a version seen between two equal ones belongs to it. */
weft_status_t weft_ipc_lent(weft_transport_t *transport, uint32_t source, uint64_t *version,
                            uint64_t *generation)
{
    uint64_t before, seen, after;
    if (source >= transport->base.num_ranks)
        return WEFT_ERR_ARGUMENT;
    if (transport->failed)
        return WEFT_ERR_CLOSED;
    if (weft_ipc_lost(transport, source))
        return WEFT_ERR_PEER_LOST;
    const weft_ipc_segment_t *segment = transport->peers[source].segment;
    weft_ipc_fence();
    do {
        before = atomic_load(&segment->generation);
        seen = atomic_load(&segment->version);
        after = atomic_load(&segment->generation);
    } while (before != after);
    *version = seen;
    *generation = after;
    return WEFT_OK;
}

/* ---- The table, which comes from another process and is checked as such ---- */

bool weft_ipc_touches_next(const weft_ipc_table_t *table, size_t i)
{
    const weft_ipc_allocation_t *allocation = &table->allocations[i];
    return i + 1 < table->num_allocations && allocation->kind == IPC_CUDA_VMM &&
           allocation[1].kind == IPC_CUDA_VMM &&
           allocation->address + allocation->bytes == allocation[1].address;
}

static const weft_ipc_run_t *runs_of(const weft_ipc_table_t *table)
{
    return (const weft_ipc_run_t *)(table->allocations + table->num_allocations);
}

static bool check_allocation(const weft_ipc_table_t *table, size_t i)
{
    const weft_ipc_allocation_t *allocation = &table->allocations[i];
    uint64_t end = allocation->address + allocation->bytes;
    return allocation->kind <= IPC_CUDA_VMM && end > allocation->address &&
           (i + 1 == table->num_allocations || end <= allocation[1].address);
}

static bool check_run(const weft_ipc_table_t *table, const weft_ipc_run_t *run)
{
    if (run->bytes == 0)
        return true;
    size_t i = run->allocation;
    if (i >= table->num_allocations || run->offset >= table->allocations[i].bytes)
        return false;
    uint64_t left = run->bytes, here = table->allocations[i].bytes - run->offset;
    while (left > here) {
        if (!weft_ipc_touches_next(table, i))
            return false;
        left -= here;
        here = table->allocations[++i].bytes;
    }
    return true;
}

static bool check_table(const weft_ipc_table_t *table, size_t bytes)
{
    size_t rest = bytes - sizeof *table;
    if (table->num_allocations > rest / sizeof(weft_ipc_allocation_t))
        return false;
    rest -= table->num_allocations * sizeof(weft_ipc_allocation_t);
    if (table->num_runs > rest / sizeof(weft_ipc_run_t) || rest != table->num_runs * sizeof(weft_ipc_run_t))
        return false;
    for (size_t i = 0; i < table->num_allocations; i++)
        if (!check_allocation(table, i))
            return false;
    for (size_t i = 0; i < table->num_runs; i++)
        if (!check_run(table, &runs_of(table)[i]))
            return false;
    return true;
}

static bool read_all(int fd, void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(fd, (char *)data + done, bytes - done, (off_t)done);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        done += got > 0 ? (size_t)got : 0;
    }
    return true;
}

static weft_status_t read_table(const weft_transport_t *transport, uint32_t source, int fd,
                                weft_ipc_table_t **table, weft_error_t *error)
{
    struct stat file;
    size_t bytes = fstat(fd, &file) ? 0 : (size_t)file.st_size;
    weft_ipc_table_t *made = bytes < sizeof *made ? NULL : malloc(bytes);
    if (!made)
        return weft_fail(error, bytes ? WEFT_ERR_NO_MEMORY : WEFT_ERR_SYSTEM,
                         "rank %u: ipc: run table of rank %u: %s", transport->base.rank, source,
                         strerror(errno));
    if (!read_all(fd, made, bytes) || !check_table(made, bytes)) {
        free(made);
        return weft_fail(
            error, WEFT_ERR_PROTOCOL,
            "rank %u: ipc: the run table of rank %u is malformed; run the same build of weft on all ranks",
            transport->base.rank, source);
    }
    *table = made;
    return WEFT_OK;
}

/* ---- Mapping ---- */

static bool travels_as_fd(const weft_ipc_allocation_t *allocation)
{
    return allocation->kind != IPC_CUDA_LEGACY;
}

/* How many allocations from `first` on are asked for, or mapped, together. */
static uint32_t batch_size(const weft_ipc_table_t *table, size_t first)
{
    uint32_t count = 1;
    if (!travels_as_fd(&table->allocations[first]))
        return count;
    while (count < IPC_MAX_FDS && first + count < table->num_allocations &&
           travels_as_fd(&table->allocations[first + count]))
        count++;
    return count;
}

static weft_status_t map_batch(weft_transport_t *transport, uint32_t source, uint32_t count,
                               weft_error_t *error)
{
    weft_ipc_borrowed_t *borrowed = &transport->peers[source].borrowed;
    const weft_ipc_table_t *table = borrowed->table;
    size_t first = borrowed->num_mappings;
    int fds[IPC_MAX_FDS] = {-1};
    if (travels_as_fd(&table->allocations[first])) {
        weft_ipc_request_t request = {.subject = IPC_ASK_ALLOCATIONS,
                                      .generation = table->generation,
                                      .first = (uint32_t)first,
                                      .count = count};
        WEFT_TRY(weft_ipc_ask(transport, source, &request, fds, error));
    }
    weft_status_t status = WEFT_OK;
    for (uint32_t i = 0; i < count && status == WEFT_OK; i++) {
        status = transport->memory->map(transport, table, first + i, fds[i], borrowed->mappings, error);
        if (status == WEFT_OK)
            borrowed->num_mappings++;
        else
            weft_error_prefix(error, "rank %u: ipc: memory of rank %u", transport->base.rank, source);
    }
    weft_ipc_close_fds(fds, count);
    return status;
}

static weft_status_t map_all(weft_transport_t *transport, uint32_t source, weft_error_t *error)
{
    weft_ipc_borrowed_t *borrowed = &transport->peers[source].borrowed;
    size_t count = borrowed->table->num_allocations;
    if (transport->peers[source].here)
        return WEFT_OK;
    borrowed->mappings = calloc(count + 1, sizeof *borrowed->mappings);
    if (!borrowed->mappings)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: out of memory", transport->base.rank);
    while (borrowed->num_mappings < count)
        WEFT_TRY(map_batch(transport, source, batch_size(borrowed->table, borrowed->num_mappings), error));
    return WEFT_OK;
}

void weft_ipc_borrowed_free(weft_transport_t *transport, uint32_t source)
{
    weft_ipc_borrowed_t *borrowed = &transport->peers[source].borrowed;
    for (size_t i = borrowed->num_mappings; i-- > 0;)
        transport->memory->unmap(transport, &borrowed->table->allocations[i], &borrowed->mappings[i]);
    free(borrowed->mappings);
    free(borrowed->table);
    *borrowed = (weft_ipc_borrowed_t){0};
}

/* ---- borrow ---- */

static weft_status_t renew(weft_transport_t *transport, uint32_t source, uint64_t generation,
                           weft_error_t *error)
{
    weft_ipc_request_t request = {.subject = IPC_ASK_TABLE, .generation = generation, .count = 1};
    weft_ipc_borrowed_t *borrowed = &transport->peers[source].borrowed;
    int fd;
    weft_ipc_borrowed_free(transport, source);
    WEFT_TRY(weft_ipc_ask(transport, source, &request, &fd, error));
    weft_status_t status = read_table(transport, source, fd, &borrowed->table, error);
    close(fd);
    if (status == WEFT_OK)
        status = map_all(transport, source, error);
    if (status != WEFT_OK)
        weft_ipc_borrowed_free(transport, source);
    return status;
}

static weft_status_t refuse_index(const weft_transport_t *transport, uint32_t source, uint32_t index,
                                  uint64_t count, weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: ipc: run %u of rank %u, which lends %llu",
                     transport->base.rank, index, source, (unsigned long long)count);
}

static weft_status_t borrow_own(const weft_transport_t *transport, uint32_t index, weft_lent_run_t *run,
                                weft_error_t *error)
{
    if (index >= transport->lent.num_runs)
        return refuse_index(transport, transport->base.rank, index, transport->lent.num_runs, error);
    *run = transport->lent.runs[index];
    return WEFT_OK;
}

weft_status_t weft_ipc_borrow(weft_transport_t *transport, uint32_t source, uint32_t index,
                              weft_lent_run_t *run, weft_error_t *error)
{
    WEFT_TRY(weft_ipc_refuse_failed(transport, "borrow", error));
    if (source >= transport->base.num_ranks)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: ipc: borrowing from rank %u of %u",
                         transport->base.rank, source, transport->base.num_ranks);
    if (source == transport->base.rank)
        return borrow_own(transport, index, run, error);
    weft_ipc_peer_t *peer = &transport->peers[source];
    uint64_t generation = atomic_load(&peer->segment->generation);
    if (!peer->borrowed.table || peer->borrowed.table->generation != generation)
        WEFT_TRY(renew(transport, source, generation, error));
    const weft_ipc_table_t *table = peer->borrowed.table;
    if (index >= table->num_runs)
        return refuse_index(transport, source, index, table->num_runs, error);
    const weft_ipc_run_t *found = &runs_of(table)[index];
    const weft_ipc_allocation_t *allocation = &table->allocations[found->allocation];
    *run = (weft_lent_run_t){NULL, found->bytes, found->ld_elems};
    if (found->bytes > 0)
        run->data = peer->here
                        ? (const char *)(uintptr_t)allocation->address + found->offset
                        : (const char *)peer->borrowed.mappings[found->allocation].address + found->offset;
    return WEFT_OK;
}
