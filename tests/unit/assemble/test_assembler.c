/* Whatever order buckets come in, each unit is handed out once, and not before its last fragment. */
#include "src/assemble/assembler.h"
#include "tests/support/world.h"

/* What the test itself knows of a version: which buckets have come, which units were handed out. */
typedef struct watch {
    const weft_program_t *program;
    weft_assembler_t *assembler;
    uint32_t *outstanding; /* [units] fragments */
    bool *handed;          /* [units] */
    bool *layers;          /* [layers] staged */
    uint32_t *pending;     /* buckets of granted rounds that have not come */
    uint32_t num_pending;
    uint32_t *ready; /* units handed out and not yet staged */
    uint32_t num_ready;
    uint32_t granted;
} watch_t;

static void open_watch(watch_t *watch, const weft_program_t *program)
{
    *watch = (watch_t){.program = program};
    assert_int_equal(weft_assembler_create(program, NULL, &watch->assembler), WEFT_OK);
    watch->outstanding = calloc(program->num_units + 1, sizeof *watch->outstanding);
    watch->handed = calloc(program->num_units + 1, sizeof *watch->handed);
    watch->layers = calloc(program->plan->layers->count, sizeof *watch->layers);
    watch->pending = calloc(program->num_buckets + 1, sizeof *watch->pending);
    watch->ready = calloc(program->num_units + 1, sizeof *watch->ready);
}

static void close_watch(watch_t *watch)
{
    weft_assembler_destroy(watch->assembler);
    free(watch->outstanding);
    free(watch->handed);
    free(watch->layers);
    free(watch->pending);
    free(watch->ready);
}

/* An amax fragment of a domain is an input of its first unit, and all others wait for it too. */
static void count_fragment(watch_t *watch, const weft_fragment_t *f, int by)
{
    const weft_program_t *p = watch->program;
    uint32_t domain = f->kind == WEFT_PIECE_DIGEST ? UINT32_MAX : p->units[f->unit].domain, others = 0;
    if (f->kind == WEFT_PIECE_AMAX && domain != UINT32_MAX)
        others = p->domains[domain].num_units - 1;
    for (uint32_t i = 0; f->kind != WEFT_PIECE_DIGEST && i <= others; i++)
        watch->outstanding[f->unit + i] += (uint32_t)by;
}

static void begin_version(watch_t *watch)
{
    const weft_program_t *p = watch->program;
    weft_assembler_begin(watch->assembler, NULL);
    watch->granted = watch->num_pending = watch->num_ready = 0;
    memset(watch->handed, 0, p->num_units * sizeof *watch->handed);
    memset(watch->layers, 0, p->plan->layers->count * sizeof *watch->layers);
    memset(watch->outstanding, 0, p->num_units * sizeof *watch->outstanding);
    for (size_t i = 0; i < p->num_fragments; i++)
        count_fragment(watch, &p->fragments[i], 1);
    for (size_t u = 0; u < p->num_units; u++)
        assert_int_equal(weft_assembler_unit_state(watch->assembler, (uint32_t)u), WEFT_UNIT_EMPTY);
}

static void collect_units(watch_t *watch)
{
    uint32_t unit;
    while (weft_assembler_next(watch->assembler, &unit)) {
        assert_int_equal(watch->outstanding[unit], 0);
        assert_false(watch->handed[unit]);
        assert_int_equal(weft_assembler_unit_state(watch->assembler, unit), WEFT_UNIT_COMPLETE);
        assert_true(weft_assembler_unit_round(watch->assembler, unit) < watch->granted);
        watch->handed[unit] = true;
        watch->ready[watch->num_ready++] = unit;
    }
}

static void grant(watch_t *watch)
{
    const weft_round_t *round = &watch->program->rounds[watch->granted];
    weft_assembler_grant(watch->assembler, watch->granted++);
    for (uint32_t b = 0; b < round->num_buckets; b++)
        watch->pending[watch->num_pending++] = round->first_bucket + b;
    collect_units(watch);
}

