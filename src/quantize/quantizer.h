/* The quantizer: one complete unit, from wherever its fragments lie, straight into its place in the stage;
 * and the digests of what was written. */
#ifndef WEFT_QUANTIZE_QUANTIZER_H
#define WEFT_QUANTIZE_QUANTIZER_H

#include "src/plan/program.h"

/* Where the elements of a data fragment are, and how far apart its rows. Called for each fragment of a unit.
 */
typedef const void *(*weft_locate_fn)(void *user, const weft_fragment_t *fragment, size_t *ld_elems);

typedef struct weft_quantizer weft_quantizer_t;

/* Make a quantizer for the units of `program`. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_quantizer_create(const weft_program_t *program, const weft_outputs_t *outputs,
                                    const weft_kernels_t *kernels, weft_quantizer_t **quantizer);
void weft_quantizer_destroy(weft_quantizer_t *quantizer);

/* Quantize `unit` into `stage`. `row_amax` is the unit's, or NULL.
 * **Returns** WEFT_OK; WEFT_ERR_NONFINITE naming tensor and flat index of the first NaN or Inf;
 * WEFT_ERR_ARGUMENT. */
weft_status_t weft_quantizer_run(weft_quantizer_t *quantizer, uint32_t unit, const uint16_t *row_amax,
                                 weft_locate_fn locate, void *user, uint8_t *stage, weft_error_t *error);

/* A layer's units are all written: take the digests of its outputs. */
void weft_quantizer_layer_done(weft_quantizer_t *quantizer, uint32_t layer, const uint8_t *stage);

/* The digest of the whole model: XXH3-128 over (name, digest) pairs in byte order of name. */
weft_digest_t weft_quantizer_model_digest(weft_quantizer_t *quantizer);

/* The digest of one output, valid after its layer was done. */
weft_digest_t weft_quantizer_output_digest(const weft_quantizer_t *quantizer, uint32_t output);

#endif
