/* A proof is worth what it refuses: patterns are made, proven, damaged in one place and must then be refused.
 */
#include "tests/support/world.h"

typedef struct bench {
    weft_model_t *model;
    weft_layers_t *layers;
    weft_layout_t *trainer, *rollout;
    weft_sets_t sets;
    weft_pattern_t pattern;
} bench_t;

static checkpoint_t model_of(const char *type)
{
    checkpoint_t cp = {.type = type,
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 200,
                       .blocks = 1,
                       .heads = 8,
                       .kv_heads = 2,
                       .head_dim = 40,
                       .mlp = 304,
                       .vocab = 333,
                       .experts = 3,
                       .expert_mlp = 160};
    if (strcmp(type, "qwen3") == 0)
        cp.experts = 0;
    checkpoint_describe(&cp);
    return cp;
}

/* The pattern of the layer whose name ends in `layer`. */
static void open_bench_of(bench_t *b, const char *type, const char *layer, const char *trainer,
                          const char *rollout, const char *scheme_name)
{
    checkpoint_t cp = model_of(type);
    weft_scheme_entry_t entry = {0};
    const weft_scheme_map_t map = {.entries = &entry, .count = 1};
    *b = (bench_t){.model = checkpoint_model(&cp)};
    b->trainer = parse_layout(trainer, WEFT_SIDE_TRAINER);
    b->rollout = parse_layout(rollout, WEFT_SIDE_ROLLOUT);
    assert_int_equal(weft_scheme_find(scheme_name, &entry.scheme, NULL), WEFT_OK);
    assert_int_equal(weft_layers_create(b->model, &b->layers, NULL), WEFT_OK);
    for (uint32_t i = 0; i < b->layers->count; i++) {
        const char *name = b->layers->items[i].name;
        if (strlen(name) < strlen(layer) || strcmp(name + strlen(name) - strlen(layer), layer) != 0)
            continue;
        assert_int_equal(weft_pattern_create(&b->layers->items[i], &map, &entry, b->trainer,
                                             NULL, b->rollout, &b->sets, &b->pattern),
                         WEFT_OK);
        return;
    }
    fail_msg("no layer %s", layer);
}

static void open_bench(bench_t *b, const char *type, const char *layer, const char *trainer,
                       const char *rollout)
{
    open_bench_of(b, type, layer, trainer, rollout, "fp8-channel");
}

static void close_bench(bench_t *b)
{
    weft_pattern_destroy(&b->pattern);
    weft_sets_destroy(&b->sets);
    weft_layers_destroy(b->layers);
    weft_layout_destroy(b->trainer);
    weft_layout_destroy(b->rollout);
    weft_model_close(b->model);
}

static bool proven(const bench_t *b, char reason[256])
{
    return weft_pattern_prove(&b->pattern, b->rollout, &b->sets, reason) == WEFT_OK;
}

/* ---- Damages to one fragment ---- */

typedef void (*damage_fn)(weft_fragment_pattern_t *fragment);

static void shorten_rows(weft_fragment_pattern_t *f)
{
    f->rect.rows--;
}
static void shorten_cols(weft_fragment_pattern_t *f)
{
    f->rect.cols--;
}
static void lengthen_rows(weft_fragment_pattern_t *f)
{
    f->rect.rows++;
}
static void lengthen_cols(weft_fragment_pattern_t *f)
{
    f->rect.cols++;
}
static void shift_source_row(weft_fragment_pattern_t *f)
{
    f->rect.row++;
}
static void shift_source_col(weft_fragment_pattern_t *f)
{
    f->rect.col++;
}
static void shift_place_row(weft_fragment_pattern_t *f)
{
    f->to_row++;
}
static void shift_place_col(weft_fragment_pattern_t *f)
{
    f->to_col++;
}

static void shift_both_rows(weft_fragment_pattern_t *f)
{
    f->rect.row++;
    f->to_row++;
}

static void shift_back_rows(weft_fragment_pattern_t *f)
{
    f->rect.row--;
    f->to_row--;
}

static const struct {
    const char *name;
    damage_fn damage;
    bool of_amax; /* an amax has no column to go to */
} damages[] = {
    {"shorten_rows", shorten_rows, true},         {"shorten_cols", shorten_cols, true},
    {"lengthen_rows", lengthen_rows, true},       {"lengthen_cols", lengthen_cols, true},
    {"shift_source_row", shift_source_row, true}, {"shift_source_col", shift_source_col, true},
    {"shift_place_row", shift_place_row, true},   {"shift_place_col", shift_place_col, false},
    {"shift_both_rows", shift_both_rows, true},   {"shift_back_rows", shift_back_rows, true},
};

