/* weft bench quantize: the quantizer's pass as a rollout runs it, beside a copy of the same bytes.
 *
 *     source [set 0][set 1] ..   bf16, together many times the caches
 *     out    [set 0][set 1] ..   one list of all units, digests and finite check included
 *     copy   (bytes read + bytes written) / 2 from source to out, in one piece */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/bench.h"
#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "kernels/arrange.h"
#include "src/plan/scheme.h"

#define UNIT_ROWS      128u
#define MAX_OPERATIONS 16u
#define MAX_SETS       64u
#define WARM_ROUNDS    1u
#define ALIGN          256u

typedef struct shape {
    char name[24];
    uint32_t rows, cols;
} shape_t;

/* Qwen3-8B at TP=1. */
static const shape_t known_shapes[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 24576, 4096}, {"down", 4096, 12288}};

#define NUM_SHAPES (sizeof known_shapes / sizeof known_shapes[0])

/* Memory for one shape: sources and outputs side by side, outputs as large as the sources so that a copy
 * fits. */
typedef struct sets {
    shape_t shape;
    uint32_t count, units; /* sets; units of one */
    uint64_t elems;        /* of one */
    size_t room;           /* bytes of one among the outputs, of the scheme with most; a copy moves no more */
    size_t scale_bytes;    /* room of one */
    uint8_t *source, *out, *scale;
    uint8_t *amax;   /* [1] as bits of bf16, of all sets: what scales that span a matrix come of */
    uint8_t *global; /* [1] F32, such a scale beside others; written by all sets alike */
} sets_t;

typedef struct operation {
    const weft_scheme_t *scheme;
    weft_profile_t profile;
    weft_arrange_t arrange;
    char lies[24];    /* profile and arrangement, as they are printed */
    uint32_t tensors; /* of one set: the weight, and a scale if there is one */
    size_t scale_bytes;
    double read, written; /* over all sets */
    weft_quantize_list_t *list;
    bench_series_t us, copy_us; /* for one pass over all sets */
    double wrong;
} operation_t;

typedef struct quantize_bench {
    const char *memory, *schemes, *shapes, *json;
    uint32_t samples;
    uint64_t bytes;  /* of sources and outputs */
    uint32_t passes; /* in one sample */
    weft_queue_t *queue;
    bench_random_t random;
    uint16_t amax; /* of the random numbers */
    bench_report_t report;
    operation_t operations[MAX_OPERATIONS];
    unsigned num_operations;
} quantize_bench_t;

static const bench_column_t columns[] = {
    {"scheme", "", 14, BENCH_TEXT},
    {"profile", "", 14, BENCH_TEXT},
    {"shape", "", 8, BENCH_TEXT},
    {"rows", "", 6, 0},
    {"cols", "", 6, 0},
    {"sets", "", 4, 0},
    {"bytes", "B a set", 11, 0},
    {"p50", "us a set", 10, 1},
    {"p99", "us a set", 10, 1},
    {"gbs", "GB/s", 8, 2},
    {"copy_gbs", "GB/s", 8, 2},
    {"ratio", "of copy", 7, 3},
    {"#wrong", "B", 7, 0},
};

static weft_status_t fail_queue(const quantize_bench_t *b, weft_status_t status, weft_error_t *error)
{
    return weft_fail(error, status, "the %s queue failed: %s", b->queue->ops->name, weft_status_text(status));
}

/* ---- memory ---- */

static uint32_t blocks_of(uint32_t extent)
{
    return (extent + UNIT_ROWS - 1) / UNIT_ROWS;
}

static size_t scale_bytes_of(const operation_t *op, shape_t shape)
{
    uint64_t extent[2];
    weft_dtype_t dtype = weft_arrange_scales(op->arrange, op->scheme->kernel, shape.rows, shape.cols, extent);
    return weft_kernel_format(op->scheme->kernel)->scale_rows
               ? extent[0] * extent[1] * weft_dtype_bytes(dtype)
               : 0;
}

