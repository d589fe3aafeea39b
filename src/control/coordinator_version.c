/* In: views of all peers. Out: the states of the version and of each replica in it, and the outcome.
 * Invariant: a replica is AUTHORIZED only in TRANSFER, and a stop speaks only to replicas that are RECEIVING, so no
 * version is both committed and stopped on one replica. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>
#include <string.h>

#include "src/control/mutate.h"

/* ---- what a view says about the version in flight ---- */

static bool takes_part(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) || weft_members_has(c->members, weft_topology_replica(&c->config.topology, p));
}

static bool holds(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->version == c->version && c->version != 0;
}

static bool rank_is_prepared(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return holds(c, view) && (view->state == WEFT_RANK_PREPARED || view->state == WEFT_RANK_ARMED ||
                              view->state == WEFT_RANK_FROZEN || view->state == WEFT_RANK_COMMITTED);
}

static bool rank_has_applied(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->live == c->version;
}

static bool rank_gave_up(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->done >= c->version && view->live != c->version;
}

static bool rank_is_through(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->done >= c->version || rank_is_prepared(c, view) || view->state == WEFT_RANK_FENCED;
}

static bool trainer_is_through(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    /* Once a STOP may be under way, SENT can still turn into STOPPING. */
    bool stopping = c->state == WEFT_COORDINATOR_DRAINING || c->state == WEFT_COORDINATOR_BREAKING;
    bool over = view->state == WEFT_TRAINER_DRAINED || view->state == WEFT_TRAINER_BROKEN ||
                (view->state == WEFT_TRAINER_SENT && !stopping);
    return view->done >= c->version || (holds(c, view) && over);
}

static bool is_through(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    return weft_is_trainer(c, p) ? trainer_is_through(c, view) : rank_is_through(c, view);
}

static bool has_posted(const weft_coordinator_t *c, uint32_t p)
{
    return holds(c, &c->peer[p]) && (c->peer[p].flags & WEFT_FLAG_POSTED) != 0;
}

/* True for those a stop speaks to. */
static bool can_be_stopped(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) ? !c->peer[p].dead : weft_replica_of(c, p) == WEFT_REPLICA_RECEIVING;
}

typedef bool (*peer_test_t)(const weft_coordinator_t *c, uint32_t p);
typedef bool (*view_test_t)(const weft_coordinator_t *c, const weft_peer_view_t *view);

static uint32_t count_in_replica(const weft_coordinator_t *c, uint32_t replica, view_test_t test)
{
    uint32_t count = 0;
    for (uint32_t p = weft_replica_begin(c, replica); p < weft_replica_end(c, replica); p++)
        count += test(c, &c->peer[p]);
    return count;
}

/* ---- reasons ---- */

static const char *peer_state_name(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) ? weft_trainer_state_name(c->peer[p].state)
                                 : weft_rank_state_name(c->peer[p].state);
}

static const char *peer_kind(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) ? "trainer" : "rank";
}

/* The first failure of a version is its reason; what follows from it is not. */
static void note_reason(weft_coordinator_t *c, weft_status_t status, const char *text)
{
    if (c->reason != WEFT_OK)
        return;
    c->reason = status;
    weft_copy_text(c->reason_text, text);
}

/* Note "what: trainer 1 (SENDING), rank 4 (RECEIVING)", those that `asked` includes and `test` does not hold for. */
static void note_missing(weft_coordinator_t *c, const char *what, peer_test_t asked, peer_test_t test)
{
    char text[WEFT_MESSAGE_TEXT_BYTES];
    int length = snprintf(text, sizeof text, "%s:", what);
    const char *separator = " ";
    for (uint32_t p = 0; p < c->ranks && length < (int)sizeof text - 1; p++) {
        if (c->peer[p].dead || !asked(c, p) || test(c, p))
            continue;
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%s %u (%s)", separator, peer_kind(c, p), p,
                           peer_state_name(c, p));
        separator = ", ";
    }
    note_reason(c, WEFT_ERR_TIMEOUT, text);
}

static void note_peer(weft_coordinator_t *c, uint32_t p, weft_status_t status, const char *what)
{
    char text[WEFT_MESSAGE_TEXT_BYTES + 32];
    snprintf(text, sizeof text, "%s %u: %s", peer_kind(c, p), p, what);
    note_reason(c, status, text);
}

/* ---- transitions of the version ---- */

static void begin_stop(weft_coordinator_t *c, const weft_sink_t *sink)
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

/* The drain cannot complete without the dead: transports are aborted, and with them the session's. */
static void break_off(weft_coordinator_t *c, const weft_sink_t *sink)
{
    mark_broken(c, c->reason_text);
    weft_coordinator_set_state(c, WEFT_COORDINATOR_BREAKING, sink);
}

