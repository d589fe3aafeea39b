/* Tensor parallel ranks as threads of this process. */
#ifndef WEFT_TESTS_DECODER_GROUP_H
#define WEFT_TESTS_DECODER_GROUP_H

#include "launch/decoder/decoder.h"

#define GROUP_MAX 4

/* What a rank's thread does; `config` lacks nothing. cmocka's asserts must not run in it: report through
 * `user`. */
typedef void (*group_fn)(const decoder_config_t *config, void *user);

typedef struct group_spec {
    const weft_model_t *model;  /* the checkpoint */
    const weft_model_t *config; /* whose configuration the decoders read; NULL: the checkpoint's */
    uint32_t ranks;
    bool expert_parallel;
    uint32_t vocab; /* rows of the vocabulary kept; 0: all */
    const char
        *files; /* where each rank reads its weights, rank{r}.safetensors; NULL: cut from the checkpoint */
} group_spec_t;

/* Run `fn` once for each rank, users[r] with rank r, and wait for them. */
void group_run(const group_spec_t *spec, group_fn fn, void *users[]);

#endif
