/* int4-group in the order of Marlin (kernels/arrange.h).
 *
 *     tile 64 x 128, in the registers of a block: eight of Marlin's tiles side by side
 *     +--------+--------+--------+ ...
 *     | 64 x 16|        |        |      warp r: rows r and r + 8 of each 16
 *     +--------+--------+--------+ ...  lane: 16 columns lane / 4, of which half lane % 2; row r + lane / 2 % 2 * 8, and
 *                                       in that of all four 16s
 *
 * The four lanes of 16 columns have what four of Marlin's threads want: each has all columns of two of its rows'
 * halves, and wants two columns of everything. They trade bytes, first with the lane beside, then with the one after:
 *
 *     lane 0  (row, low)        0 1 2 3        byte p: columns 2p, 2p + 1       lane p has byte p of all four, and
 *     lane 1  (row, high)       0 1 2 3   ==>  of 8                             stores it for the four 16s at once:
 *     lane 2  (row + 8, low)    0 1 2 3                                         16 bytes, four lanes 64 side by side
 *     lane 3  (row + 8, high)   0 1 2 3
 *
 * A direct tile with a NaN or Inf, or with a scale that codes.h does not take, is done by the gathered way.
 *
 * 2 (4) bytes read, 1/2 written, an element, and 2 a group; 16 for the digest and 32 of its record, a tile.
 */
extern "C" {
#include "kernels/arrange.h"
}
#include "kernels/cuda/group_codes.cuh"

constexpr uint32_t SIZE = GROUPS_THREADS;
constexpr uint32_t STEP = 16; /* rows between the groups of a thread */
static_assert(STEP * GROUPS == MARLIN_TILE_ROWS && MARLIN_TILE_ROWS == WEFT_MARLIN_ROWS, "one of Marlin's tiles high");
static_assert(SIZE / WARP * 2 == STEP, "a warp has two rows of each");

typedef struct shared {
    unit_t unit;
    uint64_t warp_sums[SIZE / WARP][2];
    listing_t listing;
} shared_t;

/* ---- A tile ---- */

static __device__ __forceinline__ groups_t groups_of(uint32_t place)
{
    const uint32_t lane = threadIdx.x % WARP;
    return groups_t{.top = place % MARLIN_TILES_DOWN * MARLIN_TILE_ROWS,
                    .left = place / MARLIN_TILES_DOWN * MARLIN_TILE_COLS,
                    .row = threadIdx.x / WARP + lane / 2 % 2 * 8,
                    .col = lane / 4 * WEFT_MARLIN_COLS + lane % 2 * GROUP,
                    .down = STEP,
                    .right = 0};
}

/* ---- Scales: of 4, 8 or 16 lanes; the lowest four of them, `finders`, find that of a row each ---- */

/* The bit of a lane that tells whose i-th neighbour it is along a row: the second says rows. */
static __device__ __forceinline__ constexpr uint32_t beside(uint32_t i)
{
    return i == 0 ? 1 : 2u << i;
}

/* Which of the four groups of a thread this lane scales. */
static __device__ __forceinline__ uint32_t scaled_group(void)
{
    return (threadIdx.x & 1) | (threadIdx.x >> 1 & 2);
}

/* The amax of the group that this lane scales. */
static __device__ __forceinline__ uint32_t share_amax(uint32_t log_lanes, const uint32_t (&amax)[GROUPS])
{
    const bool odd = threadIdx.x & beside(0), high = threadIdx.x & beside(1);
    uint32_t half[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t even_row = amax[2 * i], odd_row = amax[2 * i + 1];
        half[i] = max(odd ? odd_row : even_row, __shfl_xor_sync(ALL_LANES, odd ? even_row : odd_row, beside(0)));
    }
    uint32_t mine = max(high ? half[1] : half[0], __shfl_xor_sync(ALL_LANES, high ? half[0] : half[1], beside(1)));
    if (log_lanes > 2)
        mine = max(mine, __shfl_xor_sync(ALL_LANES, mine, beside(2)));
    if (log_lanes > 3)
        mine = max(mine, __shfl_xor_sync(ALL_LANES, mine, beside(3)));
    return mine;
}

/* The factor of group i, from the lane that found it. */
static __device__ __forceinline__ weft_inverse_t factor_of(weft_inverse_t mine, uint32_t i)
{
    const uint32_t finder = (threadIdx.x % WARP & ~(beside(0) | beside(1))) | (i & 1) | (i >> 1) * beside(1);
    return weft_inverse_t{__shfl_sync(ALL_LANES, mine.hi, finder), __shfl_sync(ALL_LANES, mine.lo, finder)};
}

