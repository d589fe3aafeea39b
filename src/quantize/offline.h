/* The same bytes without a transport: quantize a checkpoint in files or memory into one rollout rank's range.
 *
 *     weft_offline_create(program, outputs, values, &offline, &error);
 *     weft_offline_layer(offline, layer, memory, &error);                 each layer, on the host
 *     weft_offline_destroy(offline);
 */
#ifndef WEFT_QUANTIZE_OFFLINE_H
#define WEFT_QUANTIZE_OFFLINE_H

#include "src/quantize/quantizer.h"

typedef struct weft_offline weft_offline_t;

/* Read the tensors of `values`, a model opened from files that has what the plan's model has; only those, and of
 * those only the parts, that the program's rank needs.
 * **Returns** WEFT_OK; WEFT_ERR_MISSING_TENSOR, WEFT_ERR_SHAPE (or dtype), WEFT_ERR_ARGUMENT (a model without bytes),
 * WEFT_ERR_NO_MEMORY. **Ownership** all of it must outlive the object. */
weft_status_t weft_offline_create(const weft_program_t *program, const weft_outputs_t *outputs,
                                  const weft_model_t *values, weft_offline_t **offline, weft_error_t *error);
void weft_offline_destroy(weft_offline_t *offline);

/* Quantize one layer; `memory` is where its first output goes, in host memory. The others follow as in the range.
 * **Returns** WEFT_OK; WEFT_ERR_NONFINITE, WEFT_ERR_NO_MEMORY. **Threads** the same one for all layers. */
weft_status_t weft_offline_layer(weft_offline_t *offline, uint32_t layer, uint8_t *memory, weft_error_t *error);

/* Where a layer's outputs begin in the range, and how many bytes they span. */
uint64_t weft_offline_layer_offset(const weft_outputs_t *outputs, uint32_t layer);
uint64_t weft_offline_layer_bytes(const weft_outputs_t *outputs, uint32_t layer);

/* Run all units of `program` reading the model's own bytes, and write the rank's outputs into `memory`
 * [outputs->bytes]. The model must have been opened from files.
 * **Returns** WEFT_OK with the model digest; WEFT_ERR_NONFINITE, WEFT_ERR_ARGUMENT (a model without bytes),
 * WEFT_ERR_NO_MEMORY. */
weft_status_t weft_quantize_offline(const weft_program_t *program, const weft_outputs_t *outputs,
                                    uint8_t *memory, weft_digest_t *digest, weft_error_t *error);

#endif
