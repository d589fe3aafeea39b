/* A shard: the box of a tensor that a trainer rank holds, and where it is. */
#ifndef WEFT_ASSEMBLE_SHARD_H
#define WEFT_ASSEMBLE_SHARD_H

#include "src/plan/program.h"

typedef struct weft_shard {
    weft_rect_t box;     /* empty where the rank holds nothing */
    const uint8_t *data; /* element (box.row, box.col); NULL until bound */
    size_t ld_elems;     /* from one row to the next */
} weft_shard_t;

/* Write the box of every tensor that trainer `rank` holds by the plan's placement into `shards` [tensors of the model],
 * unbound, rows touching each other. */
void weft_shards_place(const weft_plan_t *plan, uint32_t rank, weft_shard_t *shards);

/* The address of element (row, col) of the tensor, which must lie in the shard. */
const uint8_t *weft_shard_at(const weft_shard_t *shard, size_t element_bytes, uint32_t row, uint32_t col);

#endif
