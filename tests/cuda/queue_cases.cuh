/* What every queue must do, whatever it runs on: the lists against kernels/ref, byte for byte; small copies;
 * tickets; the exchange of a pair. Run on the host's queue as well as on a GPU's. */
#ifndef WEFT_TESTS_CUDA_QUEUE_CASES_CUH
#define WEFT_TESTS_CUDA_QUEUE_CASES_CUH

#include <algorithm>

#include "fixture.cuh"
extern "C" {
#include "kernels/format.h"
#include "kernels/queue.h"
}

typedef std::vector<uint8_t> bytes_t;

/* ---- Memory and progress ---- */

static inline void *place(weft_queue_t *q, const void *data, size_t bytes)
{
    void *memory;
    WEFT(q->ops->alloc(q, bytes, &memory));
    WEFT(q->ops->write(q, memory, data, bytes));
    return memory;
}

static inline void *place_poison(weft_queue_t *q, size_t bytes)
{
    bytes_t poison(bytes, POISON);
    return place(q, poison.data(), bytes);
}

static inline bytes_t fetch(weft_queue_t *q, const void *memory, size_t bytes)
{
    bytes_t got(bytes, POISON);
    WEFT(q->ops->read(q, memory, got.data(), bytes));
    return got;
}

static inline bytes_t random_bytes(size_t bytes)
{
    bytes_t made(bytes);
    for (uint8_t &byte : made)
        byte = (uint8_t)random_u64();
    return made;
}

/* Mark what was started and wait for it. */
static inline void finish_work(weft_queue_t *q)
{
    uint64_t ticket, done = 0;
    WEFT(q->ops->mark(q, &ticket));
    while (done < ticket)
        WEFT(q->ops->poll(q, &done));
}

/* Call run(first, count) on random pieces of [0, total), in a random order. */
template <typename RUN> static void in_pieces(uint32_t total, RUN run)
{
    std::vector<std::pair<uint32_t, uint32_t>> pieces;
    for (uint32_t first = 0, count; first < total; first += count) {
        count = random_in(1, total - first);
        pieces.push_back({first, count});
    }
    for (size_t i = pieces.size(); i > 1; i--)
        std::swap(pieces[i - 1], pieces[random_in(0, (uint32_t)i - 1)]);
    for (auto &piece : pieces)
        WEFT(run(piece.first, piece.second));
}

static inline void test_memory(weft_queue_t *q)
{
    for (size_t bytes : {(size_t)0, (size_t)1, (size_t)257, (size_t)100000}) {
        void *memory;
        WEFT(q->ops->alloc(q, bytes, &memory));
        CHECK(memory && (uintptr_t)memory % 256 == 0, "%zu bytes at %p", bytes, memory);
        CHECK(fetch(q, memory, bytes) == bytes_t(bytes, 0), "%zu bytes are not zero", bytes);
        bytes_t data = random_bytes(bytes);
        WEFT(q->ops->write(q, memory, data.data(), bytes));
        CHECK(fetch(q, memory, bytes) == data, "%zu bytes come back as they were written", bytes);
        WEFT(q->ops->clear(q, memory, bytes / 2));
        std::fill(data.begin(), data.begin() + (long)(bytes / 2), 0);
        CHECK(fetch(q, memory, bytes) == data, "half of %zu bytes cleared", bytes);
        q->ops->free(q, memory);
    }
    q->ops->free(q, NULL);
    printf("ok  %s: memory\n", q->ops->name);
}

/* One host buffer for all, changed as soon as put returns. */
static inline void test_put(weft_queue_t *q)
{
    const size_t count = 300, stride = 4096;
    bytes_t expected(count * stride, POISON), buffer(stride);
    uint8_t *memory = (uint8_t *)place_poison(q, count * stride);
    for (size_t i = 0; i < count; i++) {
        size_t bytes = i == 0 ? stride : random_in(1, (uint32_t)stride);
        buffer = random_bytes(bytes);
        std::copy(buffer.begin(), buffer.end(), expected.begin() + (long)(i * stride));
        WEFT(q->ops->put(q, memory + i * stride, buffer.data(), bytes));
        std::fill(buffer.begin(), buffer.end(), 0);
    }
    CHECK(fetch(q, memory, expected.size()) == expected, "what was put");
    q->ops->free(q, memory);
    printf("ok  %s: put from one buffer\n", q->ops->name);
}

