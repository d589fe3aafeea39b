/* The quantizer: complete units, from wherever their fragments lie, straight into their places in the stage;
 * and the digests of what was written.
 *
 *     weft_quantizer_create(program, outputs, queue, stage, &quantizer);
 *     weft_quantizer_prepare(quantizer, &sources, &error);         once where the fragments are is known
 *     weft_quantizer_begin(quantizer);                             a version
 *     weft_quantizer_run(quantizer, first, count, &error);         units that are complete, in any order
 *     weft_quantizer_layer_done(quantizer, layer);                 all units of a layer have been run
 *     weft_quantizer_end(quantizer);                               all layers
 *     ... a ticket of the queue later ...
 *     weft_quantizer_judge(quantizer, &error);  weft_quantizer_model_digest(quantizer);
 */
#ifndef WEFT_QUANTIZE_QUANTIZER_H
#define WEFT_QUANTIZE_QUANTIZER_H

#include "src/plan/program.h"
#include "src/quantize/carry.h"

typedef struct weft_quantizer weft_quantizer_t;

/* Where things are when a unit is quantized. */
typedef struct weft_sources {
    /* The elements of a data fragment, and how far apart its rows. */
    const void *(*locate)(void *user, const weft_fragment_t *fragment, size_t *ld_elems);
    /* The amax that was sent ahead, of each of a unit's rows or of its domain; asked for units that have one only. */
    const uint16_t *(*amax)(void *user, uint32_t unit);
    void *user;
} weft_sources_t;

/* Make a quantizer for the units of `program`, which writes to `stage` [outputs->bytes], memory of `queue`.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_quantizer_create(const weft_program_t *program, const weft_outputs_t *outputs,
                                    weft_queue_t *queue, uint8_t *stage, weft_quantizer_t **quantizer);
void weft_quantizer_destroy(weft_quantizer_t *quantizer);

/* Write elsewhere from the next prepare on: `stage` then holds bytes [begin, ...) of the range alone. */
void weft_quantizer_aim(weft_quantizer_t *quantizer, uint8_t *stage, uint64_t begin);

/* Look all sources up and list all units; again when they have moved. Nothing may be in flight. Blocks.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY, WEFT_ERR_ARGUMENT (a unit that the kernels do not take). */
weft_status_t weft_quantizer_prepare(weft_quantizer_t *quantizer, const weft_sources_t *sources,
                                     weft_error_t *error);

/* The same for units [first, first + count) alone, which may then be run, by the numbers they have. Digests
 * are only to be had of a list of all units, or of none: then of what the stage holds. */
weft_status_t weft_quantizer_prepare_some(weft_quantizer_t *quantizer, uint32_t first, uint32_t count,
                                          const weft_sources_t *sources, weft_error_t *error);

/* Forget what was found in an earlier version. */
weft_status_t weft_quantizer_begin(weft_quantizer_t *quantizer);

/* Start units [first, first + count). **Returns** WEFT_OK, WEFT_ERR_ARGUMENT naming the layer,
 * WEFT_ERR_SYSTEM. */
weft_status_t weft_quantizer_run(weft_quantizer_t *quantizer, uint32_t first, uint32_t count,
                                 weft_error_t *error);

/* (creation) Write what no kernel writes, which never changes: the shapes of matrices and the padding between scales, where
 * there are such. Of all layers, in a range laid out like the stage: once in each memory that can become live. */
weft_status_t weft_quantizer_fill_constants(weft_quantizer_t *quantizer, uint8_t *range);

/* The same of one layer, in the stage: its padding before its units are run (its scales are zeros from then on), its shapes
 * before or after. */
weft_status_t weft_quantizer_clear_padding(weft_quantizer_t *quantizer, uint32_t layer);
weft_status_t weft_quantizer_put_shapes(weft_quantizer_t *quantizer, uint32_t layer);

/* A layer's units have all been run: start the digests of its outputs, where the queue wants them early. */
weft_status_t weft_quantizer_layer_done(weft_quantizer_t *quantizer, uint32_t layer);

/* All layers have: start the digests that are not started. */
weft_status_t weft_quantizer_end(weft_quantizer_t *quantizer);

/* What was found, once the work is done: after end, or on a synchronous queue at any time.
 * **Returns** WEFT_OK; WEFT_ERR_NONFINITE naming tensor and flat index of a first NaN or Inf. */
weft_status_t weft_quantizer_judge(weft_quantizer_t *quantizer, weft_error_t *error);

/* The digest of the whole model: XXH3-128 over (name, digest) pairs in byte order of name. Outputs that were
 * carried over (NULL: none) have the digests that the carry found. */
weft_digest_t weft_quantizer_model_digest(weft_quantizer_t *quantizer, const weft_carry_t *carry);

/* The same of digests [outputs->count] that were found elsewhere. */
weft_digest_t weft_quantizer_combine(weft_quantizer_t *quantizer, const weft_digest_t *digests);

/* The digest of one output. Both are valid once the work behind end is done. */
weft_digest_t weft_quantizer_output_digest(const weft_quantizer_t *quantizer, uint32_t output);

#endif
