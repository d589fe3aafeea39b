/* In: a map's text. Out: its entries; then for each layer the one that decides.
 * Invariant: no entry is without effect by mistake: what matches nothing, or nothing that it could change, is
 * refused. */
#include "src/plan/scheme_map.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "src/base/array.h"
#include "src/base/error.h"
#include "src/base/text.h"

typedef WEFT_ARRAY(weft_scheme_entry_t) entry_array_t;

/* ---- reading ---- */

/* A copy of what lies between, without blanks around it; NULL without memory. */
static char *cut(const char *begin, const char *end)
{
    while (begin < end && isspace((unsigned char)*begin))
        begin++;
    while (end > begin && isspace((unsigned char)end[-1]))
        end--;
    return strndup(begin, (size_t)(end - begin));
}

/* "SCHEME[:PROFILE][@ARRANGEMENT]"; the arrangement is looked up when all profiles are known. */
static weft_status_t read_scheme(char *text, weft_scheme_entry_t *entry, weft_error_t *error)
{
    char *at = strchr(text, '@'), *colon;
    if (at) {
        *at = 0;
        if (!(entry->arranged = strdup(at + 1)))
            return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the scheme map");
    }
    colon = strchr(text, ':');
    if (colon)
        *colon = 0;
    WEFT_TRY(weft_scheme_find(text, &entry->scheme, error));
    entry->chosen_by = colon ? WEFT_CHOSEN_BY_ENTRY : WEFT_CHOSEN_BY_SCHEME;
    return colon ? weft_scheme_profile(entry->scheme, colon + 1, &entry->profile, error) : WEFT_OK;
}

/* Globs are printed, and written into files: no character needs a backslash there. */
static bool is_plain(const char *glob)
{
    for (const char *c = glob; *c; c++)
        if (*c == '"' || *c == '\\' || iscntrl((unsigned char)*c))
            return false;
    return true;
}

static weft_status_t read_glob(const char *text, uint32_t index, weft_scheme_entry_t *entry,
                               const char **scheme, weft_error_t *error)
{
    const char *equals = strchr(text, '=');
    *scheme = equals && index ? equals + 1 : text;
    if (index == 0 && equals)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "the scheme map begins with \"%.100s\"; its first entry is the default and names no "
                         "layers: write such as \"fp8-block; %.100s\"",
                         text, text);
    if (index == 0)
        return WEFT_OK;
    if (!equals)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "entry %u of the scheme map is \"%.100s\", expected layers=scheme, such as lm_head=bf16",
            index + 1, text);
    entry->glob = cut(text, equals);
    if (!entry->glob)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the scheme map");
    if (!*entry->glob)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "entry %u of the scheme map, \"%.100s\", names no layers in front of its =; * is all of them",
            index + 1, text);
    return is_plain(entry->glob)
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_ARGUMENT,
                           "entry %u of the scheme map names layers with a quote, a backslash or "
                           "a control character; names have none",
                           index + 1);
}

static weft_status_t read_entry(const char *text, uint32_t index, weft_scheme_entry_t *entry,
                                weft_error_t *error)
{
    const char *rest;
    WEFT_TRY(read_glob(text, index, entry, &rest, error));
    char *scheme = cut(rest, rest + strlen(rest));
    if (!scheme)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the scheme map");
    weft_status_t status = read_scheme(scheme, entry, error);
    if (status != WEFT_OK && index)
        weft_error_prefix(error, "entry %u of the scheme map, \"%.100s\"", index + 1, text);
    free(scheme);
    return status;
}

static weft_status_t read_entries(const char *text, entry_array_t *entries, weft_error_t *error)
{
    for (const char *begin = text, *end = text; *end; begin = end + 1) {
        end = begin + strcspn(begin, ";");
        char *one = cut(begin, end);
        if (!one || !WEFT_ARRAY_PUSH(entries, (weft_scheme_entry_t){0})) {
            free(one);
            return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the scheme map");
        }
        uint32_t index = (uint32_t)entries->count - 1;
        weft_status_t status = read_entry(one, index, &entries->items[index], error);
        free(one);
        WEFT_TRY(status);
    }
    return entries->count
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_ARGUMENT, "the scheme is empty; write one such as fp8-block");
}

/* ---- profiles ---- */

