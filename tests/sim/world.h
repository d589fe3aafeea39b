/* The state of one schedule, shared by the simulator's files. */
#ifndef WEFT_TESTS_SIM_WORLD_H
#define WEFT_TESTS_SIM_WORLD_H

#include "tests/sim/sim.h"

typedef enum sim_kind {
    SIM_TICK,     /* node */
    SIM_MESSAGE,  /* node, message */
    SIM_DATA,     /* node: the data path moves on */
    SIM_STEP,     /* node: the step thread moves on */
    SIM_TRY_SWAP, /* node: the progress thread looks */
    SIM_SWAP_END, /* node: the swap that it claimed is finished */
    SIM_INJECT,   /* node, message: an event of the data path or the guard reaches the control thread */
    SIM_PUBLISH,  /* node */
    SIM_LOAD,     /* node: the user of a rollout rank asks for its next load */
    SIM_STALL,    /* node stands still for `argument` */
    SIM_CRASH,    /* node */
    SIM_RESTART,  /* the coordinator comes back */
    SIM_BIRTH,    /* node comes back as another process, if `argument` is still the generation of its replica */
    SIM_LEAVE,    /* node: its user takes the replica out, for good if `argument` */
    SIM_CUT,      /* half of the nodes do not hear the other half for `argument` */
    SIM_TRAFFIC,  /* a replica (node) gets requests: more steps to run */
    SIM_INSPECT,  /* is everything settled? */
} sim_kind_t;

/* An event for a machine that waits in the queue. */
typedef struct sim_injection {
    weft_event_type_t type;
    uint64_t version;
    uint64_t step;
    uint32_t round;
    weft_digest_t digest;
    weft_status_t status;
} sim_injection_t;

typedef struct sim_entry {
    uint64_t key; /* when, in microseconds, above SIM_ORDER_BITS of age, which break ties */
    uint64_t argument;
    uint16_t node;
    uint16_t life; /* of the node, which what a process has begun does not outlive */
    uint16_t kind;
    uint16_t body; /* index into bodies, for MESSAGE and INJECT */
} sim_entry_t;

enum { SIM_MAX_QUEUE = 16384, SIM_MAX_BODIES = 8192, SIM_NO_BODY = 0xffff, SIM_ORDER_BITS = 24 };

typedef union sim_body {
    weft_message_t message;
    sim_injection_t injection;
    uint16_t next_free;
} sim_body_t;

/* What one participant of a transfer has done. */
typedef struct sim_transfer {
    bool started, frozen, aborted, finished, stop_known, load;
    bool written; /* in place: the engine has paused, and bytes of it are over the live ones */
    bool unread;  /* in place: rounds are finished for the sake of others, and written nowhere */
    uint32_t posted, completed, stop_round;
    weft_members_t members;
} sim_transfer_t;

typedef struct sim_node {
    uint64_t incarnation; /* of its process; kept over its lives, as the next two are */
    uint16_t life;
    uint32_t generation; /* of its replica, or of a trainer, when this life began */
    uint32_t epoch;      /* the last that any life of it was in */
    bool alive;
    bool ever_troubled; /* crashed or stalled: whatever is said of its replica may be true */
    uint64_t stalled_until_us;
    uint64_t actions, crash_after; /* crash right after that many actions; 0: not so */
    uint64_t transfer_version;     /* the version the data path works on, 0: none */
    weft_trainer_machine_t trainer;
    weft_rank_machine_t rank;
    weft_leader_machine_t leader;
    weft_guard_t guard;
    /* the step thread */
    bool step_open, swapping, swap_fails, fence_told;
    bool rests; /* the step thread has nothing to do until its replica gets requests */
    uint64_t step, step_version, swap_version, swap_at;
    weft_window_t window;
    uint64_t given_up; /* the last version that its machine has discarded */
    bool mixed;        /* its live weights are of two versions */
    uint64_t entered_us; /* when this life entered `epoch`; 0: not */
    uint64_t served; /* what its last swap made live */
    uint64_t staged[SIM_MAX_VERSIONS + 1]; /* digest staged for each version index; 0: none */
    bool discarded[SIM_MAX_VERSIONS + 1];
    uint32_t layers[SIM_MAX_VERSIONS + 1][SIM_LAYERS]; /* staged for each version: who wrote each layer */
    /* the user */
    uint32_t published;
    weft_outcome_t outcome[SIM_MAX_VERSIONS + 1];
    weft_status_t outcome_status[SIM_MAX_VERSIONS + 1];
    bool asked[SIM_MAX_VERSIONS + 1]; /* a rank: to load it */
    uint64_t ready_us;                /* since when it could go on to the next version */
} sim_node_t;

