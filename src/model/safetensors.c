#include "src/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/model/json.h"
#include "src/model/names.h"
#include "src/model/shape.h"

typedef struct owned_metadata {
    char *key, *value;
} owned_metadata_t;

struct weft_safetensors {
    void *map; /* NULL: the bytes belong to the caller */
    size_t map_bytes;
    const uint8_t *data; /* what follows the header */
    uint64_t data_bytes;
    WEFT_ARRAY(weft_tensor_t) tensors; /* names are owned; in the order of their data once opened */
    WEFT_ARRAY(owned_metadata_t) metadata;
    bool has_metadata;
    weft_names_t names; /* to the index in `tensors` */
};

static weft_status_t no_memory(weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the header");
}

static weft_status_t read_dtype(const cJSON *item, weft_tensor_t *tensor, weft_error_t *error)
{
    if (!cJSON_IsString(item))
        return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s': dtype is %s, expected a string",
                         tensor->name, weft_json_kind(item));
    if (weft_dtype_parse(item->valuestring, &tensor->dtype) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "tensor '%.200s': dtype '%.40s' is not known",
                         tensor->name, item->valuestring);
    return WEFT_OK;
}

static weft_status_t read_shape(const cJSON *item, weft_tensor_t *tensor, weft_error_t *error)
{
    if (!cJSON_IsArray(item))
        return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s': shape is %s, expected an array",
                         tensor->name, weft_json_kind(item));
    const cJSON *extent;
    cJSON_ArrayForEach(extent, item)
    {
        if (tensor->num_dims == WEFT_MAX_DIMS)
            return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s': shape has more than %d dimensions",
                             tensor->name, WEFT_MAX_DIMS);
        if (!weft_json_u64(extent, &tensor->shape[tensor->num_dims]))
            return weft_fail(error, WEFT_ERR_FILE,
                             "tensor '%.200s': dimension %u of shape is not an integer from 0 to 2^53 - 1",
                             tensor->name, tensor->num_dims);
        tensor->num_dims++;
    }
    return WEFT_OK;
}

/* Checks the range against the file, so that the data pointer may be formed. */
static weft_status_t read_offsets(const weft_safetensors_t *file, const cJSON *item, weft_tensor_t *tensor,
                                  weft_error_t *error)
{
    uint64_t begin, end;
    if (!cJSON_IsArray(item) || !item->child || !item->child->next || item->child->next->next ||
        !weft_json_u64(item->child, &begin) || !weft_json_u64(item->child->next, &end))
        return weft_fail(error, WEFT_ERR_FILE,
                         "tensor '%.200s': data_offsets is not an array of two integers from 0 to 2^53 - 1",
                         tensor->name);
    if (begin > end || end > file->data_bytes)
        return weft_fail(error, WEFT_ERR_FILE,
                         "tensor '%.200s': data_offsets [%" PRIu64 ", %" PRIu64
                         "] do not lie within the %" PRIu64 " bytes of data",
                         tensor->name, begin, end, file->data_bytes);
    tensor->data = file->data + begin;
    tensor->bytes = end - begin;
    return WEFT_OK;
}

static weft_status_t check_bytes(const weft_tensor_t *tensor, weft_error_t *error)
{
    char shape[WEFT_SHAPE_TEXT_BYTES];
    uint64_t expected;
    weft_shape_text(tensor->shape, tensor->num_dims, shape);
    if (!weft_shape_bytes(tensor->dtype, tensor->shape, tensor->num_dims, &expected))
        return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s': shape %s overflows 64 bits", tensor->name,
                         shape);
    if (tensor->bytes != expected)
        return weft_fail(error, WEFT_ERR_FILE,
                         "tensor '%.200s': data_offsets span %" PRIu64 " bytes, %s %s needs %" PRIu64,
                         tensor->name, tensor->bytes, weft_dtype_name(tensor->dtype), shape, expected);
    return WEFT_OK;
}

/* Find the three fields in any order; a fourth or a repeated one could change what the others mean. */
static weft_status_t find_fields(const cJSON *entry, const cJSON *fields[3], weft_error_t *error)
{
    static const char *const names[3] = {"dtype", "shape", "data_offsets"};
    if (!cJSON_IsObject(entry))
        return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s': the entry is %s, expected an object",
                         entry->string, weft_json_kind(entry));
    const cJSON *item;
    cJSON_ArrayForEach(item, entry)
    {
        int i = 0;
        while (i < 3 && strcmp(item->string, names[i]) != 0)
            i++;
        if (i == 3 || fields[i])
            return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s': field '%.40s' is %s", entry->string,
                             item->string, i == 3 ? "not known" : "there twice");
        fields[i] = item;
    }
    for (int i = 0; i < 3; i++) {
        if (!fields[i])
            return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s': field '%s' is missing", entry->string,
                             names[i]);
    }
    return WEFT_OK;
}

