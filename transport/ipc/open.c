/* Meeting over the bootstrap transport, and leaving. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "src/base/error.h"
#include "transport/ipc/backend.h"

weft_status_t weft_ipc_fail(const weft_transport_t *transport, weft_status_t status, const char *what,
                            weft_error_t *error)
{
    return weft_fail(error, status, "rank %u: ipc: %s: %s", transport->base.rank, what, strerror(errno));
}

weft_status_t weft_ipc_refuse_failed(const weft_transport_t *transport, const char *what, weft_error_t *error)
{
    if (transport->failed)
        return weft_fail(error, WEFT_ERR_CLOSED, "rank %u: ipc: %s after a failure; close and open anew",
                         transport->base.rank, what);
    return WEFT_OK;
}

const char *weft_ipc_lost(const weft_transport_t *transport, uint32_t rank)
{
    const weft_ipc_peer_t *peer = &transport->peers[rank];
    bool gone = atomic_load(&peer->gone); /* first: a peer says how it ends before its connection does */
    switch (atomic_load(&peer->segment->state)) {
    case IPC_ABORTED:
        return "has aborted";
    case IPC_CLOSED:
        return "has closed its transport";
    default:
        return gone ? "has died or lost its connection" : NULL;
    }
}

/* ---- The kind of memory ---- */

static const weft_ipc_memory_t *const memories[] = {
#ifdef WEFT_HAVE_CUDA
    &weft_ipc_cuda_memory,
#endif
    &weft_ipc_host_memory,
};

#define NUM_MEMORIES (sizeof memories / sizeof memories[0])

/* By name, or the first that this machine has. */
static weft_status_t find_memory(weft_transport_t *transport, const char *name, weft_error_t *error)
{
    for (size_t i = 0; i < NUM_MEMORIES && !transport->memory; i++)
        if (name ? !strcmp(memories[i]->name, name) : memories[i]->available())
            transport->memory = memories[i];
    if (!transport->memory)
        return weft_fail(
            error, WEFT_ERR_UNKNOWN_NAME,
            "rank %u: ipc: config.memory is \"%s\", not \"host\" or (in builds with CUDA) \"cuda\"",
            transport->base.rank, name);
    return WEFT_OK;
}

/* ---- What a rank makes by itself ---- */

static size_t segment_bytes(const weft_transport_t *transport)
{
    return sizeof(weft_ipc_segment_t) + transport->base.num_ranks * sizeof(_Atomic uint64_t);
}

static weft_status_t make_segment(weft_transport_t *transport, weft_error_t *error)
{
    size_t bytes = segment_bytes(transport);
    transport->segment_fd = memfd_create("weft-control", MFD_CLOEXEC);
    if (transport->segment_fd < 0 || ftruncate(transport->segment_fd, (off_t)bytes))
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "making the control segment", error);
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, transport->segment_fd, 0);
    if (mapped == MAP_FAILED)
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "mapping the control segment", error);
    transport->segment = mapped;
    atomic_store(&transport->segment->generation, transport->lent.generation);
    transport->peers[transport->base.rank].segment = mapped;
    transport->peers[transport->base.rank].here = true;
    return WEFT_OK;
}

#define NAME_BYTES    48
#define BOOT_ID_BYTES 40

/* What the ranks tell each other first. Fixed sizes: it is compared and copied as it is. */
typedef struct hello {
    char socket[NAME_BYTES];
    char boot_id[BOOT_ID_BYTES], host[64], memory[16];
    uint64_t segment_bytes;
} hello_t;

static weft_status_t read_boot_id(const weft_transport_t *transport, char *text, weft_error_t *error)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    size_t length = file ? fread(text, 1, BOOT_ID_BYTES - 1, file) : 0;
    if (file)
        fclose(file);
    if (length == 0)
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "reading /proc/sys/kernel/random/boot_id", error);
    return WEFT_OK;
}

static weft_status_t make_hello(weft_transport_t *transport, hello_t *hello, weft_error_t *error)
{
    uint64_t random[2];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "getrandom", error);
    snprintf(hello->socket, sizeof hello->socket, "weft-%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    snprintf(hello->memory, sizeof hello->memory, "%s", transport->memory->name);
    gethostname(hello->host, sizeof hello->host - 1);
    hello->segment_bytes = segment_bytes(transport);
    return read_boot_id(transport, hello->boot_id, error);
}

/* `config`: NULL when it is not the first time. */
static weft_status_t prepare(weft_transport_t *transport, const weft_transport_config_t *config,
                             hello_t *hello, weft_error_t *error)
{
    if (config) {
        WEFT_TRY(find_memory(transport, config->memory, error));
        WEFT_TRY(transport->memory->open(transport, config->device, error));
    }
    WEFT_TRY(make_segment(transport, error));
    WEFT_TRY(make_hello(transport, hello, error));
    return weft_ipc_server_start(transport, hello->socket, error);
}

