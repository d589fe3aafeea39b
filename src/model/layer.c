/* Applies a recipe to a model.
 *
 * In:        a model and the recipe of its model_type.
 * Out:       layers in forward order, each part with its tensor.
 * Invariant: when this succeeds every tensor of the checkpoint is in a layer or counted as ignored.
 */
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/base/text.h"
#include "src/model/layer.h"
#include "src/model/model_private.h"
#include "src/model/names.h"
#include "src/model/recipe_file.h"
#include "src/model/shape.h"
#include "src/model/stored.h"

#define NAME_BYTES  256 /* templates are short and belong to the library */
#define MAX_STACKED 65536u
#define MAX_BLOCKS  4096u /* that need not have a tensor each: so many times all rows are tried */

/* Tensors that a configuration may ask for: what it says is all that sizes them. Kimi-K2 has 70 thousand. */
#define MAX_COMPLETED (1u << 20)
#define SPARE_LAYERS  1024u

typedef struct builder {
    const weft_model_t *model;
    const weft_config_t *config;
    const weft_recipe_t *recipe;
    weft_recipe_dims_t dims;
    const weft_stored_t *stored; /* NULL: no matrix is quantized */
    bool tied;                   /* the head reads the embedding */
    bool *taken;                 /* by position of the tensor in the model */
    weft_model_t
        *completed; /* to which tensors that are missing are added, instead of layers made; or NULL */
    WEFT_ARRAY(weft_layer_t) layers;
    uint32_t num_ignored;
} builder_t;

/* Where a row stands while it is applied. */
typedef struct place {
    uint32_t row;
    int32_t block; /* -1: outside of blocks */
    uint32_t expert;
} place_t;

/* Write the template with {L} and {E} filled in. Returns its length. */
static size_t expand(const char *template, const place_t *place, char out[NAME_BYTES])
{
    size_t used = 0;
    for (const char *c = template; *c && used < NAME_BYTES - 16;) {
        bool block = strncmp(c, "{L}", 3) == 0, expert = strncmp(c, "{E}", 3) == 0;
        if (block || expert)
            used += (size_t)snprintf(out + used, NAME_BYTES - used, "%" PRIu32,
                                     block ? (uint32_t)place->block : place->expert);
        else
            out[used++] = *c;
        c += block || expert ? 3 : 1;
    }
    out[used] = 0;
    return used;
}

/* The name in the checkpoint of what the template and the row's suffix say. */
static void tensor_name(const char *template, const weft_recipe_row_t *row, const place_t *place,
                        char out[NAME_BYTES])
{
    size_t used = expand(template, place, out);
    if (row->suffix)
        snprintf(out + used, NAME_BYTES - used, "%s", row->suffix);
    else
        snprintf(out + used, NAME_BYTES - used, ".%s", row->leaf);
}

static const char *part_template(const builder_t *builder, const weft_recipe_row_t *row, uint32_t part)
{
    return row->tied_to && builder->tied ? row->tied_to : row->parts[part].tensor;
}

static uint32_t count_parts(const weft_recipe_row_t *row)
{
    uint32_t count = 0;
    while (count < WEFT_MAX_PARTS && row->parts[count].tensor)
        count++;
    return count;
}

/* The name in the checkpoint of a grid over a part's matrix. */
static void stored_name(const builder_t *builder, const weft_recipe_row_t *row, const place_t *place,
                        uint32_t part, const char *suffix, char out[NAME_BYTES])
{
    size_t used = expand(part_template(builder, row, part), place, out);
    snprintf(out + used, NAME_BYTES - used, "%s", suffix);
}

/* Whether the codes of a part's matrix are there. Rows whose tensors hold all experts have no such form. */
static bool part_is_stored(const builder_t *builder, const weft_recipe_row_t *row, const place_t *place,
                           uint32_t part)
{
    char name[NAME_BYTES];
    if (!builder->stored || row->suffix || strcmp(row->leaf, "weight") != 0 ||
        row->parts[part].rows == WEFT_DIM_VECTOR)
        return false;
    const weft_stored_grid_t *codes = &builder->stored->grids[0];
    stored_name(builder, row, place, part, codes->suffix, name);
    const weft_tensor_t *tensor = weft_model_find(builder->model, name);
    return tensor && tensor->dtype == codes->dtype;
}