static size_t row_bytes_of(const weft_scheme_t *scheme, shape_t shape)
{
    return weft_format_row_bytes(weft_kernel_format(scheme->kernel), scheme->dtype, shape.cols);
}

static weft_status_t alloc(const quantize_bench_t *b, size_t bytes, uint8_t **memory, weft_error_t *error)
{
    weft_status_t status = b->queue->ops->alloc(b->queue, bytes, (void **)memory);
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "no %s memory for %zu bytes: give less with --bytes",
                                         b->memory, bytes);
}

static size_t largest_scales(const quantize_bench_t *b, shape_t shape)
{
    size_t most = 0;
    for (uint32_t i = 0; i < b->num_operations; i++) {
        size_t bytes = scale_bytes_of(&b->operations[i], shape);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static size_t largest_weight(const quantize_bench_t *b, shape_t shape)
{
    size_t most = 2 * (size_t)shape.cols; /* as the sources */
    for (uint32_t i = 0; i < b->num_operations; i++) {
        size_t bytes = row_bytes_of(b->operations[i].scheme, shape);
        most = bytes > most ? bytes : most;
    }
    return shape.rows * most;
}

static weft_status_t make_sets(const quantize_bench_t *b, shape_t shape, sets_t *sets, weft_error_t *error)
{
    uint64_t elems = (uint64_t)shape.rows * shape.cols;
    size_t scales = largest_scales(b, shape), room = largest_weight(b, shape);
    uint64_t fit = b->bytes / (2 * room);
    *sets = (sets_t){.shape = shape,
                     .elems = elems,
                     .room = room,
                     .count = fit < 1          ? 1
                              : fit > MAX_SETS ? MAX_SETS
                                               : (uint32_t)fit,
                     .units = blocks_of(shape.rows),
                     .scale_bytes = (scales + ALIGN - 1) / ALIGN * ALIGN};
    WEFT_TRY(alloc(b, sets->count * room, &sets->source, error));
    WEFT_TRY(alloc(b, sets->count * room, &sets->out, error));
    WEFT_TRY(alloc(b, sets->count * sets->scale_bytes, &sets->scale, error));
    WEFT_TRY(alloc(b, sizeof b->amax, &sets->amax, error));
    WEFT_TRY(alloc(b, sizeof(float), &sets->global, error));
    weft_status_t status = bench_random_write(&b->random, 0, sets->count * elems, b->queue, sets->source);
    if (status == WEFT_OK)
        status = b->queue->ops->write(b->queue, sets->amax, &b->amax, sizeof b->amax);
    return status == WEFT_OK ? status : fail_queue(b, status, error);
}

static void free_sets(const quantize_bench_t *b, sets_t *sets)
{
    b->queue->ops->free(b->queue, sets->source);
    b->queue->ops->free(b->queue, sets->out);
    b->queue->ops->free(b->queue, sets->scale);
    b->queue->ops->free(b->queue, sets->amax);
    b->queue->ops->free(b->queue, sets->global);
}

/* ---- the list ---- */

/* Where a matrix goes, and what was found about it before. */
typedef struct target {
    uint8_t *out, *scale;
    const uint16_t *amax;
    float *global;
} target_t;

/* Rows [row, row + 128) of a matrix, wherever its parts are. */
static weft_quantize_unit_t unit_of(const operation_t *op, shape_t shape, uint32_t row,
                                    const weft_segment_t *segment, const target_t *to)
{
    const weft_format_t *format = weft_kernel_format(op->scheme->kernel);
    bool spans = op->scheme->amax == WEFT_AMAX_TENSOR, cut = op->arrange == WEFT_ARRANGE_PLAIN;
    uint8_t *scale = cut ? to->scale + weft_format_scale_offset(format, row, shape.cols) : to->scale;
    bool scaled = format->scale_rows && (!weft_arrange_one_scale(op->arrange, format) || row == 0);
    return (weft_quantize_unit_t){
        .segments = segment,
        .num_segments = 1,
        .dtype = WEFT_DTYPE_BF16,
        .rows = segment->rows,
        .cols = shape.cols,
        .profile = op->profile,
        .out_dtype = op->scheme->dtype,
        .out = to->out + (weft_arrange_moves_codes(op->arrange) ? 0 : row * row_bytes_of(op->scheme, shape)),
        .scale = scaled ? scale : NULL,
        .global = op->scheme->global_suffix && row == 0 ? to->global : NULL,
        .tensor_amax = spans ? to->amax : NULL,
        .arrange = op->arrange,
        .matrix_row = row,
        .matrix_rows = shape.rows,
        .matrix_cols = shape.cols,
    };
}

static weft_segment_t segment_of(shape_t shape, uint32_t row, const uint8_t *source)
{
    uint32_t rows = shape.rows - row < UNIT_ROWS ? shape.rows - row : UNIT_ROWS;
    return (weft_segment_t){.data = source + (size_t)row * shape.cols * 2,
                            .ld_elems = shape.cols,
                            .rows = rows,
                            .cols = shape.cols};
}

static void list_set(const operation_t *op, const sets_t *sets, uint32_t set, weft_segment_t *segments,
                     weft_unit_job_t *jobs, weft_run_t *tensors)
{
    uint8_t *source = sets->source + set * sets->elems * 2, *out = sets->out + set * sets->room;
    uint8_t *scale = sets->scale + set * sets->scale_bytes;
    const target_t to = {out, scale, (const uint16_t *)(const void *)sets->amax,
                         (float *)(void *)sets->global};
    for (uint32_t u = 0; u < sets->units; u++) {
        segments[u] = segment_of(sets->shape, u * UNIT_ROWS, source);
        jobs[u] =
            (weft_unit_job_t){op->scheme->kernel, unit_of(op, sets->shape, u * UNIT_ROWS, &segments[u], &to),
                              set * op->tensors};
    }
    tensors[0] = (weft_run_t){out, sets->shape.rows * row_bytes_of(op->scheme, sets->shape)};
    if (op->tensors > 1)
        tensors[1] = (weft_run_t){scale, op->scale_bytes};
}

static weft_status_t check_shape(const operation_t *op, shape_t shape, weft_error_t *error)
{
    const weft_format_t *format = weft_kernel_format(op->scheme->kernel);
    if (format->whole_groups && shape.cols % format->scale_cols)
        return weft_fail(
            error, WEFT_ERR_MISFIT,
            "scheme %s groups %u columns: %u are no whole number of groups; choose other --shapes",
            op->scheme->name, format->scale_cols, shape.cols);
    if (!weft_arrange_pads_codes(op->arrange, op->scheme->kernel, shape.rows, shape.cols))
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_MISFIT,
        "%u x %u would be padded: of marlin measure multiples of 64 rows and columns, and of 128 "
        "of one of them; choose other --shapes",
        shape.rows, shape.cols);
}

static weft_status_t make_list(const quantize_bench_t *b, operation_t *op, const sets_t *sets,
                               weft_error_t *error)
{
    op->scale_bytes = scale_bytes_of(op, sets->shape);
    op->tensors = op->scale_bytes ? 2 : 1;
    op->read = (double)sets->count * (double)sets->elems * 2;
    size_t weight_bytes = sets->shape.rows * row_bytes_of(op->scheme, sets->shape);
    op->written = (double)sets->count * (double)(weight_bytes + op->scale_bytes);
    uint32_t units = sets->count * sets->units;
    weft_segment_t *segments = calloc(units, sizeof *segments);
    weft_unit_job_t *jobs = calloc(units, sizeof *jobs);
    weft_run_t *tensors = calloc((size_t)sets->count * op->tensors, sizeof *tensors);
    weft_status_t status = segments && jobs && tensors ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint32_t s = 0; s < sets->count && status == WEFT_OK; s++)
        list_set(op, sets, s, segments + (size_t)s * sets->units, jobs + (size_t)s * sets->units,
                 tensors + (size_t)s * op->tensors);
    if (status == WEFT_OK)
        status = b->queue->ops->quantize_create(b->queue, jobs, units, tensors, sets->count * op->tensors,
                                                &op->list);
    free(segments);
    free(jobs);
    free(tensors);
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "scheme %s cannot quantize %s in %s memory: %s", op->scheme->name,
                           sets->shape.name, b->memory, weft_status_text(status));
}

