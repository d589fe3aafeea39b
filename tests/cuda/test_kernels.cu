/* The CUDA kernels against kernels/ref, byte for byte: exhaustive where the domain is small, fresh random units, shapes
 * and cuts otherwise. Outputs are poisoned and guarded before every run. Exit status 77: there is no GPU.
 *
 *     test_kernels [LISTS]       random lists of units to try; default 150
 *
 * WEFT_TEST_SHORT in the environment: a sample of the sweeps and fewer random cases, about a tenth of the time, for tools
 * that slow everything down. Every instance of every kernel of the schemes still runs.
 */
#include <math.h>

#include <algorithm>

#include "fixture.cuh"
#include "kernels/cuda/quotient.h"
#include "kernels/cuda/tile.cuh"

extern "C" {
#include "kernels/arrange.h"
}

static bool is_short;

/* How many of `all` rounds. */
static int rounds(int all)
{
    return is_short ? (all + 9) / 10 : all;
}

/* ---- Elements: every value there is; every STEPth, from one chosen at random, where it is short ---- */

#define SHORT_STEP 1021 /* a prime: samples share no low bits */

static __global__ void sweep_f32(unsigned long long *wrong, uint32_t first, uint32_t step)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x * step;
    for (uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * step + first; i < 1ull << 32; i += stride) {
        float x = weft_f32((uint32_t)i);
        uint32_t e4m3 = e4m3_pair(x, 0.0f), bf16 = bf16_pair(x, 0.0f), f16;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(f16) : "f"(0.0f), "f"(x));
        if (e4m3 != weft_e4m3_from_f32(x))
            atomicAdd(&wrong[0], 1);
        if (bf16 != weft_bf16_from_f32(x))
            atomicAdd(&wrong[1], 1);
        if (f16 != weft_f16_from_f32(x))
            atomicAdd(&wrong[2], 1);
    }
}

static __global__ void sweep_small(unsigned long long *wrong)
{
    for (uint32_t i = threadIdx.x; i < 1 << 16; i += blockDim.x) {
        float f16 = value_f32<WEFT_DTYPE_F16>(i), bf16 = value_f32<WEFT_DTYPE_BF16>(i);
        bool is_nan = (i & 0x7FFF) > WEFT_F16_INF;
        if (is_nan ? f16 == f16 : weft_f32_bits(f16) != weft_f32_bits(weft_f32_from_f16((uint16_t)i)))
            atomicAdd(&wrong[0], 1);
        if (weft_f32_bits(bf16) != weft_f32_bits(weft_f32_from_bf16((uint16_t)i)))
            atomicAdd(&wrong[1], 1);
        float e4m3 = e4m3_values(i & 0xFF).x;
        if (i < 256 && (i & 0x7F) != 0x7F && weft_f32_bits(e4m3) != weft_f32_bits(weft_f32_from_e4m3((uint8_t)i)))
            atomicAdd(&wrong[2], 1);
    }
}

/* One block an amax, its threads over all x that it covers, both signs. */
template <weft_dtype_t D> static __global__ void sweep_quotient(unsigned long long *wrong, uint32_t first, uint32_t step)
{
    uint32_t amax = blockIdx.x * step + first;
    float s = weft_channel_scale(value_f32<D>(amax));
    weft_inverse_t inverse = weft_inverse_of(s);
    for (uint32_t i = threadIdx.x; i <= 2 * amax + 1; i += blockDim.x) {
        float x = value_f32<D>(i / 2 | (i & 1) << 15);
        if ((e4m3_pair(weft_quotient(x, inverse), 0.0f) & 0xFF) != weft_channel_code(x, s))
            atomicAdd(wrong, 1);
    }
}

static void test_elements(void)
{
    unsigned long long *wrong, found[8];
    CUDA(cudaMalloc((void **)&wrong, sizeof found));
    CUDA(cudaMemset(wrong, 0, sizeof found));
    const uint32_t step = is_short ? SHORT_STEP : 1, first = random_in(0, step - 1);
    const uint32_t bf16_amaxes = (WEFT_BF16_INF - first + step - 1) / step;
    const uint32_t f16_amaxes = (WEFT_F16_INF - first + step - 1) / step;
    sweep_f32<<<2048, 256>>>(wrong, first, step);
    CUDA(cudaGetLastError());
    sweep_small<<<1, 1024>>>(wrong + 3);
    CUDA(cudaGetLastError());
    sweep_quotient<WEFT_DTYPE_BF16><<<bf16_amaxes, 256>>>(wrong + 6, first, step);
    CUDA(cudaGetLastError());
    sweep_quotient<WEFT_DTYPE_F16><<<f16_amaxes, 256>>>(wrong + 7, first, step);
    CUDA(cudaGetLastError());
    CUDA(cudaMemcpy(found, wrong, sizeof found, cudaMemcpyDeviceToHost));
    CUDA(cudaFree(wrong));
    static const char *const names[8] = {"fp32 to e4m3", "fp32 to bf16", "fp32 to fp16",  "fp16 to fp32",
                                         "bf16 to fp32", "e4m3 to fp32", "quotient bf16", "quotient fp16"};
    for (int i = 0; i < 8; i++)
        CHECK(found[i] == 0, "%s: %llu wrong", names[i], found[i]);
    printf(is_short ? "ok  short: one of %u fp32 values and amaxes of fp8-channel; every bf16, fp16, e4m3 value\n"
                    : "ok  every fp32, bf16, fp16, e4m3 value; every quotient of fp8-channel\n",
           step);
}

