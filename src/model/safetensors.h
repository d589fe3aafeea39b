/* One safetensors file: its header read with every field checked, its tensors mapped; and the way back.
 *
 *     8 bytes          header_bytes                            to the end of the file
 *     +--------------+--------------------------------------+----------------------------+
 *     | header_bytes | {"name": {"dtype", "shape",          | tensors, without a gap     |
 *     | (LE uint64)  |           "data_offsets"}, ...}  pad  |                            |
 *     +--------------+--------------------------------------+----------------------------+
 *
 *     weft_safetensors_open("rank0.safetensors", &file, &error);
 *     const weft_tensor_t *t = weft_safetensors_find(file, "model.norm.weight");
 *     weft_safetensors_close(file);
 *
 * **Source** https://github.com/huggingface/safetensors, section "Format".
 */
#ifndef WEFT_MODEL_SAFETENSORS_H
#define WEFT_MODEL_SAFETENSORS_H

#include <weft/model.h>

/* The cap that the reference implementation sets; checked before anything is allocated. */
#define WEFT_SAFETENSORS_MAX_HEADER_BYTES 100000000u

typedef struct weft_safetensors weft_safetensors_t;

/* One string of the header's `__metadata__`. */
typedef struct weft_safetensors_metadata {
    const char *key;
    const char *value;
} weft_safetensors_metadata_t;

/* Map the file at `path` and check its header.
 * **Returns** WEFT_OK; WEFT_ERR_IO, WEFT_ERR_FILE (malformed), WEFT_ERR_UNKNOWN_NAME (a dtype),
 * WEFT_ERR_NO_MEMORY; the message names file, tensor, what was found and what was expected.
 * **Ownership** close with weft_safetensors_close. */
weft_status_t weft_safetensors_open(const char *path, weft_safetensors_t **file, weft_error_t *error);

/* Like weft_safetensors_open, over `bytes` bytes that are in memory already.
 * **Ownership** `data` must outlive the object. */
weft_status_t weft_safetensors_open_memory(const void *data, size_t bytes, weft_safetensors_t **file,
                                           weft_error_t *error);

/* Unmap and free; NULL is accepted. */
void weft_safetensors_close(weft_safetensors_t *file);

/* The number of tensors, and the i-th of them in the order of their data. */
uint32_t weft_safetensors_count(const weft_safetensors_t *file);
const weft_tensor_t *weft_safetensors_tensor(const weft_safetensors_t *file, uint32_t index);

/* Find a tensor by name; NULL when there is none. Constant time. */
const weft_tensor_t *weft_safetensors_find(const weft_safetensors_t *file, const char *name);

/* Return the string of `__metadata__` under `key`; NULL when there is none. */
const char *weft_safetensors_metadata(const weft_safetensors_t *file, const char *key);

/* Write tensors in the order given: into a temporary file beside `path`, renamed when every byte is written.
 * `tensors` [count] with name, dtype, shape and data; `bytes` is not read. `metadata` [num_metadata], NULL
 * when 0.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (a name twice, no data, a header over the cap), WEFT_ERR_IO,
 * WEFT_ERR_NO_MEMORY; on failure what was at `path` is untouched. */
weft_status_t weft_safetensors_write(const char *path, const weft_tensor_t *tensors, size_t count,
                                     const weft_safetensors_metadata_t *metadata, size_t num_metadata,
                                     weft_error_t *error);

/* Write the bytes [begin, begin + bytes) of `tensor` to `out`; a piece at a time, in order. Anything but WEFT_OK, with
 * the reason in `error`, gives the file up. */
typedef weft_status_t (*weft_safetensors_make_fn)(void *user, const weft_tensor_t *tensor, uint64_t begin, size_t bytes,
                                                  void *out, weft_error_t *error);

/* The same of tensors whose bytes are made as they are written; `make` NULL: they are a hole, which takes no disk where the
 * file system has holes, and reads as zeros. `data` is not read. **Returns** also what `make` returned. */
weft_status_t weft_safetensors_write_made(const char *path, const weft_tensor_t *tensors, size_t count,
                                          const weft_safetensors_metadata_t *metadata, size_t num_metadata,
                                          weft_safetensors_make_fn make, void *user, weft_error_t *error);

#endif
