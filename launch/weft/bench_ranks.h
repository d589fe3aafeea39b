/* Benchmarks under mpirun: the ranks, and the broadcasts that an update is measured against. */
#ifndef WEFT_LAUNCH_BENCH_RANKS_H
#define WEFT_LAUNCH_BENCH_RANKS_H

#include "launch/weft/bench.h"
#include "launch/weft/run.h"
#include "src/plan/program.h"
#include "transport/transport.h"

typedef struct bench_world {
    run_job_t job;       /* its transport, queue and session are run's */
    const char *command; /* "bench sync" */
    bench_report_t report;
} bench_world_t;

/* Start and end MPI. */
void bench_world_begin(bench_world_t *world, const char *command);
void bench_world_end(bench_world_t *world);

/* Whether any rank stops with a code of 0 or more; then all leave with the first such rank's, and *speaks
 * says whether that is this one. Collective. */
bool bench_world_stops(const bench_world_t *world, int *code, bool *speaks);

/* The same for a status: the first rank that failed says why. Collective. */
bool bench_world_failed(const bench_world_t *world, weft_status_t status, const weft_error_t *error,
                        int *code);

/* End the whole job if this rank failed: the others may be waiting for it. */
void bench_world_check(const bench_world_t *world, weft_status_t status, const weft_error_t *error);

/* Replace each value by the largest of all ranks. Collective. */
void bench_world_most(const bench_world_t *world, double *values, int count);

/* Make model and plan of the job; check that as many ranks run as it has. */
weft_status_t bench_world_plan(bench_world_t *world, const char *shape, weft_error_t *error);

/* Derive what this rank does in the plan. */
weft_status_t bench_world_program(const bench_world_t *world, weft_outputs_t *outputs,
                                  weft_program_t **program, weft_error_t *error);

/* Open the report; rank 0 speaks. */
weft_status_t bench_world_report(bench_world_t *world, int argc, char **argv, weft_error_t *error);

/* ---- bare broadcasts ---- */

/* All buckets of a rank by their routes and in their order, from and to one run of memory: no packing, no
 * quantizer, no control. */
typedef struct bench_bare {
    weft_transport_t *transport;
    const weft_program_t *program;
    weft_group_t *const *groups; /* by route */
    uint8_t *memory; /* taken round and round where it is too small for all: a source only reads it */
    size_t bytes;
    uint64_t timeout_us;
} bench_bare_t;

/* Where bucket `index` lies, with all of them side by side; its end is the next one's place. */
size_t bench_bare_place(const weft_program_t *program, size_t index);

/* Broadcast everything once. Blocks. */
weft_status_t bench_bare_run(const bench_bare_t *bare, weft_error_t *error);

/* Wait for one operation. */
weft_status_t bench_finish(weft_transport_t *transport, weft_op_t *op, uint64_t timeout_us,
                           weft_error_t *error);

#endif
