/* A rectangle of a tensor made one run, as it travels.
 *
 *     data, ld_bytes                   out
 *     +------------+........+          +------------+------------+---
 *     | row_bytes  |        |  =====>  |   row 0    |   row 1    |
 *     +------------+........+          +------------+------------+---
 *
 * Every byte is read once and written once.
 */
#include <string.h>

#include "kernels/ref/ref.h"

void weft_ref_pack(const void *data, size_t ld_bytes, uint32_t rows, size_t row_bytes, void *out)
{
    if (ld_bytes == row_bytes) {
        memcpy(out, data, rows * row_bytes);
        return;
    }
    for (uint32_t row = 0; row < rows; row++)
        memcpy((char *)out + row * row_bytes, (const char *)data + row * ld_bytes, row_bytes);
}
