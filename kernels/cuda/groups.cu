/* Schemes whose scale is for a few elements of a row, or for the whole tensor: mxfp8, mxfp4, int4-group, nvfp4 and
 * fp8-tensor.
 *
 *     tile 32 x 256, in the registers of a block
 *     +--------------------------------+
 *     | lane 0 | 1 | 2 | ...      | 31 |   a lane: 8 columns, in 4 rows, 8 apart
 *     +--------------------------------+
 *      '--- 32 ---'                        lanes side by side share a scale: 2, 4, 8 or 16
 *
 * Scales of the 4 rows are found by as many lanes at once, each of one row (nvfp4: of two), and handed round. Where codes share
 * bytes, lanes trade rows in pairs, so that each stores whole words of 8 bytes, which are words of the digest:
 *
 *     lane 0   r0 r1 r2 r3        r0.r0' r1.r1'          4-bit codes of 8 columns are 4 bytes
 *     lane 1   r0'r1'r2'r3'  ==>  r2.r2' r3.r3'
 *
 * A direct tile with a NaN or Inf, or with a scale that codes.h does not take, is done by the gathered way.
 *
 * 2 (4) bytes read, 1 or 1/2 written, an element, and its part of a scale; 16 for the digest and 32 of its
 * record, a tile.
 */
extern "C" {
#include "kernels/arrange.h"
}
#include "kernels/cuda/group_codes.cuh"

constexpr uint32_t ROW_GROUPS = GROUPS_COLS / GROUP;
constexpr uint32_t SIZE = GROUPS_THREADS;
constexpr uint32_t STEP = SIZE / ROW_GROUPS; /* rows between the groups of a thread */
constexpr uint32_t TILE_ROWS = STEP * GROUPS;
static_assert(TILE_ROWS * TILES_DOWN == 128, "of a unit, if not of them all");
constexpr uint32_t PAIR = 2 * GROUP;            /* columns of a word of 4-bit codes */

constexpr uint32_t SCALES = 128; /* that a group of nvfp4 can have: e4m3 codes without a sign */
constexpr uint32_t E4M3_NORMAL = 0x08, E4M3_LARGEST = 0x7E;
static_assert(SIZE > SCALES, "a thread each, and one more");

typedef struct shared {
    unit_t unit;
    float tensor_scale;
    weft_nvfp4_t domain;
    bool is_quick;                  /* modelopt: whether all divisions are for codes.h */
    weft_inverse_t by_domain;       /* modelopt: of domain.to_scale */
    weft_inverse_t factors[SCALES]; /* nvfp4, direct: of elements, by the scale of their group */
    uint64_t warp_sums[SIZE / WARP][2];
    listing_t listing;
} shared_t;

/* A unit is TILES_DOWN tiles high, whatever its rows. */
static __device__ __forceinline__ uint32_t tile_top(uint32_t place)
{
    return place % TILES_DOWN * TILE_ROWS;
}

static __device__ __forceinline__ uint32_t tile_left(uint32_t place)
{
    return place / TILES_DOWN * GROUPS_COLS;
}

/* ---- Codes of 8 elements ---- */

template <weft_dtype_t D> static __device__ __forceinline__ encoded_t encode_mxfp4(uint4 v, float amax)
{
    const uint8_t exponent = weft_mxfp4_exponent(amax);
    const float factor = weft_mx_factor(exponent);
    const uint32_t codes = four_bits<D>(v, [=](float x) { return weft_e2m1_from_f32(weft_mul(x, factor)); });
    return encoded_t{make_uint2(codes, 0), exponent};
}

template <weft_dtype_t D>
static __device__ __forceinline__ encoded_t encode_nvfp4(uint4 v, const weft_nvfp4_t *domain, float amax)
{
    const weft_nvfp4_t d = *domain;
    const uint8_t scale = weft_nvfp4_scale(&d, amax);
    const float factor = weft_nvfp4_factor(&d, scale);
    const uint32_t codes = four_bits<D>(v, [=](float x) { return weft_nvfp4_code(&d, x, factor); });
    return encoded_t{make_uint2(codes, 0), scale};
}

