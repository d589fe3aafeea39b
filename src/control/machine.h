/* What the four state machines of the protocol share: their configuration, the events they are given and the
 * actions they ask for.
 *
 * A machine is a plain struct. It does no I/O, has no clock and allocates nothing: time comes in with each
 * event, and all it wants done goes out through the sink it is handed. One process owns a trainer machine or
 * a rank machine, the leader machine too on TP rank 0 of a replica, and the coordinator where it runs; one
 * thread drives them all.
 *
 *     weft_rank_machine_t rank;
 *     weft_rank_machine_init(&rank, &config, my_rank, &guard);
 *     weft_sink_t sink = {carry_out, node, WEFT_LOG_INFO};
 *     weft_event_t event = {.type = WEFT_EVENT_TICK, .now_us = weft_now_us()};
 *     weft_rank_machine_handle(&rank, &event, &sink);
 *
 * Ranks are numbered trainers first, then rollout ranks replica by replica.
 */
#ifndef WEFT_CONTROL_MACHINE_H
#define WEFT_CONTROL_MACHINE_H

#include "src/control/message.h"

#define WEFT_CONTROL_MAX_RANKS    1024 /* trainers and rollout ranks together */
#define WEFT_CONTROL_MAX_REPLICAS 128
#define WEFT_CONTROL_MAX_TP       256

typedef struct weft_topology {
    uint32_t trainers, replicas, tp;
} weft_topology_t;

typedef struct weft_control_config {
    uint32_t struct_size;
    uint32_t epoch; /* of the session's beginning; a coordinator that comes back: the last one stored, if any */
    uint64_t incarnation; /* of this process: 1 if it is there when the session begins. One that comes later, in the place
                             of another or as a late replica, takes a number above all before it there, and joins.
                             The ranks of a replica, which is started as a whole, take the same number */
    bool rejoins;         /* coordinator: what is lost may come back, at a new epoch, for which every rank opens its
                             transports anew */
    weft_topology_t topology;
    uint32_t coordinator; /* the rank whose process runs it at first; a message with a higher term moves it. As many as there
                             are ranks: a process of its own, which has that number */
    uint32_t margin;      /* steps a rank may still start after ARM */
    uint64_t beat_us;    /* between two reports of an unchanged state, and between two repeats of a command */
    uint64_t dead_us;    /* silence after which a rank is dead */
    uint64_t idle_us;    /* without a step after which a rank is parked */
    uint64_t hello_us;   /* from a coordinator's start to every rank's first report */
    uint64_t publish_us; /* deadlines: from the first trainer's publish to the last's */
    uint64_t transfer_us; /* from BEGIN to every rank prepared */
    uint64_t drain_us;    /* from STOP to every rank drained */
    uint64_t commit_us;   /* from the last transfer to every replica applied */
} weft_control_config_t;

#define WEFT_CONTROL_CONFIG_INIT                                                                             \
    {                                                                                                        \
        .struct_size = sizeof(weft_control_config_t), .incarnation = 1, .margin = 4, .beat_us = 250000, .dead_us = 1500000,    \
        .idle_us = 20000, .hello_us = 10000000, .publish_us = 60000000, .transfer_us = 120000000,            \
        .drain_us = 30000000, .commit_us = 30000000,                                                         \
    }

/* Check every field. **Returns** WEFT_OK or WEFT_ERR_ARGUMENT naming the field. */
weft_status_t weft_control_config_check(const weft_control_config_t *config, weft_error_t *error);

static inline uint32_t weft_topology_ranks(const weft_topology_t *t)
{
    return t->trainers + t->replicas * t->tp;
}

/* Whether there is anybody of that number: a rank, or a coordinator next to them. */
static inline bool weft_control_knows(const weft_control_config_t *config, uint32_t number)
{
    return number < weft_topology_ranks(&config->topology) || number == config->coordinator;
}

static inline bool weft_topology_is_trainer(const weft_topology_t *t, uint32_t rank)
{
    return rank < t->trainers;
}

static inline uint32_t weft_topology_replica(const weft_topology_t *t, uint32_t rank)
{
    return (rank - t->trainers) / t->tp;
}

static inline uint32_t weft_topology_tp_rank(const weft_topology_t *t, uint32_t rank)
{
    return (rank - t->trainers) % t->tp;
}

/* The first rank of a replica; it is its leader. */
static inline uint32_t weft_topology_leader(const weft_topology_t *t, uint32_t replica)
{
    return t->trainers + replica * t->tp;
}

static inline bool weft_members_has(weft_members_t members, uint32_t replica)
{
    return (members.word[replica / 64] >> (replica % 64) & 1) != 0;
}

static inline void weft_members_add(weft_members_t *members, uint32_t replica)
{
    members->word[replica / 64] |= UINT64_C(1) << (replica % 64);
}

