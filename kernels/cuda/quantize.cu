/* Lists of units: checked and flattened for the device once, then launched by range.
 *
 *     units by class (kernel and source dtype)         tiles, class by class
 *     class 0: unit 0, 3, 4                            | u0 0 | u0 1 | u3 0 | u3 1 | ... | u1 0 | u1 1 | ...
 *     class 1: unit 1, 2                                 ^ a range of units is a range of each class's tiles
 */
#include "kernels/cuda/tile.cuh"

extern "C" {
#include "kernels/arrange.h"
}

enum {
    CLASS_CAST,
    CLASS_WIDEN, /* casts to fp32, and from it to fp16 */
    CLASS_MOVE,  /* codes as they are */
    CLASS_BLOCK,
    CLASS_CHANNEL,
    CLASS_CHANNEL_MIDDLE,
    CLASS_CHANNEL_LONG,
    CLASS_CHANNEL_WIDE,
    CLASS_INT8, /* as the four above */
    CLASS_INT8_MIDDLE,
    CLASS_INT8_LONG,
    CLASS_INT8_WIDE,
    CLASS_GROUPS, /* and fp8-tensor */
    CLASS_MARLIN, /* int4-group */
    CLASS_MARLIN_BLOCK,
    CLASS_MARLIN_FP8, /* channels */
    CLASS_MARLIN_INT8,
    CLASS_MARLIN_TENSOR,
    NUM_SHAPES
};

constexpr uint32_t NUM_DTYPES = 3;
constexpr uint32_t NUM_CLASSES = NUM_SHAPES * NUM_DTYPES;

static const weft_dtype_t dtypes[NUM_DTYPES] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};

typedef struct unit_class {
    uint32_t count;
    uint32_t *units;      /* [count], rising */
    uint32_t *first_tile; /* [count + 1], in the tiles of all classes */
} unit_class_t;

struct weft_cuda_quantize {
    uint32_t num_units, num_tensors;
    unit_class_t classes[NUM_CLASSES];
    weft_cuda_sums_t *sums;
    work_t work;       /* over everything; keys and refused are one allocation */
    uint32_t *refused; /* pinned */
};

/* What create works with; freed when it returns. */
typedef struct draft {
    const weft_cuda_unit_t *units;
    const weft_cuda_tensor_t *tensors;
    uint32_t num_units, num_tensors;
    uint32_t *ride; /* [tensors]: tiles whose partials make its digest; 0: it is read in finish */
    uint32_t *next; /* [tensors]: partials given out */
    unit_t *records;
    segment_t *segments;
    unit_tile_t *tiles;
    uint64_t num_segments, num_tiles;
} draft_t;

/* ---- One unit ---- */

/* Of a power of two of threads that hold a row of a channel scheme, as far as there is one. */
static uint32_t row_threads_log(uint32_t cols)
{
    uint32_t log = 5;
    while (log < 10 && (GROUP * GROUPS << log) < cols)
        log++;
    return log;
}

/* Threads of a block of a channel scheme. */
static uint32_t channel_threads(uint32_t cols)
{
    const uint32_t each = GROUP * GROUPS;
    return cols <= each * CHANNEL_THREADS  ? CHANNEL_THREADS
           : cols <= each * MIDDLE_THREADS ? MIDDLE_THREADS
           : cols <= each * LONG_THREADS   ? LONG_THREADS
                                           : WIDE_THREADS;
}

/* Rows of a tile of it. */
static uint32_t channel_rows(uint32_t cols)
{
    return channel_threads(cols) == CHANNEL_THREADS ? CHANNEL_THREADS >> row_threads_log(cols) : 1;
}

static const uint32_t class_threads[] = {CHANNEL_THREADS, MIDDLE_THREADS, LONG_THREADS, WIDE_THREADS};

static uint32_t channel_class(uint32_t cols)
{
    uint32_t index = 0;
    while (class_threads[index] != channel_threads(cols))
        index++;
    return index;
}

static bool is_channel(const weft_cuda_unit_t *u)
{
    return (u->kernel == WEFT_KERNEL_FP8_CHANNEL || u->kernel == WEFT_KERNEL_INT8_CHANNEL) &&
           u->unit.arrange != WEFT_ARRANGE_MARLIN;
}

static bool is_number(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F32 || dtype == WEFT_DTYPE_F16 || dtype == WEFT_DTYPE_BF16 ||
           dtype == WEFT_DTYPE_F64;
}

/* Whether it is a cast of codes: bytes that stay as they are. */
static bool moves(const weft_cuda_unit_t *u)
{
    return u->kernel == WEFT_KERNEL_CAST && !is_number(u->unit.dtype) && u->unit.dtype == u->unit.out_dtype;
}

