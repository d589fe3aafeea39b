/* In: a JSON file. Out: a recipe whose rows point into it.
 * Invariant: every member is known, and every name, split and extent is there before a row is used. */
#include "src/model/recipe_file.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/base/text.h"
#include "src/model/json.h"

#define MAX_BYTES (1u << 20)
#define MAX_KEY   64
#define MAX_LIST  1024 /* layers, and patterns to ignore: each is tried with each block, or tensor */

struct weft_recipe_file {
    weft_recipe_t recipe;
    cJSON *root;
    weft_recipe_row_t *rows;
    const char **extents, **ignore; /* point into root */
    uint32_t num_extents;
};

/* ---- expressions ---- */

typedef struct cursor {
    const weft_config_t *config;
    const char *whole, *at;
    weft_error_t *error;
} cursor_t;

static weft_status_t refuse(const cursor_t *c, const char *what)
{
    return weft_fail(c->error, WEFT_ERR_FILE, "extent '%.100s': %s at '%.40s'", c->whole, what, c->at);
}

static void skip_spaces(cursor_t *c)
{
    while (*c->at == ' ')
        c->at++;
}

static bool is_key(char letter)
{
    return isalnum((unsigned char)letter) || letter == '_' || letter == '.';
}

static weft_status_t read_key(cursor_t *c, uint64_t *value)
{
    char key[MAX_KEY];
    size_t length = 0;
    while (is_key(c->at[length]))
        length++;
    if (length == 0 || length >= sizeof key)
        return refuse(c, "expected a number or a name of the configuration");
    memcpy(key, c->at, length);
    key[length] = 0;
    double number = weft_config_number(c->config, key, -1);
    if (!weft_config_has(c->config, key))
        return refuse(c, "the configuration has no such integer");
    if (!(number >= 0 && number <= INT32_MAX) || number != (double)(uint64_t)number)
        return refuse(c, "not an integer from 0 to 2^31 - 1 in the configuration");
    *value = (uint64_t)number;
    c->at += length;
    return WEFT_OK;
}

static weft_status_t read_factor(cursor_t *c, uint64_t *value)
{
    skip_spaces(c);
    if (!isdigit((unsigned char)*c->at))
        return read_key(c, value);
    *value = 0;
    for (; isdigit((unsigned char)*c->at); c->at++) {
        *value = *value * 10 + (uint64_t)(*c->at - '0');
        if (*value > INT32_MAX)
            return refuse(c, "a number above 2^31 - 1");
    }
    return WEFT_OK;
}

static weft_status_t read_term(cursor_t *c, uint64_t *value)
{
    WEFT_TRY(read_factor(c, value));
    for (;;) {
        uint64_t factor;
        skip_spaces(c);
        char sign = *c->at;
        if (sign != '*' && sign != '/')
            return WEFT_OK;
        c->at++;
        WEFT_TRY(read_factor(c, &factor));
        if (sign == '*')
            *value *= factor; /* both below 2^31 */
        else if (factor == 0 || *value % factor)
            return refuse(c, "the division is not exact");
        else
            *value /= factor;
        if (*value > INT32_MAX)
            return refuse(c, "more than 2^31 - 1");
    }
}

weft_status_t weft_recipe_evaluate(const weft_config_t *config, const char *expression, uint64_t *value,
                                   weft_error_t *error)
{
    cursor_t c = {config, expression, expression, error};
    uint64_t sum = 0, term;
    for (;;) {
        WEFT_TRY(read_term(&c, &term));
        sum += term;
        if (sum > INT32_MAX)
            return refuse(&c, "more than 2^31 - 1");
        if (*c.at != '+')
            break;
        c.at++;
    }
    if (*c.at)
        return refuse(&c, "expected +, *, / or the end");
    *value = sum;
    return WEFT_OK;
}

/* ---- members ---- */

/* Where a message stands. */
typedef struct reader {
    weft_recipe_file_t *file;
    const char *layer; /* NULL: the recipe itself */
    weft_error_t *error;
} reader_t;

static weft_status_t refuse_member(const reader_t *r, const char *key, const cJSON *found,
                                   const char *expected)
{
    if (r->layer)
        return weft_fail(r->error, WEFT_ERR_FILE, "layer '%.200s': \"%.60s\" is %s, expected %s", r->layer,
                         key, weft_json_kind(found), expected);
    return weft_fail(r->error, WEFT_ERR_FILE, "\"%.60s\" is %s, expected %s", key, weft_json_kind(found),
                     expected);
}

