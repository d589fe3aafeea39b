#include "src/plan/placement.h"
#include "tests/support/world.h"

static weft_part_t matrix(weft_split_t split, uint64_t rows, uint64_t cols, uint64_t head_rows)
{
    return (weft_part_t){
        .role = "part", .split = split, .rows = rows, .cols = cols, .head_rows = head_rows, .slab_n = rows};
}

static void expect_rect(weft_rect_t found, uint32_t row, uint32_t col, uint32_t rows, uint32_t cols)
{
    assert_int_equal(found.rows, rows);
    assert_int_equal(found.cols, cols);
    if (weft_rect_empty(found))
        return;
    assert_int_equal(found.row, row);
    assert_int_equal(found.col, col);
}

/* ---- Trainers ---- */

static void expect_chunks(uint64_t rows, const char *text, const uint32_t *chunks, uint32_t count)
{
    weft_layout_t *layout = parse_layout(text, WEFT_SIDE_TRAINER);
    weft_part_t part = matrix(WEFT_SPLIT_ROWS, rows, 7, 0);
    weft_part_t vector = {.split = WEFT_SPLIT_NONE, .rows = 1, .cols = rows, .slab_n = 1, .vector = true};
    uint32_t row = 0;
    for (uint32_t rank = 0; rank < count; rank++) {
        expect_rect(weft_placement_box(layout, &part, rank), row, 0, chunks[rank], 7);
        expect_rect(weft_placement_box(layout, &vector, rank), 0, row, 1, chunks[rank]);
        row += chunks[rank];
    }
    assert_int_equal(row, rows);
    weft_layout_destroy(layout);
}

static void test_fsdp_is_torch_chunk(void **state)
{
    (void)state;
    expect_chunks(10, "fsdp:4", (uint32_t[]){3, 3, 3, 1}, 4);
    expect_chunks(10, "fsdp:6", (uint32_t[]){2, 2, 2, 2, 2, 0}, 6);
    expect_chunks(8, "fsdp:4", (uint32_t[]){2, 2, 2, 2}, 4);
    expect_chunks(1, "fsdp:3", (uint32_t[]){1, 0, 0}, 3);
    expect_chunks(9, "fsdp:8", (uint32_t[]){2, 2, 2, 2, 1, 0, 0, 0}, 8);
}

static void test_fsdp_cuts_rows_of_a_tp_shard(void **state)
{
    (void)state;
    weft_layout_t *layout = parse_layout("tp:2,fsdp:3", WEFT_SIDE_TRAINER);
    weft_part_t down = matrix(WEFT_SPLIT_COLS, 10, 8, 0), up = matrix(WEFT_SPLIT_ROWS, 14, 5, 0);
    expect_rect(weft_placement_box(layout, &down, 0), 0, 0, 4, 4);
    expect_rect(weft_placement_box(layout, &down, 1), 0, 4, 4, 4);
    expect_rect(weft_placement_box(layout, &down, 5), 8, 4, 2, 4);
    expect_rect(weft_placement_box(layout, &up, 0), 0, 0, 3, 5);
    expect_rect(weft_placement_box(layout, &up, 1), 7, 0, 3, 5);
    expect_rect(weft_placement_box(layout, &up, 4), 6, 0, 1, 5);
    expect_rect(weft_placement_box(layout, &up, 5), 13, 0, 1, 5);
    weft_layout_destroy(layout);
}

static weft_split_t split_of(slice_t slice)
{
    return (const weft_split_t[]){
        [SLICE_NONE] = WEFT_SPLIT_NONE,         [SLICE_ROWS] = WEFT_SPLIT_ROWS,
        [SLICE_COLS] = WEFT_SPLIT_COLS,         [SLICE_HEADS] = WEFT_SPLIT_HEADS,
        [SLICE_KV_HEADS] = WEFT_SPLIT_KV_HEADS, [SLICE_VOCAB] = WEFT_SPLIT_VOCAB}[slice];
}