/* ---- Together ---- */

static weft_status_t gather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                            weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport->bootstrap);
    return ops->allgather(transport->bootstrap, mine, bytes, all, error);
}

typedef struct verdict {
    uint32_t status;
    char message[480];
} verdict_t;

/* The first failure of another rank. */
static weft_status_t judge(const weft_transport_t *transport, const verdict_t *all, weft_error_t *error)
{
    for (uint32_t i = 0; i < transport->base.num_ranks; i++)
        if (all[i].status != WEFT_OK)
            return weft_fail(error, (weft_status_t)all[i].status,
                             "rank %u: ipc: another rank cannot go on: %s", transport->base.rank,
                             all[i].message);
    return WEFT_OK;
}

/* All ranks succeed or all fail: nobody is left waiting for one that has given up. */
static weft_status_t agree(weft_transport_t *transport, weft_status_t status, weft_error_t *why,
                           weft_error_t *error)
{
    verdict_t mine = {.status = status}, *all = calloc(transport->base.num_ranks, sizeof *all);
    if (!all)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: out of memory", transport->base.rank);
    if (status != WEFT_OK)
        snprintf(mine.message, sizeof mine.message, "%.*s", (int)sizeof mine.message - 1, why->message);
    weft_status_t agreed = gather(transport, &mine, sizeof mine, all, error);
    if (agreed == WEFT_OK)
        agreed =
            status != WEFT_OK ? weft_fail(error, status, "%s", why->message) : judge(transport, all, error);
    free(all);
    return agreed;
}

static weft_status_t check_hello(const weft_transport_t *transport, const hello_t *mine, const hello_t *other,
                                 uint32_t rank, weft_error_t *error)
{
    if (strncmp(mine->boot_id, other->boot_id, sizeof mine->boot_id))
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "rank %u: ipc: rank %u runs on another host (%.60s, this is %.60s), whose memory cannot be read "
            "from here; use the transport nccl (GPUs) or mpi (hosts)",
            transport->base.rank, rank, other->host, mine->host);
    if (strncmp(mine->memory, other->memory, sizeof mine->memory))
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "rank %u: ipc: rank %u reads %.16s memory, this rank %.16s; set the same config.memory on all",
            transport->base.rank, rank, other->memory, mine->memory);
    if (mine->segment_bytes != other->segment_bytes)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "rank %u: ipc: the control segment of rank %u has %llu bytes, that of this rank %llu; run the "
            "same build of weft on all ranks",
            transport->base.rank, rank, (unsigned long long)other->segment_bytes,
            (unsigned long long)mine->segment_bytes);
    return WEFT_OK;
}

static weft_status_t map_segment(weft_transport_t *transport, uint32_t rank, weft_error_t *error)
{
    weft_ipc_request_t request = {.subject = IPC_ASK_SEGMENT, .count = 1};
    int fd;
    WEFT_TRY(weft_ipc_ask(transport, rank, &request, &fd, error));
    void *mapped = mmap(NULL, segment_bytes(transport), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "mapping a peer's control segment", error);
    transport->peers[rank].segment = mapped;
    return WEFT_OK;
}

static weft_status_t reach_all(weft_transport_t *transport, const hello_t *all, weft_error_t *error)
{
    uint32_t rank = transport->base.rank;
    for (uint32_t i = 0; i < transport->base.num_ranks; i++)
        if (weft_transport_has(transport->bootstrap, i))
            WEFT_TRY(check_hello(transport, &all[rank], &all[i], i, error));
    for (uint32_t i = 0; i < transport->base.num_ranks; i++) {
        if (i == rank || !weft_transport_has(transport->bootstrap, i))
            continue;
        WEFT_TRY(weft_ipc_connect(transport, i, all[i].socket, error));
        WEFT_TRY(map_segment(transport, i, error));
    }
    return WEFT_OK;
}

static weft_status_t join(weft_transport_t *transport, const weft_transport_config_t *config,
                          weft_error_t *error)
{
    weft_error_t why = {0};
    hello_t mine = {0}, *all = calloc(transport->base.num_ranks, sizeof *all);
    if (!all)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: out of memory", transport->base.rank);
    weft_status_t status = agree(transport, prepare(transport, config, &mine, &why), &why, error);
    if (status == WEFT_OK)
        status = gather(transport, &mine, sizeof mine, all, error);
    if (status == WEFT_OK)
        status = agree(transport, reach_all(transport, all, &why), &why, error);
    free(all);
    return status;
}

/* ---- open, abort, close ---- */

