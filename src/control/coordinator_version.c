/* In: views of all peers. Out: the states of the version and of each replica in it, and the outcome.
 * Invariant: a replica is AUTHORIZED only in TRANSFER, and a stop speaks only to replicas that are RECEIVING,
 * so no version is both committed and stopped on one replica. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>
#include <string.h>

#include "src/control/mutate.h"

static bool has_posted(const weft_coordinator_t *c, uint32_t p)
{
    return weft_view_holds(c, &c->peer[p]) && (c->peer[p].flags & WEFT_FLAG_POSTED) != 0;
}

/* True for those a stop speaks to. */
static bool can_be_stopped(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) ? !c->peer[p].dead && !c->content.load
                                 : weft_replica_of(c, p) == WEFT_REPLICA_RECEIVING;
}

/* ---- transitions of the version ---- */

void weft_coordinator_begin_stop(weft_coordinator_t *c, const weft_sink_t *sink)
{
    c->deadline_us = c->now_us + c->config.drain_us;
    weft_coordinator_set_state(c, WEFT_COORDINATOR_STOPPING, sink);
}

static void mark_broken(weft_coordinator_t *c, const char *text)
{
    if (!c->broken)
        weft_copy_text(c->broken_text, text);
    c->broken = true;
}

/* The drain cannot complete without the dead: transports are aborted, and with them the session's. A load
 * uses none. */
void weft_coordinator_break_off(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (!c->content.load)
        mark_broken(c, c->reason_text);
    weft_coordinator_set_state(c, WEFT_COORDINATOR_BREAKING, sink);
}

static bool transfer_is_open(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (weft_peer_takes_part(c, p) && !weft_peer_is_through(c, p))
            return true;
    return false;
}

static bool in_flight(const weft_coordinator_t *c)
{
    return c->state == WEFT_COORDINATOR_TRANSFER || c->state == WEFT_COORDINATOR_STOPPING ||
           c->state == WEFT_COORDINATOR_DRAINING;
}

bool weft_coordinator_needs_everyone(const weft_coordinator_t *c)
{
    if (c->content.load) /* no rank waits for another in it */
        return false;
    bool stopping = c->state == WEFT_COORDINATOR_STOPPING || c->state == WEFT_COORDINATOR_DRAINING;
    return stopping || (c->state == WEFT_COORDINATOR_TRANSFER && transfer_is_open(c));
}

void weft_coordinator_lose(weft_coordinator_t *c, uint32_t p, bool silent, weft_status_t status,
                           const char *what, const weft_sink_t *sink)
{
    bool torn = weft_peer_takes_part(c, p) && weft_coordinator_needs_everyone(c);
    char text[WEFT_MESSAGE_TEXT_BYTES + 32];
    snprintf(text, sizeof text, "%s %u %s", weft_peer_kind(c, p), p, what);
    weft_emit_log(sink, WEFT_LOG_WARNING, "coordinator: %s", text);
    bool trainer = weft_is_trainer(c, p);
    c->peer[p].dead = silent || trainer; /* a rank that is merely fenced still talks */
    if (weft_peer_takes_part(c, p))
        weft_coordinator_note_reason(c, status == WEFT_OK ? WEFT_ERR_PEER_LOST : status, text);
    if (trainer)
        mark_broken(c, text);
    else
        weft_coordinator_set_replica(c, weft_topology_replica(&c->config.topology, p), WEFT_REPLICA_LOST,
                                     sink);
    if (torn)
        weft_coordinator_break_off(c, sink);
}

/* ---- the outcome ---- */

static void record_outcome(weft_coordinator_t *c, uint64_t version, bool load, weft_outcome_t outcome,
                           weft_status_t status, const char *text, const weft_sink_t *sink)
{
    c->done = version;
    c->outcome = outcome;
    c->outcome_of_load = load;
    c->outcome_status = status;
    weft_copy_text(c->outcome_text, text);
    weft_emit_log(sink, outcome == WEFT_OUTCOME_APPLIED ? WEFT_LOG_INFO : WEFT_LOG_WARNING,
                  "coordinator: version %llu: %s %s", (unsigned long long)version, weft_outcome_name(outcome),
                  c->outcome_text);
}