static inline void test_tickets(weft_queue_t *q)
{
    void *memory = place_poison(q, 1 << 20);
    uint64_t first, ticket, before = 0, done;
    WEFT(q->ops->mark(q, &first));
    for (uint64_t i = 1; i <= 1000; i++) {
        WEFT(q->ops->clear(q, memory, 1 << 20));
        WEFT(q->ops->mark(q, &ticket));
        CHECK(ticket == first + i, "ticket %llu after %llu", (unsigned long long)ticket,
              (unsigned long long)first);
        if (one_in(7)) {
            WEFT(q->ops->poll(q, &done));
            CHECK(done >= before && done <= ticket, "%llu of %llu", (unsigned long long)done,
                  (unsigned long long)ticket);
            before = done;
        }
    }
    finish_work(q);
    WEFT(q->ops->poll(q, &done));
    CHECK(done == ticket + 1, "all are done");
    q->ops->free(q, memory);
    printf("ok  %s: tickets\n", q->ops->name);
}

/* ---- Quantize ---- */

static inline uint32_t random_finite(weft_dtype_t dtype)
{
    uint32_t bits = (uint32_t)random_u64();
    switch (dtype) {
    case WEFT_DTYPE_F32:
        return (bits & 0x80000000u) |
               (bits & 0x7FFFFFFF) % 0x7F7F8000u; /* what rounds to Inf counts as Inf */
    case WEFT_DTYPE_F16:
        return (bits & 0x8000) | (bits & 0x7FFF) % WEFT_F16_INF;
    default:
        return (bits & 0x8000) | (bits & 0x7FFF) % WEFT_BF16_INF;
    }
}

/* A tensor of units, with a band of zero columns that the queue is given as padding. */
typedef struct layer {
    weft_kernel_id_t kernel;
    weft_profile_t profile;
    weft_dtype_t dtype, out_dtype;
    uint32_t rows, cols, zero_begin, zero_end;
    bytes_t source;
    uint8_t *q_source, *q_out, *q_scale;
    bytes_t out, scale;
} layer_t;

static inline void set_element(layer_t *l, uint32_t row, uint32_t col, uint32_t bits)
{
    size_t elem = weft_dtype_bytes(l->dtype);
    memcpy(l->source.data() + ((size_t)row * l->cols + col) * elem, &bits, elem);
}

static inline size_t scale_bytes(const layer_t *l)
{
    const weft_format_t *f = weft_kernel_format(l->kernel);
    uint64_t extent[2];
    weft_format_scales(f, l->rows, l->cols, extent);
    return f->scale_rows ? extent[0] * extent[1] * weft_dtype_bytes(f->scale_dtype) : 0;
}

static inline size_t row_bytes(const layer_t *l)
{
    return weft_format_row_bytes(weft_kernel_format(l->kernel), l->out_dtype, l->cols);
}

/* Unit `index` of a layer, over the memory given; `segments` stay the caller's. */
static inline weft_unit_job_t unit_of(const layer_t *l, uint32_t index, uint8_t *out, uint8_t *scale,
                                      const std::vector<weft_segment_t> *segments)
{
    uint32_t row = index * 128;
    size_t place = weft_format_scale_offset(weft_kernel_format(l->kernel), row, l->cols);
    weft_unit_job_t job = {};
    job.kernel = l->kernel;
    job.unit.segments = segments->data();
    job.unit.num_segments = (uint32_t)segments->size();
    job.unit.dtype = l->dtype;
    job.unit.rows = std::min(128u, l->rows - row);
    job.unit.cols = l->cols;
    job.unit.profile = l->profile;
    job.unit.out_dtype = l->out_dtype;
    job.unit.out = out + row * row_bytes(l);
    job.unit.scale = l->kernel == WEFT_KERNEL_CAST ? NULL : scale + place;
    return job;
}

/* The columns [begin, end) of a unit's rows; `base` NULL: zeros. */
static inline weft_segment_t segment_of(const layer_t *l, uint32_t index, const uint8_t *base, uint32_t begin,
                                        uint32_t end)
{
    uint32_t row = index * 128;
    const uint8_t *data = base + ((size_t)row * l->cols + begin) * weft_dtype_bytes(l->dtype);
    return weft_segment_t{base ? data : NULL, l->cols, 0, begin, std::min(128u, l->rows - row), end - begin, false};
}