/* Whether it is a cast that does not go through values of 16 bits. */
static bool widens(const weft_cuda_unit_t *u)
{
    return u->unit.out_dtype == WEFT_DTYPE_F32 || (u->unit.dtype == WEFT_DTYPE_F32 && u->unit.out_dtype == WEFT_DTYPE_F16);
}

static uint32_t marlin_shape(weft_kernel_id_t kernel)
{
    switch (kernel) {
    case WEFT_KERNEL_FP8_BLOCK:
        return CLASS_MARLIN_BLOCK;
    case WEFT_KERNEL_FP8_CHANNEL:
        return CLASS_MARLIN_FP8;
    case WEFT_KERNEL_INT8_CHANNEL:
        return CLASS_MARLIN_INT8;
    case WEFT_KERNEL_FP8_TENSOR:
        return CLASS_MARLIN_TENSOR;
    default:
        return CLASS_MARLIN;
    }
}

static uint32_t shape_of(const weft_cuda_unit_t *u)
{
    if (moves(u))
        return CLASS_MOVE;
    if (u->unit.arrange == WEFT_ARRANGE_MARLIN)
        return marlin_shape(u->kernel);
    switch (u->kernel) {
    case WEFT_KERNEL_CAST:
        return widens(u) ? CLASS_WIDEN : CLASS_CAST;
    case WEFT_KERNEL_FP8_BLOCK:
        return CLASS_BLOCK;
    case WEFT_KERNEL_FP8_CHANNEL:
        return CLASS_CHANNEL + channel_class(u->unit.cols);
    case WEFT_KERNEL_INT8_CHANNEL:
        return CLASS_INT8 + channel_class(u->unit.cols);
    default:
        return CLASS_GROUPS;
    }
}

/* Whether its tiles are those of marlin_rows.cu. */
static bool is_marlin_rows(const weft_cuda_unit_t *u)
{
    const uint32_t shape = shape_of(u);
    return shape == CLASS_MARLIN_FP8 || shape == CLASS_MARLIN_INT8 || shape == CLASS_MARLIN_TENSOR;
}

static uint32_t class_of(const weft_cuda_unit_t *u)
{
    uint32_t dtype = 0;
    while (!moves(u) && dtypes[dtype] != u->unit.dtype)
        dtype++;
    return shape_of(u) * NUM_DTYPES + dtype;
}

/* Bytes of a source's element, or of an item of an output. */
static size_t elem_size(weft_dtype_t dtype)
{
    switch (dtype) {
    case WEFT_DTYPE_F32:
    case WEFT_DTYPE_I32:
        return 4;
    case WEFT_DTYPE_I64:
        return 8;
    case WEFT_DTYPE_BF16:
    case WEFT_DTYPE_F16:
    case WEFT_DTYPE_I16:
        return 2;
    default:
        return 1;
    }
}

static uint32_t tiles_of(const weft_cuda_unit_t *u)
{
    uint32_t rows = u->unit.rows, cols = u->unit.cols;
    if (rows == 0)
        return 0;
    if (shape_of(u) == CLASS_GROUPS)
        return (uint32_t)(((uint64_t)cols + GROUPS_COLS - 1) / GROUPS_COLS) * TILES_DOWN;
    if (shape_of(u) == CLASS_MARLIN)
        return (uint32_t)(((uint64_t)cols + MARLIN_TILE_COLS - 1) / MARLIN_TILE_COLS) * MARLIN_TILES_DOWN;
    if (is_marlin_rows(u))
        return (rows + MARLIN_TILE_ROWS - 1) / MARLIN_TILE_ROWS * 8;
    if (moves(u))
        return (uint32_t)((cols * elem_size(u->unit.dtype) + MOVE_BYTES - 1) / MOVE_BYTES);
    if (!is_channel(u))
        return (uint32_t)(((uint64_t)cols + BLOCK - 1) / BLOCK);
    uint32_t tile_rows = channel_rows(cols);
    return (rows + tile_rows - 1) / tile_rows;
}

static bool is_aligned(const void *pointer, size_t bytes)
{
    return (uintptr_t)pointer % bytes == 0;
}

/* Whether it is one of `a`, `b` and `c`, or the default. */
static bool is_profile(weft_profile_t profile, weft_profile_t a, weft_profile_t b, weft_profile_t c)
{
    return profile == WEFT_PROFILE_DEFAULT || profile == a || profile == b || profile == c;
}

