/* In: what each peer last reported, and the state of the version. Out: at most one command for each peer.
 * Invariant: a command is a function of (state here, state reported), so that saying it again changes
 * nothing. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>

#include "src/control/mutate.h"

#define NOTHING WEFT_MESSAGE_TYPE_COUNT

static bool tells_content(weft_message_type_t type)
{
    return type == WEFT_MESSAGE_BEGIN || type == WEFT_MESSAGE_STOP || type == WEFT_MESSAGE_ABORT_TRANSFER;
}

static weft_message_t message_to(const weft_coordinator_t *c, uint32_t peer, weft_message_type_t type)
{
    return (weft_message_t){
        .type = (uint8_t)type,
        .role = weft_is_trainer(c, peer) ? WEFT_ROLE_TRAINER : WEFT_ROLE_RANK,
        .from = c->rank,
        .to = peer,
        .flags = weft_peer_waits(c, peer) ? WEFT_FLAG_JOINS : 0,
        .epoch = c->epoch,
        .incarnation = c->peer[peer].incarnation,
        .term = c->term,
        .version = c->version,
        .newest = c->newest,
        .stop_round = type == WEFT_MESSAGE_STOP_AT ? c->stop_round : 0,
        .members = c->members,
        .content = tells_content(type) ? c->content : (weft_content_t){0},
    };
}

/* ---- trainers ---- */

static weft_message_type_t during_transfer(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    bool wanted = c->state == WEFT_COORDINATOR_TRANSFER && view->state == WEFT_TRAINER_PUBLISHED;
    return wanted ? WEFT_MESSAGE_BEGIN : NOTHING;
}

static weft_message_type_t to_stop_trainer(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    switch (view->state) {
    case WEFT_TRAINER_PUBLISHED:
    case WEFT_TRAINER_SENDING:
    case WEFT_TRAINER_SENT:
    case WEFT_TRAINER_REFUSED:
        return WEFT_MESSAGE_STOP;
    case WEFT_TRAINER_STOPPING:
        return c->state == WEFT_COORDINATOR_DRAINING ? WEFT_MESSAGE_STOP_AT : NOTHING;
    default:
        return NOTHING;
    }
}

static weft_message_type_t to_break_trainer(const weft_peer_view_t *view)
{
    bool through = view->state == WEFT_TRAINER_DRAINED || view->state == WEFT_TRAINER_BROKEN;
    return through ? NOTHING : WEFT_MESSAGE_ABORT_TRANSFER;
}

static bool awaits_outcome(const weft_peer_view_t *view)
{
    return view->state == WEFT_TRAINER_PUBLISHED || view->state == WEFT_TRAINER_SENT ||
           view->state == WEFT_TRAINER_DRAINED || view->state == WEFT_TRAINER_BROKEN;
}

/* Its version is over for all others: an earlier coordinator thought this trainer dead, and it came back. Nobody will
 * post its rounds. */
static bool is_left_behind(const weft_peer_view_t *view)
{
    bool in_transfer = view->state == WEFT_TRAINER_SENDING || view->state == WEFT_TRAINER_REFUSED ||
                       view->state == WEFT_TRAINER_STOPPING || view->state == WEFT_TRAINER_DRAINING;
    return in_transfer && !WEFT_BROKEN(LEAVE_BEHIND);
}

static weft_message_type_t for_old_version(const weft_peer_view_t *view)
{
    if (awaits_outcome(view))
        return WEFT_MESSAGE_OUTCOME;
    return is_left_behind(view) ? WEFT_MESSAGE_ABORT_TRANSFER : NOTHING;
}

static weft_message_type_t for_trainer(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    if (view->version != 0 && view->version <= c->done)
        return for_old_version(view);
    if (view->version == 0 || view->version != c->version || c->content.load)
        return NOTHING; /* published with the number that is being loaded: hears of it afterwards */
    switch (c->state) {
    case WEFT_COORDINATOR_TRANSFER:
        return during_transfer(c, view);
    case WEFT_COORDINATOR_STOPPING:
    case WEFT_COORDINATOR_DRAINING:
        return to_stop_trainer(c, view);
    case WEFT_COORDINATOR_BREAKING:
        return to_break_trainer(view);
    default:
        return NOTHING;
    }
}

/* ---- ranks ---- */

