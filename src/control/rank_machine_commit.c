/* In: what the leader of the replica asks. Out: promises, kept by the guard, and the step of the swap.
 * Invariant: what comes below the promised ballot is not obeyed. */
#include "src/control/rank_machine_internal.h"

#include <stdio.h>

#include "src/control/mutate.h"

typedef weft_rank_machine_t machine_t;

/* A subset is the version only over its base. Such a rank is told to drop it; to arm it would be a mistake.
 */
static bool lacks_base(const machine_t *m)
{
    return m->content.base != 0 && m->content.base != m->live && !WEFT_BROKEN(IGNORE_BASE);
}

static void on_arm(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (lacks_base(m))
        return;
    if (m->state != WEFT_RANK_PREPARED || in->version != m->version || in->ballot < m->promised)
        return;
    uint64_t step;
    if (!weft_guard_arm(m->guard, m->config.margin, &step, &m->limit))
        return;
    m->promised = in->ballot;
    weft_rank_set_state(m, WEFT_RANK_ARMED, sink);
}

static void on_freeze(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    /* A FREEZE seen before, perhaps followed by its COMMIT, must not freeze again: the promise was above. */
    if (in->version != m->version || in->ballot <= m->promised || !weft_rank_may_become(m, WEFT_RANK_FROZEN))
        return;
    m->promised = in->ballot;
    uint64_t step;
    if (!weft_guard_freeze(m->guard, &step))
        return; /* a thread is swapping: the answer is APPLIED, in a moment */
    if (weft_guard_live(m->guard) == m->version) {
        /* The swap was quicker than the event that tells of it. Its at_step stands, so no limit is kept. */
        weft_guard_release(m->guard);
        weft_rank_applied(m, sink);
        return;
    }
    m->limit = step;
    weft_rank_set_state(m, WEFT_RANK_FROZEN, sink);
}

static void on_commit(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    bool promised = m->state == WEFT_RANK_ARMED || m->state == WEFT_RANK_FROZEN;
    bool obeyed = WEFT_BROKEN(IGNORE_BALLOT) ? promised : promised && in->ballot == m->promised;
    obeyed |= WEFT_BROKEN(SKIP_ARM) && (promised || m->state == WEFT_RANK_PREPARED);
    if (in->version != m->version || !obeyed)
        return;
    if (!weft_guard_commit(m->guard, in->version, in->at_step)) {
        char text[WEFT_MESSAGE_TEXT_BYTES];
        snprintf(text, sizeof text,
                 "rank %u cannot swap to version %llu at step %llu: it is at step %llu already", m->rank,
                 (unsigned long long)in->version, (unsigned long long)in->at_step,
                 (unsigned long long)weft_guard_look(m->guard).step);
        weft_rank_fence(m, WEFT_ERR_INTERNAL, text, sink);
        return;
    }
    m->accepted = in->ballot;
    m->at_step = in->at_step;
    weft_rank_set_state(m, WEFT_RANK_COMMITTED, sink);
    weft_emit(sink, WEFT_ACTION_WAKE_STEPS, m->version);
    if (weft_guard_swap_due(m->guard))
        weft_emit(sink, WEFT_ACTION_TRY_SWAP, m->version);
}

static void on_abort(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    bool undecided = m->state == WEFT_RANK_PREPARED || m->state == WEFT_RANK_ARMED ||
                     (m->state == WEFT_RANK_FROZEN && m->at_step == 0);
    if (in->version != m->version || in->ballot < m->promised || !undecided)
        return;
    m->promised = in->ballot;
    weft_rank_remember_failure(m, in->status, in->text);
    weft_guard_release(m->guard);
    weft_rank_give_up(m, sink);
    weft_emit(sink, WEFT_ACTION_WAKE_STEPS, m->done);
}

/* True when the message is from the leader of this replica, appointed in the newest term known. */
static bool accept_leader(machine_t *m, const weft_message_t *in)
{
    if (in->from != weft_rank_leader(m) || (weft_ballot_term(in->ballot) < m->term && !WEFT_BROKEN(OBEY_OLD_TERM)))
        return false;
    m->leader_due = true;
    return true;
}

void weft_rank_on_leader(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (!accept_leader(m, in))
        return;
    switch ((weft_message_type_t)in->type) {
    case WEFT_MESSAGE_ARM:
        on_arm(m, in, sink);
        break;
    case WEFT_MESSAGE_FREEZE:
        on_freeze(m, in, sink);
        break;
    case WEFT_MESSAGE_COMMIT:
        on_commit(m, in, sink);
        break;
    default:
        on_abort(m, in, sink);
        break;
    }
}
