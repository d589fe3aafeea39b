/* Configurations of published models, as far as they say what tensors there are. */
#ifndef WEFT_LAUNCH_GEN_MODELS_H
#define WEFT_LAUNCH_GEN_MODELS_H

#include <stdbool.h>

typedef struct gen_model {
    const char *name;
    const char *config; /* JSON */
    bool ships_head;    /* a tied model whose checkpoint holds lm_head all the same */
} gen_model_t;

/* NULL when there is none of that name. */
const gen_model_t *gen_model_find(const char *name);

/* The i-th; NULL behind the last. */
const gen_model_t *gen_model_at(unsigned index);

#endif
