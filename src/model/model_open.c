#include <weft/model.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/base/text.h"
#include "src/model/json.h"
#include "src/model/model_private.h"
#include "src/model/names.h"

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE  "model.safetensors.index.json"

static weft_status_t join_path(const char *directory, const char *name, weft_text_t *path,
                               weft_error_t *error)
{
    weft_text_add(path, "%s/%s", directory, name);
    return path->failed ? weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a path") : WEFT_OK;
}

/* `shard_of_tensor` is NULL for a checkpoint without an index. */
static weft_status_t add_shard(weft_model_t *model, const weft_safetensors_t *file, const char *shard,
                               const weft_names_t *shard_of_tensor, uint32_t shard_number,
                               weft_error_t *error)
{
    for (uint32_t i = 0; i < weft_safetensors_count(file); i++) {
        const weft_tensor_t *tensor = weft_safetensors_tensor(file, i);
        if (shard_of_tensor && weft_names_find(shard_of_tensor, tensor->name) != shard_number)
            return weft_fail(error, WEFT_ERR_FILE,
                             "%s holds tensor '%.200s', which " INDEX_FILE " does not place there", shard,
                             tensor->name);
        WEFT_TRY(weft_model_add_tensor(model, tensor, error));
    }
    return WEFT_OK;
}

static weft_status_t open_shard(weft_model_t *model, const char *directory, const char *shard,
                                const weft_names_t *shard_of_tensor, uint32_t shard_number,
                                weft_error_t *error)
{
    weft_text_t path = {0};
    weft_safetensors_t *file = NULL;
    weft_status_t status = join_path(directory, shard, &path, error);
    if (status == WEFT_OK)
        status = weft_safetensors_open(path.data, &file, error);
    weft_text_free(&path);
    WEFT_TRY(status);
    if (!weft_model_keep_file(model, file)) {
        weft_safetensors_close(file);
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for shard %s", shard);
    }
    status = add_shard(model, file, shard, shard_of_tensor, shard_number, error);
    if (status != WEFT_OK)
        weft_error_prefix(error, "%s", directory);
    return status;
}

static weft_status_t check_map_entry(const cJSON *entry, const weft_names_t *shard_of_tensor,
                                     weft_error_t *error)
{
    if (!cJSON_IsString(entry))
        return weft_fail(error, WEFT_ERR_FILE,
                         INDEX_FILE ": the shard of tensor '%.200s' is %s, expected a string", entry->string,
                         weft_json_kind(entry));
    const char *shard = entry->valuestring;
    if (!*shard || strchr(shard, '/') || strcmp(shard, ".") == 0 || strcmp(shard, "..") == 0)
        return weft_fail(error, WEFT_ERR_FILE,
                         INDEX_FILE
                         ": the shard of tensor '%.200s' is '%.200s', expected a file name without a folder",
                         entry->string, shard);
    if (weft_names_find(shard_of_tensor, entry->string) != WEFT_NAMES_NONE)
        return weft_fail(error, WEFT_ERR_FILE, INDEX_FILE ": tensor '%.200s' is there twice", entry->string);
    return WEFT_OK;
}

/* Number the shards by first appearance, and note for each tensor which one holds it. */
static weft_status_t read_weight_map(const cJSON *weight_map, weft_names_t *shards,
                                     weft_names_t *shard_of_tensor, weft_error_t *error)
{
    if (!cJSON_IsObject(weight_map))
        return weft_fail(error, WEFT_ERR_FILE, INDEX_FILE ": weight_map is %s, expected an object",
                         weft_json_kind(weight_map));
    const cJSON *entry;
    cJSON_ArrayForEach(entry, weight_map)
    {
        WEFT_TRY(check_map_entry(entry, shard_of_tensor, error));
        uint32_t number = weft_names_find(shards, entry->valuestring);
        if (number == WEFT_NAMES_NONE) {
            number = (uint32_t)shards->count;
            if (!weft_names_add(shards, entry->valuestring, number))
                return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the index");
        }
        if (!weft_names_add(shard_of_tensor, entry->string, number))
            return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the index");
    }
    return WEFT_OK;
}