static weft_status_t refuse_profile(const entry_array_t *entries, const char *name, weft_error_t *error)
{
    weft_profile_t profile;
    weft_text_t open = {0};
    if (entries->count == 1 && entries->items[0].chosen_by != WEFT_CHOSEN_BY_ENTRY)
        return weft_scheme_profile(entries->items[0].scheme, name, &profile, error);
    for (size_t i = 0; i < entries->count; i++)
        if (entries->items[i].chosen_by != WEFT_CHOSEN_BY_ENTRY)
            weft_text_add(&open, "%s%s", open.length ? ", " : "", entries->items[i].scheme->name);
    weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
              "profile \"%.100s\" is for no entry of the scheme map: %s%s; write it behind a scheme, such as "
              "fp8-block:vllm",
              name, open.length ? "none has it of " : "each names its own", open.data ? open.data : "");
    weft_text_free(&open);
    return WEFT_ERR_UNKNOWN_NAME;
}

static bool try_profile(weft_scheme_entry_t *entry, const char *name, weft_chosen_by_t by)
{
    if (!name || weft_scheme_profile(entry->scheme, name, &entry->profile, NULL) != WEFT_OK)
        return false;
    entry->chosen_by = by;
    return true;
}

static weft_status_t choose_profiles(entry_array_t *entries, const char *name, const weft_engine_t *engine,
                                     weft_error_t *error)
{
    bool used = name == NULL;
    for (size_t i = 0; i < entries->count; i++) {
        weft_scheme_entry_t *entry = &entries->items[i];
        if (entry->chosen_by == WEFT_CHOSEN_BY_ENTRY)
            continue;
        if (try_profile(entry, name, WEFT_CHOSEN_BY_OPTION))
            used = true;
        else if (!try_profile(entry, weft_engine_profile(engine, entry->scheme->name), WEFT_CHOSEN_BY_ENGINE))
            WEFT_TRY(weft_scheme_profile(entry->scheme, NULL, &entry->profile, error));
    }
    return used ? WEFT_OK : refuse_profile(entries, name, error);
}

/* ---- arrangements ---- */

/* An engine's is taken where the scheme has it under the profile that was chosen. */
static weft_status_t choose_arrangements(entry_array_t *entries, const weft_engine_t *engine,
                                         weft_error_t *error)
{
    for (size_t i = 0; i < entries->count; i++) {
        weft_scheme_entry_t *entry = &entries->items[i];
        const char *its = weft_engine_arrange(engine, entry->scheme->name);
        if (entry->arranged)
            WEFT_TRY(
                weft_scheme_arrange(entry->scheme, entry->profile, entry->arranged, &entry->arrange, error));
        else if (its)
            (void)weft_scheme_arrange(entry->scheme, entry->profile, its, &entry->arrange, NULL);
    }
    return WEFT_OK;
}

/* ---- the map ---- */

static char *write_text(const weft_scheme_map_t *map)
{
    weft_text_t text = {0};
    for (uint32_t i = 0; i < map->count; i++) {
        const weft_scheme_entry_t *entry = &map->entries[i];
        weft_text_add(&text, "%s%s%s%s", i ? "; " : "", i ? entry->glob : "", i ? "=" : "",
                      entry->scheme->name);
        if (i && entry->profile != WEFT_PROFILE_DEFAULT)
            weft_text_add(&text, ":%s", weft_profile_name(entry->profile));
        if (entry->arrange != WEFT_ARRANGE_PLAIN)
            weft_text_add(&text, "@%s", weft_arrange_name(entry->arrange));
    }
    if (text.failed)
        weft_text_free(&text);
    return text.data;
}

weft_status_t weft_scheme_map_parse(const char *text, const char *profile, const weft_engine_t *engine,
                                    weft_scheme_map_t *map, weft_error_t *error)
{
    entry_array_t entries = {0};
    weft_status_t status = read_entries(text, &entries, error);
    if (status == WEFT_OK)
        status = choose_profiles(&entries, profile, engine, error);
    if (status == WEFT_OK)
        status = choose_arrangements(&entries, engine, error);
    weft_scheme_map_t made = {.entries = entries.items, .count = (uint32_t)entries.count};
    if (status == WEFT_OK && !(made.text = write_text(&made)))
        status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the scheme map");
    if (status != WEFT_OK) {
        weft_scheme_map_free(&made);
        return status;
    }
    *map = made;
    return WEFT_OK;
}

/* The profile goes where it is written by hand, so that an arrangement that needs it finds it. */
weft_status_t weft_scheme_map_read(const char *text, const char *profile, weft_scheme_map_t *map,
                                   weft_error_t *error)
{
    size_t head = strcspn(text, "@;");
    weft_text_t whole = {0};
    weft_text_add(&whole, "%.*s:%s%s", (int)head, text, profile, text + head);
    weft_status_t status = whole.failed ? weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the scheme map")
                                        : weft_scheme_map_parse(whole.data, NULL, NULL, map, error);
    weft_text_free(&whole);
    return status;
}