static bool accepts_kernel(const weft_cuda_unit_t *u)
{
    const weft_quantize_unit_t *q = &u->unit;
    const bool plain = q->profile == WEFT_PROFILE_DEFAULT;
    switch (u->kernel) {
    case WEFT_KERNEL_CAST:
        return plain && (moves(u) || q->out_dtype == WEFT_DTYPE_BF16 || q->out_dtype == WEFT_DTYPE_F16 ||
                         q->out_dtype == WEFT_DTYPE_F32);
    case WEFT_KERNEL_FP8_BLOCK:
        return (unsigned)q->profile <= WEFT_PROFILE_VLLM_POW2 && q->out_dtype == WEFT_DTYPE_F8_E4M3;
    case WEFT_KERNEL_FP8_CHANNEL:
    case WEFT_KERNEL_MXFP8:
        return plain && q->out_dtype == WEFT_DTYPE_F8_E4M3;
    case WEFT_KERNEL_INT8_CHANNEL:
        return is_profile(q->profile, WEFT_PROFILE_IEEE, WEFT_PROFILE_VLLM, WEFT_PROFILE_CT) &&
               q->out_dtype == WEFT_DTYPE_I8;
    case WEFT_KERNEL_MXFP4:
        return plain && q->out_dtype == WEFT_DTYPE_U8;
    case WEFT_KERNEL_INT4_GROUP_32:
    case WEFT_KERNEL_INT4_GROUP_64:
    case WEFT_KERNEL_INT4_GROUP_128:
        return is_profile(q->profile, WEFT_PROFILE_IEEE, WEFT_PROFILE_CT, WEFT_PROFILE_QAT) &&
               q->out_dtype == WEFT_DTYPE_I32;
    case WEFT_KERNEL_FP8_TENSOR:
        return plain && q->out_dtype == WEFT_DTYPE_F8_E4M3 && q->tensor_amax;
    case WEFT_KERNEL_NVFP4:
        return (plain || q->profile == WEFT_PROFILE_MODELOPT) && q->out_dtype == WEFT_DTYPE_U8 && q->tensor_amax;
    default:
        return false;
    }
}

/* Whether codes share bytes: then a group is one word of 4 bytes. */
static bool packs(const weft_cuda_unit_t *u)
{
    return weft_kernel_format(u->kernel)->codes > 1;
}

/* Scales and words where the device can write them, and rows of whole groups. */
static bool accepts_format(const weft_cuda_unit_t *u)
{
    const weft_format_t *f = weft_kernel_format(u->kernel);
    const weft_quantize_unit_t *q = &u->unit;
    const bool elsewhere = f->scale_rows == WEFT_WHOLE; /* another unit may write it */
    if (!weft_arrange_takes_unit(u->kernel, q))
        return false;
    if (f->scale_rows && q->rows && !q->scale && !elsewhere)
        return false;
    uint64_t extent[2];
    if (f->scale_rows && !is_aligned(q->scale, weft_dtype_bytes(weft_arrange_scales(q->arrange, u->kernel, q->rows,
                                                                                    q->cols, extent))))
        return false;
    if (!is_aligned(q->global, sizeof(float)) || !is_aligned(q->tensor_amax, sizeof(uint16_t)))
        return false;
    const bool words = packs(u) || weft_arrange_moves_codes(q->arrange);
    return (!words || is_aligned(q->out, sizeof(uint32_t))) && (!f->whole_groups || q->cols % f->scale_cols == 0);
}

static bool accepts_segment(const weft_quantize_unit_t *q, const weft_segment_t *s)
{
    bool inside = (uint64_t)s->row + s->rows <= q->rows && (uint64_t)s->col + s->cols <= q->cols;
    return inside && s->ld_elems <= UINT32_MAX && is_aligned(s->data, elem_size(q->dtype));
}

static bool accepts(const weft_cuda_unit_t *u, uint32_t num_tensors)
{
    const weft_quantize_unit_t *q = &u->unit;
    bool known = (is_number(q->dtype) && q->dtype != WEFT_DTYPE_F64) || moves(u);
    if (!known || q->rows > BLOCK || q->cols > INT32_MAX || !accepts_kernel(u))
        return false;
    if (u->tensor != WEFT_CUDA_NONE && u->tensor >= num_tensors)
        return false;
    if ((q->rows && q->cols && !q->out) || !is_aligned(q->out, elem_size(q->out_dtype)))
        return false;
    if (!accepts_format(u))
        return false;
    for (uint32_t i = 0; i < q->num_segments; i++) {
        if (!accepts_segment(q, &q->segments[i]) || (moves(u) && q->segments[i].transposed))
            return false;
    }
    return is_aligned(q->row_amax, sizeof *q->row_amax);
}

