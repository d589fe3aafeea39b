/* weft bench sync: whole updates, each beside what the same bytes cost without weft.
 *
 *     published    begun                  prepared     swapped      heard      on one clock, the slowest rank
 *         |-- publish --|---- transfer ----|-- commit ----|-- hear ----|
 *
 * Over a transport that moves bytes the counterpart is a bare broadcast of the plan's buckets; over one that
 * lends them it is the floor: bytes read and bytes written at the speed of a copy. Both are measured in turn
 * with the updates. */
#include "launch/weft/bench_sync.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/bench_model.h"
#include "launch/weft/options.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/session_private.h"
#include "src/swap/weights.h"

#define WARM_UPDATES   2u
#define PARKED_STEPS   8u
#define WARM_US        60000
#define PARKED_REST_US 50000      /* longer than it takes to count as parked */
#define COPY_BYTES     (1u << 30) /* of one copy of the floor, at most */

/* What one update took, in microseconds, and the moments it is made of, in nanoseconds. */
enum {
    UPDATE_PUBLISHED,
    UPDATE_BEGUN,
    UPDATE_PREPARED,
    UPDATE_SWAPPED,
    UPDATE_HEARD, /* the moments */
    UPDATE_TOTAL,
    UPDATE_RECEIVE,
    UPDATE_QUANTIZE,
    UPDATE_PREPARE,
    UPDATE_SWAP,
    UPDATE_FIELDS,
};

/* All rounds. */
typedef struct series {
    bench_series_t update, prepare, counterpart;
    bench_series_t publish, transfer, commit, hear, receive, quantize, swap;
    double wrong, checked;
} series_t;

static const bench_column_t update_columns[] = {
    {"what", "", 8, BENCH_TEXT}, {"rounds", "", 6, 0},  {"p50", "ms", 11, 3},  {"p99", "ms", 11, 3},
    {"ratio", "of bare", 9, 3},  {"gbs", "GB/s", 9, 2}, {"#wrong", "B", 8, 0}, {"checked", "B", 12, 0},
};

static const bench_column_t part_columns[] = {
    {"part", "", 10, BENCH_TEXT}, {"p50", "us", 12, 1}, {"p99", "us", 12, 1}};

/* ---- one update ---- */

/* A weft_span_fn. */
static void note_span(void *user, const weft_span_t *span)
{
    bench_sync_t *s = user;
    if (strcmp(span->name, "receive") == 0)
        s->begun_ns = span->start_ns;
    else if (strcmp(span->name, "swap") == 0)
        s->swapped_ns = span->end_ns;
}

/* What a rank notes of a version appears a moment after it is live. */
static weft_status_t wait_for_stats(const bench_sync_t *s, weft_rollout_stats_t *stats, weft_error_t *error)
{
    uint64_t deadline = weft_now_us() + s->world.job.options.timeout_us;
    for (;;) {
        weft_rollout_get_stats(s->rollout, stats);
        if (stats->version >= s->version)
            return WEFT_OK;
        if (weft_now_us() > deadline)
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "rollout rank %u: version %llu is live and not in the statistics",
                             s->world.job.rank, (unsigned long long)s->version);
        weft_sleep_us(20);
    }
}

weft_status_t bench_sync_publish(bench_sync_t *s, uint64_t *published_ns, uint64_t *heard_ns,
                                 weft_error_t *error)
{
    uint64_t timeout = s->world.job.options.timeout_us;
    s->version++;
    *published_ns = weft_now_ns();
    if (s->trainer) {
        WEFT_TRY(weft_trainer_publish(s->trainer, s->version, error));
        WEFT_TRY(weft_trainer_wait(s->trainer, s->version, WEFT_PUBLISH_APPLIED, timeout, error));
    } else {
        WEFT_TRY(weft_rollout_wait(s->rollout, s->version, timeout, error));
    }
    *heard_ns = weft_now_ns();
    return WEFT_OK;
}

static weft_status_t note_rollout(bench_sync_t *s, double *fields, weft_error_t *error)
{
    weft_rollout_stats_t stats;
    WEFT_TRY(wait_for_stats(s, &stats, error));
    fields[UPDATE_BEGUN] = (double)s->begun_ns;
    fields[UPDATE_PREPARED] = (double)s->begun_ns + 1e3 * (double)stats.prepare_us;
    fields[UPDATE_SWAPPED] = (double)s->swapped_ns;
    fields[UPDATE_RECEIVE] = (double)stats.receive_us;
    fields[UPDATE_QUANTIZE] = (double)stats.quantize_us;
    fields[UPDATE_PREPARE] = (double)stats.prepare_us;
    fields[UPDATE_SWAP] = (double)stats.swap_us;
    return WEFT_OK;
}

