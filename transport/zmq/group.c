/* The calls that block: gathering from all ranks, and forming groups. Both are messages through one rank, on
 * channels of their own. */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/base/hash.h"
#include "transport/zmq/backend.h"

static weft_status_t refuse_failed(const weft_transport_t *t, const char *what, weft_error_t *error)
{
    if (t->failed)
        return weft_fail(error, WEFT_ERR_CLOSED, "rank %u: zmq: %s after a failure; close and open anew",
                         t->base.rank, what);
    return WEFT_OK;
}

typedef struct exchange {
    weft_transport_t *transport;
    const char *what;
    uint32_t channel;
    uint64_t deadline_us;
} exchange_t;

static bool is_given_up(const weft_transport_t *t)
{
    const weft_transport_ops_t *ops = weft_transport_table(t->bootstrap);
    return ops->given_up && ops->given_up(t->bootstrap);
}

static weft_status_t wait_for(const exchange_t *x, weft_op_t *op, weft_error_t *error)
{
    for (unsigned round = 0;; round++) {
        bool done;
        char at[160];
        weft_zmq_describe(x->transport, op, at, sizeof at);
        weft_status_t status = weft_zmq_test(x->transport, op, &done, error);
        if (done)
            return status == WEFT_OK ? status : weft_error_prefix(error, "%s", x->what);
        if (is_given_up(x->transport))
            return weft_fail(error, WEFT_ERR_ABORTED, "rank %u: zmq: %s: given up meanwhile: %s",
                             x->transport->base.rank, x->what, at);
        if (weft_now_us() >= x->deadline_us)
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "rank %u: zmq: %s: not all ranks came within %.1f s: %s",
                             x->transport->base.rank, x->what, (double)x->transport->timeout_us * 1e-6, at);
        if (round >= 100)
            weft_sleep_us(50);
    }
}

/* Start one operation and wait for its end. */
static weft_status_t move(const exchange_t *x, uint32_t in, uint32_t out, void *data, size_t bytes,
                          weft_error_t *error)
{
    weft_op_t *op;
    weft_status_t status = weft_zmq_start(x->transport, in, out, x->channel, data, bytes, &op);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rank %u: zmq: %s: %s", x->transport->base.rank, x->what,
                         weft_status_text(status));
    return wait_for(x, op, error);
}

/* ranks[0] takes the part of each other rank into `all` [count * bytes], then gives them all of it. */
static weft_status_t exchange(const exchange_t *x, const uint32_t *ranks, uint32_t count, uint32_t position,
                              uint8_t *all, size_t bytes, weft_error_t *error)
{
    if (position != 0) {
        WEFT_TRY(move(x, WEFT_ZMQ_NOBODY, ranks[0], all + position * bytes, bytes, error));
        return move(x, ranks[0], WEFT_ZMQ_NOBODY, all, count * bytes, error);
    }
    for (uint32_t i = 1; i < count; i++)
        WEFT_TRY(move(x, ranks[i], WEFT_ZMQ_NOBODY, all + i * bytes, bytes, error));
    for (uint32_t i = 1; i < count; i++)
        WEFT_TRY(move(x, WEFT_ZMQ_NOBODY, ranks[i], all, count * bytes, error));
    return WEFT_OK;
}

/* Ranks that failed half way are out of step: nothing but closing is left, and what ZeroMQ reads is taken
 * back before the memory goes. */
static weft_status_t give_up_after(weft_transport_t *t, weft_status_t status)
{
    if (status != WEFT_OK)
        weft_zmq_abort(t);
    return status;
}

static weft_status_t exchange_new(const exchange_t *x, const uint32_t *ranks, uint32_t count,
                                  uint32_t position, const void *mine, size_t bytes, uint8_t **all,
                                  weft_error_t *error)
{
    uint8_t *place = malloc(count * bytes + 1);
    if (!place)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: zmq: %s: out of memory",
                         x->transport->base.rank, x->what);
    if (bytes)
        memcpy(place + position * bytes, mine, bytes);
    weft_status_t status = exchange(x, ranks, count, position, place, bytes, error);
    if (give_up_after(x->transport, status) != WEFT_OK) {
        free(place);
        return status;
    }
    *all = place;
    return WEFT_OK;
}

static exchange_t new_exchange(weft_transport_t *t, const char *what, uint32_t channel)
{
    return (exchange_t){t, what, channel, weft_now_us() + t->timeout_us};
}

