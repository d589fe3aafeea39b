/* Sizes that a configuration may write down and 32 bits cannot count: refused, with what is too large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "src/model/model_private.h"
#include "src/plan/plan.h"

#define CONFIG                                                                                               \
    "{\"model_type\":\"qwen3\",\"num_hidden_layers\":1,\"vocab_size\":64,\"hidden_size\":%u,"                \
    "\"intermediate_size\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":%u,\"head_dim\":2}"

static weft_model_t *make_model(uint32_t hidden, uint32_t mlp, uint32_t heads)
{
    char config[512];
    weft_model_t *model = NULL;
    weft_error_t error;
    snprintf(config, sizeof config, CONFIG, hidden, mlp, heads, heads);
    if (weft_model_create(config, &model, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return model;
}

static void expect_message(const weft_error_t *error, const char *part)
{
    if (!strstr(error->message, part))
        fail_msg("'%s' is not in '%s'", part, error->message);
}

/* q, k and v have 2^31 - 4 rows each. */
static void test_rows_of_all_parts(void **state)
{
    (void)state;
    weft_model_t *model = make_model(1, 64, 1073741822);
    weft_error_t error;
    assert_int_equal(weft_model_complete(model, &error), WEFT_ERR_FILE);
    expect_message(&error, "qkv_proj': its parts have 6442450932 rows, at most 2^31 - 1 can be");
    weft_model_close(model);
}

/* 64 rows of 2^25 columns in bf16 are 4 GiB, in one round of a budget that has room for it. */
static void test_fragment_above_a_message(void **state)
{
    (void)state;
    weft_model_t *model = make_model(64, 1 << 25, 2);
    weft_layout_t *trainer, *rollout;
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_plan_t *plan = NULL;
    weft_error_t error;
    options.budget_bytes = UINT64_C(1) << 40;
    assert_int_equal(weft_model_complete(model, &error), WEFT_OK);
    assert_int_equal(weft_layout_parse("fsdp:1", WEFT_SIDE_TRAINER, &trainer, &error), WEFT_OK);
    assert_int_equal(weft_layout_parse("tp:1", WEFT_SIDE_ROLLOUT, &rollout, &error), WEFT_OK);
    assert_int_equal(weft_plan_create(model, trainer, rollout, "bf16", &options, &plan, &error),
                     WEFT_ERR_MISFIT);
    expect_message(&error, "part down_proj: 64 rows of 33554432 columns travel as one message of 4294967296");
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    weft_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_all_parts),
        cmocka_unit_test(test_fragment_above_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
