/* A tile: 128 columns of a unit, gathered from whatever segments hold them, so that the operations see one
 * small array and never a segment.
 *
 *       unit, up to 128 rows             tile                        the operation
 *     +------+---------+-----+         +--------+--+ 128 rows
 *     | seg 0| seg 1   | s2  |  ====>  | values |00|         ====>   amax, then codes, row by row,
 *     |  +---+-----+---+     |         |        |00|                 always 128 wide
 *     +--+---------+---+-----+         +--------+--+ 128 columns
 *        ^ col          ^ col + cols
 *
 * A value is 16 bits: bf16, or fp16 where the source is fp16. An fp32 source has been rounded to bf16 here,
 * so that one that rounds to Inf counts as Inf. Values right of the unit's last column are zero; rows below
 * it are not touched.
 */
#ifndef WEFT_KERNELS_REF_TILE_H
#define WEFT_KERNELS_REF_TILE_H

#include "kernels/kernels.h"

#define WEFT_TILE 128

typedef struct weft_tile {
    weft_dtype_t dtype; /* of the source */
    uint32_t rows;      /* of the unit */
    uint32_t col, cols; /* the columns of the unit that lie here */
    uint16_t value[WEFT_TILE][WEFT_TILE];
} weft_tile_t;

/* Whether `unit` is one that kernels of 128 rows can work on: size and source dtype. */
bool weft_tile_accepts(const weft_quantize_unit_t *unit);

/* Fill `tile` with the columns of `unit` from `col` on. */
void weft_tile_gather(const weft_quantize_unit_t *unit, uint32_t col, weft_tile_t *tile);

/* Return max(|x|) over the finite values of one row, as value bits, and note the row's first NaN or Inf in
 * `result` if it comes before the one that is there. */
uint16_t weft_tile_row_amax(const weft_tile_t *tile, uint32_t row, weft_quantize_result_t *result);

/* Fold the amax of every row of the unit into `amax`, and note its first NaN or Inf. */
void weft_tile_rows_amax(const weft_quantize_unit_t *unit, uint16_t amax[WEFT_TILE],
                         weft_quantize_result_t *result);

/* The amax of the whole tensor that the unit is part of: as sent ahead, else that of the unit, whose first NaN or Inf is
 * noted either way. */
float weft_tile_tensor_amax(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);

/* Convert one row to fp32, exactly. */
void weft_tile_row_f32(const weft_tile_t *tile, uint32_t row, float x[WEFT_TILE]);

/* ---- Values, without a tile ---- */

/* Load `count` elements of the source as values. */
void weft_values_load(weft_dtype_t dtype, const void *data, size_t count, uint16_t *value);

/* Return max(|x|) of 128 values as bits: at or above weft_values_inf where one is not finite. */
uint16_t weft_values_max(const uint16_t value[WEFT_TILE]);

/* Return the same over the finite ones only, and the place of the first that is not finite, 128 if there is
 * none. */
uint16_t weft_values_finite_max(weft_dtype_t dtype, const uint16_t value[WEFT_TILE], uint32_t *first);

/* The bits of Inf, and one value as fp32, for sources of `dtype`. */
uint16_t weft_values_inf(weft_dtype_t dtype);
float weft_value_f32(weft_dtype_t dtype, uint16_t value);

#endif
