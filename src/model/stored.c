#include "src/model/stored.h"

#include <string.h>

#include "src/base/error.h"
#include "src/base/text.h"
#include "src/model/model_private.h"

#define KEY     "quantization_config."
#define GROUPS  KEY "config_groups"
#define GROUP   GROUPS ".group_0."
#define WEIGHTS GROUP "weights."

/* One form: what the configuration says, and what it means. */
typedef struct form {
    const char *format;   /* of compressed-tensors; NULL: quant_method fp8 */
    const char *strategy; /* of its weights */
    double bits, group;   /* group 0: any */
    weft_stored_t stored;
} form_t;

#define SCALE ".weight_scale", "weight_scale"
#define ALL   WEFT_STORED_WHOLE
#define ROW_SCALES                                                                                           \
    {                                                                                                        \
        SCALE, WEFT_DTYPE_F32, 1, ALL                                                                        \
    }
#define BYTES(dtype)                                                                                         \
    {                                                                                                        \
        ".weight", "weight", WEFT_DTYPE_##dtype, 1, 1                                                        \
    }
#define PACKED ".weight_packed", "weight_packed"
#define INT4(size)                                                                                           \
    {                                                                                                        \
        "pack-quantized", "group", 4, size,                                                                  \
        {                                                                                                    \
            "int4-group-" #size, ".weight_shape", "weight_shape",                                            \
            {                                                                                                \
                {PACKED, WEFT_DTYPE_I32, 1, 8}, {SCALE, WEFT_DTYPE_BF16, 1, size},                           \
            }                                                                                                \
        }                                                                                                    \
    }

static const form_t forms[] = {
    {NULL,
     NULL,
     8,
     0,
     {"fp8-block",
      NULL,
      NULL,
      {BYTES(F8_E4M3), {".weight_scale_inv", "weight_scale_inv", WEFT_DTYPE_F32, 128, 128}}}},
    {"float-quantized", "channel", 8, 0, {"fp8-channel", NULL, NULL, {BYTES(F8_E4M3), ROW_SCALES}}},
    {"float-quantized",
     "tensor",
     8,
     0,
     {"fp8-tensor", NULL, NULL, {BYTES(F8_E4M3), {SCALE, WEFT_DTYPE_F32, ALL, ALL, .number = true}}}},
    {"int-quantized", "channel", 8, 0, {"int8-channel", NULL, NULL, {BYTES(I8), ROW_SCALES}}},
    INT4(32),
    INT4(64),
    INT4(128),
    {"mxfp8-quantized",
     "group",
     8,
     32,
     {"mxfp8", NULL, NULL, {BYTES(F8_E4M3), {SCALE, WEFT_DTYPE_U8, 1, 32}}}},
    {"mxfp4-pack-quantized",
     "group",
     4,
     32,
     {"mxfp4", NULL, NULL, {{PACKED, WEFT_DTYPE_U8, 1, 2}, {SCALE, WEFT_DTYPE_U8, 1, 32}}}},
    {"nvfp4-pack-quantized",
     "tensor_group",
     4,
     16,
     {"nvfp4",
      NULL,
      NULL,
      {{".weight_packed", "weight", WEFT_DTYPE_U8, 1, 2},
       {SCALE, WEFT_DTYPE_F8_E4M3, 1, 16},
       {".weight_global_scale", "weight_scale_2", WEFT_DTYPE_F32, ALL, ALL, .number = true,
        .inverse = true}}}},
};

/* quant_method modelopt: codes under the plain name, and what to multiply by. */
static const weft_stored_t modelopt_nvfp4 = {
    .scheme = "nvfp4",
    .grids = {{".weight", "weight", WEFT_DTYPE_U8, 1, 2},
              {SCALE, WEFT_DTYPE_F8_E4M3, 1, 16},
              {".weight_scale_2", "weight_scale_2", WEFT_DTYPE_F32, ALL, ALL, .number = true}},
    .calibrated = true,
};

#define NUM_FORMS (sizeof forms / sizeof *forms)

/* ---- what the configuration says ---- */

static const char *word(const weft_config_t *config, const char *key)
{
    return weft_config_string(config, key, "");
}

