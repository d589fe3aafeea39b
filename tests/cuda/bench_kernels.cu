/* How fast the CUDA kernels are, each beside a device copy of the same bytes (read plus written) in the same run.
 *
 *     bench_kernels [--quick | --all] [--samples N] [--shape NAME]
 *
 * A sample runs one operation over every buffer set of a shape; the sets together are many times the L2. `layer`: one
 * launch (or one copy) a set, as when layers arrive one by one; `run`: one launch (or one copy) over all of them, as when
 * they are all there. One round takes a sample of the copy and of every operation, in turn, so that a
 * change of clock meets all of them. Times are events around a sample, over its sets. `full` has digests and
 * finite check, as they are launched for a layer or a run. What a version has once, however many layers it has, is timed by
 * itself: `finish` is begin (results forgotten) and finish (digests of the scales, sums combined, results brought
 * home), us a version of all sets of the shape, of whose tensors it says how many; it has no rate.
 *
 *     GB/s    bytes read + bytes written over the median          ratio   median of the copy over that of the operation
 *     #wrong  bytes, and digests, that differ from kernels/ref in the first set
 *
 * At the end, for each scheme, the least ratio over the shapes; and how sources in pieces compare with whole ones.
 * `--quick`: the fp8 kernels on whole sources only. `--all`: every profile, the finite check by itself, each kernel bare
 * too.
 */
#include <math.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "fixture.cuh"

#define BUFFER_BYTES ((size_t)3 << 30) /* of source and output over all sets */
#define MAX_SETS     32

typedef struct shape {
    const char *name;
    uint32_t rows, cols;
} shape_t;

/* Qwen3-8B at TP=1. */
static const shape_t shapes[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 24576, 4096}, {"down", 4096, 12288}};

static int samples = 30;
static bool quick, everything;

/* ---- Data ---- */

static __device__ uint32_t mix(uint32_t x)
{
    x ^= x >> 16, x *= 0x7FEB352Du, x ^= x >> 15, x *= 0x846CA68Bu;
    return x ^ x >> 16;
}

/* Near-normal bf16 of sigma 0.02. */
static __global__ void fill_weights(uint16_t *out, size_t count, uint32_t seed)
{
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        uint32_t a = mix((uint32_t)i * 2 + seed), b = mix((uint32_t)i * 2 + 1 + ~seed);
        float sum = (float)(a & 0xFFFF) + (float)(a >> 16) + (float)(b & 0xFFFF) + (float)(b >> 16) - 131070.0f;
        out[i] = weft_bf16_from_f32(sum * (0.02f * 1.7320508f / 65536.0f));
    }
}

typedef struct sets {
    shape_t shape;
    uint32_t count;
    uint8_t *source[MAX_SETS]; /* bf16, rows x cols */
    uint8_t *out[MAX_SETS];    /* as large: a cast's output fits */
    float *scale[MAX_SETS];
    uint16_t *amax[MAX_SETS];
    std::vector<uint16_t> host; /* the first source */
    size_t elems;
} sets_t;

static void sets_create(sets_t *s, shape_t shape)
{
    s->shape = shape;
    s->elems = (size_t)shape.rows * shape.cols;
    s->count = (uint32_t)std::min<size_t>(MAX_SETS, BUFFER_BYTES / (s->elems * 4) + 1);
    CUDA(cudaMalloc((void **)&s->source[0], s->count * s->elems * 2));
    CUDA(cudaMalloc((void **)&s->out[0], s->count * s->elems * 2));
    for (uint32_t i = 0; i < s->count; i++) {
        s->source[i] = s->source[0] + i * s->elems * 2;
        s->out[i] = s->out[0] + i * s->elems * 2;
        CUDA(cudaMalloc((void **)&s->scale[i], (size_t)shape.rows * 128 * 4));
        CUDA(cudaMalloc((void **)&s->amax[i], (size_t)shape.rows * 2));
        fill_weights<<<1024, 256>>>((uint16_t *)(void *)s->source[i], s->elems, (uint32_t)random_u64());
        CUDA(cudaGetLastError());
    }
    s->host.resize(s->elems);
    CUDA(cudaMemcpy(s->host.data(), s->source[0], s->elems * 2, cudaMemcpyDeviceToHost));
}

