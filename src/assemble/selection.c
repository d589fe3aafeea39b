#include "src/assemble/selection.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

static bool matches_one(const weft_layer_t *layer, const char *pattern)
{
    char name[WEFT_LAYER_NAME_BYTES];
    return fnmatch(pattern, layer->name, 0) == 0 ||
           fnmatch(pattern, weft_layer_full_name(layer, name), 0) == 0;
}

static bool matches(const weft_layer_t *layer, const char *patterns)
{
    char pattern[WEFT_LAYER_NAME_BYTES];
    while (*patterns) {
        size_t length = strcspn(patterns, ",");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, patterns);
        if (matches_one(layer, pattern))
            return true;
        patterns += length + (patterns[length] == ',');
    }
    return false;
}

uint32_t weft_selection_count(const weft_plan_t *plan, const char *patterns)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->layers->count; i++)
        count += matches(&plan->layers->items[i], patterns);
    return count;
}

weft_status_t weft_selection_create(const weft_program_t *program, weft_selection_t *selection)
{
    *selection = (weft_selection_t){
        .program = program,
        .layers = calloc((size_t)program->plan->layers->count + 1, sizeof *selection->layers),
        .buckets = calloc(program->num_buckets + 1, sizeof *selection->buckets),
    };
    if (!selection->layers || !selection->buckets) {
        weft_selection_destroy(selection);
        return WEFT_ERR_NO_MEMORY;
    }
    weft_selection_choose(selection, "");
    return WEFT_OK;
}

void weft_selection_destroy(weft_selection_t *selection)
{
    free(selection->layers);
    free(selection->buckets);
    *selection = (weft_selection_t){0};
}

static bool bucket_travels(const weft_selection_t *s, const weft_bucket_t *bucket)
{
    const weft_fragment_t *fragments = &s->program->fragments[bucket->first_fragment];
    for (uint32_t i = 0; i < bucket->num_fragments; i++)
        if (fragments[i].kind == WEFT_PIECE_DIGEST || s->layers[fragments[i].layer])
            return true;
    return false;
}

static void choose_layers(weft_selection_t *s, const char *patterns)
{
    const weft_layers_t *layers = s->program->plan->layers;
    s->num_units = 0;
    for (uint32_t i = 0; i < layers->count; i++) {
        s->layers[i] = s->whole || matches(&layers->items[i], patterns);
        s->num_units += s->layers[i] ? s->program->layer_units[i] : 0;
    }
}

void weft_selection_choose(weft_selection_t *s, const char *patterns)
{
    s->whole = !*patterns;
    choose_layers(s, patterns);
    s->payload_bytes = s->wire_bytes = 0;
    for (size_t b = 0; b < s->program->num_buckets; b++) {
        const weft_bucket_t *bucket = &s->program->buckets[b];
        s->buckets[b] = s->whole || bucket_travels(s, bucket);
        s->payload_bytes += s->buckets[b] ? bucket->payload_bytes : 0;
        s->wire_bytes += s->buckets[b] ? bucket->bytes : 0;
    }
}
