/* Two slots and three tables: what round r has staged and been told stays there until it is quantized, while
 * round r + 1 arrives with the amax of r + 2. */
#include "src/assemble/staging.h"
#include "tests/support/world.h"

static checkpoint_t model_of(weft_dtype_t dtype)
{
    checkpoint_t cp = {.type = "qwen3",
                       .dtype = dtype,
                       .hidden = 300,
                       .blocks = 2,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 24,
                       .mlp = 112,
                       .vocab = 70,
                       .expert_mlp = 1};
    checkpoint_describe(&cp);
    return cp;
}

static world_t *world_with(const checkpoint_t *cp, const char *trainer, const char *rollout, uint64_t budget,
                           const char *scheme)
{
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_plan_summary_t summary;
    world_t *w = world_create(cp, trainer, rollout, scheme, NULL);
    weft_plan_summarize(w->plan, &summary);
    world_destroy(w);
    options.budget_bytes = summary.least_budget_bytes + budget;
    w = world_create(cp, trainer, rollout, scheme, &options);
    world_fill(w, element_id, NULL);
    world_pack(w);
    return w;
}

static world_t *world_of(const checkpoint_t *cp, const char *trainer, const char *rollout, uint64_t budget)
{
    return world_with(cp, trainer, rollout, budget, "fp8-channel");
}

/* Everything of round `round` lands; buckets in a random order. */
static void land_round(const world_t *w, const weft_staging_t *staging, uint32_t round, random_t *random)
{
    const weft_program_t *p = staging->program;
    const weft_round_t *r = &p->rounds[round];
    uint32_t *order = calloc(r->num_buckets + 1, sizeof *order);
    for (uint32_t i = 0; i < r->num_buckets; i++)
        order[i] = r->first_bucket + i;
    random_shuffle(random, order, r->num_buckets);
    for (uint32_t i = 0; i < r->num_buckets; i++) {
        const weft_bucket_t *bucket = &p->buckets[order[i]];
        memcpy(weft_staging_bucket(staging, bucket), w->packed[bucket->source][sent_bucket(w, bucket)],
               bucket->bytes);
        bool any = false, expected = false;
        for (uint32_t f = 0; f < bucket->num_fragments; f++)
            expected |= p->fragments[bucket->first_fragment + f].kind == WEFT_PIECE_AMAX;
        assert_int_equal(weft_staging_fold_amax(staging, order[i], &any), WEFT_OK);
        assert_int_equal(any, expected);
    }
    free(order);
}

/* The amax of whole rows of o_proj and down_proj, whose rows no rank cuts. */
static void check_table(const world_t *w, const weft_unit_t *unit, const weft_outputs_t *outputs,
                        const uint16_t *amax)
{
    const weft_output_t *weight = &outputs->items[outputs->layers[unit->layer].weight];
    uint32_t source = find_output(w->cp, weight->name)->first_source;
    const source_t *s = &w->cp->sources[source];
    uint64_t first_row = (unit->weight_offset - weight->offset) / unit->cols; /* one byte an element */
    for (uint32_t r = 0; r < unit->rows; r++) {
        uint16_t expected = 0;
        for (uint32_t c = 0; c < s->cols; c++) {
            uint16_t m =
                element_magnitude(element_id(source, (first_row + r) * s->cols + c, s->dtype), s->dtype);
            expected = m > expected ? m : expected;
        }
        assert_int_equal(amax[r], expected);
    }
}

/* That of all parts of the layer, in every round that has one of its units. */
static void check_domain(const world_t *w, const weft_unit_t *unit, const weft_outputs_t *outputs, const uint16_t *amax)
{
    const output_t *output = find_output(w->cp, outputs->items[outputs->layers[unit->layer].weight].name);
    uint16_t expected = 0;
    for (uint32_t i = output->first_source; i < output->first_source + output->num_parts; i++) {
        const source_t *s = &w->cp->sources[i];
        for (uint64_t flat = 0; flat < (uint64_t)s->rows * s->cols; flat++) {
            uint16_t m = element_magnitude(element_id(i, flat, s->dtype), s->dtype);
            expected = m > expected ? m : expected;
        }
    }
    assert_int_equal(*amax, expected);
}

static uint32_t check_round(const world_t *w, const weft_staging_t *staging, uint32_t round)
{
    const weft_program_t *p = staging->program;
    uint32_t tables = 0;
    for (uint32_t u = p->rounds[round].first_unit;
         u < p->rounds[round].first_unit + p->rounds[round].num_units; u++) {
        const weft_unit_t *unit = &p->units[u];
        const uint16_t *amax = weft_staging_amax(staging, round, unit);
        assert_int_equal(amax != NULL, unit->amax_row != UINT32_MAX || unit->domain != UINT32_MAX);
        if (amax && unit->domain != UINT32_MAX) {
            check_domain(w, unit, &w->outputs[p->tp_rank], amax);
            tables++;
        } else if (amax) {
            check_table(w, unit, &w->outputs[p->tp_rank], amax);
            tables++;
        }
        for (uint32_t i = 0; i < unit->num_inputs; i++) {
            const weft_fragment_t *f = &p->fragments[p->inputs[unit->first_input + i]];
            const weft_bucket_t *bucket = &p->buckets[f->bucket];
            size_t ld_elems;
            const void *at = weft_staging_locate((void *)(uintptr_t)staging, f, &ld_elems);
            if (f->kind != WEFT_PIECE_DATA)
                continue;
            assert_int_equal(ld_elems, f->rect.cols);
            assert_memory_equal(at, w->packed[bucket->source][sent_bucket(w, bucket)] + f->offset, f->bytes);
        }
    }
    return tables;
}