template <weft_dtype_t D>
static __device__ __forceinline__ encoded_t encode(const unit_t *unit, uint4 v, float amax, float tensor_scale,
                                                   const weft_nvfp4_t *domain)
{
    switch (unit->kernel) {
    case WEFT_KERNEL_FP8_TENSOR:
        return encoded_t{e4m3_times<D>(v, weft_block_factor(tensor_scale)), 0};
    case WEFT_KERNEL_MXFP8: {
        const uint8_t exponent = weft_mxfp8_exponent(amax);
        return encoded_t{e4m3_times<D>(v, weft_mx_factor(exponent)), exponent};
    }
    case WEFT_KERNEL_MXFP4:
        return encode_mxfp4<D>(v, amax);
    case WEFT_KERNEL_NVFP4:
        return encode_nvfp4<D>(v, domain, amax);
    default:
        return encode_int4<D>(v, (weft_profile_t)unit->profile, amax);
    }
}

/* ---- A tile ---- */

/* `log_lanes`: of the lanes that share a scale. */
static __device__ __forceinline__ size_t scale_index(const unit_t *unit, uint32_t row, uint32_t col, uint32_t log_lanes)
{
    const uint32_t shift = log_lanes + LOG_GROUP, right = col >> shift, across = unit->cols >> shift;
    return unit->arrange == WEFT_ARRANGE_PLAIN
               ? (size_t)row * across + right
               : weft_arrange_index(WEFT_ARRANGE_SWIZZLE, unit->matrix_row + row, right, 0, across);
}

template <typename SCALE>
static __device__ __forceinline__ void store_scale(const unit_t *unit, uint32_t row, uint32_t col,
                                                   uint32_t log_lanes, uint32_t scale)
{
    ((SCALE *)unit->scale)[scale_index(unit, row, col, log_lanes)] = (SCALE)scale;
}

static __device__ __forceinline__ bool is_int4_unit(const unit_t *unit)
{
    return unit->kernel >= WEFT_KERNEL_INT4_GROUP_32 && unit->kernel <= WEFT_KERNEL_INT4_GROUP_128;
}

static __device__ __forceinline__ bool packs(const unit_t *unit)
{
    return unit->kernel != WEFT_KERNEL_FP8_TENSOR && unit->kernel != WEFT_KERNEL_MXFP8;
}

/* Zeros where the unit ends: their lanes take part in the maxima. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t gather_tile(const work_t *work, const unit_t *unit, uint32_t place,
                                                       listing_t *listing, uint4 (&v)[GROUPS])
{
    const uint32_t top = tile_top(place), left = tile_left(place);
    const uint32_t row = top + threadIdx.x / ROW_GROUPS, col = left + threadIdx.x % ROW_GROUPS * GROUP;
    const uint32_t count = col < unit->cols ? min(unit->cols - col, GROUP) : 0;
    const sources_t sources = list_sources<SIZE>(work, unit, top, TILE_ROWS, left, GROUPS_COLS, listing);
    uint32_t real = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const bool mine = row + i * STEP < unit->rows && count;
        v[i] = mine ? gather_group<D>(sources, row + i * STEP, col, count) : make_uint4(0, 0, 0, 0);
        real |= (uint32_t)mine << i;
    }
    return real;
}

/* Find the scale of the whole tensor, which every tile of one unit writes alike. One thread. */
template <weft_dtype_t D>
static __device__ __forceinline__ void begin_tensor(const unit_t *unit, shared_t *shared)
{
    if (unit->kernel == WEFT_KERNEL_FP8_TENSOR) {
        shared->tensor_scale = weft_tensor_scale(value_f32<D>(*unit->row_amax));
        if (unit->scale)
            *unit->scale = shared->tensor_scale;
    } else if (unit->kernel == WEFT_KERNEL_NVFP4) {
        shared->domain = weft_nvfp4_domain((weft_profile_t)unit->profile, value_f32<D>(*unit->row_amax));
        shared->is_quick = !shared->domain.modelopt || weft_quick_scale(shared->domain.to_scale);
        if (unit->global)
            *unit->global = shared->domain.global;
    }
}

