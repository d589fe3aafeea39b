/* The schemes of the CUDA kernels against kernels/ref, byte for byte: exhaustive where the domain is small, fresh random
 * units, shapes and cuts otherwise.
 *
 *     test_units [LISTS]       random lists of units to try; default 150
 *
 * With WEFT_TEST_SHORT in the environment every instance of every kernel of the schemes still runs.
 */
#include "trial.cuh"

/* What each kernel makes, and its profiles. */
static const struct {
    weft_kernel_id_t kernel;
    weft_dtype_t out_dtype;
    std::vector<weft_profile_t> profiles;
} quantizers[] = {
    {WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3,
     {WEFT_PROFILE_DEFAULT, WEFT_PROFILE_IEEE, WEFT_PROFILE_VLLM, WEFT_PROFILE_POW2, WEFT_PROFILE_VLLM_POW2}},
    {WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, {WEFT_PROFILE_DEFAULT}},
    {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, {WEFT_PROFILE_IEEE, WEFT_PROFILE_VLLM, WEFT_PROFILE_CT}},
    {WEFT_KERNEL_MXFP8, WEFT_DTYPE_F8_E4M3, {WEFT_PROFILE_DEFAULT}},
    {WEFT_KERNEL_MXFP4, WEFT_DTYPE_U8, {WEFT_PROFILE_DEFAULT}},
    {WEFT_KERNEL_INT4_GROUP_32, WEFT_DTYPE_I32, {WEFT_PROFILE_IEEE, WEFT_PROFILE_CT, WEFT_PROFILE_QAT}},
    {WEFT_KERNEL_INT4_GROUP_64, WEFT_DTYPE_I32, {WEFT_PROFILE_IEEE, WEFT_PROFILE_CT, WEFT_PROFILE_QAT}},
    {WEFT_KERNEL_INT4_GROUP_128, WEFT_DTYPE_I32, {WEFT_PROFILE_IEEE, WEFT_PROFILE_CT, WEFT_PROFILE_QAT}},
    {WEFT_KERNEL_FP8_TENSOR, WEFT_DTYPE_F8_E4M3, {WEFT_PROFILE_DEFAULT}},
    {WEFT_KERNEL_NVFP4, WEFT_DTYPE_U8, {WEFT_PROFILE_DEFAULT, WEFT_PROFILE_MODELOPT}},
};

static_assert(sizeof quantizers / sizeof *quantizers == WEFT_KERNEL_COUNT - 1, "every kernel but the cast");

/* As many columns, or a few more, as the kernel takes. */
static uint32_t fitting_cols(weft_kernel_id_t kernel, uint32_t cols)
{
    const weft_format_t *f = weft_kernel_format(kernel);
    return f->whole_groups ? (cols + f->scale_cols - 1) / f->scale_cols * f->scale_cols : cols;
}

