/* Starting operations and moving them forward.
 *
 * In: a give or a take, numbered within its channel by its owner. Out: the taker's buffer holds the giver's
 * bytes. Invariants: a give leaves the list only when no live rank can still ask for it; an operation begins
 * when its owner's earlier ones are over. That makes the loopback as strict as the strictest backend: ranks
 * that start their operations in different orders wait for each other here too. */
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "transport/loopback/backend.h"

static uint32_t position_of(const weft_group_t *group, uint32_t rank)
{
    uint32_t position = 0;
    while (group->ranks[position] != rank)
        position++;
    return position;
}

static uint32_t num_takers(const weft_op_t *give)
{
    return give->group ? give->group->count : 1;
}

static void free_op(weft_op_t *op)
{
    free(op->ended);
    free(op);
}

static weft_op_t *new_op(const weft_op_t *form)
{
    weft_op_t *op = malloc(sizeof *op);
    if (!op)
        return NULL;
    *op = *form;
    if (op->gives) {
        op->ended = calloc(num_takers(op), sizeof *op->ended);
        if (!op->ended) {
            free(op);
            return NULL;
        }
    }
    return op;
}

/* Number the operation and put it at the list's end, so that the oldest is found first. */
static weft_status_t enlist(weft_transport_t *transport, const weft_op_t *form, uint64_t *sequence,
                            weft_op_t **op)
{
    weft_op_t *made = new_op(form);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    pthread_mutex_lock(&transport->hub->mutex);
    made->sequence = (*sequence)++;
    weft_op_t **link = &transport->hub->ops[made->owner];
    while (*link)
        link = &(*link)->next;
    *link = made;
    pthread_mutex_unlock(&transport->hub->mutex);
    *op = made;
    return WEFT_OK;
}

static void delist(weft_loopback_t *hub, weft_op_t *op)
{
    weft_op_t **link = &hub->ops[op->owner];
    while (*link != op)
        link = &(*link)->next;
    *link = op->next;
    free_op(op);
}

void weft_loopback_ops_drop(weft_loopback_t *hub, uint32_t rank)
{
    while (hub->ops[rank])
        delist(hub, hub->ops[rank]);
}

weft_status_t weft_loopback_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                            void *data, size_t bytes, weft_op_t **op)
{
    if (transport->aborted)
        return WEFT_ERR_CLOSED;
    if (root >= group->count || bytes > WEFT_MAX_MESSAGE_BYTES)
        return WEFT_ERR_ARGUMENT;
    uint32_t rank = transport->base.rank, position = position_of(group, rank);
    weft_op_t form = {.gives = position == root,
                      .owner = rank,
                      .peer = group->ranks[root],
                      .group = group,
                      .data = data,
                      .bytes = bytes};
    return enlist(transport, &form, &group->sequences[position], op);
}

static weft_status_t start_pair(weft_transport_t *transport, const weft_op_t *form, uint64_t *sequences,
                                weft_op_t **op)
{
    if (transport->aborted)
        return WEFT_ERR_CLOSED;
    uint32_t num_ranks = transport->base.num_ranks;
    if (form->peer >= num_ranks || form->bytes > WEFT_MAX_MESSAGE_BYTES)
        return WEFT_ERR_ARGUMENT;
    return enlist(transport, form, &sequences[(size_t)form->owner * num_ranks + form->peer], op);
}

weft_status_t weft_loopback_send_start(weft_transport_t *transport, uint32_t peer, const void *data,
                                       size_t bytes, weft_op_t **op)
{
    weft_op_t form = {
        .gives = true, .owner = transport->base.rank, .peer = peer, .data = (void *)data, .bytes = bytes};
    return start_pair(transport, &form, transport->hub->sent, op);
}

weft_status_t weft_loopback_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                       weft_op_t **op)
{
    weft_op_t form = {.owner = transport->base.rank, .peer = peer, .data = data, .bytes = bytes};
    return start_pair(transport, &form, transport->hub->received, op);
}

