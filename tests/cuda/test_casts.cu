/* What becomes no codes, or is codes already, against kernels/ref: casts between the three formats, divisors that become
 * multipliers, and moves of codes by every grain.
 *
 *     test_casts [LISTS]       random lists of each; default 60
 */
#include "trial.cuh"
#include "kernels/cuda/tile.cuh"

static const weft_dtype_t formats[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};

static request_t cast_to(weft_dtype_t out_dtype)
{
    request_t r = {};
    r.kernel = WEFT_KERNEL_CAST;
    r.out_dtype = out_dtype;
    r.aligned = true;
    return r;
}

static void run_trials(std::vector<trial_t> *trials, bool odd, bool bare)
{
    check_list(trials, odd, bare);
    for (trial_t &t : *trials)
        trial_end(&t);
}

/* ---- Casts ---- */

/* All 65,536 of both, from where each is a whole group and from where none is. */
static void test_every_value(void)
{
    std::vector<trial_t> trials;
    for (weft_dtype_t from : {WEFT_DTYPE_BF16, WEFT_DTYPE_F16}) {
        for (weft_dtype_t to : formats) {
            for (bool aligned : {true, false}) {
                request_t r = cast_to(to);
                r.aligned = aligned;
                matrix_t m = {from, 128, 512, bytes_t(128 * 512 * 2)};
                for (uint32_t i = 0; i < 1 << 16; i++)
                    set_element(&m, i, i);
                trials.emplace_back();
                trial_begin(&trials.back(), r, std::move(m));
            }
        }
    }
    run_trials(&trials, false, false);
    printf("ok  every bf16 and fp16 value to bf16, fp16, fp32\n");
}

/* What rounds in fp16: each of its values as fp32, the tie above, and the neighbours of both. The last overflow. */
static void test_ties(void)
{
    std::vector<trial_t> trials;
    for (int offset = -1; offset <= 1; offset++) {
        for (uint32_t half : {0u, 1u}) {
            matrix_t m = {WEFT_DTYPE_F32, 128, 512, bytes_t(128 * 512 * 4)};
            for (uint32_t i = 0; i < 1 << 16; i++) {
                const uint32_t value = weft_f32_bits(weft_f32_from_f16((uint16_t)i));
                const uint32_t next = weft_f32_bits(weft_f32_from_f16((uint16_t)(i + 1)));
                set_element(&m, i, (half ? value / 2 + next / 2 + (value & next & 1) : value) + (uint32_t)offset);
            }
            trials.emplace_back();
            trial_begin(&trials.back(), cast_to(WEFT_DTYPE_F16), std::move(m));
        }
    }
    run_trials(&trials, false, false);
    printf("ok  fp32 to fp16 at every tie\n");
}

/* A matrix whose only element that overflows fp16, or is just below, is known. */
static void test_overflow(void)
{
    for (uint32_t round = 0; round < rounds(40); round++) {
        std::vector<trial_t> trials;
        for (uint32_t i = 0; i < 4; i++) {
            const bool f32 = i % 2, over = i / 2;
            const uint32_t rows = random_in(1, 128), cols = one_in(2) ? 8 * random_in(1, 60) : random_in(1, 400);
            matrix_t m = random_matrix(f32 ? WEFT_DTYPE_F32 : WEFT_DTYPE_BF16, rows, cols, FILL_TINY);
            const uint32_t below = f32 ? 0x477FEFFF : WEFT_BF16_OVERFLOW - 1;
            set_element(&m, random_u64() % ((size_t)rows * cols), (one_in(2) ? f32 ? 0x80000000u : 0x8000u : 0) | (below + over));
            request_t r = cast_to(WEFT_DTYPE_F16);
            r.splits = random_in(0, 5), r.aligned = one_in(2);
            trials.emplace_back();
            trial_begin(&trials.back(), r, std::move(m));
            CHECK(trials.back().host_result.nonfinite == over, "what overflows is found, nothing else");
        }
        run_trials(&trials, one_in(2), false);
    }
    printf("ok  overflow\n");
}

static void test_random_casts(uint32_t lists)
{
    for (uint32_t i = 0; i < lists; i++) {
        const bool bare = one_in(5);
        std::vector<trial_t> trials(random_in(1, 9));
        for (trial_t &t : trials) {
            request_t r = cast_to(formats[random_in(0, 2)]);
            r.splits = one_in(2) ? 0 : random_in(1, 40), r.aligned = one_in(2);
            fill_t fill = (fill_t)random_in(0, FILL_COUNT - 1);
            if (bare && (fill == FILL_BITS || fill == FILL_WEIGHTS))
                fill = FILL_FINITE;
            trial_begin(&t, r, random_matrix(formats[random_in(0, 2)], random_in(1, 128), random_cols(false), fill));
        }
        run_trials(&trials, one_in(3), bare);
    }
    printf("ok  %u lists of casts\n", lists);
}

/* ---- Divisors ---- */

static void test_inverse(uint32_t lists)
{
    for (uint32_t i = 0; i < lists; i++) {
        std::vector<trial_t> trials(random_in(1, 6));
        for (trial_t &t : trials) {
            request_t r = cast_to(WEFT_DTYPE_F32);
            r.splits = one_in(2) ? 0 : random_in(1, 9), r.aligned = one_in(2), r.inverse = !one_in(4);
            const uint32_t rows = one_in(3) ? 1 : random_in(1, 128);
            trial_begin(&t, r, random_matrix(formats[random_in(0, 2)], rows, one_in(3) ? 1 : random_cols(false),
                                             (fill_t)random_in(0, FILL_COUNT - 1)));
        }
        run_trials(&trials, one_in(3), false);
    }
    printf("ok  %u lists of divisors\n", lists);
}

