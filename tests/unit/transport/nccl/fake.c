#include "tests/unit/transport/nccl/fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

fake_t fake;

/* An assert in every build type. */
#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                  \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* ---- Memory: of device, streams and events, so that what is given up can be freed ---- */

static void *blocks[256];

static void *obtain(size_t bytes)
{
    size_t i = 0;
    while (blocks[i])
        REQUIRE(++i < sizeof blocks / sizeof blocks[0]);
    blocks[i] = calloc(1, bytes);
    REQUIRE(blocks[i]);
    return blocks[i];
}

static void surrender(void *block)
{
    size_t i = 0;
    while (blocks[i] != block)
        REQUIRE(++i < sizeof blocks / sizeof blocks[0]);
    free(block);
    blocks[i] = NULL;
}

void fake_reset(void)
{
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        free(blocks[i]);
        blocks[i] = NULL;
    }
    fake = (fake_t){0};
}

/* ---- Bootstrap ---- */

static weft_transport_base_t bootstrap;
static weft_op_t *const some_op = (weft_op_t *)&bootstrap;

static weft_status_t allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                               weft_error_t *error)
{
    (void)transport, (void)error;
    for (uint32_t i = 0; i < bootstrap.num_ranks; i++)
        memcpy((char *)all + i * bytes, mine, bytes);
    return WEFT_OK;
}

static weft_status_t send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                weft_op_t **op)
{
    (void)transport, (void)peer, (void)data, (void)bytes;
    *op = some_op;
    return WEFT_OK;
}

static weft_status_t test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error)
{
    (void)transport, (void)error;
    REQUIRE(op == some_op);
    *done = true;
    return WEFT_OK;
}

static const weft_transport_ops_t bootstrap_ops = {
    .name = "fake", .allgather = allgather, .send_start = send_start, .test = test};

weft_transport_t *fake_bootstrap(uint32_t rank, uint32_t num_ranks)
{
    bootstrap = (weft_transport_base_t){&bootstrap_ops, rank, num_ranks, "host", -1};
    return (weft_transport_t *)&bootstrap;
}

/* transport.c lists them. */
const weft_transport_ops_t weft_loopback_ops = {.name = "loopback"};
const weft_transport_ops_t weft_mpi_ops = {.name = "mpi"};
const weft_transport_ops_t weft_ipc_ops = {.name = "ipc"};
const weft_transport_ops_t weft_zmq_ops = {.name = "zmq"};

/* ---- NCCL ---- */

void fake_end_calls(ncclResult_t result)
{
    for (uint32_t i = 0; i < fake.num_comms; i++)
        if (fake.comms[i].state == ncclInProgress)
            fake.comms[i].state = result;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 7, sizeof *id);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclRemoteError ? "remote error" : "error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return "last error";
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int count, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    (void)id;
    REQUIRE(rank < count && fake.num_comms < FAKE_MAX_COMMS && fake.group_depth == 0);
    fake.config = *config;
    *comm = &fake.comms[fake.num_comms++];
    **comm = (struct ncclComm){.state = fake.hold_init ? ncclInProgress : ncclSuccess};
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    REQUIRE(!comm->gone);
    *state = comm->state;
    return ncclSuccess;
}

static ncclResult_t leave(ncclComm_t comm, uint32_t *count)
{
    REQUIRE(!comm->gone);
    comm->gone = true;
    (*count)++;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    REQUIRE(!comm->gone && comm->state == ncclSuccess);
    fake.num_finalized++;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    return leave(comm, &fake.num_destroyed);
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    fake.comms_aborted_in_group += fake.group_depth == 1;
    return leave(comm, &fake.num_aborted);
}

/* nccl.h declares these two without a prototype. */
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

ncclResult_t ncclGroupStart(void)
{
    fake.num_groups++;
    fake.group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    fake.group_depth--;
    return ncclSuccess;
}

/* No operation is ever grouped with another, none is started while the call before goes on. */
static ncclResult_t operation(const char *name, ncclComm_t comm)
{
    REQUIRE(!comm->gone && fake.group_depth == 0 && comm->state == ncclSuccess);
    comm->calls++;
    comm->state = fake.hold_calls ? ncclInProgress : ncclSuccess;
    fake.num_calls++;
    fake.last_call = name;
    return ncclInProgress;
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    (void)root, (void)stream;
    REQUIRE(from == to && count > 0 && type == ncclUint8);
    return operation("broadcast", comm);
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    (void)from, (void)peer, (void)stream;
    REQUIRE(count > 0 && type == ncclUint8);
    return operation("send", comm);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    (void)to, (void)peer, (void)stream;
    REQUIRE(count > 0 && type == ncclUint8);
    return operation("receive", comm);
}

/* ---- CUDA ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = fake.no_gpu ? 0 : 1;
    return fake.no_gpu ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return fake.no_gpu ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    REQUIRE(device == 0);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *bus, int length, int device)
{
    snprintf(bus, (size_t)length, "0000:0%d:00.0", device);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 3;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    fake.not_ready_kept = false;
    return cudaErrorNotReady;
}

const char *cudaGetErrorString(cudaError_t code)
{
    return code == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "a CUDA error";
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    *memory = obtain(bytes);
    fake.num_allocations++;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    surrender(memory);
    fake.num_allocations--;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)stream;
    REQUIRE(kind == cudaMemcpyDeviceToDevice);
    memcpy(to, from, bytes);
    fake.num_copies++;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    *stream = obtain(sizeof **stream);
    **stream = (struct CUstream_st){flags, priority};
    fake.last_stream = *stream;
    fake.num_streams++;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    surrender(stream);
    fake.num_streams--;
    return cudaSuccess;
}

static cudaError_t not_ready(void)
{
    fake.not_ready_kept = true;
    return cudaErrorNotReady;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    (void)stream;
    return fake.hold_streams ? not_ready() : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    REQUIRE(flags == cudaEventDisableTiming);
    *event = obtain(sizeof **event);
    fake.num_events++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    surrender(event);
    fake.num_events--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    (void)stream;
    event->recorded = true;
    event->reached = !fake.hold_events;
    fake.last_event = event;
    return cudaSuccess;
}

/* As CUDA's: an event that was never recorded counts as reached. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return !event->recorded || event->reached ? cudaSuccess : not_ready();
}
