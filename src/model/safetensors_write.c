#include "src/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/base/text.h"
#include "src/model/names.h"
#include "src/model/shape.h"

#define PIECE_BYTES (1u << 20) /* made at a time */

/* Where the bytes come from. */
typedef struct contents {
    const weft_tensor_t *tensors;
    size_t count;
    bool made; /* by `make`, or a hole where it is NULL */
    weft_safetensors_make_fn make;
    void *user;
    weft_error_t *error;
    weft_status_t status; /* of `make` */
} contents_t;

static weft_status_t check_tensor(const weft_tensor_t *tensor, bool made, uint64_t *bytes,
                                  weft_error_t *error)
{
    if (tensor->num_dims > WEFT_MAX_DIMS || tensor->dtype >= WEFT_DTYPE_COUNT ||
        !weft_shape_bytes(tensor->dtype, tensor->shape, tensor->num_dims, bytes))
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor '%.200s': dtype or shape is out of range",
                         tensor->name);
    if (*bytes > 0 && !tensor->data && !made)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor '%.200s' has no data", tensor->name);
    return WEFT_OK;
}

static weft_status_t check_names(const weft_tensor_t *tensors, size_t count, weft_error_t *error)
{
    weft_names_t names = {0};
    weft_status_t status = WEFT_OK;
    for (size_t i = 0; i < count && status == WEFT_OK; i++) {
        const char *name = tensors[i].name;
        if (strcmp(name, "__metadata__") == 0 || weft_names_find(&names, name) != WEFT_NAMES_NONE)
            status = weft_fail(error, WEFT_ERR_ARGUMENT, "tensor '%.200s' is there twice or reserved", name);
        else if (!weft_names_add(&names, name, 0))
            status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %zu names", count);
    }
    weft_names_free(&names);
    return status;
}

static void add_metadata(weft_text_t *header, const weft_safetensors_metadata_t *metadata,
                         size_t num_metadata)
{
    weft_text_add(header, "\"__metadata__\":{");
    for (size_t i = 0; i < num_metadata; i++) {
        weft_text_add(header, i ? "," : "");
        weft_text_add_json_string(header, metadata[i].key);
        weft_text_add(header, ":");
        weft_text_add_json_string(header, metadata[i].value);
    }
    weft_text_add(header, "}");
}

static void add_entry(weft_text_t *header, const weft_tensor_t *tensor, uint64_t begin, uint64_t end)
{
    char shape[WEFT_SHAPE_TEXT_BYTES];
    weft_text_add_json_string(header, tensor->name);
    weft_text_add(header, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                  weft_dtype_name(tensor->dtype), weft_shape_text(tensor->shape, tensor->num_dims, shape),
                  begin, end);
}

static weft_status_t build_header(const contents_t *contents, const weft_safetensors_metadata_t *metadata,
                                  size_t num_metadata, weft_text_t *header, weft_error_t *error)
{
    weft_text_add(header, "{");
    if (num_metadata)
        add_metadata(header, metadata, num_metadata);
    uint64_t begin = 0;
    for (size_t i = 0; i < contents->count; i++) {
        const weft_tensor_t *tensor = &contents->tensors[i];
        uint64_t bytes;
        WEFT_TRY(check_tensor(tensor, contents->made, &bytes, error));
        if (i > 0 || num_metadata)
            weft_text_add(header, ",");
        add_entry(header, tensor, begin, begin + bytes);
        begin += bytes;
    }
    weft_text_add(header, "}");
    /* The data begins 8-byte aligned, as the header length itself takes 8. */
    weft_text_add(header, "%*s", (int)(-header->length & 7), "");
    if (header->failed)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the header");
    if (header->length > WEFT_SAFETENSORS_MAX_HEADER_BYTES)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "the header takes %zu bytes, at most %u may be written",
                         header->length, WEFT_SAFETENSORS_MAX_HEADER_BYTES);
    return WEFT_OK;
}

