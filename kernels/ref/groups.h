/* Units whose rows are cut into groups of a few elements, each with a scale: the loop that mx, int4-group and nvfp4
 * share.
 *
 *     row of the unit   | group 0 | group 1 | group 2 | ...       scales   [rows, cols / group]
 *                          amax ---> scale ---> codes             codes    of one group lie together
 */
#ifndef WEFT_KERNELS_REF_GROUPS_H
#define WEFT_KERNELS_REF_GROUPS_H

#include "kernels/format.h"
#include "kernels/ref/tile.h"

/* One group: its elements, their amax over the finite ones, and where its scale and codes go. */
typedef struct weft_group {
    const weft_quantize_unit_t *unit;
    const void *domain; /* what the kernel knows of the whole tensor */
    uint32_t size;
    float x[WEFT_TILE];
    float amax;
    void *scale;
    uint8_t *out;
} weft_group_t;

typedef void (*weft_group_fn)(const weft_group_t *group);

/* Call `encode` for every group of the unit and note its first NaN or Inf.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (size or dtype of the unit, columns that are not whole groups). */
weft_status_t weft_groups_encode(weft_kernel_id_t kernel, const weft_quantize_unit_t *unit, const void *domain,
                                 weft_group_fn encode, weft_quantize_result_t *result);

#endif
