/* In: what each peer last reported. Out: what that says about the version in flight, and the sentence for its
 * first failure. Invariant: nothing here changes a state. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>

#include "src/control/mutate.h"

/* ---- what a view says about the version in flight ---- */

bool weft_peer_takes_part(const weft_coordinator_t *c, uint32_t p)
{
    if (weft_is_trainer(c, p))
        return !c->content.load;
    return weft_members_has(c->members, weft_topology_replica(&c->config.topology, p));
}

bool weft_view_holds(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->version == c->version && c->version != 0;
}

bool weft_view_is_prepared(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return weft_view_holds(c, view) &&
           (view->state == WEFT_RANK_PREPARED || view->state == WEFT_RANK_ARMED ||
            view->state == WEFT_RANK_FROZEN || view->state == WEFT_RANK_COMMITTED);
}

bool weft_view_lacks_base(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return c->content.base != 0 && view->live != c->content.base && view->live != c->version &&
           !WEFT_BROKEN(IGNORE_BASE);
}

bool weft_view_has_applied(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->live == c->version;
}

bool weft_view_gave_up(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->done >= c->version && view->live != c->version;
}

static bool rank_is_through(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    return view->done >= c->version || weft_view_is_prepared(c, view) || view->state == WEFT_RANK_FENCED;
}

static bool trainer_is_through(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    /* Once a STOP may be under way, SENT can still turn into STOPPING. */
    bool stopping = c->state == WEFT_COORDINATOR_DRAINING || c->state == WEFT_COORDINATOR_BREAKING;
    bool over = view->state == WEFT_TRAINER_DRAINED || view->state == WEFT_TRAINER_BROKEN ||
                (view->state == WEFT_TRAINER_SENT && !stopping);
    return view->done >= c->version || (weft_view_holds(c, view) && over);
}

bool weft_peer_is_through(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    return weft_is_trainer(c, p) ? trainer_is_through(c, view) : rank_is_through(c, view);
}

uint32_t weft_replica_count(const weft_coordinator_t *c, uint32_t replica, weft_view_test_t test)
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

const char *weft_peer_kind(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) ? "trainer" : "rank";
}

/* The first failure of a version is its reason; what follows from it is not. */
void weft_coordinator_note_reason(weft_coordinator_t *c, weft_status_t status, const char *text)
{
    if (c->reason != WEFT_OK)
        return;
    c->reason = status;
    weft_copy_text(c->reason_text, text);
}

/* Note "what: trainer 1 (SENDING), rank 4 (RECEIVING)", those that `asked` includes and `test` does not hold
 * for. */
void weft_coordinator_note_missing(weft_coordinator_t *c, const char *what, weft_peer_test_t asked,
                                   weft_peer_test_t test)
{
    char text[WEFT_MESSAGE_TEXT_BYTES];
    int length = snprintf(text, sizeof text, "%s:", what);
    const char *separator = " ";
    for (uint32_t p = 0; p < c->ranks && length < (int)sizeof text - 1; p++) {
        if (c->peer[p].dead || !asked(c, p) || test(c, p))
            continue;
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%s %u (%s)", separator,
                           weft_peer_kind(c, p), p, peer_state_name(c, p));
        separator = ", ";
    }
    weft_coordinator_note_reason(c, WEFT_ERR_TIMEOUT, text);
}

void weft_coordinator_note_peer(weft_coordinator_t *c, uint32_t p, weft_status_t status, const char *what)
{
    char text[WEFT_MESSAGE_TEXT_BYTES + 32];
    snprintf(text, sizeof text, "%s %u: %s", weft_peer_kind(c, p), p, what);
    weft_coordinator_note_reason(c, status, text);
}