static weft_status_t read_tensor(weft_safetensors_t *file, const cJSON *entry, weft_error_t *error)
{
    const cJSON *fields[3] = {0};
    WEFT_TRY(find_fields(entry, fields, error));
    weft_tensor_t tensor = {.name = entry->string};
    WEFT_TRY(read_dtype(fields[0], &tensor, error));
    WEFT_TRY(read_shape(fields[1], &tensor, error));
    WEFT_TRY(read_offsets(file, fields[2], &tensor, error));
    WEFT_TRY(check_bytes(&tensor, error));
    char *name = strdup(entry->string);
    tensor.name = name;
    if (name && WEFT_ARRAY_PUSH(&file->tensors, tensor))
        return WEFT_OK;
    free(name);
    return no_memory(error);
}

static weft_status_t read_metadata(weft_safetensors_t *file, const cJSON *entry, weft_error_t *error)
{
    if (file->has_metadata)
        return weft_fail(error, WEFT_ERR_FILE, "'__metadata__' is there twice");
    if (!cJSON_IsObject(entry))
        return weft_fail(error, WEFT_ERR_FILE, "'__metadata__' is %s, expected an object",
                         weft_json_kind(entry));
    file->has_metadata = true;
    WEFT_TRY(weft_json_check_names(entry, error));
    const cJSON *item;
    cJSON_ArrayForEach(item, entry)
    {
        if (!cJSON_IsString(item))
            return weft_fail(error, WEFT_ERR_FILE, "'__metadata__': '%.200s' is %s, expected a string",
                             item->string, weft_json_kind(item));
        owned_metadata_t pair = {.key = strdup(item->string), .value = strdup(item->valuestring)};
        if (!pair.key || !pair.value || !WEFT_ARRAY_PUSH(&file->metadata, pair)) {
            free(pair.key);
            free(pair.value);
            return no_memory(error);
        }
    }
    return WEFT_OK;
}

static weft_status_t read_entries(weft_safetensors_t *file, const cJSON *root, weft_error_t *error)
{
    if (!cJSON_IsObject(root))
        return weft_fail(error, WEFT_ERR_FILE, "the header is %s, expected an object", weft_json_kind(root));
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root)
    {
        if (strcmp(entry->string, "__metadata__") == 0)
            WEFT_TRY(read_metadata(file, entry, error));
        else
            WEFT_TRY(read_tensor(file, entry, error));
    }
    return WEFT_OK;
}

