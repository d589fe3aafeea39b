#include "kernels/format.h"
#include "src/plan/scheme.h"
#include "tests/support/random.h"

static const weft_scheme_t *find(const char *name)
{
    const weft_scheme_t *scheme = NULL;
    assert_int_equal(weft_scheme_find(name, &scheme, NULL), WEFT_OK);
    assert_string_equal(scheme->name, name);
    return scheme;
}

static weft_profile_t profile(const char *scheme, const char *name)
{
    weft_profile_t found = WEFT_PROFILE_COUNT;
    weft_error_t error;
    if (weft_scheme_profile(find(scheme), name, &found, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return found;
}

static void test_rows_of_the_table(void **state)
{
    (void)state;
    const weft_scheme_t *cast = find("bf16"), *block = find("fp8-block"), *channel = find("fp8-channel");
    assert_int_equal(cast->dtype, WEFT_DTYPE_BF16);
    assert_int_equal(cast->amax, WEFT_AMAX_NONE);
    assert_null(cast->scale_suffix);
    assert_int_equal(block->dtype, WEFT_DTYPE_F8_E4M3);
    assert_int_equal(weft_kernel_format(block->kernel)->scale_rows, 128);
    assert_int_equal(weft_kernel_format(block->kernel)->scale_cols, 128);
    assert_string_equal(block->scale_suffix, "_scale_inv");
    assert_int_equal(block->amax, WEFT_AMAX_NONE);
    assert_int_equal(weft_kernel_format(channel->kernel)->scale_rows, 1);
    assert_int_equal(weft_kernel_format(channel->kernel)->scale_cols, WEFT_WHOLE);
    assert_string_equal(channel->scale_suffix, "_scale");
    assert_int_equal(channel->amax, WEFT_AMAX_ROW);
    assert_ptr_equal(weft_scheme_cast(), cast);
}

static void test_every_profile_has_a_name_of_its_own(void **state)
{
    (void)state;
    const char *const lists[][2] = {{"int8-channel", "ieee vllm ct"}, {"int4-group-32", "ieee ct qat"},
                                    {"fp8-block", "ieee vllm pow2 vllm-pow2"}};
    for (unsigned p = 0; p < WEFT_PROFILE_COUNT; p++) {
        assert_non_null(weft_profile_name((weft_profile_t)p));
        for (unsigned q = 0; q < p; q++)
            assert_string_not_equal(weft_profile_name((weft_profile_t)p), weft_profile_name((weft_profile_t)q));
    }
    for (unsigned i = 0; i < 3; i++)
        for (unsigned p = 1; p < WEFT_PROFILE_COUNT; p++) {
            const char *name = weft_profile_name((weft_profile_t)p);
            char word[32], list[64];
            snprintf(word, sizeof word, " %s ", name);
            snprintf(list, sizeof list, " %s ", lists[i][1]);
            bool has = find(lists[i][0])->profiles >> p & 1;
            assert_int_equal(has, strstr(list, word) != NULL);
            if (has)
                assert_int_equal(profile(lists[i][0], name), p);
        }
}

static void test_unknown_scheme_lists_those_there_are(void **state)
{
    (void)state;
    const weft_scheme_t *scheme = NULL;
    weft_error_t error;
    const char *names[] = {"", "fp8", "FP8-BLOCK", "fp8-block ", "bf16,"};
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(weft_scheme_find(names[i], &scheme, &error), WEFT_ERR_UNKNOWN_NAME);
        assert_non_null(strstr(error.message, "bf16, fp16, fp32, fp8-block, fp8-channel"));
        assert_null(scheme);
    }
}

static void test_profiles(void **state)
{
    (void)state;
    assert_int_equal(profile("fp8-block", NULL), WEFT_PROFILE_IEEE);
    assert_int_equal(profile("fp8-block", "ieee"), WEFT_PROFILE_IEEE);
    assert_int_equal(profile("fp8-block", "vllm"), WEFT_PROFILE_VLLM);
    assert_int_equal(profile("fp8-block", "pow2"), WEFT_PROFILE_POW2);
    assert_int_equal(profile("fp8-block", "vllm-pow2"), WEFT_PROFILE_VLLM_POW2);
    assert_int_equal(profile("fp8-channel", NULL), WEFT_PROFILE_DEFAULT);
    assert_int_equal(profile("bf16", NULL), WEFT_PROFILE_DEFAULT);
    assert_string_equal(weft_profile_name(WEFT_PROFILE_VLLM_POW2), "vllm-pow2");
}

static void test_unknown_profile_lists_those_there_are(void **state)
{
    (void)state;
    weft_profile_t found = WEFT_PROFILE_COUNT;
    weft_error_t error;
    assert_int_equal(weft_scheme_profile(find("fp8-block"), "exact", &found, &error), WEFT_ERR_UNKNOWN_NAME);
    assert_non_null(strstr(error.message, "ieee, vllm, pow2, vllm-pow2"));
    assert_int_equal(weft_scheme_profile(find("fp8-channel"), "ieee", &found, &error), WEFT_ERR_UNKNOWN_NAME);
    assert_int_equal(weft_scheme_profile(find("bf16"), "vllm", &found, &error), WEFT_ERR_UNKNOWN_NAME);
    assert_int_equal(found, WEFT_PROFILE_COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_the_table),
        cmocka_unit_test(test_every_profile_has_a_name_of_its_own),
        cmocka_unit_test(test_unknown_scheme_lists_those_there_are),
        cmocka_unit_test(test_profiles),
        cmocka_unit_test(test_unknown_profile_lists_those_there_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