static void finish(weft_coordinator_t *c, const weft_sink_t *sink)
{
    uint32_t members =
        (uint32_t)(__builtin_popcountll(c->members.word[0]) + __builtin_popcountll(c->members.word[1]));
    uint32_t applied = weft_coordinator_count_replicas(c, WEFT_REPLICA_APPLIED);
    if (applied == members) {
        record_outcome(c, c->version, c->content.load, WEFT_OUTCOME_APPLIED, WEFT_OK, "", sink);
    } else {
        char text[WEFT_MESSAGE_TEXT_BYTES + 64];
        weft_coordinator_note_reason(c, WEFT_ERR_ABORTED, "an earlier coordinator aborted it");
        snprintf(text, sizeof text, "%u of %u replicas serve it; %s", applied, members, c->reason_text);
        record_outcome(c, c->version, c->content.load,
                       applied > 0 ? WEFT_OUTCOME_PARTIAL : WEFT_OUTCOME_FAILED, c->reason, text, sink);
    }
    weft_coordinator_set_state(c, WEFT_COORDINATOR_IDLE, sink);
}

static bool is_settled(const weft_coordinator_t *c, uint32_t p)
{
    return weft_replica_of(c, p) != WEFT_REPLICA_AUTHORIZED || c->peer[p].done >= c->version;
}

static bool is_rank(const weft_coordinator_t *c, uint32_t p)
{
    return !weft_is_trainer(c, p);
}

static bool all_trainers_through(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->config.topology.trainers; p++)
        if (!c->peer[p].dead && weft_peer_takes_part(c, p) && !weft_peer_is_through(c, p))
            return false;
    return true;
}

/* Once nothing is on the wire any more, replicas that commit have until the deadline. One that is late goes
 * on committing; the trainers are told that it is. */
static void finish_if_over(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c))
        return;
    if (c->commit_deadline_us == 0)
        c->commit_deadline_us = c->now_us + c->config.commit_us;
    bool settled = weft_coordinator_count_replicas(c, WEFT_REPLICA_AUTHORIZED) +
                       weft_coordinator_count_replicas(c, WEFT_REPLICA_DROPPED) ==
                   0;
    bool late = c->now_us >= c->commit_deadline_us;
    if (late && !settled) {
        c->reason = WEFT_OK; /* that some may yet serve it matters more than why others never will */
        weft_coordinator_note_missing(c, "not applied by its deadline, and may yet be", is_rank, is_settled);
    }
    if (settled || late)
        finish(c, sink);
}

/* ---- beginning ---- */

static bool replicas_are_idle(const weft_coordinator_t *c)
{
    for (uint32_t p = c->config.topology.trainers; p < c->ranks; p++)
        if (weft_replica_of(c, p) != WEFT_REPLICA_LOST && c->peer[p].state != WEFT_RANK_IDLE)
            return false;
    return true;
}

/* The versions at the head of the trainers' queues, or those that ranks ask to load. */
typedef struct heads {
    uint64_t lowest, highest;
    uint32_t count, live, skipped_by;
    bool load;
} heads_t;

static void look_at_head(heads_t *heads, uint32_t p, uint64_t version)
{
    heads->count++;
    if (version > heads->highest) {
        heads->highest = version;
        heads->skipped_by = p;
    }
    if (version < heads->lowest)
        heads->lowest = version;
}

static heads_t look_at_heads(const weft_coordinator_t *c)
{
    heads_t heads = {.lowest = UINT64_MAX};
    for (uint32_t p = 0; p < c->config.topology.trainers; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        heads.live += !view->dead;
        if (!view->dead && view->state == WEFT_TRAINER_PUBLISHED && view->version > c->done)
            look_at_head(&heads, p, view->version);
    }
    return heads;
}

static heads_t look_at_loads(const weft_coordinator_t *c)
{
    heads_t heads = {.lowest = UINT64_MAX, .load = true};
    for (uint32_t p = c->config.topology.trainers; p < c->ranks; p++) {
        if (weft_replica_of(c, p) == WEFT_REPLICA_LOST)
            continue;
        heads.live++;
        if (c->peer[p].wants > c->done)
            look_at_head(&heads, p, c->peer[p].wants);
    }
    return heads;
}

/* What comes first: the lower number; of the same the one that nothing lacks, which the other then hears of.
 */
static heads_t first_heads(const weft_coordinator_t *c)
{
    heads_t published = look_at_heads(c), loads = look_at_loads(c);
    bool whole = loads.count == loads.live || published.count < published.live;
    if (loads.count != 0 && (loads.lowest < published.lowest || (loads.lowest == published.lowest && whole)))
        return loads;
    return published;
}

static uint32_t first_living_trainer(const weft_coordinator_t *c)
{
    uint32_t p = 0;
    while (p + 1 < c->config.topology.trainers && c->peer[p].dead)
        p++;
    return p;
}

