#include "launch/weft/bench_ranks.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "launch/weft/bench_model.h"
#include "launch/weft/options.h"
#include "src/base/clock.h"
#include "src/base/error.h"

#define MAX_IN_FLIGHT  32u
#define DEFAULT_GROUPS 1000u /* routes are direct, so that a bare broadcast can follow them */

/* ---- ranks ---- */

void bench_world_begin(bench_world_t *world, const char *command)
{
    int provided, rank, size;
    run_job_t *job = &world->job;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    world->command = command;
    MPI_Comm_dup(MPI_COMM_WORLD, &job->world);
    MPI_Comm_rank(job->world, &rank);
    MPI_Comm_size(job->world, &size);
    job->replica = MPI_COMM_NULL;
    job->rank = (uint32_t)rank;
    job->num_ranks = (uint32_t)size;
    job->options = (run_options_t){
        .plan = PLAN_ARGUMENTS, .swap = "flip", .timeout_us = 120000000, .updates = 20};
    job->options.plan.default_scheme = "fp8-block";
    job->options.plan.max_groups = DEFAULT_GROUPS;
}

void bench_world_end(bench_world_t *world)
{
    run_close_transport(&world->job);
    weft_plan_destroy(world->job.plan);
    weft_model_close(world->job.model);
    MPI_Comm_free(&world->job.world);
    MPI_Finalize();
}

bool bench_world_stops(const bench_world_t *world, int *code, bool *speaks)
{
    uint32_t mine = *code >= 0 ? world->job.rank : UINT32_MAX, first;
    MPI_Allreduce(&mine, &first, 1, MPI_UINT32_T, MPI_MIN, world->job.world);
    *speaks = first == world->job.rank;
    if (first == UINT32_MAX)
        return false;
    MPI_Bcast(code, 1, MPI_INT, (int)first, world->job.world);
    return true;
}

bool bench_world_failed(const bench_world_t *world, weft_status_t status, const weft_error_t *error,
                        int *code)
{
    bool speaks;
    *code = status == WEFT_OK ? -1 : exit_code_of(status);
    if (!bench_world_stops(world, code, &speaks))
        return false;
    if (speaks)
        report_error(world->command, error);
    return true;
}

void bench_world_check(const bench_world_t *world, weft_status_t status, const weft_error_t *error)
{
    if (status == WEFT_OK)
        return;
    fflush(stdout);
    MPI_Abort(world->job.world, report_error(world->command, error));
    _exit(EXIT_PEER);
}

void bench_world_most(const bench_world_t *world, double *values, int count)
{
    MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_MAX, world->job.world);
}

/* ---- plan ---- */

weft_status_t bench_world_plan(bench_world_t *world, const char *shape, weft_error_t *error)
{
    run_job_t *job = &world->job;
    WEFT_TRY(bench_model_create(shape, &job->model, error));
    WEFT_TRY(plan_from_arguments(job->model, &job->options.plan, &job->plan, error));
    uint32_t expected = weft_plan_num_ranks(job->plan);
    if (job->plan->relay)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "the plan has %zu routes, more than --max-groups communicators: bare broadcasts need one each",
            job->plan->routes.count);
    if (expected == job->num_ranks)
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_ARGUMENT,
        "trainer %s and rollout %s have %u ranks, but %u processes run: start it with mpirun -n %u",
        weft_plan_trainer_text(job->plan), weft_plan_rollout_text(job->plan), expected, job->num_ranks,
        expected);
}

weft_status_t bench_world_program(const bench_world_t *world, weft_outputs_t *outputs,
                                  weft_program_t **program, weft_error_t *error)
{
    const weft_plan_t *plan = world->job.plan;
    uint32_t trainers = weft_plan_num_trainers(plan), rank = world->job.rank;
    weft_status_t status = WEFT_OK;
    if (rank >= trainers)
        status = weft_outputs_create(plan, (rank - trainers) % weft_plan_tp(plan), outputs);
    if (status == WEFT_OK)
        status = weft_program_create(plan, rank, rank < trainers ? NULL : outputs, program);
    return status == WEFT_OK ? status : weft_fail(error, status, "rank %u: no memory for its program", rank);
}