/* Whether the codes of a group, or of two where they share bytes, are stored at once. */
static bool stores_groups(const weft_cuda_unit_t *u)
{
    if (weft_arrange_moves_codes(u->unit.arrange))
        return is_aligned(u->unit.out, sizeof(uint4));
    if (packs(u))
        return u->unit.cols % (2 * GROUP) == 0 && is_aligned(u->unit.out, GROUP);
    return shape_of(u) != CLASS_WIDEN && !moves(u) && u->unit.cols % GROUP == 0 &&
           is_aligned(u->unit.out, GROUP * elem_size(u->unit.out_dtype));
}

static uint64_t out_bytes(const weft_cuda_unit_t *u)
{
    return (uint64_t)u->unit.rows *
           weft_format_row_bytes(weft_kernel_format(u->kernel), u->unit.out_dtype, u->unit.cols);
}

static segment_t segment_record(const weft_quantize_unit_t *q, const weft_segment_t *s)
{
    size_t ld_bytes = s->ld_elems * elem_size(q->dtype);
    bool rows_aligned = s->rows == 1 || ld_bytes % 16 == 0;
    return segment_t{
        .data = (const uint8_t *)s->data,
        .ld_elems = (uint32_t)s->ld_elems,
        .row = s->row,
        .col = s->col,
        .rows = s->rows,
        .cols = s->cols,
        .aligned =
            !s->transposed && s->col % GROUP == 0 && is_aligned(s->data, 16) && (rows_aligned || !s->data),
        .transposed = s->transposed,
    };
}

/* Whether every group of a unit is loaded and stored at once, and in a kernel that has a direct way. */
static bool is_direct(const weft_cuda_unit_t *u, const segment_t *segments)
{
    const bool wide = is_channel(u) && channel_threads(u->unit.cols) == WIDE_THREADS;
    if (!stores_groups(u) || wide || (is_marlin_rows(u) && u->unit.cols > UINT16_MAX))
        return false;
    for (uint32_t i = 0; i < u->unit.num_segments; i++) {
        if (!segments[i].aligned || segments[i].cols % GROUP)
            return false;
    }
    return true;
}

static groups_kind_t kind_of(const weft_cuda_unit_t *u)
{
    switch (u->kernel) {
    case WEFT_KERNEL_MXFP8:
        return MX8;
    case WEFT_KERNEL_MXFP4:
        return MX4;
    case WEFT_KERNEL_NVFP4:
        return u->unit.profile == WEFT_PROFILE_MODELOPT ? NV4_MODELOPT : NV4;
    case WEFT_KERNEL_INT4_GROUP_32:
    case WEFT_KERNEL_INT4_GROUP_64:
    case WEFT_KERNEL_INT4_GROUP_128:
        return u->unit.profile == WEFT_PROFILE_CT ? INT4_CT : INT4;
    default:
        return TENSOR;
    }
}

/* Threads that share a row, or a scale. */
static uint32_t sharers_log(const weft_cuda_unit_t *u)
{
    const weft_format_t *f = weft_kernel_format(u->kernel);
    if (shape_of(u) != CLASS_GROUPS && shape_of(u) != CLASS_MARLIN)
        return row_threads_log(u->unit.cols);
    uint32_t log = 0;
    while (f->scale_cols != WEFT_WHOLE && GROUP << log < f->scale_cols)
        log++;
    return log;
}

/* The largest power of two up to 16 that all addresses and widths of a move are multiples of, in bytes. */
static uint32_t move_grain(const weft_quantize_unit_t *q)
{
    const size_t element = elem_size(q->dtype);
    uintptr_t all = (uintptr_t)q->out | q->cols * element | 16;
    for (uint32_t i = 0; i < q->num_segments; i++) {
        const weft_segment_t *s = &q->segments[i];
        all |= (uintptr_t)s->data | s->col * element | s->cols * element | (s->rows > 1 ? s->ld_elems * element : 0);
    }
    return (uint32_t)(all & (~all + 1));
}

/* A move counts columns and leading dimensions in grains; a grain is at least an element, or part of one. */
static void count_in_grains(const weft_quantize_unit_t *q, unit_t *unit, segment_t *segments)
{
    const size_t element = elem_size(q->dtype);
    const uint32_t grain = move_grain(q);
    unit->cols = (uint32_t)(q->cols * element / grain);
    unit->log_row_threads = (uint32_t)__builtin_ctz(grain);
    for (uint32_t i = 0; i < q->num_segments; i++) {
        segments[i].col = (uint32_t)(q->segments[i].col * element / grain);
        segments[i].cols = (uint32_t)(q->segments[i].cols * element / grain);
        segments[i].ld_elems = (uint32_t)(q->segments[i].ld_elems * element / grain);
    }
}