/* ---- measuring ---- */

/* A version: on the host a set at a time, digested while it is warm; on a GPU everything at once. */
static weft_status_t start_pass(const quantize_bench_t *b, const operation_t *op, const sets_t *sets)
{
    const weft_queue_ops_t *ops = b->queue->ops;
    uint32_t at_once = ops->on_host ? 1 : sets->count;
    WEFT_TRY(ops->quantize_begin(op->list));
    for (uint32_t s = 0; s < sets->count; s += at_once) {
        WEFT_TRY(ops->quantize_run(op->list, s * sets->units, at_once * sets->units));
        WEFT_TRY(ops->quantize_finish(op->list, s * op->tensors, at_once * op->tensors));
    }
    return WEFT_OK;
}

static weft_status_t time_quantize(const quantize_bench_t *b, const operation_t *op, const sets_t *sets,
                                   double *us)
{
    uint64_t start = weft_now_ns();
    for (uint32_t i = 0; i < b->passes; i++)
        WEFT_TRY(start_pass(b, op, sets));
    WEFT_TRY(bench_settle(b->queue));
    *us = (double)(weft_now_ns() - start) / 1e3 / b->passes;
    return WEFT_OK;
}

static weft_status_t time_copy(const quantize_bench_t *b, const operation_t *op, const sets_t *sets,
                               double *us)
{
    size_t bytes = (size_t)((op->read + op->written) / 2), room = sets->count * sets->room;
    uint64_t start = weft_now_ns();
    for (uint32_t i = 0; i < b->passes; i++)
        WEFT_TRY(
            b->queue->ops->engine_copy(b->queue, NULL, sets->out, sets->source, bytes < room ? bytes : room));
    WEFT_TRY(bench_settle(b->queue));
    *us = (double)(weft_now_ns() - start) / 1e3 / b->passes;
    return WEFT_OK;
}

