/* Moves: what is quantized already goes to its place as it is.
 *
 *     source and out   F8_E4M3, I8, U8, I32, ...: bytes as they are, whatever they stand for
 *
 * As many bytes read as written.
 */
#include <string.h>

#include "kernels/ref/ref.h"

bool weft_ref_moves(const weft_quantize_unit_t *unit)
{
    bool number = unit->dtype == WEFT_DTYPE_F32 || unit->dtype == WEFT_DTYPE_F16 ||
                  unit->dtype == WEFT_DTYPE_BF16 || unit->dtype == WEFT_DTYPE_F64;
    return !number && unit->dtype == unit->out_dtype;
}

static void move_segment(const weft_quantize_unit_t *unit, const weft_segment_t *s, size_t element)
{
    const size_t row_bytes = s->cols * element, ld_bytes = s->ld_elems * element;
    for (uint32_t row = 0; row < s->rows; row++) {
        uint8_t *out = (uint8_t *)unit->out + ((size_t)(s->row + row) * unit->cols + s->col) * element;
        if (s->data)
            memcpy(out, (const uint8_t *)s->data + row * ld_bytes, row_bytes);
        else
            memset(out, 0, row_bytes);
    }
}

weft_status_t weft_ref_move(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    for (uint32_t i = 0; i < unit->num_segments; i++)
        if (unit->segments[i].transposed)
            return WEFT_ERR_ARGUMENT;
    for (uint32_t i = 0; i < unit->num_segments; i++)
        move_segment(unit, &unit->segments[i], weft_dtype_bytes(unit->dtype));
    *result = (weft_quantize_result_t){0};
    return WEFT_OK;
}
