/* What cannot be cut is refused by name, with what would fit; what may be ragged is not. */
#include "tests/support/world.h"

/* Qwen3-30B-A3B in miniature: fewer blocks, experts and words, the same widths. */
static checkpoint_t experts_768(void)
{
    checkpoint_t cp = {.type = "qwen3_moe",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 2048,
                       .blocks = 1,
                       .heads = 32,
                       .kv_heads = 4,
                       .head_dim = 128,
                       .mlp = 6144,
                       .vocab = 1000,
                       .experts = 8,
                       .expert_mlp = 768};
    checkpoint_describe(&cp);
    return cp;
}

static checkpoint_t dense(uint32_t hidden, uint32_t mlp, uint32_t heads, uint32_t kv_heads, uint32_t head_dim)
{
    checkpoint_t cp = {.type = "qwen3",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = hidden,
                       .blocks = 1,
                       .heads = heads,
                       .kv_heads = kv_heads,
                       .head_dim = head_dim,
                       .mlp = mlp,
                       .vocab = 500,
                       .expert_mlp = 1};
    checkpoint_describe(&cp);
    return cp;
}

static void expect_fit(const checkpoint_t *cp, const char *trainer, const char *rollout, const char *scheme)
{
    world_destroy(world_create(cp, trainer, rollout, scheme, NULL));
}

static weft_error_t expect_misfit(const checkpoint_t *cp, const char *trainer, const char *rollout,
                                  const char *scheme)
{
    weft_error_t error = {0};
    if (world_try(cp, trainer, rollout, scheme, NULL, &error))
        fail_msg("%s to %s with %s was planned", trainer, rollout, scheme);
    assert_int_equal(error.status, WEFT_ERR_MISFIT);
    return error;
}

static void expect_words(const weft_error_t *error, const char *words)
{
    if (!strstr(error->message, words))
        fail_msg("\"%s\" is not in: %s", words, error->message);
}

static void test_more_stages_than_blocks(void **state)
{
    (void)state;
    checkpoint_t cp = dense(256, 512, 4, 2, 64);
    weft_error_t error = expect_misfit(&cp, "tp:2,pp:2", "tp:2", "bf16");
    expect_words(&error, "tp:2,pp:2");
    expect_words(&error, "1 blocks are fewer than 2 pipeline stages");
    expect_words(&error, "pp:1");
    error = expect_misfit(&cp, "ep:2", "tp:2", "bf16");
    expect_words(&error, "the model has no experts for ep");
    cp.blocks = 3;
    checkpoint_describe(&cp);
    expect_fit(&cp, "tp:2,pp:3", "tp:2", "bf16");
}

static void test_more_places_than_experts(void **state)
{
    (void)state;
    checkpoint_t cp = {.type = "qwen3_moe",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 128,
                       .blocks = 2,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 32,
                       .mlp = 256,
                       .vocab = 100,
                       .experts = 5,
                       .expert_mlp = 128};
    checkpoint_describe(&cp);
    weft_error_t error = expect_misfit(&cp, "ep:6", "tp:1", "bf16");
    expect_words(&error, "5 experts are fewer than ep:6; choose ep:5 or less");
    expect_fit(&cp, "pp:2,ep:5", "tp:1", "bf16");
}

static void test_expert_width_768_at_tp4(void **state)
{
    (void)state;
    checkpoint_t cp = experts_768();
    weft_error_t error = expect_misfit(&cp, "fsdp:2", "tp:4", "fp8-block");
    expect_words(&error, "model.layers.0.mlp.experts.w13");
    expect_words(&error, "gate_proj");
    expect_words(&error, "rows");
    expect_words(&error, "768");
    expect_words(&error, "192");
    expect_words(&error, "these fit: tp:1, tp:2, tp:2,ep, tp:4,ep, tp:8,ep");
    expect_words(&error, "fp8-channel");
    expect_fit(&cp, "fsdp:2", "tp:4,ep", "fp8-block");
    expect_fit(&cp, "fsdp:2", "tp:4", "fp8-channel");
    expect_fit(&cp, "fsdp:2", "tp:2", "fp8-block");
}

/* What the message says would fit does, and what it leaves out does not. */
static void test_what_is_said_to_fit_fits(void **state)
{
    (void)state;
    checkpoint_t cp = experts_768();
    weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:4", "fp8-block");
    const char *list = strstr(error.message, "these fit: ");
    assert_non_null(list);
    for (uint32_t tp = 1; tp <= 16; tp++)
        for (uint32_t ep = 0; ep < 2; ep++) {
            char text[16], listed[24];
            sprintf(text, "tp:%u%s", tp, ep ? ",ep" : "");
            sprintf(listed, " %s%s", text, tp == 8 && ep ? ";" : ", ");
            weft_error_t unused;
            world_t *w = world_try(&cp, "fsdp:1", text, "fp8-block", NULL, &unused);
            bool said = strstr(list, listed) != NULL && !(tp == 1 && ep);
            if (tp > 1 && said != (w != NULL))
                fail_msg("%s: %s, but %s", text, said ? "listed" : "not listed",
                         w ? "it fits" : "it does not");
            if (w)
                world_destroy(w);
        }
}