/* The replicas are parked; the fields are the slowest rank's. Collective. */
static weft_status_t run_update(bench_sync_t *s, double *fields, weft_error_t *error)
{
    uint64_t published, heard;
    memset(fields, 0, UPDATE_FIELDS * sizeof *fields);
    MPI_Barrier(s->world.job.world);
    WEFT_TRY(bench_sync_publish(s, &published, &heard, error));
    if (s->trainer) {
        fields[UPDATE_PUBLISHED] = (double)published;
        fields[UPDATE_HEARD] = (double)heard;
        fields[UPDATE_TOTAL] = (double)(heard - published) / 1e3;
    } else {
        WEFT_TRY(note_rollout(s, fields, error));
    }
    bench_world_most(&s->world, fields, UPDATE_FIELDS);
    return WEFT_OK;
}

/* Decode a little on what is live, and rest until the rank counts as parked. */
static weft_status_t run_engine(bench_sync_t *s, weft_error_t *error)
{
    if (!s->engine || strcmp(s->decode, "parked") != 0)
        return WEFT_OK;
    WEFT_TRY(bench_engine_run(s, PARKED_STEPS, error));
    weft_sleep_us(PARKED_REST_US);
    return WEFT_OK;
}

/* An engine or a trainer is at work until an update begins. A GPU that idles lowers its clocks, and takes
 * milliseconds to raise them: digests of scratch memory are work enough. */
static weft_status_t keep_warm(bench_sync_t *s, weft_error_t *error)
{
    weft_queue_t *queue = s->world.job.queue;
    uint64_t end_us = weft_now_us() + WARM_US;
    weft_status_t status = WEFT_OK;
    if (s->idle || queue->ops->on_host || !s->scratch)
        return WEFT_OK;
    const weft_run_t run = {s->scratch, s->scratch_bytes};
    if (!s->warmth)
        status = queue->ops->digest_create(queue, &run, 1, &s->warmth);
    while (status == WEFT_OK && weft_now_us() < end_us) {
        status = queue->ops->digest_run(s->warmth, 0, 1);
        if (status == WEFT_OK)
            status = bench_settle(queue);
    }
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "rollout rank %u: its GPU cannot be kept at work: %s",
                                         s->world.job.rank, weft_status_text(status));
}

/* ---- its counterpart ---- */

static bool lends(const bench_sync_t *s)
{
    return weft_transport_table(s->world.job.transport)->lend != NULL;
}

/* A source sends from its shards, which are all there is; a receiver needs a place for every bucket. */
static weft_status_t make_scratch(bench_sync_t *s, weft_error_t *error)
{
    run_job_t *job = &s->world.job;
    if (s->trainer)
        return WEFT_OK;
    size_t half = (s->program->payload_bytes + s->outputs.bytes) / 2 + 1;
    s->scratch_bytes = lends(s) ? 2 * (half < COPY_BYTES ? half : COPY_BYTES)
                                : bench_bare_place(s->program, s->program->num_buckets);
    weft_status_t status = job->queue->ops->alloc(job->queue, s->scratch_bytes + 1, (void **)&s->scratch);
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "rollout rank %u: no %s memory for %zu bytes to measure against",
                           job->rank, job->memory, s->scratch_bytes);
}

static weft_status_t run_bare(const bench_sync_t *s, weft_error_t *error)
{
    const run_job_t *job = &s->world.job;
    const bench_bare_t bare = {.transport = job->transport,
                               .program = s->program,
                               .groups = job->session->groups,
                               .memory = s->trainer ? s->shards.memory : s->scratch,
                               .bytes = s->trainer ? s->shards.bytes : s->scratch_bytes,
                               .timeout_us = job->options.timeout_us};
    return bench_bare_run(&bare, error);
}

