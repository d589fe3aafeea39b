/* What the folder knows of a model beyond <weft/model.h>: where its bytes come from, and positions of
 * tensors. */
#ifndef WEFT_MODEL_MODEL_PRIVATE_H
#define WEFT_MODEL_MODEL_PRIVATE_H

#include <weft/model.h>

#include "src/model/recipe_file.h"
#include "src/model/safetensors.h"

/* Begin an empty model; `config` is taken over, also when this fails. */
weft_status_t weft_model_create_from(weft_config_t *config, weft_model_t **model, weft_error_t *error);

/* Add a copy of `tensor` (the name too); WEFT_ERR_ARGUMENT when the name is there already. */
weft_status_t weft_model_add_tensor(weft_model_t *model, const weft_tensor_t *tensor, weft_error_t *error);

/* Keep a file open as long as the model; false, and still the caller's, when memory ran out. */
bool weft_model_keep_file(weft_model_t *model, weft_safetensors_t *file);

/* Return the position of a tensor in byte order of name; WEFT_NAMES_NONE when there is none of that name. */
uint32_t weft_model_index(const weft_model_t *model, const char *name);

const weft_config_t *weft_model_config(const weft_model_t *model);

/* The recipe that weft_model_set_recipe gave it; NULL: the one its model_type names. */
const weft_recipe_t *weft_model_recipe(const weft_model_t *model);

/* Let a model without one use what `owner` was given, which must outlive it. */
void weft_model_lend_recipe(weft_model_t *model, const weft_model_t *owner);

#endif