static weft_part_t part_of(const source_t *s)
{
    weft_part_t part =
        matrix(split_of(s->slice), s->rows, s->cols, s->heads ? source_extent(s) / s->heads : 0);
    part.vector = s->vector;
    return part;
}

/* Every source of random checkpoints on products of all axes, and the ranks that hold the same box listed
 * together. */
static void check_placement(const source_t *s, const weft_layout_t *layout)
{
    weft_part_t part = part_of(s);
    weft_placement_t placement;
    char reason[256];
    uint32_t holders = 0, expected = 0, tp;
    trainer_place(layout->text, "tp", 0, &tp);
    assert_int_equal(weft_trainer_misfit(layout, &part, reason), !source_divides(s, tp));
    if (!source_divides(s, tp))
        return;
    assert_int_equal(weft_placement_create(layout, &part, false, &placement), WEFT_OK);
    for (uint32_t rank = 0; rank < layout->num_ranks; rank++)
        expected += !weft_rect_empty(trainer_box(s, layout->text, rank));
    for (uint32_t b = 0; b < placement.num_boxes; b++)
        for (uint32_t i = placement.first_holder[b]; i < placement.first_holder[b + 1]; i++, holders++) {
            uint32_t rank = placement.holders[i];
            assert_true(weft_rect_equal(placement.boxes[b], trainer_box(s, layout->text, rank)));
            assert_true(i == placement.first_holder[b] || rank > placement.holders[i - 1]);
        }
    assert_int_equal(holders, expected);
    weft_placement_destroy(&placement);
}

static void test_products_of_axes(void **state)
{
    (void)state;
    const char *layouts[] = {"fsdp:3,tp:2,dp:2", "tp:4,fsdp:2", "dp:2,fsdp:5", "tp:8", "dp:7",
                             "fsdp:1",           "tp:3,dp:2"};
    random_t random = random_begin("test_products_of_axes");
    for (uint32_t i = 0; i < 60; i++) {
        checkpoint_t cp;
        checkpoint_random(&random, false, true, &cp);
        weft_layout_t *layout = parse_layout(layouts[i % 7], WEFT_SIDE_TRAINER);
        for (uint32_t s = 0; s < cp.num_sources; s++)
            check_placement(&cp.sources[s], layout);
        weft_layout_destroy(layout);
    }
}

