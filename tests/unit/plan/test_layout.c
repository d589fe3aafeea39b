#include "src/plan/layout.h"
#include "tests/support/random.h"

static weft_layout_t *parse(const char *text, weft_side_t side)
{
    weft_layout_t *layout = NULL;
    weft_error_t error;
    if (weft_layout_parse(text, side, &layout, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_string_equal(weft_layout_text(layout), text);
    return layout;
}

static void expect_trainer(const char *text, uint32_t fsdp, uint32_t tp, uint32_t dp)
{
    weft_layout_t *layout = parse(text, WEFT_SIDE_TRAINER);
    assert_int_equal(layout->size[WEFT_AXIS_FSDP], fsdp);
    assert_int_equal(layout->size[WEFT_AXIS_TP], tp);
    assert_int_equal(layout->size[WEFT_AXIS_DP], dp);
    assert_int_equal(weft_layout_num_ranks(layout), fsdp * tp * dp);
    weft_layout_destroy(layout);
}

static void test_trainer_forms(void **state)
{
    (void)state;
    expect_trainer("fsdp:1", 1, 1, 1);
    expect_trainer("fsdp:8", 8, 1, 1);
    expect_trainer("tp:4", 1, 4, 1);
    expect_trainer("dp:3", 1, 1, 3);
    expect_trainer("tp:2,dp:2", 1, 2, 2);
    expect_trainer("dp:2,tp:3,fsdp:5", 5, 3, 2);
    expect_trainer("fsdp:65536", 65536, 1, 1);
    expect_trainer("fsdp:256,tp:256", 256, 256, 1);
}

static void expect_rollout(const char *text, uint32_t tp, uint32_t replicas, bool ep)
{
    weft_layout_t *layout = parse(text, WEFT_SIDE_ROLLOUT);
    assert_int_equal(layout->tp, tp);
    assert_int_equal(layout->replicas, replicas);
    assert_int_equal(layout->ep, ep);
    assert_int_equal(weft_layout_num_ranks(layout), tp * replicas);
    weft_layout_destroy(layout);
}

static void test_rollout_forms(void **state)
{
    (void)state;
    expect_rollout("tp:1", 1, 1, false);
    expect_rollout("tp:8", 8, 1, false);
    expect_rollout("tp:8x2", 8, 2, false);
    expect_rollout("tp:4,ep", 4, 1, true);
    expect_rollout("tp:4x16,ep", 4, 16, true);
}

static void expect_refusal(const char *text, weft_side_t side, const char *hint)
{
    weft_layout_t *untouched = (weft_layout_t *)&untouched, *layout = untouched;
    weft_error_t error;
    if (weft_layout_parse(text, side, &layout, &error) != WEFT_ERR_ARGUMENT)
        fail_msg("\"%s\" was accepted", text);
    assert_int_equal(error.status, WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, hint));
    assert_ptr_equal(layout, untouched);
    assert_int_equal(weft_layout_parse(text, side, &layout, NULL), WEFT_ERR_ARGUMENT);
}

static void test_refusals_show_what_may_be_written(void **state)
{
    (void)state;
    const char *trainers[] = {"",
                              "fsdp",
                              "fsdp:",
                              "fsdp:0",
                              "fsdp:-1",
                              "fsdp:2,",
                              ",fsdp:2",
                              "fsdp:2 ",
                              " fsdp:2",
                              "fsdp:2,fsdp:2",
                              "tp:2,dp:2,tp:2",
                              "ep2",
                              "fsdp:2;tp:2",
                              "FSDP:2",
                              "fsdp:2x2",
                              "fsdp:65537",
                              "fsdp:4294967296",
                              "fsdp:18446744073709551617",
                              "tp:2,,dp:2",
                              "fsdp: 2"};
    const char *rollouts[] = {"",           "tp",       "tp:",       "tp:0",    "tp:2x",    "tp:2x0",
                              "tp:2,",      "tp:2,epp", "tp:2,ep,",  "x2",      "fsdp:2",   "tp:2 x2",
                              "tp:2,ep,ep", "tp:2x2x2", "tp:2,dp:2", "ep,tp:2", "tp:65537", "tp:-2"};
    for (size_t i = 0; i < sizeof trainers / sizeof *trainers; i++)
        expect_refusal(trainers[i], WEFT_SIDE_TRAINER, "fsdp:N");
    for (size_t i = 0; i < sizeof rollouts / sizeof *rollouts; i++)
        expect_refusal(rollouts[i], WEFT_SIDE_ROLLOUT, "tp:TxR");
}

/* 2^32 ranks are none in 32 bits. */
static void test_products_do_not_wrap(void **state)
{
    (void)state;
    expect_refusal("fsdp:65536,tp:2", WEFT_SIDE_TRAINER, "65536");
    expect_refusal("fsdp:65536,tp:65536", WEFT_SIDE_TRAINER, "65536");
    expect_refusal("fsdp:65536,tp:65536,dp:2", WEFT_SIDE_TRAINER, "65536");
    expect_refusal("tp:65536x2", WEFT_SIDE_ROLLOUT, "65536");
    expect_refusal("tp:65536x65536", WEFT_SIDE_ROLLOUT, "65536");
}

static void test_leftmost_factor_varies_fastest(void **state)
{
    (void)state;
    weft_layout_t *layout = parse("tp:2,dp:3,fsdp:4,pp:2", WEFT_SIDE_TRAINER);
    for (uint32_t rank = 0; rank < 48; rank++) {
        assert_int_equal(weft_layout_coordinate(layout, rank, WEFT_AXIS_PP), rank / 24);
        assert_int_equal(weft_layout_coordinate(layout, rank, WEFT_AXIS_TP), rank % 2);
        assert_int_equal(weft_layout_coordinate(layout, rank, WEFT_AXIS_DP), rank / 2 % 3);
        assert_int_equal(weft_layout_coordinate(layout, rank, WEFT_AXIS_FSDP), rank / 6 % 4);
    }
    weft_layout_destroy(layout);
}

static void test_copy_outlives_the_original(void **state)
{
    (void)state;
    weft_layout_t *layout = parse("tp:4x2,ep", WEFT_SIDE_ROLLOUT), *copy = weft_layout_copy(layout);
    weft_layout_destroy(layout);
    assert_string_equal(weft_layout_text(copy), "tp:4x2,ep");
    assert_int_equal(weft_layout_num_ranks(copy), 8);
    weft_layout_destroy(copy);
    weft_layout_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trainer_forms),
        cmocka_unit_test(test_rollout_forms),
        cmocka_unit_test(test_refusals_show_what_may_be_written),
        cmocka_unit_test(test_products_do_not_wrap),
        cmocka_unit_test(test_leftmost_factor_varies_fastest),
        cmocka_unit_test(test_copy_outlives_the_original),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
