/* The configuration of a model, its config.json: typed look-ups by key.
 *
 * A key may be dotted to reach into nested objects, as in "rope_parameters.rope_theta". A field that is null
 * counts as absent.
 */
#ifndef WEFT_MODEL_CONFIG_H
#define WEFT_MODEL_CONFIG_H

#include <weft/types.h>

typedef struct weft_config weft_config_t;

/* Read a configuration from a file, or from text.
 * **Returns** WEFT_OK; WEFT_ERR_IO, WEFT_ERR_FILE (not JSON, not an object, model_type not a string),
 * WEFT_ERR_NO_MEMORY.
 * **Ownership** free with weft_config_destroy. */
weft_status_t weft_config_read(const char *path, weft_config_t **config, weft_error_t *error);
weft_status_t weft_config_parse(const char *json, weft_config_t **config, weft_error_t *error);
void weft_config_destroy(weft_config_t *config);

/* Tell whether the field is there and not null. */
bool weft_config_has(const weft_config_t *config, const char *key);

/* Return a number, or a bool as 1 or 0; `fallback` when the field is absent or something else. */
double weft_config_number(const weft_config_t *config, const char *key, double fallback);

/* Return a bool; `fallback` when the field is absent or something else. */
bool weft_config_bool(const weft_config_t *config, const char *key, bool fallback);

/* Return a string that lives as long as the configuration; `fallback` when the field is absent or something
 * else. */
const char *weft_config_string(const weft_config_t *config, const char *key, const char *fallback);

/* Tell whether the array under `key` holds `value`; false when there is no array. */
bool weft_config_array_has(const weft_config_t *config, const char *key, double value);

/* Tell whether the array under `key` holds these `count` numbers, and nothing else. */
bool weft_config_array_is(const weft_config_t *config, const char *key, const double *values, uint32_t count);

/* The number of fields of the object, or of items of the array, under `key`; 0 when there is neither. */
uint32_t weft_config_count(const weft_config_t *config, const char *key);

/* Read an integer from 1 to 2^31 - 1, the range of every extent and count; `fallback` when absent, 0: it must
 * be there.
 * **Returns** WEFT_OK, or WEFT_ERR_FILE with key, what was found and what was expected. */
weft_status_t weft_config_extent(const weft_config_t *config, const char *key, uint64_t fallback,
                                 uint64_t *value, weft_error_t *error);

#endif
