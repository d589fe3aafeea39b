#include "src/model/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/model/json.h"

#define MAX_CONFIG_BYTES (16u << 20)

struct weft_config {
    cJSON *root;
};

/* Takes `root` over, also when it fails. */
static weft_status_t wrap(cJSON *root, weft_config_t **config, weft_error_t *error)
{
    weft_status_t status = WEFT_OK;
    const cJSON *type = weft_json_get(root, "model_type");
    weft_config_t *made = calloc(1, sizeof *made);
    if (!made)
        status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the configuration");
    else if (!cJSON_IsObject(root))
        status = weft_fail(error, WEFT_ERR_FILE, "the configuration is %s, expected an object",
                           weft_json_kind(root));
    else if (type && !cJSON_IsString(type) && !cJSON_IsNull(type))
        status = weft_fail(error, WEFT_ERR_FILE, "model_type is %s, expected a string", weft_json_kind(type));
    if (status != WEFT_OK) {
        free(made);
        cJSON_Delete(root);
        return status;
    }
    made->root = root;
    *config = made;
    return WEFT_OK;
}

weft_status_t weft_config_parse(const char *json, weft_config_t **config, weft_error_t *error)
{
    cJSON *root = NULL;
    WEFT_TRY(weft_json_parse_whole(json, strlen(json), &root, error));
    return wrap(root, config, error);
}

weft_status_t weft_config_read(const char *path, weft_config_t **config, weft_error_t *error)
{
    cJSON *root = NULL;
    WEFT_TRY(weft_json_read(path, MAX_CONFIG_BYTES, &root, error));
    weft_status_t status = wrap(root, config, error);
    if (status != WEFT_OK)
        weft_error_prefix(error, "%s", path);
    return status;
}

void weft_config_destroy(weft_config_t *config)
{
    if (!config)
        return;
    cJSON_Delete(config->root);
    free(config);
}

/* Walk a dotted key; NULL when a step is absent, or the field is null. */
static const cJSON *find(const weft_config_t *config, const char *key)
{
    const cJSON *item = config->root;
    char step[64];
    for (;;) {
        size_t length = strcspn(key, ".");
        if (length >= sizeof step)
            return NULL;
        memcpy(step, key, length);
        step[length] = 0;
        item = weft_json_get(item, step);
        if (!item || key[length] == 0)
            break;
        key += length + 1;
    }
    return cJSON_IsNull(item) ? NULL : item;
}

bool weft_config_has(const weft_config_t *config, const char *key)
{
    return find(config, key) != NULL;
}

double weft_config_number(const weft_config_t *config, const char *key, double fallback)
{
    const cJSON *item = find(config, key);
    if (cJSON_IsBool(item))
        return cJSON_IsTrue(item) ? 1 : 0;
    return cJSON_IsNumber(item) ? item->valuedouble : fallback;
}

bool weft_config_bool(const weft_config_t *config, const char *key, bool fallback)
{
    const cJSON *item = find(config, key);
    return cJSON_IsBool(item) ? cJSON_IsTrue(item) : fallback;
}

const char *weft_config_string(const weft_config_t *config, const char *key, const char *fallback)
{
    const cJSON *item = find(config, key);
    return cJSON_IsString(item) ? item->valuestring : fallback;
}

bool weft_config_array_has(const weft_config_t *config, const char *key, double value)
{
    const cJSON *array = find(config, key), *item;
    if (!cJSON_IsArray(array))
        return false;
    cJSON_ArrayForEach(item, array)
    {
        if (cJSON_IsNumber(item) && item->valuedouble == value)
            return true;
    }
    return false;
}

uint32_t weft_config_count(const weft_config_t *config, const char *key)
{
    const cJSON *item = find(config, key);
    return cJSON_IsArray(item) || cJSON_IsObject(item) ? (uint32_t)cJSON_GetArraySize(item) : 0;
}

bool weft_config_array_is(const weft_config_t *config, const char *key, const double *values, uint32_t count)
{
    const cJSON *array = find(config, key), *item;
    uint32_t same = 0;
    if (!cJSON_IsArray(array) || weft_config_count(config, key) != count)
        return false;
    cJSON_ArrayForEach(item, array)
    {
        if (cJSON_IsNumber(item) && item->valuedouble == values[same])
            same++;
    }
    return same == count;
}

weft_status_t weft_config_extent(const weft_config_t *config, const char *key, uint64_t fallback,
                                 uint64_t *value, weft_error_t *error)
{
    const cJSON *item = find(config, key);
    uint64_t read = fallback;
    if (!item && fallback == 0)
        return weft_fail(error, WEFT_ERR_FILE, "the configuration has no '%s'", key);
    if (item && (!weft_json_u64(item, &read) || read < 1 || read > INT32_MAX))
        return weft_fail(error, WEFT_ERR_FILE, "the configuration's '%s' is not an integer from 1 to %d", key,
                         INT32_MAX);
    *value = read;
    return WEFT_OK;
}
