#include "launch/decoder/matrix.h"

static uint32_t blocks_of(uint32_t elems, uint32_t each)
{
    return each == DECODER_WHOLE ? 1 : (elems + each - 1) / each;
}

void decoder_scale_extent(const decoder_scaling_t *scaling, uint32_t rows, uint32_t cols, uint32_t extent[2])
{
    extent[0] = blocks_of(rows, scaling->rows);
    extent[1] = blocks_of(cols, scaling->cols);
}

decoder_matrix_t decoder_matrix(decoder_format_id_t id, uint32_t rows, uint32_t cols, const void *data,
                                const void *scale, const float *global)
{
    const decoder_format_t *format = &decoder_formats[id];
    uint32_t extent[2];
    decoder_scale_extent(&format->scaling, rows, cols, extent);
    return (decoder_matrix_t){.data = data,
                              .scale = scale,
                              .global = global,
                              .format = id,
                              .rows = rows,
                              .cols = cols,
                              .bytes = (size_t)rows * cols * format->bits / 8,
                              .scale_bytes =
                                  (size_t)extent[0] * extent[1] * weft_dtype_bytes(format->scaling.dtype)};
}