static int compare_data(const void *a, const void *b)
{
    const weft_tensor_t *left = a, *right = b;
    if (left->data != right->data)
        return (const uint8_t *)left->data < (const uint8_t *)right->data ? -1 : 1;
    /* An empty tensor stands before the one that starts where it does. */
    return (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

static weft_status_t index_names(weft_safetensors_t *file, weft_error_t *error)
{
    for (size_t i = 0; i < file->tensors.count; i++) {
        const char *name = file->tensors.items[i].name;
        if (weft_names_find(&file->names, name) != WEFT_NAMES_NONE)
            return weft_fail(error, WEFT_ERR_FILE, "tensor '%.200s' is there twice", name);
        if (!weft_names_add(&file->names, name, (uint32_t)i))
            return no_memory(error);
    }
    return WEFT_OK;
}

/* The tensors, sorted by their data, must tile it. */
static weft_status_t check_tiling(const weft_safetensors_t *file, weft_error_t *error)
{
    uint64_t expected = 0;
    for (size_t i = 0; i < file->tensors.count; i++) {
        const weft_tensor_t *tensor = &file->tensors.items[i];
        uint64_t begin = (uint64_t)((const uint8_t *)tensor->data - file->data);
        if (begin != expected)
            return weft_fail(error, WEFT_ERR_FILE,
                             "tensor '%.200s': data begins at %" PRIu64 ", expected %" PRIu64
                             " (tensors must be contiguous: there is %s)",
                             tensor->name, begin, expected, begin < expected ? "an overlap" : "a hole");
        expected = begin + tensor->bytes;
    }
    if (expected != file->data_bytes)
        return weft_fail(error, WEFT_ERR_FILE,
                         "the tensors end at byte %" PRIu64
                         " of the data, expected the end of the file at %" PRIu64,
                         expected, file->data_bytes);
    return WEFT_OK;
}

static weft_status_t check_header_bytes(const uint8_t *bytes, size_t size, size_t *header_bytes,
                                        weft_error_t *error)
{
    if (size < 8)
        return weft_fail(error, WEFT_ERR_FILE, "%zu bytes, expected at least the 8 of the header length",
                         size);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > WEFT_SAFETENSORS_MAX_HEADER_BYTES)
        return weft_fail(error, WEFT_ERR_FILE, "the header length is %" PRIu64 ", expected at most %u",
                         length, WEFT_SAFETENSORS_MAX_HEADER_BYTES);
    if (length > size - 8)
        return weft_fail(error, WEFT_ERR_FILE,
                         "the header length is %" PRIu64 ", but only %zu bytes follow: the file is truncated",
                         length, size - 8);
    if (length == 0 || bytes[8] != '{')
        return weft_fail(error, WEFT_ERR_FILE, "the header does not begin with '{'");
    *header_bytes = (size_t)length;
    return WEFT_OK;
}

static weft_status_t read_header(weft_safetensors_t *file, const uint8_t *bytes, size_t size,
                                 weft_error_t *error)
{
    size_t header_bytes = 0;
    cJSON *root = NULL;
    WEFT_TRY(check_header_bytes(bytes, size, &header_bytes, error));
    WEFT_TRY(weft_json_parse((const char *)bytes + 8, header_bytes, " ", &root, error));
    file->data = bytes + 8 + header_bytes;
    file->data_bytes = size - 8 - header_bytes;
    weft_status_t status = read_entries(file, root, error);
    cJSON_Delete(root);
    WEFT_TRY(status);
    if (file->tensors.count)
        qsort(file->tensors.items, file->tensors.count, sizeof *file->tensors.items, compare_data);
    WEFT_TRY(index_names(file, error));
    return check_tiling(file, error);
}

static weft_status_t map_file(weft_safetensors_t *file, const char *path, weft_error_t *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for who writes into it */
    if (fd < 0)
        return weft_fail(error, WEFT_ERR_IO, "%s", strerror(errno));
    weft_status_t status = WEFT_OK;
    struct stat info;
    if (fstat(fd, &info) != 0)
        status = weft_fail(error, WEFT_ERR_IO, "%s", strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = weft_fail(error, WEFT_ERR_IO, "not a regular file");
    else if (info.st_size >
             0) { /* an empty mapping is an error of its own; the header check refuses the file */
        void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            status = weft_fail(error, WEFT_ERR_IO, "cannot map %lld bytes: %s", (long long)info.st_size,
                               strerror(errno));
        } else {
            file->map = map;
            file->map_bytes = (size_t)info.st_size;
        }
    }
    close(fd);
    return status;
}

weft_status_t weft_safetensors_open(const char *path, weft_safetensors_t **file, weft_error_t *error)
{
    weft_safetensors_t *opened = calloc(1, sizeof *opened);
    if (!opened)
        return no_memory(error);
    weft_status_t status = map_file(opened, path, error);
    if (status == WEFT_OK)
        status = read_header(opened, opened->map, opened->map_bytes, error);
    if (status != WEFT_OK) {
        weft_error_prefix(error, "%s", path);
        weft_safetensors_close(opened);
        return status;
    }
    *file = opened;
    return WEFT_OK;
}

weft_status_t weft_safetensors_open_memory(const void *data, size_t bytes, weft_safetensors_t **file,
                                           weft_error_t *error)
{
    weft_safetensors_t *opened = calloc(1, sizeof *opened);
    if (!opened)
        return no_memory(error);
    weft_status_t status = read_header(opened, data, bytes, error);
    if (status != WEFT_OK) {
        weft_safetensors_close(opened);
        return status;
    }
    *file = opened;
    return WEFT_OK;
}

void weft_safetensors_close(weft_safetensors_t *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->tensors.count; i++)
        free((char *)file->tensors.items[i].name);
    for (size_t i = 0; i < file->metadata.count; i++) {
        free(file->metadata.items[i].key);
        free(file->metadata.items[i].value);
    }
    WEFT_ARRAY_FREE(&file->tensors);
    WEFT_ARRAY_FREE(&file->metadata);
    weft_names_free(&file->names);
    if (file->map)
        munmap(file->map, file->map_bytes);
    free(file);
}

uint32_t weft_safetensors_count(const weft_safetensors_t *file)
{
    return (uint32_t)file->tensors.count;
}

const weft_tensor_t *weft_safetensors_tensor(const weft_safetensors_t *file, uint32_t index)
{
    return index < file->tensors.count ? &file->tensors.items[index] : NULL;
}

const weft_tensor_t *weft_safetensors_find(const weft_safetensors_t *file, const char *name)
{
    uint32_t index = weft_names_find(&file->names, name);
    return index == WEFT_NAMES_NONE ? NULL : &file->tensors.items[index];
}

const char *weft_safetensors_metadata(const weft_safetensors_t *file, const char *key)
{
    for (size_t i = 0; i < file->metadata.count; i++) {
        if (strcmp(file->metadata.items[i].key, key) == 0)
            return file->metadata.items[i].value;
    }
    return NULL;
}
