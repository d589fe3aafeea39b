/* A shard: what a trainer rank holds of a tensor, and where it is: the same box of each of a run of slabs, one after
 * another. A tensor that stacks no experts is one slab. */
#ifndef WEFT_ASSEMBLE_SHARD_H
#define WEFT_ASSEMBLE_SHARD_H

#include "src/plan/program.h"

typedef struct weft_shard {
    weft_rect_t box;     /* of a slab, as it lies; empty where the rank holds nothing */
    bool stacked; /* the tensor has a dimension of experts in front, each of which is a slab */
    uint32_t first_slab, num_slabs, slab_rows;
    const uint8_t *data; /* element (box.row, box.col) of the first slab; NULL until bound */
    size_t ld_elems;     /* from one row to the next */
} weft_shard_t;

/* Write the box of every tensor that trainer `rank` holds by the plan's placement into `shards` [tensors of the model],
 * unbound, rows touching each other. */
void weft_shards_place(const weft_plan_t *plan, uint32_t rank, weft_shard_t *shards);

/* Whether it holds nothing; how many elements it spans with rows `ld_elems` apart. */
bool weft_shard_empty(const weft_shard_t *shard);
size_t weft_shard_elems(const weft_shard_t *shard, size_t ld_elems);

/* The address of element (row, col) of the tensor, seen as one matrix of all its rows; it must lie in the shard. */
const uint8_t *weft_shard_at(const weft_shard_t *shard, size_t element_bytes, uint32_t row, uint32_t col);

#endif