void weft_scheme_map_free(weft_scheme_map_t *map)
{
    for (uint32_t i = 0; i < map->count; i++) {
        free(map->entries[i].glob);
        free(map->entries[i].arranged);
    }
    free(map->entries);
    free(map->text);
    *map = (weft_scheme_map_t){0};
}

/* ---- layers ---- */

static bool name_matches(const char *glob, const char *name)
{
    static const char root[] = "model.";
    if (fnmatch(glob, name, 0) == 0)
        return true;
    return strncmp(name, root, sizeof root - 1) == 0 && fnmatch(glob, name + sizeof root - 1, 0) == 0;
}

static bool layer_matches(const char *glob, const weft_layer_t *layer)
{
    char full[WEFT_LAYER_NAME_BYTES];
    return name_matches(glob, layer->name) || name_matches(glob, weft_layer_full_name(layer, full));
}

static bool tensor_matches(const char *glob, const char *tensor, const char *leaf)
{
    char module[WEFT_LAYER_NAME_BYTES];
    size_t length = strlen(tensor), end = strlen(leaf) + 1;
    if (name_matches(glob, tensor))
        return true;
    if (length <= end || length - end >= sizeof module || tensor[length - end] != '.' ||
        strcmp(tensor + length - end + 1, leaf) != 0)
        return false;
    memcpy(module, tensor, length - end);
    module[length - end] = 0;
    return name_matches(glob, module);
}

static uint32_t count_tensors(const weft_layer_t *layer)
{
    return (layer->num_experts ? layer->num_experts : 1) * layer->num_parts;
}

/* What its tensors' names end with. */
static const char *leaf_of(const weft_layer_t *layer)
{
    return layer->stored_leaf ? layer->stored_leaf : layer->leaf;
}

static const char *tensor_of(const weft_model_t *model, const weft_layer_t *layer, uint32_t index)
{
    return weft_model_tensor(model, layer->tensors[index])->name;
}

/* ---- what an entry makes of a layer ---- */

const weft_scheme_t *weft_scheme_map_decide(const weft_scheme_map_t *map, const weft_layer_t *layer,
                                            const weft_scheme_entry_t *entry)
{
    const weft_scheme_t *all = map->entries[0].scheme;
    if (layer->quantize || weft_scheme_is_cast(entry->scheme))
        return entry->scheme;
    return weft_scheme_is_cast(all) ? all : weft_scheme_cast();
}

weft_dtype_t weft_scheme_map_dtype(const weft_scheme_map_t *map, const weft_layer_t *layer,
                                   const weft_scheme_entry_t *entry)
{
    const weft_scheme_t *scheme = weft_scheme_map_decide(map, layer, entry);
    if (layer->keep_f32)
        return WEFT_DTYPE_F32;
    if (layer->stored)
        return layer->dtype;
    bool keeps = scheme == weft_scheme_cast() && !weft_scheme_is_cast(map->entries[0].scheme);
    return keeps && layer->dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : scheme->dtype;
}

bool weft_scheme_entries_agree(const weft_scheme_map_t *map_a, const weft_scheme_entry_t *a,
                               const weft_scheme_map_t *map_b, const weft_scheme_entry_t *b,
                               const weft_layer_t *layer)
{
    const weft_scheme_t *scheme = weft_scheme_map_decide(map_a, layer, a);
    const weft_scheme_t *other = weft_scheme_map_decide(map_b, layer, b);
    if (weft_scheme_is_cast(scheme) && weft_scheme_is_cast(other))
        return weft_scheme_map_dtype(map_a, layer, a) == weft_scheme_map_dtype(map_b, layer, b);
    return scheme == other && a->profile == b->profile && a->arrange == b->arrange;
}

/* ---- entries without effect ---- */

/* Whether a layer can be what the entry says. */
static bool obeys(const weft_layer_t *layer, const weft_scheme_entry_t *entry)
{
    if (!weft_scheme_is_cast(entry->scheme))
        return layer->quantize;
    return !layer->keep_f32 || entry->scheme->dtype == WEFT_DTYPE_F32;
}

static bool any_tensor_matches(const char *glob, const weft_model_t *model, const weft_layer_t *layer)
{
    for (uint32_t t = 0; t < count_tensors(layer); t++)
        if (tensor_matches(glob, tensor_of(model, layer, t), leaf_of(layer)))
            return true;
    return false;
}

/* Look for a layer that the entry matches and that obeys; `stubborn` is the first that does not. By the names
 * of tensors, of which there may be many, only where no layer's own name matches. */