static request_t random_request(weft_dtype_t *dtype)
{
    static const weft_dtype_t sources[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    *dtype = sources[random_in(0, 3)];
    request_t r = {};
    const uint32_t which = random_in(0, WEFT_KERNEL_COUNT - 1);
    if (which == WEFT_KERNEL_COUNT - 1) {
        r.kernel = WEFT_KERNEL_CAST;
        r.out_dtype = one_in(4) ? WEFT_DTYPE_F32 : one_in(2) ? WEFT_DTYPE_BF16 : WEFT_DTYPE_F16;
    } else {
        const auto &q = quantizers[which];
        r.kernel = q.kernel, r.out_dtype = q.out_dtype;
        r.profile = q.profiles[random_in(0, (uint32_t)q.profiles.size() - 1)];
    }
    r.splits = one_in(2) ? 0 : one_in(4) ? random_in(40, 200) : random_in(1, 12);
    r.aligned = one_in(2);
    r.amax = one_in(2) ? 0 : (int)random_in(0, 2);
    return r;
}

static void test_random_units(uint32_t lists)
{
    uint32_t units = 0;
    for (uint32_t i = 0; i < lists; i++) {
        std::vector<trial_t> trials(random_in(1, 6));
        bool bare = one_in(5);
        for (trial_t &t : trials) {
            weft_dtype_t dtype;
            request_t request = random_request(&dtype);
            fill_t fill = (fill_t)random_in(0, FILL_COUNT - 1);
            if (bare) { /* what a bare pass does with NaN, Inf or too small an amax is not specified */
                fill = fill == FILL_BITS || fill == FILL_WEIGHTS ? FILL_FINITE : fill;
                request.amax = request.amax == 2 ? 1 : request.amax;
            }
            uint32_t rows = one_in(2) ? 128 : random_in(1, 128);
            uint32_t cols = fitting_cols(request.kernel, random_cols(request.kernel == WEFT_KERNEL_FP8_CHANNEL));
            trial_begin(&t, request, random_matrix(dtype, rows, cols, fill));
        }
        check_list(&trials, one_in(3), bare);
        units += (uint32_t)trials.size();
        for (trial_t &t : trials)
            trial_end(&t);
    }
    printf("ok  %u random units in %u lists\n", units, lists);
}

/* All 65,536 values of a 16-bit source, in units of every scheme; then the finite ones, by falling amax. */
static void test_every_value(weft_dtype_t dtype)
{
    uint32_t inf = dtype == WEFT_DTYPE_F16 ? WEFT_F16_INF : WEFT_BF16_INF;
    std::vector<trial_t> trials;
    int ranges = 0;
    for (uint32_t top : {0x8000u, inf, 0x4300u, 0x3F80u, 0x3C01u, 0x38D2u, 0x2000u, 0x0381u, 0x0011u}) {
        if (is_short() && ranges == 2)
            break;
        ranges++;
        std::vector<request_t> requests;
        for (weft_dtype_t out : {WEFT_DTYPE_BF16, WEFT_DTYPE_F16})
            requests.push_back({WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, out, 0, true, 0, 0, 0});
        for (const auto &q : quantizers)
            for (weft_profile_t profile : q.profiles)
                requests.push_back({q.kernel, profile, q.out_dtype, 0, true, 0, 0, 0});
        for (const request_t &r : requests) {
            matrix_t m = {dtype, 128, 512, bytes_t(128 * 512 * 2)};
            for (uint32_t i = 0; i < 1 << 16; i++)
                set_element(&m, i, ((i & 0x7FFF) % top) | (i & 0x8000));
            trials.emplace_back();
            trial_begin(&trials.back(), r, std::move(m));
        }
    }
    check_list(&trials, false, false);
    for (trial_t &t : trials)
        trial_end(&t);
    printf("ok  every %s value, all schemes and profiles, %d ranges\n", weft_dtype_name(dtype), ranges);
}

/* Rows longer than 256 threads hold, than 1024 hold, and odd ones among them. */
static void test_long_rows(void)
{
    for (uint32_t cols : {2048u, 2056u, 4096u, 8200u, 16384u, 16392u, 16391u, 32768u, 65536u, 65544u, 140001u}) {
        for (int variant = 0; variant < 4; variant++) {
            if (is_short() && (cols > 40000 || variant != (int)(cols / 8 % 4)))
                continue;
            std::vector<trial_t> trials(1);
            request_t r = {WEFT_KERNEL_FP8_CHANNEL, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F8_E4M3, 0, false, 0, 0, 0};
            r.splits = variant == 1 ? 9 : 0;
            r.aligned = variant != 3;
            r.amax = variant == 2;
            trial_begin(&trials[0], r, random_matrix(WEFT_DTYPE_BF16, 5, cols, variant == 3 ? FILL_BITS : FILL_FINITE));
            check_list(&trials, false, false);
            trial_end(&trials[0]);
        }
    }
    printf("ok  long rows\n");
}

/* A NaN in the middle of a row; nothing else of the unit is one. */
static void spoil(matrix_t *m)
{
    set_element(m, (size_t)(m->rows / 2) * m->cols + m->cols * 3 / 4, m->dtype == WEFT_DTYPE_F32 ? 0x7FC00000u : 0x7FFF);
}

/* Rows of 8192 to 16384 elements, where the threads of a block are as many as they need: every instance of those kernels,
 * with whole sources, split ones, an amax that was given (and is too small), and a NaN to be named. */
static void test_middle_rows(void)
{
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    static const uint32_t lengths[] = {8192, 8200, 10240, 12280, 12284, 12288, 12296, 14336, 16384};
    int at = 0;
    for (weft_dtype_t dtype : dtypes) {
        for (uint32_t cols : lengths) {
            std::vector<trial_t> trials;
            for (int variant = 0; variant < 6; variant++) {
                if (is_short() && variant != at % 6 && variant != (at + 3) % 6)
                    continue;
                request_t r = {WEFT_KERNEL_FP8_CHANNEL, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F8_E4M3, 0, variant != 5, 0, 0, 0};
                r.splits = variant == 1 ? 5 : 0;
                r.amax = variant == 2 ? 1 : variant == 3 ? 2 : 0;
                matrix_t m = random_matrix(dtype, 3, cols, FILL_FINITE);
                if (variant == 4)
                    spoil(&m);
                trials.emplace_back();
                trial_begin(&trials.back(), r, std::move(m));
            }
            check_list(&trials, false, false);
            for (trial_t &t : trials)
                trial_end(&t);
            at++;
        }
    }
    printf("ok  rows of 8192 to 16384 elements\n");
}

/* Every choice of extras on finite sources of every dtype: the instances of all kernels. */
static void test_instances(void)
{
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (unsigned extras = 0; extras <= WEFT_CUDA_ALL; extras++) {
        std::vector<trial_t> trials;
        for (weft_dtype_t dtype : dtypes) {
            for (uint32_t cols : {0u, 1u, 392u, 4096u, 12288u, 16384u, 16392u}) { /* 0, 1: the other two kernels */
                request_t r = {};
                r.kernel = cols == 0 ? WEFT_KERNEL_CAST : cols == 1 ? WEFT_KERNEL_FP8_BLOCK : WEFT_KERNEL_FP8_CHANNEL;
                r.out_dtype = cols == 0 ? WEFT_DTYPE_F16 : WEFT_DTYPE_F8_E4M3;
                r.profile = cols == 1 ? WEFT_PROFILE_VLLM_POW2 : WEFT_PROFILE_DEFAULT;
                r.aligned = true;
                trials.emplace_back();
                trial_begin(&trials.back(), r, random_matrix(dtype, 2, cols > 1 ? cols : 264, FILL_FINITE));
            }
            for (const auto &q : quantizers) { /* one kernel for several schemes */
                request_t r = {q.kernel, q.profiles.back(), q.out_dtype, 0, true, 0, 0, 0};
                for (uint32_t cols : {384u, 8448u, 12416u, 16512u}) {
                    trials.emplace_back();
                    trial_begin(&trials.back(), r, random_matrix(dtype, 2, cols, FILL_FINITE));
                }
            }
        }
        check_list_with(&trials, false, extras);
        for (trial_t &t : trials)
            trial_end(&t);
    }
    printf("ok  every instance\n");
}

/* Units in pieces as shards cut them, few and many; the right end and a strip of rows are padding. */
static void test_shards(void)
{
    static const struct {
        uint32_t rows, cols; /* of a piece */
    } cuts[] = {{28, 4096}, {128, 512}, {128, 8}, {28, 1024}, {1, 4096}, {16, 64}};
    static const weft_kernel_id_t kernels[] = {WEFT_KERNEL_CAST, WEFT_KERNEL_FP8_BLOCK, WEFT_KERNEL_FP8_CHANNEL};
    static const struct {
        weft_dtype_t dtype;
        uint32_t cols;
    } matrices[] = {{WEFT_DTYPE_BF16, 200}, {WEFT_DTYPE_F32, 1096}, {WEFT_DTYPE_F16, 4096}, {WEFT_DTYPE_BF16, 9000}};
    for (auto [dtype, cols] : matrices) {
        std::vector<trial_t> trials;
        for (int i = 0; i < 18; i++) {
            if (is_short() && i % 6 != (int)(cols / 8 % 6)) /* another kernel and cut with each */
                continue;
            request_t r = {kernels[i % 3], WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F8_E4M3, 0, true, i % 2, 0, 0};
            if (r.kernel == WEFT_KERNEL_CAST)
                r.out_dtype = WEFT_DTYPE_F16;
            if (r.kernel == WEFT_KERNEL_FP8_BLOCK && i > 8)
                r.profile = WEFT_PROFILE_VLLM_POW2;
            r.piece_rows = cuts[i / 3].rows, r.piece_cols = cuts[i / 3].cols;
            matrix_t m = random_matrix(dtype, 128, cols, FILL_FINITE);
            for (uint32_t row = 0; row < m.rows; row++) {
                for (uint32_t col = row / 28 == 2 ? 0 : cols - 40; col < cols; col++)
                    set_element(&m, (size_t)row * cols + col, 0);
            }
            trials.emplace_back();
            trial_begin(&trials.back(), r, std::move(m));
        }
        check_list(&trials, false, false);
        for (trial_t &t : trials)
            trial_end(&t);
    }
    printf("ok  shards\n");
}

/* A tensor of several units, in one grid: places, partials and words of the digest must all line up. */
static void test_tensor_of_units(void)
{
    const uint32_t rows = 1000, cols = 1536, num_units = (rows + 127) / 128;
    for (int scheme = 0; scheme < 2; scheme++) {
        weft_kernel_id_t kernel = scheme ? WEFT_KERNEL_FP8_CHANNEL : WEFT_KERNEL_FP8_BLOCK;
        matrix_t m = random_matrix(WEFT_DTYPE_BF16, rows, cols, FILL_FINITE);
        size_t scale_row = scheme ? 128 : cols / 128, scales = scheme ? rows : num_units * scale_row;
        uint8_t *source = device_copy(m.data.data(), m.data.size(), 0);
        guarded_t out = guarded_create((size_t)rows * cols, 0), scale = guarded_create(scales * 4, 0);
        bytes_t host_out((size_t)rows * cols);
        std::vector<float> host_scale(scales);
        std::vector<weft_segment_t> segments(2 * num_units);
        std::vector<weft_cuda_unit_t> units(num_units);
        for (uint32_t u = 0; u < num_units; u++) {
            uint32_t here = rows - u * 128 < 128 ? rows - u * 128 : 128;
            size_t first = (size_t)u * 128 * cols;
            segments[u] = {source + first * 2, cols, 0, 0, here, cols, false};
            segments[num_units + u] = {m.data.data() + first * 2, cols, 0, 0, here, cols, false};
            weft_quantize_unit_t host = {&segments[num_units + u], 1, WEFT_DTYPE_BF16, here, cols,
                                         WEFT_PROFILE_DEFAULT, false, NULL, WEFT_DTYPE_F8_E4M3,
                                         host_out.data() + first, host_scale.data() + u * scale_row, NULL, NULL, WEFT_ARRANGE_PLAIN, 0, 0, false, 0};
            weft_quantize_result_t result;
            WEFT(weft_kernels_find("ref")->quantize[kernel](&host, &result));
            host.segments = &segments[u];
            host.out = out.data + first;
            host.scale = (float *)(void *)scale.data + u * scale_row;
            units[u] = {kernel, host, 0};
        }
        weft_cuda_tensor_t tensors[2] = {{out.data, out.bytes}, {scale.data, scale.bytes}};
        weft_cuda_quantize_t *q;
        WEFT(weft_cuda_quantize_create(units.data(), num_units, tensors, 2, &q));
        WEFT(weft_cuda_quantize_begin(q, 0));
        run_in_ranges(q, num_units, WEFT_CUDA_ALL);
        WEFT(weft_cuda_quantize_finish(q, 0, 1, 0));
        WEFT(weft_cuda_quantize_finish(q, 1, 1, 0));
        CUDA(cudaDeviceSynchronize());
        bytes_t got = guarded_take(&out), got_scale = guarded_take(&scale);
        CHECK(memcmp(got.data(), host_out.data(), got.size()) == 0, "scheme %d", scheme);
        CHECK(memcmp(got_scale.data(), host_scale.data(), got_scale.size()) == 0, "scheme %d", scheme);
        CHECK(same_digest(weft_cuda_quantize_digests(q)[0], ref_digest(got.data(), got.size())), "weight");
        CHECK(same_digest(weft_cuda_quantize_digests(q)[1], ref_digest(got_scale.data(), got_scale.size())), "scale");
        weft_cuda_quantize_destroy(q);
        CUDA(cudaFree(source));
    }
    printf("ok  tensors of several units\n");
}

/* ---- Refusals ---- */

static void test_refusals(void)
{
    uint8_t *memory;
    CUDA(cudaMalloc((void **)&memory, 1 << 20));
    weft_segment_t segment = {memory, 256, 0, 0, 128, 256, false};
    weft_cuda_tensor_t tensor = {memory, 128 * 256};
    const weft_cuda_unit_t good = {WEFT_KERNEL_FP8_BLOCK,
                                   {&segment, 1, WEFT_DTYPE_BF16, 128, 256, WEFT_PROFILE_VLLM, false, NULL,
                                    WEFT_DTYPE_F8_E4M3, memory, memory + 65536, NULL, NULL, WEFT_ARRANGE_PLAIN, 0, 0, false, 0},
                                   0};
    weft_cuda_quantize_t *q = NULL;
    WEFT(weft_cuda_quantize_create(&good, 1, &tensor, 1, &q));
    CHECK(weft_cuda_quantize_run(q, 0, 2, WEFT_CUDA_ALL, 0) == WEFT_ERR_ARGUMENT, "range");
    CHECK(weft_cuda_quantize_run(q, 1, UINT32_MAX, WEFT_CUDA_ALL, 0) == WEFT_ERR_ARGUMENT, "range");
    CHECK(weft_cuda_quantize_finish(q, 1, 1, 0) == WEFT_ERR_ARGUMENT, "range");
    WEFT(weft_cuda_quantize_run(q, 1, 0, WEFT_CUDA_ALL, 0));
    weft_cuda_quantize_destroy(q);
    for (int wrong = 0; wrong < 9; wrong++) {
        weft_cuda_unit_t bad = good;
        switch (wrong) {
        case 0: bad.unit.rows = 129; break;
        case 1: bad.unit.dtype = WEFT_DTYPE_I8; break;
        case 2: bad.unit.out_dtype = WEFT_DTYPE_BF16; break;
        case 3: bad.unit.profile = WEFT_PROFILE_COUNT; break;
        case 4: bad.unit.out = NULL; break;
        case 5: bad.unit.scale = NULL; break;
        case 6: bad.tensor = 1; break;
        case 7: bad.unit.cols = 255; break; /* the segment sticks out */
        case 8: bad.kernel = WEFT_KERNEL_FP8_CHANNEL; break; /* it has no profiles */
        }
        q = NULL;
        CHECK(weft_cuda_quantize_create(&bad, 1, &tensor, 1, &q) == WEFT_ERR_ARGUMENT && !q, "case %d", wrong);
    }
    for (int wrong = 0; wrong < 4; wrong++) {
        weft_cuda_unit_t bad = good;
        bad.kernel = WEFT_KERNEL_NVFP4;
        bad.unit.profile = WEFT_PROFILE_DEFAULT;
        bad.unit.out_dtype = WEFT_DTYPE_U8;
        bad.unit.global = (float *)(void *)(memory + 131072);
        bad.unit.tensor_amax = (const uint16_t *)(void *)(memory + 131328);
        segment.cols = bad.unit.cols = wrong == 0 ? 248 : 256; /* not whole groups */
        bad.unit.tensor_amax = wrong == 1 ? NULL : bad.unit.tensor_amax;
        bad.unit.global = wrong == 2 ? (float *)(void *)(memory + 131074) : bad.unit.global;
        bad.unit.profile = wrong == 3 ? WEFT_PROFILE_CT : bad.unit.profile;
        q = NULL;
        CHECK(weft_cuda_quantize_create(&bad, 1, &tensor, 1, &q) == WEFT_ERR_ARGUMENT && !q, "case %d of nvfp4", wrong);
    }
    CHECK(cudaGetLastError() == cudaSuccess, "refusals leave no error behind");
    CUDA(cudaFree(memory));
    printf("ok  refusals\n");
}

int main(int argc, char **argv)
{
    tests_begin();
    test_refusals();
    test_every_value(WEFT_DTYPE_BF16);
    test_every_value(WEFT_DTYPE_F16);
    test_tensor_of_units();
    test_long_rows();
    test_middle_rows();
    test_instances();
    test_shards();
    test_random_units(argc > 1 ? (uint32_t)atoi(argv[1]) : rounds(150));
    return tests_end();
}