static inline layer_t random_layer(weft_queue_t *q, uint32_t index)
{
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    layer_t l = {};
    l.kernel = (weft_kernel_id_t)(index % WEFT_KERNEL_FP8_TENSOR); /* those from there on want an amax */
    l.dtype = dtypes[random_in(0, 2)];
    l.profile = l.kernel == WEFT_KERNEL_FP8_BLOCK ? (weft_profile_t)random_in(0, WEFT_PROFILE_VLLM_POW2)
                                                  : WEFT_PROFILE_DEFAULT;
    switch (l.kernel) {
    case WEFT_KERNEL_CAST:
        l.out_dtype = l.dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : WEFT_DTYPE_BF16;
        break;
    case WEFT_KERNEL_INT8_CHANNEL:
        l.out_dtype = WEFT_DTYPE_I8;
        break;
    case WEFT_KERNEL_MXFP4:
        l.out_dtype = WEFT_DTYPE_U8;
        break;
    case WEFT_KERNEL_INT4_GROUP_32:
    case WEFT_KERNEL_INT4_GROUP_64:
    case WEFT_KERNEL_INT4_GROUP_128:
        l.out_dtype = WEFT_DTYPE_I32;
        break;
    default:
        l.out_dtype = WEFT_DTYPE_F8_E4M3;
    }
    l.rows = random_in(1, 300);
    l.cols = one_in(2) ? 64 * random_in(1, 9) : random_in(2, 600);
    if (weft_kernel_format(l.kernel)->whole_groups)
        l.cols = 128 * random_in(1, 4);
    l.zero_begin = random_in(1, l.cols);
    l.zero_end = random_in(l.zero_begin, l.cols);
    l.source.resize((size_t)l.rows * l.cols * weft_dtype_bytes(l.dtype));
    for (uint32_t row = 0; row < l.rows; row++)
        for (uint32_t col = 0; col < l.cols; col++)
            set_element(&l, row, col, col >= l.zero_begin && col < l.zero_end ? 0 : random_finite(l.dtype));
    l.out.resize(l.rows * row_bytes(&l));
    l.scale.resize(scale_bytes(&l));
    l.q_source = (uint8_t *)place(q, l.source.data(), l.source.size());
    l.q_out = (uint8_t *)place_poison(q, l.out.size());
    l.q_scale = (uint8_t *)place_poison(q, l.scale.size());
    return l;
}

static inline uint32_t units_of(const layer_t *l)
{
    return (l->rows + 127) / 128;
}

/* What kernels/ref makes of a layer. */
static inline void expect(layer_t *l)
{
    for (uint32_t i = 0; i < units_of(l); i++) {
        std::vector<weft_segment_t> segments = {segment_of(l, i, l->source.data(), 0, l->cols)};
        weft_unit_job_t job = unit_of(l, i, l->out.data(), l->scale.data(), &segments);
        weft_quantize_result_t result = {};
        WEFT(weft_kernels_find("ref")->quantize[l->kernel](&job.unit, &result));
    }
}

typedef struct trial {
    weft_queue_t *queue;
    std::vector<layer_t> layers;
    std::vector<uint32_t> first_unit; /* of each layer */
    uint32_t num_units;
    weft_quantize_list_t *list;
} trial_t;

static inline void trial_begin(trial_t *t, weft_queue_t *q, uint32_t num_layers)
{
    std::vector<std::vector<weft_segment_t>> segments;
    std::vector<weft_unit_job_t> units;
    std::vector<weft_run_t> tensors;
    t->queue = q;
    for (uint32_t i = 0; i < num_layers; i++) {
        t->layers.push_back(random_layer(q, i));
        layer_t *l = &t->layers.back();
        expect(l);
        t->first_unit.push_back((uint32_t)units.size());
        tensors.push_back({l->q_out, l->out.size()});
        tensors.push_back({l->q_scale, l->scale.size()});
        for (uint32_t unit = 0; unit < units_of(l); unit++) {
            segments.push_back({segment_of(l, unit, l->q_source, 0, l->zero_begin)});
            if (l->zero_begin < l->zero_end)
                segments.back().push_back(segment_of(l, unit, NULL, l->zero_begin, l->zero_end));
            if (l->zero_end < l->cols)
                segments.back().push_back(segment_of(l, unit, l->q_source, l->zero_end, l->cols));
            units.push_back(unit_of(l, unit, l->q_out, l->q_scale, &segments.back()));
            units.back().tensor = 2 * i;
        }
    }
    t->num_units = (uint32_t)units.size();
    WEFT(q->ops->quantize_create(q, units.data(), t->num_units, tensors.data(), (uint32_t)tensors.size(),
                                 &t->list));
}

