/* weft gen: a checkpoint with the exact shapes of a model, sparse or of random numbers. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <weft/model.h>

#include "kernels/arith.h"
#include "launch/weft/commands.h"
#include "launch/weft/gen_models.h"
#include "launch/weft/options.h"
#include "src/base/error.h"
#include "src/base/hash.h"
#include "src/base/text.h"
#include "src/model/json.h"
#include "src/model/safetensors.h"

#define MAX_CONFIG_BYTES (16u << 20)

typedef struct gen_arguments {
    const char *name, *config, *set, *recipe;
    bool list, random, ships_head;
    uint32_t seed;
} gen_arguments_t;

/* ---- the configuration ---- */

static weft_status_t set_one(cJSON *root, const char *word, weft_error_t *error)
{
    char key[64];
    size_t length = strcspn(word, "=");
    cJSON *value = NULL;
    if (length == 0 || length >= sizeof key || word[length] != '=')
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--set %.60s: expected KEY=VALUE", word);
    snprintf(key, sizeof key, "%.*s", (int)length, word);
    const char *text = word + length + 1;
    if (weft_json_parse(text, strlen(text), " ", &value, NULL) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--set %.60s: \"%.40s\" is no JSON value", word, text);
    cJSON_DeleteItemFromObjectCaseSensitive(root, key);
    if (!cJSON_AddItemToObject(root, key, value)) {
        cJSON_Delete(value);
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the configuration");
    }
    return WEFT_OK;
}

static weft_status_t set_all(cJSON *root, const char *list, weft_error_t *error)
{
    char word[128];
    while (list && *list) {
        size_t length = strcspn(list, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, list);
        WEFT_TRY(set_one(root, word, error));
        list += length + (list[length] == ',');
    }
    return WEFT_OK;
}

static weft_status_t read_config(gen_arguments_t *arguments, cJSON **root, weft_error_t *error)
{
    if (arguments->config)
        return weft_json_read(arguments->config, MAX_CONFIG_BYTES, root, error);
    const gen_model_t *model = gen_model_find(arguments->name);
    if (!model)
        return weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
                         "no model \"%.100s\"; weft gen --list names those there are", arguments->name);
    arguments->ships_head = model->ships_head;
    return weft_json_parse(model->config, strlen(model->config), "", root, error);
}

/* ---- numbers ---- */

/* A word of random bits for each place of a tensor, whatever the pieces it is made in. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* About a normal distribution, sigma 0.02: the sum of four bytes. */
static float weight_of(uint64_t word)
{
    uint32_t sum = (uint32_t)(word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24 & 255);
    return ((float)sum - 510.0f) * (0.02f / 147.8f);
}

static weft_status_t make_random(void *user, const weft_tensor_t *tensor, uint64_t begin, size_t bytes,
                                 void *out, weft_error_t *error)
{
    (void)error;
    const gen_arguments_t *arguments = user;
    size_t element = weft_dtype_bytes(tensor->dtype);
    uint64_t name = weft_hash64(tensor->name, strlen(tensor->name));
    uint64_t seed = name + arguments->seed * 0x9E3779B97F4A7C15u, first = begin / element;
    for (size_t i = 0; i < bytes / element; i++) {
        float x = weight_of(mix(seed + (first + i) * 0x9E3779B97F4A7C15u));
        if (tensor->dtype == WEFT_DTYPE_F32)
            ((float *)out)[i] = x;
        else
            ((uint16_t *)out)[i] = weft_bf16_from_f32(x);
    }
    return WEFT_OK;
}

/* ---- files ---- */

static weft_status_t write_text(const char *path, const char *text, weft_error_t *error)
{
    FILE *file = fopen(path, "w");
    bool written = file && fputs(text, file) >= 0 && fputc('\n', file) != EOF;
    if (file && fclose(file) != 0)
        written = false;
    return written ? WEFT_OK : weft_fail(error, WEFT_ERR_IO, "%s: %s", path, strerror(errno));
}

static weft_status_t write_weights(const gen_arguments_t *arguments, const weft_model_t *model,
                                   const char *path, weft_error_t *error)
{
    uint32_t count = weft_model_num_tensors(model);
    uint64_t bytes = 0;
    weft_tensor_t *tensors = malloc((count + 1) * sizeof *tensors);
    if (!tensors)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %u tensors", count);
    for (uint32_t i = 0; i < count; i++) {
        tensors[i] = *weft_model_tensor(model, i);
        bytes += tensors[i].bytes;
    }
    weft_status_t status = weft_safetensors_write_made(
        path, tensors, count, NULL, 0, arguments->random ? make_random : NULL, (void *)arguments, error);
    free(tensors);
    if (status == WEFT_OK)
        printf("%s: %u tensors, %.1f GB%s\n", path, count, (double)bytes / 1e9,
               arguments->random ? "" : " in a hole, which reads as zeros");
    return status;
}

