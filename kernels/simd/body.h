/* Quantize, amax and digest by lanes; the includer has chosen their width (lanes_*.h). Included once in a
 * file.
 *
 *     segments ---> panel, 128 rows x 128 columns, and its amax ---> scale ---> codes
 *
 * Only correctly rounded operations, as in arith.h, so the bytes are those of `ref`; how a number is rounded
 * to e4m3 is another way to the same result.
 */
#include <string.h>

#include "kernels/arith.h"
#include "kernels/arrange.h"
#include "kernels/digest.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

#define STEP (4 * LANES) /* columns a turn; divides WEFT_TILE */

/* What the inner loops are made of: as calls they would take longer than what they do. */
#define INNER static inline __attribute__((always_inline))

/* ---- e4m3 ---- */

/* A magnitude is rounded by adding a power of two so large that one ulp of the sum is one ulp of e4m3 there:
 * 2^20 times the power of two below it, or below the least normal, 2^-6. What the sum has beyond that power
 * counts those ulps. */
typedef struct rounded {
    floats_t sum, power;
    ints_t exponent; /* in place */
} rounded_t;

INNER rounded_t round_e4m3(floats_t magnitude)
{
    ints_t bits = ints_min(bits_of(magnitude), ints_all(0x43E00000)); /* 448 */
    ints_t exponent = ints_max(ints_and(bits, ints_all(WEFT_F32_INF)), ints_all((127 - 6) << 23));
    floats_t power = floats_of(ints_add(exponent, ints_all(20 << 23)));
    return (rounded_t){floats_add(floats_of(bits), power), power, exponent};
}

/* Eight codes for each exponent, and the ulps. Too large by EXCESS, which shorts take off later, two for one.
 */
#define EXCESS ((127 - 6) << 3)

INNER ints_t excess_code(rounded_t r)
{
    return ints_add(ints_sub(bits_of(r.sum), bits_of(r.power)), ints_right(r.exponent, 20));
}

/* What the code stands for. */
INNER floats_t rounded_value(rounded_t r)
{
    return floats_sub(r.sum, r.power);
}

/* How a run of values becomes codes. */
typedef struct coding {
    float factor;  /* x * factor */
    float divisor; /* or x / divisor, where it is not 0 */
    bool twice;    /* what the code stands for * scale * again is encoded once more */
    float scale, again;
} coding_t;

INNER ints_t excess_code_of(floats_t magnitude, const coding_t *c)
{
    if (c->divisor != 0)
        return excess_code(round_e4m3(floats_div(magnitude, floats_all(c->divisor))));
    rounded_t once = round_e4m3(floats_mul(magnitude, floats_all(c->factor)));
    if (!c->twice)
        return excess_code(once);
    floats_t seen = floats_mul(rounded_value(once), floats_all(c->scale));
    return excess_code(round_e4m3(floats_mul(seen, floats_all(c->again))));
}

/* 2 * LANES codes, each in a short. */
INNER ints_t codes_of(ints_t values, const coding_t *c)
{
    ints_t magnitude = ints_and(values, shorts_all(0x7FFF));
    ints_t code =
        shorts_join(excess_code_of(floats_low(magnitude), c), excess_code_of(floats_high(magnitude), c));
    ints_t sign = ints_and(shorts_right(values, 8), shorts_all(WEFT_E4M3_SIGN));
    return ints_or(shorts_sub(code, shorts_all(EXCESS)), sign);
}

/* By value: what is stored through `out` might else change the coding, for all that a compiler knows. */
INNER void encode_by(const uint16_t *value, size_t count, const coding_t coding, uint8_t *out)
{
    for (size_t i = 0; i < count; i += STEP)
        codes_store(out + i, codes_of(shorts_load(value + i), &coding),
                    codes_of(shorts_load(value + i + 2 * LANES), &coding));
}

/* Three loops, none of which looks at what kind of coding it is. */
static inline void encode(const uint16_t *value, size_t count, const coding_t *coding, uint8_t *out)
{
    if (coding->divisor != 0)
        encode_by(value, count, (coding_t){.divisor = coding->divisor}, out);
    else if (coding->twice)
        encode_by(
            value, count,
            (coding_t){
                .factor = coding->factor, .twice = true, .scale = coding->scale, .again = coding->again},
            out);
    else
        encode_by(value, count, (coding_t){.factor = coding->factor}, out);
}

/* ---- amax ---- */

INNER ints_t maxima_of(const uint16_t *value, size_t count)
{
    ints_t most = ints_all(0);
    for (size_t i = 0; i < count; i += 2 * LANES)
        most = shorts_max(most, ints_and(shorts_load(value + i), shorts_all(0x7FFF)));
    return most;
}