#define NUM_DAMAGES (sizeof damages / sizeof *damages)

static void expect_refusal(const bench_t *b, const char *what, uint32_t part, uint32_t index)
{
    char reason[256] = "";
    if (proven(b, reason))
        fail_msg("%s of fragment %u of part %u of %s was proven", what, index, part,
                 b->pattern.example->name);
    assert_non_null(strstr(reason, b->pattern.example->name));
}

static void damage_fragment(bench_t *b, uint32_t part, uint32_t index, bool amax)
{
    weft_fragment_pattern_t *fragment = &b->pattern.parts[part].fragments[index], saved = *fragment;
    for (unsigned d = 0; d < NUM_DAMAGES; d++) {
        if (amax && !damages[d].of_amax)
            continue;
        damages[d].damage(fragment);
        expect_refusal(b, damages[d].name, part, index);
        *fragment = saved;
    }
}

/* Send it to one rank fewer, or to another one. */
static void damage_set(bench_t *b, uint32_t part, uint32_t index)
{
    weft_fragment_pattern_t *fragment = &b->pattern.parts[part].fragments[index], saved = *fragment;
    if (fragment->set == WEFT_SET_EACH)
        return;
    for (uint32_t set = 0; set < b->sets.count; set++) {
        fragment->set = set;
        if (set != saved.set)
            expect_refusal(b, "another set", part, index);
    }
    *fragment = saved;
}

/* Take fragment `index` out of its unit, or send it twice, by rewriting the unit's list. */
static void drop_and_double(bench_t *b, uint32_t part_index, uint32_t unit_index, bool amax)
{
    weft_part_pattern_t *part = &b->pattern.parts[part_index];
    weft_unit_pattern_t *unit = &part->units[unit_index], saved = *unit;
    uint32_t *first = amax ? &unit->first_amax : &unit->first_fragment;
    uint32_t *count = amax ? &unit->num_amax : &unit->num_fragments, whole = *count;
    weft_fragment_pattern_t *list = part->fragments, *copy = calloc(2 * whole + 2, sizeof *copy);
    weft_fragment_pattern_t *all = malloc((part->num_fragments + 2 * whole + 2) * sizeof *all);
    memcpy(all, list, part->num_fragments * sizeof *all);
    part->fragments = all;
    for (uint32_t out = 0; out < whole; out++) {
        memcpy(copy, &list[*first], whole * sizeof *copy);
        memmove(copy + out, copy + out + 1, (whole - out - 1) * sizeof *copy);
        memcpy(all + part->num_fragments, copy, (whole - 1) * sizeof *copy);
        *first = part->num_fragments;
        *count = whole - 1;
        expect_refusal(b, "loss", part_index, out);
        *unit = saved;
        memcpy(all + part->num_fragments, &list[*first], whole * sizeof *copy);
        all[part->num_fragments + whole] = list[*first + out];
        *first = part->num_fragments;
        *count = whole + 1;
        expect_refusal(b, "double", part_index, out);
        *unit = saved;
    }
    part->fragments = list;
    free(all);
    free(copy);
}

typedef struct sample {
    const char *type, *layer, *trainer, *rollout;
} sample_t;

static const sample_t samples[] = {
    {"qwen3", "qkv_proj", "fsdp:3", "tp:4x2"},        {"qwen3", "qkv_proj", "fsdp:1", "tp:1"},
    {"qwen3", "gate_up_proj", "tp:2,fsdp:2", "tp:4"}, {"qwen3", "o_proj", "fsdp:5", "tp:2"},
    {"qwen3", "down_proj", "tp:2,dp:2", "tp:4"},      {"qwen3", "embed_tokens", "fsdp:4", "tp:3"},
    {"qwen3", "model.norm", "fsdp:3", "tp:2"},        {"qwen3_moe", "experts.w13", "fsdp:2", "tp:2"},
    {"qwen3_moe", "experts.w2", "fsdp:2", "tp:3,ep"}, {"qwen3_moe", "experts.w13", "tp:4", "tp:3,ep"},
};

#define NUM_SAMPLES (sizeof samples / sizeof *samples)

static void test_whole_patterns_are_proven(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NUM_SAMPLES; i++) {
        bench_t b;
        char reason[256] = "";
        open_bench(&b, samples[i].type, samples[i].layer, samples[i].trainer, samples[i].rollout);
        if (!proven(&b, reason))
            fail_msg("%s", reason);
        close_bench(&b);
    }
}

