/* weft bench broadcast: a transport alone, as an update would use it if nothing else had to be done.
 *
 *     sizes   one group of all ranks, rank 0 sends, one broadcast at a time
 *     plan    every bucket of a plan by its route and in its order, contiguous, preallocated */
#include <stdlib.h>
#include <string.h>

#include "launch/weft/bench_ranks.h"
#include "launch/weft/options.h"
#include "src/base/clock.h"
#include "src/base/error.h"

#define WARM_ROUNDS 2u
#define MAX_SIZES   32u

typedef struct broadcast_bench {
    bench_world_t world;
    const char *sizes, *shape;
    uint64_t size[MAX_SIZES], largest;
    uint32_t num_sizes, samples;
    bench_random_t random;
    weft_group_t *all;
} broadcast_bench_t;

static const bench_column_t columns[] = {
    {"what", "", 6, BENCH_TEXT}, {"bytes", "B a rank", 13, 0}, {"broadcasts", "", 10, 0},
    {"p50", "us", 12, 1},        {"p99", "us", 12, 1},         {"gbs", "GB/s", 9, 3},
    {"#wrong", "B", 8, 0},
};

static void print_row(broadcast_bench_t *b, const char *what, double bytes, double broadcasts,
                      bench_series_t *us, double wrong)
{
    double p50 = bench_percentile(us, 0.5);
    const bench_value_t values[] = {BENCH_WORD(what),
                                    BENCH_NUMBER(bytes),
                                    BENCH_NUMBER(broadcasts),
                                    BENCH_NUMBER(p50),
                                    BENCH_NUMBER(bench_percentile(us, 0.99)),
                                    BENCH_NUMBER(bytes / p50 / 1e3),
                                    BENCH_NUMBER(wrong)};
    bench_report_row(&b->world.report, values);
}

/* Bytes that are wrong on any rank, added up. */
static double sum_of_all(const broadcast_bench_t *b, double mine)
{
    MPI_Allreduce(MPI_IN_PLACE, &mine, 1, MPI_DOUBLE, MPI_SUM, b->world.job.world);
    return mine;
}

/* ---- sizes ---- */

static weft_status_t broadcast_one(const broadcast_bench_t *b, uint8_t *memory, size_t bytes,
                                   weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    weft_op_t *op;
    weft_status_t status =
        weft_transport_table(job->transport)->broadcast_start(job->transport, b->all, 0, memory, bytes, &op);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rank %u: a broadcast of %zu bytes could not be started: %s",
                         job->rank, bytes, weft_status_text(status));
    return bench_finish(job->transport, op, job->options.timeout_us, error);
}

static weft_status_t run_size(broadcast_bench_t *b, uint64_t bytes, uint8_t *memory, weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    bench_series_t us = {0};
    double wrong = 0;
    for (uint32_t round = 0; round < WARM_ROUNDS + b->samples; round++) {
        MPI_Barrier(job->world);
        uint64_t start = weft_now_ns();
        WEFT_TRY(broadcast_one(b, memory, bytes, error));
        double time = (double)(weft_now_ns() - start) / 1e3;
        bench_world_most(&b->world, &time, 1);
        if (round >= WARM_ROUNDS)
            bench_series_add(&us, time);
    }
    weft_status_t status = bench_random_check(&b->random, 0, bytes / 2, job->queue, memory, &wrong);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rank %u: what arrived cannot be read: %s", job->rank,
                         weft_status_text(status));
    print_row(b, "size", (double)bytes, 1, &us, sum_of_all(b, wrong));
    bench_series_free(&us);
    return WEFT_OK;
}

static weft_status_t make_memory(const broadcast_bench_t *b, size_t bytes, uint8_t **memory,
                                 weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    weft_status_t status = job->queue->ops->alloc(job->queue, bytes + 1, (void **)memory);
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "rank %u: no %s memory for %zu bytes", job->rank,
                                         job->memory, bytes);
}