static weft_status_t run_rounds(quantize_bench_t *b, const sets_t *sets)
{
    for (uint32_t round = 0; round < WARM_ROUNDS + b->samples; round++) {
        for (unsigned i = 0; i < b->num_operations; i++) {
            operation_t *op = &b->operations[i];
            double copy_us, us;
            WEFT_TRY(time_copy(b, op, sets, &copy_us));
            WEFT_TRY(time_quantize(b, op, sets, &us));
            if (round < WARM_ROUNDS)
                continue;
            bench_series_add(&op->copy_us, copy_us);
            bench_series_add(&op->us, us);
        }
    }
    return WEFT_OK;
}

/* ---- checking ---- */

/* Set 0 as kernels/ref makes it: source, weight and scale one after the other in `memory`. */
typedef struct reference {
    uint8_t *source, *out, *scale, *found;
    size_t out_bytes;
} reference_t;

static weft_status_t make_reference(const quantize_bench_t *b, const operation_t *op, const sets_t *sets,
                                    const reference_t *r)
{
    const weft_kernels_t *kernels = weft_kernels_find("ref");
    float global;
    const target_t to = {r->out, r->scale, &b->amax, &global};
    for (uint32_t u = 0; u < sets->units; u++) {
        weft_segment_t segment = segment_of(sets->shape, u * UNIT_ROWS, r->source);
        weft_quantize_unit_t unit = unit_of(op, sets->shape, u * UNIT_ROWS, &segment, &to);
        weft_quantize_result_t result;
        WEFT_TRY(kernels->quantize[op->scheme->kernel](&unit, &result));
    }
    return WEFT_OK;
}