/* The scale of one of this lane's rows, if no lane before it shares it. */
static __device__ __forceinline__ void store_scale(const unit_t *unit, uint32_t row, uint32_t col, uint32_t scale)
{
    const uint32_t shift = unit->log_row_threads + LOG_GROUP;
    const uint64_t index = weft_arrange_index(WEFT_ARRANGE_MARLIN, unit->matrix_row + row, col >> shift,
                                              unit->matrix_rows, unit->matrix_cols >> shift);
    ((uint16_t *)unit->scale)[index] = (uint16_t)scale;
}

/* ---- Words ---- */

/* Of the bytes of two codes' words, those that lanes of a quad want; both words at once. `away`: 1 or 2. */
static __device__ __forceinline__ void trade(uint32_t away, bool upper, uint32_t *a, uint32_t *b)
{
    uint32_t sent, got;
    if (away == 1) { /* bytes 1 and 3 of the even lane for 0 and 2 of the odd one */
        sent = __byte_perm(*a, *b, upper ? 0x6420 : 0x7531);
        got = __shfl_xor_sync(ALL_LANES, sent, 1);
        *a = __byte_perm(*a, got, upper ? 0x3514 : 0x5240);
        *b = __byte_perm(*b, got, upper ? 0x3716 : 0x7260);
    } else { /* the higher halves of the lower lane for the lower ones of the higher */
        sent = __byte_perm(*a, *b, upper ? 0x5410 : 0x7632);
        got = __shfl_xor_sync(ALL_LANES, sent, 2);
        *a = __byte_perm(*a, got, upper ? 0x3254 : 0x5410);
        *b = __byte_perm(*b, got, upper ? 0x3276 : 0x7610);
    }
}

/* Four bytes of two codes each: the lower codes first, then the higher. */
static __device__ __forceinline__ uint32_t lower_first(uint32_t bytes)
{
    const uint32_t low = bytes & 0x0F0F0F0Fu, high = bytes >> 4 & 0x0F0F0F0Fu;
    return __byte_perm(low | low >> 4, high | high >> 4, 0x6420);
}

/* Store the codes of a thread, in words of eight along a row, those of rows that the unit has not 0. All lanes of a warp. */
template <bool DIGEST>
static __device__ __forceinline__ weft_digest_t store_words(const unit_t *unit, const groups_t *g, uint32_t (&w)[GROUPS])
{
    const bool odd = threadIdx.x & 1, eight = threadIdx.x & 2;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i += 2)
        trade(1, odd, &w[i], &w[i + 1]);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i += 2)
        trade(2, eight, &w[i], &w[i + 1]);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        w[i] = lower_first(w[i]);
    weft_digest_t sums = {{0, 0}};
    if (g->top + threadIdx.x / WARP >= unit->rows || g->left + g->col >= unit->cols)
        return sums;
    const uint64_t word = weft_marlin_code(unit->matrix_row + g->top + threadIdx.x / WARP,
                                           g->left + threadIdx.x % WARP / 4 * WEFT_MARLIN_COLS + threadIdx.x % 4 * 2,
                                           unit->matrix_rows)
                              .word;
    uint32_t *to = (uint32_t *)unit->out + word;
    if (unit->flags & UNIT_ALIGNED) {
        weft_store16(to, make_uint4(w[0], w[1], w[2], w[3]));
    } else {
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
            to[i] = w[i];
    }
    if (DIGEST) {
        const uint32_t index = unit->word + (uint32_t)(word / 2);
        weft_digest_add(w[0] | (uint64_t)w[1] << 32, index, &sums);
        weft_digest_add(w[2] | (uint64_t)w[3] << 32, index + 1, &sums);
    }
    return sums;
}

/* ---- Direct ---- */

/* False, before anything is written, if some group of the tile is not for codes.h. */
template <weft_dtype_t D, bool DIGEST, groups_kind_t K>
static __device__ __forceinline__ bool encode_tile(const groups_t *g, uint32_t real, const uint4 (&v)[GROUPS],
                                                   const shared_t *shared, weft_digest_t *sums)
{
    const unit_t *unit = &shared->unit;
    const uint32_t log_lanes = unit->log_row_threads;
    uint32_t amax[GROUPS], words[GROUPS];
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        amax[i] = larger_half(group_magnitude(0, v[i]));
    const uint32_t largest = share_amax(log_lanes, amax);
    const scaling_t found = int4_scaling((weft_profile_t)unit->profile, value_f32<D>(largest));
    if (weft_sync_or<SIZE>(!found.quick || largest >= inf_bits<D>()))
        return false;
    const bool first = !(threadIdx.x & ((beside(log_lanes) - 1) & ~(beside(2) - 1)));
    if (real >> scaled_group() & 1 && first)
        store_scale(unit, g->top + g->row + scaled_group() * STEP, g->left + g->col, found.stored);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const uint32_t codes = quick_codes<D, K>(v[i], factor_of(found.factor, i));
        words[i] = real >> i & 1 ? codes : 0;
    }
    *sums = store_words<DIGEST>(unit, g, words);
    return true;
}

