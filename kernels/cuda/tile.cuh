/* Units and segments as the device sees them, and how a thread gets its elements.
 *
 * A thread's piece is a *group*: 8 elements side by side in a row, starting at a multiple of 8. As loaded it
 * is 16 or 32 bytes; from then on it is 8 values of 16 bits (bf16, or fp16 where the source is fp16), as in
 * kernels/ref/tile.h; as codes it is 8 bytes, one word of the digest.
 *
 *     direct     aligned segments of whole groups, all finite: loads, arithmetic, stores (direct.cuh)
 *     gathered   everything else. The block first lists in shared memory which segments meet its tile; a
 *                group inside one of them is still one load, any other goes by element
 *
 * The gathered way is a function of its own, so that what it needs costs the direct one no registers; a
 * direct tile that meets a NaN or Inf is done again from the start by it.
 */
#ifndef WEFT_KERNELS_CUDA_TILE_CUH
#define WEFT_KERNELS_CUDA_TILE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/digest.cuh"

constexpr uint32_t GROUP = 8;     /* elements */
constexpr uint32_t LOG_GROUP = 3;
constexpr uint32_t THREADS = 512; /* that work on a tile; of channels by the length of its rows */
constexpr uint32_t TILE_ELEMS = 16384;
constexpr uint32_t GROUPS = TILE_ELEMS / GROUP / THREADS; /* of a thread */
constexpr uint32_t BLOCK = 128; /* a tile of fp8-block and of cast is BLOCK x BLOCK */
constexpr uint32_t LISTED = 64; /* segments of a tile that fit in shared memory; more stay where they are */

static_assert(BLOCK * BLOCK == TILE_ELEMS, "a tile of fp8-block is one of THREADS threads");

/* ---- Records ---- */

typedef struct alignas(16) segment {
    const uint8_t *data; /* NULL: zeros */
    uint32_t ld_elems;
    uint32_t row, col, rows, cols;
    uint16_t aligned;    /* every group that lies inside can be loaded 16 bytes at a time */
    uint16_t transposed; /* a column lies together, ld_elems from the next; never aligned */
} segment_t;

static_assert(sizeof(segment_t) == 32, "two 16-byte loads");

enum {
    UNIT_ALIGNED = 1, /* the codes of a group can be stored at once */
    UNIT_RIDES = 2,   /* the digest of its tensor rides in the pass */
    UNIT_ALLOWS = 4,  /* NaN and Inf */
    UNIT_INVERTS = 8, /* casts to 1/x */
};

/* All fields are words: copies of smaller ones become vector loads of which not all is used, and there ptxas of
 * CUDA 13.0 was seen to take bytes 2 and 3 from a register that it no longer loads. */
typedef struct alignas(16) unit {
    uint8_t *out;
    float *scale;
    const uint16_t *row_amax; /* or the amax of the whole tensor */
    float *global;
    uint32_t rows, cols;
    uint32_t first_segment, num_segments;
    uint32_t word;    /* index of the word at `out` in its tensor's digest */
    uint32_t partial; /* of the unit's first tile */
    uint32_t flags, profile, out_dtype;
    uint32_t log_row_threads; /* channels: threads that share a row; a block of one row may have fewer. groups.cu:
                                 that share a scale; 0 where it is the whole tensor's */
    uint32_t kernel;
    uint32_t kind; /* groups.cu: groups_kind_t */
    uint32_t arrange;
    uint32_t matrix_row, matrix_rows; /* where `arrange` is not plain */
    uint32_t matrix_cols;             /* of marlin */
} unit_t;

static_assert(sizeof(unit_t) == 96, "six 16-byte loads");

/* A tile of pack and of amax. */
typedef struct alignas(8) tile {
    uint32_t unit;
    uint32_t place; /* which tile of the unit */
} tile_t;

/* A tile of a unit: what its loads need, so that they wait for no other record. */
typedef struct alignas(16) unit_tile {
    const uint8_t *src; /* its first element where one segment holds all of it, else NULL */
    uint32_t ld_elems;  /* of src */
    uint32_t unit;
    uint32_t place;         /* which tile of the unit */
    uint32_t first_segment; /* of the unit */
    uint32_t num_segments;  /* 0: gathered */
    uint16_t cols;          /* that are real; 0: gathered */
    uint8_t rows;
    uint8_t log_row_threads;
} unit_tile_t;

static_assert(sizeof(unit_tile_t) == 32, "two 16-byte loads, one sector");

/* What the kernels are launched with, a block a tile. */
typedef struct work {
    const unit_tile_t *tiles;
    uint32_t num_tiles;
    const unit_t *units;
    const segment_t *segments;
    weft_digest_t *partials;
    unsigned long long *keys; /* [units]: row << 32 | col of the first NaN or Inf */
    unsigned *refused;        /* the first unit that is refused */
    bool follows; /* only launches of the same list stand between this and the last wait for the stream */
} work_t;

