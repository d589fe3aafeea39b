/* fp8-channel, int8-channel and fp8-tensor in the order of Marlin (kernels/arrange.h): a scale for each row, which for
 * fp8-tensor is the same one.
 *
 *     a tile: eight rows, 8 apart, of one of Marlin's 64; 2048 columns of them are in the registers of a block
 *     +--------------------------------+-----
 *     | row r        2048 columns      | ...     four lanes: 16 columns of all eight rows (marlin_bytes.cuh)
 *     | row r + 8                      | ...
 *     | ...                            |
 *     +--------------------------------+-----
 *
 * Where the rows' amax has not come ahead all columns are looked through first; those that were last are still there when
 * codes are made, and the way goes back from them. What is read twice was read by the same block just before.
 *
 * A direct tile that meets a NaN or Inf, or a row whose codes cannot be had without a division, is done anew by the
 * gathered way, which writes every byte of it again.
 *
 * 2 (4) bytes read once or, beyond 2048 columns of rows without an amax, twice, 1 written, an element; 2 for the scale, a
 * row; 16 for the digest and 32 of its record, a tile.
 */
#include "kernels/cuda/channel_codes.cuh"
#include "kernels/cuda/marlin_bytes.cuh"

constexpr uint32_t SIZE = THREADS;
constexpr uint32_t CHUNK = SIZE / 4 * WEFT_MARLIN_COLS; /* columns in registers */

/* Of a row: its scale, what `encode` wants of it, the largest magnitude that it may be asked for (-1: none), and what
 * codes differ by from those that are stored; a row that the unit has not is stored as zeros. */
typedef struct row {
    float scale;
    weft_inverse_t inverse;
    int32_t limit;
    uint32_t bias;
} row_t;

/* What all loads but the first want of the tile's record. All fields are words, as those of unit_t are. */
typedef struct again {
    const uint8_t *src;
    uint32_t ld_elems, first_segment, num_segments, cols, rows;
} again_t;

typedef struct shared {
    unit_t unit;
    again_t tile;
    row_t rows[MARLIN_EACH];
    uint32_t warp_max[SIZE / WARP][2][2]; /* rows 0 and 2, 4 and 6; 1 and 3, 5 and 7 */
    uint64_t warp_sums[SIZE / WARP][2];
    listing_t listing;
} shared_t;

template <typename CODE> constexpr uint32_t bias = 0;
template <> constexpr uint32_t bias<int8_code> = WEFT_MARLIN_BIAS * 0x01010101u;

/* ---- A tile ---- */

static __device__ __forceinline__ uint32_t tile_top(uint32_t place)
{
    return place / MARLIN_EACH * WEFT_MARLIN_ROWS + place % MARLIN_EACH;
}

/* The groups of a thread in the columns from `begin` on. */
static __device__ __forceinline__ groups_t groups_of(uint32_t place, uint32_t begin)
{
    return groups_t{.top = tile_top(place),
                    .left = 0,
                    .row = marlin_row(),
                    .col = begin + marlin_col(),
                    .down = MARLIN_STEP,
                    .right = 0};
}

/* What a block reads its tile from. */
typedef struct origin {
    const work_t *work;
    const unit_tile_t *tile; /* direct, in registers: for the first load */
    sources_t sources;       /* gathered */
    uint32_t place;
} origin_t;

static __device__ __forceinline__ unit_tile_t tile_again(const again_t *again)
{
    return unit_tile_t{.src = again->src,
                       .ld_elems = again->ld_elems,
                       .unit = 0,
                       .place = 0,
                       .first_segment = again->first_segment,
                       .num_segments = again->num_segments,
                       .cols = (uint16_t)again->cols,
                       .rows = (uint8_t)again->rows,
                       .log_row_threads = 0};
}

/* Whether it has rows, and the thread columns from `begin` on: all four of a quad, or none. */
static __device__ __forceinline__ bool stores(const shared_t *shared, uint32_t place, uint32_t begin)
{
    return tile_top(place) < shared->unit.rows && begin + marlin_col() < shared->unit.cols;
}

/* The columns from `begin` on; zeros where the unit ends. */
template <weft_dtype_t D, bool DIRECT>
static __device__ __forceinline__ void load_chunk(const origin_t *from, const shared_t *shared, uint32_t begin,
                                                  uint4 (&v)[GROUPS])
{
    const groups_t g = groups_of(from->place, begin);
    if (DIRECT) {
        const unit_tile_t tile = tile_again(&shared->tile);
        (void)load_tile<D>(from->work, &tile, &g, v);
        return;
    }
    const bool right = g.col < shared->unit.cols;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const uint32_t row = g.top + g.row + i * MARLIN_STEP;
        v[i] = right && row < shared->unit.rows ? gather_group<D>(from->sources, row, g.col, GROUP)
                                                : make_uint4(0, 0, 0, 0);
    }
}

