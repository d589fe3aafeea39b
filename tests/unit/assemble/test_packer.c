/* Packed buckets, byte for byte against a packing element by element, whatever the shards' leading
 * dimensions. */
#include "src/assemble/packer.h"
#include "tests/support/world.h"

typedef struct packing {
    const weft_program_t *program;
    uint8_t *out; /* one bucket */
} packing_t;

/* Every bucket at the same place: they are packed one after another here. */
static uint8_t *place(void *user, uint32_t bucket, uint32_t fragment)
{
    const packing_t *p = user;
    (void)bucket;
    return p->out + p->program->fragments[fragment].offset;
}

/* Compare one bucket, except for digests, which are the caller's to write, and the gaps between fragments. */
static void check_bucket(const world_t *w, uint32_t trainer, size_t index, const weft_packer_t *packer, uint8_t *out)
{
    const weft_program_t *program = w->programs[trainer];
    const weft_bucket_t *bucket = &program->buckets[index];
    uint8_t *expected = malloc(bucket->bytes + 8);
    memset(out, 0xDD, bucket->bytes + 8);
    memset(expected, 0xDD, bucket->bytes + 8);
    bool any;
    assert_int_equal(weft_packer_run(packer, (uint32_t)index, &any), WEFT_OK);
    for (uint32_t i = 0; i < bucket->num_fragments; i++) {
        const weft_fragment_t *f = &program->fragments[bucket->first_fragment + i];
        if (f->kind != WEFT_PIECE_DIGEST)
            memcpy(expected + f->offset, w->packed[trainer][index] + f->offset, f->bytes);
    }
    assert_memory_equal(out, expected, bucket->bytes + 8);
    free(expected);
}

static void check_trainer(const world_t *w, uint32_t trainer)
{
    const weft_program_t *program = w->programs[trainer];
    packing_t packing = {program, malloc(program->largest_bucket + 8)};
    weft_packer_t packer;
    assert_int_equal(weft_packer_create(program, w->queue, &packer), WEFT_OK);
    assert_int_equal(weft_packer_prepare(&packer, trainer_shards(w, trainer), place, &packing), WEFT_OK);
    for (size_t b = 0; b < program->num_buckets; b++)
        check_bucket(w, trainer, b, &packer, packing.out);
    weft_packer_destroy(&packer);
    free(packing.out);
}

/* What may be sent from where it lies is the same bytes there. */
static uint32_t check_in_place(const world_t *w, uint32_t trainer, size_t index)
{
    const weft_program_t *program = w->programs[trainer];
    const weft_bucket_t *bucket = &program->buckets[index];
    const weft_shard_t *shards = trainer_shards(w, trainer);
    if (!weft_bucket_in_place(program, shards, bucket))
        return 0;
    const weft_fragment_t *f = &program->fragments[bucket->first_fragment];
    size_t element = weft_dtype_bytes(weft_model_tensor(w->model, f->tensor)->dtype);
    const uint8_t *run = weft_shard_at(&shards[f->tensor], element, f->rect.row, f->rect.col);
    assert_int_equal(f->offset, 0);
    assert_memory_equal(run, w->packed[trainer][index], bucket->bytes);
    return 1;
}

static uint32_t check_world(world_t *w, random_t *random)
{
    uint32_t in_place = 0;
    world_fill(w, element_id, random);
    world_pack(w);
    for (uint32_t t = 0; t < w->num_trainers; t++) {
        check_trainer(w, t);
        for (size_t b = 0; b < w->programs[t]->num_buckets; b++)
            in_place += check_in_place(w, t, b);
    }
    world_destroy(w);
    return in_place;
}

static void test_random_shards(void **state)
{
    (void)state;
    random_t random = random_begin("test_random_shards");
    const char *trainers[] = {"fsdp:3", "tp:2", "tp:2,fsdp:2", "dp:2,fsdp:2", "fsdp:1"};
    uint32_t planned = 0;
    for (uint32_t i = 0; i < random_cases(60); i++) {
        checkpoint_t cp;
        weft_error_t error;
        checkpoint_random(&random, false, false, &cp);
        world_t *w = world_try(&cp, trainers[i % 5], i % 2 ? "tp:2" : "tp:1x2",
                               i % 3 ? "fp8-channel" : "bf16", NULL, &error);
        if (!w)
            continue;
        check_world(w, i % 4 ? &random : NULL);
        planned++;
    }
    assert_true(random_cases(60) < 60 || planned >= 20);
}