static double wrong_digest(weft_digest_t found, const void *data, size_t bytes)
{
    weft_digest_t expected = weft_digest_run(weft_kernels_find("ref"), data, bytes);
    return bench_compare(&found, &expected, sizeof found);
}

static weft_status_t compare_set(const quantize_bench_t *b, operation_t *op, const sets_t *sets,
                                 const reference_t *r)
{
    const weft_queue_ops_t *ops = b->queue->ops;
    bool refused;
    uint32_t unit;
    weft_quantize_result_t result;
    WEFT_TRY(ops->read(b->queue, sets->source, r->source, sets->elems * 2));
    WEFT_TRY(make_reference(b, op, sets, r));
    memset(r->found, 0,
           sets->scale_bytes); /* the padding of scales, which other operations have written over */
    WEFT_TRY(ops->write(b->queue, sets->scale, r->found, sets->scale_bytes));
    WEFT_TRY(start_pass(b, op, sets));
    WEFT_TRY(bench_settle(b->queue));
    const weft_digest_t *digests = ops->quantize_digests(op->list);
    op->wrong = wrong_digest(digests[0], r->out, r->out_bytes);
    if (op->tensors > 1)
        op->wrong += wrong_digest(digests[1], r->scale, op->scale_bytes);
    WEFT_TRY(ops->read(b->queue, sets->out, r->found, r->out_bytes));
    op->wrong += bench_compare(r->found, r->out, r->out_bytes);
    if (op->scale_bytes) {
        WEFT_TRY(ops->read(b->queue, sets->scale, r->found, op->scale_bytes));
        op->wrong += bench_compare(r->found, r->scale, op->scale_bytes);
    }
    WEFT_TRY(ops->quantize_refused(op->list, &refused, &unit, &result));
    op->wrong += refused;
    return WEFT_OK;
}

static weft_status_t check_operation(const quantize_bench_t *b, operation_t *op, const sets_t *sets)
{
    reference_t r = {.source = malloc(sets->elems * 2),
                     .out = malloc(sets->room),
                     .scale = calloc(1, sets->scale_bytes),
                     .found = malloc(sets->room + sets->scale_bytes),
                     .out_bytes = sets->shape.rows * row_bytes_of(op->scheme, sets->shape)};
    weft_status_t status =
        r.source && r.out && r.scale && r.found ? compare_set(b, op, sets, &r) : WEFT_ERR_NO_MEMORY;
    free(r.source);
    free(r.out);
    free(r.scale);
    free(r.found);
    return status;
}

/* ---- the table ---- */

static void print_operation(quantize_bench_t *b, operation_t *op, const sets_t *sets)
{
    double us = bench_percentile(&op->us, 0.5), copy_us = bench_percentile(&op->copy_us, 0.5);
    double bytes = op->read + op->written;
    const bench_value_t values[] = {
        BENCH_WORD(op->scheme->name),
        BENCH_WORD(op->lies),
        BENCH_WORD(sets->shape.name),
        BENCH_NUMBER(sets->shape.rows),
        BENCH_NUMBER(sets->shape.cols),
        BENCH_NUMBER(sets->count),
        BENCH_NUMBER(bytes / sets->count),
        BENCH_NUMBER(us / sets->count),
        BENCH_NUMBER(bench_percentile(&op->us, 0.99) / sets->count),
        BENCH_NUMBER(bytes / us / 1e3),
        BENCH_NUMBER(bytes / copy_us / 1e3),
        BENCH_NUMBER(copy_us / us),
        BENCH_NUMBER(op->wrong),
    };
    bench_report_row(&b->report, values);
}

static void forget_operation(const quantize_bench_t *b, operation_t *op)
{
    b->queue->ops->quantize_destroy(op->list);
    bench_series_free(&op->us);
    bench_series_free(&op->copy_us);
    op->list = NULL;
}