static bool transfer_is_open(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (takes_part(c, p) && !is_through(c, p))
            return true;
    return false;
}

static bool in_flight(const weft_coordinator_t *c)
{
    return c->state == WEFT_COORDINATOR_TRANSFER || c->state == WEFT_COORDINATOR_STOPPING ||
           c->state == WEFT_COORDINATOR_DRAINING;
}

static bool needs_everyone(const weft_coordinator_t *c)
{
    bool stopping = c->state == WEFT_COORDINATOR_STOPPING || c->state == WEFT_COORDINATOR_DRAINING;
    return stopping || (c->state == WEFT_COORDINATOR_TRANSFER && transfer_is_open(c));
}

void weft_coordinator_lose(weft_coordinator_t *c, uint32_t p, weft_status_t status, const char *what,
                           const weft_sink_t *sink)
{
    bool torn = takes_part(c, p) && needs_everyone(c);
    char text[WEFT_MESSAGE_TEXT_BYTES + 32];
    snprintf(text, sizeof text, "%s %u %s", peer_kind(c, p), p, what);
    weft_emit_log(sink, WEFT_LOG_WARNING, "coordinator: %s", text);
    bool trainer = weft_is_trainer(c, p);
    bool fenced = !trainer && c->peer[p].state == WEFT_RANK_FENCED;
    c->peer[p].dead = !fenced; /* a fenced rank may still be talked to */
    note_reason(c, status == WEFT_OK ? WEFT_ERR_PEER_LOST : status, text);
    if (trainer)
        mark_broken(c, text);
    else
        weft_coordinator_set_replica(c, weft_topology_replica(&c->config.topology, p), WEFT_REPLICA_LOST, sink);
    if (torn)
        break_off(c, sink);
}

/* ---- digests ---- */

static bool digests_equal(weft_digest_t a, weft_digest_t b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static void note_digest(weft_coordinator_t *c, uint32_t p)
{
    uint32_t index = weft_topology_tp_rank(&c->config.topology, p);
    const weft_peer_view_t *view = &c->peer[p];
    if (c->digest_known[index] || (!rank_is_prepared(c, view) && !rank_has_applied(c, view)))
        return;
    c->digest_known[index] = true;
    c->digest[index] = view->digest;
}

/* The first rank of a TP index to report sets the digest for that index. */
static void note_digests(weft_coordinator_t *c, bool (*wanted)(weft_replica_state_t state))
{
    for (uint32_t p = c->config.topology.trainers; p < c->ranks; p++)
        if (wanted(weft_replica_of(c, p)))
            note_digest(c, p);
}

static bool is_decided(weft_replica_state_t state)
{
    return state == WEFT_REPLICA_AUTHORIZED || state == WEFT_REPLICA_APPLIED;
}

static bool is_receiving(weft_replica_state_t state)
{
    return state == WEFT_REPLICA_RECEIVING;
}

/* **Returns** the first rank of a replica whose digest differs from the first reported one; its end when none does. */
static uint32_t find_mismatch(const weft_coordinator_t *c, uint32_t replica)
{
    uint32_t end = weft_replica_end(c, replica);
    for (uint32_t p = weft_replica_begin(c, replica); p < end; p++)
        if (!digests_equal(c->peer[p].digest, c->digest[weft_topology_tp_rank(&c->config.topology, p)]))
            return p;
    return end;
}

/* ---- transitions of a replica ---- */

static void authorize_or_drop(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    uint32_t p = find_mismatch(c, replica);
    if (p == weft_replica_end(c, replica) || WEFT_BROKEN(IGNORE_DIGEST)) {
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_AUTHORIZED, sink);
        return;
    }
    note_peer(c, p, WEFT_ERR_DIGEST, "its weights differ from those of the same rank of another replica");
    weft_coordinator_set_replica(c, replica, WEFT_REPLICA_DROPPED, sink);
}

static void advance_receiving(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    uint32_t tp = c->config.topology.tp;
    uint32_t prepared = count_in_replica(c, replica, rank_is_prepared);
    uint32_t gave_up = count_in_replica(c, replica, rank_gave_up);
    bool transfer = c->state == WEFT_COORDINATOR_TRANSFER;
    if (gave_up == tp)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_ABORTED, sink);
    else if (transfer && gave_up != 0 && gave_up + prepared == tp)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_DROPPED, sink); /* begun by an earlier coordinator */
    else if (transfer && prepared == tp)
        authorize_or_drop(c, replica, sink);
    else if (transfer && WEFT_BROKEN(AUTHORIZE_EARLY) && prepared != 0 && prepared + 1 == tp)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_AUTHORIZED, sink);
}

