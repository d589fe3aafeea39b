/* Joining the world and leaving it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/error.h"
#include "transport/nccl/backend.h"

#define DEFAULT_MAX_CTAS 4
#define MOST_CTAS        64 /* NCCL's own limit */
#define OLDEST_NCCL      NCCL_VERSION(2, 27, 0)

/* What each rank tells all others over the bootstrap. */
typedef struct introduction {
    uint32_t failed; /* this rank could not get ready: nobody goes on */
    uint32_t shared_gpu;
    char host[65], bus[32];
    ncclUniqueId world; /* rank 0's counts */
} introduction_t;

weft_status_t weft_nccl_enter(const weft_transport_t *transport, int *previous)
{
    *previous = transport->device;
    if (transport->device < 0 || cudaGetDevice(previous) != cudaSuccess)
        return WEFT_ERR_TRANSPORT;
    if (*previous == transport->device || cudaSetDevice(transport->device) == cudaSuccess)
        return WEFT_OK;
    return WEFT_ERR_TRANSPORT;
}

void weft_nccl_leave(const weft_transport_t *transport, int previous)
{
    if (previous != transport->device)
        (void)cudaSetDevice(previous);
}

weft_status_t weft_nccl_check_cuda(const weft_transport_t *transport, cudaError_t code, const char *what,
                                   weft_error_t *error)
{
    if (code == cudaSuccess)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_TRANSPORT, "rank %u: nccl: %s: %s", transport->base.rank, what,
                     cudaGetErrorString(code));
}

/* ---- Environment: NCCL reads it once, at the first call ---- */

static weft_status_t check_environment(uint32_t rank, weft_error_t *error)
{
    const char *connections = getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    if (connections && strtol(connections, NULL, 10) == 1)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "rank %u: nccl: CUDA_DEVICE_MAX_CONNECTIONS=1 puts all streams into one hardware queue, where "
            "a broadcast that waits for a peer holds up the engine's own communicators, and they it, "
            "without end; unset it",
            rank);
    return WEFT_OK;
}

/* Ranks on one GPU: NCCL takes processes of different host ids for different hosts, which talk over sockets.
 */
static bool set_environment(uint32_t rank, bool shared_gpu)
{
    static const char *const defaults[][2] = {
        {"NCCL_SOCKET_IFNAME", "lo"}, {"NCCL_NET", "Socket"},         {"NCCL_IB_DISABLE", "1"},
        {"NCCL_MNNVL_ENABLE", "0"},   {"NCCL_NSOCKS_PERTHREAD", "4"}, {"NCCL_SOCKET_NTHREADS", "2"},
    };
    /* Broadcasts never use NVLS; setting it up would only cost each communicator memory. */
    bool ok = !setenv("NCCL_NVLS_ENABLE", "0", 0);
    if (!shared_gpu)
        return ok;
    char host[32];
    snprintf(host, sizeof host, "weft-r%u", rank);
    ok = !setenv("NCCL_HOSTID", host, 1) && ok;
    for (size_t i = 0; i < sizeof defaults / sizeof defaults[0]; i++)
        ok = !setenv(defaults[i][0], defaults[i][1], 0) && ok;
    return ok;
}

/* ---- Getting ready: what one rank does by itself ---- */

static weft_status_t choose_device(weft_transport_t *transport, int wanted, weft_error_t *error)
{
    int count = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess || count == 0)
        return weft_fail(error, WEFT_ERR_UNSUPPORTED, "rank %u: nccl: there is no GPU here: %s",
                         transport->base.rank, cudaGetErrorString(code));
    if (wanted >= count)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: nccl: config.device is %d, this process sees %d",
                         transport->base.rank, wanted, count);
    transport->device = wanted;
    if (wanted < 0)
        code = cudaGetDevice(&transport->device);
    return weft_nccl_check_cuda(transport, code, "cudaGetDevice", error);
}

static weft_status_t use_device(weft_transport_t *transport, introduction_t *mine, weft_error_t *error)
{
    int least, greatest;
    cudaError_t code = cudaDeviceGetPCIBusId(mine->bus, sizeof mine->bus, transport->device);
    WEFT_TRY(weft_nccl_check_cuda(transport, code, "cudaDeviceGetPCIBusId", error));
    code = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    WEFT_TRY(weft_nccl_check_cuda(transport, code, "cudaDeviceGetStreamPriorityRange", error));
    transport->priority = least;
    code = cudaMalloc(&transport->scratch, 256);
    WEFT_TRY(weft_nccl_check_cuda(transport, code, "cudaMalloc", error));
    snprintf(transport->self.name, sizeof transport->self.name, "messages to itself");
    return weft_nccl_comm_prepare(transport, &transport->self, error);
}