static void deliver(watch_t *watch, uint32_t place)
{
    const weft_program_t *p = watch->program;
    uint32_t index = watch->pending[place];
    const weft_bucket_t *bucket = &p->buckets[index];
    watch->pending[place] = watch->pending[--watch->num_pending];
    assert_int_equal(weft_assembler_arrive(watch->assembler, index, NULL), WEFT_OK);
    for (uint32_t i = 0; i < bucket->num_fragments; i++)
        count_fragment(watch, &p->fragments[bucket->first_fragment + i], -1);
    collect_units(watch);
}

static void stage(watch_t *watch, uint32_t place)
{
    uint32_t unit = watch->ready[place], layer = watch->program->units[unit].layer;
    bool whole, expected = true;
    watch->ready[place] = watch->ready[--watch->num_ready];
    weft_assembler_staged(watch->assembler, unit, &whole);
    for (size_t u = 0; u < watch->program->num_units; u++)
        if (watch->program->units[u].layer == layer)
            expected &= weft_assembler_unit_state(watch->assembler, (uint32_t)u) == WEFT_UNIT_STAGED;
    assert_int_equal(whole, expected);
    assert_false(watch->layers[layer]);
    watch->layers[layer] = whole;
}

static bool round_is_over(const watch_t *watch, uint32_t index)
{
    const weft_round_t *round = &watch->program->rounds[index];
    for (uint32_t i = 0; i < watch->num_pending; i++)
        if (watch->program->buckets[watch->pending[i]].round == index)
            return false;
    for (uint32_t u = round->first_unit; u < round->first_unit + round->num_units; u++)
        if (weft_assembler_unit_state(watch->assembler, u) != WEFT_UNIT_STAGED)
            return false;
    return true;
}

/* A granted round may follow one that is being quantized, not two. */
static bool may_grant(const watch_t *watch)
{
    if (watch->granted == watch->program->num_rounds)
        return false;
    return watch->granted < 2 || weft_assembler_round_done(watch->assembler, watch->granted - 2);
}

static void check_missing(const watch_t *watch)
{
    uint32_t missing;
    bool found = weft_assembler_missing(watch->assembler, &missing), pending = false;
    assert_int_equal(found, watch->num_pending > 0);
    for (uint32_t i = 0; i < watch->num_pending; i++)
        pending |= watch->pending[i] == missing;
    assert_true(pending || !found);
}

static void run_version(watch_t *watch, random_t *random)
{
    begin_version(watch);
    while (watch->granted < watch->program->num_rounds || watch->num_pending || watch->num_ready) {
        assert_false(weft_assembler_done(watch->assembler));
        uint32_t choice = random_in(random, 0, 2);
        if (choice == 0 && may_grant(watch))
            grant(watch);
        else if (choice == 1 && watch->num_pending)
            deliver(watch, random_in(random, 0, watch->num_pending - 1));
        else if (choice == 2 && watch->num_ready)
            stage(watch, random_in(random, 0, watch->num_ready - 1));
        check_missing(watch);
        for (uint32_t r = watch->granted > 3 ? watch->granted - 3 : 0; r < watch->granted; r++)
            assert_int_equal(weft_assembler_round_done(watch->assembler, r), round_is_over(watch, r));
    }
    assert_true(weft_assembler_done(watch->assembler));
    assert_int_equal(weft_assembler_layers_staged(watch->assembler), watch->program->plan->layers->count);
    for (size_t u = 0; u < watch->program->num_units; u++)
        assert_true(watch->handed[u]);
}

static checkpoint_t small_model(uint32_t experts)
{
    checkpoint_t cp = {.type = experts ? "qwen3_moe" : "qwen3",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 144,
                       .blocks = 1,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 40,
                       .mlp = 144,
                       .vocab = 70,
                       .experts = experts,
                       .expert_mlp = 36};
    checkpoint_describe(&cp);
    return cp;
}