/* Copy until as many bytes were read and written as an update reads and writes. */
static weft_status_t run_floor(const bench_sync_t *s, weft_error_t *error)
{
    weft_queue_t *queue = s->world.job.queue;
    size_t left = (s->program->payload_bytes + s->outputs.bytes) / 2, chunk = s->scratch_bytes / 2;
    weft_status_t status = WEFT_OK;
    for (; left && status == WEFT_OK; left -= left < chunk ? left : chunk)
        status =
            queue->ops->engine_copy(queue, NULL, s->scratch, s->scratch + chunk, left < chunk ? left : chunk);
    if (status == WEFT_OK)
        status = bench_settle(queue);
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "rollout rank %u: a copy of its bytes failed: %s",
                                         s->world.job.rank, weft_status_text(status));
}

static weft_status_t run_counterpart(bench_sync_t *s, double *us, weft_error_t *error)
{
    MPI_Barrier(s->world.job.world);
    uint64_t start = weft_now_ns();
    if (!lends(s))
        WEFT_TRY(run_bare(s, error));
    else if (s->rollout)
        WEFT_TRY(run_floor(s, error));
    *us = (double)(weft_now_ns() - start) / 1e3;
    bench_world_most(&s->world, us, 1);
    return WEFT_OK;
}

/* ---- rounds ---- */

static void note_round(series_t *all, const double *f, double counterpart)
{
    bench_series_add(&all->update, f[UPDATE_TOTAL]);
    bench_series_add(&all->prepare, f[UPDATE_PREPARE]);
    bench_series_add(&all->counterpart, counterpart);
    bench_series_add(&all->publish, (f[UPDATE_BEGUN] - f[UPDATE_PUBLISHED]) / 1e3);
    bench_series_add(&all->transfer, (f[UPDATE_PREPARED] - f[UPDATE_BEGUN]) / 1e3);
    bench_series_add(&all->commit, (f[UPDATE_SWAPPED] - f[UPDATE_PREPARED]) / 1e3);
    bench_series_add(&all->hear, (f[UPDATE_HEARD] - f[UPDATE_SWAPPED]) / 1e3);
    bench_series_add(&all->receive, f[UPDATE_RECEIVE]);
    bench_series_add(&all->quantize, f[UPDATE_QUANTIZE]);
    bench_series_add(&all->swap, f[UPDATE_SWAP]);
}

static weft_status_t run_rounds(bench_sync_t *s, series_t *all, weft_error_t *error)
{
    for (uint32_t round = 0; round < WARM_UPDATES + s->world.job.options.updates; round++) {
        double fields[UPDATE_FIELDS], counterpart;
        WEFT_TRY(keep_warm(s, error));
        WEFT_TRY(run_counterpart(s, &counterpart, error));
        WEFT_TRY(keep_warm(s, error));
        WEFT_TRY(run_update(s, fields, error));
        WEFT_TRY(run_engine(s, error));
        if (round >= WARM_UPDATES)
            note_round(all, fields, counterpart);
    }
    return WEFT_OK;
}

/* One more version with other numbers: what it left behind must be it, and nothing of the one before. */
static weft_status_t check_update(bench_sync_t *s, series_t *all, weft_error_t *error)
{
    double fields[UPDATE_FIELDS];
    if (s->trainer)
        WEFT_TRY(bench_sync_fill(s, 2, error));
    WEFT_TRY(run_update(s, fields, error));
    if (s->rollout)
        WEFT_TRY(bench_sync_check(s, 2, &all->wrong, &all->checked, error));
    double sums[2] = {all->wrong, all->checked};
    MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_DOUBLE, MPI_SUM, s->world.job.world);
    all->wrong = sums[0];
    all->checked = sums[1];
    return WEFT_OK;
}

/* ---- the tables ---- */

static void print_time(bench_sync_t *s, const char *what, bench_series_t *us, double bare, double wrong,
                       double checked)
{
    weft_plan_summary_t plan;
    weft_plan_summarize(s->world.job.plan, &plan);
    double p50 = bench_percentile(us, 0.5);
    const bench_value_t values[] = {
        BENCH_WORD(what),         BENCH_NUMBER(us->count),
        BENCH_NUMBER(p50 / 1e3),  BENCH_NUMBER(bench_percentile(us, 0.99) / 1e3),
        BENCH_NUMBER(p50 / bare), BENCH_NUMBER((double)plan.ingress_bytes_max / p50 / 1e3),
        BENCH_NUMBER(wrong),      BENCH_NUMBER(checked),
    };
    bench_report_row(&s->world.report, values);
}

