#include "src/model/shape.h"

#include <inttypes.h>
#include <stdio.h>

bool weft_shape_bytes(weft_dtype_t dtype, const uint64_t *shape, uint32_t num_dims, uint64_t *bytes)
{
    uint64_t product = weft_dtype_bytes(dtype);
    for (uint32_t i = 0; i < num_dims; i++) {
        if (__builtin_mul_overflow(product, shape[i], &product))
            return false;
    }
    *bytes = product;
    return true;
}

const char *weft_shape_text(const uint64_t *shape, uint32_t num_dims, char out[WEFT_SHAPE_TEXT_BYTES])
{
    int used = snprintf(out, WEFT_SHAPE_TEXT_BYTES, "[");
    for (uint32_t i = 0; i < num_dims; i++)
        used +=
            snprintf(out + used, WEFT_SHAPE_TEXT_BYTES - (size_t)used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    snprintf(out + used, WEFT_SHAPE_TEXT_BYTES - (size_t)used, "]");
    return out;
}
