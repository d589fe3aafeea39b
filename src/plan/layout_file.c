/* In: a file of boxes. Out: a layout. Invariant: whatever the file holds, every box is of a rank that there
 * is. */
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/model/json.h"
#include "src/plan/layout.h"

#define MAX_FILE_BYTES (256u << 20)

typedef struct reader {
    const char *path;
    weft_layout_t *layout;
    weft_error_t *error;
} reader_t;

static weft_status_t read_numbers(const reader_t *r, const char *tensor, const cJSON *box, const char *key,
                                  uint64_t values[WEFT_MAX_DIMS], uint32_t *count)
{
    const cJSON *array = weft_json_get(box, key), *item;
    *count = 0;
    if (!cJSON_IsArray(array))
        return weft_fail(r->error, WEFT_ERR_FILE, "%s: tensor %s: \"%s\" is %s, expected an array of numbers",
                         r->path, tensor, key, weft_json_kind(array));
    cJSON_ArrayForEach(item, array)
    {
        if (*count == WEFT_MAX_DIMS || !weft_json_u64(item, &values[(*count)++]))
            return weft_fail(r->error, WEFT_ERR_FILE, "%s: tensor %s: \"%s\" expects up to %u whole numbers",
                             r->path, tensor, key, WEFT_MAX_DIMS);
    }
    return WEFT_OK;
}

static weft_status_t read_box(const reader_t *r, const char *tensor, const cJSON *item)
{
    uint64_t rank;
    uint32_t offsets, extents;
    weft_box_t box = {0};
    if (!weft_json_u64(weft_json_get(item, "rank"), &rank) || rank >= r->layout->num_ranks)
        return weft_fail(r->error, WEFT_ERR_FILE, "%s: tensor %s: a box without a \"rank\" from 0 to %u",
                         r->path, tensor, r->layout->num_ranks - 1);
    WEFT_TRY(read_numbers(r, tensor, item, "offset", box.offset, &offsets));
    WEFT_TRY(read_numbers(r, tensor, item, "extent", box.extent, &extents));
    if (offsets != extents)
        return weft_fail(r->error, WEFT_ERR_FILE, "%s: tensor %s, rank %llu: %u offsets and %u extents",
                         r->path, tensor, (unsigned long long)rank, offsets, extents);
    box.num_dims = offsets;
    return weft_layout_add_box(r->layout, (uint32_t)rank, tensor, &box, r->error);
}

static weft_status_t read_tensors(const reader_t *r, const cJSON *tensors)
{
    const cJSON *list, *item;
    if (!cJSON_IsObject(tensors))
        return weft_fail(r->error, WEFT_ERR_FILE, "%s: \"boxes\" is %s, expected an object of arrays",
                         r->path, weft_json_kind(tensors));
    cJSON_ArrayForEach(list, tensors)
    {
        if (!cJSON_IsArray(list))
            return weft_fail(r->error, WEFT_ERR_FILE, "%s: tensor %s has %s, expected an array of boxes",
                             r->path, list->string, weft_json_kind(list));
        cJSON_ArrayForEach(item, list) WEFT_TRY(read_box(r, list->string, item));
    }
    return WEFT_OK;
}

static weft_status_t read_layout(reader_t *r, const cJSON *root, const char *text)
{
    uint64_t ranks;
    if (!weft_json_u64(weft_json_get(root, "ranks"), &ranks) || ranks == 0 || ranks > WEFT_MAX_LAYOUT_RANKS)
        return weft_fail(r->error, WEFT_ERR_FILE, "%s: no \"ranks\" from 1 to %u", r->path,
                         WEFT_MAX_LAYOUT_RANKS);
    WEFT_TRY(weft_layout_boxes((uint32_t)ranks, &r->layout, r->error));
    char *copy = strdup(text);
    if (!copy)
        return weft_fail(r->error, WEFT_ERR_NO_MEMORY, "no memory for a layout");
    free(r->layout->text);
    r->layout->text = copy;
    return read_tensors(r, weft_json_get(root, "boxes"));
}

weft_status_t weft_layout_read_boxes(const char *path, const char *text, weft_layout_t **layout,
                                     weft_error_t *error)
{
    reader_t r = {.path = path, .error = error};
    cJSON *root;
    WEFT_TRY(weft_json_read(path, MAX_FILE_BYTES, &root, error));
    weft_status_t status = read_layout(&r, root, text);
    cJSON_Delete(root);
    if (status != WEFT_OK) {
        weft_layout_destroy(r.layout);
        return status;
    }
    *layout = r.layout;
    return WEFT_OK;
}