static void begin(weft_coordinator_t *c, uint64_t version, weft_content_t content, const weft_sink_t *sink)
{
    c->version = version;
    c->content = content;
    c->members = (weft_members_t){0};
    for (uint32_t r = 0; r < c->config.topology.replicas; r++) {
        if (c->replica[r] == WEFT_REPLICA_LOST)
            continue;
        weft_members_add(&c->members, r);
        weft_coordinator_set_replica(c, r, WEFT_REPLICA_IDLE, sink);
        weft_coordinator_set_replica(c, r, WEFT_REPLICA_RECEIVING, sink);
    }
    c->recovered = c->stop_decided = false;
    c->reason = WEFT_OK;
    c->reason_text[0] = '\0';
    memset(c->digest_known, 0, sizeof c->digest_known);
    c->deadline_us = c->now_us + c->config.transfer_us;
    c->commit_deadline_us = c->waiting_version = 0;
    weft_coordinator_set_state(c, WEFT_COORDINATOR_TRANSFER, sink);
}

static bool has_published(const weft_coordinator_t *c, uint32_t p)
{
    return c->peer[p].state == WEFT_TRAINER_PUBLISHED && c->peer[p].version == c->waiting_version;
}

static bool rank_is_idle(const weft_coordinator_t *c, uint32_t p)
{
    return weft_replica_of(c, p) == WEFT_REPLICA_LOST || c->peer[p].state == WEFT_RANK_IDLE;
}

static bool is_idle(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) ? has_published(c, p) : rank_is_idle(c, p);
}

static bool is_idle_and_asks(const weft_coordinator_t *c, uint32_t p)
{
    return rank_is_idle(c, p) &&
           (weft_replica_of(c, p) == WEFT_REPLICA_LOST || c->peer[p].wants == c->waiting_version);
}

static void refuse(weft_coordinator_t *c, const heads_t *heads, weft_status_t status, const char *text,
                   const weft_sink_t *sink)
{
    c->waiting_version = 0;
    record_outcome(c, heads->lowest, heads->load, WEFT_OUTCOME_FAILED, status, text, sink);
}

static bool any_peer(const weft_coordinator_t *c, uint32_t p)
{
    (void)c, (void)p;
    return true;
}

static bool any_rank(const weft_coordinator_t *c, uint32_t p)
{
    return !weft_is_trainer(c, p);
}

static void wait_for_rest(weft_coordinator_t *c, const heads_t *heads, const weft_sink_t *sink)
{
    if (c->waiting_version != heads->lowest) {
        c->waiting_version = heads->lowest;
        c->waiting_until_us = c->now_us + c->config.publish_us;
    }
    if (c->now_us < c->waiting_until_us)
        return;
    c->reason = WEFT_OK;
    weft_coordinator_note_missing(c, "not begun by its deadline, for want of",
                                  heads->load ? any_rank : any_peer,
                                  heads->load ? is_idle_and_asks : is_idle);
    refuse(c, heads, c->reason, c->reason_text, sink);
}

static bool any_replica_left(const weft_coordinator_t *c)
{
    for (uint32_t r = 0; r < c->config.topology.replicas; r++)
        if (c->replica[r] != WEFT_REPLICA_LOST)
            return true;
    return false;
}

/* ---- why a version that all have published is not begun ---- */

/* **Returns** true when a trainer publishes other layers, or over another version, than the first. */
static bool differs_in_content(weft_coordinator_t *c, const heads_t *heads, const weft_sink_t *sink)
{
    uint32_t first = first_living_trainer(c);
    const weft_content_t *expected = &c->peer[first].content;
    for (uint32_t p = first + 1; p < c->config.topology.trainers; p++) {
        const weft_content_t *found = &c->peer[p].content;
        if (c->peer[p].dead || weft_content_equal(found, expected))
            continue;
        char text[WEFT_MESSAGE_TEXT_BYTES];
        snprintf(text, sizeof text,
                 "trainer %u published layers \"%.40s\" over version %llu, trainer %u \"%.40s\" over %llu: "
                 "name the same",
                 p, found->subset, (unsigned long long)found->base, first, expected->subset,
                 (unsigned long long)expected->base);
        refuse(c, heads, WEFT_ERR_ARGUMENT, text, sink);
        return true;
    }
    return false;
}

static bool has_base(const weft_coordinator_t *c, uint64_t base)
{
    for (uint32_t p = c->config.topology.trainers; p < c->ranks; p++)
        if (weft_replica_of(c, p) != WEFT_REPLICA_LOST && c->peer[p].live == base)
            return true;
    return false;
}

