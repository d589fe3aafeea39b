/* The main job: what its files share. Rank 0 prints the closing table, the leader of the first replica the
 * text. */
#ifndef WEFT_LAUNCH_RUN_H
#define WEFT_LAUNCH_RUN_H

#include <mpi.h>
#include <pthread.h>

#include <weft/weft.h>

#include "kernels/queue.h"
#include "launch/weft/commands.h"
#include "src/service/keys.h"

#define RUN_MAX_MODELS 64
#define RUN_EACH_ONCE  UINT32_MAX

typedef struct run_options {
    plan_arguments_t plan;
    const char *models; /* as given: DIR[,DIR...] */
    const char *model_dirs[RUN_MAX_MODELS];
    uint32_t num_models;
    const char *load; /* a directory that rollouts start from, as version 1; NULL: none */
    const char *transport, *memory, *swap, *dump, *prompt, *json, *trace, *eval, *host;
    const char *keys, *key_name; /* zmq: the pair that all ranks have */
    uint32_t grace_s;    /* from a signal to the end of what is orderly */
    double rate, pace;   /* bytes a second, tokens a second; 0: as fast as it goes */
    uint32_t updates;    /* versions to publish, cycling through the models; RUN_EACH_ONCE */
    uint32_t tokens;     /* on each version before the next is published */
    uint64_t eval_bytes; /* of the text, scored on each version */
    uint64_t timeout_us;
    bool quiet, verbose;
    bool shared_gpu;   /* several ranks on one GPU */
    const char *workers; /* host memory: "auto", NULL or a number */
    uint32_t max_ctas; /* nccl: thread blocks a communicator; 0: the transport's default */
} run_options_t;

/* What one version cost one rollout rank. */
typedef struct run_record {
    weft_rollout_stats_t stats;
    uint32_t tokens_during; /* steps begun while it was on its way */
    uint32_t failed;        /* the version was refused or aborted */
    double bits_per_byte;   /* NaN when not scored */
} run_record_t;

/* What one rank brings to the closing table, besides its records. */
typedef struct run_account {
    uint64_t steps, torn_steps;
    uint64_t rss_early_bytes, rss_late_bytes; /* after a tenth of the updates, and at the end */
    uint64_t gpu_early_bytes, gpu_late_bytes; /* in use on this rank's GPU, by all */
    char place[256];                          /* where it sits */
    uint64_t step_us_total;
    uint64_t sent_bytes; /* trainer: payload over all versions */
} run_account_t;

/* The timeline of one rank. */
typedef struct run_trace {
    pthread_mutex_t mutex;
    weft_span_t *spans;
    uint32_t count, capacity;
} run_trace_t;

/* Note a span; a weft_span_fn. Keeps the first million. */
void run_trace_add(void *trace, const weft_span_t *span);

typedef struct run_job {
    run_options_t options;
    weft_model_t *model; /* of the first version: shapes and configuration */
    weft_plan_t *plan;
    const char *memory;          /* where weights are: "host" or "cuda" */
    int device;                  /* cuda: its number */
    weft_key_pair_t key_pair;    /* zmq: until the transport is open; all zero without */
    uint32_t workers;            /* threads that pack and quantize, where weights are in host memory */
    weft_transport_t *bootstrap; /* nccl, ipc, zmq: mpi; else NULL */
    weft_transport_t *transport;
    weft_queue_t *queue; /* the command's own, of the same memory: to fill shards, to read what is live */
    weft_session_t *session;
    MPI_Comm world;   /* for the command's own messages */
    MPI_Comm replica; /* rollout ranks of one replica; MPI_COMM_NULL on trainers */
    uint32_t rank, num_ranks;
    uint32_t num_versions, num_loaded; /* in all; of these the first ones are loaded, the others published */
    run_record_t *records; /* rollout: [num_versions] */
    run_account_t account;
    run_trace_t trace;
    bool told_stop;
} run_job_t;

/* Messages of the command itself, on job->world. */
enum {
    RUN_TAG_GO = 1, /* first leader -> trainers: publish this version (uint32_t index) */
    RUN_TAG_RESULT, /* trainer 0 -> leaders: run_result_t */
    RUN_TAG_STOP,   /* who was signalled -> first leader: no bytes */
};

#define RUN_NO_MORE UINT32_MAX /* instead of a version's index: after the one in hand the job ends */

typedef struct run_result {
    uint32_t index; /* of the version, from 0 */
    uint32_t failed;
} run_result_t;

/* Open the model, make the plan and look for whatever can be wrong on this rank. */
weft_status_t run_prepare(run_job_t *job, weft_error_t *error);

/* run_transport.c: choose the transport and the GPU where that was left open, so that all ranks agree; collective.
 * Read --keys.
 * Then open both transports and the queue. */
weft_status_t run_choose(run_job_t *job, weft_error_t *error);
weft_status_t run_read_keys(run_job_t *job, weft_error_t *error);
weft_status_t run_open_transport(run_job_t *job, weft_error_t *error);

/* run_workers.c: read --workers, or choose by the cores that are free; collective. */
weft_status_t run_choose_workers(run_job_t *job, weft_error_t *error);
void run_close_transport(run_job_t *job);

/* Write the live weights of this rollout rank to options.dump. */
weft_status_t run_dump(run_job_t *job, const weft_rollout_t *rollout, weft_error_t *error);

/* Cut options.models, of which `copy` is a copy, into directories. */
weft_status_t run_split_models(run_options_t *options, char *copy, weft_error_t *error);

/* Memory for the weights of a trainer, such that the transport can use it; freed by run_free. */
weft_status_t run_alloc(run_job_t *job, size_t bytes, uint8_t **memory, weft_error_t *error);
void run_free(run_job_t *job, uint8_t *memory);

/* Note how much memory is in use: for the first time after a tenth of the versions, and now. */
void run_sample_memory(run_job_t *job, uint64_t version);

/* Tell the first leader that this rank was asked to stop; once, and nothing when it was not. */
void run_tell_stop(run_job_t *job);

/* Where version `index`, counted from 0, comes from. */
const char *run_source(const run_job_t *job, uint32_t index);

/* The two roles. Return an exit code; they print what went wrong. */
int run_trainer(run_job_t *job);
int run_rollout(run_job_t *job);

/* Gather the records and print the table on rank 0; collective over job->world. Returns an exit code. */
int run_report(run_job_t *job);

/* Gather the timelines and write them on rank 0 as a trace that Perfetto opens; collective. Returns an exit
 * code. */
int run_write_trace(run_job_t *job);

/* End the whole job now: a rank cannot go on and the others may be waiting for it. Does not return. */
void run_abort(const run_job_t *job, const weft_error_t *error);

uint64_t run_resident_bytes(void);

#endif
