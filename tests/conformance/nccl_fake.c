/* The suite on the NCCL transport over a fake of NCCL and CUDA, for machines without a GPU: every rank is a
 * thread, 1 to 6 of them. The fake blocks where NCCL does, so a schedule that would hang on GPUs hangs here:
 *
 *     - a communicator comes to be when all its ranks have come;
 *     - a call goes on until its ranks are connected, which the first broadcast of a communicator and the
 * first message from one rank to another wait for; meanwhile the communicator may not be called;
 *     - a kernel runs when it stands first on its stream on all its ranks.
 *
 * WEFT_SEED repeats a run, WEFT_CASE names the only case to run. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "src/base/clock.h"
#include "tests/conformance/suite.h"

#define MAX_RANKS 6

/* An assert in every build type. */
#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                  \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* ---- The fake ---- */

typedef enum work_kind { BROADCAST, SEND, RECEIVE } work_kind_t;

typedef struct work {
    struct work *next;
    work_kind_t kind;
    int peer; /* or root */
    void *data;
    size_t bytes;
} work_t;

struct CUstream_st {
    work_t *first, **last;
    uint64_t started, ended;
};

struct CUevent_st {
    cudaStream_t stream;
    uint64_t position;
};

/* A communicator as all its ranks share it. */
typedef struct room {
    struct room *next;
    int id, count, arrived;
    ncclComm_t members[MAX_RANKS];
    bool connected, met[MAX_RANKS][MAX_RANKS]; /* [sender][receiver] */
} room_t;

struct ncclComm {
    room_t *room;
    int rank;
    cudaStream_t stream; /* each communicator here has one of its own */
    work_t *called;      /* its call goes on */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static room_t *rooms;
static int next_id = 1;
static _Thread_local int device;

static work_t *head(const room_t *room, int rank)
{
    const struct ncclComm *comm = room->members[rank];
    return comm && comm->stream ? comm->stream->first : NULL;
}

static void end_head(room_t *room, int rank)
{
    cudaStream_t stream = room->members[rank]->stream;
    work_t *work = stream->first;
    stream->first = work->next;
    if (!stream->first)
        stream->last = &stream->first;
    stream->ended++;
    free(work);
}

static bool all_broadcast(const room_t *room)
{
    for (int i = 0; i < room->count; i++)
        if (!head(room, i) || head(room, i)->kind != BROADCAST)
            return false;
    return true;
}

static bool run_broadcast(room_t *room)
{
    if (!all_broadcast(room))
        return false;
    const work_t *root = head(room, head(room, 0)->peer);
    for (int i = 0; i < room->count; i++) {
        work_t *work = head(room, i);
        REQUIRE(work->bytes == root->bytes && work->peer == head(room, 0)->peer);
        if (work != root)
            memcpy(work->data, root->data, root->bytes);
    }
    for (int i = 0; i < room->count; i++)
        end_head(room, i);
    return true;
}

static bool run_messages(room_t *room)
{
    bool ran = false;
    for (int from = 0; from < room->count; from++) {
        const work_t *send = head(room, from);
        if (!send || send->kind != SEND)
            continue;
        const work_t *receive = head(room, send->peer);
        if (!receive || receive->kind != RECEIVE || receive->peer != from)
            continue;
        REQUIRE(send->bytes == receive->bytes);
        memcpy(receive->data, send->data, send->bytes);
        int to = send->peer;
        end_head(room, to);
        end_head(room, from);
        ran = true;
    }
    return ran;
}

static bool calls(const room_t *room, int rank, work_kind_t kind, int peer)
{
    const struct ncclComm *comm = room->members[rank];
    const work_t *work = comm ? comm->called : NULL;
    return work && work->kind == kind && (kind == BROADCAST || work->peer == peer);
}

static void connect_ranks(room_t *room)
{
    bool all = true;
    for (int from = 0; from < room->count; from++) {
        all = all && calls(room, from, BROADCAST, 0);
        for (int to = 0; to < room->count; to++)
            if (calls(room, from, SEND, to) && calls(room, to, RECEIVE, from))
                room->met[from][to] = true;
    }
    room->connected = room->connected || all;
}

static bool launch(ncclComm_t comm)
{
    const work_t *work = comm ? comm->called : NULL;
    if (!work)
        return false;
    bool met = work->kind == BROADCAST ? comm->room->connected
               : work->kind == SEND    ? comm->room->met[comm->rank][work->peer]
                                       : comm->room->met[work->peer][comm->rank];
    if (!met)
        return false;
    *comm->stream->last = comm->called;
    comm->stream->last = &comm->called->next;
    comm->stream->started++;
    comm->called = NULL;
    return true;
}

static void progress(void)
{
    for (bool moved = true; moved;) {
        moved = false;
        for (room_t *room = rooms; room; room = room->next) {
            connect_ranks(room);
            for (int i = 0; i < room->count; i++)
                moved = launch(room->members[i]) || moved;
            moved = run_broadcast(room) || run_messages(room) || moved;
        }
    }
}

/* transport.c lists them. */
const weft_transport_ops_t weft_mpi_ops = {.name = "mpi"};
const weft_transport_ops_t weft_ipc_ops = {.name = "ipc"};
const weft_transport_ops_t weft_zmq_ops = {.name = "zmq"};

/* ---- NCCL ---- */

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    pthread_mutex_lock(&mutex);
    memset(id, 0, sizeof *id);
    memcpy(id, &next_id, sizeof next_id);
    next_id++;
    pthread_mutex_unlock(&mutex);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclRemoteError ? "remote error" : "error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return "";
}