static weft_status_t make_group(broadcast_bench_t *b, weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    uint32_t *ranks = malloc(job->num_ranks * sizeof *ranks);
    if (!ranks)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: no memory", job->rank);
    for (uint32_t i = 0; i < job->num_ranks; i++)
        ranks[i] = i;
    weft_status_t status =
        weft_transport_table(job->transport)
            ->group_create(job->transport, WEFT_MAX_GROUPS - 1, ranks, job->num_ranks, &b->all, error);
    free(ranks);
    return status;
}

static weft_status_t run_sizes(broadcast_bench_t *b, weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    uint8_t *memory;
    WEFT_TRY(make_group(b, error));
    WEFT_TRY(make_memory(b, b->largest, &memory, error));
    for (uint32_t i = 0; i < b->num_sizes; i++) {
        weft_status_t status = job->queue->ops->clear(job->queue, memory, b->largest);
        if (status == WEFT_OK)
            status = bench_settle(job->queue);
        if (status == WEFT_OK && job->rank == 0)
            status = bench_random_write(&b->random, 0, b->size[i] / 2, job->queue, memory);
        if (status != WEFT_OK)
            return weft_fail(error, status, "rank %u: its memory cannot be filled: %s", job->rank,
                             weft_status_text(status));
        WEFT_TRY(run_size(b, b->size[i], memory, error));
    }
    job->queue->ops->free(job->queue, memory);
    weft_transport_table(job->transport)->group_destroy(job->transport, b->all);
    return WEFT_OK;
}

/* ---- a plan ---- */

static weft_status_t make_routes(const broadcast_bench_t *b, weft_group_t ***groups, weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    const weft_plan_t *plan = job->plan;
    uint32_t *ranks = malloc((weft_plan_num_ranks(plan) + 1) * sizeof *ranks);
    *groups = calloc(plan->routes.count + 1, sizeof **groups);
    weft_status_t status =
        ranks && *groups ? WEFT_OK : weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: no memory", job->rank);
    for (uint32_t i = 0; i < plan->routes.count && status == WEFT_OK; i++) {
        ranks[0] = plan->routes.items[i].source;
        uint32_t count = 1 + weft_set_ranks(plan, plan->routes.items[i].set, ranks + 1);
        bool member = false;
        for (uint32_t r = 0; r < count; r++)
            member |= ranks[r] == job->rank;
        if (member)
            status = weft_transport_table(job->transport)
                         ->group_create(job->transport, i, ranks, count, &(*groups)[i], error);
    }
    free(ranks);
    return status;
}

/* Each bucket begins the random block anew, whoever looks. */
static weft_status_t fill_or_check(const broadcast_bench_t *b, const bench_bare_t *bare, double *wrong,
                                   weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    weft_status_t status = WEFT_OK;
    for (size_t i = 0; i < bare->program->num_buckets && status == WEFT_OK; i++) {
        uint8_t *at = bare->memory + bench_bare_place(bare->program, i);
        uint64_t elems = bare->program->buckets[i].bytes / 2;
        status = bare->program->is_trainer ? bench_random_write(&b->random, 0, elems, job->queue, at)
                                           : bench_random_check(&b->random, 0, elems, job->queue, at, wrong);
    }
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "rank %u: its buckets cannot be looked at: %s",
                                         job->rank, weft_status_text(status));
}

