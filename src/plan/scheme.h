/* Schemes: what becomes of a layer that may be quantized. One row a scheme; the arithmetic is a kernel's.
 *
 * To add a scheme: a row here, a kernel id and its function in `kernels/`.
 */
#ifndef WEFT_PLAN_SCHEME_H
#define WEFT_PLAN_SCHEME_H

#include "kernels/kernels.h"

typedef enum weft_scale_shape {
    WEFT_SCALE_NONE,
    WEFT_SCALE_BLOCK, /* [ceil(N / block), ceil(K / block)] */
    WEFT_SCALE_ROW,   /* [N, 1] */
} weft_scale_shape_t;

typedef struct weft_scheme {
    const char *name;
    weft_kernel_id_t kernel;
    weft_dtype_t dtype;       /* of the stored weight */
    weft_scale_shape_t scale; /* shape of the scale, F32 */
    const char *scale_suffix; /* what the scale's name adds to the weight's; NULL without a scale */
    uint32_t block;           /* cuts between ranks and parts fall on multiples of it; 1: anywhere */
    bool row_amax;            /* a scale spans a whole row: when K is split its amax is sent ahead */
    uint32_t profiles;        /* bit set of weft_profile_t */
} weft_scheme_t;

/* Find a scheme by name; the message lists those there are. */
weft_status_t weft_scheme_find(const char *name, const weft_scheme_t **scheme, weft_error_t *error);

/* Find a profile of `scheme` by name; NULL is its default. */
weft_status_t weft_scheme_profile(const weft_scheme_t *scheme, const char *name, weft_profile_t *profile,
                                  weft_error_t *error);

const char *weft_profile_name(weft_profile_t profile);

/* The scheme of layers that are never quantized: a cast to bf16, where fp16 sources keep their type unless
 * the whole update is `bf16`. */
const weft_scheme_t *weft_scheme_cast(void);

#endif