static void advance_authorized(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    uint32_t tp = c->config.topology.tp;
    if (count_in_replica(c, replica, rank_has_applied) == tp) {
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_APPLIED, sink);
    } else if (count_in_replica(c, replica, rank_gave_up) == tp) {
        uint32_t p = weft_replica_begin(c, replica);
        note_peer(c, p, c->peer[p].status == WEFT_OK ? WEFT_ERR_ABORTED : c->peer[p].status, c->peer[p].text);
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_ABORTED, sink);
    }
}

static void advance_replica(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    switch (c->replica[replica]) {
    case WEFT_REPLICA_RECEIVING:
        advance_receiving(c, replica, sink);
        break;
    case WEFT_REPLICA_AUTHORIZED:
        advance_authorized(c, replica, sink);
        break;
    case WEFT_REPLICA_DROPPED:
        if (count_in_replica(c, replica, rank_gave_up) == c->config.topology.tp)
            weft_coordinator_set_replica(c, replica, WEFT_REPLICA_ABORTED, sink);
        break;
    default:
        break;
    }
}

static void advance_replicas(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t replica = 0; replica < c->config.topology.replicas; replica++)
        advance_replica(c, replica, sink);
}

static uint32_t count_replicas(const weft_coordinator_t *c, weft_replica_state_t state)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < c->config.topology.replicas; r++)
        count += c->replica[r] == state && weft_members_has(c->members, r);
    return count;
}

/* ---- the outcome ---- */

static void record_outcome(weft_coordinator_t *c, uint64_t version, weft_outcome_t outcome, weft_status_t status,
                           const char *text, const weft_sink_t *sink)
{
    c->done = version;
    c->outcome = outcome;
    c->outcome_status = status;
    weft_copy_text(c->outcome_text, text);
    weft_emit_log(sink, outcome == WEFT_OUTCOME_APPLIED ? WEFT_LOG_INFO : WEFT_LOG_WARNING,
                  "coordinator: version %llu: %s %s", (unsigned long long)version, weft_outcome_name(outcome),
                  c->outcome_text);
}

