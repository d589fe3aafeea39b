#include "src/model/names.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"

/* The slot that holds the name, or the free one where it would go. */
static weft_names_slot_t *probe(const weft_names_t *names, const char *name, uint64_t hash)
{
    size_t mask = names->capacity - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        weft_names_slot_t *slot = &names->slots[i];
        if (!slot->name || (slot->hash == hash && strcmp(slot->name, name) == 0))
            return slot;
    }
}

static bool grow(weft_names_t *names)
{
    weft_names_t grown = {.capacity = names->capacity ? names->capacity * 2 : 64, .count = names->count};
    grown.slots = calloc(grown.capacity, sizeof *grown.slots);
    if (!grown.slots)
        return false;
    for (size_t i = 0; i < names->capacity; i++) {
        const weft_names_slot_t *slot = &names->slots[i];
        if (slot->name)
            *probe(&grown, slot->name, slot->hash) = *slot;
    }
    free(names->slots);
    *names = grown;
    return true;
}

bool weft_names_add(weft_names_t *names, const char *name, uint32_t value)
{
    if (2 * (names->count + 1) > names->capacity && !grow(names))
        return false;
    uint64_t hash = weft_hash64(name, strlen(name));
    *probe(names, name, hash) = (weft_names_slot_t){.hash = hash, .name = name, .value = value};
    names->count++;
    return true;
}

uint32_t weft_names_find(const weft_names_t *names, const char *name)
{
    if (names->count == 0)
        return WEFT_NAMES_NONE;
    const weft_names_slot_t *slot = probe(names, name, weft_hash64(name, strlen(name)));
    return slot->name ? slot->value : WEFT_NAMES_NONE;
}

void weft_names_free(weft_names_t *names)
{
    free(names->slots);
    *names = (weft_names_t){0};
}
