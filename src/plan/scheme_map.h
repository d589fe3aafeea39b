/* Scheme maps: which scheme each layer gets.
 *
 *     fp8-block:vllm ; lm_head=bf16 ; *.experts.*=nvfp4:modelopt@128x4 ; layers.0.*=bf16
 *     ^ the default    ^ further entries, GLOB=SCHEME[:PROFILE][@ARRANGEMENT]; of those that match a layer the last
 *                        decides
 *
 * One scheme alone is a map of one entry. A glob (`*` any characters, dots too; `?` one; `[...]` a set) is matched on the
 * whole of a name, and again without a leading "model.". A layer's names are its own as a plan prints it
 * ("model.layers.0.self_attn.qkv_proj", also with ".weight" behind it) and those of the checkpoint's tensors that are in it
 * ("model.layers.0.self_attn.q_proj", also with ".weight").
 */
#ifndef WEFT_PLAN_SCHEME_MAP_H
#define WEFT_PLAN_SCHEME_MAP_H

#include "src/model/layer.h"
#include "src/plan/engine.h"
#include "src/plan/scheme.h"

/* What chose the profile of an entry; each outdoes those above. */
typedef enum weft_chosen_by {
    WEFT_CHOSEN_BY_SCHEME, /* its default */
    WEFT_CHOSEN_BY_ENGINE,
    WEFT_CHOSEN_BY_OPTION, /* the profile given for all */
    WEFT_CHOSEN_BY_ENTRY,  /* written behind the scheme */
} weft_chosen_by_t;

typedef struct weft_scheme_entry {
    char *glob; /* NULL: the default, the first entry alone */
    const weft_scheme_t *scheme;
    weft_profile_t profile;
    weft_chosen_by_t chosen_by; /* the profile */
    weft_arrange_t arrange;     /* of the scales; kernels/arrange.h */
    char *arranged;             /* its name as it was written; NULL: the engine's, or plain */
} weft_scheme_entry_t;

typedef struct weft_scheme_map {
    weft_scheme_entry_t *entries;
    uint32_t count;
    char *text; /* as weft writes it: one blank behind each ';', profiles where a further entry's scheme has several */
} weft_scheme_map_t;

/* Read a map. `profile` (or NULL) is for every entry that names none and whose scheme has it; then comes what `engine` (or
 * NULL) has for the scheme.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (an entry that is none); WEFT_ERR_UNKNOWN_NAME (a scheme or a profile; the message
 * lists those there are); WEFT_ERR_NO_MEMORY.
 * **Ownership** free with weft_scheme_map_free. */
weft_status_t weft_scheme_map_parse(const char *text, const char *profile, const weft_engine_t *engine,
                                    weft_scheme_map_t *map, weft_error_t *error);

/* Read one as weft has written it (`map.text`), the default's profile beside it.
 * **Returns** as weft_scheme_map_parse. */
weft_status_t weft_scheme_map_read(const char *text, const char *profile, weft_scheme_map_t *map,
                                   weft_error_t *error);
void weft_scheme_map_free(weft_scheme_map_t *map);

/* What a layer of that entry becomes: the entry's scheme, if that is a cast or the layer may be quantized. Else the map's
 * default, if that is a cast; else weft_scheme_cast. */
const weft_scheme_t *weft_scheme_map_decide(const weft_scheme_map_t *map, const weft_layer_t *layer,
                                            const weft_scheme_entry_t *entry);

/* The dtype of its weight then. A cast to bf16 keeps fp16, where the map's default is no cast. */
weft_dtype_t weft_scheme_map_dtype(const weft_scheme_map_t *map, const weft_layer_t *layer, const weft_scheme_entry_t *entry);

/* Whether two entries, each of its map, make the same of a layer. */
bool weft_scheme_entries_agree(const weft_scheme_map_t *map_a, const weft_scheme_entry_t *a, const weft_scheme_map_t *map_b,
                               const weft_scheme_entry_t *b, const weft_layer_t *layer);

/* Find the entry of each layer: entry_of[layer] is its index, [layers->count].
 * **Returns** WEFT_OK; WEFT_ERR_UNKNOWN_NAME (an entry that matches nothing); WEFT_ERR_MISFIT (an entry that could only
 * change layers the recipe keeps as they are, or parts of one layer that get different schemes). */
weft_status_t weft_scheme_map_assign(const weft_scheme_map_t *map, const weft_model_t *model,
                                     const weft_layers_t *layers, uint32_t *entry_of, weft_error_t *error);

/* Whether two maps give every layer the same; both have been assigned. */
bool weft_scheme_maps_agree(const weft_scheme_map_t *a, const uint32_t *entry_of_a, const weft_scheme_map_t *b,
                            const uint32_t *entry_of_b, const weft_layers_t *layers);

#endif
