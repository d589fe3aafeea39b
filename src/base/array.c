#include "src/base/array.h"

#include <stdint.h>
#include <stdlib.h>

bool weft_array_reserve(void **items, size_t wanted, size_t *capacity, size_t element_bytes)
{
    if (wanted <= *capacity)
        return true;
    size_t grown = *capacity ? *capacity : 8;
    while (grown < wanted) {
        if (grown > SIZE_MAX / 2)
            return false;
        grown *= 2;
    }
    if (grown > SIZE_MAX / element_bytes)
        return false;
    void *moved = realloc(*items, grown * element_bytes);
    if (!moved)
        return false;
    *items = moved;
    *capacity = grown;
    return true;
}