static void test_ragged_ends(void **state)
{
    (void)state;
    checkpoint_t ragged_k = dense(200, 256, 4, 2, 128);
    expect_fit(&ragged_k, "fsdp:3", "tp:1",
               "fp8-block"); /* K = 200 of qkv and gate_up, N = 200 of o and down */
    expect_fit(&ragged_k, "fsdp:3", "tp:2", "fp8-block");
    checkpoint_t ragged_width = dense(128, 192, 4, 2, 64);
    weft_error_t error =
        expect_misfit(&ragged_width, "fsdp:1", "tp:1", "fp8-block"); /* between gate and up */
    expect_words(&error, "gate_up_proj");
    expect_words(&error, "gate_proj");
    expect_fit(&ragged_width, "fsdp:1", "tp:1", "fp8-channel");
    expect_fit(&ragged_width, "fsdp:1", "tp:1", "bf16");
}

/* Schemes of groups along K: rows may be cut anywhere, columns only between groups, and no row ends within one. */
static void test_groups(void **state)
{
    (void)state;
    checkpoint_t ragged_k = dense(200, 256, 4, 2, 128), ragged_rows = dense(96, 192, 4, 2, 24);
    weft_error_t error = expect_misfit(&ragged_k, "fsdp:1", "tp:1", "mxfp4");
    expect_words(&error, "qkv_proj");
    expect_words(&error, "columns: 200 are not whole groups of 32");
    expect_words(&error, "use fp8-channel");
    expect_fit(&ragged_rows, "fsdp:1", "tp:1", "mxfp8");
    error = expect_misfit(&ragged_rows, "fsdp:1", "tp:2", "mxfp8"); /* o_proj, K = 96 */
    expect_words(&error, "o_proj");
    expect_words(&error, "columns: 96 over 2 ranks leave 48, a cut inside a group of 32");
}

static void test_cuts_of_k(void **state)
{
    (void)state;
    checkpoint_t cp = dense(128, 768, 8, 8, 128);
    weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:4", "fp8-block");
    expect_words(&error, "768");
    expect_fit(&cp, "fsdp:1", "tp:2", "fp8-block");
    expect_fit(&cp, "fsdp:1", "tp:4", "bf16");
    checkpoint_t narrow = dense(128, 1024, 4, 4, 96); /* q of 384 rows at tp 2: 192 */
    error = expect_misfit(&narrow, "fsdp:1", "tp:2", "fp8-block");
    expect_words(&error, "q_proj");
    expect_fit(&narrow, "fsdp:1", "tp:1", "fp8-block");
}

/* A copied KV head of 64 rows: the cut between k and v falls inside a block. */
static void test_small_kv_heads_cannot_be_copied_in_blocks(void **state)
{
    (void)state;
    checkpoint_t cp = dense(128, 1024, 8, 2, 64);
    expect_fit(&cp, "fsdp:1", "tp:1", "fp8-block");
    weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:4", "fp8-block");
    expect_words(&error, "k_proj");
    expect_fit(&cp, "fsdp:1", "tp:4", "fp8-channel");
}

static void test_heads_and_widths_that_do_not_divide(void **state)
{
    (void)state;
    checkpoint_t cp = dense(96, 120, 6, 2, 16);
    weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:4", "bf16");
    expect_words(&error, "6 heads");
    expect_words(&error, "these fit: tp:1, tp:2, tp:6");
    checkpoint_t three_kv = dense(96, 120, 12, 3, 16);
    error = expect_misfit(&three_kv, "fsdp:1", "tp:4", "bf16");
    expect_words(&error, "3 KV heads");
    checkpoint_t width = dense(96, 121, 4, 2, 16);
    error = expect_misfit(&width, "fsdp:1", "tp:2", "bf16");
    expect_words(&error, "121 rows");
}

static void test_trainers_that_do_not_divide(void **state)
{
    (void)state;
    checkpoint_t cp = dense(96, 120, 6, 2, 16);
    weft_error_t error = expect_misfit(&cp, "tp:4", "tp:1", "bf16");
    expect_words(&error, "trainer tp:4");
    expect_words(&error, "fsdp:N");
    expect_fit(&cp, "fsdp:7", "tp:1", "bf16");
    expect_fit(&cp, "tp:2,fsdp:5,dp:2", "tp:2", "bf16");
}

static void test_fewer_experts_than_ranks(void **state)
{
    (void)state;
    checkpoint_t cp = experts_768();
    weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:16,ep", "bf16");
    expect_words(&error, "8 experts");
}

