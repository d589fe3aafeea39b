/* Recipes of users, from a JSON file: the same rows as the tables of recipe_<family>.c, with extents written
 * as expressions over the configuration. docs/recipes.md describes the file.
 *
 *     {"layer": "model.layers.{L}.mlp.down_proj", "quantize": true,
 *      "parts": [{"tensor": "model.layers.{L}.mlp.down_proj", "split": "cols", "shape": ["hidden_size",
 * "intermediate_size"]}]}
 */
#ifndef WEFT_MODEL_RECIPE_FILE_H
#define WEFT_MODEL_RECIPE_FILE_H

#include "src/model/recipe.h"

typedef struct weft_recipe_file weft_recipe_file_t;

/* Read a recipe.
 * **Returns** WEFT_OK; WEFT_ERR_IO, WEFT_ERR_FILE with the path, the layer and the member that is wrong;
 * WEFT_ERR_NO_MEMORY. **Ownership** free with weft_recipe_file_close, not before the layers made by it. */
weft_status_t weft_recipe_file_open(const char *path, weft_recipe_file_t **file, weft_error_t *error);
void weft_recipe_file_close(weft_recipe_file_t *file);

const weft_recipe_t *weft_recipe_file_recipe(const weft_recipe_file_t *file);

/* Evaluate products and sums of integers and integers of the configuration: terms joined by
 * `+`, factors by `*` and `/` from left to right, as in "num_attention_heads * head_dim + 64". A division
 * must be exact.
 * **Returns** WEFT_OK and a value below 2^31; WEFT_ERR_FILE with the expression and what is wrong in it. */
weft_status_t weft_recipe_evaluate(const weft_config_t *config, const char *expression, uint64_t *value,
                                   weft_error_t *error);

#endif