static bool any_part_stored(const builder_t *builder, const weft_recipe_row_t *row, const place_t *place)
{
    for (uint32_t i = 0; i < count_parts(row); i++)
        if (part_is_stored(builder, row, place, i))
            return true;
    return false;
}

static bool any_part_there(const builder_t *builder, const weft_recipe_row_t *row, const place_t *place)
{
    char name[NAME_BYTES];
    for (uint32_t i = 0; i < count_parts(row); i++) {
        tensor_name(part_template(builder, row, i), row, place, name);
        if (weft_model_find(builder->model, name))
            return true;
    }
    return any_part_stored(builder, row, place);
}

/* Whether an earlier row has made this layer. */
static bool made_already(const builder_t *builder, const weft_recipe_row_t *row, const place_t *place)
{
    char name[NAME_BYTES];
    expand(row->layer, place, name);
    for (size_t i = builder->layers.count; i > 0; i--) {
        const weft_layer_t *layer = &builder->layers.items[i - 1];
        if (layer->block != place->block)
            return false;
        if (strcmp(layer->name, name) == 0 && strcmp(layer->leaf, row->leaf) == 0)
            return true;
    }
    return false;
}

static bool row_applies(const builder_t *builder, const weft_recipe_row_t *row, const place_t *place)
{
    if ((row->from && (uint64_t)place->block < builder->dims.of[row->from]) ||
        (row->until && (uint64_t)place->block >= builder->dims.of[row->until]))
        return false;
    if (made_already(builder, row, place))
        return false;
    if (row->when && !row->when(builder->config, (uint32_t)place->block))
        return false;
    if (!(row->flags & WEFT_ROW_OPTIONAL))
        return true;
    if (row->required_by && weft_config_bool(builder->config, row->required_by, false))
        return true;
    return any_part_there(builder, row, place);
}

/* Where the part begins in its tensor, and how many rows there are in it: those of all parts that name it. */
static void place_in_tensor(const builder_t *builder, const weft_recipe_row_t *row, uint32_t index,
                            weft_part_t *part)
{
    part->stacked = row->flags & WEFT_ROW_STACKED;
    part->transposed = row->flags & WEFT_ROW_TRANSPOSED;
    for (uint32_t i = 0; i < count_parts(row); i++) {
        bool same = strcmp(row->parts[i].tensor, row->parts[index].tensor) == 0;
        uint64_t rows = part->vector ? 1 : builder->dims.of[row->parts[i].rows];
        part->first_row += same && i < index ? rows : 0;
        part->slab_n += same ? rows : 0;
    }
}

static weft_part_t make_part(const builder_t *builder, const weft_recipe_part_t *from, const char *template)
{
    const char *dot = strrchr(template, '.');
    weft_part_t part = {.role = dot ? dot + 1 : template, .split = from->split};
    part.vector = from->rows == WEFT_DIM_VECTOR;
    part.rows = part.vector ? 1 : builder->dims.of[from->rows];
    part.cols = builder->dims.of[from->cols];
    if (from->split == WEFT_SPLIT_HEADS || from->split == WEFT_SPLIT_KV_HEADS)
        part.head_rows = builder->dims.of[from->head ? from->head : WEFT_DIM_HEAD];
    else if (from->head)
        part.head_rows = builder->dims.of[from->head];
    return part;
}

/* The shape of a part's tensor; returns the number of dimensions. */
static uint32_t expected_shape(const weft_part_t *part, uint32_t num_experts, uint64_t shape[3])
{
    uint32_t n = 0;
    if (part->stacked)
        shape[n++] = num_experts;
    if (!part->vector)
        shape[n++] = weft_part_slab_rows(part);
    shape[n++] = weft_part_slab_cols(part);
    return n;
}

