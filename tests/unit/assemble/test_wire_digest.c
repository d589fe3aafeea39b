/* Both ends of a route come to the same digest, and to another one when anything was changed on the way. */
#include "src/assemble/wire_digest.h"
#include "src/base/hash.h"
#include "tests/support/world.h"

static checkpoint_t small_model(void)
{
    checkpoint_t cp = {.type = "qwen3",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 40,
                       .blocks = 2,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 8,
                       .mlp = 48,
                       .vocab = 70,
                       .expert_mlp = 1};
    checkpoint_describe(&cp);
    return cp;
}

static world_t *small_world(const checkpoint_t *cp)
{
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    options.max_bucket_bytes = 2000;
    options.budget_bytes = 100000;
    world_t *w = world_create(cp, "fsdp:2", "tp:2x2", "fp8-channel", &options);
    world_fill(w, element_id, NULL);
    world_pack(w);
    return w;
}

static bool same(const weft_digest_t *a, const weft_digest_t *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* One end of a world's routes: its digests, and copies of the buckets that it sends or has got. */
typedef struct end {
    const weft_program_t *program;
    uint8_t **buckets;
    weft_wire_digests_t digests;
} end_t;

static const uint8_t *bucket_at(void *user, uint32_t bucket)
{
    return ((end_t *)user)->buckets[bucket];
}

static end_t *end_open(const world_t *w, uint32_t rank)
{
    const weft_program_t *p = w->programs[rank];
    end_t *end = calloc(1, sizeof *end);
    end->program = p;
    end->buckets = calloc(p->num_buckets + 1, sizeof(uint8_t *));
    for (uint32_t i = 0; i < p->num_buckets; i++) {
        const weft_bucket_t *bucket = &p->buckets[i];
        end->buckets[i] = malloc(bucket->bytes);
        memcpy(end->buckets[i], w->packed[bucket->source][sent_bucket(w, bucket)], bucket->bytes);
    }
    assert_int_equal(weft_wire_digests_create(p, w->queue, &end->digests), WEFT_OK);
    assert_int_equal(weft_wire_digests_prepare(&end->digests, bucket_at, end), WEFT_OK);
    weft_wire_digests_begin(&end->digests, NULL);
    return end;
}

static void end_close(end_t *end)
{
    weft_wire_digests_destroy(&end->digests);
    for (uint32_t i = 0; i < end->program->num_buckets; i++)
        free(end->buckets[i]);
    free(end->buckets);
    free(end);
}

static void add_bucket(end_t *end, uint32_t bucket)
{
    static uint64_t ticket;
    assert_int_equal(weft_wire_digests_start(&end->digests, bucket), WEFT_OK);
    weft_wire_digests_mark(&end->digests, ++ticket);
    assert_false(weft_wire_digests_take(&end->digests, ticket - 1)); /* not before its ticket */
    assert_true(weft_wire_digests_take(&end->digests, ticket));
}

/* Take what the trainers packed for all buckets of a rank, in a random order. */
static end_t *take_all(const world_t *w, uint32_t rank, random_t *random)
{
    end_t *end = end_open(w, rank);
    const weft_program_t *p = end->program;
    uint32_t *order = calloc(p->num_buckets + 1, sizeof *order);
    for (uint32_t i = 0; i < p->num_buckets; i++)
        order[i] = i;
    random_shuffle(random, order, p->num_buckets);
    for (uint32_t i = 0; i < p->num_buckets; i++)
        add_bucket(end, order[i]);
    weft_wire_digests_finish(&end->digests);
    free(order);
    return end;
}

static void test_both_ends_agree(void **state)
{
    (void)state;
    random_t random = random_begin("test_both_ends_agree");
    checkpoint_t cp = small_model();
    world_t *w = small_world(&cp);
    end_t **ends = calloc(w->num_ranks, sizeof(end_t *));
    for (uint32_t rank = 0; rank < w->num_ranks; rank++)
        ends[rank] = take_all(w, rank, &random);
    for (uint32_t rank = w->num_trainers; rank < w->num_ranks; rank++)
        for (uint32_t route = 0; route < w->plan->routes.count; route++) {
            const weft_route_t *r = &w->plan->routes.items[route];
            if (weft_set_has(&w->plan->sets.items[r->set], w->programs[rank]->tp_rank))
                assert_true(same(&ends[rank]->digests.routes[route], &ends[r->source]->digests.routes[route]));
        }
    for (uint32_t route = 1; route < w->plan->routes.count; route++)
        assert_false(same(&ends[2]->digests.routes[route], &ends[2]->digests.routes[0]) &&
                     ends[2]->digests.hashers[route]);
    for (uint32_t rank = 0; rank < w->num_ranks; rank++)
        end_close(ends[rank]);
    free(ends);
    world_destroy(w);
}

/* ---- Changes on the way ---- */

/* What happens to the bytes of one bucket; false when it cannot happen to this one. */
typedef bool (*change_fn)(const weft_program_t *p, const weft_bucket_t *bucket, uint8_t *bytes,
                          random_t *random);

static bool flip_a_bit(const weft_program_t *p, const weft_bucket_t *bucket, uint8_t *bytes, random_t *random)
{
    const weft_fragment_t *f =
        &p->fragments[bucket->first_fragment + random_in(random, 0, bucket->num_fragments - 1)];
    bytes[f->offset + random_in(random, 0, f->bytes - 1)] ^= (uint8_t)(1u << random_in(random, 0, 7));
    return true;
}

static bool swap_fragments(const weft_program_t *p, const weft_bucket_t *bucket, uint8_t *bytes,
                           random_t *random)
{
    (void)random;
    for (uint32_t i = 1; i < bucket->num_fragments; i++) {
        const weft_fragment_t *a = &p->fragments[bucket->first_fragment + i - 1], *b = a + 1;
        if (a->bytes != b->bytes || memcmp(bytes + a->offset, bytes + b->offset, a->bytes) == 0)
            continue;
        for (uint32_t k = 0; k < a->bytes; k++) {
            uint8_t swap = bytes[a->offset + k];
            bytes[a->offset + k] = bytes[b->offset + k];
            bytes[b->offset + k] = swap;
        }
        return true;
    }
    return false;
}

static bool repeat_a_fragment(const weft_program_t *p, const weft_bucket_t *bucket, uint8_t *bytes,
                              random_t *random)
{
    (void)random;
    if (bucket->num_fragments < 2)
        return false;
    const weft_fragment_t *a = &p->fragments[bucket->first_fragment], *b = a + 1;
    uint32_t count = a->bytes < b->bytes ? a->bytes : b->bytes;
    bool differ = memcmp(bytes + a->offset, bytes + b->offset, count) != 0;
    memmove(bytes + b->offset, bytes + a->offset, count);
    return differ;
}

static bool zero_it(const weft_program_t *p, const weft_bucket_t *bucket, uint8_t *bytes, random_t *random)
{
    (void)p;
    (void)random;
    memset(bytes, 0, bucket->bytes);
    return true;
}

static bool shift_by_a_word(const weft_program_t *p, const weft_bucket_t *bucket, uint8_t *bytes,
                            random_t *random)
{
    (void)random;
    const weft_fragment_t *f = &p->fragments[bucket->first_fragment];
    if (f->bytes < 24)
        return false;
    memmove(bytes + f->offset, bytes + f->offset + 8, f->bytes - 8);
    return true;
}

static void check_change(const world_t *w, change_fn change, random_t *random, uint32_t *changed)
{
    uint32_t rank = w->num_trainers;
    const weft_program_t *p = w->programs[rank];
    end_t *clean = take_all(w, rank, random);
    for (uint32_t b = 0; b < p->rounds[p->num_rounds - 1].first_bucket; b++) {
        const weft_bucket_t *bucket = &p->buckets[b];
        end_t *dirty = take_all(w, rank, random);
        if (change(p, bucket, dirty->buckets[b], random)) {
            add_bucket(dirty, b);
            weft_wire_digests_finish(&dirty->digests);
            for (uint32_t route = 0; route < w->plan->routes.count; route++)
                assert_int_equal(same(&clean->digests.routes[route], &dirty->digests.routes[route]),
                                 route != bucket->route);
            ++*changed;
        }
        end_close(dirty);
    }
    end_close(clean);
}

static void test_changes_show(void **state)
{
    (void)state;
    random_t random = random_begin("test_changes_show");
    const change_fn changes[] = {flip_a_bit, swap_fragments, repeat_a_fragment, zero_it, shift_by_a_word};
    checkpoint_t cp = small_model();
    world_t *w = small_world(&cp);
    for (unsigned i = 0; i < sizeof changes / sizeof *changes; i++) {
        uint32_t changed = 0;
        check_change(w, changes[i], &random, &changed);
        if (changed == 0)
            fail_msg("change %u never happened", i);
    }
    world_destroy(w);
}

/* A rank that never got a bucket, or got two of a route in each other's place. */
static void test_lost_and_exchanged_buckets_show(void **state)
{
    (void)state;
    checkpoint_t cp = small_model();
    world_t *w = small_world(&cp);
    const weft_program_t *p = w->programs[w->num_trainers];
    random_t random = random_begin("test_lost_and_exchanged_buckets_show");
    end_t *end = take_all(w, w->num_trainers, &random);
    weft_wire_digests_t *whole = &end->digests;
    uint32_t last = p->rounds[p->num_rounds - 1].first_bucket, exchanged = 0;
    for (uint32_t lost = 0; lost < last; lost++) {
        uint32_t route = p->buckets[lost].route;
        weft_wire_digests_t less;
        assert_int_equal(weft_wire_digests_create(p, w->queue, &less), WEFT_OK);
        for (uint32_t b = 0; b < last; b++)
            if (b != lost)
                less.buckets[b] = whole->buckets[b];
        weft_wire_digests_finish(&less);
        assert_false(same(&less.routes[route], &whole->routes[route]));
        for (uint32_t b = 0; b < lost; b++) {
            if (p->buckets[b].route != route || same(&whole->buckets[b], &whole->buckets[lost]))
                continue;
            less.buckets[lost] = whole->buckets[b];
            less.buckets[b] = whole->buckets[lost];
            weft_wire_digests_finish(&less);
            assert_false(same(&less.routes[route], &whole->routes[route]));
            less.buckets[b] = whole->buckets[b];
            exchanged++;
        }
        weft_wire_digests_destroy(&less);
    }
    assert_true(last > 3 && exchanged > 3);
    end_close(end);
    world_destroy(w);
}

/* The digest buckets that close a version are no part of what they speak of. */
static void test_closing_buckets_do_not_count(void **state)
{
    (void)state;
    random_t random = random_begin("test_closing_buckets_do_not_count");
    checkpoint_t cp = small_model();
    world_t *w = small_world(&cp);
    const weft_program_t *p = w->programs[0];
    end_t *end = take_all(w, 0, &random);
    size_t bytes = w->plan->routes.count * sizeof(weft_digest_t);
    weft_digest_t *before = malloc(bytes);
    memcpy(before, end->digests.routes, bytes);
    for (uint32_t b = p->rounds[p->num_rounds - 1].first_bucket; b < p->num_buckets; b++) {
        assert_int_equal(p->fragments[p->buckets[b].first_fragment].kind, WEFT_PIECE_DIGEST);
        memset(end->buckets[b], 0x5A, p->buckets[b].bytes);
        add_bucket(end, b);
    }
    weft_wire_digests_finish(&end->digests);
    assert_memory_equal(before, end->digests.routes, bytes);
    end_close(end);
    free(before);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ends_agree),
        cmocka_unit_test(test_changes_show),
        cmocka_unit_test(test_lost_and_exchanged_buckets_show),
        cmocka_unit_test(test_closing_buckets_do_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