/* ---- Values ---- */

template <weft_dtype_t D> static __device__ __forceinline__ constexpr uint32_t inf_bits()
{
    return D == WEFT_DTYPE_F16 ? WEFT_F16_INF : WEFT_BF16_INF;
}

template <weft_dtype_t D> static __device__ __forceinline__ constexpr uint32_t elem_bytes()
{
    return D == WEFT_DTYPE_F32 ? 4 : 2;
}

/* Two values of a word as fp32, exactly. */
template <weft_dtype_t D> static __device__ __forceinline__ float2 unpack(uint32_t word)
{
    if (D == WEFT_DTYPE_F16) {
        __half2_raw raw;
        raw.x = (unsigned short)word, raw.y = (unsigned short)(word >> 16);
        return __half22float2(__half2(raw));
    }
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u));
}

template <weft_dtype_t D> static __device__ __forceinline__ float value_f32(uint32_t value)
{
    return unpack<D>(value).x;
}

/* Two fp32 rounded to bf16, NaN to 0x7FFF: one instruction. */
static __device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

/* Two fp32 rounded to e4m3, saturating, NaN to 0x7F: one instruction. The low code comes first in memory. */
static __device__ __forceinline__ uint32_t e4m3_pair(float low, float high)
{
    uint16_t codes;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    return codes;
}

/* Two e4m3 codes as fp32, exactly. */
static __device__ __forceinline__ float2 e4m3_values(uint32_t codes)
{
    uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)codes));
    return unpack<WEFT_DTYPE_F16>(halves);
}

/* The larger magnitudes of a group, folded into both halves of `max`. */
static __device__ __forceinline__ uint32_t group_magnitude(uint32_t max, uint4 v)
{
    max = __vimax3_u16x2(max, v.x & 0x7FFF7FFFu, v.y & 0x7FFF7FFFu);
    return __vimax3_u16x2(max, v.z & 0x7FFF7FFFu, v.w & 0x7FFF7FFFu);
}

static __device__ __forceinline__ uint32_t larger_half(uint32_t word)
{
    return max(word & 0xFFFFu, word >> 16);
}

/* ---- Loads ---- */

template <weft_dtype_t D> static __device__ __forceinline__ uint4 load_group(const uint8_t *from)
{
    uint4 a = weft_load16(from);
    if (D != WEFT_DTYPE_F32)
        return a;
    uint4 b = weft_load16(from + 16);
    return make_uint4(bf16_pair(__uint_as_float(a.x), __uint_as_float(a.y)),
                      bf16_pair(__uint_as_float(a.z), __uint_as_float(a.w)),
                      bf16_pair(__uint_as_float(b.x), __uint_as_float(b.y)),
                      bf16_pair(__uint_as_float(b.z), __uint_as_float(b.w)));
}

template <weft_dtype_t D> static __device__ __forceinline__ uint32_t load_value(const uint8_t *from)
{
    if (D != WEFT_DTYPE_F32)
        return *(const uint16_t *)from;
    return bf16_pair(*(const float *)from, 0.0f) & 0xFFFFu;
}

/* The segments that a tile reads. */
typedef struct sources {
    const segment_t *list;
    uint32_t count;
} sources_t;

static __device__ __forceinline__ const segment_t *find_segment(sources_t sources, uint32_t row, uint32_t col)
{
#pragma unroll 1
    for (uint32_t i = 0; i < sources.count; i++) {
        const segment_t *s = &sources.list[i];
        if (row - s->row < s->rows && col - s->col < s->cols)
            return s;
    }
    return NULL;
}

template <weft_dtype_t D>
static __device__ __forceinline__ uint4 gather_elements(sources_t sources, uint32_t row, uint32_t col,
                                                        uint32_t count)
{
    uint64_t low = 0, high = 0;
#pragma unroll 1
    for (uint32_t i = 0; i < count; i++) {
        const segment_t *s = find_segment(sources, row, col + i);
        if (!s || !s->data)
            continue;
        const size_t down = row - s->row, right = col + i - s->col;
        const size_t offset = s->transposed ? right * s->ld_elems + down : down * s->ld_elems + right;
        uint64_t value = (uint64_t)load_value<D>(s->data + offset * elem_bytes<D>()) << (i % 4 * 16);
        low |= i < 4 ? value : 0;
        high |= i < 4 ? 0 : value;
    }
    return make_uint4((uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32));
}

