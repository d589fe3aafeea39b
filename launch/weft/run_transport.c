/* Where weights are and how they travel: the choice that --transport leaves open, transports, memory. */
#include <stdio.h>
#include <string.h>

#include "launch/weft/run.h"
#include "src/base/error.h"
#include "transport/transport.h"

#define IPC_BUDGET_BYTES (UINT64_C(1) << 40)
/* mpi and zmq. Without workers they stand still while a bucket is worked on, and fewer pauses are better;
 * with them small buckets keep all busy. */
#define HOST_BUCKET_BYTES       (16u << 20)
#define HOST_SMALL_BUCKET_BYTES (2u << 20)

/* ---- the choice ---- */

static uint32_t count_gpus(void)
{
    char bus_id[WEFT_BUS_ID_BYTES];
    int number;
    uint32_t count = 0;
    while (count < 64 && weft_queue_find("cuda", (int)count, &number, bus_id))
        count++;
    return count;
}

/* This rank among those of its node. */
static uint32_t local_rank(const run_job_t *job, uint32_t *ranks)
{
    MPI_Comm node;
    int rank, size;
    MPI_Comm_split_type(job->world, MPI_COMM_TYPE_SHARED, (int)job->rank, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &rank);
    MPI_Comm_size(node, &size);
    MPI_Comm_free(&node);
    *ranks = (uint32_t)size;
    return (uint32_t)rank;
}

/* GPUs for all ranks, or none: the least that any of them has. */
static uint32_t least_of_all(const run_job_t *job, uint32_t mine)
{
    uint32_t least;
    MPI_Allreduce(&mine, &least, 1, MPI_UINT32_T, MPI_MIN, job->world);
    return least;
}

static const char *default_transport(uint32_t gpus, uint32_t ranks, bool shared_gpu)
{
    return gpus && (gpus >= ranks || shared_gpu) ? "nccl" : "mpi";
}

static weft_status_t check_memory(const char *memory, uint32_t gpus, weft_error_t *error)
{
    bool cuda = memory && strcmp(memory, "cuda") == 0;
    if (memory && !cuda && strcmp(memory, "host") != 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--memory expects cuda or host, found %s", memory);
    if (cuda && !gpus)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "--memory cuda: a rank has no GPU, or this build has no CUDA (configure with --preset cuda); use "
            "--memory host");
    return WEFT_OK;
}

weft_status_t run_choose(run_job_t *job, weft_error_t *error)
{
    run_options_t *o = &job->options;
    uint32_t ranks, mine = count_gpus(), gpus = least_of_all(job, mine), local = local_rank(job, &ranks);
    uint32_t most = ranks;
    MPI_Allreduce(&ranks, &most, 1, MPI_UINT32_T, MPI_MAX, job->world);
    if (!o->transport)
        o->transport = default_transport(gpus, most, o->shared_gpu);
    WEFT_TRY(check_memory(o->memory, gpus, error));
    bool wants_gpu = strcmp(o->transport, "nccl") == 0;
    if (wants_gpu && !gpus)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "transport nccl moves weights between GPUs, and a rank has none (or this build has no CUDA: "
            "configure with --preset cuda); use --transport mpi");
    bool ipc = strcmp(o->transport, "ipc") == 0;
    job->memory =
        wants_gpu || (ipc && gpus && (!o->memory || strcmp(o->memory, "cuda") == 0)) ? "cuda" : "host";
    job->device = mine ? (int)(local % mine) : -1;
    if (ipc) { /* needs no communicators, and stages nothing: all units in two rounds */
        o->plan.max_groups = UINT32_MAX;
        o->plan.budget_bytes = o->plan.budget_bytes ? o->plan.budget_bytes : IPC_BUDGET_BYTES;
    }
    if (strcmp(job->memory, "host") == 0)
        WEFT_TRY(run_choose_workers(job, error));
    bool all_have_workers = least_of_all(job, job->workers) > 0; /* the plan must be the same on all */
    bool crosses_host = strcmp(o->transport, "mpi") == 0 || strcmp(o->transport, "zmq") == 0;
    if (crosses_host && !o->plan.bucket_bytes)
        o->plan.bucket_bytes = all_have_workers ? HOST_SMALL_BUCKET_BYTES : HOST_BUCKET_BYTES;
    return WEFT_OK;
}

