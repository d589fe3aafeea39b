#include "src/quantize/checkpoint_config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/model/model_private.h"

#define KEY      "quantization_config"
#define LEAF     ".weight"
#define ARGS     "\"symmetric\": true, \"dynamic\": "
#define MX_SCALE ", \"group_size\": 32, \"scale_dtype\": \"torch.uint8\", \"zp_dtype\": \"torch.uint8\""

/* A format of compressed-tensors and its arguments; `inputs` NULL: activations are left alone. */
typedef struct ct_format {
    const char *name, *weights, *inputs;
} ct_format_t;

#define FLOAT8        "\"num_bits\": 8, \"type\": \"float\", "
#define INT8          "\"num_bits\": 8, \"type\": \"int\", "
#define FLOAT4        "\"num_bits\": 4, \"type\": \"float\", "
#define INT4          "\"num_bits\": 4, \"type\": \"int\", "
#define WEIGHTS       ARGS "false"
#define INPUTS        ARGS "true"
#define INT4_GROUP(g) INT4 "\"strategy\": \"group\", \"group_size\": " g ", " WEIGHTS

static const ct_format_t formats[WEFT_KERNEL_COUNT] = {
    [WEFT_KERNEL_FP8_CHANNEL] = {"float-quantized", FLOAT8 "\"strategy\": \"channel\", " WEIGHTS,
                                 FLOAT8 "\"strategy\": \"token\", " INPUTS},
    [WEFT_KERNEL_FP8_TENSOR] = {"float-quantized", FLOAT8 "\"strategy\": \"tensor\", " WEIGHTS,
                                FLOAT8 "\"strategy\": \"tensor\", " INPUTS},
    [WEFT_KERNEL_INT8_CHANNEL] = {"int-quantized", INT8 "\"strategy\": \"channel\", " WEIGHTS,
                                  INT8 "\"strategy\": \"token\", " INPUTS},
    [WEFT_KERNEL_MXFP8] = {"mxfp8-quantized", FLOAT8 "\"strategy\": \"group\", " WEIGHTS MX_SCALE,
                           FLOAT8 "\"strategy\": \"group\", " INPUTS MX_SCALE},
    [WEFT_KERNEL_MXFP4] = {"mxfp4-pack-quantized", FLOAT4 "\"strategy\": \"group\", " WEIGHTS MX_SCALE, NULL},
    [WEFT_KERNEL_INT4_GROUP_32] = {"pack-quantized", INT4_GROUP("32"), NULL},
    [WEFT_KERNEL_INT4_GROUP_64] = {"pack-quantized", INT4_GROUP("64"), NULL},
    [WEFT_KERNEL_INT4_GROUP_128] = {"pack-quantized", INT4_GROUP("128"), NULL},
    [WEFT_KERNEL_NVFP4] = {"nvfp4-pack-quantized",
                           FLOAT4 "\"strategy\": \"tensor_group\", \"group_size\": 16, " WEIGHTS
                                  ", \"scale_dtype\": \"torch.float8_e4m3fn\", "
                                  "\"zp_dtype\": \"torch.float8_e4m3fn\"",
                           NULL},
};

/* ---- modules that stay as they are ---- */

static void add_module(weft_text_t *text, const char *name, bool *first)
{
    char module[WEFT_LAYER_NAME_BYTES];
    snprintf(module, sizeof module, "%s", name);
    size_t length = strlen(module), leaf = strlen(LEAF);
    if (length > leaf && strcmp(module + length - leaf, LEAF) == 0)
        module[length - leaf] = 0;
    weft_text_add(text, *first ? "" : ", ");
    weft_text_add_json_string(text, module);
    *first = false;
}

/* `listed` [tensors of the model]. A tied head has no tensor of its own, but engines have the module. */
static void add_layer(const weft_plan_t *plan, uint32_t index, bool *listed, weft_text_t *text, bool *first)
{
    const weft_layer_t *layer = &plan->layers->items[index];
    if (layer->parts[0].vector || weft_plan_pattern(plan, index)->scheme->kernel != WEFT_KERNEL_CAST)
        return;
    uint32_t count = layer->num_parts * (layer->num_experts ? layer->num_experts : 1);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t tensor = layer->tensors[i];
        if (!listed[tensor])
            add_module(text, weft_model_tensor(plan->model, tensor)->name, first);
        else if (!layer->num_experts)
            add_module(text, layer->name, first);
        listed[tensor] = true;
    }
}

static void add_ignored(const weft_plan_t *plan, weft_text_t *text)
{
    bool first = true, *listed = calloc((size_t)weft_model_num_tensors(plan->model) + 1, sizeof *listed);
    weft_text_add(text, "[");
    for (uint32_t i = 0; i < plan->layers->count && listed; i++)
        add_layer(plan, i, listed, text, &first);
    weft_text_add(text, "]");
    text->failed = text->failed || !listed;
    free(listed);
}

/* ---- the object ---- */

/* Whether every scale of the checkpoint is a power of two: then kernels that want such take them as they are.
 */
static bool powers_of_two(const weft_plan_t *plan)
{
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_pattern_t *pattern = weft_plan_pattern(plan, i);
        if (pattern->scheme->kernel == WEFT_KERNEL_FP8_BLOCK && pattern->profile != WEFT_PROFILE_POW2 &&
            pattern->profile != WEFT_PROFILE_VLLM_POW2)
            return false;
    }
    return true;
}