static weft_status_t use_nccl(const weft_transport_t *transport, introduction_t *mine, weft_error_t *error)
{
    int version = 0;
    if (ncclGetVersion(&version) != ncclSuccess || version < OLDEST_NCCL)
        return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                         "rank %u: nccl: NCCL is of version %d, %d or later is needed", transport->base.rank,
                         version, OLDEST_NCCL);
    if (transport->base.rank != 0 || transport->base.num_ranks == 1)
        return WEFT_OK;
    ncclResult_t result = ncclGetUniqueId(&mine->world);
    if (result != ncclSuccess)
        return weft_fail(error, WEFT_ERR_TRANSPORT, "rank %u: nccl: ncclGetUniqueId: %s; %s",
                         transport->base.rank, ncclGetErrorString(result), ncclGetLastError(NULL));
    return WEFT_OK;
}

static weft_status_t get_ready(weft_transport_t *transport, const weft_transport_config_t *config,
                               introduction_t *mine, weft_error_t *error)
{
    uint32_t rank = transport->base.rank;
    WEFT_TRY(check_environment(rank, error));
    transport->met_sending = calloc(transport->base.num_ranks, sizeof *transport->met_sending);
    transport->met_receiving = calloc(transport->base.num_ranks, sizeof *transport->met_receiving);
    if (!transport->met_sending || !transport->met_receiving || !set_environment(rank, config->shared_gpu))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: nccl: out of memory", rank);
    WEFT_TRY(choose_device(transport, config->device, error));
    int previous;
    if (weft_nccl_enter(transport, &previous) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_UNSUPPORTED, "rank %u: nccl: CUDA device %d cannot be used", rank,
                         transport->device);
    weft_status_t status = use_device(transport, mine, error);
    if (status == WEFT_OK)
        status = use_nccl(transport, mine, error);
    weft_nccl_leave(transport, previous);
    return status;
}

/* ---- Meeting the others ---- */

static weft_status_t check_pair(const weft_transport_t *transport, const introduction_t *all, uint32_t a,
                                uint32_t b, weft_error_t *error)
{
    if (all[a].shared_gpu != all[b].shared_gpu)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "rank %u: nccl: shared_gpu (--shared-gpu) is %u on rank %u and %u on rank %u: give it on all "
            "ranks or on none",
            transport->base.rank, all[a].shared_gpu, a, all[b].shared_gpu, b);
    bool same = !strcmp(all[a].host, all[b].host) && !strcmp(all[a].bus, all[b].bus);
    if (same && !all[a].shared_gpu)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "rank %u: nccl: ranks %u and %u both use GPU %s of %s, and NCCL wants one for each: give the "
            "ranks different devices, or set shared_gpu (--shared-gpu) for tests on one GPU",
            transport->base.rank, a, b, all[a].bus, all[a].host);
    return WEFT_OK;
}

static weft_status_t check_others(const weft_transport_t *transport, const introduction_t *all,
                                  weft_error_t *error)
{
    uint32_t num_ranks = transport->base.num_ranks;
    for (uint32_t rank = 0; rank < num_ranks; rank++)
        if (all[rank].failed)
            return weft_fail(error, WEFT_ERR_PEER_LOST,
                             "rank %u: nccl: rank %u could not open it; see its message",
                             transport->base.rank, rank);
    for (uint32_t b = 1; b < num_ranks; b++)
        for (uint32_t a = 0; a < b; a++)
            WEFT_TRY(check_pair(transport, all, a, b, error));
    return WEFT_OK;
}

/* The communicator for messages. */
static weft_status_t open_world(weft_transport_t *transport, const introduction_t *first, weft_error_t *error)
{
    uint32_t num_ranks = transport->base.num_ranks, rank = transport->base.rank;
    int previous;
    if (num_ranks == 1)
        return WEFT_OK;
    snprintf(transport->world.name, sizeof transport->world.name, "messages between ranks");
    if (weft_nccl_enter(transport, &previous) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_TRANSPORT, "rank %u: nccl: CUDA device %d cannot be used", rank,
                         transport->device);
    weft_status_t status =
        weft_nccl_comm_open(transport, &transport->world, &first->world, num_ranks, rank, error);
    weft_nccl_leave(transport, previous);
    return status;
}

