/* In: what trainers have published, and what ranks ask to load. Out: the version that begins, or why it does not.
 * Invariant: nothing begins while a replica that is not lost has another version in hand. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>
#include <string.h>

#include "src/control/mutate.h"

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
    return c->peer[p].state == WEFT_TRAINER_PUBLISHED && c->peer[p].version == c->waiting_version &&
           weft_peer_is_in_epoch(c, p);
}

static bool rank_is_idle(const weft_coordinator_t *c, uint32_t p)
{
    bool idle = c->peer[p].state == WEFT_RANK_IDLE && weft_peer_is_in_epoch(c, p);
    return weft_replica_of(c, p) == WEFT_REPLICA_LOST || idle;
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
    weft_coordinator_record_outcome(c, heads->lowest, heads->load, WEFT_OUTCOME_FAILED, status, text, sink);
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

bool weft_coordinator_is_superseded(const weft_coordinator_t *c, uint64_t version)
{
    for (uint32_t p = 0; p < c->config.topology.trainers; p++)
        if (!c->peer[p].dead && c->peer[p].version == version &&
            (c->peer[p].flags & WEFT_FLAG_SUPERSEDE) != 0)
            return true;
    return false;
}

static bool is_ready(const weft_coordinator_t *c)
{
    return weft_coordinator_replicas_are_idle(c) && weft_coordinator_all_in_epoch(c);
}

static void begin_published(weft_coordinator_t *c, const heads_t *heads, const weft_sink_t *sink)
{
    char text[WEFT_MESSAGE_TEXT_BYTES];
    if (c->broken && !weft_coordinator_mend(c, sink)) {
        snprintf(text, sizeof text, "the session must be rebuilt: %.160s", c->broken_text);
        refuse(c, heads, WEFT_ERR_PEER_LOST, text, sink);
    } else if (heads->highest != heads->lowest) {
        snprintf(text, sizeof text, "trainer %u published version %llu and left %llu out", heads->skipped_by,
                 (unsigned long long)heads->highest, (unsigned long long)heads->lowest);
        refuse(c, heads, WEFT_ERR_VERSION_ORDER, text, sink);
    } else if (weft_coordinator_is_superseded(c, heads->lowest)) {
        refuse(c, heads, WEFT_ERR_SUPERSEDED, WEFT_SUPERSEDED_TEXT, sink);
    } else if (heads->count < heads->live || !is_ready(c)) {
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
    } else if ((heads->count < heads->live && !WEFT_BROKEN(LOAD_UNASKED)) || !is_ready(c)) {
        wait_for_rest(c, heads, sink);
    } else {
        begin(c, heads->lowest, (weft_content_t){.load = 1}, sink);
    }
}

void weft_coordinator_try_begin(weft_coordinator_t *c, const weft_sink_t *sink)
{
    heads_t heads = first_heads(c);
    if (!weft_coordinator_any_replica_left(c))
        weft_coordinator_mark_broken(c, "no replica is left");
    if (heads.count == 0)
        c->waiting_version = 0;
    else if (heads.load)
        begin_load(c, &heads, sink);
    else
        begin_published(c, &heads, sink);
}
