/* config.json: the extents that recipes read, the tensors a configuration asks for, and the shape the decoder
 * makes of it. The first byte chooses the decoder's ranks. */
#include "launch/decoder/shape.h"
#include "src/model/model_private.h"
#include "tests/fuzz/fuzz.h"

/* All that the recipe asks for is then what the recipe takes. */
static void try_complete(weft_model_t *model)
{
    weft_layers_t *layers = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_model_complete(model, &error);
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        return;
    }
    status = weft_layers_create(model, &layers, &error);
    if (status != WEFT_OK)
        fprintf(stderr, "%s\n", error.message);
    FUZZ_CHECK(status == WEFT_OK);
    FUZZ_CHECK(layers->num_ignored == 0);
    weft_layers_destroy(layers);
}

static void try_layers(const weft_model_t *model)
{
    weft_layers_t *layers = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_layers_create(model, &layers, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    else
        weft_layers_destroy(layers);
}

static void try_shape(const weft_model_t *model, unsigned how)
{
    decoder_shape_t shape;
    weft_error_t error = {0};
    uint32_t ranks = 1 + how % 8;
    const decoder_config_t config = {
        .model = model, .tp_size = ranks, .tp_rank = how / 8 % ranks, .expert_parallel = how / 64 & 1};
    weft_status_t status = decoder_shape_read(&config, &shape, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    else
        FUZZ_CHECK(shape.heads && shape.kv_heads && shape.head_dim % 2 == 0 && shape.hidden && shape.vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    unsigned how = (unsigned)fuzz_number(&input, 1);
    char *text = fuzz_take_text(&input, "");
    weft_model_t *model = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_model_create(text, &model, &error);
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        free(text);
        return 0;
    }
    FUZZ_CHECK(weft_model_type(model));
    try_shape(model, how);
    fuzz_meter_begin();
    try_layers(model); /* of no tensors: whatever the numbers, little is allocated */
    fuzz_meter_end(1 << 20);
    double blocks = weft_model_config_number(model, "num_hidden_layers", 0);
    if (blocks <= 16 && fuzz_numbers_below(text, 1u << 20)) {
        double most = 0;
        static const char *const experts[] = {"num_experts", "num_local_experts", "n_routed_experts"};
        for (size_t i = 0; i < sizeof experts / sizeof experts[0]; i++) {
            double found = weft_model_config_number(model, experts[i], 0);
            most = found > most ? found : most;
        }
        if (most <= 32)
            try_complete(model);
    }
    weft_model_close(model);
    free(text);
    return 0;
}