static weft_status_t check_shape(const weft_tensor_t *tensor, const weft_part_t *part,
                                 const weft_layer_t *layer, weft_error_t *error)
{
    uint64_t shape[3];
    uint32_t num_dims = expected_shape(part, layer->num_experts, shape);
    if (tensor->num_dims != num_dims || memcmp(tensor->shape, shape, num_dims * sizeof *shape) != 0) {
        char found_text[WEFT_SHAPE_TEXT_BYTES], expected_text[WEFT_SHAPE_TEXT_BYTES];
        return weft_fail(
            error, WEFT_ERR_SHAPE, "layer '%s': tensor '%s' has shape %s, expected %s by the configuration",
            layer->name, tensor->name, weft_shape_text(tensor->shape, tensor->num_dims, found_text),
            weft_shape_text(shape, num_dims, expected_text));
    }
    return WEFT_OK;
}

static weft_status_t check_tensor(const weft_tensor_t *tensor, const weft_part_t *part,
                                  const weft_layer_t *layer, weft_error_t *error)
{
    WEFT_TRY(check_shape(tensor, part, layer, error));
    if (tensor->dtype != WEFT_DTYPE_F32 && tensor->dtype != WEFT_DTYPE_F16 &&
        tensor->dtype != WEFT_DTYPE_BF16)
        return weft_fail(error, WEFT_ERR_SHAPE,
                         "layer '%s': tensor '%s' has dtype %s, expected F32, F16 or BF16", layer->name,
                         tensor->name, weft_dtype_name(tensor->dtype));
    return WEFT_OK;
}

/* A part's tensor, as an engine would have it in a checkpoint. */
static weft_status_t complete_tensor(const builder_t *builder, const char *name, const weft_layer_t *layer,
                                     const weft_part_t *part, weft_error_t *error)
{
    uint64_t shape[3];
    uint32_t num_dims = expected_shape(part, layer->num_experts, shape);
    if (weft_model_find(builder->model, name))
        return WEFT_OK;
    if (weft_model_num_tensors(builder->model) >= MAX_COMPLETED)
        return weft_fail(error, WEFT_ERR_FILE,
                         "the configuration's blocks and experts make more than %u tensors", MAX_COMPLETED);
    return weft_model_add(builder->completed, name, layer->keep_f32 ? WEFT_DTYPE_F32 : WEFT_DTYPE_BF16, shape,
                          num_dims, error);
}

static weft_status_t take_tensor(builder_t *builder, const weft_recipe_row_t *row, const place_t *place,
                                 uint32_t part, weft_layer_t *layer, weft_error_t *error)
{
    char name[NAME_BYTES];
    tensor_name(part_template(builder, row, part), row, place, name);
    if (builder->completed)
        return complete_tensor(builder, name, layer, &layer->parts[part], error);
    uint32_t index = weft_model_index(builder->model, name);
    if (index == WEFT_NAMES_NONE)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR, "layer '%s': tensor '%s' is not in the checkpoint",
                         layer->name, name);
    const weft_tensor_t *tensor = weft_model_tensor(builder->model, index);
    WEFT_TRY(check_tensor(tensor, &layer->parts[part], layer, error));
    uint32_t position = place->expert * layer->num_parts + part;
    if (position == 0)
        layer->dtype = tensor->dtype;
    if (tensor->dtype != layer->dtype)
        return weft_fail(error, WEFT_ERR_SHAPE,
                         "layer '%s': tensor '%s' has dtype %s, expected %s as the others have", layer->name,
                         name, weft_dtype_name(tensor->dtype), weft_dtype_name(layer->dtype));
    layer->tensors[position] = index;
    builder->taken[index] = true;
    return WEFT_OK;
}

/* What a user's recipe may get wrong: extents without sense together. */
static weft_status_t check_part(const weft_layer_t *layer, const weft_part_t *part, const char *name,
                                weft_error_t *error)
{
    uint64_t cut = part->vector ? part->cols : part->rows;
    bool heads = part->split == WEFT_SPLIT_HEADS || part->split == WEFT_SPLIT_KV_HEADS;
    if (part->rows == 0 || part->cols == 0)
        return weft_fail(error, WEFT_ERR_FILE, "layer '%s', part %s: an extent is 0", name, part->role);
    if (heads && (part->head_rows == 0 || cut % part->head_rows))
        return weft_fail(error, WEFT_ERR_FILE,
                         "layer '%s', part %s: %" PRIu64 " rows are no whole heads of %" PRIu64, name,
                         part->role, cut, part->head_rows);
    if (part->slab_n > INT32_MAX || part->cols > INT32_MAX)
        return weft_fail(error, WEFT_ERR_FILE, "layer '%s', part %s: more than 2^31 - 1 %s", name, part->role,
                         part->cols > INT32_MAX ? "columns" : "rows");
    if (!part->vector && part->cols != layer->parts[0].cols)
        return weft_fail(error, WEFT_ERR_FILE,
                         "layer '%s', part %s: %" PRIu64 " columns below a part of %" PRIu64, name,
                         part->role, part->cols, layer->parts[0].cols);
    return WEFT_OK;
}