static void finish(weft_coordinator_t *c, const weft_sink_t *sink)
{
    uint32_t members = (uint32_t)(__builtin_popcountll(c->members.word[0]) + __builtin_popcountll(c->members.word[1]));
    uint32_t applied = count_replicas(c, WEFT_REPLICA_APPLIED);
    if (applied == members) {
        record_outcome(c, c->version, WEFT_OUTCOME_APPLIED, WEFT_OK, "", sink);
    } else {
        char text[WEFT_MESSAGE_TEXT_BYTES + 64];
        note_reason(c, WEFT_ERR_ABORTED, "an earlier coordinator aborted it");
        snprintf(text, sizeof text, "%u of %u replicas serve it; %s", applied, members, c->reason_text);
        record_outcome(c, c->version, applied > 0 ? WEFT_OUTCOME_PARTIAL : WEFT_OUTCOME_FAILED, c->reason, text,
                       sink);
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
        if (!c->peer[p].dead && !is_through(c, p))
            return false;
    return true;
}

/* Once nothing is on the wire any more, replicas that commit have until the deadline. One that is late goes on
 * committing; the trainers are told that it is. */
static void finish_if_over(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c))
        return;
    if (c->commit_deadline_us == 0)
        c->commit_deadline_us = c->now_us + c->config.commit_us;
    bool settled = count_replicas(c, WEFT_REPLICA_AUTHORIZED) + count_replicas(c, WEFT_REPLICA_DROPPED) == 0;
    bool late = c->now_us >= c->commit_deadline_us;
    if (late && !settled) {
        c->reason = WEFT_OK; /* that some may yet serve it matters more than why others never will */
        note_missing(c, "not applied by its deadline, and may yet be", is_rank, is_settled);
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

static void begin(weft_coordinator_t *c, uint64_t version, const weft_sink_t *sink)
{
    c->version = version;
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

static bool is_idle(const weft_coordinator_t *c, uint32_t p)
{
    if (weft_is_trainer(c, p))
        return has_published(c, p);
    return weft_replica_of(c, p) == WEFT_REPLICA_LOST || c->peer[p].state == WEFT_RANK_IDLE;
}

static void refuse(weft_coordinator_t *c, uint64_t version, weft_status_t status, const char *text,
                   const weft_sink_t *sink)
{
    c->waiting_version = 0;
    record_outcome(c, version, WEFT_OUTCOME_FAILED, status, text, sink);
}

static bool any_peer(const weft_coordinator_t *c, uint32_t p)
{
    (void)c, (void)p;
    return true;
}

static void wait_for_rest(weft_coordinator_t *c, uint64_t version, const weft_sink_t *sink)
{
    if (c->waiting_version != version) {
        c->waiting_version = version;
        c->waiting_until_us = c->now_us + c->config.publish_us;
    }
    if (c->now_us < c->waiting_until_us)
        return;
    c->reason = WEFT_OK;
    note_missing(c, "not begun by its deadline, for want of", any_peer, is_idle);
    refuse(c, version, c->reason, c->reason_text, sink);
}

/* The versions at the head of the trainers' queues. */
typedef struct heads {
    uint64_t lowest, highest;
    uint32_t count, live, skipped_by;
} heads_t;

static heads_t look_at_heads(const weft_coordinator_t *c)
{
    heads_t heads = {.lowest = UINT64_MAX};
    for (uint32_t p = 0; p < c->config.topology.trainers; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        heads.live += !view->dead;
        if (view->dead || view->state != WEFT_TRAINER_PUBLISHED || view->version <= c->done)
            continue;
        heads.count++;
        if (view->version > heads.highest) {
            heads.highest = view->version;
            heads.skipped_by = p;
        }
        if (view->version < heads.lowest)
            heads.lowest = view->version;
    }
    return heads;
}

static bool any_replica_left(const weft_coordinator_t *c)
{
    for (uint32_t r = 0; r < c->config.topology.replicas; r++)
        if (c->replica[r] != WEFT_REPLICA_LOST)
            return true;
    return false;
}

static void try_begin(weft_coordinator_t *c, const weft_sink_t *sink)
{
    heads_t heads = look_at_heads(c);
    char text[WEFT_MESSAGE_TEXT_BYTES];
    if (!any_replica_left(c))
        mark_broken(c, "no replica is left");
    if (heads.count == 0) {
        c->waiting_version = 0;
    } else if (c->broken) {
        snprintf(text, sizeof text, "the session must be rebuilt: %.160s", c->broken_text);
        refuse(c, heads.lowest, WEFT_ERR_PEER_LOST, text, sink);
    } else if (heads.highest != heads.lowest) {
        snprintf(text, sizeof text, "trainer %u published version %llu and left %llu out", heads.skipped_by,
                 (unsigned long long)heads.highest, (unsigned long long)heads.lowest);
        refuse(c, heads.lowest, WEFT_ERR_VERSION_ORDER, text, sink);
    } else if (heads.count < heads.live || !replicas_are_idle(c)) {
        wait_for_rest(c, heads.lowest, sink);
    } else {
        begin(c, heads.lowest, sink);
    }
}

/* A rank may have loaded a version from disk meanwhile. */
static void note_versions(weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (c->peer[p].dead || c->peer[p].done <= c->done)
            continue;
        c->done = c->peer[p].done;
        c->outcome = WEFT_OUTCOME_NONE;
    }
}

/* ---- one handler a state ---- */

static bool has_refused(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    if (!takes_part(c, p) || !holds(c, view) || view->dead)
        return false;
    return view->state == (weft_is_trainer(c, p) ? (unsigned)WEFT_TRAINER_REFUSED : (unsigned)WEFT_RANK_REFUSED);
}

/* Only the last outcome is kept, so nothing new is decided before every trainer has heard it. */
static bool outcome_is_awaited(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->config.topology.trainers; p++)
        if (!c->peer[p].dead && c->peer[p].version != 0 && c->peer[p].version <= c->done)
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

static void in_transfer(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (!has_refused(c, p))
            continue;
        note_peer(c, p, c->peer[p].status, c->peer[p].text);
        begin_stop(c, sink);
        return;
    }
    bool open = count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c);
    if (open && c->now_us >= c->deadline_us) {
        note_missing(c, "not transferred by its deadline", takes_part, is_through);
        begin_stop(c, sink);
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

/* Whoever has posted a round waits in it for all others: so the highest is finished by all, and no other begins. */
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
        note_missing(c, "did not say how far they posted", can_be_stopped, has_posted);
        break_off(c, sink);
    }
}

static void in_draining(weft_coordinator_t *c, const weft_sink_t *sink)
{
    bool open = count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c);
    if (open && c->now_us >= c->deadline_us) {
        note_missing(c, "not drained by its deadline", can_be_stopped, is_through);
        break_off(c, sink);
        return;
    }
    finish_if_over(c, sink);
}