/* ---- Units ---- */

typedef std::vector<uint8_t> bytes_t;

/* A source matrix on the host. */
typedef struct matrix {
    weft_dtype_t dtype;
    uint32_t rows, cols;
    bytes_t data;
} matrix_t;

static size_t elem_of(weft_dtype_t dtype)
{
    return weft_dtype_bytes(dtype);
}

typedef enum fill {
    FILL_WEIGHTS, /* near-normal, small */
    FILL_BITS,    /* any bits, NaN and Inf among them */
    FILL_FINITE,  /* any bits that are finite */
    FILL_TINY,    /* subnormals and zeros of both signs */
    FILL_ZERO,
    FILL_COUNT,
} fill_t;

static uint32_t random_element(weft_dtype_t dtype, fill_t fill)
{
    const uint32_t f16_top = WEFT_F16_INF, bf16_top = WEFT_BF16_INF;
    uint32_t bits = (uint32_t)random_u64(), sign16 = bits & 0x8000, sign32 = bits & 0x80000000u;
    if (fill == FILL_ZERO)
        return one_in(2) ? 0 : dtype == WEFT_DTYPE_F32 ? sign32 : sign16;
    if (fill == FILL_WEIGHTS) {
        float x = 0.02f * ((float)(random_u64() >> 40) * 0x1p-24f + (float)(random_u64() >> 40) * 0x1p-24f - 1.0f);
        return dtype == WEFT_DTYPE_F32   ? weft_f32_bits(x)
               : dtype == WEFT_DTYPE_F16 ? weft_f16_from_f32(x)
                                         : weft_bf16_from_f32(x);
    }
    if (fill == FILL_TINY)
        return dtype == WEFT_DTYPE_F32 ? bits & 0x80FFFFFFu : dtype == WEFT_DTYPE_F16 ? bits & 0x83FF : bits & 0x80FF;
    if (dtype == WEFT_DTYPE_F32) /* what rounds to Inf counts as Inf */
        return fill == FILL_BITS ? bits : sign32 | (bits & 0x7FFFFFFF) % 0x7F7F8000u;
    uint32_t top = dtype == WEFT_DTYPE_F16 ? f16_top : bf16_top;
    return fill == FILL_BITS ? bits & 0xFFFF : sign16 | (bits & 0x7FFF) % top;
}

static void set_element(matrix_t *m, size_t index, uint32_t bits)
{
    memcpy(m->data.data() + index * elem_of(m->dtype), &bits, elem_of(m->dtype));
}

static matrix_t random_matrix(weft_dtype_t dtype, uint32_t rows, uint32_t cols, fill_t fill)
{
    matrix_t m = {dtype, rows, cols, bytes_t((size_t)rows * cols * elem_of(dtype))};
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        set_element(&m, i, random_element(dtype, fill));
    if (fill == FILL_WEIGHTS && one_in(4)) /* a few bad ones among good ones */
        set_element(&m, random_u64() % ((size_t)rows * cols), dtype == WEFT_DTYPE_F32 ? 0xFF800000u : 0x7FFF);
    return m;
}

/* How a unit is tried. */
typedef struct request {
    weft_kernel_id_t kernel;
    weft_profile_t profile;
    weft_dtype_t out_dtype;
    uint32_t splits;  /* of the source into segments */
    bool aligned;     /* sources at multiples of 16 bytes, else of the element */
    int amax;         /* 0: find it; 1: given; 2: given, and too small for some rows */
    uint32_t piece_rows, piece_cols; /* cut into a grid of these first; 0: not */
    bool arranged = false; /* in another arrangement, if it can; else every other is */
} request_t;

/* One unit, on the host and on the device. */
typedef struct trial {
    request_t request;
    matrix_t matrix;
    std::vector<weft_segment_t> host_segments, device_segments;
    std::vector<uint16_t> row_amax;
    std::vector<void *> allocations;      /* of the device */
    bytes_t host_out;
    bytes_t host_scale;
    uint16_t tensor_amax;
    float host_global, *device_global;
    weft_quantize_result_t host_result;
    weft_quantize_unit_t host, device;
} trial_t;