static inline uint16_t most_of(const uint16_t *value, size_t count)
{
    return shorts_most(maxima_of(value, count));
}

/* What is left of a row after its last whole 128 columns, and zeros. */
static inline void take_rest(const uint16_t *value, size_t count, uint16_t rest[WEFT_TILE])
{
    memset(rest, 0, WEFT_TILE * sizeof *rest);
    memcpy(rest, value, count * sizeof *rest);
}

/* From a row on that has NaN or Inf `ref` knows what is finite, and where the first is that is not. */
static bool find_amax(const void *data, size_t ld_elems, uint32_t rows, uint32_t cols, weft_dtype_t dtype,
                      uint16_t *amax, uint32_t *row, uint32_t *col)
{
    if (dtype != WEFT_DTYPE_BF16)
        return weft_ref_amax(data, ld_elems, rows, cols, dtype, amax, row, col);
    uint32_t whole = cols / WEFT_TILE * WEFT_TILE;
    for (uint32_t i = 0; i < rows; i++) {
        const uint16_t *value = (const uint16_t *)data + i * ld_elems;
        uint16_t rest[WEFT_TILE], most = most_of(value, whole);
        take_rest(value + whole, cols - whole, rest);
        uint16_t last = most_of(rest, WEFT_TILE);
        most = last > most ? last : most;
        if (most >= WEFT_BF16_INF) {
            weft_ref_amax(value, ld_elems, rows - i, cols, dtype, amax + i, row, col);
            *row += i;
            return false;
        }
        amax[i] = most > amax[i] ? most : amax[i];
    }
    return true;
}

/* ---- Panels ---- */

/* 128 columns of a unit, of the last ones fewer; what lies right of the unit is zero. They are copied
 * together even where one segment holds them: its rows are so far apart that caches keep only some of them
 * for a second look. */
typedef struct panel {
    weft_tile_t tile;
    uint16_t amax;
} panel_t;

/* Copy whole 2 * LANES, and fold their magnitudes into `most`. */
INNER ints_t copy_run(const uint16_t *from, uint16_t *to, size_t count, ints_t most)
{
    for (size_t i = 0; i < count; i += 2 * LANES) {
        ints_t values = shorts_load(from + i);
        shorts_store(to + i, values);
        most = shorts_max(most, ints_and(values, shorts_all(0x7FFF)));
    }
    return most;
}

/* The segment that holds a whole panel, or NULL. */
static const weft_segment_t *find_holder(const weft_quantize_unit_t *unit, uint32_t col)
{
    for (uint32_t i = 0; i < unit->num_segments && unit->dtype == WEFT_DTYPE_BF16; i++) {
        const weft_segment_t *s = &unit->segments[i];
        if (s->data && !s->transposed && s->row == 0 && s->rows >= unit->rows && s->col <= col &&
            s->col + s->cols >= col + WEFT_TILE)
            return s;
    }
    return NULL;
}

static void take_panel(const weft_quantize_unit_t *unit, uint32_t col, panel_t *panel)
{
    const weft_segment_t *holder = find_holder(unit, col);
    ints_t most = ints_all(0);
    if (holder) {
        const uint16_t *from = (const uint16_t *)holder->data + (col - holder->col);
        panel->tile.cols = WEFT_TILE;
        for (uint32_t row = 0; row < unit->rows; row++)
            most = copy_run(from + row * holder->ld_elems, panel->tile.value[row], WEFT_TILE, most);
    } else {
        weft_tile_gather(unit, col, &panel->tile);
        for (uint32_t row = 0; row < unit->rows; row++)
            most = copy_run(panel->tile.value[row], panel->tile.value[row], WEFT_TILE, most);
    }
    panel->amax = shorts_most(most);
}

/* One row of codes, of which the panel's last columns may be fewer than 128. */
static inline void put_row(const panel_t *panel, uint32_t row, const coding_t *coding, uint8_t *out)
{
    uint8_t whole[WEFT_TILE];
    bool fits = panel->tile.cols == WEFT_TILE;
    encode(panel->tile.value[row], WEFT_TILE, coding, fits ? out : whole);
    if (!fits)
        memcpy(out, whole, panel->tile.cols);
}

/* ---- cast: bf16 as it is or to fp16, if all of it is finite then ---- */