static weft_status_t read_fp8(const weft_config_t *config, const weft_stored_t **stored, weft_error_t *error)
{
    const char *fmt = weft_config_string(config, KEY "fmt", "e4m3");
    bool blocks = weft_config_array_is(config, KEY "weight_block_size", (const double[]){128, 128}, 2);
    if (strcmp(fmt, "e4m3") != 0)
        return weft_fail(error, WEFT_ERR_FILE,
                         "config.json: quantization_config.fmt is \"%.40s\", expected \"e4m3\"", fmt);
    if (!blocks)
        return weft_fail(error, WEFT_ERR_FILE,
                         "config.json: quantization_config has quant_method fp8 without weight_block_size "
                         "[128, 128], the only one that can be moved");
    if (strcmp(weft_config_string(config, KEY "activation_scheme", "dynamic"), "dynamic") != 0)
        return weft_fail(error, WEFT_ERR_FILE,
                         "config.json: quantization_config.activation_scheme is \"%.40s\", expected "
                         "\"dynamic\": scales of activations are not moved",
                         word(config, KEY "activation_scheme"));
    *stored = &forms[0].stored;
    return WEFT_OK;
}

/* What of compressed-tensors changes the weights, and is in none of the forms. */
static weft_status_t check_weights(const weft_config_t *config, weft_error_t *error)
{
    if (weft_config_count(config, GROUPS) != 1 || !weft_config_has(config, GROUPS ".group_0"))
        return weft_fail(
            error, WEFT_ERR_FILE,
            "config.json: quantization_config.config_groups has %u groups, expected one, group_0",
            weft_config_count(config, GROUPS));
    if (!weft_config_bool(config, WEIGHTS "symmetric", true))
        return weft_fail(
            error, WEFT_ERR_FILE,
            "config.json: the weights are quantized asymmetrically, which weft has no scheme for");
    if (weft_config_has(config, GROUP "input_activations") &&
        !weft_config_bool(config, GROUP "input_activations.dynamic", true))
        return weft_fail(error, WEFT_ERR_FILE,
                         "config.json: activations are quantized with scales of the checkpoint (dynamic is "
                         "false), which are not moved");
    return WEFT_OK;
}

static weft_status_t refuse_form(const weft_config_t *config, weft_error_t *error)
{
    weft_text_t known = {0};
    for (size_t i = 1; i < NUM_FORMS; i++)
        weft_text_add(&known, "%s%s %s (%s)", i > 1 ? ", " : "", forms[i].format, forms[i].strategy,
                      forms[i].stored.scheme);
    weft_fail(
        error, WEFT_ERR_FILE,
        "config.json: compressed-tensors format \"%.40s\" with %g bits, strategy \"%.20s\", group_size %g "
        "cannot be moved; those that can are %s",
        word(config, KEY "format"), weft_config_number(config, WEIGHTS "num_bits", 0),
        word(config, WEIGHTS "strategy"), weft_config_number(config, WEIGHTS "group_size", 0),
        known.data ? known.data : "");
    weft_text_free(&known);
    return WEFT_ERR_FILE;
}

static weft_status_t read_compressed_tensors(const weft_config_t *config, const weft_stored_t **stored,
                                             weft_error_t *error)
{
    const char *format = word(config, KEY "format"), *strategy = word(config, WEIGHTS "strategy");
    double bits = weft_config_number(config, WEIGHTS "num_bits", 0);
    double group = weft_config_number(config, WEIGHTS "group_size", 0);
    WEFT_TRY(check_weights(config, error));
    for (size_t i = 1; i < NUM_FORMS; i++) {
        const form_t *f = &forms[i];
        if (strcmp(f->format, format) != 0 || strcmp(f->strategy, strategy) != 0 || f->bits != bits ||
            (f->group != 0 && f->group != group))
            continue;
        *stored = &f->stored;
        return WEFT_OK;
    }
    return refuse_form(config, error);
}

/* Activations may be quantized or not: that is the engine's. */
static weft_status_t read_modelopt(const weft_config_t *config, const weft_stored_t **stored,
                                   weft_error_t *error)
{
    const char *algorithm = word(config, KEY "quant_algo");
    double group =
        weft_config_number(config, WEIGHTS "group_size", weft_config_number(config, KEY "group_size", 16));
    if (strcmp(algorithm, "NVFP4") != 0 && strcmp(algorithm, "W4A16_NVFP4") != 0)
        return weft_fail(
            error, WEFT_ERR_FILE,
            "config.json: quantization_config has quant_method modelopt and quant_algo \"%.40s\"; those that "
            "can be moved are NVFP4 and W4A16_NVFP4",
            algorithm);
    if (weft_config_count(config, GROUPS) > 1 || group != 16)
        return weft_fail(error, WEFT_ERR_FILE,
                         "config.json: quantization_config, of quant_algo %s, has %u groups and a group_size "
                         "of %g, expected "
                         "one group, and 16",
                         algorithm, weft_config_count(config, GROUPS), group);
    *stored = &modelopt_nvfp4;
    return WEFT_OK;
}