static void write_record(draft_t *draft, uint32_t index, uint64_t first_segment)
{
    const weft_cuda_unit_t *u = &draft->units[index];
    const weft_quantize_unit_t *q = &u->unit;
    for (uint32_t i = 0; i < q->num_segments; i++)
        draft->segments[first_segment + i] = segment_record(q, &q->segments[i]);
    bool rides = u->tensor != WEFT_CUDA_NONE && draft->ride[u->tensor];
    uint64_t out_begin = rides ? (uintptr_t)q->out - (uintptr_t)draft->tensors[u->tensor].data : 0;
    draft->records[index] = unit_t{
        .out = (uint8_t *)q->out,
        .scale = (float *)q->scale,
        .row_amax = q->tensor_amax ? q->tensor_amax : q->row_amax,
        .global = q->global,
        .rows = q->rows,
        .cols = q->cols,
        .first_segment = (uint32_t)first_segment,
        .num_segments = q->num_segments,
        .word = (uint32_t)(out_begin / WEFT_DIGEST_WORD_BYTES),
        .partial = 0,
        .flags = (uint32_t)((stores_groups(u) ? UNIT_ALIGNED : 0) | (rides ? UNIT_RIDES : 0) |
                            (q->allow_nonfinite ? UNIT_ALLOWS : 0) | (q->inverse ? UNIT_INVERTS : 0)),
        .profile = (uint32_t)q->profile,
        .out_dtype = (uint32_t)q->out_dtype,
        .log_row_threads = sharers_log(u),
        .kernel = (uint32_t)u->kernel,
        .kind = (uint32_t)kind_of(u),
        .arrange = (uint32_t)q->arrange,
        .matrix_row = q->matrix_row,
        .matrix_rows = q->matrix_rows,
        .matrix_cols = q->matrix_cols,
    };
    if (moves(u))
        count_in_grains(q, &draft->records[index], &draft->segments[first_segment]);
}

/* ---- Its tiles ---- */

/* The rectangle of a unit that a tile is. */
typedef struct rect {
    uint32_t row, col, rows, cols;
} rect_t;

/* Of marlin_rows.cu: eight rows, 8 apart, so far as the unit has them. */
static rect_t marlin_rect(uint32_t place, uint32_t rows, uint32_t cols)
{
    const uint32_t top = place / 8 * MARLIN_TILE_ROWS + place % 8, below = rows > top ? rows - top : 0;
    return rect_t{top, 0, below < MARLIN_RECT_ROWS ? below : MARLIN_RECT_ROWS, cols};
}

static rect_t rect_of(const weft_cuda_unit_t *u, uint32_t place)
{
    uint32_t rows = u->unit.rows, cols = u->unit.cols;
    const bool marlin = shape_of(u) == CLASS_MARLIN;
    if (shape_of(u) == CLASS_GROUPS || marlin) {
        const uint32_t down = marlin ? MARLIN_TILES_DOWN : TILES_DOWN, high = BLOCK / down;
        const uint32_t wide = marlin ? MARLIN_TILE_COLS : GROUPS_COLS;
        const uint32_t top = place % down * high, left = place / down * wide;
        const uint32_t below = rows > top ? rows - top : 0, rest = cols - left;
        return rect_t{top, left, below < high ? below : high, rest < wide ? rest : wide};
    }
    if (is_marlin_rows(u))
        return marlin_rect(place, rows, cols);
    if (!is_channel(u)) {
        uint32_t rest = cols - place * BLOCK;
        return rect_t{0, place * BLOCK, rows, rest < BLOCK ? rest : BLOCK};
    }
    uint32_t tile_rows = channel_rows(cols), rest = rows - place * tile_rows;
    return rect_t{place * tile_rows, 0, rest < tile_rows ? rest : tile_rows, cols};
}

static bool holds(const segment_t *s, rect_t r)
{
    return s->data && r.row >= s->row && r.row + r.rows <= s->row + s->rows && r.col >= s->col &&
           r.col + r.cols <= s->col + s->cols;
}

/* A tile of a unit, which is direct or not. Even then it is gathered if a warp cannot look through its
 * segments. */
static unit_tile_t tile_record(const draft_t *draft, uint32_t index, uint32_t place, bool direct)
{
    const weft_cuda_unit_t *u = &draft->units[index];
    const unit_t *record = &draft->records[index];
    const segment_t *segments = draft->segments + record->first_segment;
    const rect_t rect = rect_of(u, place);
    unit_tile_t tile = {};
    tile.unit = index, tile.place = place;
    uint32_t held = 0;
    while (direct && held < record->num_segments && !holds(&segments[held], rect))
        held++;
    const bool by_one = direct && held < record->num_segments;
    if (!by_one && (!direct || record->num_segments > WARP))
        return tile;
    if (by_one) {
        const segment_t *s = &segments[held];
        size_t first = (size_t)(rect.row - s->row) * s->ld_elems + (rect.col - s->col);
        tile.src = s->data + first * elem_size(u->unit.dtype);
        tile.ld_elems = s->ld_elems;
    }
    tile.first_segment = record->first_segment;
    tile.num_segments = record->num_segments;
    tile.rows = (uint8_t)rect.rows, tile.cols = (uint16_t)rect.cols;
    tile.log_row_threads = (uint8_t)record->log_row_threads;
    return tile;
}