typedef void (*visit_fn)(bench_t *b, uint32_t part, uint32_t unit);

static void for_each_unit(visit_fn visit)
{
    for (unsigned i = 0; i < NUM_SAMPLES; i++) {
        bench_t b;
        open_bench(&b, samples[i].type, samples[i].layer, samples[i].trainer, samples[i].rollout);
        for (uint32_t p = 0; p < b.pattern.num_parts; p++)
            for (uint32_t u = 0; u < b.pattern.parts[p].num_units; u++)
                visit(&b, p, u);
        close_bench(&b);
    }
}

static void damage_data(bench_t *b, uint32_t part, uint32_t unit)
{
    const weft_unit_pattern_t *u = &b->pattern.parts[part].units[unit];
    for (uint32_t i = u->first_fragment; i < u->first_fragment + u->num_fragments; i++) {
        damage_fragment(b, part, i, false);
        damage_set(b, part, i);
    }
    drop_and_double(b, part, unit, false);
}

static void damage_amax(bench_t *b, uint32_t part, uint32_t unit)
{
    const weft_unit_pattern_t *u = &b->pattern.parts[part].units[unit];
    for (uint32_t i = u->first_amax; i < u->first_amax + u->num_amax; i++)
        damage_fragment(b, part, i, true);
    if (u->num_amax)
        drop_and_double(b, part, unit, true);
}

static void damage_amax_set(bench_t *b, uint32_t part, uint32_t unit)
{
    const weft_unit_pattern_t *u = &b->pattern.parts[part].units[unit];
    for (uint32_t i = u->first_amax; i < u->first_amax + u->num_amax; i++)
        damage_set(b, part, i);
}

static void damage_unit(bench_t *b, uint32_t part, uint32_t unit)
{
    weft_unit_pattern_t *u = &b->pattern.parts[part].units[unit], saved = *u;
    u->rows++;
    expect_refusal(b, "one row more", part, unit);
    u->rows = saved.rows - 1;
    expect_refusal(b, "one row fewer", part, unit);
    *u = saved;
}

static void test_damaged_data_is_refused(void **state)
{
    (void)state;
    for_each_unit(damage_data);
}

static void test_damaged_amax_is_refused(void **state)
{
    (void)state;
    for_each_unit(damage_amax);
}

static void test_amax_for_too_few_ranks_is_refused(void **state)
{
    (void)state;
    for_each_unit(damage_amax_set);
}

/* Of a scale that spans a tensor: amax that is lost, sent twice, or sent to others. */
static void test_damaged_domains_are_refused(void **state)
{
    (void)state;
    uint32_t damaged = 0;
    for (unsigned i = 0; i < NUM_SAMPLES; i++) {
        bench_t b;
        char reason[256] = "";
        open_bench_of(&b, samples[i].type, samples[i].layer, samples[i].trainer, samples[i].rollout, "fp8-tensor");
        if (!proven(&b, reason))
            fail_msg("%s", reason);
        for (uint32_t p = 0; p < b.pattern.num_parts; p++)
            for (uint32_t u = 0; u < b.pattern.parts[p].num_units && b.pattern.domain_amax_bytes; u++, damaged++) {
                damage_amax_set(&b, p, u);
                drop_and_double(&b, p, u, true);
            }
        close_bench(&b);
    }
    assert_true(damaged > 10);
}

static void test_damaged_units_are_refused(void **state)
{
    (void)state;
    for_each_unit(damage_unit);
}

static void test_misplaced_parts_are_refused(void **state)
{
    (void)state;
    bench_t b;
    open_bench(&b, "qwen3", "qkv_proj", "fsdp:3", "tp:2");
    b.pattern.parts[1].row_offset++;
    expect_refusal(&b, "row offset", 1, 0);
    b.pattern.parts[1].row_offset--;
    b.pattern.parts[2].rows++;
    expect_refusal(&b, "rows", 2, 0);
    b.pattern.parts[2].rows--;
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_patterns_are_proven),
        cmocka_unit_test(test_damaged_data_is_refused),
        cmocka_unit_test(test_damaged_amax_is_refused),
        cmocka_unit_test(test_amax_for_too_few_ranks_is_refused),
        cmocka_unit_test(test_damaged_domains_are_refused),
        cmocka_unit_test(test_damaged_units_are_refused),
        cmocka_unit_test(test_misplaced_parts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
