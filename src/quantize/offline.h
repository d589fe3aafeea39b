/* The same bytes without a transport: quantize a checkpoint in files or memory into one rollout rank's range.
 */
#ifndef WEFT_QUANTIZE_OFFLINE_H
#define WEFT_QUANTIZE_OFFLINE_H

#include "src/quantize/quantizer.h"

/* Run all units of `program` reading the model's own bytes, and write the rank's outputs into `memory`
 * [outputs->bytes]. The model must have been opened from files.
 * **Returns** WEFT_OK with the model digest; WEFT_ERR_NONFINITE, WEFT_ERR_ARGUMENT (a model without bytes),
 * WEFT_ERR_NO_MEMORY. */
weft_status_t weft_quantize_offline(const weft_program_t *program, const weft_outputs_t *outputs,
                                    uint8_t *memory, weft_digest_t *digest, weft_error_t *error);

#endif