static weft_message_type_t to_stop_rank(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    switch (view->state) {
    case WEFT_RANK_IDLE:
    case WEFT_RANK_RECEIVING:
    case WEFT_RANK_REFUSED:
    case WEFT_RANK_PREPARED:
        return WEFT_MESSAGE_STOP;
    case WEFT_RANK_STOPPING:
        return c->state == WEFT_COORDINATOR_DRAINING ? WEFT_MESSAGE_STOP_AT : NOTHING;
    default:
        return NOTHING;
    }
}

static weft_message_type_t for_receiving(const weft_coordinator_t *c, const weft_peer_view_t *view)
{
    switch (c->state) {
    case WEFT_COORDINATOR_TRANSFER:
        return view->state == WEFT_RANK_IDLE ? WEFT_MESSAGE_BEGIN : NOTHING;
    case WEFT_COORDINATOR_STOPPING:
    case WEFT_COORDINATOR_DRAINING:
        return to_stop_rank(c, view);
    case WEFT_COORDINATOR_BREAKING:
        return WEFT_MESSAGE_ABORT_TRANSFER;
    default:
        return NOTHING;
    }
}

static weft_message_type_t for_rank(const weft_coordinator_t *c, uint32_t peer, const weft_peer_view_t *view)
{
    if (view->wants != 0 && view->wants <= c->done)
        return WEFT_MESSAGE_OUTCOME;
    switch (weft_replica_of(c, peer)) {
    case WEFT_REPLICA_RECEIVING:
        return view->done < c->version ? for_receiving(c, view) : NOTHING;
    case WEFT_REPLICA_DROPPED:
        return view->state == WEFT_RANK_PREPARED ? WEFT_MESSAGE_DROP : NOTHING;
    case WEFT_REPLICA_AUTHORIZED:
        return weft_topology_tp_rank(&c->config.topology, peer) == 0 ? WEFT_MESSAGE_AUTHORIZE : NOTHING;
    default:
        return NOTHING;
    }
}

static weft_message_type_t lacks(const weft_coordinator_t *c, uint32_t peer)
{
    const weft_peer_view_t *view = &c->peer[peer];
    if (view->joins && !weft_peer_leaves(c, peer))
        return view->term != c->term ? WEFT_MESSAGE_WELCOME : NOTHING;
    if (view->dead) {
        bool fenced =
            weft_is_trainer(c, peer) ? view->state == WEFT_TRAINER_FENCED : view->state == WEFT_RANK_FENCED;
        return fenced ? NOTHING : WEFT_MESSAGE_FENCE;
    }
    if (view->term != c->term)
        return WEFT_MESSAGE_WELCOME;
    if (c->state == WEFT_COORDINATOR_RECOVERING)
        return NOTHING;
    bool member = weft_is_trainer(c, peer) || weft_replica_of(c, peer) != WEFT_REPLICA_LOST;
    if (!member && !(WEFT_BROKEN(WELCOME_LOST) && !weft_peer_is_in_epoch(c, peer)))
        return view->state == WEFT_RANK_FENCED ? NOTHING : WEFT_MESSAGE_FENCE;
    if (!weft_peer_is_in_epoch(c, peer))
        return WEFT_MESSAGE_WELCOME;
    if (weft_is_trainer(c, peer))
        return for_trainer(c, view);
    weft_message_type_t type = for_rank(c, peer, view);
    return type == NOTHING && view->newest < c->newest ? WEFT_MESSAGE_WELCOME : type; /* so that it knows if it is stale */
}

/* ---- telling ---- */

/* A version of which no outcome is kept: it never began, or an earlier coordinator ended it. */
static void fill_lost_outcome(const weft_coordinator_t *c, bool given_up, weft_message_t *out)
{
    out->outcome = WEFT_OUTCOME_FAILED;
    out->status = given_up ? WEFT_ERR_ABORTED : WEFT_ERR_VERSION_ORDER;
    if (given_up)
        weft_copy_text(out->text, "it was given up; the coordinator that knew why is gone");
    else
        snprintf(out->text, sizeof out->text,
                 "version %llu was %s before: versions must rise, so the next is %llu or above",
                 (unsigned long long)c->done, c->outcome_of_load ? "loaded from disk" : "seen",
                 (unsigned long long)c->done + 1);
}

/* It was begun, and ended while this trainer was thought dead: whoever serves it is not known any more. */
static void fill_forgotten_outcome(weft_message_t *out)
{
    out->outcome = WEFT_OUTCOME_FAILED;
    out->status = WEFT_ERR_TIMEOUT;
    weft_copy_text(out->text, "what became of it is not known, and replicas may serve it: the coordinator that knew is gone");
}