static void print_part(bench_sync_t *s, const char *part, bench_series_t *us)
{
    const bench_value_t values[] = {BENCH_WORD(part), BENCH_NUMBER(bench_percentile(us, 0.5)),
                                    BENCH_NUMBER(bench_percentile(us, 0.99))};
    bench_report_row(&s->world.report, values);
}

static void print_parts(bench_sync_t *s, series_t *all)
{
    bench_report_table(&s->world.report, "parts", part_columns, sizeof part_columns / sizeof part_columns[0]);
    print_part(s, "publish", &all->publish);
    print_part(s, "transfer", &all->transfer);
    print_part(s, "commit", &all->commit);
    print_part(s, "hear", &all->hear);
    print_part(s, "receive", &all->receive);
    print_part(s, "quantize", &all->quantize);
    print_part(s, "swap", &all->swap);
}

static void print_tables(bench_sync_t *s, series_t *all)
{
    double bare = bench_percentile(&all->counterpart, 0.5);
    bench_report_table(&s->world.report, "updates", update_columns,
                       sizeof update_columns / sizeof update_columns[0]);
    print_time(s, "update", &all->update, bare, all->wrong, all->checked);
    print_time(s, "prepare", &all->prepare, bare, NAN, NAN);
    print_time(s, lends(s) ? "floor" : "bare", &all->counterpart, bare, NAN, NAN);
    print_parts(s, all);
}

static void print_notes(bench_sync_t *s)
{
    const run_job_t *job = &s->world.job;
    weft_plan_summary_t plan;
    weft_plan_summarize(job->plan, &plan);
    bench_report_note(
        &s->world.report, "%s: trainer %s to rollout %s, %s (%s), swap %s; replicas parked (%s)", s->shape,
        weft_plan_trainer_text(job->plan), weft_plan_rollout_text(job->plan), weft_plan_scheme(job->plan),
        weft_plan_profile(job->plan), job->options.swap, s->decode);
    bench_report_note(&s->world.report, "a rank receives %.3f GB of bf16 and holds %.3f GB; GB/s is of bf16",
                      (double)plan.ingress_bytes_max / 1e9, (double)plan.kernel_bytes_max / 1e9);
    if (!job->queue->ops->on_host)
        bench_report_note(&s->world.report,
                          s->idle ? "the GPU idles before an update"
                                  : "the GPU is at work until an update begins (--idle: it is not)");
    bench_report_note(&s->world.report,
                      lends(s) ? "floor: bytes read and bytes written, at the speed of a copy in the same run"
                               : "bare: the same buckets by the same routes, nothing else done");
}

static void free_series(series_t *all)
{
    bench_series_t *each[] = {&all->update, &all->prepare, &all->counterpart, &all->publish,  &all->transfer,
                              &all->commit, &all->hear,    &all->receive,     &all->quantize, &all->swap};
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++)
        bench_series_free(each[i]);
}

/* ---- life ---- */

static void print_log(void *user, weft_log_level_t level, const char *line)
{
    (void)user, (void)level;
    fprintf(stderr, "weft bench sync: %s\n", line);
}

static weft_status_t open_session(bench_sync_t *s, weft_error_t *error)
{
    run_job_t *job = &s->world.job;
    WEFT_TRY(run_open_transport(job, error));
    weft_session_config_t config = WEFT_SESSION_CONFIG;
    config.plan = job->plan;
    config.transport = job->transport;
    config.workers = job->workers;
    config.host = job->options.host;
    config.transfer_timeout_us = job->options.timeout_us;
    config.span = note_span;
    config.span_user = s;
    config.log = (weft_log_t){print_log, NULL, WEFT_LOG_ERROR};
    return weft_session_open(&config, &job->session, error);
}

static weft_status_t make_role(bench_sync_t *s, weft_error_t *error)
{
    run_job_t *job = &s->world.job;
    WEFT_TRY(bench_random_create(&s->random, bench_model_largest(job->model), error));
    WEFT_TRY(bench_world_program(&s->world, &s->outputs, &s->program, error));
    if (weft_session_is_trainer(job->session)) {
        WEFT_TRY(weft_trainer_create(job->session, &s->trainer, error));
        WEFT_TRY(shards_create(job, s->trainer, &s->shards, error));
        return bench_sync_fill(s, 1, error);
    }
    weft_rollout_config_t config = WEFT_ROLLOUT_CONFIG;
    config.swap = job->options.swap;
    WEFT_TRY(weft_rollout_create(job->session, &config, &s->rollout, error));
    return strcmp(s->decode, "none") == 0 ? WEFT_OK : bench_engine_create(s, error);
}