static inline void trial_end(trial_t *t)
{
    t->queue->ops->quantize_destroy(t->list);
    for (layer_t &l : t->layers)
        for (uint8_t *memory : {l.q_source, l.q_out, l.q_scale})
            t->queue->ops->free(t->queue, memory);
}

/* One version; returns when all of it is done. */
static inline void trial_run(trial_t *t)
{
    const weft_queue_ops_t *ops = t->queue->ops;
    WEFT(ops->quantize_begin(t->list));
    in_pieces(t->num_units,
              [=](uint32_t first, uint32_t count) { return ops->quantize_run(t->list, first, count); });
    WEFT(ops->quantize_finish(t->list, 0, 2 * (uint32_t)t->layers.size()));
    finish_work(t->queue);
}

static inline void trial_check(trial_t *t)
{
    const weft_digest_t *digests = t->queue->ops->quantize_digests(t->list);
    for (size_t i = 0; i < t->layers.size(); i++) {
        const layer_t *l = &t->layers[i];
        CHECK(fetch(t->queue, l->q_out, l->out.size()) == l->out, "codes of layer %zu, %u x %u", i, l->rows,
              l->cols);
        CHECK(fetch(t->queue, l->q_scale, l->scale.size()) == l->scale, "scales of layer %zu", i);
        CHECK(same_digest(digests[2 * i], ref_digest(l->out.data(), l->out.size())), "digest of layer %zu",
              i);
        CHECK(same_digest(digests[2 * i + 1], ref_digest(l->scale.data(), l->scale.size())), "of its scales");
    }
}

static inline bool is_refused(trial_t *t, uint32_t *unit, weft_quantize_result_t *result)
{
    bool refused;
    WEFT(t->queue->ops->quantize_refused(t->list, &refused, unit, result));
    return refused;
}

/* Two elements of one unit and one of a later unit that are not finite: the first of the first is named. Then
 * they are gone, and so is the refusal. */
static inline void check_refusals(trial_t *t)
{
    uint32_t which = random_in(0, (uint32_t)t->layers.size() - 2), unit = UINT32_MAX;
    layer_t *l = &t->layers[which], *later = &t->layers[which + 1];
    bytes_t good = l->source, later_good = later->source;
    weft_quantize_result_t result = {};
    uint32_t inf = l->dtype == WEFT_DTYPE_F32 ? 0xFF800000u : l->dtype == WEFT_DTYPE_F16 ? 0xFC00u : 0x7FC0u;
    uint32_t last_row = l->rows - 1, row = last_row / 128 * 128 + random_in(0, last_row % 128);
    set_element(l, row, 0, inf);
    set_element(l, last_row, 0, inf);
    set_element(later, 0, 0, later->dtype == WEFT_DTYPE_F32 ? 0x7FC00000u : 0x7FFFu);
    WEFT(t->queue->ops->write(t->queue, l->q_source, l->source.data(), good.size()));
    WEFT(t->queue->ops->write(t->queue, later->q_source, later->source.data(), later_good.size()));
    trial_run(t);
    CHECK(is_refused(t, &unit, &result), "layer %u", which);
    CHECK(unit == t->first_unit[which] + row / 128, "unit %u for row %u of layer %u", unit, row, which);
    CHECK(result.nonfinite && result.nonfinite_row == row % 128 && result.nonfinite_col == 0,
          "(%u, %u) for row %u", result.nonfinite_row, result.nonfinite_col, row);
    l->source = good, later->source = later_good;
    WEFT(t->queue->ops->write(t->queue, l->q_source, good.data(), good.size()));
    WEFT(t->queue->ops->write(t->queue, later->q_source, later_good.data(), later_good.size()));
    trial_run(t);
    CHECK(!is_refused(t, &unit, &result), "the version after a refused one");
}