weft_status_t weft_zmq_allgather(weft_transport_t *t, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error)
{
    WEFT_TRY(refuse_failed(t, "allgather", error));
    if (bytes > WEFT_MAX_MESSAGE_BYTES / t->base.num_ranks)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rank %u: zmq: allgather of %zu bytes of each of %u ranks is too much", t->base.rank,
                         bytes, t->base.num_ranks);
    const exchange_t x = new_exchange(t, "allgather", WEFT_ZMQ_CHANNEL_GATHER);
    uint32_t position = 0;
    while (t->present[position] != t->base.rank)
        position++;
    uint8_t *gathered;
    WEFT_TRY(exchange_new(&x, t->present, t->num_present, position, mine, bytes, &gathered, error));
    if (bytes)
        memset(all, 0, bytes * t->base.num_ranks);
    for (uint32_t i = 0; i < t->num_present && bytes; i++)
        memcpy((uint8_t *)all + t->present[i] * bytes, gathered + i * bytes, bytes);
    free(gathered);
    return WEFT_OK;
}

/* ---- Groups ---- */

static void free_group(weft_group_t *group)
{
    if (group)
        free(group->ranks);
    free(group);
}

static weft_group_t *new_group(uint32_t id, const uint32_t *ranks, uint32_t count, uint32_t position)
{
    weft_group_t *group = calloc(1, sizeof *group);
    if (!group)
        return NULL;
    *group = (weft_group_t){
        .id = id, .count = count, .position = position, .ranks = malloc(count * sizeof *ranks)};
    if (!group->ranks) {
        free_group(group);
        return NULL;
    }
    memcpy(group->ranks, ranks, count * sizeof *ranks);
    return group;
}

static weft_status_t compare_lists(const weft_transport_t *t, const weft_group_t *group, const uint8_t *all,
                                   uint64_t mine, weft_error_t *error)
{
    for (uint32_t i = 0; i < group->count; i++)
        if (memcmp(all + i * sizeof mine, &mine, sizeof mine) != 0)
            return weft_fail(error, WEFT_ERR_TRANSPORT,
                             "rank %u: zmq: creating group %u: rank %u came with another list of ranks",
                             t->base.rank, group->id, group->ranks[i]);
    return WEFT_OK;
}

static weft_status_t meet(weft_transport_t *t, const weft_group_t *group, weft_error_t *error)
{
    const exchange_t x = new_exchange(t, "creating a group", WEFT_ZMQ_CHANNEL_MEET + group->id);
    uint64_t mine = weft_hash64(group->ranks, group->count * sizeof *group->ranks);
    uint8_t *all;
    weft_status_t status =
        exchange_new(&x, group->ranks, group->count, group->position, &mine, sizeof mine, &all, error);
    if (status != WEFT_OK)
        return weft_error_prefix(error, "group %u", group->id);
    status = compare_lists(t, group, all, mine, error);
    free(all);
    return give_up_after(t, status);
}

/* A chain's neighbours are connected before they have anything to say, so that each hears of the other's
 * death. */
static weft_status_t connect_neighbours(weft_transport_t *t, const weft_group_t *group, weft_error_t *error)
{
    for (uint32_t step = 1; step<group->count; step += group->count> 2 ? group->count - 2 : 1) {
        weft_status_t status = weft_zmq_connect(t, group->ranks[(group->position + step) % group->count]);
        if (status != WEFT_OK)
            return weft_fail(error, status, "rank %u: zmq: group %u: %s", t->base.rank, group->id,
                             weft_status_text(status));
    }
    return WEFT_OK;
}

weft_status_t weft_zmq_group_create(weft_transport_t *t, uint32_t id, const uint32_t *ranks, uint32_t count,
                                    weft_group_t **group, weft_error_t *error)
{
    uint32_t position;
    WEFT_TRY(refuse_failed(t, "group_create", error));
    WEFT_TRY(weft_transport_check_group(&t->base, id, ranks, count, &position, error));
    weft_group_t *made = new_group(id, ranks, count, position);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: zmq: creating group %u: out of memory",
                         t->base.rank, id);
    weft_status_t status = connect_neighbours(t, made, error);
    if (status == WEFT_OK)
        status = meet(t, made, error);
    if (status != WEFT_OK) {
        free_group(made);
        return status;
    }
    made->next = t->groups;
    if (made->next)
        made->next->previous = made;
    t->groups = made;
    *group = made;
    return WEFT_OK;
}

void weft_zmq_group_destroy(weft_transport_t *t, weft_group_t *group)
{
    if (!group)
        return;
    *(group->previous ? &group->previous->next : &t->groups) = group->next;
    if (group->next)
        group->next->previous = group->previous;
    free_group(group);
}