static void sets_destroy(sets_t *s)
{
    CUDA(cudaFree(s->source[0]));
    CUDA(cudaFree(s->out[0]));
    for (uint32_t i = 0; i < s->count; i++) {
        CUDA(cudaFree(s->scale[i]));
        CUDA(cudaFree(s->amax[i]));
    }
}

/* ---- Operations ---- */

typedef enum op_kind { OP_COPY, OP_QUANTIZE, OP_FINISH, OP_PACK, OP_AMAX, OP_DIGEST } op_kind_t;

typedef struct op {
    op_kind_t kind;
    const char *name, *profile_name, *source;
    unsigned extras;
    double read, written; /* bytes an element */
    weft_kernel_id_t kernel;
    weft_profile_t profile;
    weft_dtype_t out_dtype;
    bool given; /* the amax of rows */
    bool run;   /* one launch for all sets */
    uint32_t cut_rows, cut_cols; /* the source comes in such pieces; 0: whole */
    void *list;
    uint32_t num_units; /* of one set */
    std::vector<float> us; /* a launch */
    long wrong;
} op_t;

static size_t scale_count(const op_t *op, const sets_t *s)
{
    return op->kernel == WEFT_KERNEL_FP8_CHANNEL ? s->shape.rows
                                                 : (size_t)((s->shape.rows + 127) / 128) * ((s->shape.cols + 127) / 128);
}

/* The segments of rows [first, first + rows), in pieces of the whole tensor as shards cut it. */
static void add_segments(const op_t *op, const sets_t *s, const void *base, uint32_t first, uint32_t rows,
                         std::vector<weft_segment_t> *segments)
{
    uint32_t cols = s->shape.cols, cut_rows = op->cut_rows ? op->cut_rows : UINT32_MAX / 2;
    uint32_t cut_cols = op->cut_cols ? op->cut_cols : cols;
    for (uint32_t row = first; row < first + rows;) {
        uint32_t end = std::min((row / cut_rows + 1) * cut_rows, first + rows);
        for (uint32_t col = 0; col < cols; col += cut_cols) {
            const uint16_t *data = (const uint16_t *)base + (size_t)row * cols + col;
            segments->push_back({data, cols, row - first, col, end - row, std::min(cut_cols, cols - col), false});
        }
        row = end;
    }
}

/* The units of one set; `segments` must outlive them. */
static std::vector<weft_cuda_unit_t> units_of(const op_t *op, const sets_t *s, const void *source, void *out,
                                              float *scale, const uint16_t *amax, uint32_t tensor,
                                              std::vector<std::vector<weft_segment_t>> *segments)
{
    std::vector<weft_cuda_unit_t> units;
    uint32_t cols = s->shape.cols;
    size_t elem = weft_dtype_bytes(op->out_dtype);
    for (uint32_t row = 0; row < s->shape.rows; row += 128) {
        uint32_t rows = std::min(128u, s->shape.rows - row);
        segments->emplace_back();
        add_segments(op, s, source, row, rows, &segments->back());
        size_t at = op->kernel == WEFT_KERNEL_FP8_CHANNEL ? row : (size_t)(row / 128) * ((cols + 127) / 128);
        units.push_back({op->kernel,
                         {segments->back().data(), (uint32_t)segments->back().size(), WEFT_DTYPE_BF16, rows, cols,
                          op->profile, false, op->given ? amax + row : NULL, op->out_dtype,
                          (uint8_t *)out + (size_t)row * cols * elem,
                          op->kernel == WEFT_KERNEL_CAST ? NULL : scale + at, NULL, NULL, WEFT_ARRANGE_PLAIN, 0, 0, false, 0},
                         tensor});
    }
    return units;
}

static void create_quantize(op_t *op, const sets_t *s)
{
    std::vector<weft_cuda_unit_t> units;
    std::vector<weft_cuda_tensor_t> tensors;
    std::vector<std::vector<weft_segment_t>> segments;
    for (uint32_t i = 0; i < s->count; i++) {
        std::vector<weft_cuda_unit_t> mine =
            units_of(op, s, s->source[i], s->out[i], s->scale[i], s->amax[i], 2 * i, &segments);
        op->num_units = (uint32_t)mine.size();
        units.insert(units.end(), mine.begin(), mine.end());
        tensors.push_back({s->out[i], s->elems * weft_dtype_bytes(op->out_dtype)});
        tensors.push_back({s->scale[i], op->kernel == WEFT_KERNEL_CAST ? 0 : scale_count(op, s) * 4});
    }
    weft_cuda_quantize_t *list;
    WEFT(weft_cuda_quantize_create(units.data(), (uint32_t)units.size(), tensors.data(), (uint32_t)tensors.size(),
                                   &list));
    op->list = list;
}