static weft_transport_t *new_transport(const weft_transport_config_t *config)
{
    weft_transport_t *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    uint32_t num_ranks = weft_transport_num_ranks(config->bootstrap);
    made->base =
        (weft_transport_base_t){&weft_ipc_ops, weft_transport_rank(config->bootstrap), num_ranks, "host", -1};
    made->bootstrap = config->bootstrap;
    made->timeout_us = weft_transport_timeout_us(config);
    made->segment_fd = made->lent.table = made->server.listener = made->server.wake = -1;
    made->peers = calloc(num_ranks, sizeof *made->peers);
    if (!made->peers || pthread_mutex_init(&made->mutex, NULL)) {
        free(made->peers);
        free(made);
        return NULL;
    }
    for (uint32_t i = 0; i < num_ranks; i++)
        made->peers[i].request = -1;
    return made;
}

/* Peers see the state and the end of the version; whoever asks the server after that is refused. */
static void leave(weft_transport_t *transport, weft_ipc_state_t state)
{
    transport->failed = true;
    if (transport->segment) {
        if (atomic_load(&transport->segment->state) == IPC_OPEN)
            atomic_store(&transport->segment->state, state);
        weft_ipc_unlend(transport);
    }
    weft_ipc_ops_drop(transport);
}

/* Nothing here writes to anybody's buffers, so they are free at once. */
bool weft_ipc_abort(weft_transport_t *transport)
{
    leave(transport, IPC_ABORTED);
    return true;
}

static void free_peer(weft_transport_t *transport, uint32_t rank)
{
    weft_ipc_peer_t *peer = &transport->peers[rank];
    weft_ipc_borrowed_free(transport, rank);
    if (peer->segment && rank != transport->base.rank)
        munmap((void *)peer->segment, segment_bytes(transport));
    weft_ipc_close_fds(&peer->request, 1);
}

/* Let go of all that is shared with peers. */
static void part(weft_transport_t *transport)
{
    leave(transport, IPC_CLOSED);
    weft_ipc_server_stop(transport);
    for (uint32_t i = 0; i < transport->base.num_ranks; i++)
        free_peer(transport, i);
    while (transport->groups)
        weft_ipc_group_destroy(transport, transport->groups);
    if (transport->segment)
        munmap(transport->segment, segment_bytes(transport));
    transport->segment = NULL;
    weft_ipc_close_fds(&transport->segment_fd, 1);
}

static weft_status_t weft_ipc_renew(weft_transport_t *transport, weft_error_t *error)
{
    part(transport);
    for (uint32_t i = 0; i < transport->base.num_ranks; i++)
        transport->peers[i] = (weft_ipc_peer_t){.request = -1};
    weft_status_t status = join(transport, NULL, error);
    transport->failed = status != WEFT_OK;
    return status;
}

static void weft_ipc_close(weft_transport_t *transport)
{
    part(transport);
    weft_ipc_lent_free(transport);
    while (transport->blocks)
        weft_ipc_free_lendable(transport, transport->blocks->data);
    if (transport->memory)
        transport->memory->close(transport);
    pthread_mutex_destroy(&transport->mutex);
    free(transport->peers);
    free(transport);
}

static weft_status_t weft_ipc_open(const weft_transport_config_t *config, weft_transport_t **transport,
                                   weft_error_t *error)
{
    if (!config->bootstrap)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "ipc: config.bootstrap is NULL; open a transport over the same ranks first (mpi, loopback), by "
            "which they meet");
    weft_transport_t *made = new_transport(config);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "ipc: out of memory");
    weft_status_t status = join(made, config, error);
    if (status != WEFT_OK) {
        weft_ipc_close(made);
        return status;
    }
    *transport = made;
    return WEFT_OK;
}

const weft_transport_ops_t weft_ipc_ops = {
    .name = "ipc",
    .open = weft_ipc_open,
    .allgather = weft_ipc_allgather,
    .group_create = weft_ipc_group_create,
    .group_destroy = weft_ipc_group_destroy,
    .broadcast_start = weft_ipc_broadcast_start,
    .send_start = weft_ipc_send_start,
    .recv_start = weft_ipc_recv_start,
    .test = weft_ipc_test,
    .abort = weft_ipc_abort,
    .close = weft_ipc_close,
    .lend = weft_ipc_lend,
    .lendable = weft_ipc_lendable,
    .unlend = weft_ipc_unlend,
    .lent = weft_ipc_lent,
    .borrow = weft_ipc_borrow,
    .acknowledge = weft_ipc_acknowledge,
    .renew = weft_ipc_renew,
    .alloc_lendable = weft_ipc_alloc_lendable,
    .free_lendable = weft_ipc_free_lendable,
};
