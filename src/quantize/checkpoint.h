/* A quantized checkpoint that engines load by themselves: what `weft quantize --format checkpoint` writes.
 *
 *     OUT/config.json                          the source's, with quantization_config
 *         model.safetensors.index.json
 *         model-00001-of-00002.safetensors     tensors under the checkpoint's own names
 *         model-00002-of-00002.safetensors
 *         tokenizer.json ...                   copied
 *
 * docs/formats.md lists the tensors of each scheme.
 */
#ifndef WEFT_QUANTIZE_CHECKPOINT_H
#define WEFT_QUANTIZE_CHECKPOINT_H

#include "src/plan/program.h"

typedef struct weft_checkpoint_written {
    uint32_t num_files;
    size_t num_tensors;
    uint64_t bytes;
    uint32_t num_left_out; /* tensors of the source that its recipe ignores */
} weft_checkpoint_written_t;

/* Quantize the model of `program`, which was opened from the folder `source`, into a new folder `out`. Layer by layer:
 * the memory it takes is that of the largest layer. Files have at most `shard_bytes`, unless one module has more.
 * The program is that of the only rollout rank of a plan for tp:1, and `outputs` are its.
 * **Returns** WEFT_OK; what weft_checkpoint_tensors_create returns; WEFT_ERR_FILE (a configuration that is quantized
 * already); WEFT_ERR_NONFINITE; WEFT_ERR_IO (`out` exists); WEFT_ERR_ARGUMENT (another plan); WEFT_ERR_NO_MEMORY. On
 * failure nothing is left of it. */
weft_status_t weft_checkpoint_write(const weft_program_t *program, const weft_outputs_t *outputs, const char *source,
                                    const char *out, uint64_t shard_bytes, weft_checkpoint_written_t *written,
                                    weft_error_t *error);

#endif