static bool is_own(const weft_op_t *op)
{
    return !op->group && op->peer == op->owner;
}

/* Whether nothing that the owner started before holds the operation back. A message to oneself neither waits
 * nor is waited for. */
static bool has_begun(const weft_loopback_t *hub, const weft_op_t *op)
{
    for (const weft_op_t *earlier = hub->ops[op->owner]; earlier != op && !is_own(op);
         earlier = earlier->next)
        if (!earlier->over && !is_own(earlier))
            return false;
    return true;
}

static weft_op_t *find_give(const weft_loopback_t *hub, const weft_op_t *take)
{
    for (weft_op_t *give = hub->ops[take->peer]; give; give = give->next)
        if (give->gives && give->group == take->group && give->sequence == take->sequence &&
            (give->group || give->peer == take->owner))
            return give;
    return NULL;
}

static void end(weft_op_t *op, weft_status_t status)
{
    op->over = true;
    op->status = status;
}

static void advance_take(weft_loopback_t *hub, weft_op_t *take)
{
    weft_op_t *give = find_give(hub, take);
    if (give ? !has_begun(hub, give) : hub->presence[take->peer] != LOOPBACK_GONE)
        return;
    if (!give) {
        end(take, weft_fail(&take->why, WEFT_ERR_PEER_LOST, "rank %u: rank %u left without sending %zu bytes",
                            take->owner, take->peer, take->bytes));
        return;
    }
    give->ended[take->group ? position_of(take->group, take->owner) : 0] = true;
    if (give->bytes != take->bytes) {
        give->refused = true;
        give->refused_by = take->owner;
        give->refused_bytes = take->bytes;
        end(take, weft_fail(&take->why, WEFT_ERR_TRANSPORT,
                            "rank %u: rank %u sent %zu bytes where %zu were expected", take->owner,
                            give->owner, give->bytes, take->bytes));
        return;
    }
    if (take->bytes)
        memcpy(take->data, give->data, take->bytes);
    end(take, WEFT_OK);
}

static void advance_give(const weft_loopback_t *hub, weft_op_t *give)
{
    uint32_t lost = hub->num_ranks;
    for (uint32_t i = 0; i < num_takers(give); i++) {
        uint32_t taker = give->group ? give->group->ranks[i] : give->peer;
        if (give->ended[i] || (give->group && taker == give->owner))
            continue;
        if (hub->presence[taker] != LOOPBACK_GONE)
            return;
        lost = taker;
    }
    weft_status_t status = WEFT_OK;
    if (lost < hub->num_ranks)
        status =
            weft_fail(&give->why, WEFT_ERR_PEER_LOST, "rank %u: rank %u left without receiving %zu bytes",
                      give->owner, lost, give->bytes);
    else if (give->refused)
        status =
            weft_fail(&give->why, WEFT_ERR_TRANSPORT, "rank %u: sent %zu bytes where rank %u expected %zu",
                      give->owner, give->bytes, give->refused_by, give->refused_bytes);
    end(give, status);
}

/* All of one rank's, in the order started: what one ends lets the next begin. */
static void advance_all(weft_loopback_t *hub, uint32_t owner)
{
    bool held_back = false;
    for (weft_op_t *op = hub->ops[owner]; op; op = op->next) {
        if (op->over || (held_back && !is_own(op)))
            continue;
        if (op->gives)
            advance_give(hub, op);
        else
            advance_take(hub, op);
        held_back |= !op->over && !is_own(op);
    }
}

weft_status_t weft_loopback_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error)
{
    weft_loopback_t *hub = transport->hub;
    weft_status_t status = WEFT_OK;
    pthread_mutex_lock(&hub->mutex);
    advance_all(hub, op->owner);
    *done = op->over;
    if (op->over) {
        status = op->status;
        if (status != WEFT_OK)
            weft_fail(error, status, "%s", op->why.message);
        delist(hub, op);
    }
    pthread_mutex_unlock(&hub->mutex);
    return status;
}
