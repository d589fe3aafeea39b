/* Units on the host and on the device: what a trial is made of, and the lists that are run and compared with kernels/ref.
 * Outputs are poisoned and guarded before every run.
 *
 *     trial_begin(&t, request, matrix);     the unit, cut into segments; what the reference makes of it
 *     check_list(&trials, odd, bare);       the same on the device, byte for byte
 *     trial_end(&t);
 */
#ifndef WEFT_TESTS_CUDA_TRIAL_CUH
#define WEFT_TESTS_CUDA_TRIAL_CUH

#include <algorithm>

#include "matrix.cuh"

extern "C" {
#include "kernels/arrange.h"
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
    bool inverse = false;  /* divisors that become multipliers */
    uint32_t grain = 0;    /* elements that all places and widths are multiples of; 0: 8 where aligned, else 1 */
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

static inline bool is_plus_zero(const matrix_t *m, const weft_segment_t *s)
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

static inline uint32_t grain_of(const request_t *request)
{
    return request->grain ? request->grain : request->aligned ? 8 : 1;
}

/* Codes are moved, never transposed. */
static inline bool is_move(const matrix_t *m)
{
    return m->dtype != WEFT_DTYPE_F32 && m->dtype != WEFT_DTYPE_F16 && m->dtype != WEFT_DTYPE_BF16;
}

/* Give a segment device memory of its own. On the host it reads the matrix itself. */
static inline void place_segment(trial_t *t, weft_segment_t segment)
{
    const matrix_t *m = &t->matrix;
    size_t elem = elem_of(m->dtype);
    weft_segment_t host = segment, device = segment;
    host.data = m->data.data() + ((size_t)segment.row * m->cols + segment.col) * elem;
    host.ld_elems = m->cols;
    if (is_plus_zero(m, &segment)) {
        device.data = NULL;
    } else {
        device.transposed = !is_move(m) && one_in(4);
        const uint32_t length = device.transposed ? segment.rows : segment.cols, grain = grain_of(&t->request);
        const uint32_t runs = device.transposed ? segment.cols : segment.rows;
        const uint32_t ld = (length + grain - 1) / grain * grain + grain * random_in(0, t->request.aligned ? 1 : 3);
        bytes_t bytes(((size_t)runs * ld) * elem, 0xFF);
        for (uint32_t row = 0; row < segment.rows; row++)
            for (uint32_t col = 0; col < segment.cols; col++)
                memcpy(bytes.data() + (device.transposed ? (size_t)col * ld + row : (size_t)row * ld + col) * elem,
                       (const uint8_t *)host.data + ((size_t)row * m->cols + col) * elem, elem);
        size_t shift = t->request.aligned ? 0 : random_in(0, 7) * grain * elem;
        uint8_t *data = device_copy(bytes.data(), bytes.size(), shift);
        t->allocations.push_back(data - shift);
        device.data = data;
        device.ld_elems = ld;
    }
    t->host_segments.push_back(host);
    t->device_segments.push_back(device);
}

/* Split random segments across or along, shuffle, and place them. */
static inline void cut(trial_t *t)
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
        uint32_t grain = grain_of(&t->request);
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
static inline void give_amax(trial_t *t)
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
static inline void arrange(trial_t *t)
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
static inline size_t codes_of(const trial_t *t)
{
    const weft_format_t *format = weft_kernel_format(t->request.kernel);
    if (weft_arrange_moves_codes(t->host.arrange))
        return t->host.matrix_rows * weft_format_row_bytes(format, t->request.out_dtype, t->host.matrix_cols);
    return t->matrix.rows * weft_format_row_bytes(format, t->request.out_dtype, t->matrix.cols);
}

/* Bytes. */
static inline size_t scales_of(const trial_t *t)
{
    uint64_t extent[2];
    const uint32_t cols = t->host.arrange == WEFT_ARRANGE_MARLIN ? t->host.matrix_cols : t->matrix.cols;
    const weft_dtype_t dtype = weft_arrange_scales(t->host.arrange, t->request.kernel, t->host.matrix_rows, cols, extent);
    return weft_kernel_format(t->request.kernel)->scale_rows ? extent[0] * extent[1] * weft_dtype_bytes(dtype) : 0;
}

static inline bool spans_tensor(weft_kernel_id_t kernel)
{
    return kernel == WEFT_KERNEL_FP8_TENSOR || kernel == WEFT_KERNEL_NVFP4;
}

/* The amax of the tensor that the unit is part of: its own, or what other units had. */
static inline void give_tensor_amax(trial_t *t)
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
static inline uint8_t left_of(const trial_t *t)
{
    return t->host.arrange == WEFT_ARRANGE_MARLIN && t->host.rows % WEFT_MARLIN_ROWS ? 0 : 0xA5;
}

/* Prepare a unit and what the reference makes of it. */
static inline void trial_begin(trial_t *t, request_t request, matrix_t matrix)
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
        .inverse = request.inverse,
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

static inline void trial_end(trial_t *t)
{
    for (void *allocation : t->allocations)
        CUDA(cudaFree(allocation));
}

static const char *const kernel_names[] = {"cast",   "fp8-block",     "fp8-channel",   "int8-channel",   "mxfp8",
                                           "mxfp4",  "int4-group-32", "int4-group-64", "int4-group-128", "fp8-tensor",
                                           "nvfp4"};
static_assert(sizeof kernel_names / sizeof *kernel_names == WEFT_KERNEL_COUNT, "one for each");
static const char *const profile_names[] = {"default", "ieee", "vllm", "pow2", "vllm-pow2", "ct", "qat", "modelopt"};

static inline void print_trial(const trial_t *t)
{
    printf("unit: %s, profile %s, scales %s, %s to %s, %u x %u, %zu segments, %s, amax %d\n", kernel_names[t->request.kernel],
           profile_names[t->request.profile], weft_arrange_name(t->host.arrange), weft_dtype_name(t->matrix.dtype), weft_dtype_name(t->request.out_dtype),
           t->matrix.rows, t->matrix.cols, t->host_segments.size(), t->request.aligned ? "aligned" : "odd",
           t->request.amax);
}

static inline void check_bytes(const trial_t *t, const char *what, const uint8_t *device, const void *host, size_t bytes)
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

static inline outputs_t place_outputs(std::vector<trial_t> *trials, bool odd)
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
static inline void run_in_ranges(weft_cuda_quantize_t *q, uint32_t count, unsigned extras)
{
    for (uint32_t first = 0; first < count;) {
        uint32_t some = random_in(1, count - first);
        WEFT(weft_cuda_quantize_run(q, first, some, extras | (first > 0 && one_in(2) ? WEFT_CUDA_FOLLOWS : 0), 0));
        first += some;
    }
}

static inline void check_results(weft_cuda_quantize_t *q, const std::vector<trial_t> &trials)
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
static inline void check_list_with(std::vector<trial_t> *trials, bool odd, unsigned extras)
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

static inline void check_list(std::vector<trial_t> *trials, bool odd, bool bare)
{
    check_list_with(trials, odd, bare ? 0 : WEFT_CUDA_ALL);
}

#endif