static bool is_plus_zero(const matrix_t *m, const weft_segment_t *s)
{
    size_t elem = elem_of(m->dtype);
    for (uint32_t row = 0; row < s->rows; row++) {
        const uint8_t *at = m->data.data() + ((size_t)(s->row + row) * m->cols + s->col) * elem;
        for (size_t i = 0; i < s->cols * elem; i++) {
            if (at[i] != 0)
                return false;
        }
    }
    return true;
}

/* Give a segment device memory of its own. On the host it reads the matrix itself. */
static void place_segment(trial_t *t, weft_segment_t segment)
{
    const matrix_t *m = &t->matrix;
    size_t elem = elem_of(m->dtype);
    weft_segment_t host = segment, device = segment;
    host.data = m->data.data() + ((size_t)segment.row * m->cols + segment.col) * elem;
    host.ld_elems = m->cols;
    if (is_plus_zero(m, &segment)) {
        device.data = NULL;
    } else {
        device.transposed = one_in(4);
        const uint32_t length = device.transposed ? segment.rows : segment.cols;
        const uint32_t runs = device.transposed ? segment.cols : segment.rows;
        uint32_t ld = length + random_in(0, 3);
        if (t->request.aligned)
            ld = (length + 7) / 8 * 8 + 8 * random_in(0, 1);
        bytes_t bytes(((size_t)runs * ld) * elem, 0xFF);
        for (uint32_t row = 0; row < segment.rows; row++)
            for (uint32_t col = 0; col < segment.cols; col++)
                memcpy(bytes.data() + (device.transposed ? (size_t)col * ld + row : (size_t)row * ld + col) * elem,
                       (const uint8_t *)host.data + ((size_t)row * m->cols + col) * elem, elem);
        size_t shift = t->request.aligned ? 0 : random_in(0, 7) * elem;
        uint8_t *data = device_copy(bytes.data(), bytes.size(), shift);
        t->allocations.push_back(data - shift);
        device.data = data;
        device.ld_elems = ld;
    }
    t->host_segments.push_back(host);
    t->device_segments.push_back(device);
}

/* Split random segments across or along, shuffle, and place them. */
static void cut(trial_t *t)
{
    std::vector<weft_segment_t> list;
    const uint32_t rows = t->matrix.rows, cols = t->matrix.cols;
    const uint32_t down = t->request.piece_rows ? t->request.piece_rows : rows;
    const uint32_t right = t->request.piece_cols ? t->request.piece_cols : cols;
    for (uint32_t row = 0; row < rows; row += down) {
        for (uint32_t col = 0; col < cols; col += right)
            list.push_back({NULL, 0, row, col, std::min(down, rows - row), std::min(right, cols - col), false});
    }
    for (uint32_t i = 0; i < t->request.splits; i++) {
        uint32_t which = random_in(0, (uint32_t)list.size() - 1);
        weft_segment_t a = list[which], b = a;
        uint32_t grain = t->request.aligned ? 8 : 1;
        if (one_in(2) && a.rows > 1) {
            a.rows = random_in(1, a.rows - 1);
            b.row += a.rows, b.rows -= a.rows;
        } else if (a.cols > grain) {
            a.cols = random_in(1, (a.cols - 1) / grain) * grain;
            b.col += a.cols, b.cols -= a.cols;
        } else {
            continue;
        }
        list[which] = a;
        list.push_back(b);
    }
    for (size_t i = list.size() - 1; i > 0; i--)
        std::swap(list[i], list[random_in(0, (uint32_t)i)]);
    for (const weft_segment_t &segment : list)
        place_segment(t, segment);
}

/* The amax of the whole rows, as another rank would have sent it. */
static void give_amax(trial_t *t)
{
    t->row_amax.assign(t->matrix.rows, 0);
    uint32_t row, col;
    weft_ref_amax(t->matrix.data.data(), t->matrix.cols, t->matrix.rows, t->matrix.cols, t->matrix.dtype,
                  t->row_amax.data(), &row, &col);
    for (uint16_t &amax : t->row_amax) {
        uint32_t top = t->matrix.dtype == WEFT_DTYPE_F16 ? WEFT_F16_INF - 1 : WEFT_BF16_INF - 1;
        if (one_in(3)) /* another rank's columns held more */
            amax = (uint16_t)random_in(amax, top);
        else if (t->request.amax == 2)
            amax = (uint16_t)random_in(0, amax);
    }
}