/* A group of at most GROUP real elements, from whatever segments hold it; zeros where there is none. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint4 gather_group(sources_t sources, uint32_t row, uint32_t col,
                                                     uint32_t count)
{
    const segment_t *s = find_segment(sources, row, col);
    if (s && s->aligned && count == GROUP && col - s->col + GROUP <= s->cols) {
        if (!s->data)
            return make_uint4(0, 0, 0, 0);
        return load_group<D>(s->data +
                             ((size_t)(row - s->row) * s->ld_elems + (col - s->col)) * elem_bytes<D>());
    }
    return gather_elements<D>(sources, row, col, count);
}

/* Shared memory of list_sources. */
typedef struct listing {
    segment_t list[LISTED];
    uint32_t count;
} listing_t;

/* List the segments that meet rows [row, row + rows) and columns [col, col + cols). All SIZE threads. */
template <uint32_t SIZE>
static __device__ __forceinline__ sources_t list_sources(const work_t *work, const unit_t *unit, uint32_t row,
                                                         uint32_t rows, uint32_t col, uint32_t cols,
                                                         listing_t *listing)
{
    const segment_t *all = work->segments + unit->first_segment;
    if (threadIdx.x == 0)
        listing->count = 0;
    weft_sync<SIZE>();
    for (uint32_t i = threadIdx.x; i < unit->num_segments; i += SIZE) {
        segment_t s = all[i];
        if (s.row >= row + rows || row >= s.row + s.rows || s.col >= col + cols || col >= s.col + s.cols)
            continue;
        uint32_t place = atomicAdd(&listing->count, 1);
        if (place < LISTED)
            listing->list[place] = s;
    }
    weft_sync<SIZE>();
    if (listing->count > LISTED)
        return sources_t{all, unit->num_segments};
    return sources_t{listing->list, listing->count};
}

/* ---- NaN and Inf ---- */

/* All ones in each half of a word whose value is not finite. */
template <weft_dtype_t D> static __device__ __forceinline__ uint32_t nonfinite_mask(uint32_t word)
{
    return __vcmpgeu2(word & 0x7FFF7FFFu, inf_bits<D>() * 0x10001u);
}

/* Fold a group's finite magnitudes into both halves of `max`. */
template <weft_dtype_t D> static __device__ __forceinline__ uint32_t finite_magnitude(uint32_t max, uint4 v)
{
    v.x &= ~nonfinite_mask<D>(v.x), v.y &= ~nonfinite_mask<D>(v.y);
    v.z &= ~nonfinite_mask<D>(v.z), v.w &= ~nonfinite_mask<D>(v.w);
    return group_magnitude(max, v);
}

template <weft_dtype_t D> static __device__ __forceinline__ bool has_inf(uint4 v)
{
    const uint32_t inf = inf_bits<D>() * 0x10001u, mask = 0x7FFF7FFFu;
    return __vcmpeq2(v.x & mask, inf) | __vcmpeq2(v.y & mask, inf) | __vcmpeq2(v.z & mask, inf) |
           __vcmpeq2(v.w & mask, inf);
}

/* All ones in each half of a word whose magnitude is `limit` or more. */
static __device__ __forceinline__ uint32_t mask_from(uint32_t word, uint32_t limit)
{
    return __vcmpgeu2(word & 0x7FFF7FFFu, limit * 0x10001u);
}

/* The place of the first element of a group whose magnitude is `limit` or more; GROUP: there is none. */
static __device__ __forceinline__ uint32_t first_from(uint4 v, uint32_t limit)
{
    uint64_t low = mask_from(v.x, limit) | (uint64_t)mask_from(v.y, limit) << 32;
    uint64_t high = mask_from(v.z, limit) | (uint64_t)mask_from(v.w, limit) << 32;
    if (low)
        return (__ffsll((long long)low) - 1) / 16;
    return high ? 4 + (__ffsll((long long)high) - 1) / 16 : GROUP;
}

/* Note the first such element of a group for its unit, if none came before. */
static __device__ __forceinline__ void note_from(const work_t *work, uint32_t index, const unit_t *unit,
                                                 uint32_t row, uint32_t col, uint4 v, uint32_t limit)
{
    uint32_t place = first_from(v, limit);
    if (place == GROUP)
        return;
    atomicMin(&work->keys[index], (unsigned long long)row << 32 | (col + place));
    if (!(unit->flags & UNIT_ALLOWS))
        atomicMin(work->refused, index);
}

/* The same of NaN and Inf. */
template <weft_dtype_t D>
static __device__ __forceinline__ void note_nonfinite(const work_t *work, uint32_t index, const unit_t *unit,
                                                      uint32_t row, uint32_t col, uint4 v)
{
    note_from(work, index, unit, row, col, v, inf_bits<D>());
}

/* ---- Stores ---- */

