/* A checkpoint's folder: config.json, the index (empty: none), then up to three shards, "model.safetensors"
 * the first and "1.safetensors", "2.safetensors" the others, separated by FUZZ_FILES; an empty one is not
 * there. */
#include "src/model/layer.h"
#include "src/model/model_private.h"
#include "tests/fuzz/fuzz.h"

#define MOST_DATA 65536

static void put_text(fuzz_input_t *input, const char *name)
{
    size_t size;
    uint8_t *bytes = fuzz_take_bytes(input, FUZZ_FILES, &size);
    fuzz_file(name, size ? bytes : NULL, size);
    free(bytes);
}

static void put_shard(fuzz_input_t *input, const char *name)
{
    size_t size, left = input->left;
    uint8_t *bytes = left ? fuzz_take_safetensors(input, FUZZ_FILES, MOST_DATA, &size) : NULL;
    fuzz_file(name, bytes && size > 8 ? bytes : NULL, bytes ? size : 0);
    free(bytes);
}

/* Every byte is mapped, and names are in order. */
static void check_accepted(const weft_model_t *model)
{
    volatile uint8_t sum = 0;
    for (uint32_t i = 0; i < weft_model_num_tensors(model); i++) {
        const weft_tensor_t *tensor = weft_model_tensor(model, i);
        const uint8_t *data = tensor->data;
        if (tensor->bytes)
            sum = (uint8_t)(sum + data[0] + data[tensor->bytes - 1]);
        FUZZ_CHECK(weft_model_find(model, tensor->name) == tensor);
        FUZZ_CHECK(weft_model_index(model, tensor->name) == i);
        FUZZ_CHECK(i == 0 || strcmp(weft_model_tensor(model, i - 1)->name, tensor->name) < 0);
    }
}

static void try_layers(const weft_model_t *model)
{
    weft_layers_t *layers = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_layers_create(model, &layers, &error);
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        return;
    }
    for (uint32_t i = 0; i < layers->count; i++)
        FUZZ_CHECK(layers->items[i].num_parts >= 1 && layers->items[i].num_parts <= WEFT_MAX_PARTS);
    weft_layers_destroy(layers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    weft_model_t *model = NULL;
    weft_error_t error = {0};
    put_text(&input, "config.json");
    put_text(&input, "model.safetensors.index.json");
    put_shard(&input, "model.safetensors");
    put_shard(&input, "1.safetensors");
    put_shard(&input, "2.safetensors");
    fuzz_meter_begin();
    weft_status_t status = weft_model_open(fuzz_folder(), &model, &error);
    fuzz_meter_end(256 * size + (512 << 10));
    if (status == WEFT_OK) {
        check_accepted(model);
        try_layers(model);
        weft_model_close(model);
    } else {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(!model);
    }
    return 0;
}
