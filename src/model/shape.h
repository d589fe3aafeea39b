/* What a shape comes to in bytes, and how it is written in a message. */
#ifndef WEFT_MODEL_SHAPE_H
#define WEFT_MODEL_SHAPE_H

#include <weft/types.h>

#define WEFT_SHAPE_TEXT_BYTES 96

/* Multiply out the bytes of a tensor; false, and *bytes untouched, when they exceed 64 bits. */
bool weft_shape_bytes(weft_dtype_t dtype, const uint64_t *shape, uint32_t num_dims, uint64_t *bytes);

/* Write "[512, 256]" into `out`, and return it. `num_dims` is at most WEFT_MAX_DIMS. */
const char *weft_shape_text(const uint64_t *shape, uint32_t num_dims, char out[WEFT_SHAPE_TEXT_BYTES]);

#endif