/* **Returns** true when no replica serves what a subset is to go over. */
static bool has_no_base(weft_coordinator_t *c, const heads_t *heads, const weft_sink_t *sink)
{
    uint64_t base = c->peer[first_living_trainer(c)].content.base;
    if (base == 0 || has_base(c, base) || WEFT_BROKEN(IGNORE_BASE))
        return false;
    char text[WEFT_MESSAGE_TEXT_BYTES];
    snprintf(text, sizeof text,
             "no replica serves version %llu, over which the subset is: publish a whole version",
             (unsigned long long)base);
    refuse(c, heads, WEFT_ERR_BASE, text, sink);
    return true;
}

static bool is_superseded(const weft_coordinator_t *c, uint64_t version)
{
    for (uint32_t p = 0; p < c->config.topology.trainers; p++)
        if (!c->peer[p].dead && c->peer[p].version == version &&
            (c->peer[p].flags & WEFT_FLAG_SUPERSEDE) != 0)
            return true;
    return false;
}

#define SUPERSEDED_TEXT "a later version was published to take its place"

static void begin_published(weft_coordinator_t *c, const heads_t *heads, const weft_sink_t *sink)
{
    char text[WEFT_MESSAGE_TEXT_BYTES];
    if (c->broken) {
        snprintf(text, sizeof text, "the session must be rebuilt: %.160s", c->broken_text);
        refuse(c, heads, WEFT_ERR_PEER_LOST, text, sink);
    } else if (heads->highest != heads->lowest) {
        snprintf(text, sizeof text, "trainer %u published version %llu and left %llu out", heads->skipped_by,
                 (unsigned long long)heads->highest, (unsigned long long)heads->lowest);
        refuse(c, heads, WEFT_ERR_VERSION_ORDER, text, sink);
    } else if (is_superseded(c, heads->lowest)) {
        refuse(c, heads, WEFT_ERR_SUPERSEDED, SUPERSEDED_TEXT, sink);
    } else if (heads->count < heads->live || !replicas_are_idle(c)) {
        wait_for_rest(c, heads, sink);
    } else if (!differs_in_content(c, heads, sink) && !has_no_base(c, heads, sink)) {
        begin(c, heads->lowest, c->peer[first_living_trainer(c)].content, sink);
    }
}

/* A session whose transport is broken, or whose trainers are dead, can still load. */
static void begin_load(weft_coordinator_t *c, const heads_t *heads, const weft_sink_t *sink)
{
    char text[WEFT_MESSAGE_TEXT_BYTES];
    if (heads->highest != heads->lowest) {
        snprintf(text, sizeof text, "rank %u loads version %llu and left %llu out", heads->skipped_by,
                 (unsigned long long)heads->highest, (unsigned long long)heads->lowest);
        refuse(c, heads, WEFT_ERR_VERSION_ORDER, text, sink);
    } else if ((heads->count < heads->live && !WEFT_BROKEN(LOAD_UNASKED)) || !replicas_are_idle(c)) {
        wait_for_rest(c, heads, sink);
    } else {
        begin(c, heads->lowest, (weft_content_t){.load = 1}, sink);
    }
}

static void try_begin(weft_coordinator_t *c, const weft_sink_t *sink)
{
    heads_t heads = first_heads(c);
    if (!any_replica_left(c))
        mark_broken(c, "no replica is left");
    if (heads.count == 0)
        c->waiting_version = 0;
    else if (heads.load)
        begin_load(c, &heads, sink);
    else
        begin_published(c, &heads, sink);
}

/* The last version may have ended under an earlier coordinator. */
static void note_versions(weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (c->peer[p].dead || c->peer[p].done <= c->done)
            continue;
        c->done = c->peer[p].done;
        c->outcome = WEFT_OUTCOME_NONE;
        c->outcome_of_load = false;
    }
}

/* ---- one handler a state ---- */

static bool has_refused(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    if (!weft_peer_takes_part(c, p) || !weft_view_holds(c, view) || view->dead)
        return false;
    return view->state ==
           (weft_is_trainer(c, p) ? (unsigned)WEFT_TRAINER_REFUSED : (unsigned)WEFT_RANK_REFUSED);
}

static bool awaits_outcome(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    if (weft_is_trainer(c, p))
        return !view->dead && view->version != 0 && view->version <= c->done;
    return weft_replica_of(c, p) != WEFT_REPLICA_LOST && view->wants != 0 && view->wants <= c->done;
}

/* Only the last outcome is kept, so nothing new is decided before all have heard it whose version it is. */
static bool outcome_is_awaited(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (awaits_outcome(c, p))
            return true;
    return false;
}

static void in_idle(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (outcome_is_awaited(c))
        return;
    note_versions(c);
    try_begin(c, sink);
}