static void destroy_role(bench_sync_t *s)
{
    run_job_t *job = &s->world.job;
    weft_trainer_destroy(s->trainer);
    weft_rollout_destroy(s->rollout);
    bench_engine_destroy(s->engine); /* its stream outlives the rollout */
    shards_destroy(&s->shards);
    if (job->queue)
        job->queue->ops->digest_destroy(s->warmth);
    if (s->scratch)
        job->queue->ops->free(job->queue, s->scratch);
    weft_session_close(job->session);
    weft_program_destroy(s->program);
    weft_outputs_destroy(&s->outputs);
    bench_random_destroy(&s->random);
}

static weft_status_t measure(bench_sync_t *s, series_t *all, weft_error_t *error)
{
    WEFT_TRY(run_rounds(s, all, error));
    WEFT_TRY(check_update(s, all, error));
    print_tables(s, all);
    return strcmp(s->decode, "flat") == 0 ? bench_sync_decode(s, error) : WEFT_OK;
}

/* ---- the command ---- */

static weft_status_t check_decode(const bench_sync_t *s, weft_error_t *error)
{
    bool none = strcmp(s->decode, "none") == 0;
    if (!none && strcmp(s->decode, "parked") != 0 && strcmp(s->decode, "flat") != 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--decode expects none, parked or flat, found %s",
                         s->decode);
    if (!none && weft_plan_tp(s->world.job.plan) > 1)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "--decode %s needs replicas of one rank, such as --rollout tp:1", s->decode);
    return WEFT_OK;
}

static weft_status_t prepare(bench_sync_t *s, weft_error_t *error)
{
    const run_options_t *o = &s->world.job.options;
    if (!o->plan.trainer || !o->plan.rollout)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "--trainer and --rollout are needed, such as fsdp:1 and tp:1");
    if (!o->updates || !s->tokens)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--updates and --tokens must not be 0");
    WEFT_TRY(weft_weights_check_mode(o->swap, error));
    if (strcmp(o->swap, "layerwise") == 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "--swap layerwise pauses the engine, which is not measured here: flip or copy");
    WEFT_TRY(run_read_keys(&s->world.job, error));
    WEFT_TRY(bench_world_plan(&s->world, s->shape, error));
    return check_decode(s, error);
}

static int run_opened(bench_sync_t *s, int argc, char **argv)
{
    weft_error_t error = {.message = ""};
    series_t all = {.wrong = 0};
    int code;
    weft_status_t status = open_session(s, &error);
    if (bench_world_failed(&s->world, status, &error, &code))
        return code;
    status = bench_world_report(&s->world, argc, argv, &error);
    if (bench_world_failed(&s->world, status, &error, &code)) {
        weft_session_close(s->world.job.session);
        return code;
    }
    print_notes(s);
    status = make_role(s, &error);
    if (status == WEFT_OK)
        status = make_scratch(s, &error);
    bench_world_check(&s->world, status, &error);
    bench_world_check(&s->world, measure(s, &all, &error), &error);
    free_series(&all);
    destroy_role(s);
    code = bench_report_close(&s->world.report);
    MPI_Bcast(&code, 1, MPI_INT, 0, s->world.job.world);
    return code;
}

static int run_checked(bench_sync_t *s, int argc, char **argv)
{
    weft_error_t error = {.message = ""}, prepare_error = {.message = ""};
    int code;
    weft_status_t status = run_choose(&s->world.job, &error);
    if (status == WEFT_OK && (status = prepare(s, &prepare_error)) != WEFT_OK)
        error = prepare_error;
    return bench_world_failed(&s->world, status, &error, &code) ? code : run_opened(s, argc, argv);
}