/* The divisions of nvfp4, once a block, a thread each: there are fewer scales than groups. */
static __device__ __forceinline__ void fill_factors(shared_t *shared)
{
    const weft_nvfp4_t d = shared->domain;
    if (threadIdx.x < SCALES) {
        const float by = weft_nvfp4_factor(&d, (uint8_t)threadIdx.x);
        weft_inverse_t inverse = {by, 0};
        if (d.modelopt && threadIdx.x > 0 && threadIdx.x <= E4M3_LARGEST) {
            if (!weft_quick_scale(by))
                shared->is_quick = false;
            inverse = weft_inverse_of(by);
        }
        shared->factors[threadIdx.x] = inverse;
    } else if (threadIdx.x == SCALES) {
        shared->by_domain = weft_inverse_of(d.to_scale);
    }
}

/* Store the codes of a thread: 8 bytes of each row, or a word of them in two rows. All lanes of a warp. */
template <bool DIGEST>
static __device__ __forceinline__ weft_digest_t store_bytes(const unit_t *unit, uint32_t row, uint32_t col,
                                                            uint32_t real, const uint2 (&codes)[GROUPS])
{
    weft_digest_t sums = {{0, 0}};
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        if (!(real >> i & 1))
            continue;
        const uint32_t at = row + i * STEP;
        store_codes(unit, (size_t)at * unit->cols + col, min(unit->cols - col, GROUP), codes[i]);
        if (DIGEST)
            digest_codes(unit, at, col, codes[i], &sums);
    }
    return sums;
}

template <bool DIGEST, bool ALIGNED>
static __device__ __forceinline__ weft_digest_t store_words(const unit_t *unit, uint32_t row, uint32_t col,
                                                            uint32_t real, const uint32_t (&codes)[GROUPS])
{
    const bool odd = col / GROUP & 1;
    const uint32_t first = row + (odd ? GROUPS / 2 * STEP : 0), mine = odd ? real >> GROUPS / 2 : real;
    const uint32_t row_words = unit->cols / PAIR, right = col / PAIR, word = unit->word + right;
    weft_digest_t sums = {{0, 0}};
#pragma unroll
    for (uint32_t i = 0; i < GROUPS / 2; i++) {
        const uint32_t keep = odd ? codes[i + GROUPS / 2] : codes[i];
        const uint32_t other = __shfl_xor_sync(ALL_LANES, odd ? codes[i] : codes[i + GROUPS / 2], 1);
        const uint2 two = odd ? make_uint2(other, keep) : make_uint2(keep, other);
        const uint32_t at = first + i * STEP;
        if (!(mine >> i & 1))
            continue;
        uint32_t *to = (uint32_t *)unit->out + ((size_t)at * row_words + right) * 2;
        if (ALIGNED)
            weft_store8(to, two);
        else
            to[0] = two.x, to[1] = two.y;
        if (DIGEST)
            weft_digest_add(two.x | (uint64_t)two.y << 32, word + at * row_words, &sums);
    }
    return sums;
}

/* ---- Direct ---- */

template <groups_kind_t K> constexpr uint32_t sharers = is_nvfp4<K> ? 2 : 4; /* at least */

/* The e4m3 scale of a group of nvfp4. The quotient of modelopt is not below 2^-9, the least that is not zero. */
template <groups_kind_t K> static __device__ __forceinline__ uint32_t nvfp4_scale(const shared_t *shared, float amax)
{
    if (K == NV4)
        return e4m3_pair(weft_mul(amax, shared->domain.to_scale), 0.0f);
    const float quotient = weft_quotient(amax, shared->by_domain);
    return e4m3_pair(quotient > 0 ? weft_quick_max(quotient, 0.001953125f) : 1.0f, 0.0f);
}

template <groups_kind_t K>
static __device__ __forceinline__ scaling_t scaling_of(const shared_t *shared, float amax)
{
    scaling_t s = {};
    if (is_int4<K>) {
        s = int4_scaling((weft_profile_t)shared->unit.profile, amax);
    } else if (is_nvfp4<K>) {
        s.stored = nvfp4_scale<K>(shared, amax);
        s.quick = true;
        s.saturates = s.stored < E4M3_NORMAL || s.stored >= E4M3_LARGEST;
    } else {
        s.stored = K == MX8 ? weft_mxfp8_exponent(amax) : weft_mxfp4_exponent(amax);
        s.factor.hi = weft_mx_factor((uint8_t)s.stored);
        s.quick = true;
    }
    return s;
}

/* ---- Scales ---- */

/* The amax of the group that lane `l` scales, of the groups that it shares: of row l % sharers or of that and every
 * further such row. `amax` and `mine` are of two magnitudes each, of which the larger counts. */
