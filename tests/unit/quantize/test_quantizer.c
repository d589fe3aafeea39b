/* A unit quantized from wherever its fragments lie is the same bytes as the whole tensor quantized and then
 * sliced: at any TP, from any trainer's cuts, under any scheme and profile. */
#include "src/base/hash.h"
#include "src/quantize/quantizer.h"
#include "tests/support/reference.h"

typedef struct rank {
    const world_t *w;
    const weft_program_t *program;
    const weft_outputs_t *outputs;
    weft_quantizer_t *quantizer;
    uint8_t *stage;
    uint16_t (*amax)[WEFT_UNIT_ROWS]; /* [units] */
} rank_t;

static rank_t open_rank(const world_t *w, uint32_t replica, uint32_t tp_rank)
{
    rank_t r = {.w = w, .program = rollout_program(w, replica, tp_rank), .outputs = &w->outputs[tp_rank]};
    r.stage = malloc(r.outputs->bytes + 1);
    r.amax = calloc(r.program->num_units + 1, sizeof *r.amax);
    memset(r.stage, 0xA5, r.outputs->bytes); /* what padding must not keep */
    assert_int_equal(weft_quantizer_create(r.program, r.outputs, w->queue, r.stage, &r.quantizer), WEFT_OK);
    return r;
}

static void close_rank(rank_t *r)
{
    weft_quantizer_destroy(r->quantizer);
    free(r->stage);
    free(r->amax);
}

static const uint8_t *packed_fragment(const rank_t *r, const weft_fragment_t *f)
{
    const weft_bucket_t *bucket = &r->program->buckets[f->bucket];
    return r->w->packed[bucket->source][sent_bucket(r->w, bucket)] + f->offset;
}

static const void *locate_packed(void *user, const weft_fragment_t *f, size_t *ld_elems)
{
    *ld_elems = f->rect.cols;
    return packed_fragment(user, f);
}

/* In the trainer's own shard, as a colocated engine reads it. */
static const void *locate_shard(void *user, const weft_fragment_t *f, size_t *ld_elems)
{
    const rank_t *r = user;
    const weft_shard_t *shard = &trainer_shards(r->w, r->program->buckets[f->bucket].source)[f->tensor];
    size_t at = (size_t)(f->rect.row - shard->box.row) * shard->ld_elems + f->rect.col - shard->box.col;
    *ld_elems = shard->ld_elems;
    return shard->data + at * weft_dtype_bytes(weft_model_tensor(r->w->model, f->tensor)->dtype);
}

static void fold_amax(const rank_t *r, const weft_unit_t *unit, uint16_t amax[WEFT_UNIT_ROWS])
{
    memset(amax, 0, WEFT_UNIT_ROWS * sizeof *amax);
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &r->program->fragments[r->program->inputs[unit->first_input + i]];
        for (uint32_t row = 0; f->kind == WEFT_PIECE_AMAX && row < f->rect.rows; row++) {
            uint16_t sent = (uint16_t)read_element(packed_fragment(r, f) + 2 * row, WEFT_DTYPE_BF16);
            amax[f->to_row + row] = sent > amax[f->to_row + row] ? sent : amax[f->to_row + row];
        }
    }
}

static const uint16_t *amax_of(void *user, uint32_t unit)
{
    const rank_t *r = user;
    uint32_t domain = r->program->units[unit].domain;
    uint16_t *amax = r->amax[unit];
    fold_amax(r, &r->program->units[domain == UINT32_MAX ? unit : r->program->domains[domain].first_unit], amax);
    for (uint32_t row = 1; row < WEFT_UNIT_ROWS && domain != UINT32_MAX; row++)
        amax[0] = amax[row] > amax[0] ? amax[row] : amax[0];
    return amax;
}

typedef const void *(*locate_fn)(void *user, const weft_fragment_t *f, size_t *ld_elems);