static weft_status_t check_members(const reader_t *r, const cJSON *object, const char *const *known)
{
    const cJSON *item;
    weft_text_t names = {0};
    cJSON_ArrayForEach(item, object)
    {
        uint32_t k = 0;
        while (known[k] && strcmp(known[k], item->string) != 0)
            k++;
        if (known[k])
            continue;
        for (k = 0; known[k]; k++)
            weft_text_add(&names, "%s%s", k ? ", " : "", known[k]);
        weft_status_t status =
            weft_fail(r->error, WEFT_ERR_FILE, "%s%.200s%smember \"%.60s\" is not known; there are %s",
                      r->layer ? "layer '" : "", r->layer ? r->layer : "", r->layer ? "': " : "",
                      item->string, names.data ? names.data : "others");
        weft_text_free(&names);
        return status;
    }
    return WEFT_OK;
}

/* A string; `fallback` where there is none. NULL: it must be there. */
static weft_status_t read_text(const reader_t *r, const cJSON *object, const char *key, const char *fallback,
                               const char **text)
{
    const cJSON *item = weft_json_get(object, key);
    if (item ? !cJSON_IsString(item) : !fallback)
        return refuse_member(r, key, item, "a string");
    *text = item ? item->valuestring : fallback;
    return WEFT_OK;
}

static weft_status_t read_flag(const reader_t *r, const cJSON *object, const char *key, unsigned flag,
                               unsigned *flags)
{
    const cJSON *item = weft_json_get(object, key);
    if (item && !cJSON_IsBool(item))
        return refuse_member(r, key, item, "true or false");
    *flags |= cJSON_IsTrue(item) ? flag : 0;
    return WEFT_OK;
}

/* Give an expression a place among the extents; equal ones share it. */
static weft_status_t intern_extent(const reader_t *r, const char *expression, weft_dim_t *dim)
{
    weft_recipe_file_t *f = r->file;
    uint32_t i = 0;
    while (i < f->num_extents && strcmp(f->extents[i], expression) != 0)
        i++;
    if (i == WEFT_MAX_EXTENTS)
        return weft_fail(r->error, WEFT_ERR_FILE, "more than %u different extents", WEFT_MAX_EXTENTS);
    if (i == f->num_extents)
        f->extents[f->num_extents++] = expression;
    *dim = (weft_dim_t)(WEFT_DIM_COUNT + i);
    return WEFT_OK;
}

/* An extent that may be left out: *dim stays as it is then. */
static weft_status_t read_extent(const reader_t *r, const cJSON *object, const char *key, weft_dim_t *dim)
{
    const char *expression;
    if (!weft_json_get(object, key))
        return WEFT_OK;
    WEFT_TRY(read_text(r, object, key, NULL, &expression));
    return intern_extent(r, expression, dim);
}

/* ---- rows ---- */

static const char *const part_members[] = {"tensor", "split", "shape", "together", NULL};
static const char *const layer_members[] = {"layer",   "leaf",       "suffix",   "quantize", "experts",
                                            "stacked", "transposed", "keep_f32", "optional", "from",
                                            "until",   "tied_to",    "parts",    NULL};
static const char *const recipe_members[] = {"model_type", "blocks", "experts", "ignore",
                                             "layers",     "about",  NULL};

static weft_status_t read_split(const reader_t *r, const cJSON *object, weft_split_t *split)
{
    static const char *const names[] = {"none", "rows", "cols", "heads", "kv_heads", "vocab", "first"};
    const char *name;
    WEFT_TRY(read_text(r, object, "split", NULL, &name));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], name) == 0) {
            *split = (weft_split_t)i;
            return WEFT_OK;
        }
    }
    return weft_fail(
        r->error, WEFT_ERR_FILE,
        "layer '%.200s': split \"%.40s\" is none of none, rows, cols, heads, kv_heads, vocab, first",
        r->layer, name);
}

/* [rows, columns], or [elements] of a tensor with one dimension. */
static weft_status_t read_shape(const reader_t *r, const cJSON *object, weft_recipe_part_t *part)
{
    const cJSON *shape = weft_json_get(object, "shape"), *extent;
    int count = cJSON_GetArraySize(shape), at = 0;
    if (!cJSON_IsArray(shape) || count < 1 || count > 2)
        return refuse_member(r, "shape", shape,
                             "an array of one or two extents: those of one expert's matrix");
    part->rows = WEFT_DIM_VECTOR;
    cJSON_ArrayForEach(extent, shape)
    {
        if (!cJSON_IsString(extent))
            return refuse_member(r, "shape", extent, "extents as strings, such as \"hidden_size\"");
        WEFT_TRY(intern_extent(r, extent->valuestring, at++ + 1 == count ? &part->cols : &part->rows));
    }
    return WEFT_OK;
}