static void add_fp8(const weft_plan_t *plan, weft_text_t *text)
{
    weft_text_add(text,
                  "{\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", %s\"activation_scheme\": \"dynamic\", "
                  "\"weight_block_size\": [128, 128], \"modules_to_not_convert\": ",
                  powers_of_two(plan) ? "\"scale_fmt\": \"ue8m0\", " : "");
    add_ignored(plan, text);
    weft_text_add(text, "}");
}

static void add_compressed_tensors(const weft_plan_t *plan, const ct_format_t *format, weft_text_t *text)
{
    weft_text_add(text,
                  "{\"quant_method\": \"compressed-tensors\", \"format\": \"%s\", "
                  "\"quantization_status\": \"compressed\", \"config_groups\": {\"group_0\": "
                  "{\"targets\": [\"Linear\"], \"weights\": {%s}, \"input_activations\": ",
                  format->name, format->weights);
    weft_text_add(text, "%s%s%s", format->inputs ? "{" : "", format->inputs ? format->inputs : "null",
                  format->inputs ? "}" : "");
    weft_text_add(text, ", \"output_activations\": null}}, \"ignore\": ");
    add_ignored(plan, text);
    weft_text_add(text, "}");
}

/* ---- the dtype ---- */

static const char *dtype_name(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F32 ? "\"float32\"" : dtype == WEFT_DTYPE_F16 ? "\"float16\"" : "\"bfloat16\"";
}

/* The end of the string that begins at its quote. */
static const char *skip_string(const char *text)
{
    for (text++; *text && *text != '"'; text++)
        text += *text == '\\' && text[1];
    return *text ? text + 1 : text;
}

static const char *skip_blanks(const char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

static bool is_dtype(const char *key, size_t length)
{
    static const char *const keys[] = {"\"torch_dtype\"", "\"dtype\""};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strlen(keys[i]) == length && strncmp(keys[i], key, length) == 0)
            return true;
    return false;
}

/* The end of a value that says a dtype, or nothing; NULL: it is something else. */
static const char *skip_dtype(const char *value)
{
    if (strncmp(value, "null", 4) == 0)
        return value + 4;
    return *value == '"' ? skip_string(value) : NULL;
}

/* Copy [config, end), which was parsed before, with another value behind each dtype of the outermost object;
 * *found: there was one. */
static void copy_with_dtype(const char *config, const char *end, const char *dtype, weft_text_t *text,
                            bool *found)
{
    const char *copied = config;
    unsigned depth = 0;
    for (const char *c = config; c < end;) {
        const char *key = c, *next = *c == '"' ? skip_string(c) : c + 1, *value = skip_blanks(next);
        depth += *c == '{' || *c == '[';
        depth -= *c == '}' || *c == ']';
        c = next;
        if (*key != '"' || depth != 1 || *value != ':' || !is_dtype(key, (size_t)(next - key)))
            continue;
        value = skip_blanks(value + 1);
        if (!(next = skip_dtype(value)))
            continue;
        weft_text_add(text, "%.*s%s", (int)(value - copied), copied, dtype);
        c = copied = next;
        *found = true;
    }
    weft_text_add(text, "%.*s", (int)(end - copied), copied);
}

weft_kernel_id_t weft_checkpoint_kernel(const weft_plan_t *plan)
{
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        weft_kernel_id_t kernel = weft_plan_pattern(plan, i)->scheme->kernel;
        if (kernel != WEFT_KERNEL_CAST)
            return kernel;
    }
    return WEFT_KERNEL_CAST;
}

void weft_checkpoint_config_add(const weft_plan_t *plan, weft_text_t *text)
{
    weft_kernel_id_t kernel = weft_checkpoint_kernel(plan);
    if (kernel == WEFT_KERNEL_FP8_BLOCK)
        add_fp8(plan, text);
    else if (formats[kernel].name)
        add_compressed_tensors(plan, &formats[kernel], text);
}

weft_status_t weft_checkpoint_config_merge(const weft_plan_t *plan, const char *config, weft_text_t *text,
                                           weft_error_t *error)
{
    if (weft_config_has(weft_model_config(plan->model), KEY))
        return weft_fail(error, WEFT_ERR_FILE,
                         "config.json has a " KEY " already: quantize the checkpoint it was made of");
    const weft_scheme_t *all = plan->map.entries[0].scheme;
    bool quantized = weft_checkpoint_kernel(plan) != WEFT_KERNEL_CAST, cast = weft_scheme_is_cast(all);
    bool said = false;
    /* It was parsed before: an object with a model_type, and only white space after it. */
    const char *end = strrchr(config, '}');
    while (end > config && isspace((unsigned char)end[-1]))
        end--;
    if (cast)
        copy_with_dtype(config, end, dtype_name(all->dtype), text, &said);
    else
        weft_text_add(text, "%.*s", (int)(end - config), config);
    bool says = cast && !said && all->dtype != WEFT_DTYPE_BF16; /* of bf16 none says so too */
    if (says)
        weft_text_add(text, ",\n  \"torch_dtype\": %s", dtype_name(all->dtype));
    if (quantized) {
        weft_text_add(text, ",\n  \"" KEY "\": ");
        weft_checkpoint_config_add(plan, text);
    }
    weft_text_add(text, "%s", quantized || says ? "\n}\n" : end);
    return WEFT_OK;
}
