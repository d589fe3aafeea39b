#include "src/lender.h"

#include <stdlib.h>

#include "src/base/error.h"

struct weft_lender {
    weft_session_t *session;
    const weft_program_t *program;
    weft_queue_t *queue;
    uint64_t *offsets;     /* [fragments] */
    uint64_t *route_bytes; /* [routes] */
    uint64_t *route_first; /* [routes], in memory */
    uint8_t *memory;       /* all routes' amax vectors */
    weft_lent_run_t *runs; /* [tensors + routes] */
    uint32_t num_tensors, num_routes;
};

static const weft_transport_ops_t *ops_of(const weft_lender_t *l)
{
    return weft_transport_table(l->session->transport);
}

void weft_lent_amax_places(const weft_program_t *program, uint64_t *offsets, uint64_t *bytes)
{
    for (size_t r = 0; r < program->plan->routes.count; r++)
        bytes[r] = 0;
    for (size_t i = 0; i < program->num_fragments; i++) {
        const weft_fragment_t *f = &program->fragments[i];
        uint64_t *end = &bytes[program->buckets[f->bucket].route];
        if (f->kind != WEFT_PIECE_AMAX)
            continue;
        offsets[i] = *end;
        *end += (f->bytes + WEFT_FRAGMENT_ALIGN - 1) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
    }
}

/* The vectors lie with the tensors: where these can be lent, so can they. */
static weft_status_t make_memory(weft_lender_t *l, weft_error_t *error)
{
    uint64_t bytes = 0;
    for (uint32_t r = 0; r < l->num_routes; r++) {
        l->route_first[r] = bytes;
        bytes += l->route_bytes[r];
    }
    if (bytes == 0)
        return WEFT_OK;
    if (l->queue->ops->on_host)
        return ops_of(l)->alloc_lendable(l->session->transport, bytes, (void **)&l->memory, error);
    weft_status_t status = l->queue->ops->alloc(l->queue, bytes, (void **)&l->memory);
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "trainer rank %u: no memory for %llu bytes of amax vectors",
                           l->session->rank, (unsigned long long)bytes);
}

static weft_status_t build(weft_lender_t *l, weft_error_t *error)
{
    l->offsets = calloc(l->program->num_fragments + 1, sizeof *l->offsets);
    l->route_bytes = calloc((size_t)l->num_routes + 1, sizeof *l->route_bytes);
    l->route_first = calloc((size_t)l->num_routes + 1, sizeof *l->route_first);
    l->runs = calloc((size_t)l->num_tensors + l->num_routes + 1, sizeof *l->runs);
    if (!l->offsets || !l->route_bytes || !l->route_first || !l->runs)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for what it lends", l->session->rank);
    weft_lent_amax_places(l->program, l->offsets, l->route_bytes);
    return make_memory(l, error);
}

weft_status_t weft_lender_create(weft_session_t *session, const weft_program_t *program, weft_queue_t *queue,
                                 weft_lender_t **lender, weft_error_t *error)
{
    weft_lender_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for what it lends", session->rank);
    *made = (weft_lender_t){.session = session,
                            .program = program,
                            .queue = queue,
                            .num_tensors = weft_model_num_tensors(program->plan->model),
                            .num_routes = (uint32_t)program->plan->routes.count};
    weft_status_t status = build(made, error);
    if (status != WEFT_OK) {
        weft_lender_destroy(made);
        return status;
    }
    *lender = made;
    return WEFT_OK;
}

void weft_lender_destroy(weft_lender_t *l)
{
    if (!l)
        return;
    if (l->memory && l->queue->ops->on_host)
        ops_of(l)->free_lendable(l->session->transport, l->memory);
    else
        l->queue->ops->free(l->queue, l->memory);
    free(l->offsets);
    free(l->route_bytes);
    free(l->route_first);
    free(l->runs);
    free(l);
}

uint8_t *weft_lender_place(void *user, uint32_t bucket, uint32_t fragment)
{
    const weft_lender_t *l = user;
    if (l->program->fragments[fragment].kind != WEFT_PIECE_AMAX)
        return NULL;
    return l->memory + l->route_first[l->program->buckets[bucket].route] + l->offsets[fragment];
}

static weft_lent_run_t shard_run(const weft_lender_t *l, uint32_t tensor, const weft_shard_t *shard)
{
    if (weft_shard_empty(shard) || !shard->data)
        return (weft_lent_run_t){0};
    size_t element = weft_dtype_bytes(weft_model_tensor(l->program->plan->model, tensor)->dtype);
    return (weft_lent_run_t){shard->data, weft_shard_elems(shard, shard->ld_elems) * element, shard->ld_elems};
}

weft_status_t weft_lender_lend(weft_lender_t *l, uint64_t version, const weft_shard_t *shards, weft_error_t *error)
{
    for (uint32_t i = 0; i < l->num_tensors; i++)
        l->runs[i] = shard_run(l, i, &shards[i]);
    for (uint32_t r = 0; r < l->num_routes; r++) {
        uint64_t bytes = l->route_bytes[r];
        l->runs[l->num_tensors + r] = (weft_lent_run_t){bytes ? l->memory + l->route_first[r] : NULL, bytes, 1};
    }
    return ops_of(l)->lend(l->session->transport, version, l->runs, l->num_tensors + l->num_routes, error);
}

void weft_lender_unlend(weft_lender_t *l)
{
    ops_of(l)->unlend(l->session->transport);
}
