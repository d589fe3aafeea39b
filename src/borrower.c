#include "src/borrower.h"

#include <stdlib.h>

#include "src/base/error.h"
#include "src/lender.h"

/* A trainer rank that this rank reads from. */
typedef struct source {
    bool used;
    uint64_t generation; /* that is mapped; 0: none */
    weft_shard_t *shards; /* [tensors] */
} source_t;

struct weft_borrower {
    weft_session_t *session;
    const weft_program_t *program;
    source_t *sources;     /* [trainers] */
    uint64_t *offsets;     /* [fragments] of amax vectors in their route's run */
    uint64_t *route_bytes; /* [routes] */
    const uint8_t **maxima; /* [routes] */
    uint32_t num_tensors, num_trainers;
};

static const weft_transport_ops_t *ops_of(const weft_borrower_t *b)
{
    return weft_transport_table(b->session->transport);
}

static weft_status_t build(weft_borrower_t *b)
{
    size_t routes = b->program->plan->routes.count;
    b->sources = calloc((size_t)b->num_trainers + 1, sizeof *b->sources);
    b->offsets = calloc(b->program->num_fragments + 1, sizeof *b->offsets);
    b->route_bytes = calloc(routes + 1, sizeof *b->route_bytes);
    b->maxima = calloc(routes + 1, sizeof *b->maxima);
    if (!b->sources || !b->offsets || !b->route_bytes || !b->maxima)
        return WEFT_ERR_NO_MEMORY;
    for (size_t i = 0; i < b->program->num_buckets; i++)
        b->sources[b->program->buckets[i].source].used = true;
    for (uint32_t t = 0; t < b->num_trainers; t++) {
        source_t *source = &b->sources[t];
        if (source->used && !(source->shards = calloc((size_t)b->num_tensors + 1, sizeof *source->shards)))
            return WEFT_ERR_NO_MEMORY;
        if (source->used)
            weft_shards_place(b->program->plan, t, source->shards);
    }
    weft_lent_amax_places(b->program, b->offsets, b->route_bytes);
    return WEFT_OK;
}

weft_status_t weft_borrower_create(weft_session_t *session, const weft_program_t *program,
                                   weft_borrower_t **borrower)
{
    weft_borrower_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    *made = (weft_borrower_t){.session = session,
                              .program = program,
                              .num_tensors = weft_model_num_tensors(program->plan->model),
                              .num_trainers = program->plan->trainer->num_ranks};
    weft_status_t status = build(made);
    if (status != WEFT_OK) {
        weft_borrower_destroy(made);
        return status;
    }
    *borrower = made;
    return WEFT_OK;
}

void weft_borrower_destroy(weft_borrower_t *b)
{
    if (!b)
        return;
    for (uint32_t t = 0; b->sources && t < b->num_trainers; t++)
        free(b->sources[t].shards);
    free(b->sources);
    free(b->offsets);
    free(b->route_bytes);
    free(b->maxima);
    free(b);
}

void weft_borrower_forget(weft_borrower_t *b)
{
    for (uint32_t t = 0; t < b->num_trainers; t++)
        b->sources[t].generation = 0;
}

bool weft_borrower_has(const weft_borrower_t *b, uint64_t version, uint32_t *first)
{
    for (uint32_t t = 0; t < b->num_trainers; t++) {
        uint64_t lent, generation;
        if (!b->sources[t].used)
            continue;
        *first = t;
        if (ops_of(b)->lent(b->session->transport, t, &lent, &generation) != WEFT_OK || lent != version)
            return false;
    }
    return true;
}

weft_status_t weft_borrower_alive(const weft_borrower_t *b, weft_error_t *error)
{
    for (uint32_t t = 0; t < b->num_trainers; t++) {
        uint64_t lent, generation;
        weft_status_t status = b->sources[t].used ? ops_of(b)->lent(b->session->transport, t, &lent, &generation) : WEFT_OK;
        if (status != WEFT_OK)
            return weft_fail(error, status, "rollout rank %u: trainer rank %u is gone before it lent its weights",
                             b->session->rank, t);
    }
    return WEFT_OK;
}

static weft_status_t map_shards(weft_borrower_t *b, uint32_t from, weft_error_t *error)
{
    for (uint32_t i = 0; i < b->num_tensors; i++) {
        weft_shard_t *shard = &b->sources[from].shards[i];
        weft_lent_run_t run;
        if (weft_shard_empty(shard))
            continue;
        WEFT_TRY(ops_of(b)->borrow(b->session->transport, from, i, &run, error));
        shard->data = run.data;
        shard->ld_elems = run.ld_elems;
    }
    return WEFT_OK;
}

static weft_status_t map_maxima(weft_borrower_t *b, uint32_t from, weft_error_t *error)
{
    const weft_routes_t *routes = &b->program->plan->routes;
    for (uint32_t r = 0; r < routes->count; r++) {
        weft_lent_run_t run;
        if (routes->items[r].source != from || !b->route_bytes[r])
            continue;
        WEFT_TRY(ops_of(b)->borrow(b->session->transport, from, b->num_tensors + r, &run, error));
        b->maxima[r] = run.data;
    }
    return WEFT_OK;
}

weft_status_t weft_borrower_map(weft_borrower_t *b, bool *moved, weft_error_t *error)
{
    *moved = false;
    for (uint32_t t = 0; t < b->num_trainers; t++) {
        uint64_t version, generation;
        if (!b->sources[t].used)
            continue;
        weft_status_t status = ops_of(b)->lent(b->session->transport, t, &version, &generation);
        if (status != WEFT_OK)
            return weft_fail(error, status, "rollout rank %u: what trainer rank %u lends cannot be seen",
                             b->session->rank, t);
        if (generation == b->sources[t].generation)
            continue;
        WEFT_TRY(map_shards(b, t, error));
        WEFT_TRY(map_maxima(b, t, error));
        b->sources[t].generation = generation;
        *moved = true;
    }
    return WEFT_OK;
}

const void *weft_borrower_locate(void *user, const weft_fragment_t *f, size_t *ld_elems)
{
    const weft_borrower_t *b = user;
    const weft_bucket_t *bucket = &b->program->buckets[f->bucket];
    if (f->kind == WEFT_PIECE_AMAX) {
        *ld_elems = 1;
        return b->maxima[bucket->route] + b->offsets[f - b->program->fragments];
    }
    const weft_shard_t *shard = &b->sources[bucket->source].shards[f->tensor];
    *ld_elems = shard->ld_elems;
    return weft_shard_at(shard, weft_dtype_bytes(weft_model_tensor(b->program->plan->model, f->tensor)->dtype),
                         f->rect.row, f->rect.col);
}