/* A rank whose transport failed by itself says so; the session cannot send any more. */
static void find_broken(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        if (view->dead || (view->flags & WEFT_FLAG_BROKEN) == 0 || !takes_part(c, p))
            continue;
        if (in_flight(c)) {
            note_peer(c, p, view->status == WEFT_OK ? WEFT_ERR_TRANSPORT : view->status, view->text);
            break_off(c, sink);
        }
        mark_broken(c, c->reason_text[0] != '\0' ? c->reason_text : "a transport was aborted");
        return;
    }
}

static void advance_once(weft_coordinator_t *c, const weft_sink_t *sink)
{
    find_broken(c, sink);
    note_digests(c, is_receiving); /* before a replica is compared with them */
    advance_replicas(c, sink);
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

/* ---- after a restart ---- */

static bool counts(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    if (view->dead)
        return false;
    return weft_is_trainer(c, p) ? view->state != WEFT_TRAINER_FENCED : view->state != WEFT_RANK_FENCED;
}

static uint64_t find_version(const weft_coordinator_t *c)
{
    uint64_t version = 0;
    for (uint32_t p = 0; p < c->ranks; p++) {
        bool begun = !weft_is_trainer(c, p) || c->peer[p].state != WEFT_TRAINER_PUBLISHED;
        if (counts(c, p) && begun && c->peer[p].version > version)
            version = c->peer[p].version;
    }
    return version;
}

static void recover_members(weft_coordinator_t *c)
{
    c->members = (weft_members_t){0};
    for (uint32_t p = 0; p < c->ranks; p++)
        if (counts(c, p) && holds(c, &c->peer[p]) &&
            (c->peer[p].members.word[0] | c->peer[p].members.word[1]) != 0)
            c->members = c->peer[p].members;
}

static void recover_replica(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    if (c->replica[replica] == WEFT_REPLICA_LOST || !weft_members_has(c->members, replica))
        return;
    bool decided = count_in_replica(c, replica, rank_has_applied) != 0;
    for (uint32_t p = weft_replica_begin(c, replica); p < weft_replica_end(c, replica); p++)
        decided |= rank_is_prepared(c, &c->peer[p]) && c->peer[p].state != WEFT_RANK_PREPARED;
    weft_coordinator_set_replica(c, replica, WEFT_REPLICA_IDLE, sink);
    weft_coordinator_set_replica(c, replica, WEFT_REPLICA_RECEIVING, sink);
    if (decided)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_AUTHORIZED, sink);
}

/* A stop that was begun is finished, at the round that was decided if any rank was told. */
static bool recover_stop(weft_coordinator_t *c)
{
    bool stopping = false;
    c->stop_decided = false;
    for (uint32_t p = 0; p < c->ranks; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        bool about_it = holds(c, view) || (view->version == 0 && view->done == c->version);
        if (!counts(c, p) || !about_it)
            continue;
        stopping |= (view->flags & (WEFT_FLAG_POSTED | WEFT_FLAG_STOP_AT)) != 0;
        stopping |= holds(c, view) && view->state == (weft_is_trainer(c, p) ? (unsigned)WEFT_TRAINER_STOPPING
                                                                            : (unsigned)WEFT_RANK_STOPPING);
        if ((view->flags & WEFT_FLAG_STOP_AT) != 0) {
            c->stop_decided = true;
            c->stop_round = view->stop_round;
        }
    }
    return stopping;
}

static bool anyone_dead(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (takes_part(c, p) && !counts(c, p))
            return true;
    return false;
}

static void recover_version(weft_coordinator_t *c, const weft_sink_t *sink)
{
    recover_members(c);
    for (uint32_t r = 0; r < c->config.topology.replicas; r++)
        recover_replica(c, r, sink);
    memset(c->digest_known, 0, sizeof c->digest_known);
    note_digests(c, is_decided);
    c->deadline_us = c->now_us + c->config.transfer_us;
    c->commit_deadline_us = 0;
    if (c->version <= c->done) {
        weft_coordinator_set_state(c, WEFT_COORDINATOR_IDLE, sink); /* the outcome is out; replicas may be late */
        return;
    }
    c->done = c->version - 1;
    weft_coordinator_set_state(c, WEFT_COORDINATOR_TRANSFER, sink);
    if (recover_stop(c))
        begin_stop(c, sink);
    if (anyone_dead(c) && needs_everyone(c))
        break_off(c, sink);
}

void weft_coordinator_recover(weft_coordinator_t *c, const weft_sink_t *sink)
{
    c->version = find_version(c);
    c->recovered = true;
    c->waiting_version = 0;
    if (c->version != 0)
        recover_version(c, sink);
    else
        weft_coordinator_set_state(c, WEFT_COORDINATOR_IDLE, sink);
}