static weft_status_t run_buckets(broadcast_bench_t *b, const bench_bare_t *bare, weft_error_t *error)
{
    bench_series_t us = {0};
    double wrong = 0;
    if (bare->program->is_trainer)
        WEFT_TRY(fill_or_check(b, bare, &wrong, error));
    for (uint32_t round = 0; round < WARM_ROUNDS + b->samples; round++) {
        MPI_Barrier(b->world.job.world);
        uint64_t start = weft_now_ns();
        WEFT_TRY(bench_bare_run(bare, error));
        double time = (double)(weft_now_ns() - start) / 1e3;
        bench_world_most(&b->world, &time, 1);
        if (round >= WARM_ROUNDS)
            bench_series_add(&us, time);
    }
    if (!bare->program->is_trainer)
        WEFT_TRY(fill_or_check(b, bare, &wrong, error));
    double bytes[2] = {bare->program->is_trainer ? 0 : (double)bare->program->wire_bytes,
                       (double)bare->program->num_buckets};
    bench_world_most(&b->world, bytes, 2);
    print_row(b, "plan", bytes[0], bytes[1], &us, sum_of_all(b, wrong));
    bench_series_free(&us);
    return WEFT_OK;
}

static weft_status_t run_plan(broadcast_bench_t *b, weft_error_t *error)
{
    const run_job_t *job = &b->world.job;
    weft_outputs_t outputs = {0};
    weft_program_t *program;
    weft_group_t **groups;
    bench_bare_t bare = {.transport = job->transport, .timeout_us = job->options.timeout_us};
    WEFT_TRY(bench_world_program(&b->world, &outputs, &program, error));
    WEFT_TRY(make_routes(b, &groups, error));
    bare.program = program;
    bare.groups = groups;
    bare.bytes = bench_bare_place(program, program->num_buckets);
    WEFT_TRY(make_memory(b, bare.bytes, &bare.memory, error));
    WEFT_TRY(run_buckets(b, &bare, error));
    job->queue->ops->free(job->queue, bare.memory);
    for (uint32_t i = 0; i < job->plan->routes.count; i++)
        weft_transport_table(job->transport)->group_destroy(job->transport, groups[i]);
    free(groups);
    weft_program_destroy(program);
    weft_outputs_destroy(&outputs);
    return WEFT_OK;
}

/* ---- the command ---- */

static int parse(broadcast_bench_t *b, int argc, char **argv, bool quiet)
{
    run_options_t *o = &b->world.job.options;
    const option_row_t rows[] = {
        {"transport", OPTION_TEXT, &o->transport, "NAME",
         "mpi, zmq or nccl; default: nccl when each rank has a GPU, else mpi"},
        {"sizes", OPTION_TEXT, &b->sizes, "LIST", "bytes of a broadcast (default 1KiB, 4KiB .. 256MiB)"},
        {"shape", OPTION_TEXT, &b->shape, "MODEL",
         "also the buckets of a plan of qwen3-8b, qwen3-0.6b, tiny, or sizes"},
        {"trainer", OPTION_TEXT, &o->plan.trainer, "LAYOUT",
         "of the plan: fsdp:N, tp:N, pp:N, ep:N, dp:N, a product, or boxes:FILE"},
        {"rollout", OPTION_TEXT, &o->plan.rollout, "LAYOUT", "of the plan: tp:T or tp:TxR"},
        {"scheme", OPTION_TEXT, &o->plan.scheme, "MAP",
         "of the plan: " OPTION_SCHEMES " (default fp8-block)"},
        {"budget", OPTION_BYTES, &o->plan.budget_bytes, "BYTES", "staging memory of a rank (default 256MiB)"},
        {"bucket", OPTION_BYTES, &o->plan.bucket_bytes, "BYTES",
         "largest broadcast of the plan (default 64MiB; mpi: 16MiB)"},
        {"max-groups", OPTION_COUNT, &o->plan.max_groups, "N",
         "communicators a rank may hold (default 1000)"},
        {"samples", OPTION_COUNT, &b->samples, "N", "of each (default 20)"},
        {"shared-gpu", OPTION_FLAG, &o->shared_gpu, NULL,
         "nccl: let several ranks share a GPU, over loopback sockets"},
        {"ctas", OPTION_COUNT, &o->max_ctas, "N", "nccl: thread blocks a communicator may use"},
        {"json", OPTION_TEXT, &o->json, "FILE", "write the rows as JSON too"},
    };
    const command_spec_t spec = {
        .name = "bench broadcast",
        .synopsis =
            "[--transport NAME] [--sizes LIST] [--shape MODEL --trainer LAYOUT --rollout LAYOUT] [options]",
        .about = "Under mpirun: time a transport alone. Rank 0 broadcasts to all, one size after the other; "
                 "with --shape also\n"
                 "every bucket of a plan, as an update would send them if it had nothing else to do.",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    return options_parse(&spec, argc, argv, quiet, none, &count);
}

static weft_status_t read_sizes(broadcast_bench_t *b, weft_error_t *error)
{
    char word[64];
    for (const char *list = b->sizes; bench_next_word(&list, word, sizeof word);) {
        uint64_t bytes;
        if (!options_read_bytes(word, &bytes) || bytes < 2 || bytes % 2 || bytes > WEFT_MAX_MESSAGE_BYTES ||
            b->num_sizes == MAX_SIZES)
            return weft_fail(error, WEFT_ERR_ARGUMENT,
                             "--sizes expects at most %u even sizes below 2GiB, such as 1KiB,64MiB, found %s",
                             MAX_SIZES, word);
        b->size[b->num_sizes++] = bytes;
        b->largest = bytes > b->largest ? bytes : b->largest;
    }
    return b->samples ? WEFT_OK : weft_fail(error, WEFT_ERR_ARGUMENT, "--samples must not be 0");
}

static weft_status_t prepare(broadcast_bench_t *b, weft_error_t *error)
{
    const run_options_t *o = &b->world.job.options;
    WEFT_TRY(read_sizes(b, error));
    if (o->transport && strcmp(o->transport, "ipc") == 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "transport ipc moves nothing, there is no broadcast to time: use mpi, zmq or nccl");
    if (b->world.job.num_ranks < 2)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "a broadcast needs 2 ranks or more: start it with mpirun -n 2");
    if (!b->shape)
        return WEFT_OK;
    if (!o->plan.trainer || !o->plan.rollout)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "--shape needs --trainer and --rollout, such as fsdp:1 and tp:1");
    return bench_world_plan(&b->world, b->shape, error);
}