/* Rounded as round_e4m3 does, to ten bits of mantissa and exponents from 2^-14 on: 1024 codes for each exponent. */
INNER ints_t half_of(floats_t magnitude)
{
    ints_t exponent = ints_max(ints_and(bits_of(magnitude), ints_all(WEFT_F32_INF)), ints_all((127 - 14) << 23));
    floats_t power = floats_of(ints_add(exponent, ints_all(13 << 23)));
    ints_t ulps = ints_sub(bits_of(floats_add(magnitude, power)), bits_of(power));
    return ints_add(ulps, ints_sub(ints_right(exponent, 13), ints_all((127 - 14) << 10)));
}

INNER ints_t halves_of(ints_t values)
{
    ints_t magnitude = ints_and(values, shorts_all(0x7FFF));
    ints_t code = shorts_join(half_of(floats_low(magnitude)), half_of(floats_high(magnitude)));
    return ints_or(code, ints_and(values, shorts_all(INT16_MIN)));
}

/* copy_run, to fp16. */
INNER ints_t halve_run(const uint16_t *from, uint16_t *to, size_t count, ints_t most)
{
    for (size_t i = 0; i < count; i += 2 * LANES) {
        ints_t values = shorts_load(from + i);
        shorts_store(to + i, halves_of(values));
        most = shorts_max(most, ints_and(values, shorts_all(0x7FFF)));
    }
    return most;
}

/* The least bf16 that becomes NaN or Inf. */
static inline uint16_t cast_limit(const weft_quantize_unit_t *unit)
{
    return unit->out_dtype == WEFT_DTYPE_F16 ? WEFT_BF16_OVERFLOW : WEFT_BF16_INF;
}

static bool cast_panel(const weft_quantize_unit_t *unit, uint32_t col)
{
    panel_t panel;
    take_panel(unit, col, &panel);
    for (uint32_t row = 0; row < unit->rows; row++) {
        uint16_t *value = panel.tile.value[row];
        if (unit->out_dtype == WEFT_DTYPE_F16)
            (void)halve_run(value, value, WEFT_TILE, ints_all(0));
        memcpy((uint16_t *)unit->out + (size_t)row * unit->cols + col, value, panel.tile.cols * sizeof *value);
    }
    return panel.amax < cast_limit(unit);
}

static bool cast_panels(const weft_quantize_unit_t *unit, const weft_segment_t *s, uint32_t col,
                        uint32_t panels)
{
    ints_t most = ints_all(0);
    for (uint32_t row = 0; row < unit->rows; row++) {
        const uint16_t *from = (const uint16_t *)s->data + row * s->ld_elems + (col - s->col);
        uint16_t *to = (uint16_t *)unit->out + (size_t)row * unit->cols + col;
        most = unit->out_dtype == WEFT_DTYPE_F16 ? halve_run(from, to, panels * WEFT_TILE, most)
                                                 : copy_run(from, to, panels * WEFT_TILE, most);
    }
    return shorts_most(most) < cast_limit(unit);
}

/* To bf16, of fp32 too, and from bf16 to fp16. */
static bool casts(const weft_quantize_unit_t *unit)
{
    bool halves = unit->dtype == WEFT_DTYPE_BF16 && unit->out_dtype == WEFT_DTYPE_F16;
    return halves || (unit->dtype != WEFT_DTYPE_F16 && unit->out_dtype == WEFT_DTYPE_BF16);
}

static weft_status_t quantize_cast(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT || !casts(unit))
        return weft_ref_cast(unit, result);
    for (uint32_t col = 0, panels; col < unit->cols; col += panels * WEFT_TILE) {
        const weft_segment_t *holder = find_holder(unit, col);
        panels = holder ? (holder->col + holder->cols - col) / WEFT_TILE : 1;
        if (!(holder ? cast_panels(unit, holder, col, panels) : cast_panel(unit, col)))
            return weft_ref_cast(unit, result);
    }
    *result = (weft_quantize_result_t){0};
    return WEFT_OK;
}

/* ---- fp8-block ---- */

/* The largest code is that of the amax, so the second scale of `vllm-pow2` is known before any code is. */
static coding_t block_coding(weft_profile_t profile, float amax, float *scale)
{
    float first = weft_ref_block_scale(profile, amax);
    coding_t coding = {.factor = weft_block_factor(first)};
    *scale = first;
    if (profile == WEFT_PROFILE_VLLM_POW2) {
        uint8_t largest = weft_e4m3_from_f32(weft_mul(amax, coding.factor));
        *scale = weft_block_scale_pow2(weft_mul(weft_f32_from_e4m3(largest), first));
        coding.twice = true;
        coding.scale = first;
        coding.again = weft_block_factor(*scale);
    }
    return coding;
}

