#include "src/assemble/wire_digest.h"

#include <stdlib.h>

#include "src/base/hash.h"

#define NO_TICKET UINT64_MAX

typedef struct weft_wire_pending {
    uint32_t bucket;
    uint64_t ticket;
} weft_wire_pending_t;

weft_status_t weft_wire_digests_create(const weft_program_t *program, weft_queue_t *queue,
                                       weft_wire_digests_t *digests)
{
    size_t routes = program->plan->routes.count;
    weft_wire_digests_t made = {
        .program = program,
        .queue = queue,
        .buckets = calloc(program->num_buckets + 1, sizeof *made.buckets),
        .routes = calloc(routes + 1, sizeof *made.routes),
        .hashers = calloc(routes + 1, sizeof(struct weft_hasher *)),
        .scratch = weft_hasher_create(),
        .pending = calloc(program->num_buckets + 1, sizeof *made.pending),
    };
    bool whole = made.buckets && made.routes && made.hashers && made.scratch && made.pending;
    for (size_t i = 0; i < program->num_buckets && whole; i++) {
        struct weft_hasher **hasher = &made.hashers[program->buckets[i].route];
        if (!*hasher)
            whole = (*hasher = weft_hasher_create()) != NULL;
    }
    if (!whole) {
        weft_wire_digests_destroy(&made);
        return WEFT_ERR_NO_MEMORY;
    }
    *digests = made;
    return WEFT_OK;
}

void weft_wire_digests_destroy(weft_wire_digests_t *digests)
{
    for (size_t i = 0; digests->hashers && i < digests->program->plan->routes.count; i++)
        weft_hasher_destroy(digests->hashers[i]);
    if (digests->queue)
        digests->queue->ops->digest_destroy(digests->list);
    weft_hasher_destroy(digests->scratch);
    free(digests->hashers);
    free(digests->buckets);
    free(digests->routes);
    free(digests->pending);
    *digests = (weft_wire_digests_t){0};
}

weft_status_t weft_wire_digests_prepare(weft_wire_digests_t *digests, weft_bucket_at_fn bucket_at, void *user)
{
    const weft_program_t *p = digests->program;
    weft_run_t *runs = calloc(p->num_fragments + 1, sizeof *runs);
    if (!runs)
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t b = 0; b < p->num_buckets; b++) {
        const weft_bucket_t *bucket = &p->buckets[b];
        const uint8_t *bytes = bucket_at(user, b);
        for (uint32_t i = bucket->first_fragment; i < bucket->first_fragment + bucket->num_fragments; i++)
            runs[i] = (weft_run_t){bytes + p->fragments[i].offset, p->fragments[i].bytes};
    }
    digests->queue->ops->digest_destroy(digests->list);
    digests->list = NULL;
    weft_status_t status =
        digests->queue->ops->digest_create(digests->queue, runs, (uint32_t)p->num_fragments, &digests->list);
    free(runs);
    return status;
}

void weft_wire_digests_begin(weft_wire_digests_t *digests, const bool *selected)
{
    digests->selected = selected;
    digests->first_pending = digests->num_pending = 0;
}

weft_status_t weft_wire_digests_start(weft_wire_digests_t *digests, uint32_t bucket)
{
    const weft_bucket_t *b = &digests->program->buckets[bucket];
    size_t at = (digests->first_pending + digests->num_pending++) % digests->program->num_buckets;
    digests->pending[at] = (weft_wire_pending_t){bucket, NO_TICKET};
    return digests->queue->ops->digest_run(digests->list, b->first_fragment, b->num_fragments);
}

void weft_wire_digests_mark(weft_wire_digests_t *digests, uint64_t ticket)
{
    for (size_t i = digests->num_pending; i > 0; i--) {
        size_t at = (digests->first_pending + i - 1) % digests->program->num_buckets;
        if (digests->pending[at].ticket != NO_TICKET)
            return;
        digests->pending[at].ticket = ticket;
    }
}

static void take_bucket(weft_wire_digests_t *digests, uint32_t bucket)
{
    const weft_bucket_t *b = &digests->program->buckets[bucket];
    const weft_digest_t *results = digests->queue->ops->digest_results(digests->list) + b->first_fragment;
    weft_hasher_reset(digests->scratch);
    weft_hasher_add(digests->scratch, results, b->num_fragments * sizeof *results);
    digests->buckets[bucket] = weft_hasher_digest(digests->scratch);
}

bool weft_wire_digests_take(weft_wire_digests_t *digests, uint64_t done)
{
    while (digests->num_pending && digests->pending[digests->first_pending].ticket <= done) {
        take_bucket(digests, digests->pending[digests->first_pending].bucket);
        digests->first_pending = (digests->first_pending + 1) % digests->program->num_buckets;
        digests->num_pending--;
    }
    return digests->num_pending == 0;
}

void weft_wire_digests_finish(weft_wire_digests_t *digests)
{
    const weft_program_t *program = digests->program;
    size_t routes = program->plan->routes.count;
    for (size_t i = 0; i < routes; i++)
        if (digests->hashers[i])
            weft_hasher_reset(digests->hashers[i]);
    for (size_t i = 0; i < program->rounds[program->num_rounds - 1].first_bucket; i++)
        if (!digests->selected || digests->selected[i])
            weft_hasher_add(digests->hashers[program->buckets[i].route], &digests->buckets[i],
                            sizeof *digests->buckets);
    for (size_t i = 0; i < routes; i++)
        if (digests->hashers[i])
            digests->routes[i] = weft_hasher_digest(digests->hashers[i]);
}
