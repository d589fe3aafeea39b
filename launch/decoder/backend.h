/* Where a decoder's arithmetic runs: one row of entries for the host's cores, one for a GPU.
 *
 * decoder.c checks arguments and knows the position; a backend does the work. decoder->run.position counts
 * the tokens taken, and every entry that takes one raises it. What an entry returns, its function in
 * decoder.h says.
 */
#ifndef WEFT_LAUNCH_DECODER_BACKEND_H
#define WEFT_LAUNCH_DECODER_BACKEND_H

#include "launch/decoder/decoder.h"

typedef struct decoder_backend {
    const char *name; /* decoder_config_t.device */

    /* Make what steps need; the decoder has its configuration, shape and weights. */
    weft_status_t (*create)(decoder_t *decoder, weft_error_t *error);
    /* Undo create, also one that failed half way. */
    void (*destroy)(decoder_t *decoder);
    void *(*stream)(const decoder_t *decoder);

    weft_status_t (*step_start)(decoder_t *decoder, uint32_t token);
    weft_status_t (*step_next)(decoder_t *decoder);
    weft_status_t (*step_finish)(decoder_t *decoder, float *logits);
    weft_status_t (*tokens)(decoder_t *decoder, uint32_t *tokens, uint32_t count);

    weft_status_t (*score)(decoder_t *decoder, const uint8_t *text, size_t bytes, uint32_t window,
                           double *bits_per_byte);
} decoder_backend_t;

extern const decoder_backend_t decoder_host_backend;
extern const decoder_backend_t decoder_cuda_backend; /* in builds with CUDA */

#endif
