/* A deterministic simulator of the commit protocol: the real machines and the real guard, a virtual clock, a
 * network that loses, repeats, delays and reorders, a data path of rounds that hang when a participant is
 * missing, steps that are an all-reduce, and processes that crash, stall and come back. One seed is one
 * schedule.
 *
 *     sim --seed 1 --count 100000            run schedules, print what they covered
 *     sim --count 1000000 --jobs 0           the same on every core
 *     sim --seed 4711 --verbose              replay one
 *     sim --deaths --seed 1 --count 50       the coordinator, and one other, dies after each of its actions
 *     sim --mutate ignore-ballot --count N   break a rule; exit 0 when a schedule notices
 */
#ifndef WEFT_TESTS_SIM_H
#define WEFT_TESTS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "src/control/coordinator.h"
#include "src/control/leader_machine.h"
#include "src/control/mutate.h"
#include "src/control/rank_machine.h"
#include "src/control/trainer_machine.h"
#include "src/swap/guard.h"
#include "src/swap/window.h"

enum {
    SIM_MAX_TRAINERS = 3,
    SIM_MAX_REPLICAS = 3,
    SIM_MAX_TP = 4,
    SIM_MAX_RANKS = SIM_MAX_TRAINERS + SIM_MAX_REPLICAS * SIM_MAX_TP,
    SIM_COORDINATOR = SIM_MAX_RANKS, /* node of the coordinator, a process of its own */
    SIM_MAX_NODES = SIM_MAX_RANKS + 1,
    SIM_MAX_VERSIONS = 4, /* the last goes over when all trouble is over */
    SIM_MAX_ROUNDS = 6,
    SIM_STEP_WINDOW = 4096,
    SIM_LAYERS = 3,
    SIM_DENSITY = 35,
};

#define SIM_MS          1000 /* microseconds */
#define SIM_TICK_US     (40 * SIM_MS)
#define SIM_FIRST_EPOCH 7

/* X(identifier, name): kinds of trouble, for --faults. */
#define SIM_FAULT_LIST(X)                                                                                    \
    X(NETWORK, "network") /* loss, repetition, long delays */                                                \
    X(CRASH, "crash")     /* a rank dies */                                                                  \
    X(STALL, "stall")     /* a process stands still and comes back */                                        \
    X(RESTART, "restart") /* the coordinator dies; a new one comes */                                        \
    X(REFUSE, "refuse")   /* NaN on some rank at some round, a transport failure, a failed swap */           \
    X(DIGEST, "digest")   /* a replica holds other bytes */                                                  \
    X(ORDER, "order")     /* trainers publish late, or leave versions out */                                 \
    X(CUT, "cut")         /* half of the processes do not hear the other half for a while */                 \
    X(JOIN, "join")       /* the dead come back, replicas come late and leave */

enum {
#define X(id, name) SIM_FAULT_##id##_BIT,
    SIM_FAULT_LIST(X)
#undef X
        SIM_FAULT_COUNT,
};
enum {
#define X(id, name) SIM_FAULT_##id = 1 << SIM_FAULT_##id##_BIT,
    SIM_FAULT_LIST(X)
#undef X
        SIM_FAULT_ALL = (1 << SIM_FAULT_COUNT) - 1,
};

/* X(identifier): what a run of schedules should have met; the run fails if it has not. */
#define SIM_COVERAGE_LIST(X)                                                                                 \
    X(version_applied)                                                                                       \
    X(version_partial)                                                                                       \
    X(version_failed)                                                                                        \
    X(version_released) X(commit) X(lowered_commit) X(parked_commit) X(freeze_lost_to_swap)                  \
        X(frozen_beside_applied) X(step_at_limit) X(swap_by_step) X(swap_by_progress)                        \
            X(first_version_parked) X(stopped_at_round) X(stopped_at_zero) X(dropped_for_digest)             \
                X(transfer_aborted) X(replica_lost) X(rank_fenced) X(zombie_fenced) X(coordinator_restarted) \
                    X(restarted_without_storage) X(reappointed) X(recovered_stop) X(rank_crashed)            \
                        X(leader_crashed) X(trainer_crashed) X(second_version_queued) X(order_refused)       \
                            X(superseded) X(superseded_unbegun) X(partial_for_later) X(subset_applied)       \
                                X(subset_without_base) X(contents_differ) X(timed_out) X(message_lost)       \
                                    X(message_repeated) X(message_very_late) X(applied_beside_aborted) X(swap_failed)             \
                                        X(ranks_two_steps_apart) X(load_applied) X(load_failed) X(load_refused)          \
                                            X(load_stopped) X(load_order_refused) X(load_beside_publish)     \
                                                X(load_after_break) X(load_carried_on) X(publish_below_load) \
                                                    X(load_number_published) X(partitioned) X(reborn) X(admitted) X(rank_admitted_twice)     \
                                                        X(left) X(returned) X(late) X(epoch_after_break) X(admitted_under_new_coordinator)               \
                                                        X(commit_repeated) X(write_waited) X(tainted) X(mended) X(subset_over_tainted) X(stopped_unwritten) X(resumed) X(resume_refused) X(probe_published) X(probe_loaded)

typedef struct sim_coverage {
#define X(id) uint64_t id;
    SIM_COVERAGE_LIST(X)
#undef X
} sim_coverage_t;

typedef struct sim_options {
    uint64_t seed;
    unsigned faults;
    uint32_t density; /* each of `faults` is in a schedule with so many percent; SIM_DENSITY unless told */
    bool dies;           /* one process dies right after an action of its own, and that is all that goes wrong but `faults` */
    uint32_t dies_node;  /* SIM_COORDINATOR, which then comes back; else a rank, counted round */
    uint64_t dies_after; /* of its actions */
    FILE *trace; /* every event is written to it; NULL: none */
} sim_options_t;

/* Run one schedule. **Returns** NULL when every property held, else what was violated (static storage). */
const char *sim_run(const sim_options_t *options, sim_coverage_t *coverage);

/* Run one schedule without a death. **Returns** how many actions `options->dies_node` carries out. */
uint64_t sim_count_actions(const sim_options_t *options);

#endif