/* A rank that fails tells the others, who would wait for it. */
static weft_status_t join(weft_transport_t *transport, const weft_transport_config_t *config,
                          weft_error_t *error)
{
    introduction_t mine = {.shared_gpu = config->shared_gpu};
    introduction_t *all = calloc(transport->base.num_ranks, sizeof *all);
    if (!all)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: nccl: out of memory", transport->base.rank);
    weft_status_t status = get_ready(transport, config, &mine, error), met;
    weft_error_t second = {.message = ""};
    mine.failed = status != WEFT_OK;
    gethostname(mine.host, sizeof mine.host - 1);
    met = weft_nccl_allgather(transport, &mine, sizeof mine, all, &second);
    if (status == WEFT_OK && met != WEFT_OK)
        status = weft_fail(error, met, "%s", second.message);
    if (status == WEFT_OK)
        status = check_others(transport, all, error);
    if (status == WEFT_OK)
        status = open_world(transport, &all[0], error);
    free(all);
    return status;
}

/* ---- The table's entries ---- */

static weft_status_t check_config(const weft_transport_config_t *config, weft_error_t *error)
{
    const weft_transport_base_t *bootstrap =
        config->bootstrap ? weft_transport_base(config->bootstrap) : NULL;
    if (!bootstrap)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "nccl: config.bootstrap is NULL: open \"mpi\" (or \"loopback\") over the same ranks first, the "
            "ranks meet by it");
    if (strcmp(bootstrap->queue, "host"))
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "nccl: the bootstrap \"%s\" moves memory of %s, one for host memory is needed",
                         bootstrap->ops->name, bootstrap->queue);
    return WEFT_OK;
}

/* What a failed abort left running may still use memory and streams: they are given up. */
static void weft_nccl_close(weft_transport_t *transport)
{
    int previous;
    (void)weft_nccl_enter(transport, &previous);
    if (!transport->failed && weft_nccl_busy(transport))
        weft_nccl_abort(transport);
    weft_nccl_drop_all(transport);
    while (transport->groups)
        weft_nccl_group_destroy(transport, transport->groups);
    weft_nccl_comm_close(transport, &transport->world);
    weft_nccl_comm_close(transport, &transport->self);
    for (size_t i = 0; i < transport->events.count; i++)
        (void)cudaEventDestroy(transport->events.items[i]);
    if (transport->scratch && !transport->stuck)
        (void)cudaFree(transport->scratch);
    weft_nccl_leave(transport, previous);
    WEFT_ARRAY_FREE(&transport->events);
    free(transport->met_sending);
    free(transport->met_receiving);
    free(transport);
}

static weft_status_t weft_nccl_open(const weft_transport_config_t *config, weft_transport_t **transport,
                                    weft_error_t *error)
{
    WEFT_TRY(check_config(config, error));
    weft_transport_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "nccl: out of memory");
    uint32_t ctas = config->max_ctas ? config->max_ctas : DEFAULT_MAX_CTAS;
    made->bootstrap = config->bootstrap;
    made->device = -1;
    made->timeout_us = weft_transport_timeout_us(config);
    made->max_ctas = ctas < MOST_CTAS ? (int)ctas : MOST_CTAS;
    made->base = (weft_transport_base_t){&weft_nccl_ops, weft_transport_rank(made->bootstrap),
                                         weft_transport_num_ranks(made->bootstrap), "cuda", -1};
    weft_status_t status = join(made, config, error);
    if (status != WEFT_OK) {
        if (made->world.handle)
            weft_nccl_abort(made);
        weft_nccl_close(made);
        return status;
    }
    made->base.device = made->device;
    *transport = made;
    return WEFT_OK;
}

static void about(char *text, size_t bytes)
{
    int version = 0;
    (void)ncclGetVersion(&version);
    snprintf(text, bytes, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

/* No register_memory: NCCL leaves undefined what happens when some ranks of an operation give registered
 * memory and others do not, and a trainer sends straight from tensors that are the caller's. */
const weft_transport_ops_t weft_nccl_ops = {
    .name = "nccl",
    .open = weft_nccl_open,
    .allgather = weft_nccl_allgather,
    .group_create = weft_nccl_group_create,
    .group_destroy = weft_nccl_group_destroy,
    .broadcast_start = weft_nccl_broadcast_start,
    .send_start = weft_nccl_send_start,
    .recv_start = weft_nccl_recv_start,
    .test = weft_nccl_test,
    .abort = weft_nccl_abort,
    .close = weft_nccl_close,
    .about = about,
};