/* A tied model has no head of its own; some checkpoints hold one all the same. */
static weft_status_t ship_head(weft_model_t *model, weft_error_t *error)
{
    const weft_tensor_t *embedding = weft_model_find(model, "model.embed_tokens.weight");
    if (!embedding || weft_model_find(model, "lm_head.weight"))
        return WEFT_OK;
    return weft_model_add(model, "lm_head.weight", embedding->dtype, embedding->shape, embedding->num_dims,
                          error);
}

static weft_status_t write_checkpoint(const gen_arguments_t *arguments, const char *config, const char *out,
                                      weft_error_t *error)
{
    weft_model_t *model = NULL;
    weft_text_t weights = {0}, settings = {0};
    weft_text_add(&weights, "%s/model.safetensors", out);
    weft_text_add(&settings, "%s/config.json", out);
    weft_status_t status = weights.failed || settings.failed
                               ? weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a path")
                               : weft_model_create(config, &model, error);
    if (status == WEFT_OK && arguments->recipe)
        status = weft_model_set_recipe(model, arguments->recipe, error);
    if (status == WEFT_OK)
        status = weft_model_complete(model, error);
    if (status == WEFT_OK && arguments->ships_head)
        status = ship_head(model, error);
    if (status == WEFT_OK && mkdir(out, 0777) != 0 && errno != EEXIST)
        status = weft_fail(error, WEFT_ERR_IO, "%s: %s", out, strerror(errno));
    if (status == WEFT_OK)
        status = write_weights(arguments, model, weights.data, error);
    if (status == WEFT_OK)
        status = write_text(settings.data, config, error);
    weft_model_close(model);
    weft_text_free(&weights);
    weft_text_free(&settings);
    return status;
}

static weft_status_t generate(gen_arguments_t *arguments, const char *out, weft_error_t *error)
{
    cJSON *root = NULL;
    char *config = NULL;
    WEFT_TRY(read_config(arguments, &root, error));
    weft_status_t status = set_all(root, arguments->set, error);
    if (status == WEFT_OK && !(config = cJSON_Print(root)))
        status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the configuration");
    if (status == WEFT_OK)
        status = write_checkpoint(arguments, config, out, error);
    cJSON_free(config);
    cJSON_Delete(root);
    return status;
}

static int list_models(void)
{
    for (unsigned i = 0; gen_model_at(i); i++)
        printf("%s\n", gen_model_at(i)->name);
    return EXIT_OK;
}

int command_gen(int argc, char **argv)
{
    gen_arguments_t arguments = {.seed = 0};
    const option_row_t options[] = {
        {"list", OPTION_FLAG, &arguments.list, NULL, "name the models, and nothing else"},
        {"config", OPTION_TEXT, &arguments.config, "FILE",
         "of the model with this config.json; then only OUT is given"},
        {"recipe", OPTION_TEXT, &arguments.recipe, "FILE", "for a model_type that weft does not know"},
        {"set", OPTION_TEXT, &arguments.set, "KEY=VALUE,...",
         "change the configuration, such as num_hidden_layers=2"},
        {"random", OPTION_FLAG, &arguments.random, NULL,
         "write weight-like numbers, instead of a hole that reads as zeros"},
        {"seed", OPTION_COUNT, &arguments.seed, "N", "of the numbers (default 0)"},
    };
    const command_spec_t spec = {
        .name = "gen",
        .synopsis = "NAME OUT [options]\n       weft gen --config FILE OUT [options]",
        .about =
            "Write a checkpoint with the tensors of a real model, exact in name, shape and dtype, into the\n"
            "directory OUT. Without --random it takes no disk beyond its header, so that a plan of a model "
            "of any\n"
            "size can be made.",
        .options = options,
        .num_options = sizeof options / sizeof options[0],
        .min_positional = 0,
        .max_positional = 2,
        .positional_names = "NAME or OUT",
    };
    const char *words[2] = {NULL, NULL};
    unsigned count = 0;
    weft_error_t error;
    int code = options_parse(&spec, argc, argv, false, words, &count);
    if (code >= 0)
        return code;
    if (arguments.list)
        return list_models();
    if (count != (arguments.config ? 1u : 2u)) {
        fprintf(stderr, "weft gen: expected %s\n",
                arguments.config ? "OUT alone with --config" : "NAME and OUT");
        return EXIT_USAGE;
    }
    arguments.name = arguments.config ? NULL : words[0];
    return generate(&arguments, words[count - 1], &error) == WEFT_OK ? EXIT_OK : report_error("gen", &error);
}