static weft_status_t read_part(const reader_t *r, const cJSON *object, weft_recipe_part_t *part)
{
    if (!cJSON_IsObject(object))
        return refuse_member(r, "parts", object, "objects");
    WEFT_TRY(check_members(r, object, part_members));
    WEFT_TRY(read_text(r, object, "tensor", NULL, &part->tensor));
    WEFT_TRY(read_split(r, object, &part->split));
    WEFT_TRY(read_shape(r, object, part));
    WEFT_TRY(read_extent(r, object, "together", &part->head));
    bool heads = part->split == WEFT_SPLIT_HEADS || part->split == WEFT_SPLIT_KV_HEADS;
    if (heads && !part->head)
        return refuse_member(r, "together", NULL, "the rows of one head, such as \"head_dim\"");
    return WEFT_OK;
}

static weft_status_t read_parts(const reader_t *r, const cJSON *object, weft_recipe_row_t *row)
{
    const cJSON *parts = weft_json_get(object, "parts"), *item;
    int count = cJSON_GetArraySize(parts), at = 0;
    if (!cJSON_IsArray(parts) || count < 1 || count > WEFT_MAX_PARTS)
        return refuse_member(r, "parts", parts, "an array of one to four parts");
    cJSON_ArrayForEach(item, parts) WEFT_TRY(read_part(r, item, &row->parts[at++]));
    for (int i = 1; i < count; i++)
        if ((row->parts[i].rows == WEFT_DIM_VECTOR) != (row->parts[0].rows == WEFT_DIM_VECTOR))
            return refuse_member(r, "parts", parts, "all of two dimensions, or all of one");
    return WEFT_OK;
}

static weft_status_t read_flags(const reader_t *r, const cJSON *object, weft_recipe_row_t *row)
{
    const struct {
        const char *key;
        unsigned flag;
    } flags[] = {{"quantize", WEFT_ROW_QUANTIZE}, {"experts", WEFT_ROW_EXPERTS},
                 {"stacked", WEFT_ROW_STACKED},   {"transposed", WEFT_ROW_TRANSPOSED},
                 {"keep_f32", WEFT_ROW_KEEP_F32}, {"optional", WEFT_ROW_OPTIONAL}};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        WEFT_TRY(read_flag(r, object, flags[i].key, flags[i].flag, &row->flags));
    if (row->flags & WEFT_ROW_STACKED && !(row->flags & WEFT_ROW_EXPERTS))
        return refuse_member(r, "experts", NULL, "true where \"stacked\" is");
    return WEFT_OK;
}

/* What the name of a layer needs of its tensors' names. */
static weft_status_t check_names(const reader_t *r, const weft_recipe_row_t *row)
{
    bool repeats = strstr(row->layer, "{L}") != NULL;
    if (!repeats && (row->from || row->until))
        return refuse_member(r, "from", NULL, "a layer with {L} where \"from\" or \"until\" is");
    bool by_name = row->flags & WEFT_ROW_EXPERTS && !(row->flags & WEFT_ROW_STACKED);
    for (uint32_t i = 0; i < WEFT_MAX_PARTS && row->parts[i].tensor; i++) {
        const char *tensor = row->parts[i].tensor;
        if ((strstr(tensor, "{L}") != NULL) != repeats || (strstr(tensor, "{E}") != NULL) != by_name)
            return weft_fail(r->error, WEFT_ERR_FILE, "layer '%.200s': tensor '%.200s' should name %s and %s",
                             r->layer, tensor, repeats ? "{L}" : "no {L}", by_name ? "{E}" : "no {E}");
        if (strlen(tensor) > WEFT_MAX_TEMPLATE)
            return weft_fail(r->error, WEFT_ERR_FILE,
                             "layer '%.200s': a name of %zu characters, expected at most %d", r->layer,
                             strlen(tensor), WEFT_MAX_TEMPLATE);
    }
    return WEFT_OK;
}

static weft_status_t read_row(reader_t *r, const cJSON *object, weft_recipe_row_t *row)
{
    if (!cJSON_IsObject(object))
        return refuse_member(r, "layers", object, "objects");
    WEFT_TRY(read_text(r, object, "layer", NULL, &row->layer));
    r->layer = row->layer;
    if (strlen(row->layer) > WEFT_MAX_TEMPLATE || strstr(row->layer, "{E}"))
        return weft_fail(r->error, WEFT_ERR_FILE,
                         "layer '%.200s': expected a name of at most %d characters without {E}", row->layer,
                         WEFT_MAX_TEMPLATE);
    WEFT_TRY(check_members(r, object, layer_members));
    WEFT_TRY(read_text(r, object, "leaf", "weight", &row->leaf));
    WEFT_TRY(read_text(r, object, "suffix", "", &row->suffix));
    if (!weft_json_get(object, "suffix"))
        row->suffix = NULL;
    WEFT_TRY(read_text(r, object, "tied_to", "", &row->tied_to));
    if (!*row->tied_to)
        row->tied_to = NULL;
    WEFT_TRY(read_flags(r, object, row));
    WEFT_TRY(read_extent(r, object, "from", &row->from));
    WEFT_TRY(read_extent(r, object, "until", &row->until));
    WEFT_TRY(read_parts(r, object, row));
    return check_names(r, row);
}