/* Half of the columns of a tensor: a shard of a row-parallel layer, cut in two. */
static void create_pack(op_t *op, const sets_t *s)
{
    std::vector<weft_cuda_pack_job_t> jobs;
    for (uint32_t i = 0; i < s->count; i++) {
        for (uint32_t half = 0; half < 2; half++)
            jobs.push_back({s->source[i] + half * s->shape.cols, (size_t)s->shape.cols * 2, s->shape.rows,
                            s->shape.cols, s->out[i] + half * s->elems, true});
    }
    op->num_units = 2;
    WEFT(weft_cuda_pack_create(jobs.data(), (uint32_t)jobs.size(), (weft_cuda_pack_t **)&op->list));
}

static void create_amax(op_t *op, const sets_t *s)
{
    std::vector<weft_cuda_amax_job_t> jobs;
    for (uint32_t i = 0; i < s->count; i++) {
        CUDA(cudaMemset(s->amax[i], 0, (size_t)s->shape.rows * 2));
        jobs.push_back({s->source[i], s->shape.cols, s->shape.rows, s->shape.cols, WEFT_DTYPE_BF16, s->amax[i], false});
    }
    op->num_units = 1;
    WEFT(weft_cuda_amax_create(jobs.data(), s->count, (weft_cuda_amax_t **)&op->list));
}

static void create_digest(op_t *op, const sets_t *s)
{
    std::vector<weft_cuda_tensor_t> runs;
    for (uint32_t i = 0; i < s->count; i++)
        runs.push_back({s->source[i], s->elems * 2});
    op->num_units = 1;
    WEFT(weft_cuda_digest_create(runs.data(), s->count, (weft_cuda_digest_t **)&op->list));
}

static void op_create(op_t *op, const sets_t *s)
{
    switch (op->kind) {
    case OP_COPY: break;
    case OP_QUANTIZE:
    case OP_FINISH: create_quantize(op, s); break;
    case OP_PACK: create_pack(op, s); break;
    case OP_AMAX: create_amax(op, s); break;
    case OP_DIGEST: create_digest(op, s); break;
    }
}

static void op_destroy(op_t *op)
{
    switch (op->kind) {
    case OP_COPY: break;
    case OP_QUANTIZE:
    case OP_FINISH: weft_cuda_quantize_destroy((weft_cuda_quantize_t *)op->list); break;
    case OP_PACK: weft_cuda_pack_destroy((weft_cuda_pack_t *)op->list); break;
    case OP_AMAX: weft_cuda_amax_destroy((weft_cuda_amax_t *)op->list); break;
    case OP_DIGEST: weft_cuda_digest_destroy((weft_cuda_digest_t *)op->list); break;
    }
}

static void launch(const op_t *op, const sets_t *s, uint32_t set, uint32_t sets, cudaStream_t stream)
{
    uint32_t first = set * op->num_units, count = sets * op->num_units;
    switch (op->kind) {
    case OP_COPY: /* as many bytes as the fp8 kernels read and write, half of them each */
        CUDA(cudaMemcpyAsync(s->out[set], s->source[set], sets * (size_t)(op->read * (double)s->elems),
                             cudaMemcpyDeviceToDevice, stream));
        break;
    case OP_QUANTIZE:
        WEFT(weft_cuda_quantize_run((weft_cuda_quantize_t *)op->list, first, count, op->extras, stream));
        break;
    case OP_PACK:
        WEFT(weft_cuda_pack_run((weft_cuda_pack_t *)op->list, first, count, op->extras, stream));
        break;
    case OP_AMAX:
        WEFT(weft_cuda_amax_run((weft_cuda_amax_t *)op->list, first, count, NULL, stream));
        break;
    case OP_FINISH: /* in the place of all layers */
        WEFT(weft_cuda_quantize_begin((weft_cuda_quantize_t *)op->list, stream));
        WEFT(weft_cuda_quantize_finish((weft_cuda_quantize_t *)op->list, 0, 2 * sets, stream));
        break;
    case OP_DIGEST: WEFT(weft_cuda_digest_run((weft_cuda_digest_t *)op->list, 0, sets, stream)); break;
    }
}

