/* In: a trainer's shards. Out: copies, with the same leading dimensions.
 * Invariant: a snapshot is not written while the version it was taken for is in flight (the trainer sees to
 * it). */
#include "src/snapshot.h"

#include <stdlib.h>

#include "src/base/error.h"

#define ALIGN 256u

static size_t shard_bytes(const weft_snapshot_t *s, const weft_shard_t *shard, uint32_t tensor)
{
    size_t element = weft_dtype_bytes(weft_model_tensor(s->session->plan->model, tensor)->dtype);
    return shard->data ? weft_shard_elems(shard, shard->ld_elems) * element : 0;
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* As a lender's: what lies in it may be read by another process. */
static weft_status_t allocate(weft_snapshot_t *s, uint64_t bytes, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(s->session->transport);
    if (weft_session_lends(s->session) && s->queue->ops->on_host)
        WEFT_TRY(ops->alloc_lendable(s->session->transport, bytes, (void **)&s->memory, error));
    else if (s->queue->ops->alloc(s->queue, bytes, (void **)&s->memory) != WEFT_OK)
        return weft_fail(
            error, WEFT_ERR_NO_MEMORY,
            "trainer rank %u: no memory for a snapshot of %llu bytes: publish without, and write the weights "
            "only after RELEASED",
            s->session->rank, (unsigned long long)bytes);
    s->bytes = bytes;
    return WEFT_OK;
}

static void drop_memory(weft_snapshot_t *s)
{
    if (!s->memory)
        return;
    if (weft_session_lends(s->session) && s->queue->ops->on_host)
        weft_transport_table(s->session->transport)->free_lendable(s->session->transport, s->memory);
    else
        s->queue->ops->free(s->queue, s->memory);
    s->memory = NULL;
    s->bytes = 0;
}

/* Room for shards as they are bound now. */
static weft_status_t make_room(weft_snapshot_t *s, const weft_shard_t *shards, uint32_t count,
                               weft_error_t *error)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += padded(shard_bytes(s, &shards[i], i));
    if (!s->shards && !(s->shards = calloc((size_t)count + 1, sizeof *s->shards)))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for a snapshot",
                         s->session->rank);
    if (bytes <= s->bytes)
        return WEFT_OK;
    drop_memory(s);
    return allocate(s, bytes, error);
}

weft_status_t weft_snapshot_take(weft_snapshot_t *s, const weft_shard_t *shards, uint64_t version,
                                 void *stream, weft_error_t *error)
{
    uint32_t count = weft_model_num_tensors(s->session->plan->model);
    uint8_t *next;
    WEFT_TRY(make_room(s, shards, count, error));
    s->moved = false;
    next = s->memory;
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes = shard_bytes(s, &shards[i], i);
        weft_shard_t copy = shards[i];
        copy.data = bytes ? next : NULL;
        s->moved |= copy.data != s->shards[i].data || copy.ld_elems != s->shards[i].ld_elems;
        s->shards[i] = copy;
        if (bytes == 0)
            continue;
        weft_status_t status = s->queue->ops->engine_copy(s->queue, stream, next, shards[i].data, bytes);
        if (status != WEFT_OK)
            return weft_fail(error, status, "trainer rank %u: tensor %s cannot be copied: %s",
                             s->session->rank, weft_model_tensor(s->session->plan->model, i)->name,
                             weft_status_text(status));
        next += padded(bytes);
    }
    s->version = version;
    return WEFT_OK;
}

void weft_snapshot_free(weft_snapshot_t *s)
{
    drop_memory(s);
    free(s->shards);
    s->shards = NULL;
}