/* A rank may hold all of a layer, and counts its rows (of vectors the elements) in 32 bits. */
static weft_status_t check_whole(const weft_layer_t *layer, const char *name, weft_error_t *error)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < layer->num_parts; i++)
        sum += layer->parts[i].vector ? layer->parts[i].cols : layer->parts[i].rows;
    return sum <= INT32_MAX
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_FILE,
                           "layer '%s': its parts have %" PRIu64 " rows, at most 2^31 - 1 can be", name, sum);
}

/* The layer without its tensors; its name and the room for them are allocated. */
static weft_status_t begin_layer(builder_t *builder, const weft_recipe_row_t *row, const place_t *place,
                                 weft_layer_t *layer, weft_error_t *error)
{
    char name[NAME_BYTES];
    bool experts = row->flags & WEFT_ROW_EXPERTS;
    expand(row->layer, place, name);
    *layer = (weft_layer_t){.joint = experts ? '_' : '.',
                            .leaf = row->leaf,
                            .block = place->block,
                            .quantize = row->flags & WEFT_ROW_QUANTIZE,
                            .keep_f32 = row->flags & WEFT_ROW_KEEP_F32,
                            .num_experts = experts ? builder->dims.num_experts : 0,
                            .num_parts = count_parts(row),
                            .row = place->row};
    for (uint32_t i = 0; i < layer->num_parts; i++)
        layer->parts[i] = make_part(builder, &row->parts[i], part_template(builder, row, i));
    for (uint32_t i = 0; i < layer->num_parts; i++) {
        place_in_tensor(builder, row, i, &layer->parts[i]);
        WEFT_TRY(check_part(layer, &layer->parts[i], name, error));
    }
    WEFT_TRY(check_whole(layer, name, error));
    if (experts && !layer->num_experts)
        return weft_fail(error, WEFT_ERR_FILE, "layer '%s' has experts, the configuration none", name);
    /* Before the configuration's word sizes an allocation. */
    bool stacked = row->flags & WEFT_ROW_STACKED;
    if ((stacked || builder->completed) && layer->num_experts > MAX_STACKED)
        return weft_fail(error, WEFT_ERR_SHAPE, "layer '%s': %" PRIu32 " experts, expected at most %u", name,
                         layer->num_experts, MAX_STACKED);
    if (!stacked && !builder->completed && layer->num_experts > weft_model_num_tensors(builder->model))
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR,
                         "layer '%s': the configuration has %" PRIu32 " experts, the checkpoint only %" PRIu32
                         " tensors",
                         name, layer->num_experts, weft_model_num_tensors(builder->model));
    size_t count = (size_t)(experts ? layer->num_experts : 1) * layer->num_parts;
    layer->name = strdup(name);
    layer->tensors = calloc(count, sizeof *layer->tensors);
    if (!layer->name || !layer->tensors || !WEFT_ARRAY_PUSH(&builder->layers, *layer)) {
        free(layer->name);
        free(layer->tensors);
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for layer '%s'", name);
    }
    return WEFT_OK;
}

/* Layers are made of tensors, which no two share but where embeddings are tied. */
static weft_status_t check_count(const builder_t *builder, weft_error_t *error)
{
    uint64_t most = builder->completed ? MAX_COMPLETED
                                       : 2 * (uint64_t)weft_model_num_tensors(builder->model) + SPARE_LAYERS;
    if (builder->layers.count < most)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_FILE, "the recipe makes %zu layers of %" PRIu32 " tensors, and more",
                     builder->layers.count, weft_model_num_tensors(builder->model));
}