static void prepare(rank_t *r, locate_fn locate)
{
    const weft_sources_t sources = {locate, amax_of, r};
    weft_error_t error;
    if (weft_quantizer_prepare(r->quantizer, &sources, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(weft_quantizer_begin(r->quantizer), WEFT_OK);
}

static weft_status_t run_unit(rank_t *r, uint32_t index, weft_error_t *error)
{
    weft_status_t status = weft_quantizer_run(r->quantizer, index, 1, error);
    return status == WEFT_OK ? weft_quantizer_judge(r->quantizer, error) : status;
}

/* All units in a random order. */
static void run_rank(rank_t *r, locate_fn locate, random_t *random)
{
    uint32_t *order = calloc(r->program->num_units + 1, sizeof *order);
    weft_error_t error;
    prepare(r, locate);
    for (uint32_t u = 0; u < r->program->num_units; u++)
        order[u] = u;
    random_shuffle(random, order, r->program->num_units);
    for (uint32_t u = 0; u < r->program->num_units; u++)
        if (run_unit(r, order[u], &error) != WEFT_OK)
            fail_msg("%s", error.message);
    for (uint32_t layer = 0; layer < r->w->plan->layers->count; layer++)
        assert_int_equal(weft_quantizer_layer_done(r->quantizer, layer), WEFT_OK);
    assert_int_equal(weft_quantizer_end(r->quantizer), WEFT_OK);
    free(order);
}

/* ---- Whole tensors ---- */

typedef struct tensors {
    const world_t *w;
    uint8_t **data; /* [sources], made when asked for */
} tensors_t;

static const uint8_t *whole_tensor(void *user, uint32_t index)
{
    tensors_t *t = user;
    const source_t *s = &t->w->cp->sources[index];
    if (!t->data[index]) {
        t->data[index] = malloc((size_t)s->rows * s->cols * 4 + 1);
        for (uint64_t flat = 0; flat < (uint64_t)s->rows * s->cols; flat++)
            write_element(t->data[index] + flat * weft_dtype_bytes(s->dtype),
                          t->w->element(index, flat, s->dtype), s->dtype);
    }
    return t->data[index];
}

static void check_world(world_t *w, const char *profile, random_t *random)
{
    tensors_t tensors = {w, calloc(w->cp->num_sources, sizeof(uint8_t *))};
    world_fill(w, random_once_in(random, 3) ? element_id : element_weight, random);
    world_pack(w);
    for (uint32_t t = 0; t < w->tp; t++) {
        rank_t rank = open_rank(w, 0, t);
        run_rank(&rank, t % 2 ? locate_shard : locate_packed, random);
        compare_stage(w->cp, w->plan, profile, t, rank.outputs, rank.stage, whole_tensor, &tensors);
        close_rank(&rank);
    }
    for (uint32_t i = 0; i < w->cp->num_sources; i++)
        free(tensors.data[i]);
    free(tensors.data);
}

static uint32_t check_jobs(random_t *random, const char *scheme, const char *profile, uint32_t wanted)
{
    const char *trainers[] = {"fsdp:3", "tp:2", "fsdp:1", "tp:2,fsdp:2", "dp:2,fsdp:5"};
    const char *rollouts[] = {"tp:1", "tp:2", "tp:4", "tp:2,ep", "tp:8"};
    uint32_t planned = 0;
    for (uint32_t tries = 0; planned < wanted && tries < 60 * wanted; tries++) {
        weft_plan_options_t options = WEFT_PLAN_OPTIONS;
        checkpoint_t cp;
        weft_error_t error;
        options.profile = profile;
        bool aligned = strcmp(scheme, "bf16") != 0 && !strstr(scheme, "channel");
        checkpoint_random(random, aligned, false, &cp);
        world_t *w =
            world_try(&cp, trainers[random_in(random, 0, 4)], rollouts[tries % 5], scheme, &options, &error);
        if (!w)
            continue;
        check_world(w, profile, random);
        world_destroy(w);
        planned++;
    }
    return planned;
}

static void test_any_cut_gives_the_same_bytes(void **state)
{
    (void)state;
    const struct {
        const char *scheme, *profile;
    } runs[] = {{"bf16", NULL},        {"fp8-channel", NULL}, {"fp8-block", NULL},
                {"fp8-block", "vllm"}, {"fp8-block", "pow2"}, {"fp8-block", "vllm-pow2"},
                {"int8-channel", "ieee"}, {"int8-channel", "ct"}, {"mxfp8", NULL},       {"mxfp4", NULL},
                {"int4-group-32", "ct"}, {"int4-group-64", NULL},
                {"fp8-tensor", NULL},  {"nvfp4", NULL},       {"nvfp4", "modelopt"}};
    random_t random = random_begin("test_any_cut_gives_the_same_bytes");
    for (unsigned i = 0; i < sizeof runs / sizeof *runs; i++)
        assert_int_equal(check_jobs(&random, runs[i].scheme, runs[i].profile, random_cases(8)),
                         random_cases(8));
}

/* ---- Digests ---- */

static checkpoint_t small_model(weft_dtype_t dtype)
{
    checkpoint_t cp = {.type = "qwen3",
                       .dtype = dtype,
                       .hidden = 36,
                       .blocks = 2,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 10,
                       .mlp = 150,
                       .vocab = 70,
                       .expert_mlp = 1};
    checkpoint_describe(&cp);
    return cp;
}

/* The formula of docs/numerics.md, word by word. */
static weft_digest_t plain_digest(const uint8_t *bytes, uint64_t count)
{
    const uint32_t a[2] = {0x9E3779B1, 0xC2B2AE3D}, b[2] = {0x85EBCA77, 0x27D4EB2F};
    weft_digest_t digest = {{0, 0}};
    uint64_t words = (count + 7) / 8;
    for (uint64_t i = 0; i <= words; i++) {
        uint64_t word = 0;
        for (unsigned k = 0; k < 8 && i < words && 8 * i + k < count; k++)
            word |= (uint64_t)bytes[8 * i + k] << (8 * k);
        word = i == words ? count : word;
        for (unsigned j = 0; j < 2; j++)
            digest.word[j] += (uint64_t)((uint32_t)word + a[j] * (uint32_t)i) *
                              ((uint32_t)(word >> 32) + (b[j] * (uint32_t)i | 1));
    }
    return digest;
}

static int compare_names(const void *left, const void *right)
{
    return strcmp((*(const weft_output_t *const *)left)->name, (*(const weft_output_t *const *)right)->name);
}

static weft_digest_t model_digest(const weft_outputs_t *outputs, const uint8_t *stage)
{
    const weft_output_t **sorted = calloc(outputs->count, sizeof(const weft_output_t *));
    uint8_t *text = calloc(outputs->count, 200), *end = text;
    for (uint32_t i = 0; i < outputs->count; i++)
        sorted[i] = &outputs->items[i];
    qsort(sorted, outputs->count, sizeof(const weft_output_t *), compare_names);
    for (uint32_t i = 0; i < outputs->count; i++) {
        weft_digest_t digest = plain_digest(stage + sorted[i]->offset, sorted[i]->bytes);
        end = (uint8_t *)stpcpy((char *)end, sorted[i]->name) + 1;
        memcpy(end, &digest, sizeof digest);
        end += sizeof digest;
    }
    weft_digest_t whole = weft_hash(text, (size_t)(end - text));
    free(text);
    free(sorted);
    return whole;
}

static void test_digests_follow_the_formula(void **state)
{
    (void)state;
    random_t random = random_begin("test_digests_follow_the_formula");
    checkpoint_t cp = small_model(WEFT_DTYPE_BF16);
    world_t *w = world_create(&cp, "fsdp:3", "tp:2x2", "fp8-channel", NULL);
    world_fill(w, element_weight, NULL);
    world_pack(w);
    weft_digest_t of[4];
    for (uint32_t i = 0; i < 4; i++) {
        rank_t rank = open_rank(w, i / 2, i % 2);
        run_rank(&rank, locate_packed, &random);
        for (uint32_t o = 0; o < rank.outputs->count; o++) {
            weft_digest_t expected =
                plain_digest(rank.stage + rank.outputs->items[o].offset, rank.outputs->items[o].bytes);
            weft_digest_t found = weft_quantizer_output_digest(rank.quantizer, o);
            assert_memory_equal(&found, &expected, sizeof found);
        }
        weft_digest_t expected = model_digest(rank.outputs, rank.stage);
        of[i] = weft_quantizer_model_digest(rank.quantizer, NULL);
        assert_memory_equal(&of[i], &expected, sizeof expected);
        close_rank(&rank);
    }
    assert_memory_equal(&of[0], &of[2], sizeof of[0]); /* replicas agree */
    assert_memory_equal(&of[1], &of[3], sizeof of[0]);
    assert_memory_not_equal(&of[0], &of[1], sizeof of[0]);
    world_destroy(w);
}

static void test_digest_of_twenty_bytes(void **state)
{
    (void)state;
    uint8_t bytes[20];
    for (uint8_t i = 0; i < 20; i++)
        bytes[i] = i;
    weft_digest_t expected = plain_digest(bytes, 20),
                  found = weft_digest_run(weft_kernels_find("ref"), bytes, 20);
    assert_true(expected.word[0] == 0xe2c0cfc88df1e07c && expected.word[1] == 0x7d4a378f864a18ec);
    assert_memory_equal(&found, &expected, sizeof found);
}

/* ---- NaN and Inf ---- */

/* Write `bits` at a place of a source on every trainer that holds it. */
static void spoil(const world_t *w, uint32_t source, uint64_t flat, uint32_t bits)
{
    const source_t *s = &w->cp->sources[source];
    uint32_t row = (uint32_t)(flat / s->cols), col = (uint32_t)(flat % s->cols);
    for (uint32_t t = 0; t < w->num_trainers; t++)
        for (uint32_t i = 0; i < w->num_tensors; i++) {
            const weft_shard_t *shard = &trainer_shards(w, t)[i];
            if (w->tensor_source[i] != source || row - shard->box.row >= shard->box.rows ||
                col - shard->box.col >= shard->box.cols)
                continue;
            size_t at = (size_t)(row - shard->box.row) * shard->ld_elems + col - shard->box.col;
            write_element((uint8_t *)(uintptr_t)shard->data + at * weft_dtype_bytes(s->dtype), bits,
                          s->dtype);
        }
}

/* Run every unit of every TP rank: how many refuse, each naming tensor and index. */
static uint32_t count_refusals(const world_t *w, const char *tensor, uint64_t flat)
{
    uint32_t refusals = 0;
    char name[128], index[64];
    snprintf(name, sizeof name, "tensor %s ", tensor);
    snprintf(index, sizeof index, "flat index %llu ", (unsigned long long)flat);
    for (uint32_t t = 0; t < w->tp; t++) {
        rank_t rank = open_rank(w, 0, t);
        prepare(&rank, locate_packed);
        for (uint32_t u = 0; u < rank.program->num_units; u++) {
            weft_error_t error = {0};
            weft_quantizer_begin(rank.quantizer); /* what is found in one unit is not to be held against the next */
            weft_status_t status = run_unit(&rank, u, &error);
            if (status == WEFT_OK)
                continue;
            assert_int_equal(status, WEFT_ERR_NONFINITE);
            if (!strstr(error.message, name) || !strstr(error.message, index))
                fail_msg("expected %s at %s, found: %s", name, index, error.message);
            refusals++;
        }
        close_rank(&rank);
    }
    return refusals;
}

static uint32_t nonfinite_bits(random_t *random, weft_dtype_t dtype)
{
    if (dtype == WEFT_DTYPE_F32)
        return RANDOM_OF(random, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFF800001);
    return dtype == WEFT_DTYPE_F16 ? RANDOM_OF(random, 0x7C00, 0xFC00, 0x7E00, 0xFC01)
                                   : RANDOM_OF(random, 0x7F80, 0xFF80, 0x7FC0, 0xFF81);
}

static void test_nonfinite_is_named(void **state)
{
    (void)state;
    random_t random = random_begin("test_nonfinite_is_named");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    const char *trainers[] = {"fsdp:3", "tp:2", "tp:2,fsdp:2"};
    for (uint32_t i = 0; i < 60; i++) {
        checkpoint_t cp = small_model(dtypes[i % 3]);
        uint32_t source = random_in(&random, 0, cp.num_sources - 1);
        const source_t *s = &cp.sources[source];
        uint64_t flat = random_in(&random, 0, s->rows * s->cols - 1);
        world_t *w = world_create(&cp, trainers[i / 3 % 3], i % 2 ? "tp:2" : "tp:1",
                                  i % 4 ? "fp8-channel" : "bf16", NULL);
        world_fill(w, element_weight, &random);
        spoil(w, source, flat, nonfinite_bits(&random, s->dtype));
        world_pack(w);
        uint32_t copies = s->slice == SLICE_NONE ? w->tp : 1;
        assert_int_equal(count_refusals(w, s->name, flat), copies);
        world_destroy(w);
    }
}

/* Of several in one unit the first is named. */
static void test_first_nonfinite_is_named(void **state)
{
    (void)state;
    checkpoint_t cp = small_model(WEFT_DTYPE_BF16);
    world_t *w = world_create(&cp, "tp:2,fsdp:2", "tp:1", "fp8-channel", NULL);
    uint32_t source =
        find_source(&cp, "model.layers.1.mlp.down_proj.weight"); /* 36 x 150, cut in both directions */
    world_fill(w, element_weight, NULL);
    spoil(w, source, 20 * 150 + 3, 0x7FC0);
    spoil(w, source, 9 * 150 + 149, 0x7F80);
    spoil(w, source, 10 * 150 + 2, 0x7F80);
    world_pack(w);
    assert_int_equal(count_refusals(w, cp.sources[source].name, 9 * 150 + 149), 1);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_cut_gives_the_same_bytes),
        cmocka_unit_test(test_digests_follow_the_formula),
        cmocka_unit_test(test_digest_of_twenty_bytes),
        cmocka_unit_test(test_nonfinite_is_named),
        cmocka_unit_test(test_first_nonfinite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