/* Every layer. */
static void run_sample(const op_t *op, const sets_t *s, cudaStream_t stream)
{
    for (uint32_t set = 0; set < s->count && !op->run; set++)
        launch(op, s, set, 1, stream);
    if (op->run)
        launch(op, s, 0, s->count, stream);
}

/* What comes before the layers of a version, and after them. */
static void begin_version(const op_t *op)
{
    if (op->kind == OP_QUANTIZE)
        WEFT(weft_cuda_quantize_begin((weft_cuda_quantize_t *)op->list, 0));
}

static void end_version(const op_t *op, const sets_t *s)
{
    if (op->kind == OP_QUANTIZE && op->extras & WEFT_CUDA_DIGEST)
        WEFT(weft_cuda_quantize_finish((weft_cuda_quantize_t *)op->list, 0, 2 * s->count, 0));
    if (op->kind == OP_PACK && op->extras & WEFT_CUDA_DIGEST)
        WEFT(weft_cuda_pack_finish((weft_cuda_pack_t *)op->list, 0, 2 * s->count, 0));
}

/* ---- Correctness ---- */

static long count_wrong(const void *device, const void *host, size_t bytes)
{
    std::vector<uint8_t> got(bytes);
    CUDA(cudaMemcpy(got.data(), device, bytes, cudaMemcpyDeviceToHost));
    if (memcmp(got.data(), host, bytes) == 0)
        return 0;
    long wrong = 0;
    for (size_t i = 0; i < bytes; i++)
        wrong += got[i] != ((const uint8_t *)host)[i];
    return wrong;
}

/* What kernels/ref makes of the first set; kept for the operations of a shape that must give the same. */
typedef struct expected {
    std::vector<uint8_t> out;
    std::vector<float> scale;
    weft_digest_t out_digest, scale_digest;
} expected_t;

static std::map<std::tuple<int, int, int, bool>, expected_t> expectations;

static const expected_t *expect(const op_t *op, const sets_t *s)
{
    const auto key = std::make_tuple((int)op->kernel, (int)op->profile, (int)op->out_dtype, op->given);
    const auto found = expectations.find(key);
    if (found != expectations.end())
        return &found->second;
    expected_t *e = &expectations[key];
    e->out.resize(s->elems * weft_dtype_bytes(op->out_dtype));
    e->scale.resize(op->kernel == WEFT_KERNEL_CAST ? 0 : scale_count(op, s));
    std::vector<uint16_t> amax(s->shape.rows);
    CUDA(cudaMemcpy(amax.data(), s->amax[0], amax.size() * 2, cudaMemcpyDeviceToHost));
    std::vector<std::vector<weft_segment_t>> segments;
    op_t whole = *op;
    whole.cut_rows = whole.cut_cols = 0;
    for (weft_cuda_unit_t &u :
         units_of(&whole, s, s->host.data(), e->out.data(), e->scale.data(), amax.data(), 0, &segments)) {
        weft_quantize_result_t result;
        WEFT(weft_kernels_find("ref")->quantize[op->kernel](&u.unit, &result));
    }
    e->out_digest = ref_digest(e->out.data(), e->out.size());
    e->scale_digest = ref_digest(e->scale.data(), e->scale.size() * sizeof(float));
    return e;
}

static long wrong_quantize(const op_t *op, const sets_t *s)
{
    const expected_t *e = expect(op, s);
    long wrong = count_wrong(s->out[0], e->out.data(), e->out.size());
    if (op->kernel != WEFT_KERNEL_CAST)
        wrong += count_wrong(s->scale[0], e->scale.data(), e->scale.size() * sizeof(float));
    if (op->extras & WEFT_CUDA_DIGEST) {
        const weft_digest_t *digests = weft_cuda_quantize_digests((const weft_cuda_quantize_t *)op->list);
        wrong += !same_digest(digests[0], e->out_digest);
        if (op->kernel != WEFT_KERNEL_CAST)
            wrong += !same_digest(digests[1], e->scale_digest);
    }
    return wrong;
}

static long wrong_pack(const op_t *op, const sets_t *s)
{
    std::vector<uint16_t> out(s->elems / 2);
    weft_ref_pack(s->host.data(), (size_t)s->shape.cols * 2, s->shape.rows, s->shape.cols, out.data());
    long wrong = count_wrong(s->out[0], out.data(), s->elems);
    if (op->extras & WEFT_CUDA_DIGEST)
        wrong += !same_digest(weft_cuda_pack_digests((const weft_cuda_pack_t *)op->list)[0],
                              ref_digest(out.data(), s->elems));
    return wrong;
}

