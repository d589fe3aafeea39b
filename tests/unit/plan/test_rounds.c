/* Rounds under the least budget: they fit, their amax comes before them, and nothing smaller is taken. */
#include "tests/support/world.h"

typedef struct setting {
    const char *trainer, *rollout, *scheme;
} setting_t;

static const setting_t settings[] = {
    {"fsdp:1", "tp:1", "bf16"},
    {"fsdp:3", "tp:2", "fp8-channel"},
    {"tp:2,dp:2", "tp:4x2", "fp8-channel"},
    {"fsdp:8", "tp:1x3", "fp8-channel"},
    {"dp:4", "tp:2,ep", "fp8-channel"},
    {"fsdp:2", "tp:2", "fp8-block"},
    {"fsdp:3", "tp:2x2", "fp8-tensor"},
    {"tp:2,dp:2", "tp:2,ep", "nvfp4"},
    {"fsdp:5", "tp:4", "nvfp4"},
};

#define NUM_SETTINGS (sizeof settings / sizeof *settings)

static checkpoint_t model_of(unsigned index)
{
    checkpoint_t cp = {.type = index % 2 ? "qwen3" : "qwen3_moe",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 128,
                       .blocks = 2,
                       .heads = 8,
                       .kv_heads = 4,
                       .head_dim = 64,
                       .mlp = 512,
                       .vocab = 300,
                       .expert_mlp = 256};
    cp.experts = index % 2 ? 0 : 5;
    checkpoint_describe(&cp);
    return cp;
}

static world_t *plan_with(const checkpoint_t *cp, const setting_t *s, uint64_t budget, weft_error_t *error)
{
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    options.budget_bytes = budget;
    return world_try(cp, s->trainer, s->rollout, s->scheme, &options, error);
}

static uint64_t least_budget(const checkpoint_t *cp, const setting_t *s)
{
    weft_plan_summary_t summary;
    world_t *w = world_create(cp, s->trainer, s->rollout, s->scheme, NULL);
    weft_plan_summarize(w->plan, &summary);
    world_destroy(w);
    return summary.least_budget_bytes;
}

/* Every round of every rollout rank within half the budget, both and the tables within all of it. */
static void check_rounds(const world_t *w, uint64_t budget)
{
    weft_plan_summary_t summary;
    weft_plan_summarize(w->plan, &summary);
    assert_true(summary.staging_bytes <= budget);
    for (uint32_t rank = w->num_trainers; rank < w->num_ranks; rank++) {
        const weft_program_t *program = w->programs[rank];
        assert_int_equal(program->num_rounds, summary.num_rounds);
        for (uint32_t r = 0; r < program->num_rounds; r++)
            assert_true(program->rounds[r].slot_bytes <= budget / 2);
        assert_true(2 * program->slot_bytes <= summary.staging_bytes);
    }
}

static void check_amax_comes_before(const weft_program_t *program)
{
    for (size_t i = 0; i < program->num_fragments; i++) {
        const weft_fragment_t *f = &program->fragments[i];
        if (f->kind == WEFT_PIECE_DIGEST)
            continue;
        uint32_t round = program->buckets[f->bucket].round + (f->kind == WEFT_PIECE_AMAX);
        assert_in_range(f->unit, program->rounds[round].first_unit,
                        program->rounds[round].first_unit + program->rounds[round].num_units - 1);
    }
}

static void test_least_budget(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NUM_SETTINGS; i++) {
        checkpoint_t cp = model_of(i);
        uint64_t least = least_budget(&cp, &settings[i]);
        weft_error_t error;
        world_t *w = plan_with(&cp, &settings[i], least, &error);
        assert_non_null(w);
        assert_true(w->plan->num_rounds > 2);
        check_rounds(w, least);
        for (uint32_t rank = w->num_trainers; rank < w->num_ranks; rank++)
            check_amax_comes_before(w->programs[rank]);
        world_destroy(w);
        assert_null(plan_with(&cp, &settings[i], least - 1, &error));
        assert_int_equal(error.status, WEFT_ERR_BUDGET);
        char number[32];
        snprintf(number, sizeof number, "%llu bytes", (unsigned long long)least);
        assert_non_null(strstr(error.message, number));
        assert_null(plan_with(&cp, &settings[i], 0, &error));
        assert_int_equal(error.status, WEFT_ERR_BUDGET);
    }
}

static void test_more_budget_means_no_more_rounds(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NUM_SETTINGS; i++) {
        checkpoint_t cp = model_of(i);
        uint32_t rounds = UINT32_MAX;
        for (uint64_t budget = least_budget(&cp, &settings[i]); budget < 64u << 20;
             budget = budget * 3 / 2 + 77) {
            weft_error_t error;
            world_t *w = plan_with(&cp, &settings[i], budget, &error);
            assert_non_null(w);
            check_rounds(w, budget);
            assert_true(w->plan->num_rounds <= rounds);
            rounds = w->plan->num_rounds;
            world_destroy(w);
        }
        assert_true(rounds <= 3); /* amax, everything, digests */
    }
}

/* The units of all rounds are the units of the plan in order, on each rank that has them. */
static void test_rounds_cover_all_units(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NUM_SETTINGS; i++) {
        checkpoint_t cp = model_of(i);
        weft_error_t error;
        world_t *w = plan_with(&cp, &settings[i], least_budget(&cp, &settings[i]), &error);
        weft_cursor_t cursor = {0};
        uint32_t units = 0, planned = 0;
        do
            units++;
        while (weft_cursor_next(w->plan, &cursor));
        for (uint32_t r = 0; r < w->plan->num_rounds; r++) {
            planned += w->plan->rounds[r].num_units;
            assert_int_equal(w->plan->rounds[r].digests, r + 1 == w->plan->num_rounds);
        }
        assert_int_equal(planned, units);
        const weft_program_t *program = rollout_program(w, 0, 0);
        assert_int_equal(program->num_units, units); /* rank 0 has every expert that any has */
        world_destroy(w);
    }
}

static void test_buckets_keep_to_their_limit(void **state)
{
    (void)state;
    const uint32_t limits[] = {1000, 4096, 30000, 200000};
    checkpoint_t cp = model_of(1);
    for (unsigned i = 0; i < 4; i++) {
        weft_plan_options_t options = WEFT_PLAN_OPTIONS;
        options.max_bucket_bytes = limits[i];
        world_t *w = world_create(&cp, "fsdp:3", "tp:2", "fp8-channel", &options);
        for (uint32_t rank = 0; rank < w->num_ranks; rank++)
            for (size_t b = 0; b < w->programs[rank]->num_buckets; b++) {
                const weft_bucket_t *bucket = &w->programs[rank]->buckets[b];
                assert_true(bucket->bytes <= limits[i] || bucket->num_fragments == 1);
            }
        world_destroy(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least_budget),
        cmocka_unit_test(test_more_budget_means_no_more_rounds),
        cmocka_unit_test(test_rounds_cover_all_units),
        cmocka_unit_test(test_buckets_keep_to_their_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
