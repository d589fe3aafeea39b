/* The configuration of a quantized checkpoint: the source's config.json with a `quantization_config` at its end.
 *
 * fp8-block is what engines call `quant_method: fp8`; every other scheme is a format of compressed-tensors. Activations
 * are said to be quantized as they come (dynamically) where engines multiply in eight bits, and not at all where they
 * widen the weights.
 *
 * **Source** compressed-tensors 0.20.0, quantization/quant_config.py and quant_scheme.py; transformers 5.24,
 * FineGrainedFP8Config.
 */
#ifndef WEFT_QUANTIZE_CHECKPOINT_CONFIG_H
#define WEFT_QUANTIZE_CHECKPOINT_CONFIG_H

#include "src/base/text.h"
#include "src/plan/plan.h"

/* What quantizes the first layer that is quantized, and so all of a checkpoint that has a configuration (others are
 * refused as its tensors are listed, checkpoint_tensors.h); CAST where nothing is. */
weft_kernel_id_t weft_checkpoint_kernel(const weft_plan_t *plan);

/* Append the object to `text`; nothing for a plan that quantizes nothing. Modules whose matrices stay as they are, and
 * only those, are listed as ignored. */
void weft_checkpoint_config_add(const weft_plan_t *plan, weft_text_t *text);

/* Append `config`, the text of a config.json that was read before, and the object in it.
 * **Returns** WEFT_OK; WEFT_ERR_FILE where there is one already. */
weft_status_t weft_checkpoint_config_merge(const weft_plan_t *plan, const char *config, weft_text_t *text,
                                           weft_error_t *error);

#endif
