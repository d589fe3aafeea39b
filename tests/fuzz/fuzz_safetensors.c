/* The safetensors reader: a file, or a header and the size of its data. What is accepted is written back and
 * read again. */
#include "src/model/safetensors.h"
#include "tests/fuzz/fuzz.h"

#define MOST_DATA   65536
#define MOST_COPIED 8 /* tensors: writing takes the time of a file */

/* Tensors lie one behind the other from the header's end to the file's, and are found by name. */
static void check_accepted(const weft_safetensors_t *file, const uint8_t *bytes, size_t size)
{
    const uint8_t *end = NULL;
    for (uint32_t i = 0; i < weft_safetensors_count(file); i++) {
        const weft_tensor_t *tensor = weft_safetensors_tensor(file, i);
        const uint8_t *data = tensor->data;
        FUZZ_CHECK(data >= bytes + 8 && data <= bytes + size &&
                   tensor->bytes <= (size_t)(bytes + size - data));
        FUZZ_CHECK(!end || data == end);
        FUZZ_CHECK(tensor->num_dims <= WEFT_MAX_DIMS);
        FUZZ_CHECK(weft_safetensors_find(file, tensor->name) == tensor);
        end = data + tensor->bytes;
    }
    FUZZ_CHECK(!end || end == bytes + size);
    FUZZ_CHECK(!weft_safetensors_tensor(file, weft_safetensors_count(file)));
    FUZZ_CHECK(!weft_safetensors_find(file, "__metadata__"));
}

static void write_back(const weft_safetensors_t *file)
{
    weft_tensor_t tensors[MOST_COPIED];
    uint32_t count = weft_safetensors_count(file);
    const weft_safetensors_metadata_t format = {"format", weft_safetensors_metadata(file, "format")};
    const char *path = fuzz_file("back.safetensors", "", 0);
    weft_safetensors_t *again = NULL;
    weft_error_t error = {0};
    for (uint32_t i = 0; i < count; i++)
        tensors[i] = *weft_safetensors_tensor(file, i);
    weft_status_t status =
        weft_safetensors_write(path, tensors, count, &format, format.value ? 1 : 0, &error);
    if (status == WEFT_OK)
        status = weft_safetensors_open(path, &again, &error);
    if (status != WEFT_OK)
        fprintf(stderr, "%s\n", error.message);
    FUZZ_CHECK(status == WEFT_OK && weft_safetensors_count(again) == count);
    for (uint32_t i = 0; i < count; i++) {
        const weft_tensor_t *copy = weft_safetensors_find(again, tensors[i].name);
        FUZZ_CHECK(copy && copy->dtype == tensors[i].dtype && copy->num_dims == tensors[i].num_dims &&
                   copy->bytes == tensors[i].bytes);
        FUZZ_CHECK(memcmp(copy->data, tensors[i].data, copy->bytes) == 0);
    }
    const char *found = weft_safetensors_metadata(again, "format");
    FUZZ_CHECK(!format.value == !found && (!found || strcmp(found, format.value) == 0));
    weft_safetensors_close(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    size_t bytes;
    uint8_t *file = fuzz_take_safetensors(&input, "", MOST_DATA, &bytes);
    weft_safetensors_t *opened = NULL;
    weft_error_t error = {0};
    fuzz_meter_begin();
    weft_status_t status = weft_safetensors_open_memory(file, bytes, &opened, &error);
    fuzz_meter_end(128 * size + (128 << 10));
    if (status == WEFT_OK) {
        check_accepted(opened, file, bytes);
        if (weft_safetensors_count(opened) <= MOST_COPIED)
            write_back(opened);
        weft_safetensors_close(opened);
    } else {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(!opened);
        FUZZ_CHECK(status == WEFT_ERR_FILE || status == WEFT_ERR_UNKNOWN_NAME);
    }
    free(file);
    return 0;
}