static weft_status_t run_shape(quantize_bench_t *b, shape_t shape, weft_error_t *error)
{
    sets_t sets;
    weft_status_t status = make_sets(b, shape, &sets, error);
    for (unsigned i = 0; i < b->num_operations && status == WEFT_OK; i++)
        status = make_list(b, &b->operations[i], &sets, error);
    if (status == WEFT_OK && (status = run_rounds(b, &sets)) != WEFT_OK)
        fail_queue(b, status, error);
    for (unsigned i = 0; i < b->num_operations && status == WEFT_OK; i++) {
        status = check_operation(b, &b->operations[i], &sets);
        if (status == WEFT_OK)
            print_operation(b, &b->operations[i], &sets);
        else
            fail_queue(b, status, error);
    }
    for (unsigned i = 0; i < b->num_operations; i++)
        forget_operation(b, &b->operations[i]);
    free_sets(b, &sets);
    return status;
}

/* ---- the lists that were given ---- */

/* "qkv", or "4096x12288". */
static weft_status_t find_shape(const char *word, shape_t *shape, weft_error_t *error)
{
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        if (strcmp(known_shapes[i].name, word) == 0) {
            *shape = known_shapes[i];
            return WEFT_OK;
        }
    }
    *shape = (shape_t){0};
    snprintf(shape->name, sizeof shape->name, "-");
    if (options_read_pair(word, &shape->rows, &shape->cols) && shape->rows && shape->cols &&
        shape->rows < 1u << 24 && shape->cols < 1u << 24)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_ARGUMENT,
                     "--shapes expects qkv, o, gate_up, down or ROWSxCOLS, found %s", word);
}

/* "fp8-block", with a profile "fp8-block:vllm", with an arrangement of scales "fp8-block:pow2@deepgemm". */
static weft_status_t add_operation(quantize_bench_t *b, char *word, weft_error_t *error)
{
    if (b->num_operations == MAX_OPERATIONS)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--schemes takes at most %u", MAX_OPERATIONS);
    operation_t *op = &b->operations[b->num_operations++];
    char *at = strchr(word, '@'), *colon;
    if (at)
        *at = '\0';
    colon = strchr(word, ':');
    if (colon)
        *colon = '\0';
    WEFT_TRY(weft_scheme_find(word, &op->scheme, error));
    WEFT_TRY(weft_scheme_profile(op->scheme, colon ? colon + 1 : NULL, &op->profile, error));
    if (at)
        WEFT_TRY(weft_scheme_arrange(op->scheme, op->profile, at + 1, &op->arrange, error));
    bool named = op->profile != WEFT_PROFILE_DEFAULT;
    snprintf(op->lies, sizeof op->lies, "%s%s%s",
             named ? weft_profile_name(op->profile)
             : at  ? ""
                   : "-",
             at ? "@" : "", at ? at + 1 : "");
    if (op->arrange != WEFT_ARRANGE_PADDED)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_ARGUMENT,
                     "--schemes: padded scales are written as plain ones; measure those");
}

static weft_status_t read_lists(quantize_bench_t *b, weft_error_t *error)
{
    char word[64];
    shape_t shape;
    for (const char *list = b->schemes; bench_next_word(&list, word, sizeof word);)
        WEFT_TRY(add_operation(b, word, error));
    for (const char *list = b->shapes; bench_next_word(&list, word, sizeof word);) {
        WEFT_TRY(find_shape(word, &shape, error));
        for (unsigned i = 0; i < b->num_operations; i++)
            WEFT_TRY(check_shape(&b->operations[i], shape, error));
    }
    return b->num_operations ? WEFT_OK : weft_fail(error, WEFT_ERR_ARGUMENT, "--schemes names no scheme");
}

/* ---- the command ---- */