static room_t *enter(int id, int count)
{
    room_t *room = rooms;
    while (room && room->id != id)
        room = room->next;
    if (room)
        return room;
    room = calloc(1, sizeof *room);
    REQUIRE(room && count <= MAX_RANKS);
    room->id = id;
    room->count = count;
    room->next = rooms;
    rooms = room;
    return room;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int count, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    int number;
    memcpy(&number, &id, sizeof number);
    REQUIRE(config->blocking == 0);
    *comm = calloc(1, sizeof **comm);
    REQUIRE(*comm);
    pthread_mutex_lock(&mutex);
    **comm = (struct ncclComm){.room = enter(number, count), .rank = rank};
    REQUIRE((*comm)->room->count == count && !(*comm)->room->members[rank]);
    (*comm)->room->members[rank] = *comm;
    (*comm)->room->arrived++;
    pthread_mutex_unlock(&mutex);
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    pthread_mutex_lock(&mutex);
    progress();
    *state = comm->called || comm->room->arrived < comm->room->count ? ncclInProgress : ncclSuccess;
    pthread_mutex_unlock(&mutex);
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    REQUIRE(!comm->called);
    return ncclInProgress;
}

static void remove_room(room_t *room)
{
    room_t **link = &rooms;
    while (*link != room)
        link = &(*link)->next;
    *link = room->next;
    free(room);
}

/* The room outlives its members: one that is not there yet may still come. */
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    pthread_mutex_lock(&mutex);
    room_t *room = comm->room;
    room->members[comm->rank] = NULL;
    bool empty = room->arrived == room->count;
    for (int i = 0; i < room->count; i++)
        empty = empty && !room->members[i];
    if (empty)
        remove_room(room);
    pthread_mutex_unlock(&mutex);
    free(comm->called);
    free(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    return ncclCommDestroy(comm);
}

/* nccl.h declares these two without a prototype. */
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

ncclResult_t ncclGroupStart(void)
{
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    return ncclSuccess;
}

static ncclResult_t call(ncclComm_t comm, cudaStream_t stream, work_t form)
{
    work_t *work = malloc(sizeof *work);
    REQUIRE(work);
    *work = form;
    pthread_mutex_lock(&mutex);
    REQUIRE(!comm->called && (!comm->stream || comm->stream == stream));
    comm->stream = stream;
    comm->called = work;
    pthread_mutex_unlock(&mutex);
    return ncclInProgress;
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    REQUIRE(from == to && count > 0 && type == ncclUint8);
    return call(comm, stream, (work_t){.kind = BROADCAST, .peer = root, .data = to, .bytes = count});
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    REQUIRE(count > 0 && type == ncclUint8);
    return call(comm, stream,
                (work_t){.kind = SEND, .peer = peer, .data = (void *)(uintptr_t)from, .bytes = count});
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    REQUIRE(count > 0 && type == ncclUint8);
    return call(comm, stream, (work_t){.kind = RECEIVE, .peer = peer, .data = to, .bytes = count});
}