/* The first of them, while the unit's record is on its way. */
template <weft_dtype_t D, bool DIRECT>
static __device__ __forceinline__ void load_first(const origin_t *from, shared_t *shared, uint4 (&v)[GROUPS])
{
    if (!DIRECT) {
        load_chunk<D, DIRECT>(from, shared, 0, v);
        return;
    }
    const groups_t g = groups_of(from->place, 0);
    (void)load_tile<D>(from->work, from->tile, &g, v);
    if (threadIdx.x == 0)
        shared->tile = again_t{.src = from->tile->src,
                               .ld_elems = from->tile->ld_elems,
                               .first_segment = from->tile->first_segment,
                               .num_segments = from->tile->num_segments,
                               .cols = from->tile->cols,
                               .rows = from->tile->rows};
    unit_brought();
    weft_sync<SIZE>();
}

/* ---- Scales ---- */

template <weft_dtype_t D, bool DIRECT>
static __device__ __forceinline__ void fold_maxima(const uint4 (&v)[GROUPS], uint32_t (&max)[GROUPS])
{
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        max[i] = DIRECT ? group_magnitude(max[i], v[i]) : finite_magnitude<D>(max[i], v[i]);
}

/* Those of a warp, for all. */
static __device__ __forceinline__ void share_maxima(const uint32_t (&max)[GROUPS], shared_t *shared)
{
    uint32_t two[2] = {larger_half(max[0]) | larger_half(max[1]) << 16, larger_half(max[2]) | larger_half(max[3]) << 16};
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        two[i] = __vmaxu2(two[i], __shfl_xor_sync(ALL_LANES, two[i], 1));
#pragma unroll
        for (uint32_t away = 4; away < WARP; away *= 2)
            two[i] = __vmaxu2(two[i], __shfl_xor_sync(ALL_LANES, two[i], away));
        if (threadIdx.x % WARP % 2 == 0 && threadIdx.x % WARP < 4)
            shared->warp_max[threadIdx.x / WARP][threadIdx.x % WARP / 2][i] = two[i];
    }
}

/* The amax of row `e`, of the unit `row`: sent ahead, of the whole tensor, or what all warps found. */
template <typename CODE>
static __device__ __forceinline__ uint32_t amax_of(const shared_t *shared, uint32_t row, uint32_t e)
{
    const uint16_t *known = shared->unit.row_amax;
    if (known)
        return known[CODE::OF_TENSOR ? 0 : row];
    uint32_t max = 0;
    for (uint32_t warp = 0; warp < SIZE / WARP; warp++)
        max = __vmaxu2(max, shared->warp_max[warp][e % 2][e / 4]);
    return max >> e / 2 % 2 * 16 & 0xFFFF;
}

/* Threads below MARLIN_EACH, one for each row. */
template <weft_dtype_t D, typename CODE>
static __device__ __forceinline__ void find_scale(shared_t *shared, uint32_t place)
{
    const unit_t *unit = &shared->unit;
    const uint32_t e = threadIdx.x, row = tile_top(place) + e * MARLIN_EACH, finite = inf_bits<D>() - 1;
    const bool real = row < unit->rows;
    const uint32_t amax = real ? amax_of<CODE>(shared, row, e) : 0;
    const float scale = CODE::scale((weft_profile_t)unit->profile, value_f32<D>(amax));
    row_t *to = &shared->rows[e];
    to->scale = scale;
    to->inverse = CODE::inverse(scale);
    to->limit = !CODE::quick(scale) ? -1 : (int32_t)(CODE::OF_TENSOR ? finite : min(amax, finite));
    to->bias = real ? bias<CODE> : 0;
    if (real && unit->scale)
        marlin_store_scale(unit, row, 0, 1, scale);
}

/* ---- Codes ---- */

/* Of a thread's groups, and whether some of them would have to be divided. */
template <weft_dtype_t D, bool DIRECT, typename CODE>
static __device__ __forceinline__ bool encode_chunk(const shared_t *shared, const uint4 (&v)[GROUPS],
                                                    uint2 (&codes)[GROUPS])
{
    const weft_profile_t profile = (weft_profile_t)shared->unit.profile;
    bool divided = false;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const row_t *row = &shared->rows[threadIdx.x / 2 % 2 + 2 * i];
        const bool above = (int32_t)larger_half(group_magnitude(0, v[i])) > row->limit;
        codes[i] = !DIRECT && above ? divide_group<D, CODE>(v[i], row->scale, profile)
                                    : encode_group<D, CODE>(v[i], row->inverse, profile);
        divided |= above;
    }
    return divided;
}

/* What is stored of the codes that a lane has now, of four rows each. */
static __device__ __forceinline__ void add_bias(const shared_t *shared, uint4 (&words)[2])
{
    const row_t *row = &shared->rows[threadIdx.x % 2 * GROUPS];
#pragma unroll
    for (uint32_t s = 0; s < 2; s++) {
        words[s].x ^= row[0].bias, words[s].y ^= row[1].bias;
        words[s].z ^= row[2].bias, words[s].w ^= row[3].bias;
    }
}