static void test_sides_must_be_in_order(void **state)
{
    (void)state;
    checkpoint_t cp = dense(96, 120, 6, 2, 16);
    weft_model_t *model = checkpoint_model(&cp);
    weft_layout_t *trainer = parse_layout("fsdp:2", WEFT_SIDE_TRAINER),
                  *rollout = parse_layout("tp:2", WEFT_SIDE_ROLLOUT);
    weft_plan_t *plan = NULL;
    weft_plan_options_t unsized = {0};
    assert_int_equal(weft_plan_create(model, rollout, trainer, "bf16", NULL, &plan, NULL), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_plan_create(model, trainer, rollout, "bf16", &unsized, &plan, NULL),
                     WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_plan_create(model, trainer, rollout, "bf17", NULL, &plan, NULL),
                     WEFT_ERR_UNKNOWN_NAME);
    assert_null(plan);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    weft_model_close(model);
    weft_plan_destroy(NULL);
}

/* Parts of a layer begin with tiles of 64 rows; what ends within one is padded, but of experts. */
static void test_marlin(void **state)
{
    (void)state;
    checkpoint_t cp = dense(256, 1152, 4, 2, 64);
    expect_fit(&cp, "fsdp:1", "tp:1", "int4-group-32@marlin");
    expect_fit(&cp, "fsdp:1", "tp:2", "int4-group-32@marlin"); /* down_proj 576 columns, 256 rows; gate 576 rows */
    weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:4", "int4-group-32@marlin");
    expect_words(&error, "int4-group-32@marlin does not fit");
    expect_words(&error, "a cut inside a tile of 64");
    expect_words(&error, "these fit: tp:1, tp:2");
    expect_words(&error, "without @");
    cp = dense(320, 640, 5, 5, 64); /* 320 rows, 320 columns; fused qkv 960 */
    expect_fit(&cp, "fsdp:1", "tp:1", "int4-group-64@marlin");
    expect_fit(&cp, "fsdp:1", "tp:1", "int4-group-64@marlin; *.o_proj=int4-group-64@plain; *.qkv_proj=bf16");
    cp = experts_768();
    expect_fit(&cp, "fsdp:1", "tp:4", "int4-group-32@marlin; *.qkv_proj=bf16");
    error = expect_misfit(&cp, "fsdp:1", "tp:8", "int4-group-32@marlin; *.qkv_proj=bf16; *.w2=bf16"); /* w13 96 rows each */
    expect_words(&error, "a cut inside a tile of 64");
    error = expect_misfit(&cp, "fsdp:1", "tp:8", "int4-group-32@marlin; *.qkv_proj=bf16; *.w13=bf16"); /* w2 96 columns */
    expect_words(&error, "columns: 768 over 8 ranks leave 96, a cut inside a group of 64");
}

/* The same of its 8-bit codes, and of blocks: whole ones between parts and where rows are cut. */
static void test_marlin_bytes(void **state)
{
    (void)state;
    static const char *const channels[] = {"fp8-channel@marlin", "int8-channel:ct@marlin", "fp8-tensor@marlin"};
    checkpoint_t cp = dense(256, 1152, 4, 2, 64);
    for (unsigned i = 0; i < sizeof channels / sizeof *channels; i++) {
        expect_fit(&cp, "fsdp:1", "tp:2", channels[i]);
        weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:4", channels[i]);
        expect_words(&error, "@marlin does not fit");
        expect_words(&error, "a cut inside a tile of 64");
    }
    expect_fit(&cp, "fsdp:1", "tp:1", "fp8-block@marlin");
    weft_error_t error = expect_misfit(&cp, "fsdp:1", "tp:2", "fp8-block@marlin"); /* 576 of 1152 rows of gate */
    expect_words(&error, "a cut inside a block of 128");
    cp = dense(272, 1184, 4, 4, 64); /* gate 1184 rows, down 1184 columns */
    error = expect_misfit(&cp, "fsdp:1", "tp:1", "fp8-channel@marlin");
    expect_words(&error, "a cut inside a tile of 64");
    expect_fit(&cp, "fsdp:1", "tp:1", "fp8-channel@marlin; *.gate_up_proj=bf16");
    expect_fit(&cp, "fsdp:1", "tp:1", "fp8-block@marlin; *.gate_up_proj=bf16");
    cp = dense(264, 1152, 4, 4, 64);
    error = expect_misfit(&cp, "fsdp:1", "tp:1", "fp8-channel@marlin");
    expect_words(&error, "columns: 264 are not whole groups of 16");
    error = expect_misfit(&cp, "fsdp:1", "tp:1", "fp8-block@marlin");
    expect_words(&error, "264 columns are no multiple of 16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marlin),
        cmocka_unit_test(test_marlin_bytes),
        cmocka_unit_test(test_more_stages_than_blocks),
        cmocka_unit_test(test_more_places_than_experts),
        cmocka_unit_test(test_expert_width_768_at_tp4),
        cmocka_unit_test(test_what_is_said_to_fit_fits),
        cmocka_unit_test(test_ragged_ends),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_cuts_of_k),
        cmocka_unit_test(test_small_kv_heads_cannot_be_copied_in_blocks),
        cmocka_unit_test(test_heads_and_widths_that_do_not_divide),
        cmocka_unit_test(test_trainers_that_do_not_divide),
        cmocka_unit_test(test_fewer_experts_than_ranks),
        cmocka_unit_test(test_sides_must_be_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