static bool write_all(int fd, const void *data, uint64_t bytes)
{
    const uint8_t *next = data;
    while (bytes > 0) {
        /* Linux writes at most 2 GiB a call. */
        ssize_t written = write(fd, next, bytes < (1u << 30) ? bytes : 1u << 30);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        next += written;
        bytes -= (uint64_t)written;
    }
    return true;
}

static bool write_made(int fd, contents_t *contents, const weft_tensor_t *tensor, uint64_t bytes)
{
    void *piece = malloc(PIECE_BYTES);
    bool written = piece != NULL;
    for (uint64_t begin = 0; begin < bytes && written; begin += PIECE_BYTES) {
        size_t length = bytes - begin < PIECE_BYTES ? (size_t)(bytes - begin) : PIECE_BYTES;
        contents->status = contents->make(contents->user, tensor, begin, length, piece, contents->error);
        written = contents->status == WEFT_OK && write_all(fd, piece, length);
    }
    free(piece);
    return written;
}

static bool write_tensor(int fd, contents_t *contents, const weft_tensor_t *tensor)
{
    uint64_t bytes = 0;
    weft_shape_bytes(tensor->dtype, tensor->shape, tensor->num_dims, &bytes);
    if (!contents->made)
        return write_all(fd, tensor->data, bytes);
    if (contents->make)
        return write_made(fd, contents, tensor, bytes);
    off_t end = lseek(fd, (off_t)bytes, SEEK_CUR);
    return end >= 0 && ftruncate(fd, end) == 0;
}

static bool write_contents(int fd, const weft_text_t *header, contents_t *contents)
{
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header->length >> 8 * i);
    if (!write_all(fd, length, sizeof length) || !write_all(fd, header->data, header->length))
        return false;
    for (size_t i = 0; i < contents->count; i++)
        if (!write_tensor(fd, contents, &contents->tensors[i]))
            return false;
    return true;
}

static weft_status_t write_renamed(const char *path, const char *temporary, const weft_text_t *header,
                                   contents_t *contents, weft_error_t *error)
{
    /* A file left by a process that died under the same id. */
    unlink(temporary);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", temporary, strerror(errno));
    bool written = write_contents(fd, header, contents);
    int reason = errno;
    if (close(fd) != 0 && written) { /* a network file system may report a failed write only now */
        written = false;
        reason = errno;
    }
    if (written && rename(temporary, path) == 0)
        return WEFT_OK;
    if (written)
        reason = errno;
    unlink(temporary);
    if (contents->status != WEFT_OK)
        return contents->status;
    return weft_fail(error, WEFT_ERR_IO, "%s: cannot be written: %s", path, strerror(reason));
}

static weft_status_t write_file(const char *path, contents_t *contents,
                                const weft_safetensors_metadata_t *metadata, size_t num_metadata,
                                weft_error_t *error)
{
    WEFT_TRY(check_names(contents->tensors, contents->count, error));
    weft_text_t header = {0}, temporary = {0};
    weft_status_t status = build_header(contents, metadata, num_metadata, &header, error);
    weft_text_add(&temporary, "%s.%ld.tmp", path, (long)getpid());
    if (status == WEFT_OK && temporary.failed)
        status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a path");
    if (status == WEFT_OK)
        status = write_renamed(path, temporary.data, &header, contents, error);
    weft_text_free(&temporary);
    weft_text_free(&header);
    return status;
}

weft_status_t weft_safetensors_write(const char *path, const weft_tensor_t *tensors, size_t count,
                                     const weft_safetensors_metadata_t *metadata, size_t num_metadata,
                                     weft_error_t *error)
{
    contents_t contents = {.tensors = tensors, .count = count};
    return write_file(path, &contents, metadata, num_metadata, error);
}

weft_status_t weft_safetensors_write_made(const char *path, const weft_tensor_t *tensors, size_t count,
                                          const weft_safetensors_metadata_t *metadata, size_t num_metadata,
                                          weft_safetensors_make_fn make, void *user, weft_error_t *error)
{
    contents_t contents = {
        .tensors = tensors, .count = count, .made = true, .make = make, .user = user, .error = error};
    return write_file(path, &contents, metadata, num_metadata, error);
}