bool weft_stored_leaves_out(const weft_stored_t *stored, const char *tensor)
{
    static const char *const suffixes[] = {".input_scale", ".k_scale", ".v_scale"};
    size_t length = strlen(tensor);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes && stored && stored->calibrated; i++) {
        size_t suffix = strlen(suffixes[i]);
        if (length > suffix && strcmp(tensor + length - suffix, suffixes[i]) == 0)
            return true;
    }
    return false;
}

weft_status_t weft_stored_read(const weft_config_t *config, const weft_stored_t **stored, weft_error_t *error)
{
    const char *method = word(config, KEY "quant_method");
    *stored = NULL;
    if (!weft_config_has(config, "quantization_config"))
        return WEFT_OK;
    if (strcmp(method, "fp8") == 0)
        return read_fp8(config, stored, error);
    if (strcmp(method, "compressed-tensors") == 0)
        return read_compressed_tensors(config, stored, error);
    if (strcmp(method, "modelopt") == 0)
        return read_modelopt(config, stored, error);
    return weft_fail(
        error, WEFT_ERR_FILE,
        "config.json: quantization_config.quant_method is \"%.40s\"; those that can be moved are "
        "fp8, compressed-tensors and modelopt",
        method);
}

static bool has_codes(const weft_tensor_t *tensor, const weft_stored_grid_t *codes)
{
    size_t length = strlen(tensor->name), suffix = strlen(codes->suffix);
    return tensor->dtype == codes->dtype && tensor->num_dims == 2 && length > suffix &&
           strcmp(tensor->name + length - suffix, codes->suffix) == 0;
}

const weft_stored_t *weft_stored_of(const weft_model_t *model)
{
    const weft_stored_t *stored;
    if (weft_stored_read(weft_model_config(model), &stored, NULL) != WEFT_OK || !stored)
        return NULL;
    for (uint32_t i = 0; i < weft_model_num_tensors(model); i++)
        if (has_codes(weft_model_tensor(model, i), &stored->grids[0]))
            return stored;
    return NULL;
}

/* ---- parts ---- */

static uint64_t count(uint64_t extent, uint64_t each)
{
    return (extent + each - 1) / each;
}

weft_status_t weft_stored_part(const weft_stored_grid_t *grid, weft_part_t *part, weft_error_t *error)
{
    uint64_t rows = grid->rows == WEFT_STORED_WHOLE ? part->slab_n : grid->rows;
    uint64_t cols = grid->cols == WEFT_STORED_WHOLE ? part->cols : grid->cols;
    if (part->split == WEFT_SPLIT_VOCAB)
        return weft_fail(error, WEFT_ERR_SHAPE, "part %s: a vocabulary is not moved in quantized form",
                         part->role);
    if (grid->number) {
        *part = (weft_part_t){.role = part->role, .rows = 1, .cols = 1, .vector = true, .slab_n = 1};
        return WEFT_OK;
    }
    bool ragged = grid->rows > 1 || grid->cols == WEFT_STORED_WHOLE; /* blocks may be; groups and words not */
    if (part->cols % cols && !ragged)
        return weft_fail(error, WEFT_ERR_SHAPE, "part %s: %llu columns are no whole groups of %llu",
                         part->role, (unsigned long long)part->cols, (unsigned long long)cols);
    if (part->first_row % rows)
        return weft_fail(error, WEFT_ERR_SHAPE,
                         "part %s: it begins at row %llu of its tensor, inside a block of %llu", part->role,
                         (unsigned long long)part->first_row, (unsigned long long)rows);
    part->of_rows = part->rows;
    part->of_cols = part->cols;
    part->grain_rows = (uint32_t)rows;
    part->grain_cols = (uint32_t)cols;
    part->rows = count(part->rows, rows);
    part->cols = count(part->cols, cols);
    part->first_row /= rows;
    part->slab_n = count(part->slab_n, rows);
    return WEFT_OK;
}