template <groups_kind_t K>
static __device__ __forceinline__ void share_amax(uint32_t log_lanes, const uint32_t (&amax)[GROUPS], uint32_t (&mine)[2])
{
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    uint32_t half[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t even_row = amax[2 * i], odd_row = amax[2 * i + 1];
        half[i] = __vmaxu2(odd ? odd_row : even_row, __shfl_xor_sync(ALL_LANES, odd ? even_row : odd_row, 1));
    }
    if (sharers<K> == 2) {
        mine[0] = half[0], mine[1] = half[1];
        return;
    }
    mine[0] = __vmaxu2(high ? half[1] : half[0], __shfl_xor_sync(ALL_LANES, high ? half[0] : half[1], 2));
    if (is_int4<K> && log_lanes > 2)
        mine[0] = __vmaxu2(mine[0], __shfl_xor_sync(ALL_LANES, mine[0], 4));
    if (is_int4<K> && log_lanes > 3)
        mine[0] = __vmaxu2(mine[0], __shfl_xor_sync(ALL_LANES, mine[0], 8));
    mine[1] = 0;
}

constexpr uint32_t FOUND = 2; /* scales, at most */

/* The factor of row i, of the rows r, r + sharers, .. of which lane r of those that share found the scales. */
template <groups_kind_t K>
static __device__ __forceinline__ weft_inverse_t factor_of(const scaling_t (&found)[FOUND], uint32_t i)
{
    const uint32_t finder = (threadIdx.x % WARP & ~(sharers<K> - 1)) | i % sharers<K>;
    const weft_inverse_t mine = found[i / sharers<K>].factor;
    return weft_inverse_t{__shfl_sync(ALL_LANES, mine.hi, finder),
                          divides<K> ? __shfl_sync(ALL_LANES, mine.lo, finder) : 0};
}

/* The scales of the rows of two lanes that share them, a byte each. */
static __device__ __forceinline__ uint32_t pair_scales(const scaling_t (&found)[FOUND])
{
    const uint32_t mine = (found[0].stored | found[1].stored << 16) << (threadIdx.x & 1) * 8;
    return mine | __shfl_xor_sync(ALL_LANES, mine, 1);
}

/* False where one of them is not for codes.h. */
template <weft_dtype_t D, groups_kind_t K>
static __device__ __forceinline__ bool find_scales(const shared_t *shared, const uint4 (&v)[GROUPS],
                                                   scaling_t (&found)[FOUND])
{
    uint32_t amax[GROUPS], mine[FOUND];
    bool quick = true;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        amax[i] = group_magnitude(0, v[i]);
    share_amax<K>(shared->unit.log_row_threads, amax, mine);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS / sharers<K>; i++) {
        const uint32_t magnitude = larger_half(mine[i]);
        found[i] = scaling_of<K>(shared, value_f32<D>(magnitude));
        quick &= found[i].quick && magnitude < inf_bits<D>();
    }
    return quick;
}

/* nvfp4: those of a row and of the one two steps below, which lie a fixed way apart where both are of 32 that interleave. */
static __device__ __forceinline__ bool is_run_of_32(const unit_t *unit)
{
    return unit->arrange == WEFT_ARRANGE_PLAIN || unit->matrix_row % TILE_ROWS == 0;
}

static __device__ __forceinline__ void store_two_scales(const unit_t *unit, uint32_t row, uint32_t col, uint32_t real,
                                                        const scaling_t (&found)[FOUND])
{
    const bool plain = unit->arrange == WEFT_ARRANGE_PLAIN;
    uint8_t *to = (uint8_t *)unit->scale + scale_index(unit, row, col, 1);
    if (real & 1)
        to[0] = (uint8_t)found[0].stored;
    if (real & 4)
        to[plain ? unit->cols / PAIR * 2 * STEP : 16 * 2 * STEP] = (uint8_t)found[1].stored;
}