static bool finds_layer(const weft_scheme_entry_t *entry, const weft_model_t *model,
                        const weft_layers_t *layers, const weft_layer_t **stubborn)
{
    *stubborn = NULL;
    for (unsigned by_tensors = 0; by_tensors < 2 && !*stubborn; by_tensors++)
        for (uint32_t i = 0; i < layers->count; i++) {
            const weft_layer_t *layer = &layers->items[i];
            if (!(by_tensors ? any_tensor_matches(entry->glob, model, layer)
                             : layer_matches(entry->glob, layer)))
                continue;
            if (obeys(layer, entry))
                return true;
            *stubborn = *stubborn ? *stubborn : layer;
        }
    return false;
}

static weft_status_t check_entry(const weft_scheme_entry_t *entry, const weft_model_t *model,
                                 const weft_layers_t *layers, weft_error_t *error)
{
    char full[WEFT_LAYER_NAME_BYTES];
    const weft_layer_t *layer;
    if (finds_layer(entry, model, layers, &layer))
        return WEFT_OK;
    if (!layer)
        return weft_fail(
            error, WEFT_ERR_UNKNOWN_NAME,
            "scheme map: %.100s=%s matches no layer of this model; they are called such as %s or %s "
            "(weft plan lists them; * stands for any characters)",
            entry->glob, entry->scheme->name, layers->items[0].name, layers->items[layers->count / 2].name);
    return weft_fail(
        error, WEFT_ERR_MISFIT,
        "scheme map: %.100s=%s could only change layers that are %s, such as %s; leave the entry out",
        entry->glob, entry->scheme->name,
        layer->keep_f32 ? "kept in fp32 by the engine" : "never quantized by the model's recipe",
        weft_layer_full_name(layer, full));
}

/* ---- the entry of a layer ---- */

static const char *entry_title(const weft_scheme_entry_t *entry)
{
    return entry->glob ? entry->glob : "the default";
}

static uint32_t entry_by_layer(const weft_scheme_map_t *map, const weft_layer_t *layer)
{
    uint32_t i = map->count - 1;
    while (i > 0 && !layer_matches(map->entries[i].glob, layer))
        i--;
    return i;
}

/* The last entry that matches the tensor; `least`, whose glob matches the layer, if none behind it does. */
static uint32_t entry_by_tensor(const weft_scheme_map_t *map, const char *tensor, const char *leaf,
                                uint32_t least)
{
    uint32_t i = map->count - 1;
    while (i > least && !tensor_matches(map->entries[i].glob, tensor, leaf))
        i--;
    return i;
}

static weft_status_t assign_layer(const weft_scheme_map_t *map, const weft_model_t *model,
                                  const weft_layer_t *layer, uint32_t *entry, weft_error_t *error)
{
    uint32_t least = entry_by_layer(map, layer);
    *entry = least;
    if (least + 1 == map->count)
        return WEFT_OK;
    for (uint32_t t = 0; t < count_tensors(layer); t++) {
        uint32_t found = entry_by_tensor(map, tensor_of(model, layer, t), leaf_of(layer), least);
        const weft_scheme_entry_t *first = &map->entries[*entry], *this = &map->entries[found];
        if (t == 0)
            *entry = found;
        else if (!weft_scheme_entries_agree(map, first, map, this, layer))
            return weft_fail(
                error, WEFT_ERR_MISFIT,
                "scheme map: parts of layer %s get different schemes: %s is %s (%.60s), %s is %s (%.60s); "
                "they are one in kernel format, give all the same, such as %s=%s",
                layer->name, tensor_of(model, layer, 0), first->scheme->name, entry_title(first),
                tensor_of(model, layer, t), this->scheme->name, entry_title(this), layer->name,
                this->scheme->name);
    }
    return WEFT_OK;
}

weft_status_t weft_scheme_map_assign(const weft_scheme_map_t *map, const weft_model_t *model,
                                     const weft_layers_t *layers, uint32_t *entry_of, weft_error_t *error)
{
    for (uint32_t i = 1; i < map->count; i++)
        WEFT_TRY(check_entry(&map->entries[i], model, layers, error));
    for (uint32_t i = 0; i < layers->count; i++)
        WEFT_TRY(assign_layer(map, model, &layers->items[i], &entry_of[i], error));
    return WEFT_OK;
}

bool weft_scheme_maps_agree(const weft_scheme_map_t *a, const uint32_t *entry_of_a,
                            const weft_scheme_map_t *b, const uint32_t *entry_of_b,
                            const weft_layers_t *layers)
{
    bool agree = a->entries[0].scheme == b->entries[0].scheme;
    for (uint32_t i = 0; i < layers->count && agree; i++)
        agree = weft_scheme_entries_agree(a, &a->entries[entry_of_a[i]], b, &b->entries[entry_of_b[i]],
                                          &layers->items[i]);
    return agree;
}