/* ---- a matrix that is quantized already ---- */

static weft_status_t find_stored(builder_t *builder, const weft_layer_t *layer, const char *name,
                                 uint32_t *index, weft_error_t *error)
{
    *index = weft_model_index(builder->model, name);
    if (*index == WEFT_NAMES_NONE)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR,
                         "layer '%s': tensor '%s' is not in the checkpoint, whose config.json says %s",
                         layer->name, name, builder->stored->scheme);
    builder->taken[*index] = true;
    return WEFT_OK;
}

static bool stored_dtype_fits(const weft_stored_grid_t *grid, weft_dtype_t dtype)
{
    bool widens = grid->dtype == WEFT_DTYPE_F32 && !grid->inverse;
    return dtype == grid->dtype || (widens && (dtype == WEFT_DTYPE_BF16 || dtype == WEFT_DTYPE_F16));
}

static weft_status_t check_stored(const builder_t *builder, const weft_stored_grid_t *grid,
                                  const weft_tensor_t *tensor, const weft_layer_t *layer, uint32_t part,
                                  weft_error_t *error)
{
    bool scalar = grid->number && tensor->num_dims == 0; /* one number, either way */
    if (!scalar)
        WEFT_TRY(check_shape(tensor, &layer->parts[part], layer, error));
    if (stored_dtype_fits(grid, tensor->dtype) && tensor->dtype == layer->dtype)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_SHAPE, "layer '%s': tensor '%s' has dtype %s, expected %s by %s",
                     layer->name, tensor->name, weft_dtype_name(tensor->dtype),
                     weft_dtype_name(stored_dtype_fits(grid, layer->dtype) ? layer->dtype : grid->dtype),
                     builder->stored->scheme);
}

/* Parts that an engine fuses share their number. What a trainer has in memory is not looked at. */
static weft_status_t check_same_number(const weft_tensor_t *first, const weft_tensor_t *tensor,
                                       const weft_layer_t *layer, weft_error_t *error)
{
    if (!first->data || !tensor->data || memcmp(first->data, tensor->data, tensor->bytes) == 0)
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_MISFIT,
        "layer '%s': '%s' and '%s' differ, and an engine that fuses them has one number for both: "
        "quantize the checkpoint it was made of, with weft quantize",
        layer->name, first->name, tensor->name);
}

static weft_status_t take_stored(builder_t *builder, const weft_recipe_row_t *row, const place_t *place,
                                 const weft_stored_grid_t *grid, uint32_t part, weft_layer_t *layer,
                                 weft_error_t *error)
{
    char name[NAME_BYTES];
    uint32_t index, position = place->expert * layer->num_parts + (grid->number ? 0 : part);
    stored_name(builder, row, place, part, grid->suffix, name);
    WEFT_TRY(find_stored(builder, layer, name, &index, error));
    const weft_tensor_t *tensor = weft_model_tensor(builder->model, index);
    if (place->expert == 0 && part == 0)
        layer->dtype = tensor->dtype;
    WEFT_TRY(check_stored(builder, grid, tensor, layer, grid->number ? 0 : part, error));
    if (grid->number && part)
        return check_same_number(weft_model_tensor(builder->model, layer->tensors[position]), tensor, layer,
                                 error);
    layer->tensors[position] = index;
    return WEFT_OK;
}

/* The shape is known anyway; where it is said it has to be right. */
static weft_status_t check_said_shape(builder_t *builder, const weft_recipe_row_t *row, const place_t *place,
                                      uint32_t part, const weft_layer_t *layer, weft_error_t *error)
{
    char name[NAME_BYTES], found[WEFT_SHAPE_TEXT_BYTES];
    uint32_t index;
    const weft_part_t *grid = &layer->parts[part];
    uint64_t expected[2] = {grid->slab_n * grid->grain_rows, grid->of_cols}, said[2];
    stored_name(builder, row, place, part, builder->stored->shape_suffix, name);
    WEFT_TRY(find_stored(builder, layer, name, &index, error));
    const weft_tensor_t *tensor = weft_model_tensor(builder->model, index);
    if (tensor->dtype != WEFT_DTYPE_I64 || tensor->bytes != sizeof said)
        return weft_fail(error, WEFT_ERR_SHAPE, "layer '%s': tensor '%s' is %s %s, expected I64 [2]",
                         layer->name, name, weft_dtype_name(tensor->dtype),
                         weft_shape_text(tensor->shape, tensor->num_dims, found));
    if (!tensor->data)
        return WEFT_OK;
    memcpy(said, tensor->data, sizeof said);
    if (said[0] == expected[0] && said[1] == expected[1])
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_SHAPE,
                     "layer '%s': tensor '%s' says %" PRIu64 " x %" PRIu64 ", expected %" PRIu64 " x %" PRIu64
                     " by the configuration",
                     layer->name, name, said[0], said[1], expected[0], expected[1]);
}