static world_t *small_world_of(const checkpoint_t *cp, const char *trainer, const char *rollout, uint64_t budget,
                               const char *scheme)
{
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    options.budget_bytes = budget;
    options.max_bucket_bytes = 20000;
    return world_create(cp, trainer, rollout, scheme, &options);
}

static world_t *small_world(const checkpoint_t *cp, const char *trainer, const char *rollout, uint64_t budget)
{
    return small_world_of(cp, trainer, rollout, budget, "fp8-channel");
}

static void test_random_orders(void **state)
{
    (void)state;
    random_t random = random_begin("test_random_orders");
    const char *trainers[] = {"fsdp:3", "tp:2,dp:2", "fsdp:1"}, *rollouts[] = {"tp:4", "tp:2,ep", "tp:1x2"};
    for (uint32_t i = 0; i < random_cases(27); i++) {
        checkpoint_t cp = small_model(i % 2 ? 3 : 0);
        world_t *w = small_world_of(&cp, trainers[i % 3], rollouts[i / 3 % 3], i % 5 ? 200000 : 2000000,
                                    i % 4 < 2 ? "fp8-channel" : "fp8-tensor");
        for (uint32_t t = 0; t < w->tp; t++) {
            watch_t watch;
            open_watch(&watch, rollout_program(w, 0, t));
            run_version(&watch, &random);
            run_version(&watch, &random); /* and a version after it */
            close_watch(&watch);
        }
        world_destroy(w);
    }
}

/* Abandon a version half way; the next begins from nothing. */
static void test_begin_forgets_a_half_version(void **state)
{
    (void)state;
    random_t random = random_begin("test_begin_forgets_a_half_version");
    checkpoint_t cp = small_model(0);
    world_t *w = small_world(&cp, "fsdp:3", "tp:2", 200000);
    watch_t watch;
    open_watch(&watch, rollout_program(w, 0, 1));
    for (uint32_t steps = 0; steps < 6; steps++) {
        begin_version(&watch);
        grant(&watch);
        grant(&watch);
        for (uint32_t i = 0; i < steps && watch.num_pending; i++)
            deliver(&watch, 0);
        if (watch.num_ready)
            stage(&watch, 0);
    }
    run_version(&watch, &random);
    close_watch(&watch);
    world_destroy(w);
}

/* Heap's algorithm over the buckets of the largest round: every order there is. */
static uint32_t permute(watch_t *watch, uint32_t *order, uint32_t count, uint32_t round)
{
    uint32_t tried = 0;
    if (count == 1) {
        begin_version(watch);
        while (watch->granted <= round)
            grant(watch);
        for (uint32_t i = 0; order[i] != UINT32_MAX; i++)
            for (uint32_t place = 0; place < watch->num_pending; place++)
                if (watch->pending[place] == order[i])
                    deliver(watch, place);
        for (uint32_t u = 0; u < watch->program->rounds[round].num_units; u++)
            assert_true(watch->handed[watch->program->rounds[round].first_unit + u]);
        return 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        tried += permute(watch, order, count - 1, round);
        uint32_t other = count % 2 ? 0 : i, swap = order[other];
        order[other] = order[count - 1];
        order[count - 1] = swap;
    }
    return tried;
}

static void test_every_order_of_five(void **state)
{
    (void)state;
    checkpoint_t cp = small_model(0);
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    world_t *w = world_create(&cp, "fsdp:5", "tp:1", "bf16", &options);
    watch_t watch;
    open_watch(&watch, rollout_program(w, 0, 0));
    const weft_round_t *round = &watch.program->rounds[0];
    uint32_t order[6] = {0, 1, 2, 3, 4, UINT32_MAX};
    assert_int_equal(round->num_buckets, 5);
    assert_int_equal(permute(&watch, order, 5, 0), 120);
    close_watch(&watch);
    world_destroy(w);
}

/* ---- Refusals ---- */

