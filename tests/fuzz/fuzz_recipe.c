/* A recipe's file, a configuration, and lines "name extent extent" of the tensors there are; separated by
 * FUZZ_FILES. */
#include <ctype.h>

#include "src/model/model_private.h"
#include "tests/fuzz/fuzz.h"

#define MOST_TENSORS 256

static void add_tensor(weft_model_t *model, char *line)
{
    uint64_t shape[WEFT_MAX_DIMS + 1];
    uint32_t num_dims = 0;
    char *rest = strchr(line, ' ');
    weft_error_t error = {0};
    if (rest)
        *rest++ = '\0';
    while (rest && isdigit((unsigned char)*rest) && num_dims <= WEFT_MAX_DIMS) {
        shape[num_dims++] = strtoull(rest, &rest, 10);
        rest += *rest == ' ';
    }
    weft_status_t status = weft_model_add(model, line, WEFT_DTYPE_BF16, shape, num_dims, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
}

static void add_tensors(weft_model_t *model, fuzz_input_t *input)
{
    for (unsigned i = 0; i < MOST_TENSORS && input->left; i++) {
        char *line = fuzz_take_text(input, "\n");
        add_tensor(model, line);
        free(line);
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
    for (uint32_t i = 0; i < layers->count; i++) {
        const weft_layer_t *layer = &layers->items[i];
        uint32_t experts = layer->num_experts ? layer->num_experts : 1;
        char name[WEFT_LAYER_NAME_BYTES];
        weft_layer_full_name(layer, name);
        for (uint32_t k = 0; k < experts * layer->num_parts; k++)
            FUZZ_CHECK(layer->tensors[k] < weft_model_num_tensors(model));
        for (uint32_t p = 0; p < layer->num_parts; p++)
            FUZZ_CHECK(layer->parts[p].rows && layer->parts[p].cols);
    }
    weft_layers_destroy(layers);
}

static void try_complete(weft_model_t *model)
{
    weft_error_t error = {0};
    weft_status_t status = weft_model_complete(model, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    else
        try_layers(model);
}

static void try_recipe(const char *path, const char *config, fuzz_input_t *input, bool small)
{
    weft_model_t *model = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_model_create(config, &model, &error);
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        return;
    }
    status = weft_model_set_recipe(model, path, &error);
    if (status == WEFT_OK) {
        add_tensors(model, input);
        try_layers(model);
        if (small)
            try_complete(model);
    } else {
        fuzz_check_error(status, &error);
    }
    weft_model_close(model);
}

static void try_expressions(const char *config, const char *text)
{
    weft_config_t *parsed = NULL;
    weft_error_t error = {0};
    uint64_t value;
    if (weft_config_parse(config, &parsed, NULL) != WEFT_OK)
        return;
    weft_status_t status = weft_recipe_evaluate(parsed, text, &value, &error);
    if (status == WEFT_OK)
        FUZZ_CHECK(value <= INT32_MAX);
    else
        fuzz_check_error(status, &error);
    weft_config_destroy(parsed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    char *recipe = fuzz_take_text(&input, FUZZ_FILES), *config = fuzz_take_text(&input, FUZZ_FILES);
    bool small = fuzz_numbers_below(recipe, 8) && fuzz_numbers_below(config, 8) && size < 4096;
    const char *path = fuzz_file("recipe.json", recipe, strlen(recipe));
    if (recipe[0] == '=') /* an expression instead of a recipe */
        try_expressions(config, recipe + 1);
    else
        try_recipe(path, config, &input, small);
    free(recipe);
    free(config);
    return 0;
}