static inline void test_quantize(weft_queue_t *q)
{
    for (int round = 0; round < 12; round++) {
        trial_t t = {};
        uint32_t unit;
        weft_quantize_result_t result;
        trial_begin(&t, q, random_in(2, 7));
        trial_run(&t);
        CHECK(!is_refused(&t, &unit, &result), "all are finite");
        trial_check(&t);
        check_refusals(&t);
        trial_check(&t);
        CHECK(q->ops->quantize_run(t.list, t.num_units, 1) == WEFT_ERR_ARGUMENT, "a unit too many");
        CHECK(q->ops->quantize_finish(t.list, 1, UINT32_MAX) == WEFT_ERR_ARGUMENT, "tensors too many");
        trial_end(&t);
    }
    q->ops->quantize_destroy(NULL);
    printf("ok  %s: quantize, digests, refusals\n", q->ops->name);
}

/* ---- Pack, amax, digest ---- */

static inline void test_pack(weft_queue_t *q)
{
    std::vector<weft_pack_job_t> jobs;
    std::vector<bytes_t> expected;
    std::vector<void *> memory;
    for (uint32_t i = 0; i < 24; i++) {
        uint32_t rows = random_in(1, 70);
        size_t row_bytes = one_in(2) ? 16 * random_in(1, 60) : random_in(1, 900),
               ld = row_bytes + 16 * random_in(0, 3);
        bytes_t source = random_bytes(rows * ld);
        expected.push_back(bytes_t(rows * row_bytes, 0));
        memory.push_back(place(q, source.data(), source.size()));
        memory.push_back(place_poison(q, rows * row_bytes));
        bool zeros = one_in(5);
        if (!zeros)
            weft_ref_pack(source.data(), ld, rows, row_bytes, expected.back().data());
        jobs.push_back({zeros ? NULL : memory[2 * i], ld, rows, row_bytes, memory[2 * i + 1]});
    }
    weft_pack_list_t *list;
    WEFT(q->ops->pack_create(q, jobs.data(), (uint32_t)jobs.size(), &list));
    in_pieces((uint32_t)jobs.size(),
              [=](uint32_t first, uint32_t count) { return q->ops->pack_run(list, first, count); });
    finish_work(q);
    for (size_t i = 0; i < jobs.size(); i++)
        CHECK(fetch(q, jobs[i].out, expected[i].size()) == expected[i], "job %zu", i);
    CHECK(q->ops->pack_run(list, 0, (uint32_t)jobs.size() + 1) == WEFT_ERR_ARGUMENT, "a job too many");
    q->ops->pack_destroy(list);
    q->ops->pack_destroy(NULL);
    for (void *one : memory)
        q->ops->free(q, one);
    printf("ok  %s: pack\n", q->ops->name);
}

static inline void test_amax(weft_queue_t *q)
{
    std::vector<weft_amax_job_t> jobs;
    std::vector<std::vector<uint16_t>> expected;
    std::vector<void *> memory;
    for (uint32_t i = 0; i < 12; i++) {
        layer_t l = random_layer(q, i);
        expected.push_back(std::vector<uint16_t>(l.rows, 0));
        void *amax;
        WEFT(q->ops->alloc(q, l.rows * 2, &amax));
        uint32_t row, col;
        weft_ref_amax(l.source.data(), l.cols, l.rows, l.cols, l.dtype, expected.back().data(), &row, &col);
        jobs.push_back({l.q_source, l.cols, l.rows, l.cols, l.dtype, (uint16_t *)amax, false});
        memory.insert(memory.end(), {l.q_source, l.q_out, l.q_scale, amax});
    }
    weft_amax_list_t *list;
    WEFT(q->ops->amax_create(q, jobs.data(), (uint32_t)jobs.size(), &list));
    in_pieces((uint32_t)jobs.size(),
              [=](uint32_t first, uint32_t count) { return q->ops->amax_run(list, first, count); });
    finish_work(q);
    for (size_t i = 0; i < jobs.size(); i++) {
        bytes_t got = fetch(q, jobs[i].amax, jobs[i].rows * 2);
        CHECK(memcmp(got.data(), expected[i].data(), got.size()) == 0, "job %zu", i);
    }
    CHECK(q->ops->amax_run(list, UINT32_MAX, 1) == WEFT_ERR_ARGUMENT, "a job too many");
    q->ops->amax_destroy(list);
    q->ops->amax_destroy(NULL);
    for (void *one : memory)
        q->ops->free(q, one);
    printf("ok  %s: amax\n", q->ops->name);
}

