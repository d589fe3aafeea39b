/* What a rollout holds and how it is doing. */
#include <string.h>

#include "src/base/error.h"
#include "src/rollout_private.h"

/* ---- tensors, status ---- */

uint32_t weft_rollout_num_tensors(const weft_rollout_t *r)
{
    return r->outputs.count;
}

weft_tensor_t weft_rollout_tensor(const weft_rollout_t *r, uint32_t index)
{
    const weft_output_t *output = &r->outputs.items[index];
    weft_tensor_t tensor = {.name = output->name,
                            .dtype = output->dtype,
                            .num_dims = output->num_dims,
                            .bytes = output->bytes,
                            .data = weft_weights_live(r->weights, output->offset)};
    memcpy(tensor.shape, output->shape, sizeof tensor.shape);
    return tensor;
}

static const weft_output_t *find_output(const weft_rollout_t *r, const char *name, uint32_t *index)
{
    for (*index = 0; *index < r->outputs.count; ++*index)
        if (strcmp(r->outputs.items[*index].name, name) == 0)
            return &r->outputs.items[*index];
    return NULL;
}

weft_status_t weft_rollout_get(const weft_rollout_t *r, const char *name, weft_tensor_t *tensor)
{
    uint32_t index;
    if (!find_output(r, name, &index))
        return WEFT_ERR_MISSING_TENSOR;
    *tensor = weft_rollout_tensor(r, index);
    return WEFT_OK;
}

/* Whether the swap can write where the engine wants its weights. */
static weft_status_t check_memory(const weft_rollout_t *r, const char *name, const void *memory, weft_error_t *error)
{
    if (!memory)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rollout rank %u: %s is bound to no memory", r->session->rank, name);
    weft_memory_kind_t kind = r->queue->ops->memory_kind(r->queue, memory);
    if (r->queue->ops->reads(r->queue, kind))
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_ARGUMENT,
                     "rollout rank %u: %s is bound at %p, which is %s; its weights are in %s memory", r->session->rank,
                     name, memory, weft_memory_kind_name(kind), r->queue->ops->name);
}

weft_status_t weft_rollout_bind(weft_rollout_t *r, const char *name, void *memory, weft_error_t *error)
{
    uint32_t index;
    const weft_output_t *output = find_output(r, name, &index);
    if (!output)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR, "rollout rank %u holds no tensor %s",
                         r->session->rank, name);
    WEFT_TRY(check_memory(r, name, memory, error));
    pthread_mutex_lock(&r->session->mutex);
    weft_status_t status =
        r->session->transferring
            ? weft_fail(error, WEFT_ERR_ARGUMENT, "rollout rank %u: %s is bound after the first version began",
                        r->session->rank, name)
            : weft_weights_bind(r->weights, output->offset, output->bytes, memory, error);
    pthread_mutex_unlock(&r->session->mutex);
    return status;
}

static weft_rollout_phase_t phase_of(weft_guard_view_t view, uint64_t live, uint64_t pending,
                                     uint64_t prepared, bool tainted)
{
    if (view.fenced)
        return WEFT_ROLLOUT_LOST;
    if (tainted && pending <= live)
        return WEFT_ROLLOUT_TAINTED;
    if (view.committed)
        return WEFT_ROLLOUT_COMMITTED;
    if (view.limit != WEFT_GUARD_NO_LIMIT)
        return WEFT_ROLLOUT_ARMED;
    if (pending <= live)
        return WEFT_ROLLOUT_IDLE;
    return prepared == pending ? WEFT_ROLLOUT_PREPARED : WEFT_ROLLOUT_RECEIVING;
}

void weft_rollout_get_status(const weft_rollout_t *r, weft_rollout_status_t *status)
{
    uint64_t live = weft_guard_live(&r->session->guard);
    weft_guard_view_t view = weft_guard_look(&r->session->guard);
    bool tainted = weft_rollout_is_tainted(r);
    pthread_mutex_lock(&r->session->mutex);
    uint64_t begun = r->session->transferring, pending = begun > r->session->discarded ? begun : 0;
    bool receiving = r->received_version == pending; /* it may have begun without this thread having seen it */
    *status = (weft_rollout_status_t){
        .phase = phase_of(view, live, pending, r->pending_stats.version, tainted),
        .live_version = live,
        .pending_version = pending > live ? pending : 0,
        .newest_version = r->session->newest > live ? r->session->newest : live,
        .received_bytes = receiving ? r->received_bytes : 0,
        .expected_bytes = r->program->payload_bytes,
        .layers_staged = receiving ? r->layers_staged : 0,
        .num_layers = r->program->plan->layers->count,
        .cut_off = r->session->cut_off,
    };
    pthread_mutex_unlock(&r->session->mutex);
}

void weft_rollout_get_stats(const weft_rollout_t *r, weft_rollout_stats_t *stats)
{
    pthread_mutex_lock(&r->session->mutex);
    *stats = r->stats;
    pthread_mutex_unlock(&r->session->mutex);
    /* On a GPU the device knows better than the host when steps end and begin, once they have. */
    double pause_us = stats->version == r->paused_version ? r->queue->ops->engine_pause_us(r->queue) : -1;
    if (pause_us >= 0)
        stats->pause_us = (uint64_t)pause_us;
}

uint32_t weft_rollout_version_log(const weft_rollout_t *r, weft_version_span_t *spans, uint32_t capacity)
{
    pthread_mutex_lock(&r->session->mutex);
    uint32_t kept = r->num_spans < WEFT_ROLLOUT_SPANS ? r->num_spans : WEFT_ROLLOUT_SPANS;
    uint32_t count = kept < capacity ? kept : capacity;
    for (uint32_t i = 0; i < count; i++)
        spans[i] = r->spans[(r->num_spans - count + i) % WEFT_ROLLOUT_SPANS];
    pthread_mutex_unlock(&r->session->mutex);
    return kept;
}
