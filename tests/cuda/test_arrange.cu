/* The arrangements that move codes, against kernels/ref: every instance. (Those of scales alone are among the random units
 * of test_units.) */
#include "trial.cuh"

/* Of a unit: whole tiles, or the last is padded. */
static uint32_t marlin_rows(void)
{
    return one_in(3) ? random_in(1, 128) : 64 << random_in(0, 1);
}

/* Every instance of Marlin's order: tiles, whole or padded, from whatever pieces, with and without what the quick way refuses. */
static void test_marlin(void)
{
    static const weft_kernel_id_t kernels[] = {WEFT_KERNEL_INT4_GROUP_32, WEFT_KERNEL_INT4_GROUP_64,
                                               WEFT_KERNEL_INT4_GROUP_128};
    static const weft_profile_t profiles[] = {WEFT_PROFILE_IEEE, WEFT_PROFILE_CT, WEFT_PROFILE_QAT};
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (unsigned extras = 0; extras <= WEFT_CUDA_ALL; extras++) {
        std::vector<trial_t> trials;
        for (uint32_t i = 0; i < (is_short() ? 27u : 108u); i++) {
            const uint32_t kernel = i % 3, group = 32u << kernel, groups = random_in(0, 2) ? random_in(1, 12) : 1;
            const bool checked = extras & WEFT_CUDA_FINITE;
            request_t r = {};
            r.kernel = kernels[kernel], r.profile = profiles[i / 3 % 3], r.out_dtype = WEFT_DTYPE_I32;
            r.splits = one_in(2) ? random_in(1, 6) : 0, r.aligned = !one_in(4), r.arranged = true;
            const fill_t fill = one_in(3) ? FILL_WEIGHTS : (fill_t)random_in(0, FILL_COUNT - 1);
            matrix_t m = random_matrix(dtypes[i / 9 % 3], marlin_rows(), group * groups,
                                       checked || (fill != FILL_BITS && fill != FILL_WEIGHTS) ? fill : FILL_FINITE);
            trials.emplace_back();
            trial_begin(&trials.back(), r, std::move(m));
            CHECK(trials.back().host.arrange == WEFT_ARRANGE_MARLIN, "a unit of %u x %u", m.rows, m.cols);
        }
        check_list_with(&trials, one_in(2), extras);
        for (trial_t &t : trials)
            trial_end(&t);
    }
    printf("ok  marlin\n");
}

/* The same of its order of 8-bit codes: rows of one register's worth of columns, of less, and of several. */
static void test_marlin_bytes(void)
{
    static const struct {
        weft_kernel_id_t kernel;
        weft_dtype_t out_dtype;
        weft_profile_t profile;
    } kinds[] = {
        {WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3, WEFT_PROFILE_IEEE},
        {WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3, WEFT_PROFILE_VLLM_POW2},
        {WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, WEFT_PROFILE_DEFAULT},
        {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, WEFT_PROFILE_IEEE},
        {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, WEFT_PROFILE_CT},
        {WEFT_KERNEL_FP8_TENSOR, WEFT_DTYPE_F8_E4M3, WEFT_PROFILE_DEFAULT},
    };
    static const uint32_t widths[] = {16, 128, 1008, 2048, 2064, 4096, 6160};
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (unsigned extras = 0; extras <= WEFT_CUDA_ALL; extras++) {
        std::vector<trial_t> trials;
        for (uint32_t i = 0; i < (is_short() ? 18u : 126u); i++) {
            const bool checked = extras & WEFT_CUDA_FINITE;
            request_t r = {};
            r.kernel = kinds[i % 6].kernel, r.profile = kinds[i % 6].profile, r.out_dtype = kinds[i % 6].out_dtype;
            r.splits = one_in(2) ? random_in(1, 6) : 0, r.aligned = !one_in(4), r.arranged = true;
            r.amax = one_in(2) ? 0 : (int)random_in(1, 2);
            const fill_t fill = one_in(3) ? FILL_WEIGHTS : (fill_t)random_in(0, FILL_COUNT - 1);
            matrix_t m = random_matrix(dtypes[i / 6 % 3], marlin_rows(), is_short() ? 16 * random_in(1, 40) : widths[i / 18],
                                       checked || (fill != FILL_BITS && fill != FILL_WEIGHTS) ? fill : FILL_FINITE);
            const uint32_t rows = m.rows, cols = m.cols;
            trials.emplace_back();
            trial_begin(&trials.back(), r, std::move(m));
            CHECK(trials.back().host.arrange == WEFT_ARRANGE_MARLIN, "a unit of %u x %u", rows, cols);
        }
        check_list_with(&trials, one_in(2), extras);
        for (trial_t &t : trials)
            trial_end(&t);
    }
    printf("ok  marlin of 8-bit codes\n");
}

int main(void)
{
    tests_begin();
    test_marlin();
    test_marlin_bytes();
    return tests_end();
}