static bool block_panel(const weft_quantize_unit_t *unit, uint32_t col)
{
    panel_t panel;
    take_panel(unit, col, &panel);
    if (panel.amax >= WEFT_BF16_INF)
        return false;
    float scale;
    const coding_t coding = block_coding(unit->profile, weft_f32_from_bf16(panel.amax), &scale);
    weft_ref_put_block_scale(unit, col / WEFT_TILE, scale);
    for (uint32_t row = 0; row < unit->rows; row++)
        put_row(&panel, row, &coding, (uint8_t *)unit->out + (size_t)row * unit->cols + col);
    return true;
}

/* Whole blocks side by side, row by row: what lies together is read and written together. */
#define STRIP 32 /* blocks; their rows stay in a cache until they are looked at again */

static bool block_strip(const weft_quantize_unit_t *unit, const weft_segment_t *s, uint32_t col,
                        uint32_t blocks)
{
    ints_t most[STRIP];
    coding_t coding[STRIP];
    for (uint32_t b = 0; b < blocks; b++)
        most[b] = ints_all(0);
    for (uint32_t row = 0; row < unit->rows; row++) {
        const uint16_t *value = (const uint16_t *)s->data + row * s->ld_elems + (col - s->col);
        for (uint32_t b = 0; b < blocks; b++)
            most[b] = shorts_max(most[b], maxima_of(value + b * WEFT_TILE, WEFT_TILE));
    }
    for (uint32_t b = 0; b < blocks; b++) {
        uint16_t amax = shorts_most(most[b]);
        if (amax >= WEFT_BF16_INF)
            return false;
        float scale;
        coding[b] = block_coding(unit->profile, weft_f32_from_bf16(amax), &scale);
        weft_ref_put_block_scale(unit, col / WEFT_TILE + b, scale);
    }
    for (uint32_t row = 0; row < unit->rows; row++) {
        const uint16_t *value = (const uint16_t *)s->data + row * s->ld_elems + (col - s->col);
        uint8_t *out = (uint8_t *)unit->out + (size_t)row * unit->cols + col;
        for (uint32_t b = 0; b < blocks; b++)
            encode(value + b * WEFT_TILE, WEFT_TILE, &coding[b], out + b * WEFT_TILE);
    }
    return true;
}

static weft_status_t quantize_fp8_block(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!weft_tile_accepts(unit) || !weft_ref_block_profile(unit->profile) ||
        !weft_arrange_takes(unit->arrange, WEFT_KERNEL_FP8_BLOCK, unit->profile) ||
        weft_arrange_moves_codes(unit->arrange) || unit->out_dtype != WEFT_DTYPE_F8_E4M3 ||
        unit->dtype == WEFT_DTYPE_F16)
        return weft_ref_fp8_block(unit, result);
    for (uint32_t col = 0, blocks; col < unit->cols; col += blocks * WEFT_TILE) {
        const weft_segment_t *holder = find_holder(unit, col);
        uint32_t whole = holder ? (holder->col + holder->cols - col) / WEFT_TILE : 0;
        blocks = whole == 0 ? 1 : whole < STRIP ? whole : STRIP;
        if (!(holder ? block_strip(unit, holder, col, blocks) : block_panel(unit, col)))
            return weft_ref_fp8_block(unit, result);
    }
    *result = (weft_quantize_result_t){0};
    return WEFT_OK;
}

/* ---- fp8-channel ---- */

/* Where one segment holds the unit: row by row, each looked at twice while a cache has it. */
static bool channel_in_place(const weft_quantize_unit_t *unit, const weft_segment_t *s)
{
    uint32_t whole = unit->cols / WEFT_TILE * WEFT_TILE, rest = unit->cols - whole;
    float *scale = unit->scale;
    for (uint32_t row = 0; row < unit->rows; row++) {
        const uint16_t *value = (const uint16_t *)s->data + row * s->ld_elems;
        uint8_t codes[WEFT_TILE], *out = (uint8_t *)unit->out + (size_t)row * unit->cols;
        uint16_t last[WEFT_TILE], amax = most_of(value, whole);
        take_rest(value + whole, rest, last);
        uint16_t last_amax = most_of(last, WEFT_TILE);
        amax = last_amax > amax ? last_amax : amax;
        if (amax >= WEFT_BF16_INF)
            return false;
        amax = unit->row_amax ? unit->row_amax[row] : amax;
        scale[row] = weft_channel_scale(weft_f32_from_bf16(amax));
        const coding_t coding = {.divisor = scale[row]};
        encode(value, whole, &coding, out);
        encode(last, WEFT_TILE, &coding, codes);
        memcpy(out + whole, codes, rest);
    }
    return true;
}