weft_status_t bench_world_report(bench_world_t *world, int argc, char **argv, weft_error_t *error)
{
    const run_job_t *job = &world->job;
    char options[1024], place[256];
    const weft_transport_base_t *base = weft_transport_base(job->transport);
    const bench_title_t title = {.name = world->command + strlen("bench "),
                                 .place = bench_place(base->queue, base->device, place, sizeof place),
                                 .options = bench_join(argc, argv, options, sizeof options),
                                 .json = job->options.json,
                                 .silent = job->rank != 0};
    WEFT_TRY(bench_report_open(&world->report, &title, error));
    bench_report_note(&world->report,
                      "%u ranks, transport %s, %s memory; rank 0's place; the slowest rank counts",
                      job->num_ranks, base->ops->name, base->queue);
    return WEFT_OK;
}

/* ---- bare broadcasts ---- */

weft_status_t bench_finish(weft_transport_t *transport, weft_op_t *op, uint64_t timeout_us,
                           weft_error_t *error)
{
    uint64_t deadline = weft_now_us() + timeout_us;
    for (bool done = false;;) {
        WEFT_TRY(weft_transport_table(transport)->test(transport, op, &done, error));
        if (done)
            return WEFT_OK;
        if (weft_now_us() > deadline)
            return weft_fail(error, WEFT_ERR_TIMEOUT, "a bare broadcast has not ended after %.1f s",
                             (double)timeout_us / 1e6);
        sched_yield();
    }
}

static size_t aligned(size_t bytes)
{
    return (bytes + WEFT_FRAGMENT_ALIGN - 1) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
}

size_t bench_bare_place(const weft_program_t *program, size_t index)
{
    size_t at = 0;
    for (size_t i = 0; i < index; i++)
        at += aligned(program->buckets[i].bytes);
    return at;
}

/* What is in flight, and where the next bucket lies. */
typedef struct flight {
    weft_op_t *ops[MAX_IN_FLIGHT];
    uint32_t count;
    size_t next, at;
} flight_t;

static weft_status_t start_next(const bench_bare_t *bare, flight_t *f, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(bare->transport);
    const weft_bucket_t *bucket = &bare->program->buckets[f->next++];
    if (f->at + bucket->bytes > bare->bytes)
        f->at = 0;
    weft_status_t status = ops->broadcast_start(bare->transport, bare->groups[bucket->route], 0,
                                                bare->memory + f->at, bucket->bytes, &f->ops[f->count]);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rank %u: a bare broadcast of %u bytes could not be started: %s",
                         bare->program->rank, bucket->bytes, weft_status_text(status));
    f->count++;
    f->at += aligned(bucket->bytes);
    return WEFT_OK;
}

static weft_status_t test_all(const bench_bare_t *bare, flight_t *f, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(bare->transport);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        bool done = false;
        WEFT_TRY(ops->test(bare->transport, f->ops[i], &done, error));
        if (!done)
            f->ops[kept++] = f->ops[i];
    }
    f->count = kept;
    return WEFT_OK;
}

weft_status_t bench_bare_run(const bench_bare_t *bare, weft_error_t *error)
{
    flight_t f = {.count = 0};
    uint64_t deadline = weft_now_us() + bare->timeout_us;
    while (f.next < bare->program->num_buckets || f.count) {
        while (f.next < bare->program->num_buckets && f.count < MAX_IN_FLIGHT)
            WEFT_TRY(start_next(bare, &f, error));
        WEFT_TRY(test_all(bare, &f, error));
        if (weft_now_us() > deadline)
            return weft_fail(error, WEFT_ERR_TIMEOUT, "rank %u: bare broadcasts have not ended after %.1f s",
                             bare->program->rank, (double)bare->timeout_us / 1e6);
        if (f.count)
            sched_yield();
    }
    return WEFT_OK;
}