/* ---- Moves ---- */

static const weft_dtype_t codes[] = {WEFT_DTYPE_F8_E4M3, WEFT_DTYPE_I8, WEFT_DTYPE_U8, WEFT_DTYPE_I16, WEFT_DTYPE_I32, WEFT_DTYPE_I64};

/* Any bytes, a run of rows of them zero. */
static matrix_t random_codes(weft_dtype_t dtype, uint32_t rows, uint32_t cols)
{
    matrix_t m = {dtype, rows, cols, bytes_t((size_t)rows * cols * elem_of(dtype))};
    const uint32_t first = random_in(0, rows), last = random_in(0, 3) ? first : random_in(first, rows);
    const size_t row_bytes = cols * elem_of(dtype);
    for (size_t i = 0; i < m.data.size(); i++)
        m.data[i] = i / row_bytes >= first && i / row_bytes < last ? 0 : (uint8_t)random_u64();
    return m;
}

static void begin_move(trial_t *t, weft_dtype_t dtype, uint32_t grain, uint32_t rows, uint32_t grains)
{
    request_t r = cast_to(dtype);
    r.aligned = false, r.grain = grain;
    r.splits = one_in(3) ? 0 : random_in(1, 20);
    if (one_in(4)) /* shards, of which some are padding */
        r.piece_rows = random_in(1, rows);
    trial_begin(t, r, random_codes(dtype, rows, grain * grains));
}

/* Every type by every grain that holds it, in rows of less than a tile and of several. */
static void test_grains(void)
{
    for (bool odd : {false, true}) {
        std::vector<trial_t> trials;
        for (weft_dtype_t dtype : codes) {
            for (uint32_t grain = 1; grain * elem_of(dtype) <= 16; grain *= 2) {
                const uint32_t tile = MOVE_BYTES / (grain * (uint32_t)elem_of(dtype));
                for (uint32_t grains : {1u, 2 * random_in(0, tile / 4) + 1, tile, 2 * tile + 1, 2 * random_in(tile, 2 * tile) + 1}) {
                    trials.emplace_back();
                    begin_move(&trials.back(), dtype, grain, one_in(2) ? 128 : random_in(1, 128), grains);
                }
            }
        }
        run_trials(&trials, odd, false);
    }
    printf("ok  moves by every grain\n");
}

/* Beside casts and divisors, as the tensors of a quantized checkpoint are. */
static void test_random_moves(uint32_t lists)
{
    for (uint32_t i = 0; i < lists; i++) {
        std::vector<trial_t> trials(random_in(2, 9));
        for (trial_t &t : trials) {
            if (one_in(4)) {
                request_t r = cast_to(WEFT_DTYPE_F32);
                r.inverse = one_in(2);
                trial_begin(&t, r, random_matrix(formats[random_in(0, 2)], random_in(1, 128), random_in(1, 40), FILL_WEIGHTS));
            } else {
                begin_move(&t, codes[random_in(0, 5)], 1u << random_in(0, 4), random_in(1, 128), random_in(1, 300));
            }
        }
        run_trials(&trials, one_in(3), one_in(5));
    }
    printf("ok  %u lists of moves\n", lists);
}

/* Codes are not made of anything else, nor turned. */
static void test_refusals(void)
{
    uint8_t *memory;
    CUDA(cudaMalloc((void **)&memory, 4096));
    weft_segment_t segment = {memory, 16, 0, 0, 8, 16, false};
    weft_cuda_unit_t good = {};
    good.kernel = WEFT_KERNEL_CAST;
    good.unit.segments = &segment, good.unit.num_segments = 1;
    good.unit.rows = 8, good.unit.cols = 16;
    good.unit.dtype = good.unit.out_dtype = WEFT_DTYPE_U8;
    good.unit.out = memory + 2048;
    good.tensor = WEFT_CUDA_NONE;
    for (int wrong = 0; wrong < 5; wrong++) {
        weft_cuda_unit_t unit = good;
        segment.transposed = wrong == 1;
        if (wrong == 2)
            unit.unit.out_dtype = WEFT_DTYPE_I8;
        if (wrong == 3)
            unit.unit.dtype = WEFT_DTYPE_BF16;
        if (wrong == 4)
            unit.unit.dtype = unit.unit.out_dtype = WEFT_DTYPE_F64;
        weft_cuda_quantize_t *q = NULL;
        CHECK(weft_cuda_quantize_create(&unit, 1, NULL, 0, &q) == (wrong ? WEFT_ERR_ARGUMENT : WEFT_OK), "case %d", wrong);
        if (q)
            weft_cuda_quantize_destroy(q);
    }
    CUDA(cudaFree(memory));
    printf("ok  refusals\n");
}

int main(int argc, char **argv)
{
    tests_begin();
    const uint32_t lists = argc > 1 ? (uint32_t)atoi(argv[1]) : rounds(60);
    test_refusals();
    test_every_value();
    test_ties();
    test_overflow();
    test_random_casts(lists);
    test_inverse(lists);
    test_grains();
    test_random_moves(lists);
    return tests_end();
}
