/* What layers become: a map, a profile and an engine, in a line each. A map that is accepted reads as itself when it is written
 * again, and gives every layer of a small model something that can be. */
#include "kernels/arrange.h"
#include "src/plan/scheme_map.h"
#include "tests/fuzz/world.h"

/* A dense block and one of experts; biases, norms, a head. */
#define CONFIG                                                                                               \
    "{\"model_type\":\"qwen3_moe\",\"num_hidden_layers\":2,\"hidden_size\":64,\"vocab_size\":64,"            \
    "\"intermediate_size\":64,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"head_dim\":32,"          \
    "\"moe_intermediate_size\":64,\"num_experts\":2,\"num_experts_per_tok\":1,\"decoder_sparse_step\":1,"    \
    "\"mlp_only_layers\":[0]}"

static struct {
    weft_model_t *model;
    weft_layers_t *layers;
    uint32_t *entries, *again;
} world;

static void make_world(void)
{
    weft_error_t error;
    world.model = fuzz_model(CONFIG);
    FUZZ_CHECK(weft_layers_create(world.model, &world.layers, &error) == WEFT_OK);
    world.entries = calloc(world.layers->count, sizeof *world.entries);
    world.again = calloc(world.layers->count, sizeof *world.again);
    FUZZ_CHECK(world.entries && world.again);
}

static void check_names(const char *name, const char *profile_name)
{
    const weft_scheme_t *scheme = NULL;
    weft_profile_t profile;
    weft_error_t error = {0};
    weft_status_t status = weft_scheme_find(name, &scheme, &error);
    if (status == WEFT_OK) {
        FUZZ_CHECK(strcmp(scheme->name, name) == 0);
        FUZZ_CHECK(weft_scheme_profile(scheme, NULL, &profile, &error) == WEFT_OK);
        status = weft_scheme_profile(scheme, profile_name, &profile, &error);
        if (status == WEFT_OK)
            FUZZ_CHECK(strcmp(weft_profile_name(profile), profile_name) == 0 &&
                       (scheme->profiles >> profile & 1));
    }
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
}

/* The scheme and arrangement are possible, and together. */
static void check_entry(const weft_scheme_entry_t *e, bool first)
{
    FUZZ_CHECK(first == !e->glob && (e->scheme->profiles >> e->profile & 1));
    FUZZ_CHECK(weft_arrange_takes(e->arrange, e->scheme->kernel, e->profile));
}

static void check_layers(const weft_scheme_map_t *map, const weft_scheme_map_t *again)
{
    weft_error_t error = {0};
    weft_status_t status = weft_scheme_map_assign(map, world.model, world.layers, world.entries, &error);
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        return;
    }
    FUZZ_CHECK(weft_scheme_map_assign(again, world.model, world.layers, world.again, &error) == WEFT_OK);
    FUZZ_CHECK(weft_scheme_maps_agree(map, world.entries, again, world.again, world.layers));
    for (uint32_t i = 0; i < world.layers->count; i++) {
        const weft_layer_t *layer = &world.layers->items[i];
        FUZZ_CHECK(world.entries[i] < map->count && world.entries[i] == world.again[i]);
        const weft_scheme_entry_t *entry = &map->entries[world.entries[i]];
        const weft_scheme_t *scheme = weft_scheme_map_decide(map, layer, entry);
        FUZZ_CHECK(layer->quantize ? scheme == entry->scheme : weft_scheme_is_cast(scheme));
        FUZZ_CHECK(weft_scheme_map_dtype(map, layer, entry) == scheme->dtype); /* the model is bf16 */
    }
}

/* As a file in kernel format has it: the profile of the default stands beside the text. */
static void check_map(const weft_scheme_map_t *map)
{
    weft_scheme_map_t again;
    weft_error_t error;
    for (uint32_t i = 0; i < map->count; i++)
        check_entry(&map->entries[i], i == 0);
    FUZZ_CHECK(weft_scheme_map_read(map->text, weft_profile_name(map->entries[0].profile), &again, &error) == WEFT_OK);
    FUZZ_CHECK(again.count == map->count && strcmp(again.text, map->text) == 0);
    for (uint32_t i = 0; i < map->count; i++) {
        const weft_scheme_entry_t *a = &map->entries[i], *b = &again.entries[i];
        FUZZ_CHECK(a->scheme == b->scheme && a->profile == b->profile && a->arrange == b->arrange);
    }
    check_layers(map, &again);
    weft_scheme_map_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    char *text = fuzz_take_text(&input, "\n"), *profile = fuzz_take_text(&input, "\n");
    char *engine_name = fuzz_take_text(&input, "\n");
    const weft_engine_t *engine = NULL;
    weft_scheme_map_t map = {0};
    weft_error_t error = {0};
    if (!world.model)
        make_world();
    check_names(text, profile);
    if (weft_engine_find(engine_name, &engine, &error) != WEFT_OK)
        engine = NULL;
    weft_status_t status = weft_scheme_map_parse(text, profile[0] ? profile : NULL, engine, &map, &error);
    if (status == WEFT_OK)
        check_map(&map);
    else
        fuzz_check_error(status, &error);
    weft_scheme_map_free(&map);
    free(text);
    free(profile);
    free(engine_name);
    return 0;
}