static long wrong_amax(const sets_t *s)
{
    std::vector<uint16_t> amax(s->shape.rows, 0);
    uint32_t row, col;
    weft_ref_amax(s->host.data(), s->shape.cols, s->shape.rows, s->shape.cols, WEFT_DTYPE_BF16, amax.data(), &row,
                  &col);
    return count_wrong(s->amax[0], amax.data(), amax.size() * 2);
}

/* Run an operation once on poisoned outputs and compare the first set. */
static void check_op(op_t *op, const sets_t *s)
{
    CUDA(cudaMemset(s->out[0], 0xA5, s->elems * 2));
    CUDA(cudaMemset(s->scale[0], 0xA5, (size_t)s->shape.rows * 128 * 4));
    begin_version(op);
    run_sample(op, s, 0);
    end_version(op, s);
    CUDA(cudaDeviceSynchronize());
    switch (op->kind) {
    case OP_COPY: op->wrong = count_wrong(s->out[0], s->host.data(), s->elems); break;
    case OP_QUANTIZE: op->wrong = wrong_quantize(op, s); break;
    case OP_FINISH: break; /* of no layers */
    case OP_PACK: op->wrong = wrong_pack(op, s); break;
    case OP_AMAX: op->wrong = wrong_amax(s); break;
    case OP_DIGEST:
        op->wrong = !same_digest(weft_cuda_digest_results((const weft_cuda_digest_t *)op->list)[0],
                                 ref_digest(s->host.data(), s->elems * 2));
        break;
    }
}

/* ---- Times ---- */

static float percentile(std::vector<float> v, double p)
{
    std::sort(v.begin(), v.end());
    size_t rank = (size_t)ceil(p * (double)v.size());
    return v[rank > 0 ? rank - 1 : 0];
}

static double rate_of(const op_t *op, const sets_t *s)
{
    return (op->read + op->written) * (double)s->elems / percentile(op->us, 0.5);
}

static const char *with_of(const op_t *op)
{
    return op->extras == WEFT_CUDA_ALL ? "full" : op->extras ? "part" : "bare";
}

/* Times of a version, not of a set. */
static void print_finish(const op_t *op, const sets_t *s)
{
    const std::string tensors = std::to_string(2 * s->count) + " tensors";
    const float sets = (float)s->count;
    printf("%-12s %-10s %-8s %-10s %-6s %-5s %8s %7s %9.2f %9.2f %7s\n", "finish", op->name, s->shape.name,
           tensors.c_str(), "once", with_of(op), "-", "-", sets * percentile(op->us, 0.5), sets * percentile(op->us, 0.99),
           "-");
}

static void print_op(const op_t *op, const sets_t *s, const op_t *copy)
{
    if (op->kind == OP_FINISH)
        return print_finish(op, s);
    printf("%-12s %-10s %-8s %-10s %-6s %-5s %8.0f %7.3f %9.2f %9.2f %7ld\n", op->name, op->profile_name, s->shape.name,
           op->source, op->run ? "run" : "layer", with_of(op), rate_of(op, s) * 1e-3, rate_of(op, s) / rate_of(copy, s),
           percentile(op->us, 0.5), percentile(op->us, 0.99), op->wrong);
}

/* The least ratio of a kind of operation over the shapes. */
typedef struct least {
    double ratio;
    const char *shape;
} least_t;

static std::map<std::string, least_t> summary;

static void note_least(const std::string &what, double ratio, const char *shape)
{
    const auto at = summary.find(what);
    if (at == summary.end() || ratio < at->second.ratio)
        summary[what] = least_t{ratio, shape};
}

/* An fp8 kernel that finds everything itself, on whole sources. */
static bool is_plain_fp8(const op_t *op)
{
    return op->kind == OP_QUANTIZE && op->kernel != WEFT_KERNEL_CAST && !op->given && !op->cut_rows && !op->cut_cols;
}