static inline void test_digest(weft_queue_t *q)
{
    std::vector<weft_run_t> runs;
    std::vector<weft_digest_t> expected;
    for (size_t bytes : {0u, 1u, 8u, 15u, 4096u, 32768u, 32769u, 100003u, 1u << 20}) {
        bytes_t data = random_bytes(bytes);
        runs.push_back({place(q, data.data(), bytes), bytes});
        expected.push_back(ref_digest(data.data(), bytes));
    }
    weft_digest_list_t *list;
    WEFT(q->ops->digest_create(q, runs.data(), (uint32_t)runs.size(), &list));
    in_pieces((uint32_t)runs.size(),
              [=](uint32_t first, uint32_t count) { return q->ops->digest_run(list, first, count); });
    finish_work(q);
    for (size_t i = 0; i < runs.size(); i++)
        CHECK(same_digest(q->ops->digest_results(list)[i], expected[i]), "%llu bytes",
              (unsigned long long)runs[i].bytes);
    CHECK(q->ops->digest_run(list, 1, (uint32_t)runs.size()) == WEFT_ERR_ARGUMENT, "a run too many");
    q->ops->digest_destroy(list);
    q->ops->digest_destroy(NULL);
    for (weft_run_t &run : runs)
        q->ops->free(q, (void *)run.data);
    printf("ok  %s: digest\n", q->ops->name);
}

/* ---- Pair ---- */

static inline void test_pair(weft_queue_t *q)
{
    const size_t bytes = (5 << 20) + 3;
    weft_error_t error;
    for (bool remap : {false, true}) {
        weft_pair_t pair;
        WEFT(q->ops->pair_create(q, bytes, remap, &pair, &error));
        CHECK(pair.bytes >= bytes && pair.live != pair.stage, "%zu bytes", pair.bytes);
        const uint8_t *live = pair.live, *stage = pair.stage;
        CHECK(fetch(q, live, pair.bytes) == bytes_t(pair.bytes, 0), "live is zero");
        CHECK(fetch(q, stage, pair.bytes) == bytes_t(pair.bytes, 0), "stage is zero");
        bytes_t a = random_bytes(pair.bytes), b = random_bytes(pair.bytes);
        WEFT(q->ops->write(q, pair.live, a.data(), pair.bytes));
        WEFT(q->ops->write(q, pair.stage, b.data(), pair.bytes));
        for (int i = 0; remap && i < 20; i++) {
            WEFT(q->ops->pair_exchange(q, &pair));
            std::swap(a, b);
            CHECK(pair.live == live && pair.stage == stage, "addresses after exchange %d", i);
            CHECK(fetch(q, live, pair.bytes) == a, "live after exchange %d", i);
            CHECK(fetch(q, stage, pair.bytes) == a, "stage before it is settled, exchange %d", i);
            CHECK(q->ops->pair_exchange(q, &pair) == WEFT_ERR_ARGUMENT, "exchange %d is not settled", i);
            WEFT(q->ops->pair_settle(q, &pair));
            WEFT(q->ops->pair_settle(q, &pair));
            CHECK(fetch(q, live, pair.bytes) == a, "live, settled, after exchange %d", i);
            CHECK(fetch(q, stage, pair.bytes) == b, "stage after exchange %d", i);
            b = random_bytes(pair.bytes);
            WEFT(q->ops->write(q, pair.stage, b.data(), pair.bytes));
        }
        q->ops->pair_destroy(q, &pair);
        CHECK(!pair.live && !pair.stage && !pair.contents, "nothing is left");
    }
    printf("ok  %s: pair\n", q->ops->name);
}

static inline void test_cases(weft_queue_t *q)
{
    q->ops->thread_begin(q);
    test_memory(q);
    test_put(q);
    test_tickets(q);
    test_quantize(q);
    test_pack(q);
    test_amax(q);
    test_digest(q);
    test_pair(q);
}

#endif