/* Store the codes of a group, of which `count` are real. */
static __device__ __forceinline__ void store_codes(const unit_t *unit, size_t offset, uint32_t count,
                                                   uint2 codes)
{
    if (unit->flags & UNIT_ALIGNED) {
        weft_store8(unit->out + offset, codes);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < GROUP; i++) {
            if (i < count)
                unit->out[offset + i] = (uint8_t)((i < 4 ? codes.x : codes.y) >> (i % 4 * 8));
        }
    }
}

static __device__ __forceinline__ void digest_codes(const unit_t *unit, uint32_t row, uint32_t col,
                                                    uint2 codes, weft_digest_t *sums)
{
    uint32_t index = unit->word + row * (unit->cols / GROUP) + col / GROUP;
    weft_digest_add(codes.x | (uint64_t)codes.y << 32, index, sums);
}

/* ---- Launchers, one file each ---- */

/* What groups.cu does with a unit. */
typedef enum groups_kind { TENSOR, MX8, MX4, INT4, INT4_CT, NV4, NV4_MODELOPT } groups_kind_t;

/* Its tiles: rows of them as long as a warp, so that scales of a row lie together, and so many one above the other that
 * they are a unit. */
constexpr uint32_t GROUPS_THREADS = 256, GROUPS_COLS = WARP * GROUP, TILES_DOWN = 4;

/* The same of marlin.cu. */
constexpr uint32_t MARLIN_TILE_ROWS = 64, MARLIN_TILE_COLS = 128, MARLIN_TILES_DOWN = 2;

/* Rows from the first to the last of a tile of marlin_rows.cu, which are 8 apart; eight such tiles are 64 rows. */
constexpr uint32_t MARLIN_RECT_ROWS = 57;

weft_status_t weft_cuda_launch_cast(const work_t *work, weft_dtype_t dtype, unsigned extras,
                                    cudaStream_t stream);
constexpr uint32_t MOVE_BYTES = 1024; /* of each row in a tile of a move */
weft_status_t weft_cuda_launch_move(const work_t *work, cudaStream_t stream);
weft_status_t weft_cuda_launch_widen(const work_t *work, weft_dtype_t dtype, unsigned extras,
                                     cudaStream_t stream);
weft_status_t weft_cuda_launch_fp8_block(const work_t *work, weft_dtype_t dtype, bool marlin, unsigned extras,
                                         cudaStream_t stream);
weft_status_t weft_cuda_launch_fp8_channel(const work_t *work, weft_dtype_t dtype, uint32_t threads,
                                           unsigned extras, cudaStream_t stream);

weft_status_t weft_cuda_launch_groups(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream);
weft_status_t weft_cuda_launch_marlin(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream);
weft_status_t weft_cuda_launch_marlin_rows(const work_t *work, weft_kernel_id_t kernel, weft_dtype_t dtype,
                                           unsigned extras, cudaStream_t stream);
weft_status_t weft_cuda_launch_int8_channel(const work_t *work, weft_dtype_t dtype, uint32_t threads,
                                            unsigned extras, cudaStream_t stream);

/* fp8-channel and int8-channel: the threads of a block, by the length of rows. The first may hold several, the others one; all
 * but the last hold them in registers. */
constexpr uint32_t CHANNEL_THREADS = 256, MIDDLE_THREADS = 384, LONG_THREADS = 512, WIDE_THREADS = 1024;

/* The instance of a kernel template for a source dtype and extras. KERNEL<dtype, digest, finite, ...> */
#define WEFT_CUDA_PICK_EXTRAS(KERNEL, D, extras, ...)                                                        \
    ((extras) == WEFT_CUDA_ALL      ? KERNEL<D, true, true __VA_OPT__(, ) __VA_ARGS__>                       \
     : (extras) == WEFT_CUDA_DIGEST ? KERNEL<D, true, false __VA_OPT__(, ) __VA_ARGS__>                      \
     : (extras) == WEFT_CUDA_FINITE ? KERNEL<D, false, true __VA_OPT__(, ) __VA_ARGS__>                      \
                                    : KERNEL<D, false, false __VA_OPT__(, ) __VA_ARGS__>)
#define WEFT_CUDA_PICK(KERNEL, dtype, extras, ...)                                                           \
    ((dtype) == WEFT_DTYPE_F32   ? WEFT_CUDA_PICK_EXTRAS(KERNEL, WEFT_DTYPE_F32, extras, __VA_ARGS__)        \
     : (dtype) == WEFT_DTYPE_F16 ? WEFT_CUDA_PICK_EXTRAS(KERNEL, WEFT_DTYPE_F16, extras, __VA_ARGS__)        \
                                 : WEFT_CUDA_PICK_EXTRAS(KERNEL, WEFT_DTYPE_BF16, extras, __VA_ARGS__))

#endif