/* Make the layer of a matrix that of grid `index` over it. */
static weft_status_t become_grid(const builder_t *builder, uint32_t index, weft_layer_t *layer,
                                 weft_error_t *error)
{
    const weft_stored_t *stored = builder->stored;
    const weft_stored_grid_t *grid = &stored->grids[index];
    for (uint32_t i = 0; i < layer->num_parts; i++)
        if (weft_stored_part(grid, &layer->parts[i], error) != WEFT_OK)
            return weft_error_prefix(error, "layer '%s', %s", layer->name, stored->scheme);
    layer->stored = stored;
    layer->leaf = grid->leaf;
    layer->stored_leaf = grid->suffix + 1;
    layer->quantize = index == 0;
    layer->keep_f32 = grid->dtype == WEFT_DTYPE_F32;
    layer->number = grid->number;
    layer->inverse = grid->inverse;
    bool last = index + 1 == WEFT_STORED_GRIDS || !stored->grids[index + 1].suffix;
    layer->shape_leaf = last ? stored->shape_leaf : NULL;
    return WEFT_OK;
}

static weft_status_t add_grid(builder_t *builder, place_t place, uint32_t index, weft_error_t *error)
{
    const weft_recipe_row_t *row = &builder->recipe->rows[place.row];
    weft_layer_t made;
    WEFT_TRY(check_count(builder, error));
    WEFT_TRY(begin_layer(builder, row, &place, &made, error));
    weft_layer_t *layer = &builder->layers.items[builder->layers.count - 1];
    uint32_t experts = layer->num_experts ? layer->num_experts : 1, parts = layer->num_parts;
    WEFT_TRY(become_grid(builder, index, layer, error));
    layer->num_parts = layer->number ? 1 : parts;
    for (place.expert = 0; place.expert < experts; place.expert++)
        for (uint32_t part = 0; part < parts; part++) {
            WEFT_TRY(take_stored(builder, row, &place, &builder->stored->grids[index], part, layer, error));
            if (layer->shape_leaf)
                WEFT_TRY(check_said_shape(builder, row, &place, part, layer, error));
        }
    return WEFT_OK;
}

static weft_status_t add_grids(builder_t *builder, place_t place, weft_error_t *error)
{
    for (uint32_t i = 0; i < WEFT_STORED_GRIDS && builder->stored->grids[i].suffix; i++)
        WEFT_TRY(add_grid(builder, place, i, error));
    return WEFT_OK;
}

static weft_status_t add_layer(builder_t *builder, place_t place, weft_error_t *error)
{
    const weft_recipe_row_t *row = &builder->recipe->rows[place.row];
    if (!row_applies(builder, row, &place))
        return WEFT_OK;
    if (any_part_stored(builder, row, &place))
        return add_grids(builder, place, error);
    weft_layer_t made;
    WEFT_TRY(check_count(builder, error));
    WEFT_TRY(begin_layer(builder, row, &place, &made, error));
    weft_layer_t *layer = &builder->layers.items[builder->layers.count - 1];
    uint32_t experts = layer->num_experts ? layer->num_experts : 1;
    if (builder->stored)
        layer->quantize = false; /* engines leave what is not quantized there as it is */
    for (place.expert = 0; place.expert < experts; place.expert++) {
        for (uint32_t part = 0; part < layer->num_parts; part++)
            WEFT_TRY(take_tensor(builder, row, &place, part, layer, error));
    }
    return WEFT_OK;
}