/* Beside the copy; a source in pieces beside the whole one, under the same launch. */
static void note_op(const op_t *op, const sets_t *s, const std::vector<op_t> *ops, const op_t *copy)
{
    if (is_plain_fp8(op)) {
        note_least(std::string(op->name) + ", " + with_of(op) + ", " + (op->run ? "run" : "layer") + ": of a copy",
                   rate_of(op, s) / rate_of(copy, s), s->shape.name);
        return;
    }
    for (const op_t &whole : *ops) {
        if (op->cut_rows + op->cut_cols > 0 && is_plain_fp8(&whole) && whole.kernel == op->kernel &&
            whole.profile <= WEFT_PROFILE_IEEE && whole.extras == op->extras && whole.run == op->run)
            note_least(std::string(op->name) + ", " + op->source + ": of whole", rate_of(op, s) / rate_of(&whole, s),
                       s->shape.name);
    }
}

static void print_summary(void)
{
    for (const auto &[what, least] : summary)
        printf("# least: %-40s %.3f (%s)\n", what.c_str(), least.ratio, least.shape);
}

static op_t quantize_op(const char *name, weft_kernel_id_t kernel, weft_profile_t profile, const char *profile_name,
                        unsigned extras)
{
    op_t op = {};
    op.kind = OP_QUANTIZE;
    op.name = name, op.profile_name = profile_name, op.source = "whole";
    op.extras = extras;
    op.kernel = kernel, op.profile = profile;
    op.out_dtype = kernel == WEFT_KERNEL_CAST ? WEFT_DTYPE_BF16 : WEFT_DTYPE_F8_E4M3;
    op.read = 2, op.written = kernel == WEFT_KERNEL_CAST ? 2 : 1;
    return op;
}

static op_t plain_op(op_kind_t kind, const char *name, double read, double written, unsigned extras)
{
    op_t op = {};
    op.kind = kind;
    op.name = name, op.profile_name = "-", op.source = kind == OP_PACK ? "strided" : "whole";
    op.read = read, op.written = written;
    op.extras = extras;
    return op;
}

static std::vector<op_t> list_ops(const shape_t *shape)
{
    const weft_kernel_id_t block = WEFT_KERNEL_FP8_BLOCK, channel = WEFT_KERNEL_FP8_CHANNEL;
    std::vector<op_t> ops;
    op_t copy = plain_op(OP_COPY, "copy", 1.5, 1.5, 0);
    ops.push_back(copy);
    copy.run = true;
    ops.push_back(copy);
    for (unsigned extras : {0u, (unsigned)WEFT_CUDA_FINITE, (unsigned)WEFT_CUDA_ALL}) {
        bool part = extras == WEFT_CUDA_FINITE;
        if (part && !everything)
            continue;
        ops.push_back(quantize_op("fp8-block", block, WEFT_PROFILE_IEEE, "ieee", extras));
        if (!part && everything) {
            ops.push_back(quantize_op("fp8-block", block, WEFT_PROFILE_VLLM, "vllm", extras));
            ops.push_back(quantize_op("fp8-block", block, WEFT_PROFILE_POW2, "pow2", extras));
        }
        if (!part)
            ops.push_back(quantize_op("fp8-block", block, WEFT_PROFILE_VLLM_POW2, "vllm-pow2", extras));
        ops.push_back(quantize_op("fp8-channel", channel, WEFT_PROFILE_DEFAULT, "-", extras));
    }
    op_t amax = plain_op(OP_AMAX, "amax", 2, 0, WEFT_CUDA_FINITE);
    ops.push_back(amax); /* before those that are given its result */
    op_t given = quantize_op("fp8-channel", channel, WEFT_PROFILE_DEFAULT, "amax given", WEFT_CUDA_ALL);
    given.given = true;
    ops.push_back(given);
    for (weft_kernel_id_t kernel : {block, channel}) {
        const char *name = kernel == block ? "fp8-block" : "fp8-channel";
        op_t cut = kernel == block ? quantize_op(name, kernel, WEFT_PROFILE_IEEE, "ieee", WEFT_CUDA_ALL)
                                   : quantize_op(name, kernel, WEFT_PROFILE_DEFAULT, "-", WEFT_CUDA_ALL);
        cut.source = "28 rows", cut.cut_rows = 28;
        ops.push_back(cut);
        cut.source = "8 columns", cut.cut_rows = 0, cut.cut_cols = shape->cols / 8;
        ops.push_back(cut);
    }
    ops.push_back(quantize_op("cast", WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, "bf16", WEFT_CUDA_ALL));
    ops.push_back(plain_op(OP_PACK, "pack", 2, 2, WEFT_CUDA_ALL));
    if (everything) {
        ops.push_back(quantize_op("cast", WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, "bf16", 0));
        op_t f16 = quantize_op("cast", WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, "fp16", WEFT_CUDA_ALL);
        f16.out_dtype = WEFT_DTYPE_F16;
        ops.push_back(f16);
        ops.push_back(plain_op(OP_PACK, "pack", 2, 2, 0));
    }
    op_t digest = plain_op(OP_DIGEST, "digest", 2, 0, WEFT_CUDA_DIGEST);
    digest.run = true;
    ops.push_back(digest);
    for (unsigned extras : {0u, (unsigned)WEFT_CUDA_ALL}) {
        for (op_t op : {quantize_op("fp8-block", block, WEFT_PROFILE_IEEE, "ieee", extras),
                        quantize_op("fp8-block", block, WEFT_PROFILE_VLLM_POW2, "vllm-pow2", extras),
                        quantize_op("fp8-channel", channel, WEFT_PROFILE_DEFAULT, "-", extras)}) {
            op.run = true;
            ops.push_back(op);
        }
    }
    for (op_t op : {quantize_op("fp8-block", block, WEFT_PROFILE_IEEE, "ieee", WEFT_CUDA_ALL),
                    quantize_op("fp8-channel", channel, WEFT_PROFILE_DEFAULT, "-", WEFT_CUDA_ALL)}) {
        op.kind = OP_FINISH, op.run = true;
        ops.push_back(op);
    }
    if (quick)
        std::erase_if(ops, [](const op_t &op) {
            return op.kind != OP_COPY && op.kind != OP_FINISH && !is_plain_fp8(&op);
        });
    return ops;
}