/* Round r is looked at when r + 1 has arrived whole, just before r + 2 may be posted. */
static uint32_t run_version(const world_t *w, const weft_staging_t *staging, random_t *random)
{
    uint32_t rounds = staging->program->num_rounds, tables = 0;
    weft_staging_clear_amax(staging, 0);
    for (uint32_t r = 0; r < rounds; r++) {
        weft_staging_clear_amax(staging, r + 1);
        land_round(w, staging, r, random);
        tables += r > 0 ? check_round(w, staging, r - 1) : 0;
    }
    return tables + check_round(w, staging, rounds - 1);
}

static void run_world(world_t *w, random_t *random)
{
    for (uint32_t t = 0; t < w->tp; t++) {
        weft_staging_t staging;
        assert_int_equal(weft_staging_create(rollout_program(w, 0, t), w->queue, true, &staging), WEFT_OK);
        assert_int_equal(weft_staging_prepare(&staging, weft_staging_locate, &staging), WEFT_OK);
        assert_true(staging.bytes <= w->plan->options.budget_bytes);
        memset(staging.memory, 0xFF, staging.bytes);
        assert_true(run_version(w, &staging, random) >= 2 * 2 * 3);
        assert_true(run_version(w, &staging, random) >= 2 * 2 * 3); /* over what the version before left */
        weft_staging_destroy(&staging);
    }
    world_destroy(w);
}

static void test_slots_and_tables_survive(void **state)
{
    (void)state;
    random_t random = random_begin("test_slots_and_tables_survive");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    const char *trainers[] = {"fsdp:3", "tp:2", "tp:2,fsdp:2", "dp:2"};
    for (uint32_t i = 0; i < 24; i++) {
        checkpoint_t cp = model_of(dtypes[i % 3]);
        uint64_t more = i < 8 ? 0 : random_in(&random, 0, 300000);
        run_world(world_of(&cp, trainers[i % 4], i % 5 ? "tp:2" : "tp:4x2", more), &random);
    }
}

static void test_domains_survive(void **state)
{
    (void)state;
    random_t random = random_begin("test_domains_survive");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    const char *trainers[] = {"fsdp:3", "tp:2", "tp:2,fsdp:2", "dp:2"}, *rollouts[] = {"tp:1", "tp:2", "tp:4x2"};
    for (uint32_t i = 0; i < 12; i++) {
        checkpoint_t cp = model_of(dtypes[i % 3]);
        uint64_t more = i < 6 ? 0 : random_in(&random, 0, 300000);
        run_world(world_with(&cp, trainers[i % 4], rollouts[i / 4], more, "fp8-tensor"), &random);
    }
}

static void test_slots_alternate_and_do_not_touch(void **state)
{
    (void)state;
    checkpoint_t cp = model_of(WEFT_DTYPE_BF16);
    world_t *w = world_of(&cp, "fsdp:2", "tp:2", 0);
    const weft_program_t *p = rollout_program(w, 0, 0);
    weft_staging_t s;
    assert_int_equal(weft_staging_create(p, w->queue, true, &s), WEFT_OK);
    assert_true(s.slots[1] >= s.slots[0] + p->slot_bytes);
    assert_true((uint8_t *)s.tables[0] >= s.slots[1] + p->slot_bytes);
    assert_true(s.tables[1] >= s.tables[0] + p->amax_rows && s.tables[2] >= s.tables[1] + p->amax_rows);
    assert_true((uint8_t *)(s.tables[2] + p->amax_rows) <= s.memory + s.bytes);
    for (size_t b = 0; b < p->num_buckets; b++) {
        const uint8_t *at = weft_staging_bucket(&s, &p->buckets[b]), *slot = s.slots[p->buckets[b].round % 2];
        assert_true(at >= slot && at + p->buckets[b].bytes <= slot + p->slot_bytes);
        assert_int_equal((uintptr_t)at % WEFT_FRAGMENT_ALIGN, 0);
    }
    weft_staging_clear_amax(&s, p->num_rounds); /* past the end: nothing */
    weft_staging_destroy(&s);
    assert_null(s.memory);
    world_destroy(w);
}

/* Where nothing lands there are tables only. */
static void test_without_slots(void **state)
{
    (void)state;
    checkpoint_t cp = model_of(WEFT_DTYPE_BF16);
    world_t *w = world_of(&cp, "tp:2", "tp:2", 0);
    const weft_program_t *p = rollout_program(w, 0, 0);
    weft_staging_t s;
    assert_int_equal(weft_staging_create(p, w->queue, false, &s), WEFT_OK);
    assert_true(s.bytes < WEFT_STAGING_TABLES * (p->amax_rows * 2 + WEFT_FRAGMENT_ALIGN));
    assert_null(weft_staging_bucket(&s, &p->buckets[0]));
    assert_true(p->amax_rows > 0 && s.tables[2] > s.tables[1]);
    weft_staging_destroy(&s);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots_and_tables_survive),
        cmocka_unit_test(test_domains_survive),
        cmocka_unit_test(test_slots_alternate_and_do_not_touch),
        cmocka_unit_test(test_without_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
