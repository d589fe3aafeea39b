/* Models by their sizes alone: the exact shapes of real ones, without a checkpoint. */
#ifndef WEFT_LAUNCH_BENCH_MODEL_H
#define WEFT_LAUNCH_BENCH_MODEL_H

#include <weft/model.h>

/* Make a Qwen3 from "qwen3-8b", "qwen3-0.6b", "tiny", or a list such as "qwen3-8b,layers=4" of a name and
 * sizes that differ: layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, tied (0 or 1).
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT (what may be written), WEFT_ERR_NO_MEMORY. */
weft_status_t bench_model_create(const char *text, weft_model_t **model, weft_error_t *error);

/* Numbers of its largest tensor. */
uint64_t bench_model_largest(const weft_model_t *model);

#endif
