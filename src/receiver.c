/* In: granted rounds. Out: buckets that have arrived. Invariant: operations start in the global order of
 * buckets, a relay's receive right before its broadcast, as transport.h asks: a transport may carry them out
 * one after the other. So a relay that still receives a bucket holds back what it has of later ones, and no
 * rank's earlier ones. */
#include "src/receiver.h"

#include <stdlib.h>

#include "src/base/error.h"

typedef enum inbound_state {
    INBOUND_WAITING,      /* not started */
    INBOUND_RECEIVING,    /* relay: from the source */
    INBOUND_RECEIVED,     /* relay: here, its broadcast not started yet */
    INBOUND_BROADCASTING, /* in a broadcast */
} inbound_state_t;

typedef struct inbound {
    uint32_t bucket;
    inbound_state_t state;
    bool arrived; /* reported already (a relay has the bytes before its broadcast ends) */
    weft_op_t *op;
} inbound_t;

struct weft_receiver {
    weft_session_t *session;
    const weft_program_t *program;
    const weft_staging_t *staging;
    inbound_t *inbound; /* in global order of buckets */
    uint32_t count, capacity;
    uint32_t *ranks;
};

weft_status_t weft_receiver_create(weft_session_t *session, const weft_program_t *program,
                                   const weft_staging_t *staging, weft_receiver_t **receiver)
{
    weft_receiver_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    uint32_t most = 0;
    for (uint32_t r = 0; r < program->num_rounds; r++)
        most = program->rounds[r].num_buckets > most ? program->rounds[r].num_buckets : most;
    *made = (weft_receiver_t){
        .session = session,
        .program = program,
        .staging = staging,
        .capacity = 2 * most,
        .inbound = calloc(2 * (size_t)most + 1, sizeof *made->inbound),
        .ranks = calloc(program->plan->rollout->num_ranks + 1, sizeof *made->ranks),
    };
    if (!made->inbound || !made->ranks) {
        weft_receiver_destroy(made);
        return WEFT_ERR_NO_MEMORY;
    }
    *receiver = made;
    return WEFT_OK;
}

void weft_receiver_destroy(weft_receiver_t *receiver)
{
    if (!receiver)
        return;
    free(receiver->inbound);
    free(receiver->ranks);
    free(receiver);
}

static const weft_transport_ops_t *ops_of(const weft_receiver_t *r)
{
    return weft_transport_table(r->session->transport);
}

static uint32_t group_index(const weft_receiver_t *r, const weft_bucket_t *bucket)
{
    return r->program->plan->relay ? bucket->set : bucket->route;
}

/* The broadcasting rank's place in its group: the source leads a route's group, a relay is somewhere in its
 * set. */
static uint32_t root_of(const weft_receiver_t *r, const weft_bucket_t *bucket)
{
    if (!r->program->plan->relay)
        return 0;
    uint32_t count = weft_set_ranks(r->program->plan, bucket->set, r->ranks), root = 0;
    while (root + 1 < count && r->ranks[root] != bucket->relay)
        root++;
    return root;
}

static weft_status_t start_receive(weft_receiver_t *r, inbound_t *in)
{
    const weft_bucket_t *bucket = &r->program->buckets[in->bucket];
    in->state = INBOUND_RECEIVING;
    return ops_of(r)->recv_start(r->session->transport, bucket->source,
                                 weft_staging_bucket(r->staging, bucket), bucket->bytes, &in->op);
}

static weft_status_t start_broadcast(weft_receiver_t *r, inbound_t *in)
{
    const weft_bucket_t *bucket = &r->program->buckets[in->bucket];
    in->state = INBOUND_BROADCASTING;
    return ops_of(r)->broadcast_start(r->session->transport, r->session->groups[group_index(r, bucket)],
                                      root_of(r, bucket), weft_staging_bucket(r->staging, bucket),
                                      bucket->bytes, &in->op);
}

