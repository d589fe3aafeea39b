#include "src/assemble/wire_digest.h"

#include <stdlib.h>

#include "src/base/hash.h"

weft_status_t weft_wire_digests_create(const weft_program_t *program, weft_wire_digests_t *digests)
{
    size_t routes = program->plan->routes.count;
    weft_wire_digests_t made = {
        .program = program,
        .buckets = calloc(program->num_buckets + 1, sizeof *made.buckets),
        .routes = calloc(routes + 1, sizeof *made.routes),
        .hashers = calloc(routes + 1, sizeof(struct weft_hasher *)),
        .scratch = weft_hasher_create(),
    };
    bool whole = made.buckets && made.routes && made.hashers && made.scratch;
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
    weft_hasher_destroy(digests->scratch);
    free(digests->hashers);
    free(digests->buckets);
    free(digests->routes);
    *digests = (weft_wire_digests_t){0};
}

void weft_wire_digests_add(weft_wire_digests_t *digests, const weft_kernels_t *kernels, uint32_t bucket,
                           const uint8_t *bytes)
{
    const weft_program_t *program = digests->program;
    const weft_bucket_t *b = &program->buckets[bucket];
    weft_hasher_reset(digests->scratch);
    for (uint32_t i = 0; i < b->num_fragments; i++) {
        const weft_fragment_t *fragment = &program->fragments[b->first_fragment + i];
        weft_digest_t digest = weft_digest_run(kernels, bytes + fragment->offset, fragment->bytes);
        weft_hasher_add(digests->scratch, &digest, sizeof digest);
    }
    digests->buckets[bucket] = weft_hasher_digest(digests->scratch);
}

void weft_wire_digests_finish(weft_wire_digests_t *digests)
{
    const weft_program_t *program = digests->program;
    size_t routes = program->plan->routes.count;
    for (size_t i = 0; i < routes; i++)
        if (digests->hashers[i])
            weft_hasher_reset(digests->hashers[i]);
    for (size_t i = 0; i < program->rounds[program->num_rounds - 1].first_bucket; i++)
        weft_hasher_add(digests->hashers[program->buckets[i].route], &digests->buckets[i],
                        sizeof *digests->buckets);
    for (size_t i = 0; i < routes; i++)
        if (digests->hashers[i])
            digests->routes[i] = weft_hasher_digest(digests->hashers[i]);
}