template <weft_dtype_t D>
static __device__ __forceinline__ void note_chunk(const origin_t *from, const unit_t *unit, uint32_t index,
                                                  uint32_t begin, const uint4 (&v)[GROUPS])
{
    const groups_t g = groups_of(from->place, begin);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        note_nonfinite<D>(from->work, index, unit, g.top + g.row + i * MARLIN_STEP, g.col, v[i]);
}

/* False if a direct tile must be done the gathered way. `index`, of the unit, is for that. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, bool DIRECT, typename CODE>
static __device__ __forceinline__ bool encode_rows(const origin_t *from, uint32_t index, shared_t *shared)
{
    const unit_t *unit = &shared->unit;
    uint4 v[GROUPS];
    load_first<D, DIRECT>(from, shared, v);
    const uint32_t chunks = (unit->cols + CHUNK - 1) / CHUNK;
    const bool search = !unit->row_amax;
    if (search) {
        uint32_t max[GROUPS] = {};
        fold_maxima<D, DIRECT>(v, max);
#pragma unroll 1
        for (uint32_t c = 1; c < chunks; c++) {
            load_chunk<D, DIRECT>(from, shared, c * CHUNK, v);
            fold_maxima<D, DIRECT>(v, max);
        }
        share_maxima(max, shared);
        weft_sync<SIZE>();
    }
    if (threadIdx.x < MARLIN_EACH)
        find_scale<D, CODE>(shared, from->place);
    weft_sync<SIZE>();
    weft_digest_t sums = {{0, 0}};
    bool divided = false;
#pragma unroll 1
    for (uint32_t c = 0; c < chunks; c++) {
        const uint32_t begin = (search ? chunks - 1 - c : c) * CHUNK;
        uint2 codes[GROUPS];
        uint4 words[2];
        if (c > 0)
            load_chunk<D, DIRECT>(from, shared, begin, v);
        divided |= encode_chunk<D, DIRECT, CODE>(shared, v, codes);
        if (!DIRECT && FINITE)
            note_chunk<D>(from, unit, index, begin, v);
        marlin_trade(codes, words);
        if (bias<CODE>)
            add_bias(shared, words);
        if (stores(shared, from->place, begin))
            marlin_store<DIGEST>(unit, tile_top(from->place), begin + threadIdx.x / 4 * WEFT_MARLIN_COLS, words, &sums);
    }
    if (DIRECT && weft_sync_or<SIZE>(divided))
        return false;
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums, &from->work->partials[unit->partial + from->place]);
    return true;
}

template <weft_dtype_t D, bool DIGEST, bool FINITE, typename CODE>
static __device__ __noinline__ void gathered_tile(const work_t *work, shared_t *shared)
{
    const uint32_t index = work->tiles[blockIdx.x].unit, place = work->tiles[blockIdx.x].place;
    const unit_t *unit = &shared->unit;
    weft_sync<SIZE>();
    if (threadIdx.x == 0)
        shared->unit = work->units[index];
    weft_sync<SIZE>();
    const sources_t sources =
        list_sources<SIZE>(work, unit, tile_top(place), MARLIN_RECT_ROWS, 0, unit->cols, &shared->listing);
    const origin_t from = {.work = work, .tile = NULL, .sources = sources, .place = place};
    (void)encode_rows<D, DIGEST, FINITE, false, CODE>(&from, index, shared);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE, typename CODE>
static __global__ void __launch_bounds__(SIZE, resident_threads<D> / SIZE)
    marlin_rows(const __grid_constant__ work_t work)
{
    __shared__ shared_t shared;
    let_follower_launch(&work);
    const unit_tile_t tile = read_tile(&work);
    bring_unit(&work, &tile, &shared.unit);
    const origin_t from = {.work = &work, .tile = &tile, .sources = {}, .place = tile.place};
    if (!tile.num_segments || !encode_rows<D, DIGEST, FINITE, true, CODE>(&from, 0, &shared)) {
        unit_brought();
        wait_before(&work);
        gathered_tile<D, DIGEST, FINITE, CODE>(&work, &shared);
    }
    wait_after(&work);
}

weft_status_t weft_cuda_launch_marlin_rows(const work_t *work, weft_kernel_id_t kernel, weft_dtype_t dtype,
                                           unsigned extras, cudaStream_t stream)
{
    void (*launched)(const work_t) =
        kernel == WEFT_KERNEL_INT8_CHANNEL  ? WEFT_CUDA_PICK(marlin_rows, dtype, extras, int8_code)
        : kernel == WEFT_KERNEL_FP8_CHANNEL ? WEFT_CUDA_PICK(marlin_rows, dtype, extras, fp8_code)
                                            : WEFT_CUDA_PICK(marlin_rows, dtype, extras, tensor_code);
    return launch_tiles(launched, work, SIZE, stream);
}