static weft_status_t read_ignore(const reader_t *r)
{
    const cJSON *list = weft_json_get(r->file->root, "ignore"), *item;
    int count = cJSON_GetArraySize(list), at = 0;
    if (list && (!cJSON_IsArray(list) || count > MAX_LIST))
        return refuse_member(r, "ignore", list, "an array of at most 1024 name patterns");
    r->file->ignore = calloc((size_t)count + 1, sizeof *r->file->ignore);
    if (!r->file->ignore)
        return weft_fail(r->error, WEFT_ERR_NO_MEMORY, "no memory for a recipe");
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item))
            return refuse_member(r, "ignore", item, "an array of name patterns");
        r->file->ignore[at++] = item->valuestring;
    }
    return WEFT_OK;
}

static weft_status_t read_rows(reader_t *r)
{
    const cJSON *list = weft_json_get(r->file->root, "layers"), *item;
    int count = cJSON_GetArraySize(list), at = 0;
    if (!cJSON_IsArray(list) || count < 1 || count > MAX_LIST)
        return refuse_member(r, "layers", list, "an array of 1 to 1024 layers");
    r->file->rows = calloc((size_t)count, sizeof *r->file->rows);
    if (!r->file->rows)
        return weft_fail(r->error, WEFT_ERR_NO_MEMORY, "no memory for a recipe");
    cJSON_ArrayForEach(item, list) WEFT_TRY(read_row(r, item, &r->file->rows[at++]));
    r->layer = NULL;
    r->file->recipe.rows = r->file->rows;
    r->file->recipe.num_rows = (uint32_t)count;
    return WEFT_OK;
}

static weft_status_t read_recipe(reader_t *r)
{
    weft_recipe_file_t *f = r->file;
    const char *blocks;
    if (!cJSON_IsObject(f->root))
        return weft_fail(r->error, WEFT_ERR_FILE, "a recipe is %s, expected an object",
                         weft_json_kind(f->root));
    WEFT_TRY(check_members(r, f->root, recipe_members));
    WEFT_TRY(read_text(r, f->root, "model_type", NULL, &f->recipe.model_type));
    WEFT_TRY(read_text(r, f->root, "blocks", "num_hidden_layers", &blocks));
    WEFT_TRY(intern_extent(r, blocks, &f->recipe.blocks));
    WEFT_TRY(read_extent(r, f->root, "experts", &f->recipe.experts));
    WEFT_TRY(read_ignore(r));
    WEFT_TRY(read_rows(r));
    for (uint32_t i = 0; i < f->recipe.num_rows; i++)
        if (f->rows[i].flags & WEFT_ROW_EXPERTS && !f->recipe.experts)
            return refuse_member(r, "experts", NULL, "how many there are, such as \"num_experts\"");
    f->recipe.extents = f->extents;
    f->recipe.num_extents = f->num_extents;
    f->recipe.ignore = f->ignore;
    return WEFT_OK;
}

weft_status_t weft_recipe_file_open(const char *path, weft_recipe_file_t **file, weft_error_t *error)
{
    weft_recipe_file_t *made = calloc(1, sizeof *made);
    reader_t reader = {.file = made, .error = error};
    if (!made || !(made->extents = calloc(WEFT_MAX_EXTENTS, sizeof *made->extents))) {
        free(made);
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a recipe");
    }
    weft_status_t status = weft_json_read(path, MAX_BYTES, &made->root, error);
    if (status == WEFT_OK) {
        status = read_recipe(&reader);
        if (status != WEFT_OK)
            weft_error_prefix(error, "recipe %s", path);
    }
    if (status != WEFT_OK) {
        weft_recipe_file_close(made);
        return status;
    }
    *file = made;
    return WEFT_OK;
}

void weft_recipe_file_close(weft_recipe_file_t *file)
{
    if (!file)
        return;
    cJSON_Delete(file->root);
    free(file->rows);
    free(file->extents);
    free(file->ignore);
    free(file);
}

const weft_recipe_t *weft_recipe_file_recipe(const weft_recipe_file_t *file)
{
    return &file->recipe;
}