static weft_status_t open_all(broadcast_bench_t *b, int argc, char **argv, weft_error_t *error)
{
    WEFT_TRY(run_open_transport(&b->world.job, error));
    WEFT_TRY(bench_random_create(&b->random, b->largest / 2, error));
    return bench_world_report(&b->world, argc, argv, error);
}

static int run_checked(broadcast_bench_t *b, int argc, char **argv)
{
    weft_error_t error = {.message = ""}, chosen_error = {.message = ""};
    int code;
    weft_status_t status = prepare(b, &error), chosen = run_choose(&b->world.job, &chosen_error);
    if (status == WEFT_OK && chosen != WEFT_OK)
        status = chosen, error = chosen_error;
    if (bench_world_failed(&b->world, status, &error, &code))
        return code;
    status = open_all(b, argc, argv, &error);
    if (bench_world_failed(&b->world, status, &error, &code))
        return code;
    bench_report_table(&b->world.report, "rows", columns, sizeof columns / sizeof columns[0]);
    bench_world_check(&b->world, run_sizes(b, &error), &error);
    if (b->shape)
        bench_world_check(&b->world, run_plan(b, &error), &error);
    return bench_report_close(&b->world.report);
}

int command_bench_broadcast(int argc, char **argv)
{
    broadcast_bench_t b = {.sizes = "1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB,256MiB",
                           .samples = 20};
    bool speaks;
    bench_world_begin(&b.world, "bench broadcast");
    broadcast_bench_t again = b;
    int code = parse(&b, argc, argv, true);
    if (bench_world_stops(&b.world, &code, &speaks)) {
        if (speaks)
            parse(&again, argc, argv, false);
    } else {
        code = run_checked(&b, argc, argv);
    }
    bench_random_destroy(&b.random);
    bench_world_end(&b.world);
    return code;
}