static bool row_repeats(const weft_recipe_row_t *row)
{
    return strstr(row->layer, "{L}") != NULL;
}

/* Where all rows are optional, or made for some blocks only, no tensor is missing however many blocks the
 * configuration counts. */
static weft_status_t check_blocks(const builder_t *builder, uint32_t block, weft_error_t *error)
{
    if (builder->completed || block < MAX_BLOCKS || block <= weft_model_num_tensors(builder->model))
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_MISSING_TENSOR,
                     "the configuration has %" PRIu32 " blocks, the checkpoint only %" PRIu32 " tensors",
                     builder->dims.num_blocks, weft_model_num_tensors(builder->model));
}

/* Rows in order; a run of rows that name {L} is gone through once for each block. */
static weft_status_t add_layers(builder_t *builder, weft_error_t *error)
{
    const weft_recipe_t *recipe = builder->recipe;
    for (uint32_t first = 0, end; first < recipe->num_rows; first = end) {
        bool repeats = row_repeats(&recipe->rows[first]);
        for (end = first + 1; end < recipe->num_rows && row_repeats(&recipe->rows[end]) == repeats;)
            end++;
        uint32_t times = repeats ? builder->dims.num_blocks : 1;
        if (builder->completed && times > MAX_BLOCKS)
            return weft_fail(error, WEFT_ERR_FILE,
                             "the configuration has %" PRIu32 " blocks, expected at most %u", times,
                             MAX_BLOCKS);
        for (uint32_t block = 0; block < times; block++) {
            WEFT_TRY(check_blocks(builder, block, error));
            for (uint32_t row = first; row < end; row++)
                WEFT_TRY(add_layer(builder, (place_t){row, repeats ? (int32_t)block : -1, 0}, error));
        }
    }
    return WEFT_OK;
}

/* The own tensor of a tied layer, which some checkpoints ship all the same. */
static bool is_spare(const builder_t *builder, const char *name)
{
    char own[NAME_BYTES];
    for (uint32_t i = 0; builder->tied && i < builder->recipe->num_rows; i++) {
        const weft_recipe_row_t *row = &builder->recipe->rows[i];
        if (!row->tied_to)
            continue;
        tensor_name(row->parts[0].tensor, row, &(place_t){0}, own);
        if (strcmp(own, name) == 0)
            return true;
    }
    return false;
}

/* A tensor of the blocks behind the last, which predict further tokens. */
static bool is_mtp(const builder_t *builder, const char *name)
{
    static const char before[] = "model.layers.";
    if (!builder->recipe->ignore_mtp || strncmp(name, before, sizeof before - 1) != 0)
        return false;
    double extra = weft_config_number(builder->config, "num_nextn_predict_layers", 0);
    char *end;
    unsigned long block = strtoul(name + sizeof before - 1, &end, 10);
    return *end == '.' && block >= builder->dims.num_blocks &&
           (double)block < (double)builder->dims.num_blocks + extra;
}

static bool may_ignore(const builder_t *builder, const char *name)
{
    for (const char *const *pattern = builder->recipe->ignore; *pattern; pattern++) {
        if (fnmatch(*pattern, name, 0) == 0)
            return true;
    }
    return is_spare(builder, name) || is_mtp(builder, name) || weft_stored_leaves_out(builder->stored, name);
}

static weft_status_t check_left_over(builder_t *builder, weft_error_t *error)
{
    weft_text_t first_few = {0};
    uint32_t unknown = 0;
    for (uint32_t i = 0; i < weft_model_num_tensors(builder->model); i++) {
        const char *name = weft_model_tensor(builder->model, i)->name;
        if (builder->taken[i])
            continue;
        if (may_ignore(builder, name))
            builder->num_ignored++;
        else if (unknown++ < 3)
            weft_text_add(&first_few, "%s'%.200s'", unknown > 1 ? ", " : "", name);
    }
    weft_status_t status = WEFT_OK;
    if (unknown)
        status = weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
                           "%" PRIu32 " tensor%s of the checkpoint %s not known to the recipe for %s: %s%s",
                           unknown, unknown == 1 ? "" : "s", unknown == 1 ? "is" : "are",
                           builder->recipe->model_type, first_few.data ? first_few.data : "",
                           unknown > 3 ? ", ..." : "");
    weft_text_free(&first_few);
    return status;
}