/* A later version wants this one stopped: where it is not authorized yet, it is. */
static bool stop_for_later(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (c->content.load || !is_superseded(c, c->version) ||
        weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) == 0)
        return false;
    weft_coordinator_note_reason(c, WEFT_ERR_SUPERSEDED, SUPERSEDED_TEXT);
    weft_coordinator_begin_stop(c, sink);
    if (WEFT_BROKEN(SUPERSEDE_UNASKED)) {
        c->stop_decided = true;
        c->stop_round = 0;
    }
    return true;
}

static void in_transfer(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (!has_refused(c, p))
            continue;
        weft_coordinator_note_peer(c, p, c->peer[p].status, c->peer[p].text);
        weft_coordinator_begin_stop(c, sink);
        return;
    }
    if (stop_for_later(c, sink))
        return;
    bool open = weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c);
    if (open && c->now_us >= c->deadline_us) {
        weft_coordinator_note_missing(c, "not transferred by its deadline", weft_peer_takes_part,
                                      weft_peer_is_through);
        weft_coordinator_begin_stop(c, sink);
        return;
    }
    finish_if_over(c, sink);
}

static bool all_posted(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (can_be_stopped(c, p) && !has_posted(c, p))
            return false;
    return true;
}

/* Whoever has posted a round waits in it for all others: so the highest is finished by all, and no other
 * begins. */
static uint32_t rounds_posted(const weft_coordinator_t *c)
{
    uint32_t rounds = 0, lowest = UINT32_MAX;
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (!can_be_stopped(c, p))
            continue;
        rounds = c->peer[p].round > rounds ? c->peer[p].round : rounds;
        lowest = c->peer[p].round < lowest ? c->peer[p].round : lowest;
    }
    return WEFT_BROKEN(STOP_AT_MIN) ? lowest : rounds;
}

static void in_stopping(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (c->stop_decided || all_posted(c)) {
        c->stop_round = c->stop_decided ? c->stop_round : rounds_posted(c);
        c->stop_decided = true;
        c->deadline_us = c->now_us + c->config.drain_us;
        weft_coordinator_set_state(c, WEFT_COORDINATOR_DRAINING, sink);
    } else if (c->now_us >= c->deadline_us) {
        weft_coordinator_note_missing(c, "did not say how far they posted", can_be_stopped, has_posted);
        weft_coordinator_break_off(c, sink);
    }
}

static void in_draining(weft_coordinator_t *c, const weft_sink_t *sink)
{
    bool open = weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c);
    if (open && c->now_us >= c->deadline_us) {
        weft_coordinator_note_missing(c, "not drained by its deadline", can_be_stopped, weft_peer_is_through);
        weft_coordinator_break_off(c, sink);
        return;
    }
    finish_if_over(c, sink);
}

/* A rank whose transport failed by itself says so; the session cannot send any more. */
static void find_broken(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        if (view->dead || (view->flags & WEFT_FLAG_BROKEN) == 0 || !weft_peer_takes_part(c, p))
            continue;
        if (in_flight(c) && !c->content.load) {
            weft_coordinator_note_peer(c, p, view->status == WEFT_OK ? WEFT_ERR_TRANSPORT : view->status,
                                       view->text);
            weft_coordinator_break_off(c, sink);
        }
        mark_broken(c, c->reason_text[0] != '\0' ? c->reason_text : "a transport was aborted");
        return;
    }
}

static void advance_once(weft_coordinator_t *c, const weft_sink_t *sink)
{
    find_broken(c, sink);
    weft_coordinator_note_digests(c, weft_replica_is_receiving); /* before a replica is compared with them */
    weft_coordinator_advance_replicas(c, sink);
    switch (c->state) {
    case WEFT_COORDINATOR_IDLE:
        in_idle(c, sink);
        break;
    case WEFT_COORDINATOR_TRANSFER:
        in_transfer(c, sink);
        break;
    case WEFT_COORDINATOR_STOPPING:
        in_stopping(c, sink);
        break;
    case WEFT_COORDINATOR_DRAINING:
        in_draining(c, sink);
        break;
    case WEFT_COORDINATOR_BREAKING:
        finish_if_over(c, sink);
        break;
    default:
        break;
    }
}

void weft_coordinator_advance(weft_coordinator_t *c, const weft_sink_t *sink)
{
    weft_coordinator_state_t before;
    do {
        before = c->state;
        if (before == WEFT_COORDINATOR_RECOVERING || before == WEFT_COORDINATOR_DEPOSED)
            return;
        advance_once(c, sink);
    } while (c->state != before);
    weft_coordinator_command_all(c, sink);
}
