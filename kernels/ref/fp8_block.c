/* fp8-block: one scale for 128 x 128 elements.
 *
 *     unit: one row of blocks                      scale[0] scale[1] scale[2]
 *     +--------+--------+---+                      +--------+--------+---+
 *     |  128   |  128   | r |  up to 128 rows ===> | codes  | codes  |   |  rows x cols bytes
 *     +--------+--------+---+                      +--------+--------+---+
 *
 * A ragged block uses its real elements only; zeros around them change no maximum. A block of zeros keeps its
 * signs: its scale is that of the floor, 1e-4, and 0 times anything finite is 0.
 *
 * 2 bytes read, 1 written, an element (and 4 bytes a block).
 */
#include "kernels/arith.h"
#include "kernels/arrange.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

#define NUM_CODES 256

static float tile_amax(const weft_tile_t *tile, weft_quantize_result_t *result)
{
    uint16_t amax = 0;
    for (uint32_t row = 0; row < tile->rows; row++) {
        uint16_t row_amax = weft_tile_row_amax(tile, row, result);
        amax = row_amax > amax ? row_amax : amax;
    }
    return weft_value_f32(tile->dtype, amax);
}

float weft_ref_block_scale(weft_profile_t profile, float amax)
{
    switch (profile) {
    case WEFT_PROFILE_VLLM:
    case WEFT_PROFILE_VLLM_POW2:
        return weft_block_scale_vllm(amax);
    case WEFT_PROFILE_POW2:
        return weft_block_scale_pow2(amax);
    default:
        return weft_block_scale_ieee(amax);
    }
}

/* The codes of a tile. */
typedef uint8_t codes_t[WEFT_TILE][WEFT_TILE];

static void encode_tile(const weft_tile_t *tile, float factor, codes_t codes)
{
    for (uint32_t row = 0; row < tile->rows; row++) {
        float x[WEFT_TILE];
        weft_tile_row_f32(tile, row, x);
        for (int i = 0; i < WEFT_TILE; i++)
            codes[row][i] = weft_e4m3_from_f32(weft_mul(x[i], factor));
    }
}

/* The largest finite |code| of a block. */
static uint8_t max_code(codes_t codes, uint32_t rows, uint32_t cols)
{
    uint8_t max = 0;
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t col = 0; col < cols; col++) {
            uint8_t code = codes[row][col] & WEFT_E4M3_NAN;
            max = code != WEFT_E4M3_NAN && code > max ? code : max;
        }
    }
    return max;
}

/* Second pass of `vllm-pow2`, in place; returns the new scale. What a code stands for is rounded under one
 * scale for the whole block, so the largest code gives the amax, and 256 results say all there is to know. */
static float recode_block(codes_t codes, uint32_t rows, uint32_t cols, float scale)
{
    float amax = weft_mul(weft_f32_from_e4m3(max_code(codes, rows, cols)), scale);
    float pow2 = weft_block_scale_pow2(amax), factor = weft_block_factor(pow2);
    uint8_t recoded[NUM_CODES];
    for (int code = 0; code < NUM_CODES; code++)
        recoded[code] = weft_block_recode((uint8_t)code, scale, factor);
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t col = 0; col < cols; col++)
            codes[row][col] = recoded[codes[row][col]];
    }
    return pow2;
}

void weft_ref_put_block_scale(const weft_quantize_unit_t *unit, uint32_t block, float scale)
{
    const uint32_t blocks = unit->matrix_cols / WEFT_TILE; /* of marlin */
    const bool deepgemm = unit->arrange == WEFT_ARRANGE_DEEPGEMM;
    if (!deepgemm && unit->arrange != WEFT_ARRANGE_MARLIN) {
        ((float *)unit->scale)[block] = scale;
        return;
    }
    for (uint32_t row = 0; row < unit->rows; row++) {
        const uint64_t index =
            weft_arrange_index(unit->arrange, unit->matrix_row + row, block, unit->matrix_rows, blocks);
        if (deepgemm)
            ((uint8_t *)unit->scale)[index] = (uint8_t)(weft_f32_bits(scale) >> 23);
        else
            ((uint16_t *)unit->scale)[index] = weft_marlin_scale(unit->out_dtype, scale);
    }
}

static void quantize_tile(const weft_tile_t *tile, const weft_quantize_unit_t *unit,
                          weft_quantize_result_t *result)
{
    codes_t codes;
    float scale = weft_ref_block_scale(unit->profile, tile_amax(tile, result));
    encode_tile(tile, weft_block_factor(scale), codes);
    if (unit->profile == WEFT_PROFILE_VLLM_POW2)
        scale = recode_block(codes, tile->rows, tile->cols, scale);
    for (uint32_t row = 0; row < tile->rows; row++)
        weft_ref_put_codes(unit, row, tile->col, codes[row], tile->cols);
    weft_ref_put_block_scale(unit, tile->col / WEFT_TILE, scale);
}

weft_status_t weft_ref_fp8_block(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!weft_tile_accepts(unit) || !weft_ref_block_profile(unit->profile))
        return WEFT_ERR_ARGUMENT;
    if (unit->out_dtype != WEFT_DTYPE_F8_E4M3 || !weft_arrange_takes_unit(WEFT_KERNEL_FP8_BLOCK, unit))
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        quantize_tile(&tile, unit, &found);
    }
    *result = found;
    return WEFT_OK;
}