static void fill_outcome(const weft_coordinator_t *c, bool loads, const weft_peer_view_t *view,
                         weft_message_t *out)
{
    out->version = loads ? view->wants : view->version;
    bool ours = c->outcome_of_load == loads || WEFT_BROKEN(LOAD_OUTCOME);
    /* One that joined since asks for, or publishes, a number that is taken. Ranks that serve it do not ask. */
    bool rank_did = c->outcome == WEFT_OUTCOME_PARTIAL && view->done >= view->wants;
    bool took_part = loads ? rank_did : view->state != WEFT_TRAINER_PUBLISHED;
    bool told = c->outcome == WEFT_OUTCOME_FAILED || (c->outcome != WEFT_OUTCOME_NONE && took_part);
    if (out->version == c->done && (told || WEFT_BROKEN(LOAD_OUTCOME)) && ours) {
        out->outcome = (uint8_t)c->outcome;
        out->status = c->outcome_status;
        weft_copy_text(out->text, c->outcome_text);
    } else if (!loads && view->state != WEFT_TRAINER_PUBLISHED && !WEFT_BROKEN(CALL_UNKNOWN_FAILED)) {
        fill_forgotten_outcome(out);
    } else {
        fill_lost_outcome(c, loads && c->outcome == WEFT_OUTCOME_NONE && view->done == view->wants, out);
    }
}

static const char *why_fenced(const weft_coordinator_t *c, uint32_t p)
{
    if (weft_peer_leaves(c, p))
        return "its replica has left, as it asked";
    if (c->peer[p].dead)
        return "this rank was declared dead; its session must be rebuilt";
    return "another rank of the replica is dead; the session must be rebuilt";
}

static void fill(const weft_coordinator_t *c, const weft_peer_view_t *view, weft_message_t *out)
{
    if (out->type == WEFT_MESSAGE_ABORT_TRANSFER && out->role == WEFT_ROLE_TRAINER)
        out->version = view->version;
    if (out->type == WEFT_MESSAGE_OUTCOME)
        fill_outcome(c, out->role == WEFT_ROLE_RANK, view, out);
    if (out->type == WEFT_MESSAGE_AUTHORIZE) {
        out->role = WEFT_ROLE_LEADER;
        out->flags |= c->recovered && !WEFT_BROKEN(NO_RECOVER) ? WEFT_FLAG_RECOVER : 0;
    }
    if (out->type == WEFT_MESSAGE_FENCE) {
        out->status = WEFT_ERR_PEER_LOST;
        weft_copy_text(out->text, why_fenced(c, out->to));
    }
}

static void tell(weft_coordinator_t *c, uint32_t peer, weft_message_type_t type, const weft_sink_t *sink)
{
    weft_peer_view_t *view = &c->peer[peer];
    bool repeated = view->told_type == type && view->told_version == c->version && view->told_us != 0;
    if (repeated && (c->now_us - view->told_us < c->config.beat_us || WEFT_BROKEN(NO_REPEAT)))
        return;
    view->told_type = (uint8_t)type;
    view->told_version = c->version;
    view->told_us = c->now_us;
    weft_message_t out = message_to(c, peer, type);
    fill(c, view, &out);
    weft_emit_send(sink, &out);
}

void weft_coordinator_command(weft_coordinator_t *c, uint32_t peer, const weft_sink_t *sink)
{
    if (!c->has_term || c->state == WEFT_COORDINATOR_DEPOSED)
        return;
    weft_message_type_t type = lacks(c, peer);
    if (type != NOTHING)
        tell(c, peer, type, sink);
}

void weft_coordinator_command_all(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t peer = 0; peer < c->ranks; peer++)
        if (!c->peer[peer].dead) /* the dead are answered when they speak */
            weft_coordinator_command(c, peer, sink);
}

void weft_coordinator_welcome_all(weft_coordinator_t *c, const weft_sink_t *sink)
{
    c->welcomed_us = c->now_us;
    for (uint32_t peer = 0; peer < c->ranks; peer++) {
        weft_message_t out = message_to(c, peer, WEFT_MESSAGE_WELCOME);
        if (!c->peer[peer].dead)
            weft_emit_send(sink, &out);
    }
}