/* X(identifier, role that takes it, what happened). */
typedef enum weft_event_type {
    WEFT_EVENT_TICK, /* time has passed; every machine, at least every 20 ms while a version is on its way */
    WEFT_EVENT_MESSAGE, /* every machine: `message` has come; only to the machine of message->role */
    WEFT_EVENT_PUBLISH, /* trainer: the user publishes `version` with `content`; `supersedes`: for the one
                           before */
    WEFT_EVENT_LOAD,    /* rank: the user wants `version` loaded from disk, here and on every other rank */
    WEFT_EVENT_LEAVE,   /* rank: the user wants to take its replica out; FENCE says that it is */
    WEFT_EVENT_SENT,    /* trainer: every round of `version` has left, the memory may be written again */
    WEFT_EVENT_TRANSFER_DONE,    /* rank: `version` is staged whole, with `digest` */
    WEFT_EVENT_TRANSFER_REFUSED, /* trainer, rank: `version` cannot be used (status, text); rounds still go on
                                  */
    WEFT_EVENT_TRANSFER_FAILED,  /* trainer, rank: the transport failed, rounds cannot go on (status, text) */
    WEFT_EVENT_POSTED,  /* trainer, rank: answers REPORT_POSTED with the number of rounds posted in `round` */
    WEFT_EVENT_DRAINED, /* trainer, rank: answers STOP_TRANSFER_AT: every round below it is finished */
    WEFT_EVENT_SWAPPED, /* rank: `version` is live, weft_guard_swap_end was called; `step` is its at_step */
    WEFT_EVENT_SWAP_FAILED, /* rank: the swap of `version` failed, the weights are in an unknown state */
} weft_event_type_t;

typedef struct weft_event {
    weft_event_type_t type;
    uint32_t round;
    uint64_t now_us;
    uint64_t version;
    uint64_t step;
    weft_digest_t digest;
    weft_status_t status;
    const char *text;       /* may be NULL */
    weft_content_t content; /* PUBLISH only, with the next */
    bool supersedes;
    const weft_message_t *message; /* MESSAGE only */
} weft_event_t;

typedef enum weft_action_type {
    WEFT_ACTION_SEND, /* all: send `message` to message->to, this process too (`role` says which machine) */
    WEFT_ACTION_START_TRANSFER, /* trainer, rank: transfer `version` with the replicas in `members` */
    WEFT_ACTION_REPORT_POSTED,  /* trainer, rank: post no further round of `version`; answer with EVENT_POSTED
                                 */
    WEFT_ACTION_STOP_TRANSFER_AT, /* trainer, rank: post and finish the rounds below `round`, no others;
                                     answer with EVENT_DRAINED (at once if the transfer was complete) */
    WEFT_ACTION_ABORT_TRANSFER,   /* trainer, rank: break the transport of `version` off now, no answer */
    WEFT_ACTION_DISCARD_STAGE,    /* rank: forget what was staged for `version`; live weights stay */
    WEFT_ACTION_TRY_SWAP,   /* rank: a swap may be due: weft_guard_swap_begin, swap, weft_guard_swap_end; then
                               answer with EVENT_SWAPPED or EVENT_SWAP_FAILED (so does a swap in step_begin).
                               Repeated at each TICK until then; the only action that may be dropped */
    WEFT_ACTION_WAKE_STEPS, /* rank: the guard has changed: wake a step_begin that waits on it */
    WEFT_ACTION_NOTIFY,     /* trainer, rank that loads: tell the user `outcome` of `version` with status and text */
    WEFT_ACTION_NOTE_NEWEST, /* rank: some replica serves `version`; one that serves less is stale */
    WEFT_ACTION_FENCE,      /* trainer, rank: lost (status, text): the guard is fenced; end the session */
    WEFT_ACTION_ENTER_EPOCH, /* trainer, rank: from the next transfer on, use transports opened for `epoch` */
    WEFT_ACTION_STORE_TERM, /* coordinator: keep `term` and `epoch` where a restart finds them (optional) */
    WEFT_ACTION_LOG,        /* all: one line in `text`, at `level` */
} weft_action_type_t;

typedef struct weft_action {
    weft_action_type_t type;
    uint32_t round;
    uint64_t version;
    uint64_t term;
    uint32_t epoch;
    weft_members_t members;
    const weft_content_t *content; /* START_TRANSFER only; valid during the call */
    weft_outcome_t outcome;
    weft_status_t status;
    weft_log_level_t level;
    const char *text;              /* "" when there is none; valid during the call */
    const weft_message_t *message; /* SEND only; valid during the call */
} weft_action_t;

/* Where actions go. Called while a machine handles an event: it must queue what would lead to another event,
 * never call a machine. */
typedef struct weft_sink {
    void (*emit)(void *user, const weft_action_t *action);
    void *user;
    weft_log_level_t log_level; /* lines above it are not even formatted */
} weft_sink_t;

/* Helpers of the machines. */
void weft_emit(const weft_sink_t *sink, weft_action_type_t type, uint64_t version);
void weft_emit_epoch(const weft_sink_t *sink, uint32_t epoch);

/* True when the coordinator means this life of the process, or says WELCOME before it has heard of any. */
bool weft_is_for_life(const weft_message_t *in, uint64_t incarnation);

/* True for a WELCOME that takes one who is at `epoch`, or outside, into the epoch it names. */
bool weft_admits(const weft_message_t *in, uint32_t epoch, bool joins);

void weft_emit_log(const weft_sink_t *sink, weft_log_level_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void weft_emit_send(const weft_sink_t *sink, const weft_message_t *message);

/* Copy `text` (NULL counts as "") into a field of a message or a machine, cut to its size. */
void weft_copy_text(char out[WEFT_MESSAGE_TEXT_BYTES], const char *text);

#endif