typedef struct sim_replica {
    uint64_t target;                        /* steps that the requests so far ask for */
    uint64_t step_version[SIM_STEP_WINDOW]; /* by step: the version its first rank began it on */
    uint64_t highest_step;
    uint64_t committed;      /* the highest version that a rank of this generation has swapped to */
    uint32_t generation;     /* rises when the engine is started anew, all its ranks with it */
    uint32_t run_generation; /* whose steps are counted */
    uint32_t begun_generation; /* the latest that has begun a step */
    bool pausing;            /* in place: its ranks rest until a version is live on all, or all resume */
    uint64_t paused_on;      /* the version that it served then */
    bool away;               /* it has left, and does not come back */
} sim_replica_t;

typedef struct sim_world {
    sim_options_t options;
    sim_coverage_t *coverage;
    uint64_t random;
    uint64_t now_us;
    const char *failure;
    char failure_text[512];
    weft_control_config_t config;
    uint32_t trainers, replicas, tp, ranks;
    unsigned faults;
    uint32_t loss_percent, repeat_percent, slow_percent;
    bool asynchronous; /* step_end does not wait for the all-reduce */
    uint64_t first_step;
    uint64_t heal_us; /* from here on no fault, no loss */
    uint64_t traffic_until_us;
    uint32_t versions;                      /* published in this schedule */
    uint64_t version[SIM_MAX_VERSIONS + 1]; /* [1..versions] */
    uint32_t rounds[SIM_MAX_VERSIONS + 1];
    bool subset[SIM_MAX_VERSIONS + 1][SIM_LAYERS]; /* which layers it carries */
    uint32_t origin[SIM_MAX_VERSIONS + 1]
                   [SIM_LAYERS]; /* the version that wrote each layer, as trainers have it */
    bool whole[SIM_MAX_VERSIONS + 1], supersedes[SIM_MAX_VERSIONS + 1];
    bool load[SIM_MAX_VERSIONS + 1];   /* from disk, by the ranks */
    bool waited[SIM_MAX_VERSIONS + 1]; /* whoever makes it waits for the version before, not for ever */
    uint32_t refuse_node[SIM_MAX_VERSIONS + 1], refuse_round[SIM_MAX_VERSIONS + 1];
    uint32_t fail_node[SIM_MAX_VERSIONS + 1];
    uint32_t digest_node[SIM_MAX_VERSIONS + 1];
    sim_transfer_t transfer[SIM_MAX_VERSIONS + 1][SIM_MAX_RANKS];
    bool coordinator_gone; /* for good */
    bool storage;
    uint64_t stored_term;
    uint32_t stored_epoch;
    uint64_t restarted_us; /* when the coordinator last came back */
    bool rejoins;
    bool in_place; /* versions are written over what serves, while the engine pauses */
    uint32_t births; /* to come */
    uint32_t cut;    /* bits of nodes: those on the other side */
    uint64_t cut_until_us;
    uint64_t newest_served; /* by any rank so far */
    uint32_t probe; /* the version after all trouble that must go through; 0: not yet published */
    uint64_t probe_us;
    uint32_t coordinator_starts;
    weft_coordinator_t *coordinator;
    sim_node_t node[SIM_MAX_NODES];
    sim_replica_t replica[SIM_MAX_REPLICAS];
    sim_entry_t queue[SIM_MAX_QUEUE];
    size_t queued;
    uint64_t order;
    sim_body_t body[SIM_MAX_BODIES];
    uint16_t free_body;
    uint16_t used_bodies;
} sim_world_t;

