#include <weft/model.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/model/model_private.h"
#include "src/model/names.h"
#include "src/model/shape.h"

/* Allocated one by one, so that pointers stay good while the model grows. */
typedef struct record {
    weft_tensor_t tensor;
    uint32_t rank; /* position in byte order of name, once sorted */
    char name[];
} record_t;

struct weft_model {
    weft_config_t *config;
    weft_recipe_file_t *recipe;   /* a user's, or NULL */
    const weft_recipe_t *lent;    /* another model's, or NULL */
    WEFT_ARRAY(record_t *) added; /* in the order they came */
    WEFT_ARRAY(weft_safetensors_t *) files;
    weft_names_t names; /* to the index in `added` */
    /* A model that is only read may be shared by threads, but its order is made when it is first asked for,
     * so that adding n tensors does not take n sorts. */
    pthread_mutex_t sorting;
    atomic_bool sorted;
    WEFT_ARRAY(record_t *) order; /* in byte order of name; room for all that were added */
};

weft_status_t weft_model_create_from(weft_config_t *config, weft_model_t **model, weft_error_t *error)
{
    weft_model_t *made = calloc(1, sizeof *made);
    if (!made) {
        weft_config_destroy(config);
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a model");
    }
    made->config = config;
    pthread_mutex_init(&made->sorting, NULL);
    *model = made;
    return WEFT_OK;
}

weft_status_t weft_model_create(const char *config_json, weft_model_t **model, weft_error_t *error)
{
    weft_config_t *config = NULL;
    WEFT_TRY(weft_config_parse(config_json, &config, error));
    return weft_model_create_from(config, model, error);
}

void weft_model_close(weft_model_t *model)
{
    if (!model)
        return;
    for (size_t i = 0; i < model->added.count; i++)
        free(model->added.items[i]);
    for (size_t i = 0; i < model->files.count; i++)
        weft_safetensors_close(model->files.items[i]);
    WEFT_ARRAY_FREE(&model->added);
    WEFT_ARRAY_FREE(&model->files);
    weft_names_free(&model->names);
    WEFT_ARRAY_FREE(&model->order);
    pthread_mutex_destroy(&model->sorting);
    weft_config_destroy(model->config);
    weft_recipe_file_close(model->recipe);
    free(model);
}

bool weft_model_keep_file(weft_model_t *model, weft_safetensors_t *file)
{
    return WEFT_ARRAY_PUSH(&model->files, file);
}

/* Room for one more in both, so that sorting cannot fail. */
static bool reserve_record(weft_model_t *model)
{
    size_t wanted = model->added.count + 1;
    return WEFT_ARRAY_RESERVE(&model->added, wanted) && WEFT_ARRAY_RESERVE(&model->order, wanted);
}

weft_status_t weft_model_add_tensor(weft_model_t *model, const weft_tensor_t *tensor, weft_error_t *error)
{
    if (weft_names_find(&model->names, tensor->name) != WEFT_NAMES_NONE)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor '%.200s' is there twice", tensor->name);
    size_t name_bytes = strlen(tensor->name) + 1;
    record_t *record = malloc(sizeof *record + name_bytes);
    if (!record || !reserve_record(model))
        goto no_memory;
    record->tensor = *tensor;
    record->tensor.name = memcpy(record->name, tensor->name, name_bytes);
    if (!weft_names_add(&model->names, record->name, (uint32_t)model->added.count))
        goto no_memory;
    model->added.items[model->added.count++] = record;
    atomic_store(&model->sorted, false);
    return WEFT_OK;
no_memory:
    free(record);
    return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for tensor '%.200s'", tensor->name);
}

weft_status_t weft_model_add(weft_model_t *model, const char *name, weft_dtype_t dtype, const uint64_t *shape,
                             uint32_t num_dims, weft_error_t *error)
{
    if (num_dims > WEFT_MAX_DIMS)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor '%.200s' has %u dimensions, expected at most %d",
                         name, num_dims, WEFT_MAX_DIMS);
    if ((unsigned)dtype >= WEFT_DTYPE_COUNT)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor '%.200s' has the unknown dtype %d", name,
                         (int)dtype);
    weft_tensor_t tensor = {.name = name, .dtype = dtype, .num_dims = num_dims};
    for (uint32_t i = 0; i < num_dims; i++)
        tensor.shape[i] = shape[i];
    if (!weft_shape_bytes(dtype, shape, num_dims, &tensor.bytes))
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor '%.200s': the shape overflows 64 bits", name);
    return weft_model_add_tensor(model, &tensor, error);
}

static int compare_names(const void *a, const void *b)
{
    const record_t *left = *(record_t *const *)a, *right = *(record_t *const *)b;
    return strcmp(left->name, right->name);
}

/* Order first, then the flag: a thread that sees the flag sees the order. */
static void ensure_sorted(const weft_model_t *shared)
{
    weft_model_t *model = (weft_model_t *)shared;
    if (atomic_load(&model->sorted))
        return;
    pthread_mutex_lock(&model->sorting);
    if (!atomic_load(&model->sorted) && model->added.count) {
        memcpy(model->order.items, model->added.items, model->added.count * sizeof(record_t *));
        qsort(model->order.items, model->added.count, sizeof(record_t *), compare_names);
        for (size_t i = 0; i < model->added.count; i++)
            model->order.items[i]->rank = (uint32_t)i;
        atomic_store(&model->sorted, true);
    }
    pthread_mutex_unlock(&model->sorting);
}

uint32_t weft_model_num_tensors(const weft_model_t *model)
{
    return (uint32_t)model->added.count;
}

const weft_tensor_t *weft_model_tensor(const weft_model_t *model, uint32_t index)
{
    if (index >= model->added.count)
        return NULL;
    ensure_sorted(model);
    return &model->order.items[index]->tensor;
}

const weft_tensor_t *weft_model_find(const weft_model_t *model, const char *name)
{
    uint32_t id = weft_names_find(&model->names, name);
    return id == WEFT_NAMES_NONE ? NULL : &model->added.items[id]->tensor;
}

uint32_t weft_model_index(const weft_model_t *model, const char *name)
{
    uint32_t id = weft_names_find(&model->names, name);
    if (id == WEFT_NAMES_NONE)
        return WEFT_NAMES_NONE;
    ensure_sorted(model);
    return model->added.items[id]->rank;
}

const weft_config_t *weft_model_config(const weft_model_t *model)
{
    return model->config;
}

weft_status_t weft_model_set_recipe(weft_model_t *model, const char *path, weft_error_t *error)
{
    weft_recipe_file_t *file = NULL;
    WEFT_TRY(weft_recipe_file_open(path, &file, error));
    weft_recipe_file_close(model->recipe);
    model->recipe = file;
    return WEFT_OK;
}

const weft_recipe_t *weft_model_recipe(const weft_model_t *model)
{
    return model->recipe ? weft_recipe_file_recipe(model->recipe) : model->lent;
}

void weft_model_lend_recipe(weft_model_t *model, const weft_model_t *owner)
{
    model->lent = weft_model_recipe(owner);
}

const char *weft_model_type(const weft_model_t *model)
{
    return weft_config_string(model->config, "model_type", "");
}

double weft_model_config_number(const weft_model_t *model, const char *key, double fallback)
{
    return weft_config_number(model->config, key, fallback);
}