/* Blocks in runs, the longer ones first. */
static void test_stages(void **state)
{
    (void)state;
    const struct {
        const char *layout;
        uint32_t blocks;
        const char *stages; /* a digit a block */
    } cases[] = {{"pp:1", 3, "000"},          {"pp:2", 4, "0011"}, {"tp:2,pp:2", 5, "00011"},
                 {"pp:3,tp:2", 7, "0001122"}, {"pp:4", 4, "0123"}, {"pp:4", 7, "0011223"},
                 {"pp:5", 9, "001122334"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        weft_layout_t *layout = parse_layout(cases[i].layout, WEFT_SIDE_TRAINER);
        for (uint32_t b = 0; b < cases[i].blocks; b++)
            assert_int_equal(weft_trainer_stage(layout, b, cases[i].blocks), cases[i].stages[b] - '0');
        weft_layout_destroy(layout);
    }
}

/* ---- Rollouts ---- */

static void test_kv_heads_are_shared_then_copied(void **state)
{
    (void)state;
    weft_part_t kv = matrix(WEFT_SPLIT_KV_HEADS, 4 * 16, 5, 16);
    const uint32_t ranks[] = {1, 2, 4, 8, 16};
    for (unsigned i = 0; i < 5; i++)
        for (uint32_t t = 0; t < ranks[i]; t++) {
            uint32_t heads = ranks[i] <= 4 ? 4 / ranks[i] : 1;
            uint32_t first = ranks[i] <= 4 ? t * heads : t / (ranks[i] / 4);
            expect_rect(weft_rollout_need(&kv, ranks[i], t, false).box, first * 16, 0, heads * 16, 5);
        }
    char reason[256];
    assert_true(weft_rollout_misfit(&kv, 3, false, (weft_cut_t){1, 1, false}, true, reason));
    assert_true(weft_rollout_misfit(&kv, 6, false, (weft_cut_t){1, 1, false}, true, reason));
    assert_non_null(strstr(reason, "4 KV heads"));
    assert_false(weft_rollout_misfit(&kv, 12, false, (weft_cut_t){1, 1, false}, true, reason));
}

static void expect_vocab(uint64_t vocab, uint32_t tp, uint32_t share)
{
    weft_part_t part = matrix(WEFT_SPLIT_VOCAB, vocab, 3, 0);
    for (uint32_t t = 0; t < tp; t++) {
        weft_need_t need = weft_rollout_need(&part, tp, t, false);
        uint64_t start = (uint64_t)share * t, real = start < vocab ? vocab - start : 0;
        assert_int_equal(need.rows, share);
        assert_int_equal(need.cols, 3);
        expect_rect(need.box, (uint32_t)start, 0, (uint32_t)(real < share ? real : share), 3);
    }
}

static void test_vocabulary_is_padded_to_64_and_to_the_ranks(void **state)
{
    (void)state;
    expect_vocab(128, 1, 128);
    expect_vocab(129, 1, 192);
    expect_vocab(100, 2, 64);
    expect_vocab(1, 8, 8);   /* seven ranks hold nothing but padding */
    expect_vocab(65, 4, 32); /* rank 2 one row, rank 3 none */
    expect_vocab(64, 3, 22); /* padded to 66 */
    expect_vocab(151936, 7, 21706);
}

static void test_vocabulary_always_fits(void **state)
{
    (void)state;
    weft_part_t part = matrix(WEFT_SPLIT_VOCAB, 151937, 3, 0);
    char reason[256];
    for (uint32_t tp = 1; tp <= 16; tp++)
        assert_false(weft_rollout_misfit(&part, tp, false, (weft_cut_t){1, 1, false}, true, reason));
}

static void test_experts_deal_out_the_remainder_first(void **state)
{
    (void)state;
    for (uint32_t experts = 1; experts <= 20; experts++)
        for (uint32_t tp = 1; tp <= experts; tp++)
            for (uint32_t t = 0, next = 0; t < tp; t++) {
                uint32_t first, count;
                weft_rollout_experts(experts, tp, t, true, &first, &count);
                assert_int_equal(first, next);
                assert_int_equal(count, experts / tp + (t < experts % tp));
                next += count;
                assert_true(t + 1 < tp || next == experts);
            }
    uint32_t first, count;
    weft_rollout_experts(7, 3, 2, false, &first, &count);
    assert_int_equal(first, 0);
    assert_int_equal(count, 7);
}

static void test_whole_experts_are_not_cut(void **state)
{
    (void)state;
    weft_part_t up = matrix(WEFT_SPLIT_ROWS, 100, 40, 0), down = matrix(WEFT_SPLIT_COLS, 40, 100, 0);
    expect_rect(weft_rollout_need(&up, 4, 3, true).box, 0, 0, 100, 40);
    expect_rect(weft_rollout_need(&down, 4, 3, true).box, 0, 0, 40, 100);
    expect_rect(weft_rollout_need(&up, 4, 3, false).box, 75, 0, 25, 40);
    expect_rect(weft_rollout_need(&down, 4, 3, false).box, 0, 75, 40, 25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fsdp_is_torch_chunk),
        cmocka_unit_test(test_fsdp_cuts_rows_of_a_tp_shard),
        cmocka_unit_test(test_products_of_axes),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_kv_heads_are_shared_then_copied),
        cmocka_unit_test(test_vocabulary_is_padded_to_64_and_to_the_ranks),
        cmocka_unit_test(test_vocabulary_always_fits),
        cmocka_unit_test(test_experts_deal_out_the_remainder_first),
        cmocka_unit_test(test_whole_experts_are_not_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