/* ---- The list ---- */

/* Find the tensors whose digest can ride: units that store whole groups, in place, cover every byte. */
static weft_status_t find_riders(draft_t *draft)
{
    uint64_t *covered = (uint64_t *)calloc(draft->num_tensors + 1, sizeof *covered);
    if (!covered)
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < draft->num_units; i++) {
        const weft_cuda_unit_t *u = &draft->units[i];
        if (u->tensor == WEFT_CUDA_NONE)
            continue;
        const weft_cuda_tensor_t *t = &draft->tensors[u->tensor];
        uint64_t begin = (uintptr_t)u->unit.out - (uintptr_t)t->data;
        bool rides =
            stores_groups(u) && begin % WEFT_DIGEST_WORD_BYTES == 0 && begin + out_bytes(u) <= t->bytes;
        if (covered[u->tensor] != UINT64_MAX)
            covered[u->tensor] = rides ? covered[u->tensor] + out_bytes(u) : UINT64_MAX;
        draft->ride[u->tensor] += tiles_of(u);
    }
    for (uint32_t i = 0; i < draft->num_tensors; i++) {
        if (covered[i] != draft->tensors[i].bytes)
            draft->ride[i] = 0;
    }
    free(covered);
    return WEFT_OK;
}

static weft_status_t list_classes(weft_cuda_quantize_t *quantize, const draft_t *draft)
{
    for (uint32_t i = 0; i < draft->num_units; i++)
        quantize->classes[class_of(&draft->units[i])].count++;
    for (uint32_t c = 0; c < NUM_CLASSES; c++) {
        unit_class_t *k = &quantize->classes[c];
        k->units = (uint32_t *)calloc(k->count + 1, sizeof *k->units);
        k->first_tile = (uint32_t *)calloc(k->count + 1, sizeof *k->first_tile);
        if (!k->units || !k->first_tile)
            return WEFT_ERR_NO_MEMORY;
        k->count = 0;
    }
    for (uint32_t i = 0; i < draft->num_units; i++) {
        unit_class_t *k = &quantize->classes[class_of(&draft->units[i])];
        k->units[k->count++] = i;
    }
    return WEFT_OK;
}

/* Write the tiles of all classes, and where each unit's begin. */
static void list_tiles(weft_cuda_quantize_t *quantize, draft_t *draft)
{
    uint32_t at = 0;
    for (uint32_t c = 0; c < NUM_CLASSES; c++) {
        unit_class_t *k = &quantize->classes[c];
        for (uint32_t i = 0; i < k->count; i++) {
            k->first_tile[i] = at;
            const uint32_t unit = k->units[i], tiles = tiles_of(&draft->units[unit]);
            const bool direct =
                is_direct(&draft->units[unit], draft->segments + draft->records[unit].first_segment);
            for (uint32_t place = 0; place < tiles; place++)
                draft->tiles[at++] = tile_record(draft, unit, place, direct);
        }
        k->first_tile[k->count] = at;
    }
}

/* Units of a tensor get its partials one after another. */
static void give_partials(weft_cuda_quantize_t *quantize, draft_t *draft)
{
    for (uint32_t i = 0; i < draft->num_units; i++) {
        uint32_t tensor = draft->units[i].tensor;
        if (tensor == WEFT_CUDA_NONE || !draft->ride[tensor])
            continue;
        draft->records[i].partial = weft_cuda_sums_first(quantize->sums, tensor) + draft->next[tensor];
        draft->next[tensor] += tiles_of(&draft->units[i]);
    }
}

static weft_status_t draft_begin(draft_t *draft)
{
    for (uint32_t i = 0; i < draft->num_units; i++) {
        const weft_cuda_unit_t *u = &draft->units[i];
        if (!accepts(u, draft->num_tensors))
            return WEFT_ERR_ARGUMENT;
        draft->num_segments += u->unit.num_segments;
        draft->num_tiles += tiles_of(u);
    }
    if (draft->num_segments > UINT32_MAX || draft->num_tiles > INT32_MAX)
        return WEFT_ERR_ARGUMENT;
    draft->ride = (uint32_t *)calloc(draft->num_tensors + 1, sizeof *draft->ride);
    draft->next = (uint32_t *)calloc(draft->num_tensors + 1, sizeof *draft->next);
    draft->records = (unit_t *)calloc(draft->num_units + 1, sizeof *draft->records);
    draft->segments = (segment_t *)calloc(draft->num_segments + 1, sizeof *draft->segments);
    draft->tiles = (unit_tile_t *)calloc(draft->num_tiles + 1, sizeof *draft->tiles);
    bool whole = draft->ride && draft->next && draft->records && draft->segments && draft->tiles;
    return whole ? WEFT_OK : WEFT_ERR_NO_MEMORY;
}