static int parse(bench_sync_t *s, int argc, char **argv, bool quiet)
{
    run_options_t *o = &s->world.job.options;
    const option_row_t rows[] = {
        {"trainer", OPTION_TEXT, &o->plan.trainer, "LAYOUT",
         "fsdp:N, tp:N, pp:N, ep:N, dp:N, a product such as tp:2,pp:2, or boxes:FILE"},
        {"rollout", OPTION_TEXT, &o->plan.rollout, "LAYOUT", "tp:T or tp:TxR for R replicas"},
        {"shape", OPTION_TEXT, &s->shape, "MODEL",
         "qwen3-8b (default), qwen3-0.6b, tiny, or one with other sizes: qwen3-8b,layers=4"},
        {"scheme", OPTION_TEXT, &o->plan.scheme, "MAP", OPTION_SCHEMES " (default fp8-block)"},
        {"profile", OPTION_TEXT, &o->plan.profile, "NAME",
         "fp8-block: ieee (default), vllm, pow2, vllm-pow2"},
        {"engine", OPTION_TEXT, &o->plan.engine, "NAME", OPTION_ENGINES},
        {"swap", OPTION_TEXT, &o->swap, "MODE", "flip (default) or copy"},
        {"transport", OPTION_TEXT, &o->transport, "NAME",
         "mpi, nccl, ipc or zmq; default: nccl when each rank has a GPU, else mpi"},
        {"shared-gpu", OPTION_FLAG, &o->shared_gpu, NULL,
         "nccl: let several ranks share a GPU, over loopback sockets"},
        {"memory", OPTION_TEXT, &o->memory, "KIND",
         "ipc: where weights are, cuda (default with a GPU) or host"},
        {"workers", OPTION_TEXT, &o->workers, "N",
         "host memory: threads of a rank that pack and quantize; default auto, by free cores"},
        {"ctas", OPTION_COUNT, &o->max_ctas, "N", "nccl: thread blocks a communicator may use"},
        {"updates", OPTION_COUNT, &o->updates, "N", "measured updates (default 20)"},
        {"budget", OPTION_BYTES, &o->plan.budget_bytes, "BYTES", "staging memory of a rank (default 256MiB)"},
        {"bucket", OPTION_BYTES, &o->plan.bucket_bytes, "BYTES",
         "largest broadcast (default 64MiB; mpi: 16MiB, with workers 2MiB)"},
        {"max-groups", OPTION_COUNT, &o->plan.max_groups, "N",
         "communicators a rank may hold (default 1000)"},
        {"decode", OPTION_TEXT, &s->decode, "HOW",
         "none (default); parked: steps between updates; flat: also decode through updates"},
        {"rate", OPTION_RATE, &o->rate, "RATE",
         "flat: also with trainers that send no faster, such as 50GB/s"},
        {"tokens", OPTION_COUNT, &s->tokens, "N", "flat, parked: tokens of the KV cache (default 256)"},
        {"idle", OPTION_FLAG, &s->idle, NULL,
         "let the GPU idle before each update, instead of keeping it at work"},
        {"host", OPTION_TEXT, &o->host, "ADDRESS",
         "address of this node for control messages and zmq (default 127.0.0.1)"},
        {"keys", OPTION_TEXT, &o->keys, "DIR",
         "zmq: the key that all ranks have (weft keygen); needed unless --host is a loopback address"},
        {"key-name", OPTION_TEXT, &o->key_name, "NAME", "of the key: NAME.key (default client)"},
        {"json", OPTION_TEXT, &o->json, "FILE", "write the rows as JSON too"},
    };
    const command_spec_t spec = {
        .name = "bench sync",
        .synopsis = "--trainer LAYOUT --rollout LAYOUT [--shape MODEL] [--transport NAME] [options]",
        .about = "Under mpirun: time whole updates of a model of random weights, from publish to applied, "
                 "beside a bare\n"
                 "broadcast of the same buckets (mpi, nccl) or their floor (ipc), and where the time goes:\n"
                 "  mpirun -n 2 weft bench sync --trainer fsdp:1 --rollout tp:1 --transport ipc",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    return options_parse(&spec, argc, argv, quiet, none, &count);
}

int command_bench_sync(int argc, char **argv)
{
    bench_sync_t s = {.shape = "qwen3-8b", .decode = "none", .baseline_s = 1, .tokens = 256};
    bool speaks;
    bench_world_begin(&s.world, "bench sync");
    const run_options_t fresh = s.world.job.options;
    int code = parse(&s, argc, argv, true);
    if (bench_world_stops(&s.world, &code, &speaks)) {
        s.world.job.options = fresh;
        if (speaks)
            parse(&s, argc, argv, false);
    } else {
        code = run_checked(&s, argc, argv);
    }
    bench_world_end(&s.world);
    return code;
}