/* ---- transports ---- */

weft_status_t run_read_keys(run_job_t *job, weft_error_t *error)
{
    const run_options_t *o = &job->options;
    if (!o->keys)
        return WEFT_OK;
    if (strcmp(o->transport, "zmq") != 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--keys are for --transport zmq; %s takes none",
                         o->transport);
    return weft_keys_read(o->keys, o->key_name ? o->key_name : WEFT_KEYS_CLIENT, &job->key_pair, error);
}

/* Every rank has the pair, and proves it to every other: whoever listens to MPI learns no key. */
static weft_zmq_options_t zmq_options(const run_job_t *job)
{
    weft_zmq_options_t zmq = WEFT_ZMQ_OPTIONS;
    zmq.address = job->options.host;
    if (job->options.keys) {
        zmq.public_key = zmq.server_key = job->key_pair.public;
        zmq.secret_key = job->key_pair.secret;
    }
    return zmq;
}

static weft_status_t open_second(run_job_t *job, weft_error_t *error)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_config_t bootstrap = WEFT_TRANSPORT_CONFIG;
    bootstrap.mpi_comm = &job->world;
    WEFT_TRY(weft_transport_open("mpi", &bootstrap, &job->bootstrap, error));
    config.bootstrap = job->bootstrap;
    config.device = job->device;
    config.memory = job->memory;
    config.max_ctas = job->options.max_ctas;
    config.shared_gpu = job->options.shared_gpu;
    const weft_zmq_options_t zmq = zmq_options(job);
    config.zmq = &zmq;
    weft_status_t status = weft_transport_open(job->options.transport, &config, &job->transport, error);
    weft_keys_wipe(&job->key_pair);
    return status;
}

weft_status_t run_open_transport(run_job_t *job, weft_error_t *error)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.mpi_comm = &job->world;
    bool alone = strcmp(job->options.transport, "mpi") == 0; /* the others meet over it */
    WEFT_TRY(alone ? weft_transport_open(job->options.transport, &config, &job->transport, error)
                   : open_second(job, error));
    const weft_transport_base_t *base = weft_transport_base(job->transport);
    WEFT_TRY(weft_queue_open(base->queue, base->device, &job->queue, error));
    job->queue->ops->thread_begin(job->queue); /* the decoder too uses this GPU, from this thread */
    return WEFT_OK;
}

void run_close_transport(run_job_t *job)
{
    weft_queue_close(job->queue);
    weft_transport_close(job->transport);
    weft_transport_close(job->bootstrap);
}

/* ---- memory ---- */

weft_status_t run_alloc(run_job_t *job, size_t bytes, uint8_t **memory, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(job->transport);
    if (ops->alloc_lendable)
        return ops->alloc_lendable(job->transport, bytes, (void **)memory, error);
    weft_status_t status = job->queue->ops->alloc(job->queue, bytes, (void **)memory);
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "trainer rank %u: no %s memory for %zu bytes of shards", job->rank,
                           job->memory, bytes);
}

void run_free(run_job_t *job, uint8_t *memory)
{
    const weft_transport_ops_t *ops = weft_transport_table(job->transport);
    if (memory && ops->alloc_lendable)
        ops->free_lendable(job->transport, memory);
    else
        job->queue->ops->free(job->queue, memory);
}

void run_sample_memory(run_job_t *job, uint64_t version)
{
    run_account_t *a = &job->account;
    a->rss_late_bytes = run_resident_bytes();
    a->gpu_late_bytes = job->queue->ops->used_bytes(job->queue);
    if (a->rss_early_bytes || version <= job->num_versions / 10)
        return;
    a->rss_early_bytes = a->rss_late_bytes;
    a->gpu_early_bytes = a->gpu_late_bytes;
}