/* Start all that nothing earlier holds back. A relay alone in its set has nobody to broadcast to. */
static weft_status_t start_in_order(weft_receiver_t *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        inbound_t *in = &r->inbound[i];
        const weft_bucket_t *bucket = &r->program->buckets[in->bucket];
        bool relays = r->program->plan->relay && bucket->relay == r->program->rank;
        bool passes_on = r->session->groups[group_index(r, bucket)] != NULL;
        if (in->state == INBOUND_WAITING && relays)
            WEFT_TRY(start_receive(r, in));
        else if (in->state == INBOUND_WAITING || in->state == INBOUND_RECEIVED)
            WEFT_TRY(start_broadcast(r, in));
        if (in->state == INBOUND_RECEIVING && passes_on)
            return WEFT_OK;
    }
    return WEFT_OK;
}

weft_status_t weft_receiver_post(weft_receiver_t *r, uint32_t round, const bool *selected,
                                 weft_error_t *error)
{
    const weft_round_t *posted = &r->program->rounds[round];
    for (uint32_t b = posted->first_bucket; b < posted->first_bucket + posted->num_buckets; b++)
        if (selected[b])
            r->inbound[r->count++] = (inbound_t){.bucket = b, .state = INBOUND_WAITING};
    weft_status_t status = start_in_order(r);
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "rollout rank %u: round %u could not be posted: %s",
                                         r->program->rank, round, weft_status_text(status));
}

static void remove_inbound(weft_receiver_t *r, uint32_t index)
{
    r->count--;
    for (uint32_t i = index; i < r->count; i++)
        r->inbound[i] = r->inbound[i + 1];
}

static weft_status_t name_failure(const weft_receiver_t *r, const weft_bucket_t *bucket, weft_status_t status,
                                  const weft_error_t *why, weft_error_t *error)
{
    const weft_fragment_t *fragment = &r->program->fragments[bucket->first_fragment];
    return weft_fail(error, status,
                     "rollout rank %u: bucket %u of trainer %u (round %u, first tensor %s): %s",
                     r->program->rank, bucket->sequence, bucket->source, bucket->round,
                     weft_model_tensor(r->program->plan->model, fragment->tensor)->name, why->message);
}

/* One step of one bucket; *arrived when its bytes are here for the first time, *over when nothing of it is in
 * flight. */
static weft_status_t advance(weft_receiver_t *r, inbound_t *in, bool *arrived, bool *over,
                             weft_error_t *error)
{
    const weft_bucket_t *bucket = &r->program->buckets[in->bucket];
    weft_error_t why = {.message = ""};
    bool done = false;
    *arrived = *over = false;
    if (in->state == INBOUND_RECEIVING || in->state == INBOUND_BROADCASTING) {
        weft_status_t status = ops_of(r)->test(r->session->transport, in->op, &done, &why);
        if (status != WEFT_OK)
            return name_failure(r, bucket, status, &why, error);
    }
    if (!done)
        return WEFT_OK;
    *arrived = !in->arrived;
    in->arrived = true;
    bool relayed = in->state == INBOUND_RECEIVING && r->session->groups[group_index(r, bucket)];
    in->state = INBOUND_RECEIVED;
    *over = !relayed;
    return relayed ? start_in_order(r) : WEFT_OK;
}

bool weft_receiver_poll(weft_receiver_t *r, uint32_t *bucket, weft_status_t *status, weft_error_t *error)
{
    *status = WEFT_OK;
    for (uint32_t i = 0; i < r->count; i++) {
        bool arrived, over;
        *bucket = r->inbound[i].bucket;
        *status = advance(r, &r->inbound[i], &arrived, &over, error);
        if (*status != WEFT_OK)
            return false;
        if (over)
            remove_inbound(r, i--);
        if (arrived)
            return true;
    }
    return false;
}

bool weft_receiver_round_idle(const weft_receiver_t *r, uint32_t round)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (r->program->buckets[r->inbound[i].bucket].round == round)
            return false;
    return true;
}

bool weft_receiver_idle(const weft_receiver_t *r)
{
    return r->count == 0;
}

void weft_receiver_clear(weft_receiver_t *r)
{
    r->count = 0;
}
