/* Schemes: what becomes of a layer that may be quantized, and by casts of any. One row a scheme; the arithmetic is a kernel's.
 *
 * To add a scheme: a row here, a kernel id with its format (`kernels/format.c`) and its function in `kernels/ref`.
 */
#ifndef WEFT_PLAN_SCHEME_H
#define WEFT_PLAN_SCHEME_H

#include "kernels/kernels.h"

/* Whose amax must be known before a unit can be quantized, where other ranks hold some of it. */
typedef enum weft_amax {
    WEFT_AMAX_NONE, /* of a block or group: a unit has it whole */
    WEFT_AMAX_ROW,  /* of a row: sent ahead where its columns are split */
    WEFT_AMAX_TENSOR, /* of a layer, of experts each, over all its parts and ranks: always sent ahead */
} weft_amax_t;

typedef struct weft_scheme {
    const char *name;
    weft_kernel_id_t kernel;
    weft_dtype_t dtype;       /* of the stored weight */
    const char *weight_suffix; /* what the weight's name adds to the layer's, such as "_packed"; NULL: nothing */
    const char *global_suffix; /* of a scale of the whole tensor, F32 [1], beside the others; NULL without one */
    const char *shape_suffix;  /* of the shape in elements, I64 [2]; NULL without one */
    const char *scale_suffix;  /* what the scale's name adds to the layer's; NULL without a scale */
    weft_amax_t amax;
    uint32_t profiles; /* bit set of weft_profile_t */
} weft_scheme_t;

/* Find a scheme by name; the message lists those there are. */
weft_status_t weft_scheme_find(const char *name, const weft_scheme_t **scheme, weft_error_t *error);

/* Find a profile of `scheme` by name; NULL is its default. */
weft_status_t weft_scheme_profile(const weft_scheme_t *scheme, const char *name, weft_profile_t *profile,
                                  weft_error_t *error);

const char *weft_profile_name(weft_profile_t profile);

/* Find an arrangement of the scheme's scales by name; the message lists those that it has under `profile`. */
weft_status_t weft_scheme_arrange(const weft_scheme_t *scheme, weft_profile_t profile, const char *name,
                                  weft_arrange_t *arrange, weft_error_t *error);

/* The scheme of layers that no entry of a map decides: the cast to bf16, where fp16 sources keep their type. */
const weft_scheme_t *weft_scheme_cast(void);

/* Whether it quantizes nothing: such a scheme is for every layer. */
static inline bool weft_scheme_is_cast(const weft_scheme_t *scheme)
{
    return scheme->kernel == WEFT_KERNEL_CAST;
}

/* What becomes of a layer that the checkpoint has quantized already: nothing. */
const weft_scheme_t *weft_scheme_moved(void);

#endif