/* ---- CUDA: a device for each rank ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = MAX_RANKS;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *current)
{
    *current = device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int wanted)
{
    device = wanted;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *bus, int length, int of)
{
    snprintf(bus, (size_t)length, "0000:0%d:00.0", of);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = *greatest = 0;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t code)
{
    (void)code;
    return "a CUDA error";
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    *memory = malloc(bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *memory)
{
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind, (void)stream;
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    (void)priority;
    REQUIRE(flags == cudaStreamNonBlocking);
    *stream = calloc(1, sizeof **stream);
    REQUIRE(*stream);
    (*stream)->last = &(*stream)->first;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    while (stream->first) {
        work_t *work = stream->first;
        stream->first = work->next;
        free(work);
    }
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    (void)stream; /* an abort empties it */
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    *event = calloc(1, sizeof **event);
    return *event ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    pthread_mutex_lock(&mutex);
    *event = (struct CUevent_st){stream, stream->started};
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    pthread_mutex_lock(&mutex);
    progress();
    bool reached = event->stream->ended >= event->position;
    pthread_mutex_unlock(&mutex);
    return reached ? cudaSuccess : cudaErrorNotReady;
}

/* ---- The suite ---- */

typedef struct rank {
    weft_loopback_t *hub;
    uint32_t number;
    uint64_t seed;
    bool passed;
    pthread_barrier_t *barrier;
    pthread_t thread;
    char note[SUITE_NOTE_BYTES];
} rank_t;

static void meet(void *barrier)
{
    pthread_barrier_wait(barrier);
}

static bool run_on(rank_t *rank, weft_transport_t *bootstrap)
{
    const suite_options_t options = {.meet = meet, .user = rank->barrier, .equal_sizes = true};
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.bootstrap = bootstrap;
    config.device = (int)rank->number;
    weft_transport_t *transport;
    weft_error_t error;
    suite_t suite;
    if (weft_transport_open("nccl", &config, &transport, &error) != WEFT_OK) {
        snprintf(rank->note, sizeof rank->note, "%.500s", error.message);
        return false;
    }
    bool passed = suite_run(&suite, transport, &options, rank->seed, getenv("WEFT_CASE"));
    memcpy(rank->note, suite.note, sizeof rank->note);
    weft_transport_close(transport);
    return passed;
}

static void *run_rank(void *argument)
{
    rank_t *rank = argument;
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.loopback = rank->hub;
    config.rank = rank->number;
    weft_transport_t *bootstrap;
    if (weft_transport_open("loopback", &config, &bootstrap, NULL) != WEFT_OK)
        return NULL;
    rank->passed = run_on(rank, bootstrap);
    weft_transport_close(bootstrap);
    return NULL;
}

static bool run_world(uint32_t num_ranks, uint64_t seed)
{
    rank_t ranks[MAX_RANKS] = {0};
    weft_loopback_t *hub;
    pthread_barrier_t barrier;
    REQUIRE(weft_loopback_create(num_ranks, &hub) == WEFT_OK);
    REQUIRE(!pthread_barrier_init(&barrier, NULL, num_ranks));
    for (uint32_t i = 0; i < num_ranks; i++) {
        ranks[i].hub = hub;
        ranks[i].number = i;
        ranks[i].seed = seed;
        ranks[i].barrier = &barrier;
        REQUIRE(!pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]));
    }
    bool passed = true;
    for (uint32_t i = 0; i < num_ranks; i++) {
        pthread_join(ranks[i].thread, NULL);
        passed = passed && ranks[i].passed;
        if (!ranks[i].passed)
            fprintf(stderr, "%s\n", ranks[i].note);
    }
    pthread_barrier_destroy(&barrier);
    weft_loopback_destroy(hub);
    return passed;
}

int main(void)
{
    const char *given = getenv("WEFT_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : weft_now_ns();
    printf("seed %llu\n", (unsigned long long)seed);
    setenv("NCCL_NVLS_ENABLE", "0", 1); /* before there are threads: open then leaves the environment alone */
    for (uint32_t num_ranks = 1; num_ranks <= MAX_RANKS; num_ranks++)
        if (!run_world(num_ranks, seed))
            return 1;
    REQUIRE(!rooms);
    return 0;
}
