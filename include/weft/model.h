/* A model in checkpoint format: named tensors and the configuration that says what they mean.
 *
 * Open a safetensors directory (single file or sharded by `model.safetensors.index.json`), or build one
 * tensor by tensor when the weights live in the trainer's memory only. A model opened from files maps them;
 * nothing is read until it is used.
 *
 *     weft_model_t *model;
 *     weft_model_open("Qwen3-8B", &model, &error);
 *     const weft_tensor_t *t = weft_model_find(model, "model.norm.weight");
 *     weft_model_close(model);
 */
#ifndef WEFT_MODEL_H
#define WEFT_MODEL_H

#include <weft/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_model weft_model_t;

/* One tensor of a model; read-only, lives as long as the model. */
typedef struct weft_tensor {
    const char *name;
    weft_dtype_t dtype;
    uint32_t num_dims; /* 0 for a scalar */
    uint64_t shape[WEFT_MAX_DIMS];
    uint64_t bytes;
    const void
        *data; /* row-major, mapped from the file (aligned to the dtype is NOT promised); NULL when built */
} weft_tensor_t;

/* Open the checkpoint in directory `path` (config.json and model.safetensors, or its index and shards).
 * Every field is checked before it is used; see docs/errors.md for what is refused.
 * **Returns** WEFT_OK; WEFT_ERR_IO, WEFT_ERR_FILE, WEFT_ERR_UNKNOWN_NAME (dtype), WEFT_ERR_NO_MEMORY with the
 * file and the reason in `error` (may be NULL).
 * **Ownership** close with weft_model_close. */
WEFT_API weft_status_t weft_model_open(const char *path, weft_model_t **model, weft_error_t *error);

/* Begin an empty model whose configuration is the text of a config.json.
 * **Returns** WEFT_OK, WEFT_ERR_FILE (not JSON, a field of the wrong type), WEFT_ERR_NO_MEMORY. */
WEFT_API weft_status_t weft_model_create(const char *config_json, weft_model_t **model, weft_error_t *error);

/* Add a tensor by name, dtype and shape (`num_dims` extents); its bytes are bound on the trainer.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT (a name twice, too many dimensions, overflow), WEFT_ERR_NO_MEMORY.
 */
WEFT_API weft_status_t weft_model_add(weft_model_t *model, const char *name, weft_dtype_t dtype,
                                      const uint64_t *shape, uint32_t num_dims, weft_error_t *error);

/* Use the recipe in file `path` instead of the one that the model_type names, before a plan is made: what the tensors
 * become in an engine, for architectures that weft does not know. docs/recipes.md describes the file.
 * **Returns** WEFT_OK; WEFT_ERR_IO, WEFT_ERR_FILE with path, layer and member; WEFT_ERR_NO_MEMORY.
 * **Ownership** plans made of the model need it, and the model, to the end. */
WEFT_API weft_status_t weft_model_set_recipe(weft_model_t *model, const char *path, weft_error_t *error);

/* Add every tensor that the model's recipe expects of its configuration and the model does not have: bf16, fp32 where an
 * engine keeps that. Optional ones are left out. For a trainer that has a configuration and weights in memory.
 * **Returns** WEFT_OK; WEFT_ERR_UNKNOWN_NAME (no recipe for its model_type), WEFT_ERR_FILE (a field of the configuration),
 * WEFT_ERR_NO_MEMORY. */
WEFT_API weft_status_t weft_model_complete(weft_model_t *model, weft_error_t *error);

/* Unmap and free; NULL is accepted. */
WEFT_API void weft_model_close(weft_model_t *model);

/* The number of tensors, and the i-th of them in byte order of name. */
WEFT_API uint32_t weft_model_num_tensors(const weft_model_t *model);
WEFT_API const weft_tensor_t *weft_model_tensor(const weft_model_t *model, uint32_t index);

/* Find a tensor by name; NULL when there is none. Constant time.
 * **Threads** a model that no one adds to may be read by any number of threads. */
WEFT_API const weft_tensor_t *weft_model_find(const weft_model_t *model, const char *name);

/* The configuration's `model_type`, such as "qwen3"; never NULL, "" when it has none. */
WEFT_API const char *weft_model_type(const weft_model_t *model);

/* A number from the configuration, or a bool as 1 or 0; `fallback` when it is absent or something else. A
 * dotted key reaches into nested objects: "rope_parameters.rope_theta". */
WEFT_API double weft_model_config_number(const weft_model_t *model, const char *key, double fallback);

#ifdef __cplusplus
}
#endif
#endif