static long bench_shape(const shape_t *shape)
{
    sets_t sets;
    sets_create(&sets, *shape);
    expectations.clear();
    std::vector<op_t> ops = list_ops(shape);
    long wrong = 0;
    for (op_t &op : ops) {
        op_create(&op, &sets);
        check_op(&op, &sets);
        wrong += op.wrong;
    }
    cudaEvent_t begin, end;
    cudaStream_t stream;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int round = -3; round < samples; round++) {
        for (op_t &op : ops) {
            CUDA(cudaEventRecord(begin, stream));
            run_sample(&op, &sets, stream);
            CUDA(cudaEventRecord(end, stream));
            CUDA(cudaEventSynchronize(end));
            float ms;
            CUDA(cudaEventElapsedTime(&ms, begin, end));
            if (round >= 0)
                op.us.push_back(ms * 1e3f / (float)sets.count);
        }
    }
    for (op_t &op : ops) {
        print_op(&op, &sets, &ops[op.run ? 1 : 0]);
        note_op(&op, &sets, &ops, &ops[op.run ? 1 : 0]);
    }
    for (op_t &op : ops)
        op_destroy(&op);
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    CUDA(cudaStreamDestroy(stream));
    sets_destroy(&sets);
    return wrong;
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            quick = true;
        else if (strcmp(argv[i], "--all") == 0)
            everything = true;
        else if (strcmp(argv[i], "--samples") == 0 && i + 1 < argc)
            samples = std::max(1, atoi(argv[++i]));
        else if (strcmp(argv[i], "--shape") == 0 && i + 1 < argc)
            only = argv[++i];
        else
            return printf("usage: bench_kernels [--quick | --all] [--samples N] [--shape NAME]\n"), 2;
    }
    require_gpu();
    random_begin();
    weft_kernels_thread_begin();
    cudaDeviceProp device;
    int driver, runtime;
    CUDA(cudaGetDeviceProperties(&device, 0));
    CUDA(cudaDriverGetVersion(&driver));
    CUDA(cudaRuntimeGetVersion(&runtime));
    printf("# %s, %d SMs, %.0f MiB of L2, CUDA runtime %d, driver %d; %d samples\n", device.name,
           device.multiProcessorCount, device.l2CacheSize / 1048576.0, runtime, driver, samples);
    printf("# %-10s %-10s %-8s %-10s %-6s %-5s %8s %7s %9s %9s %7s\n", "op", "profile", "shape", "source", "launch", "with", "GB/s",
           "ratio", "P50 us", "P99 us", "#wrong");
    long wrong = 0;
    for (const shape_t &shape : shapes) {
        if (!only || strcmp(only, shape.name) == 0)
            wrong += bench_shape(&shape);
    }
    print_summary();
    printf("# %ld wrong\n", wrong);
    return wrong != 0;
}