static const checkpoint_t wide = {.type = "qwen3",
                                  .dtype = WEFT_DTYPE_F32,
                                  .hidden = 1024,
                                  .blocks = 1,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 32,
                                  .mlp = 2048,
                                  .vocab = 1500,
                                  .expert_mlp = 1};

static void test_long_runs_need_no_packing(void **state)
{
    (void)state;
    checkpoint_t cp = wide;
    checkpoint_describe(&cp);
    assert_true(check_world(world_create(&cp, "fsdp:1", "tp:1", "bf16", NULL), NULL) >= 4);
    assert_true(check_world(world_create(&cp, "tp:2", "tp:2", "bf16", NULL), NULL) >= 4);
    assert_true(check_world(world_create(&cp, "fsdp:2", "tp:2", "fp8-channel", NULL), NULL) >= 2);
}

static void widen_shards(world_t *w, uint32_t trainer)
{
    for (uint32_t i = 0; i < w->num_tensors; i++) {
        weft_shard_t *shard = &trainer_shards(w, trainer)[i];
        weft_rect_t box = shard->box;
        free((void *)shard->data);
        fill_shard(w, w->tensor_source[i], box, 5, shard);
    }
}

/* Rows apart: the same plan, but nothing of more than a row lies in one run. */
static void test_rows_apart_are_packed(void **state)
{
    (void)state;
    checkpoint_t cp = wide;
    checkpoint_describe(&cp);
    world_t *w = world_create(&cp, "fsdp:1", "tp:1", "bf16", NULL);
    world_fill(w, element_id, NULL);
    widen_shards(w, 0);
    world_pack(w);
    check_trainer(w, 0);
    for (size_t b = 0; b < w->programs[0]->num_buckets; b++)
        assert_int_equal(check_in_place(w, 0, b), 0);
    world_destroy(w);
}

/* The amax vector is of finite elements: a NaN is named where it is quantized. */
static void test_amax_passes_over_nonfinite(void **state)
{
    (void)state;
    checkpoint_t cp = {.type = "qwen3",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 8,
                       .blocks = 1,
                       .heads = 2,
                       .kv_heads = 2,
                       .head_dim = 4,
                       .mlp = 8,
                       .vocab = 10,
                       .expert_mlp = 1};
    checkpoint_describe(&cp);
    world_t *w = world_create(&cp, "fsdp:1", "tp:2", "fp8-channel", NULL);
    world_fill(w, element_weight, NULL);
    for (uint32_t i = 0; i < w->num_tensors; i++) {
        uint16_t *data = (uint16_t *)(void *)trainer_shards(w, 0)[i].data;
        if (strstr(weft_model_tensor(w->model, i)->name, "o_proj"))
            data[0] = 0x7FC0, data[1] = 0xFF80; /* NaN, -Inf */
    }
    const weft_program_t *p = w->programs[0];
    packing_t packing = {p, malloc(p->largest_bucket)};
    weft_packer_t packer;
    uint32_t seen = 0;
    assert_int_equal(weft_packer_create(p, w->queue, &packer), WEFT_OK);
    assert_int_equal(weft_packer_prepare(&packer, trainer_shards(w, 0), place, &packing), WEFT_OK);
    for (size_t i = 0; i < p->num_fragments; i++) {
        const weft_fragment_t *f = &p->fragments[i];
        if (f->kind != WEFT_PIECE_AMAX)
            continue;
        bool any;
        assert_int_equal(weft_packer_run(&packer, f->bucket, &any), WEFT_OK);
        assert_true(any);
        for (uint32_t r = 0; r < f->rect.rows; r++)
            assert_in_range(read_element(packing.out + f->offset + 2 * r, WEFT_DTYPE_BF16), 1, 0x7F7F);
        seen++;
    }
    weft_packer_destroy(&packer);
    free(packing.out);
    assert_int_equal(seen, 2);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shards),
        cmocka_unit_test(test_long_runs_need_no_packing),
        cmocka_unit_test(test_rows_apart_are_packed),
        cmocka_unit_test(test_amax_passes_over_nonfinite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