static weft_status_t prepare(quantize_bench_t *b, weft_error_t *error)
{
    b->memory = bench_memory(b->memory);
    WEFT_TRY(read_lists(b, error));
    WEFT_TRY(weft_queue_open(b->memory, -1, &b->queue, error));
    b->queue->ops->thread_begin(b->queue);
    bool host = b->queue->ops->on_host;
    b->samples = b->samples ? b->samples : host ? 7 : 60;
    b->passes = host ? 1 : 4;
    b->bytes = b->bytes ? b->bytes : (uint64_t)(host ? 256u << 20 : 4096ull << 20);
    WEFT_TRY(bench_random_create(&b->random, b->bytes, error));
    for (uint64_t i = 0; i < b->random.count; i++) {
        uint16_t magnitude = b->random.elems[i] & 0x7FFF;
        b->amax = magnitude > b->amax ? magnitude : b->amax;
    }
    return WEFT_OK;
}

static weft_status_t run_all(quantize_bench_t *b, int argc, char **argv, weft_error_t *error)
{
    char options[1024], place[256], word[64];
    WEFT_TRY(prepare(b, error));
    const bench_title_t title = {.name = "quantize",
                                 .place = bench_place(b->memory, -1, place, sizeof place),
                                 .options = bench_join(argc, argv, options, sizeof options),
                                 .json = b->json};
    WEFT_TRY(bench_report_open(&b->report, &title, error));
    bench_report_note(&b->report,
                      "%s memory%s; %u interleaved samples of %u passes; digests and finite check included",
                      b->memory, b->queue->ops->on_host ? ", one core" : "", b->samples, b->passes);
    bench_report_note(&b->report, "bytes: read and written; ratio: a copy of as many bytes over this");
    bench_report_table(&b->report, "rows", columns, sizeof columns / sizeof columns[0]);
    for (const char *list = b->shapes; bench_next_word(&list, word, sizeof word);) {
        shape_t shape;
        WEFT_TRY(find_shape(word, &shape, error));
        WEFT_TRY(run_shape(b, shape, error));
    }
    return WEFT_OK;
}

static int parse(quantize_bench_t *b, int argc, char **argv)
{
    const option_row_t rows[] = {
        {"memory", OPTION_TEXT, &b->memory, "KIND", "where weights are: host, or cuda (default with a GPU)"},
        {"schemes", OPTION_TEXT, &b->schemes, "LIST",
         "such as bf16,fp8-block:vllm,mxfp4@128x4 (default: bf16,fp8-block,fp8-channel)"},
        {"shapes", OPTION_TEXT, &b->shapes, "LIST",
         "qkv, o, gate_up, down of Qwen3-8B (default: all), or ROWSxCOLS"},
        {"samples", OPTION_COUNT, &b->samples, "N", "of each (default 7; on a GPU 60)"},
        {"bytes", OPTION_BYTES, &b->bytes, "BYTES", "of sources and outputs (default 256MiB; on a GPU 4GiB)"},
        {"json", OPTION_TEXT, &b->json, "FILE", "write the rows as JSON too"},
    };
    const command_spec_t spec = {
        .name = "bench quantize",
        .synopsis = "[--memory KIND] [--schemes LIST] [--shapes LIST] [options]",
        .about = "Time the quantizer's pass over bf16 weights as a rollout runs it, digests and finite check "
                 "included, beside\n"
                 "a copy of as many bytes. Several sets of a shape, together far larger than the caches, are "
                 "one pass.",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    return options_parse(&spec, argc, argv, false, none, &count);
}

int command_bench_quantize(int argc, char **argv)
{
    quantize_bench_t b = {.schemes = "bf16,fp8-block,fp8-channel", .shapes = "qkv,o,gate_up,down"};
    weft_error_t error;
    int code = parse(&b, argc, argv);
    if (code >= 0)
        return code;
    weft_status_t status = run_all(&b, argc, argv, &error);
    int closed = bench_report_close(&b.report);
    bench_random_destroy(&b.random);
    weft_queue_close(b.queue);
    return status == WEFT_OK ? closed : report_error("bench quantize", &error);
}