template <weft_dtype_t D, bool DIGEST>
static __device__ __forceinline__ bool direct_tile(const work_t *work, const unit_tile_t *tile, shared_t *shared)
{
    const groups_t g = groups_of(tile->place);
    uint4 v[GROUPS];
    const uint32_t real = load_tile<D>(work, tile, &g, v);
    unit_brought();
    weft_sync<SIZE>();
    weft_digest_t sums = {{0, 0}};
    const bool done = shared->unit.kind == INT4_CT ? encode_tile<D, DIGEST, INT4_CT>(&g, real, v, shared, &sums)
                                                   : encode_tile<D, DIGEST, INT4>(&g, real, v, shared, &sums);
    if (DIGEST && done && shared->unit.flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums, &work->partials[shared->unit.partial + tile->place]);
    return done;
}

/* ---- Gathered ---- */

/* The codes of a thread, and its scales stored, whatever the elements. */
template <weft_dtype_t D, bool FINITE>
static __device__ __forceinline__ void encode_any(const work_t *work, const unit_t *unit, uint32_t index,
                                                  const groups_t *g, const uint4 (&v)[GROUPS],
                                                  uint32_t (&words)[GROUPS])
{
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t amax = larger_half(finite_magnitude<D>(0, v[i]));
        for (uint32_t away = 0; away < unit->log_row_threads; away++)
            amax = max(amax, __shfl_xor_sync(ALL_LANES, amax, beside(away)));
        const uint32_t row = g->top + g->row + i * STEP, col = g->left + g->col;
        const encoded_t e = encode_int4<D>(v[i], (weft_profile_t)unit->profile, value_f32<D>(amax));
        const bool real = row < unit->rows && col < unit->cols;
        words[i] = real ? e.codes.x : 0;
        if (!real)
            continue;
        if (FINITE)
            note_nonfinite<D>(work, index, unit, row, col, v[i]);
        if (col % (GROUP << unit->log_row_threads) == 0)
            store_scale(unit, row, col, e.scale);
    }
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __noinline__ void gathered_tile(const work_t *work, shared_t *shared)
{
    const uint32_t index = work->tiles[blockIdx.x].unit, place = work->tiles[blockIdx.x].place;
    const groups_t g = groups_of(place);
    const unit_t *unit = &shared->unit;
    weft_sync<SIZE>();
    if (threadIdx.x == 0)
        shared->unit = work->units[index];
    weft_sync<SIZE>();
    const sources_t sources = list_sources<SIZE>(work, unit, g.top, MARLIN_TILE_ROWS, g.left, MARLIN_TILE_COLS,
                                                 &shared->listing);
    const bool right = g.left + g.col < unit->cols;
    uint4 v[GROUPS];
    uint32_t words[GROUPS];
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const uint32_t row = g.top + g.row + i * STEP;
        v[i] = right && row < unit->rows ? gather_group<D>(sources, row, g.left + g.col, GROUP) : make_uint4(0, 0, 0, 0);
    }
    encode_any<D, FINITE>(work, unit, index, &g, v, words);
    const weft_digest_t sums = store_words<DIGEST>(unit, &g, words);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums, &work->partials[unit->partial + place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(SIZE, resident_threads<D> / SIZE)
    marlin(const __grid_constant__ work_t work)
{
    __shared__ shared_t shared;
    let_follower_launch(&work);
    const unit_tile_t tile = read_tile(&work);
    bring_unit(&work, &tile, &shared.unit);
    if (!tile.num_segments || !direct_tile<D, DIGEST>(&work, &tile, &shared)) {
        unit_brought();
        wait_before(&work);
        gathered_tile<D, DIGEST, FINITE>(&work, &shared);
    }
    wait_after(&work);
}

weft_status_t weft_cuda_launch_marlin(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream)
{
    return launch_tiles(WEFT_CUDA_PICK(marlin, dtype, extras), work, SIZE, stream);
}