/* Every other unit that can lie in another arrangement does; most are of a larger matrix then. */
static void arrange(trial_t *t)
{
    t->host.matrix_rows = t->matrix.rows;
    for (unsigned wanted = WEFT_ARRANGE_DEEPGEMM; wanted < WEFT_ARRANGE_COUNT; wanted++) {
        weft_quantize_unit_t unit = t->host;
        unit.arrange = (weft_arrange_t)wanted;
        unit.matrix_rows += wanted == WEFT_ARRANGE_MARLIN ? -unit.matrix_rows % 64 : 0; /* is padded below */
        if ((!t->request.arranged && one_in(2)) || !weft_arrange_takes_unit(t->request.kernel, &unit))
            continue;
        const uint32_t each = wanted == WEFT_ARRANGE_DEEPGEMM ? 128 : wanted == WEFT_ARRANGE_MARLIN ? 64 : 1;
        t->host.arrange = unit.arrange;
        if (one_in(3))
            continue;
        t->host.matrix_row = each * random_in(0, 300 / each);
        t->host.matrix_rows = t->host.matrix_row + t->matrix.rows + each * random_in(0, 70 / each);
    }
    uint64_t extent[2];
    weft_arrange_extent(t->host.arrange, t->request.kernel, t->host.matrix_rows, t->matrix.cols, extent);
    t->host.matrix_rows = (uint32_t)extent[0], t->host.matrix_cols = (uint32_t)extent[1];
}

/* Bytes of codes: of the unit, or of the matrix where they are not one run. */
static size_t codes_of(const trial_t *t)
{
    const weft_format_t *format = weft_kernel_format(t->request.kernel);
    if (weft_arrange_moves_codes(t->host.arrange))
        return t->host.matrix_rows * weft_format_row_bytes(format, t->request.out_dtype, t->host.matrix_cols);
    return t->matrix.rows * weft_format_row_bytes(format, t->request.out_dtype, t->matrix.cols);
}

/* Bytes. */
static size_t scales_of(const trial_t *t)
{
    uint64_t extent[2];
    const uint32_t cols = t->host.arrange == WEFT_ARRANGE_MARLIN ? t->host.matrix_cols : t->matrix.cols;
    const weft_dtype_t dtype = weft_arrange_scales(t->host.arrange, t->request.kernel, t->host.matrix_rows, cols, extent);
    return weft_kernel_format(t->request.kernel)->scale_rows ? extent[0] * extent[1] * weft_dtype_bytes(dtype) : 0;
}

static bool spans_tensor(weft_kernel_id_t kernel)
{
    return kernel == WEFT_KERNEL_FP8_TENSOR || kernel == WEFT_KERNEL_NVFP4;
}

/* The amax of the tensor that the unit is part of: its own, or what other units had. */
static void give_tensor_amax(trial_t *t)
{
    std::vector<uint16_t> rows(t->matrix.rows, 0);
    uint32_t row, col, top = t->matrix.dtype == WEFT_DTYPE_F16 ? WEFT_F16_INF - 1 : WEFT_BF16_INF - 1;
    weft_ref_amax(t->matrix.data.data(), t->matrix.cols, t->matrix.rows, t->matrix.cols, t->matrix.dtype, rows.data(),
                  &row, &col);
    t->tensor_amax = 0;
    for (uint16_t amax : rows)
        t->tensor_amax = std::max(t->tensor_amax, amax);
    if (one_in(3))
        t->tensor_amax = (uint16_t)random_in(t->tensor_amax, top);
    t->host.tensor_amax = &t->tensor_amax;
    t->host.global = &t->host_global;
    uint8_t *amax = device_copy(&t->tensor_amax, sizeof t->tensor_amax, 0);
    CUDA(cudaMalloc((void **)&t->device_global, sizeof(float)));
    t->allocations.push_back(amax);
    t->allocations.push_back(t->device_global);
    t->device.tensor_amax = (const uint16_t *)amax;
    t->device.global = t->device_global;
}

/* What a unit leaves as it is, of a larger matrix or of its padding, is this on both: zero where it ends within one of
 * Marlin's tiles, whose other rows may be written as zeros. */
static uint8_t left_of(const trial_t *t)
{
    return t->host.arrange == WEFT_ARRANGE_MARLIN && t->host.rows % WEFT_MARLIN_ROWS ? 0 : 0xA5;
}

/* Prepare a unit and what the reference makes of it. */
static void trial_begin(trial_t *t, request_t request, matrix_t matrix)
{
    t->request = request;
    t->matrix = std::move(matrix);
    cut(t);
    t->host = weft_quantize_unit_t{
        .segments = t->host_segments.data(),
        .num_segments = (uint32_t)t->host_segments.size(),
        .dtype = t->matrix.dtype,
        .rows = t->matrix.rows,
        .cols = t->matrix.cols,
        .profile = request.profile,
        .allow_nonfinite = one_in(2),
        .row_amax = NULL,
        .out_dtype = request.out_dtype,
        .out = NULL,
        .scale = NULL,
        .global = NULL,
        .tensor_amax = NULL,
        .arrange = WEFT_ARRANGE_PLAIN,
        .matrix_row = 0,
        .matrix_rows = 0,
        .inverse = false,
        .matrix_cols = 0,
    };
    arrange(t);
    t->host_out.assign(codes_of(t), left_of(t));
    t->host.out = t->host_out.data();
    t->host_scale.assign(scales_of(t), left_of(t));
    t->host.scale = t->host_scale.empty() ? NULL : t->host_scale.data();
    t->device = t->host;
    t->device.segments = t->device_segments.data();
    t->device.scale = NULL;
    if (request.amax) {
        give_amax(t);
        t->host.row_amax = t->row_amax.data();
        uint8_t *amax = device_copy(t->row_amax.data(), t->row_amax.size() * sizeof(uint16_t), 0);
        t->allocations.push_back(amax);
        t->device.row_amax = (const uint16_t *)amax;
    }
    if (spans_tensor(request.kernel))
        give_tensor_amax(t);
    WEFT(weft_kernels_find("ref")->quantize[request.kernel](&t->host, &t->host_result));
}