static void draft_end(draft_t *draft)
{
    free(draft->ride);
    free(draft->next);
    free(draft->records);
    free(draft->segments);
    free(draft->tiles);
}

static size_t result_bytes(const weft_cuda_quantize_t *quantize)
{
    return quantize->num_units * sizeof *quantize->work.keys + sizeof *quantize->work.refused;
}

static weft_status_t upload(weft_cuda_quantize_t *quantize, const draft_t *draft)
{
    work_t *work = &quantize->work;
    weft_status_t status = weft_cuda_upload(draft->records, draft->num_units, (unit_t **)&work->units);
    if (status == WEFT_OK)
        status = weft_cuda_upload(draft->segments, draft->num_segments, (segment_t **)&work->segments);
    if (status == WEFT_OK)
        status = weft_cuda_upload(draft->tiles, draft->num_tiles, (unit_tile_t **)&work->tiles);
    if (status != WEFT_OK)
        return status;
    WEFT_TRY_CUDA(cudaMalloc((void **)&work->keys, result_bytes(quantize)));
    work->refused = (unsigned *)(work->keys + quantize->num_units);
    WEFT_TRY_CUDA(cudaMemset(work->keys, 0xFF, result_bytes(quantize)));
    WEFT_TRY_CUDA(cudaMallocHost((void **)&quantize->refused, sizeof *quantize->refused));
    *quantize->refused = WEFT_CUDA_NONE;
    work->partials = weft_cuda_sums_partials(quantize->sums);
    return WEFT_OK;
}

static weft_status_t fill(weft_cuda_quantize_t *quantize, draft_t *draft)
{
    WEFT_TRY(draft_begin(draft));
    WEFT_TRY(find_riders(draft));
    WEFT_TRY(list_classes(quantize, draft));
    WEFT_TRY(weft_cuda_sums_create(draft->tensors, draft->ride, draft->num_tensors, &quantize->sums));
    uint64_t segment = 0;
    for (uint32_t i = 0; i < draft->num_units; i++) {
        write_record(draft, i, segment);
        segment += draft->units[i].unit.num_segments;
    }
    list_tiles(quantize, draft);
    give_partials(quantize, draft);
    return upload(quantize, draft);
}

extern "C" weft_status_t weft_cuda_quantize_create(const weft_cuda_unit_t *units, uint32_t num_units,
                                                   const weft_cuda_tensor_t *tensors, uint32_t num_tensors,
                                                   weft_cuda_quantize_t **quantize)
{
    weft_cuda_quantize_t *made = (weft_cuda_quantize_t *)calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->num_units = num_units;
    made->num_tensors = num_tensors;
    draft_t draft = {};
    draft.units = units, draft.num_units = num_units;
    draft.tensors = tensors, draft.num_tensors = num_tensors;
    weft_status_t status = fill(made, &draft);
    draft_end(&draft);
    if (status != WEFT_OK) {
        weft_cuda_quantize_destroy(made);
        return status;
    }
    *quantize = made;
    return WEFT_OK;
}

extern "C" void weft_cuda_quantize_destroy(weft_cuda_quantize_t *quantize)
{
    if (!quantize)
        return;
    weft_cuda_sums_destroy(quantize->sums);
    cudaFree((void *)quantize->work.units);
    cudaFree((void *)quantize->work.segments);
    cudaFree((void *)quantize->work.tiles);
    cudaFree(quantize->work.keys);
    cudaFreeHost(quantize->refused);
    for (uint32_t c = 0; c < NUM_CLASSES; c++) {
        free(quantize->classes[c].units);
        free(quantize->classes[c].first_tile);
    }
    free(quantize);
}

/* ---- Runs ---- */