static void free_layers(weft_layer_t *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(items[i].name);
        free(items[i].tensors);
    }
    free(items);
}

/* The extents of a user's recipe. */
static weft_status_t evaluate_dims(builder_t *builder, weft_error_t *error)
{
    const weft_recipe_t *recipe = builder->recipe;
    uint64_t *values = builder->dims.of;
    if (strcmp(recipe->model_type, weft_model_type(builder->model)) != 0)
        return weft_fail(error, WEFT_ERR_FILE,
                         "the recipe is for model_type '%.100s', the model's is '%.100s'", recipe->model_type,
                         weft_model_type(builder->model));
    for (uint32_t i = 0; i < recipe->num_extents; i++)
        WEFT_TRY(
            weft_recipe_evaluate(builder->config, recipe->extents[i], &values[WEFT_DIM_COUNT + i], error));
    builder->dims.num_blocks = (uint32_t)values[recipe->blocks];
    builder->dims.num_experts = recipe->experts ? (uint32_t)values[recipe->experts] : 0;
    return WEFT_OK;
}

static weft_status_t choose_recipe(builder_t *builder, weft_error_t *error)
{
    builder->recipe = weft_model_recipe(builder->model);
    if (builder->recipe)
        return evaluate_dims(builder, error);
    WEFT_TRY(weft_recipe_find(weft_model_type(builder->model), &builder->recipe, error));
    return builder->recipe->read_dims(builder->config, &builder->dims, error);
}

static weft_status_t build(builder_t *builder, weft_error_t *error)
{
    WEFT_TRY(choose_recipe(builder, error));
    builder->tied = weft_config_bool(builder->config, "tie_word_embeddings", false);
    uint32_t num_tensors = weft_model_num_tensors(builder->model);
    builder->taken = calloc(num_tensors + 1, sizeof *builder->taken);
    if (!builder->taken)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %" PRIu32 " tensors", num_tensors);
    weft_error_t unknown;
    weft_status_t known = weft_stored_read(builder->config, &builder->stored, &unknown);
    builder->stored = known == WEFT_OK ? weft_stored_of(builder->model) : NULL;
    weft_status_t status = add_layers(builder, error);
    if (status == WEFT_OK)
        status = check_left_over(builder, error);
    /* Tensors in high precision may have kept a configuration that is no longer about them. */
    return status != WEFT_OK && known != WEFT_OK ? weft_fail(error, known, "%s", unknown.message) : status;
}

weft_status_t weft_model_complete(weft_model_t *model, weft_error_t *error)
{
    builder_t builder = {.model = model, .config = weft_model_config(model), .completed = model};
    WEFT_TRY(choose_recipe(&builder, error));
    builder.tied = weft_config_bool(builder.config, "tie_word_embeddings", false);
    weft_status_t status = add_layers(&builder, error);
    free_layers(builder.layers.items, builder.layers.count);
    return status;
}

weft_status_t weft_layers_create(const weft_model_t *model, weft_layers_t **layers, weft_error_t *error)
{
    weft_layers_t *made = malloc(sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the layers");
    builder_t builder = {.model = model, .config = weft_model_config(model)};
    weft_status_t status = build(&builder, error);
    free(builder.taken);
    if (status != WEFT_OK) {
        free_layers(builder.layers.items, builder.layers.count);
        free(made);
        return status;
    }
    *made = (weft_layers_t){builder.layers.items, (uint32_t)builder.layers.count, builder.stored,
                            builder.num_ignored};
    *layers = made;
    return WEFT_OK;
}

const char *weft_layer_full_name(const weft_layer_t *layer, char name[WEFT_LAYER_NAME_BYTES])
{
    const char joint[2] = {*layer->leaf ? layer->joint : 0};
    snprintf(name, WEFT_LAYER_NAME_BYTES, "%s%s%s", layer->name, joint, layer->leaf);
    return name;
}

void weft_layers_destroy(weft_layers_t *layers)
{
    if (!layers)
        return;
    free_layers(layers->items, layers->count);
    free(layers);
}