static void trial_end(trial_t *t)
{
    for (void *allocation : t->allocations)
        CUDA(cudaFree(allocation));
}

static const char *const kernel_names[] = {"cast",   "fp8-block",     "fp8-channel",   "int8-channel",   "mxfp8",
                                           "mxfp4",  "int4-group-32", "int4-group-64", "int4-group-128", "fp8-tensor",
                                           "nvfp4"};
static_assert(sizeof kernel_names / sizeof *kernel_names == WEFT_KERNEL_COUNT, "one for each");
static const char *const profile_names[] = {"default", "ieee", "vllm", "pow2", "vllm-pow2", "ct", "qat", "modelopt"};

static void print_trial(const trial_t *t)
{
    printf("unit: %s, profile %s, scales %s, %s to %s, %u x %u, %zu segments, %s, amax %d\n", kernel_names[t->request.kernel],
           profile_names[t->request.profile], weft_arrange_name(t->host.arrange), weft_dtype_name(t->matrix.dtype), weft_dtype_name(t->request.out_dtype),
           t->matrix.rows, t->matrix.cols, t->host_segments.size(), t->request.aligned ? "aligned" : "odd",
           t->request.amax);
}

static void check_bytes(const trial_t *t, const char *what, const uint8_t *device, const void *host, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (device[i] != ((const uint8_t *)host)[i]) {
            print_trial(t);
            CHECK(false, "%s: byte %zu of %zu is %02x on the device, %02x on the host", what, i, bytes, device[i],
                  ((const uint8_t *)host)[i]);
        }
    }
}

/* What a list of units is checked with: weights and scales of all of them, each in guarded memory of its own. */
typedef struct outputs {
    std::vector<guarded_t> out, scale;
    std::vector<weft_cuda_unit_t> units;
    std::vector<weft_cuda_tensor_t> tensors; /* out 0, scale 0, out 1, ... */
} outputs_t;

static outputs_t place_outputs(std::vector<trial_t> *trials, bool odd)
{
    outputs_t o;
    for (trial_t &t : *trials) {
        const bool packs = weft_kernel_format(t.request.kernel)->codes > 1 || weft_arrange_moves_codes(t.host.arrange);
        size_t shift = odd ? random_in(0, 20) * (packs ? 4 : elem_of(t.request.out_dtype)) : 0;
        o.out.push_back(guarded_create(t.host_out.size(), shift));
        o.scale.push_back(guarded_create(t.host_scale.size(), odd ? 4 * random_in(0, 3) : 0));
        if (t.host.arrange != WEFT_ARRANGE_PLAIN) /* padding, and of a larger matrix what other units write */
            CUDA(cudaMemset(o.scale.back().data, left_of(&t), o.scale.back().bytes));
        if (weft_arrange_moves_codes(t.host.arrange))
            CUDA(cudaMemset(o.out.back().data, left_of(&t), o.out.back().bytes));
        t.device.out = o.out.back().data;
        t.device.scale = t.host_scale.empty() ? NULL : (float *)(void *)o.scale.back().data;
        uint32_t tensor = (uint32_t)o.tensors.size();
        o.units.push_back(weft_cuda_unit_t{t.request.kernel, t.device, one_in(8) ? WEFT_CUDA_NONE : tensor});
        o.tensors.push_back(weft_cuda_tensor_t{o.out.back().data, o.out.back().bytes});
        o.tensors.push_back(weft_cuda_tensor_t{o.scale.back().data, o.scale.back().bytes});
    }
    return o;
}

/* Run units in a few ranges, as layers are. */
static void run_in_ranges(weft_cuda_quantize_t *q, uint32_t count, unsigned extras)
{
    for (uint32_t first = 0; first < count;) {
        uint32_t some = random_in(1, count - first);
        WEFT(weft_cuda_quantize_run(q, first, some, extras | (first > 0 && one_in(2) ? WEFT_CUDA_FOLLOWS : 0), 0));
        first += some;
    }
}

