/* Patterns: the fragments of one layer, computed once for all layers that are alike.
 *
 * Layers with equal parts (shape, dtype, split), equal placement, equal scheme and profile differ only in which
 * tensors they name, so intersections, proof and hash are per pattern; a model of 100,000 tensors has about
 * ten. */
#ifndef WEFT_PLAN_PATTERN_H
#define WEFT_PLAN_PATTERN_H

#include "src/plan/holdings.h"
#include "src/plan/placement.h"
#include "src/plan/scheme_map.h"
#include "src/plan/sets.h"

#define WEFT_UNIT_ROWS 128u

/* In the place of a set: each TP rank for itself, because each holds another expert. */
#define WEFT_SET_EACH UINT32_MAX

/* A piece of a tensor that goes from one holder of a box to a set. */
typedef struct weft_fragment_pattern {
    uint32_t set; /* index, or WEFT_SET_EACH */
    uint32_t box; /* index in the part's placement: any of its holders may send it */
    weft_rect_t rect;
    uint32_t to_row, to_col; /* of the unit */
} weft_fragment_pattern_t;

typedef struct weft_unit_pattern {
    uint32_t rows; /* in kernel format, padding included */
    uint32_t first_fragment, num_fragments;
    uint32_t first_amax, num_amax; /* rect: the rows asked for and the columns the holder has; of a domain, its share */
    uint64_t staged_bytes; /* of the data on the rank that needs most, each fragment rounded up to 256 */
    uint64_t amax_bytes;   /* the same of the amax vectors */
} weft_unit_pattern_t;

typedef struct weft_part_pattern {
    weft_placement_t placement;
    uint32_t rows, cols; /* of a rank, in kernel format */
    uint32_t row_offset; /* of the part within the layer's matrix on a rank */
    uint32_t col_offset; /* of a vector, whose parts lie beside each other; else 0 */
    uint32_t num_units;
    weft_unit_pattern_t *units;
    weft_fragment_pattern_t *fragments;
    uint32_t num_fragments;
} weft_part_pattern_t;

typedef struct weft_pattern {
    const weft_layer_t *example;
    const weft_scheme_t *scheme;
    weft_profile_t profile;
    weft_arrange_t arrange; /* of the scales */
    weft_dtype_t dtype; /* of the kernel-format weight */
    bool whole;         /* experts under ep: each TP rank has its own, uncut */
    bool amax_ahead;    /* row amax vectors travel before the data */
    uint64_t domain_amax_bytes; /* of all units; 0 where each unit's maxima are for it alone */
    uint32_t num_parts;
    weft_part_pattern_t parts[WEFT_MAX_PARTS];
    uint32_t rows, cols; /* the layer's matrix on a rank (of one expert) */
    uint32_t num_layers; /* how many layers share it */
} weft_pattern_t;

/* Compute the fragments of `layer`, whose entry in `map` is `entry`. `holdings` is NULL where the trainer layout is made of axes. `sets` is added to.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. The layer must fit (misfit.h). */
weft_status_t weft_pattern_create(const weft_layer_t *layer, const weft_scheme_map_t *map, const weft_scheme_entry_t *entry, const weft_layout_t *trainer,
                                  const weft_holdings_t *holdings, const weft_layout_t *rollout, weft_sets_t *sets, weft_pattern_t *pattern);
void weft_pattern_destroy(weft_pattern_t *pattern);

/* Whether two layers may share a pattern. */
bool weft_layers_alike(const weft_layer_t *a, const weft_layer_t *b);

/* Prove it: the units of each part tile the kernel-format rows, and on every TP rank the fragments of a unit
 * and its padding cover it once.
 * **Returns** WEFT_OK; WEFT_ERR_INTERNAL and what is wrong in `reason`; WEFT_ERR_NO_MEMORY. */
weft_status_t weft_pattern_prove(const weft_pattern_t *pattern, const weft_layout_t *rollout, const weft_sets_t *sets,
                        char reason[256]);

#endif