static void expect_refusal(watch_t *watch, uint32_t bucket, const char *words)
{
    weft_error_t error = {0};
    const weft_bucket_t *b = &watch->program->buckets[bucket];
    const weft_fragment_t *f = &watch->program->fragments[b->first_fragment];
    char trainer[32], round[32];
    assert_int_equal(weft_assembler_arrive(watch->assembler, bucket, &error), WEFT_ERR_PROTOCOL);
    assert_int_equal(error.status, WEFT_ERR_PROTOCOL);
    snprintf(trainer, sizeof trainer, "trainer %u", b->source);
    snprintf(round, sizeof round, "round %u", b->round);
    assert_non_null(strstr(error.message, words));
    assert_non_null(strstr(error.message, trainer));
    assert_non_null(strstr(error.message, round));
    const char *what = f->kind == WEFT_PIECE_DIGEST
                           ? "digests"
                           : weft_model_tensor(watch->program->plan->model, f->tensor)->name;
    assert_non_null(strstr(error.message, what));
    collect_units(watch); /* no progress: a unit that came now would be caught */
}

static void test_second_arrivals_are_refused_and_change_nothing(void **state)
{
    (void)state;
    random_t random = random_begin("test_second_arrivals");
    checkpoint_t cp = small_model(3);
    world_t *w = small_world(&cp, "fsdp:3", "tp:2", 400000);
    watch_t watch;
    open_watch(&watch, rollout_program(w, 0, 0));
    begin_version(&watch);
    grant(&watch);
    while (watch.num_pending) {
        uint32_t place = random_in(&random, 0, watch.num_pending - 1), bucket = watch.pending[place];
        deliver(&watch, place);
        expect_refusal(&watch, bucket, "twice");
        if (watch.num_ready)
            stage(&watch, 0);
        expect_refusal(&watch, bucket, "twice");
    }
    close_watch(&watch);
    world_destroy(w);
}

static void test_early_buckets_are_refused(void **state)
{
    (void)state;
    random_t random = random_begin("test_early_buckets_are_refused");
    checkpoint_t cp = small_model(0);
    world_t *w = small_world(&cp, "tp:2", "tp:2", 200000);
    watch_t watch;
    open_watch(&watch, rollout_program(w, 0, 0));
    begin_version(&watch);
    for (uint32_t r = 0; r + 1 < watch.program->num_rounds; r++) {
        expect_refusal(&watch, watch.program->rounds[r].first_bucket, "before its round was granted");
        expect_refusal(&watch, watch.program->rounds[r + 1].first_bucket, "before its round was granted");
        grant(&watch);
        expect_refusal(&watch, watch.program->rounds[r + 1].first_bucket, "before its round was granted");
    }
    run_version(&watch, &random); /* what was refused may come in its turn */
    close_watch(&watch);
    world_destroy(w);
}

/* A rank whose share of the vocabulary is padding waits for nothing. */
static void test_padding_is_complete_when_granted(void **state)
{
    (void)state;
    checkpoint_t cp = small_model(0);
    cp.vocab = 3, cp.kv_heads = 4;
    checkpoint_describe(&cp);
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    world_t *w = world_create(&cp, "fsdp:2", "tp:4", "bf16", &options);
    watch_t watch;
    open_watch(&watch, rollout_program(w, 0, 3));
    begin_version(&watch);
    assert_int_equal(watch.program->units[0].real_rows, 0);
    assert_int_equal(watch.program->units[0].rows, 16);
    assert_int_equal(watch.program->units[0].num_inputs, 0);
    uint32_t unit;
    assert_false(weft_assembler_next(watch.assembler, &unit));
    grant(&watch);
    assert_true(watch.handed[0]);
    assert_false(watch.handed[1]);
    close_watch(&watch);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_orders),
        cmocka_unit_test(test_begin_forgets_a_half_version),
        cmocka_unit_test(test_every_order_of_five),
        cmocka_unit_test(test_second_arrivals_are_refused_and_change_nothing),
        cmocka_unit_test(test_early_buckets_are_refused),
        cmocka_unit_test(test_padding_is_complete_when_granted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