static void check_results(weft_cuda_quantize_t *q, const std::vector<trial_t> &trials)
{
    uint32_t refused = WEFT_CUDA_NONE, found = WEFT_CUDA_NONE;
    for (uint32_t i = 0; i < trials.size(); i++) {
        const weft_quantize_result_t *host = &trials[i].host_result;
        weft_quantize_result_t result;
        WEFT(weft_cuda_quantize_result(q, i, 0, &result));
        if (result.nonfinite != host->nonfinite || result.nonfinite_row != host->nonfinite_row ||
            result.nonfinite_col != host->nonfinite_col) {
            print_trial(&trials[i]);
            CHECK(false, "NaN or Inf: %d at %u, %u, on the host %d at %u, %u", result.nonfinite, result.nonfinite_row,
                  result.nonfinite_col, host->nonfinite, host->nonfinite_row, host->nonfinite_col);
        }
        if (host->nonfinite && !trials[i].host.allow_nonfinite && refused == WEFT_CUDA_NONE)
            refused = i;
    }
    bool any = weft_cuda_quantize_refused(q, &found);
    CHECK(any == (refused != WEFT_CUDA_NONE) && found == refused, "refused unit %u, expected %u", found, refused);
}

/* Quantize a list on the device; compare everything that there is with these extras. */
static void check_list_with(std::vector<trial_t> *trials, bool odd, unsigned extras)
{
    const bool digests = extras & WEFT_CUDA_DIGEST;
    outputs_t o = place_outputs(trials, odd);
    uint32_t count = (uint32_t)trials->size(), num_tensors = (uint32_t)o.tensors.size();
    weft_cuda_quantize_t *q;
    WEFT(weft_cuda_quantize_create(o.units.data(), count, o.tensors.data(), num_tensors, &q));
    for (int version = 0; version < 2; version++) { /* a list is used again */
        WEFT(weft_cuda_quantize_begin(q, 0));
        run_in_ranges(q, count, extras);
        if (digests)
            WEFT(weft_cuda_quantize_finish(q, 0, num_tensors, 0));
        CUDA(cudaDeviceSynchronize());
    }
    if (extras == WEFT_CUDA_ALL)
        check_results(q, *trials);
    for (uint32_t i = 0; i < count; i++) {
        trial_t *t = &(*trials)[i];
        bytes_t out = guarded_take(&o.out[i]), scale = guarded_take(&o.scale[i]);
        check_bytes(t, "scale", scale.data(), t->host_scale.data(), scale.size());
        check_bytes(t, "out", out.data(), t->host_out.data(), out.size());
        if (t->request.kernel == WEFT_KERNEL_NVFP4) {
            float global;
            CUDA(cudaMemcpy(&global, t->device_global, sizeof global, cudaMemcpyDeviceToHost));
            check_bytes(t, "global", (const uint8_t *)&global, &t->host_global, sizeof global);
        }
        if (!digests)
            continue;
        const weft_digest_t *found = weft_cuda_quantize_digests(q);
        bool whole = same_digest(found[2 * i], ref_digest(out.data(), out.size()));
        if (!whole)
            print_trial(t);
        CHECK(whole, "digest of the weight");
        CHECK(same_digest(found[2 * i + 1], ref_digest(scale.data(), scale.size())), "digest of the scale");
    }
    weft_cuda_quantize_destroy(q);
}

static void check_list(std::vector<trial_t> *trials, bool odd, bool bare)
{
    check_list_with(trials, odd, bare ? 0 : WEFT_CUDA_ALL);
}

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

