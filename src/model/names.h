/* A hash table from names to numbers: what keeps 140,000 tensors from being looked up one by one. */
#ifndef WEFT_MODEL_NAMES_H
#define WEFT_MODEL_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WEFT_NAMES_NONE UINT32_MAX

typedef struct weft_names_slot {
    uint64_t hash;
    const char *name; /* NULL: the slot is free */
    uint32_t value;
} weft_names_slot_t;

/* Start from zeros. */
typedef struct weft_names {
    weft_names_slot_t *slots;
    size_t capacity; /* 0 or a power of two, at most half full */
    size_t count;
} weft_names_t;

/* Add a name that is not there yet; false when memory ran out.
 * **Ownership** the name is not copied and must outlive the table. */
bool weft_names_add(weft_names_t *names, const char *name, uint32_t value);

/* Return the value of a name, or WEFT_NAMES_NONE. */
uint32_t weft_names_find(const weft_names_t *names, const char *name);

/* Free the slots; the table is empty again. */
void weft_names_free(weft_names_t *names);

#endif