/* The first place in a class of a unit at or after `unit`. */
static uint32_t lower_bound(const unit_class_t *k, uint32_t unit)
{
    uint32_t low = 0, high = k->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (k->units[middle] < unit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static weft_status_t launch(const work_t *work, uint32_t index, unsigned extras, cudaStream_t stream)
{
    const weft_dtype_t dtype = dtypes[index % NUM_DTYPES];
    const uint32_t shape = index / NUM_DTYPES;
    switch (shape) {
    case CLASS_CAST:
        return weft_cuda_launch_cast(work, dtype, extras, stream);
    case CLASS_WIDEN:
        return weft_cuda_launch_widen(work, dtype, extras, stream);
    case CLASS_MOVE:
        return weft_cuda_launch_move(work, stream);
    case CLASS_BLOCK:
    case CLASS_MARLIN_BLOCK:
        return weft_cuda_launch_fp8_block(work, dtype, shape == CLASS_MARLIN_BLOCK, extras, stream);
    case CLASS_GROUPS:
        return weft_cuda_launch_groups(work, dtype, extras, stream);
    case CLASS_MARLIN:
        return weft_cuda_launch_marlin(work, dtype, extras, stream);
    case CLASS_MARLIN_FP8:
        return weft_cuda_launch_marlin_rows(work, WEFT_KERNEL_FP8_CHANNEL, dtype, extras, stream);
    case CLASS_MARLIN_INT8:
        return weft_cuda_launch_marlin_rows(work, WEFT_KERNEL_INT8_CHANNEL, dtype, extras, stream);
    case CLASS_MARLIN_TENSOR:
        return weft_cuda_launch_marlin_rows(work, WEFT_KERNEL_FP8_TENSOR, dtype, extras, stream);
    }
    if (shape >= CLASS_INT8)
        return weft_cuda_launch_int8_channel(work, dtype, class_threads[shape - CLASS_INT8], extras, stream);
    return weft_cuda_launch_fp8_channel(work, dtype, class_threads[shape - CLASS_CHANNEL], extras, stream);
}

extern "C" weft_status_t weft_cuda_quantize_begin(weft_cuda_quantize_t *quantize, weft_cuda_stream_t stream)
{
    return weft_cuda_status(cudaMemsetAsync(quantize->work.keys, 0xFF, result_bytes(quantize), stream));
}

extern "C" weft_status_t weft_cuda_quantize_run(weft_cuda_quantize_t *quantize, uint32_t first,
                                                uint32_t count, unsigned extras, weft_cuda_stream_t stream)
{
    bool follows = (extras & WEFT_CUDA_FOLLOWS) != 0;
    extras &= ~(unsigned)WEFT_CUDA_FOLLOWS;
    if (!weft_cuda_in_range(first, count, quantize->num_units) || extras > WEFT_CUDA_ALL)
        return WEFT_ERR_ARGUMENT;
    for (uint32_t c = 0; c < NUM_CLASSES; c++) {
        const unit_class_t *k = &quantize->classes[c];
        if (k->count == 0)
            continue;
        uint32_t begin = k->first_tile[lower_bound(k, first)],
                 end = k->first_tile[lower_bound(k, first + count)];
        if (begin == end)
            continue;
        work_t work = quantize->work;
        work.tiles += begin;
        work.num_tiles = end - begin;
        work.follows = follows;
        WEFT_TRY(launch(&work, c, extras, stream));
        follows = true;
    }
    return WEFT_OK;
}

extern "C" weft_status_t weft_cuda_quantize_finish(weft_cuda_quantize_t *quantize, uint32_t first,
                                                   uint32_t count, weft_cuda_stream_t stream)
{
    if (count > 0)
        return weft_cuda_sums_finish(quantize->sums, first, count, quantize->work.refused, quantize->refused,
                                     stream);
    return weft_cuda_status(cudaMemcpyAsync(quantize->refused, quantize->work.refused,
                                            sizeof *quantize->refused, cudaMemcpyDeviceToHost, stream));
}

extern "C" const weft_digest_t *weft_cuda_quantize_digests(const weft_cuda_quantize_t *quantize)
{
    return weft_cuda_sums_digests(quantize->sums);
}

extern "C" bool weft_cuda_quantize_refused(const weft_cuda_quantize_t *quantize, uint32_t *unit)
{
    if (*quantize->refused == WEFT_CUDA_NONE)
        return false;
    *unit = *quantize->refused;
    return true;
}

extern "C" weft_status_t weft_cuda_quantize_result(weft_cuda_quantize_t *quantize, uint32_t unit,
                                                   weft_cuda_stream_t stream, weft_quantize_result_t *result)
{
    if (unit >= quantize->num_units)
        return WEFT_ERR_ARGUMENT;
    uint64_t key;
    WEFT_TRY_CUDA(
        cudaMemcpyAsync(&key, quantize->work.keys + unit, sizeof key, cudaMemcpyDeviceToHost, stream));
    WEFT_TRY_CUDA(cudaStreamSynchronize(stream));
    *result = weft_quantize_result_t{};
    if (key != UINT64_MAX)
        *result = weft_quantize_result_t{true, (uint32_t)(key >> 32), (uint32_t)key};
    return WEFT_OK;
}