template <groups_kind_t K>
static __device__ __forceinline__ void store_scales(const unit_t *unit, uint32_t row, uint32_t col, uint32_t real,
                                                    const scaling_t (&found)[FOUND])
{
    const uint32_t log_lanes = is_int4<K> ? unit->log_row_threads : sharers<K> / 2;
    if (threadIdx.x & ((1u << log_lanes) - 1) & ~(sharers<K> - 1))
        return;
    if (is_nvfp4<K> && is_run_of_32(unit)) {
        store_two_scales(unit, row + threadIdx.x % 2 * STEP, col, real >> threadIdx.x % 2, found);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < GROUPS / sharers<K>; i++) {
        const uint32_t group = threadIdx.x % sharers<K> + i * sharers<K>, at = row + group * STEP;
        if (!(real >> group & 1))
            continue;
        if (is_int4<K>)
            store_scale<uint16_t>(unit, at, col, log_lanes, found[i].stored);
        else
            store_scale<uint8_t>(unit, at, col, log_lanes, found[i].stored);
    }
}

/* ---- Codes ---- */

/* Of 8 elements in each row of a thread. An element is below 7 times its scale, but in nvfp4 where that is subnormal or the
 * largest: 6.4 times. */
template <weft_dtype_t D, groups_kind_t K, bool SATURATE>
static __device__ __forceinline__ void four_bit_words(const shared_t *shared, const uint4 (&v)[GROUPS],
                                                      const scaling_t (&found)[FOUND], uint32_t (&words)[GROUPS])
{
    const uint32_t scales = is_nvfp4<K> ? pair_scales(found) : 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const weft_inverse_t factor = is_nvfp4<K> ? shared->factors[scales >> 8 * i & 0xFF] : factor_of<K>(found, i);
        words[i] = quick_codes<D, K, SATURATE>(v[i], factor);
    }
}

/* False, before anything is written, if some group of the tile is not for codes.h. */
template <weft_dtype_t D, bool DIGEST, groups_kind_t K>
static __device__ __forceinline__ bool encode_tile(const groups_t *g, uint32_t real, const uint4 (&v)[GROUPS],
                                                   const shared_t *shared, weft_digest_t *sums)
{
    const unit_t *unit = &shared->unit;
    const uint32_t row = g->top + g->row, col = g->left + g->col;
    scaling_t found[FOUND] = {};
    if (weft_sync_or<SIZE>(!find_scales<D, K>(shared, v, found)))
        return false;
    store_scales<K>(unit, row, col, real, found);
    if (K == MX8) {
        uint2 bytes[GROUPS];
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
            bytes[i] = e4m3_times<D>(v[i], factor_of<K>(found, i).hi);
        *sums = store_bytes<DIGEST>(unit, row, col, real, bytes);
    } else {
        uint32_t words[GROUPS];
        if (is_nvfp4<K> && __any_sync(ALL_LANES, found[0].saturates || found[1].saturates))
            four_bit_words<D, K, true>(shared, v, found, words);
        else
            four_bit_words<D, K, false>(shared, v, found, words);
        *sums = store_words<DIGEST, true>(unit, row, col, real, words);
    }
    return true;
}

template <weft_dtype_t D, bool DIGEST>
static __device__ __forceinline__ bool encode_tensor_tile(const groups_t *g, uint32_t real,
                                                          const uint4 (&v)[GROUPS], const shared_t *shared,
                                                          weft_digest_t *sums)
{
    const float factor = weft_block_factor(shared->tensor_scale);
    uint32_t max = 0;
    uint2 bytes[GROUPS];
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        max = group_magnitude(max, v[i]);
    if (weft_sync_or<SIZE>(larger_half(max) >= inf_bits<D>()))
        return false;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        bytes[i] = e4m3_times<D>(v[i], factor);
    *sums = store_bytes<DIGEST>(&shared->unit, g->top + g->row, g->left + g->col, real, bytes);
    return true;
}