static bool channel_by_panels(const weft_quantize_unit_t *unit)
{
    uint16_t found[WEFT_TILE] = {0}, most = 0;
    panel_t panel;
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        take_panel(unit, col, &panel);
        most = panel.amax > most ? panel.amax : most;
        for (uint32_t row = 0; row < unit->rows; row++) {
            uint16_t amax = most_of(panel.tile.value[row], WEFT_TILE);
            found[row] = amax > found[row] ? amax : found[row];
        }
    }
    if (most >= WEFT_BF16_INF)
        return false;
    const uint16_t *amax = unit->row_amax ? unit->row_amax : found;
    float *scale = unit->scale;
    for (uint32_t row = 0; row < unit->rows; row++)
        scale[row] = weft_channel_scale(weft_f32_from_bf16(amax[row]));
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        take_panel(unit, col, &panel);
        for (uint32_t row = 0; row < unit->rows; row++) {
            const coding_t coding = {.divisor = scale[row]};
            put_row(&panel, row, &coding, (uint8_t *)unit->out + (size_t)row * unit->cols + col);
        }
    }
    return true;
}

static weft_status_t quantize_fp8_channel(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    const weft_segment_t *s = unit->segments;
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT || unit->arrange ||
        unit->out_dtype != WEFT_DTYPE_F8_E4M3 || unit->dtype == WEFT_DTYPE_F16)
        return weft_ref_fp8_channel(unit, result);
    bool in_place = unit->num_segments == 1 && unit->dtype == WEFT_DTYPE_BF16 && s->data && !s->transposed;
    if (!(in_place ? channel_in_place(unit, s) : channel_by_panels(unit)))
        return weft_ref_fp8_channel(unit, result);
    *result = (weft_quantize_result_t){0};
    return WEFT_OK;
}

/* ---- digest ---- */

/* One of the two sums: a * i, b * i for the words i of the lanes, and their steps from turn to turn. */
typedef struct digest_lanes {
    ints_t a, b, a_step, b_step, sum;
} digest_lanes_t;

static inline digest_lanes_t digest_begin(uint32_t first, uint32_t a, uint32_t b)
{
    return (digest_lanes_t){words_steps(a * first, a), words_steps(b * first, b),
                            ints_all((int32_t)(a * (LANES / 2))), ints_all((int32_t)(b * (LANES / 2))),
                            ints_all(0)};
}

INNER void digest_add(digest_lanes_t *d, ints_t words)
{
    ints_t low = ints_add(words, d->a), high = ints_add(words_high(words), ints_or(d->b, ints_all(1)));
    d->sum = words_add(d->sum, words_product(low, high));
    d->a = ints_add(d->a, d->a_step);
    d->b = ints_add(d->b, d->b_step);
}

static void digest(const void *data, uint64_t begin, size_t bytes, weft_digest_t *sums)
{
    const size_t at_once = LANES / 2 * WEFT_DIGEST_WORD_BYTES, whole = bytes / at_once * at_once;
    const uint32_t first = (uint32_t)(begin / WEFT_DIGEST_WORD_BYTES);
    digest_lanes_t zero = digest_begin(first, WEFT_DIGEST_A0, WEFT_DIGEST_B0),
                   one = digest_begin(first, WEFT_DIGEST_A1, WEFT_DIGEST_B1);
    for (size_t i = 0; i < whole; i += at_once) {
        ints_t words = words_load((const char *)data + i);
        digest_add(&zero, words);
        digest_add(&one, words);
    }
    sums->word[0] += words_sum(zero.sum);
    sums->word[1] += words_sum(one.sum);
    weft_ref_digest((const char *)data + whole, begin + whole, bytes - whole, sums);
}

/* ---- The backend ---- */

#define SIMD_BACKEND(id, supported)                                                                          \
    static const weft_kernels_t id = {                                                                       \
        .name = #id,                                                                                         \
        .quantize = {WEFT_REF_ONLY, [WEFT_KERNEL_CAST] = quantize_cast,                                                     \
                     [WEFT_KERNEL_FP8_BLOCK] = quantize_fp8_block,                                           \
                     [WEFT_KERNEL_FP8_CHANNEL] = quantize_fp8_channel},                                      \
        .amax = find_amax,                                                                                   \
        .pack = weft_ref_pack,                                                                               \
        .digest = digest,                                                                                    \
    };                                                                                                       \
    const weft_kernels_t *weft_simd_##id(void)                                                               \
    {                                                                                                        \
        return supported ? &id : NULL;                                                                       \
    }
