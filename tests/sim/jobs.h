/* Run many schedules, on several processes.
 *
 *     const char *failure = sim_run_many(&options, 1000000, 8, &coverage, &runs);
 */
#ifndef WEFT_TESTS_SIM_JOBS_H
#define WEFT_TESTS_SIM_JOBS_H

#include "tests/sim/sim.h"

/* Run the `count` schedules from options->seed on with `jobs` processes (1 to SIM_MAX_JOBS; 1: in this one). **Returns** NULL when
 * every one held; else what the one with the lowest seed violated, which options->seed then is (static storage). *runs is how many
 * one process would have run, and `coverage` has what was met added to it. */
enum { SIM_MAX_JOBS = 256 };
const char *sim_run_many(sim_options_t *options, uint64_t count, uint32_t jobs, sim_coverage_t *coverage, uint64_t *runs);

#endif