/* queue.c */
uint64_t sim_random(sim_world_t *w, uint64_t below);
bool sim_chance(sim_world_t *w, uint32_t percent);
void sim_schedule(sim_world_t *w, uint64_t delay_us, sim_kind_t kind, uint32_t node, uint64_t argument);
uint16_t sim_take_body(sim_world_t *w);
void sim_return_body(sim_world_t *w, uint16_t body);
void sim_push(sim_world_t *w, uint64_t at_us, sim_entry_t entry);
bool sim_pop(sim_world_t *w, sim_entry_t *entry);
void sim_inject(sim_world_t *w, uint32_t node, uint64_t delay_us, sim_injection_t injection);
void sim_fail(sim_world_t *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_say(sim_world_t *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

static inline bool sim_is_trainer(const sim_world_t *w, uint32_t node)
{
    return node < w->trainers;
}

static inline uint32_t sim_replica_of(const sim_world_t *w, uint32_t node)
{
    return (node - w->trainers) / w->tp;
}

static inline uint32_t sim_first_of(const sim_world_t *w, uint32_t replica)
{
    return w->trainers + replica * w->tp;
}

static inline uint64_t sim_time_of(const sim_entry_t *entry)
{
    return entry->key >> SIM_ORDER_BITS;
}

static inline bool sim_leads(const sim_world_t *w, uint32_t n)
{
    return n < w->ranks && n >= w->trainers && (n - w->trainers) % w->tp == 0;
}

/* Index of a version in this schedule; 0 for one it does not know. */
uint32_t sim_index(const sim_world_t *w, uint64_t version);

/* data_path.c */
void sim_maybe_refuse(sim_world_t *w, uint32_t index, uint32_t node);
void sim_finish_transfer(sim_world_t *w, uint32_t index, uint32_t node);
void sim_start_transfer(sim_world_t *w, uint32_t node, const weft_action_t *action);
void sim_report_posted(sim_world_t *w, uint32_t node, uint64_t version);
void sim_stop_transfer_at(sim_world_t *w, uint32_t node, uint64_t version, uint32_t round);
void sim_abort_transfer(sim_world_t *w, uint32_t node, uint64_t version);
void sim_move_data(sim_world_t *w, uint32_t node);

/* lives.c */
void sim_crash(sim_world_t *w, uint32_t node);
void sim_call_back(sim_world_t *w, uint32_t node, uint64_t within_us);
void sim_bear(sim_world_t *w, uint32_t node, uint64_t generation);
void sim_leave(sim_world_t *w, uint32_t node, bool for_good);
void sim_cut(sim_world_t *w, uint64_t duration_us);
void sim_enter_epoch(sim_world_t *w, uint32_t node, uint32_t epoch);
bool sim_hears(const sim_world_t *w, uint32_t node, uint32_t other);
void sim_start_node(sim_world_t *w, uint32_t node);

/* set_up.c */
uint32_t sim_dying_node(const sim_world_t *w);
void sim_set_up(sim_world_t *w, const sim_options_t *options, sim_coverage_t *coverage);

/* in_place.c */
bool sim_may_step(sim_world_t *w, uint32_t node);
void sim_rest(sim_world_t *w, uint32_t node);
bool sim_may_write(sim_world_t *w, uint32_t node, uint32_t index);
bool sim_pause_or_resume(sim_world_t *w, uint32_t replica);

/* probe.c */
bool sim_probe(sim_world_t *w); /* false: nobody is left to take a version */
void sim_check_probe(sim_world_t *w);

/* loads.c */
void sim_load(sim_world_t *w, uint32_t node);
void sim_hear_load(sim_world_t *w, uint32_t node, const weft_action_t *action);
bool sim_is_early(sim_world_t *w, uint32_t node, uint32_t index); /* for its version */
void sim_move_load(sim_world_t *w, uint32_t node, uint32_t index);
bool sim_loads_are_over(const sim_world_t *w, uint32_t node);

/* sim.c */
void sim_give(sim_world_t *w, uint32_t node, weft_role_t role, const weft_event_t *event);

/* steps.c */
void sim_move_step(sim_world_t *w, uint32_t node);
void sim_try_swap(sim_world_t *w, uint32_t node, bool by_step);
void sim_end_swap(sim_world_t *w, uint32_t node);
void sim_add_traffic(sim_world_t *w, uint32_t replica);

/* checks.c */
void sim_check_begun(sim_world_t *w, uint32_t node);
void sim_check_swapped(sim_world_t *w, uint32_t node, uint64_t version);
void sim_check_discarded(sim_world_t *w, uint32_t node, uint64_t version);
void sim_check_newest(sim_world_t *w, uint32_t node, uint64_t version);
void sim_check_outcome(sim_world_t *w, uint32_t node, const weft_action_t *action);
bool sim_is_settled(sim_world_t *w);
void sim_check_end(sim_world_t *w);

#endif
