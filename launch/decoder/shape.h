/* What a rank's decoder is made of: the sizes that the model's configuration and the rank's place among the
 * tensor parallel ranks say. Counts are this rank's share unless they say "whole". */
#ifndef WEFT_LAUNCH_DECODER_SHAPE_H
#define WEFT_LAUNCH_DECODER_SHAPE_H

#include "launch/decoder/decoder.h"

typedef struct decoder_shape {
    uint32_t vocab, hidden, blocks;   /* whole */
    uint32_t vocab_begin, vocab_rows; /* rows of the padded vocabulary held here: [begin, begin + rows) */
    uint32_t head_dim, heads, kv_heads;
    uint32_t mlp_width;
    uint32_t experts, experts_active; /* whole; 0 experts: a dense model */
    uint32_t experts_begin, experts_held, expert_width;
    bool qk_norm;   /* Qwen3 norms each head of q and k */
    bool norm_topk; /* the weights of the active experts are scaled to sum to 1 */
    bool tied;      /* without an lm_head the embedding is the head */
    float norm_eps, rope_theta;
} decoder_shape_t;

/* Read the configuration and divide it over the ranks.
 * **Returns** WEFT_OK; WEFT_ERR_UNSUPPORTED (an architecture or a RoPE scaling the decoder has not),
 * WEFT_ERR_FILE (a size that is missing or absurd), WEFT_ERR_MISFIT (heads or widths that do not divide by
 * tp_size). */
weft_status_t decoder_shape_read(const decoder_config_t *config, decoder_shape_t *shape, weft_error_t *error);

#endif
