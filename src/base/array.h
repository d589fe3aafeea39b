/* A growable array of one element type, written out where it is used:
 *
 *     struct { weft_rect_t *items; size_t count, capacity; } rects = {0};
 *     if (!WEFT_ARRAY_PUSH(&rects, rect)) return WEFT_ERR_NO_MEMORY;
 */
#ifndef WEFT_BASE_ARRAY_H
#define WEFT_BASE_ARRAY_H

#include <stdbool.h>
#include <stddef.h>

#define WEFT_ARRAY(type)                                                                                     \
    struct {                                                                                                 \
        type *items;                                                                                         \
        size_t count, capacity;                                                                              \
    }

/* Append `...` (one element); false when memory ran out and nothing was appended. */
#define WEFT_ARRAY_PUSH(array, ...)                                                                          \
    (weft_array_reserve((void **)&(array)->items, (array)->count + 1, &(array)->capacity,                    \
                        sizeof *(array)->items) &&                                                           \
     ((array)->items[(array)->count++] = (__VA_ARGS__), true))

/* Make room for `count` elements in all; false when memory ran out. */
#define WEFT_ARRAY_RESERVE(array, wanted)                                                                    \
    weft_array_reserve((void **)&(array)->items, (wanted), &(array)->capacity, sizeof *(array)->items)

#define WEFT_ARRAY_FREE(array)                                                                               \
    (free((array)->items), (array)->items = NULL, (array)->count = (array)->capacity = 0)

/* Grow geometrically so that `wanted` elements fit. */
bool weft_array_reserve(void **items, size_t wanted, size_t *capacity, size_t element_bytes);

#endif