template <weft_dtype_t D, bool DIGEST>
static __device__ __forceinline__ bool direct_tile(const work_t *work, const unit_tile_t *tile, shared_t *shared)
{
    const groups_t g = {.top = tile_top(tile->place),
                        .left = tile_left(tile->place),
                        .row = threadIdx.x / ROW_GROUPS,
                        .col = threadIdx.x % ROW_GROUPS * GROUP,
                        .down = STEP,
                        .right = 0};
    uint4 v[GROUPS];
    const uint32_t real = load_tile<D>(work, tile, &g, v);
    const unit_t *unit = &shared->unit;
    unit_brought();
    if (threadIdx.x < WARP) {
        __syncwarp();
        if (threadIdx.x == 0)
            begin_tensor<D>(unit, shared);
    }
    weft_sync<SIZE>();
    if (unit->kernel == WEFT_KERNEL_NVFP4) {
        fill_factors(shared);
        weft_sync<SIZE>();
    }
    weft_digest_t sums = {{0, 0}};
    bool done = false;
    switch (unit->kind) {
    case TENSOR:
        done = encode_tensor_tile<D, DIGEST>(&g, real, v, shared, &sums);
        break;
    case MX8:
        done = encode_tile<D, DIGEST, MX8>(&g, real, v, shared, &sums);
        break;
    case MX4:
        done = encode_tile<D, DIGEST, MX4>(&g, real, v, shared, &sums);
        break;
    case INT4:
        done = encode_tile<D, DIGEST, INT4>(&g, real, v, shared, &sums);
        break;
    case INT4_CT:
        done = encode_tile<D, DIGEST, INT4_CT>(&g, real, v, shared, &sums);
        break;
    case NV4:
        done = encode_tile<D, DIGEST, NV4>(&g, real, v, shared, &sums);
        break;
    case NV4_MODELOPT:
        done = shared->is_quick && encode_tile<D, DIGEST, NV4_MODELOPT>(&g, real, v, shared, &sums);
        break;
    }
    if (DIGEST && done && unit->flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums, &work->partials[unit->partial + tile->place]);
    return done;
}

/* ---- Gathered ---- */

/* The codes of a thread, and its scales stored, whatever the elements. */
template <weft_dtype_t D, bool FINITE>
static __device__ __forceinline__ void encode_any(const work_t *work, const shared_t *shared, uint32_t index,
                                                  uint32_t row, uint32_t col, uint32_t real,
                                                  const uint4 (&v)[GROUPS], uint2 (&codes)[GROUPS])
{
    const unit_t *unit = &shared->unit;
    const uint32_t log_lanes = unit->log_row_threads, lanes = 1u << log_lanes;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t amax = larger_half(finite_magnitude<D>(0, v[i]));
        for (uint32_t away = 1; away < lanes; away *= 2)
            amax = max(amax, __shfl_xor_sync(ALL_LANES, amax, away));
        const uint32_t at = row + i * STEP;
        const encoded_t e = encode<D>(unit, v[i], value_f32<D>(amax), shared->tensor_scale, &shared->domain);
        codes[i] = e.codes;
        if (!(real >> i & 1))
            continue;
        if (FINITE)
            note_nonfinite<D>(work, index, unit, at, col, v[i]);
        if (lanes == 1 || threadIdx.x & (lanes - 1))
            continue;
        if (is_int4_unit(unit))
            store_scale<uint16_t>(unit, at, col, log_lanes, e.scale);
        else
            store_scale<uint8_t>(unit, at, col, log_lanes, e.scale);
    }
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __noinline__ void gathered_tile(const work_t *work, shared_t *shared)
{
    const uint32_t index = work->tiles[blockIdx.x].unit, place = work->tiles[blockIdx.x].place;
    const uint32_t row = tile_top(place) + threadIdx.x / ROW_GROUPS;
    const uint32_t col = tile_left(place) + threadIdx.x % ROW_GROUPS * GROUP;
    const unit_t *unit = &shared->unit;
    weft_sync<SIZE>();
    if (threadIdx.x == 0) {
        shared->unit = work->units[index];
        begin_tensor<D>(unit, shared);
    }
    weft_sync<SIZE>();
    uint4 v[GROUPS];
    uint2 codes[GROUPS];
    const uint32_t real = gather_tile<D>(work, unit, place, &shared->listing, v);
    encode_any<D, FINITE>(work, shared, index, row, col, real, v, codes);
    weft_digest_t sums;
    if (packs(unit)) {
        const uint32_t words[GROUPS] = {codes[0].x, codes[1].x, codes[2].x, codes[3].x};
        sums = store_words<DIGEST, false>(unit, row, col, real, words);
    } else {
        sums = store_bytes<DIGEST>(unit, row, col, real, codes);
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums, &work->partials[unit->partial + place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(SIZE, resident_threads<D> / SIZE)
    groups(const __grid_constant__ work_t work)
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

weft_status_t weft_cuda_launch_groups(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream)
{
    return launch_tiles(WEFT_CUDA_PICK(groups, dtype, extras), work, SIZE, stream);
}