/* Open each shard at the first tensor that names it. */
static weft_status_t open_shards(weft_model_t *model, const char *directory, const cJSON *weight_map,
                                 const weft_names_t *shard_of_tensor, weft_error_t *error)
{
    uint32_t opened = 0;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, weight_map)
    {
        uint32_t number = weft_names_find(shard_of_tensor, entry->string);
        if (number == opened) {
            WEFT_TRY(open_shard(model, directory, entry->valuestring, shard_of_tensor, number, error));
            opened++;
        }
    }
    return WEFT_OK;
}

/* Each tensor that the index names must have come with its shard. */
static weft_status_t check_found(const weft_model_t *model, const char *directory, const cJSON *weight_map,
                                 weft_error_t *error)
{
    const cJSON *entry;
    cJSON_ArrayForEach(entry, weight_map)
    {
        if (!weft_model_find(model, entry->string))
            return weft_fail(error, WEFT_ERR_FILE,
                             "%s: " INDEX_FILE " places tensor '%.200s' in %.200s, which does not hold it",
                             directory, entry->string, entry->valuestring);
    }
    return WEFT_OK;
}

static weft_status_t open_index(weft_model_t *model, const char *directory, weft_error_t *error)
{
    weft_text_t path = {0};
    cJSON *root = NULL;
    weft_status_t status = join_path(directory, INDEX_FILE, &path, error);
    if (status == WEFT_OK)
        status = weft_json_read(path.data, WEFT_SAFETENSORS_MAX_HEADER_BYTES, &root, error);
    weft_text_free(&path);
    WEFT_TRY(status);
    weft_names_t shards = {0}, shard_of_tensor = {0};
    const cJSON *weight_map = weft_json_get(root, "weight_map");
    status = read_weight_map(weight_map, &shards, &shard_of_tensor, error);
    if (status != WEFT_OK) {
        weft_error_prefix(error, "%s", directory);
        goto free_index;
    }
    WEFT_TRY_GOTO(open_shards(model, directory, weight_map, &shard_of_tensor, error), free_index);
    WEFT_TRY_GOTO(check_found(model, directory, weight_map, error), free_index);
free_index:
    weft_names_free(&shards);
    weft_names_free(&shard_of_tensor);
    cJSON_Delete(root);
    return status;
}

/* What else may be wrong with it is left to the open that follows. */
static weft_status_t file_exists(const char *directory, const char *name, bool *exists, weft_error_t *error)
{
    weft_text_t path = {0};
    weft_status_t status = join_path(directory, name, &path, error);
    if (status == WEFT_OK)
        *exists = access(path.data, F_OK) == 0;
    weft_text_free(&path);
    return status;
}

static weft_status_t open_weights(weft_model_t *model, const char *directory, weft_error_t *error)
{
    bool single = false, sharded = false;
    WEFT_TRY(file_exists(directory, SINGLE_FILE, &single, error));
    WEFT_TRY(file_exists(directory, INDEX_FILE, &sharded, error));
    if (single)
        return open_shard(model, directory, SINGLE_FILE, NULL, 0, error);
    if (sharded)
        return open_index(model, directory, error);
    return weft_fail(error, WEFT_ERR_IO, "%s holds neither " SINGLE_FILE " nor " INDEX_FILE, directory);
}

static weft_status_t open_config(const char *directory, weft_model_t **model, weft_error_t *error)
{
    weft_text_t path = {0};
    weft_config_t *config = NULL;
    weft_status_t status = join_path(directory, "config.json", &path, error);
    if (status == WEFT_OK)
        status = weft_config_read(path.data, &config, error);
    weft_text_free(&path);
    WEFT_TRY(status);
    return weft_model_create_from(config, model, error);
}

weft_status_t weft_model_open(const char *path, weft_model_t **model, weft_error_t *error)
{
    weft_model_t *opened = NULL;
    WEFT_TRY(open_config(path, &opened, error));
    weft_status_t status = open_weights(opened, path, error);
    if (status != WEFT_OK) {
        weft_model_close(opened);
        return status;
    }
    *model = opened;
    return WEFT_OK;
}