static uint32_t random_cols(bool channel)
{
    switch (random_in(0, 5)) {
    case 0:
        return random_in(1, 40);
    case 1:
        return random_in(1, 700);
    case 2:
        return 8 * random_in(1, 80);
    case 3:
        return 128 * random_in(1, 24);
    case 4:
        return channel ? 8 * random_in(200, 1600) : 128 * random_in(1, 8);
    default:
        return 64 * random_in(1, 20);
    }
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
        if (is_short && ranges == 2)
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
            if (is_short && (cols > 40000 || variant != (int)(cols / 8 % 4)))
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
                if (is_short && variant != at % 6 && variant != (at + 3) % 6)
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
        for (uint32_t i = 0; i < (is_short ? 27u : 108u); i++) {
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
        for (uint32_t i = 0; i < (is_short ? 18u : 126u); i++) {
            const bool checked = extras & WEFT_CUDA_FINITE;
            request_t r = {};
            r.kernel = kinds[i % 6].kernel, r.profile = kinds[i % 6].profile, r.out_dtype = kinds[i % 6].out_dtype;
            r.splits = one_in(2) ? random_in(1, 6) : 0, r.aligned = !one_in(4), r.arranged = true;
            r.amax = one_in(2) ? 0 : (int)random_in(1, 2);
            const fill_t fill = one_in(3) ? FILL_WEIGHTS : (fill_t)random_in(0, FILL_COUNT - 1);
            matrix_t m = random_matrix(dtypes[i / 6 % 3], marlin_rows(), is_short ? 16 * random_in(1, 40) : widths[i / 18],
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
            if (is_short && i % 6 != (int)(cols / 8 % 6)) /* another kernel and cut with each */
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

/* ---- Pack, amax, digest ---- */

static void test_pack(void)
{
    for (int round = 0; round < rounds(40); round++) {
        uint32_t count = random_in(1, 8);
        std::vector<weft_cuda_pack_job_t> jobs(count);
        std::vector<guarded_t> outs(count);
        std::vector<bytes_t> expected(count);
        std::vector<void *> sources;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t grain = 1u << random_in(0, 5), rows = random_in(1, 300);
            size_t row_bytes = (size_t)random_in(1, 90) * grain, ld = row_bytes + grain * random_in(0, 2);
            if (one_in(10))
                rows = 1, row_bytes = ld = random_in(1, 200000);
            bytes_t source(rows * ld);
            for (uint8_t &byte : source)
                byte = (uint8_t)random_u64();
            expected[i].assign(rows * row_bytes, 0);
            size_t shift = one_in(2) ? 0 : random_in(0, 16);
            outs[i] = guarded_create(rows * row_bytes, shift);
            jobs[i] = {NULL, ld, rows, row_bytes, outs[i].data, !one_in(4)};
            if (!one_in(6)) {
                size_t off = one_in(2) ? 0 : random_in(0, 16);
                uint8_t *data = device_copy(source.data(), source.size(), off);
                sources.push_back(data - off);
                jobs[i].data = data;
                weft_ref_pack(source.data(), ld, rows, row_bytes, expected[i].data());
            }
        }
        weft_cuda_pack_t *pack;
        WEFT(weft_cuda_pack_create(jobs.data(), count, &pack));
        for (uint32_t first = 0, some; first < count; first += some) {
            some = random_in(1, count - first);
            WEFT(weft_cuda_pack_run(pack, first, some, WEFT_CUDA_ALL, 0));
            WEFT(weft_cuda_pack_finish(pack, first, some, 0));
        }
        CUDA(cudaDeviceSynchronize());
        for (uint32_t i = 0; i < count; i++) {
            bytes_t got = guarded_take(&outs[i]);
            CHECK(got == expected[i], "job %u: %u rows of %zu, ld %zu", i, jobs[i].rows, jobs[i].row_bytes,
                  jobs[i].ld_bytes);
            if (jobs[i].digest)
                CHECK(same_digest(weft_cuda_pack_digests(pack)[i], ref_digest(got.data(), got.size())), "job %u", i);
        }
        weft_cuda_pack_destroy(pack);
        for (void *source : sources)
            CUDA(cudaFree(source));
    }
    printf("ok  pack\n");
}

static void test_amax(void)
{
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (int round = 0; round < rounds(40); round++) {
        uint32_t count = random_in(1, 6);
        std::vector<weft_cuda_amax_job_t> jobs(count);
        std::vector<std::vector<uint16_t>> expected(count);
        std::vector<uint64_t> keys(count, UINT64_MAX), got_keys(count);
        std::vector<guarded_t> outs(count);
        std::vector<void *> sources;
        for (uint32_t i = 0; i < count; i++) {
            weft_dtype_t dtype = dtypes[random_in(0, 2)];
            uint32_t rows = random_in(1, 200), cols = random_cols(true), used = one_in(2) ? cols : random_in(1, cols);
            matrix_t m = random_matrix(dtype, rows, cols, (fill_t)random_in(0, FILL_COUNT - 1));
            size_t shift = one_in(2) ? 0 : elem_of(dtype);
            uint8_t *data = device_copy(m.data.data(), m.data.size(), shift);
            sources.push_back(data - shift);
            const bool by_column = one_in(3);
            const uint32_t maxima = by_column ? used : rows;
            expected[i].assign(maxima, (uint16_t)random_in(0, 9));
            outs[i] = guarded_create(maxima * 2, 0);
            CUDA(cudaMemcpy(outs[i].data, expected[i].data(), maxima * 2, cudaMemcpyHostToDevice));
            jobs[i] = {data, cols, rows, used, dtype, (uint16_t *)(void *)outs[i].data, by_column};
            uint32_t row, col;
            if (by_column)
                weft_amax_columns(m.data.data(), cols, rows, used, dtype, expected[i].data());
            else if (!weft_ref_amax(m.data.data(), cols, rows, used, dtype, expected[i].data(), &row, &col))
                keys[i] = (uint64_t)row << 32 | col;
        }
        uint64_t *d_keys;
        CUDA(cudaMalloc((void **)&d_keys, count * 8));
        CUDA(cudaMemset(d_keys, 0xFF, count * 8));
        weft_cuda_amax_t *amax;
        WEFT(weft_cuda_amax_create(jobs.data(), count, &amax));
        for (uint32_t first = 0, some; first < count; first += some) {
            some = random_in(1, count - first);
            WEFT(weft_cuda_amax_run(amax, first, some, d_keys, 0));
        }
        CUDA(cudaMemcpy(got_keys.data(), d_keys, count * 8, cudaMemcpyDeviceToHost));
        for (uint32_t i = 0; i < count; i++) {
            bytes_t got = guarded_take(&outs[i]);
            CHECK(memcmp(got.data(), expected[i].data(), got.size()) == 0, "job %u", i);
            CHECK(got_keys[i] == keys[i], "job %u: %llx, expected %llx", i, (unsigned long long)got_keys[i],
                  (unsigned long long)keys[i]);
        }
        weft_cuda_amax_destroy(amax);
        CUDA(cudaFree(d_keys));
        for (void *source : sources)
            CUDA(cudaFree(source));
    }
    printf("ok  amax\n");
}

/* Several rectangles that share their rows, as the shards of a row do. */
static void test_shared_amax(void)
{
    const uint32_t rows = 64, cols = 4096, parts = 8;
    matrix_t m = random_matrix(WEFT_DTYPE_BF16, rows, cols, FILL_FINITE);
    uint8_t *data = device_copy(m.data.data(), m.data.size(), 0);
    guarded_t out = guarded_create(rows * 2, 0);
    CUDA(cudaMemset(out.data, 0, rows * 2));
    std::vector<weft_cuda_amax_job_t> jobs(parts);
    for (uint32_t i = 0; i < parts; i++)
        jobs[i] = {data + i * (cols / parts) * 2, cols, rows, cols / parts, WEFT_DTYPE_BF16,
                   (uint16_t *)(void *)out.data, false};
    weft_cuda_amax_t *amax;
    WEFT(weft_cuda_amax_create(jobs.data(), parts, &amax));
    WEFT(weft_cuda_amax_run(amax, 0, parts, NULL, 0));
    CUDA(cudaDeviceSynchronize());
    std::vector<uint16_t> expected(rows, 0);
    uint32_t row, col;
    weft_ref_amax(m.data.data(), cols, rows, cols, WEFT_DTYPE_BF16, expected.data(), &row, &col);
    bytes_t got = guarded_take(&out);
    CHECK(memcmp(got.data(), expected.data(), got.size()) == 0, "shared rows");
    weft_cuda_amax_destroy(amax);
    CUDA(cudaFree(data));
    printf("ok  amax of shared rows\n");
}

static void test_digest(void)
{
    std::vector<weft_cuda_tensor_t> runs;
    std::vector<weft_digest_t> expected;
    std::vector<void *> sources;
    std::vector<size_t> sizes = {0, 1, 7, 8, 9, 20, 4096, 32767, 32768, 32769, 65536, 1000003};
    for (int i = 0; i < 20; i++)
        sizes.push_back(random_in(1, 300000));
    for (size_t size : sizes) {
        bytes_t bytes(size);
        for (size_t i = 0; i < size; i++)
            bytes[i] = size == 20 ? (uint8_t)i : (uint8_t)random_u64();
        size_t shift = one_in(2) ? 0 : random_in(0, 15);
        uint8_t *data = device_copy(bytes.data(), size, shift);
        sources.push_back(data - shift);
        runs.push_back({data, size});
        expected.push_back(ref_digest(bytes.data(), size));
    }
    weft_cuda_digest_t *digest;
    WEFT(weft_cuda_digest_create(runs.data(), (uint32_t)runs.size(), &digest));
    WEFT(weft_cuda_digest_run(digest, 0, 5, 0));
    WEFT(weft_cuda_digest_run(digest, 5, (uint32_t)runs.size() - 5, 0));
    CUDA(cudaDeviceSynchronize());
    for (size_t i = 0; i < runs.size(); i++)
        CHECK(same_digest(weft_cuda_digest_results(digest)[i], expected[i]), "%zu bytes", sizes[i]);
    weft_digest_t golden = weft_cuda_digest_results(digest)[5];
    CHECK(golden.word[0] == 0xe2c0cfc88df1e07cu && golden.word[1] == 0x7d4a378f864a18ecu, "bytes 0..19");
    weft_cuda_digest_destroy(digest);
    for (void *source : sources)
        CUDA(cudaFree(source));
    printf("ok  digest\n");
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
    setvbuf(stdout, NULL, _IOLBF, 0);
    require_gpu();
    random_begin();
    is_short = getenv("WEFT_TEST_SHORT") != NULL;
    weft_kernels_thread_begin();
    test_refusals();
    test_elements();
    test_every_value(WEFT_DTYPE_BF16);
    test_every_value(WEFT_DTYPE_F16);
    test_tensor_of_units();
    test_long_rows();
    test_middle_rows();
    test_instances();
    test_marlin();
    test_marlin_bytes();
    test_shards();
    test_pack();
    test_amax();
    test_shared_amax();
    test_digest();
    test_random_units(argc > 1 ? (uint32_t)atoi(argv[1]) : (uint32_t)rounds(150));
    CUDA(cudaDeviceSynchronize());
    printf(is_short ? "all passed (short)\n" : "all passed\n");
    return 0;
}
