/* Direct tiles: a block each, in registers from the loads to the stores.
 *
 *     tile record ---> where each thread's groups are ---> all loads at once ---> amax ---> codes and digest
 *           \----------------> the unit's record, by way of shared memory ----------^
 *
 * A tile that one segment holds says so in its record: its loads wait for one other load only. Where several
 * hold it (shards of 28 rows, say), each warp looks through them, a lane for each; what lies in none, or in
 * one of zeros, is zero. What comes of a tile depends on nothing but its block, so several blocks of a
 * multiprocessor keep its loads going while some of them compute: no pipeline within a block was faster.
 *
 * Launches overlap: the next may start its blocks when this one's have all started (and, of a list's first
 * launch, have waited). It waits for its end before it touches anything that is not a list (griddepcontrol);
 * or, where it follows a launch of the same list, which wrote nothing that it reads, only before it ends
 * itself, so that its blocks fill what the last blocks before leave idle. Either way its end means the end of
 * all before it.
 */
#ifndef WEFT_KERNELS_CUDA_DIRECT_CUH
#define WEFT_KERNELS_CUDA_DIRECT_CUH

#include "kernels/cuda/tile.cuh"

/* Threads that a multiprocessor is to hold at once: 40 registers each. An fp32 group is loaded in twice as
 * many. */
template <weft_dtype_t D> constexpr uint32_t resident_threads = D == WEFT_DTYPE_F32 ? 1024 : 1536;

/* ---- Launches that overlap ---- */

static inline weft_status_t launch_tiles(void (*kernel)(const work_t), const work_t *work, uint32_t threads,
                                         cudaStream_t stream)
{
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(work->num_tiles);
    config.blockDim = dim3(threads);
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = 1;
    return weft_cuda_status(cudaLaunchKernelEx(&config, kernel, *work));
}

/* The first launch of a list lets the next begin only when what came before has ended: the next does not wait
 * for it (wait_before). */
static __device__ __forceinline__ void let_follower_launch(const work_t *work)
{
    if (work->follows)
        let_next_launch();
}

static __device__ __forceinline__ void wait_before(const work_t *work)
{
    if (!work->follows) {
        wait_for_stream();
        let_next_launch();
    }
}

static __device__ __forceinline__ void wait_after(const work_t *work)
{
    if (work->follows)
        wait_for_stream();
}

/* ---- Records ---- */

/* This block's tile, with both loads out at once, whatever is looked at first. */
static __device__ __forceinline__ unit_tile_t read_tile(const work_t *work)
{
    const unit_tile_t *from = &work->tiles[blockIdx.x];
    uint4 words[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; i++)
        asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                     : "l"((const uint4 *)from + i));
    unit_tile_t tile;
    memcpy(&tile, words, sizeof tile);
    return tile;
}

/* Start to copy the unit's to shared memory, where it costs no registers while the loads are out. */
static __device__ __forceinline__ void bring_unit(const work_t *work, const unit_tile_t *tile, unit_t *to)
{
    const uint8_t *from = (const uint8_t *)&work->units[tile->unit];
    const uint32_t at = threadIdx.x * 16, shared = (uint32_t)__cvta_generic_to_shared(to);
    if (at < sizeof *to)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(shared + at), "l"(from + at)
                     : "memory");
}

/* What this warp copied is there; behind a barrier all of it is. */
static __device__ __forceinline__ void unit_brought(void)
{
    if (threadIdx.x < WARP)
        asm volatile("cp.async.wait_all;" ::: "memory");
}

/* ---- Where groups are ---- */

/* The groups of a thread: the first, and the way from each to the next. */
typedef struct groups {
    uint32_t top, left; /* the tile's place in its unit */
    uint32_t row, col;  /* within the tile */
    uint32_t down, right;
} groups_t;

/* Bit i: group i lies in the unit. */
static __device__ __forceinline__ uint32_t real_groups(const unit_tile_t *tile, const groups_t *g)
{
    uint32_t real = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        real |= (g->row + i * g->down < tile->rows && g->col + i * g->right < tile->cols) << i;
    asm("" : "+r"(real)); /* keep it in a register, not in as many predicates, which spill */
    return real;
}

/* In the one segment that holds the tile. */
template <weft_dtype_t D>
static __device__ __forceinline__ void find_in_one(const unit_tile_t *tile, const groups_t *g, uint32_t real,
                                                   const uint8_t *(&from)[GROUPS])
{
    const uint8_t *first = tile->src + ((size_t)g->row * tile->ld_elems + g->col) * elem_bytes<D>();
    const size_t step = ((size_t)g->down * tile->ld_elems + g->right) * elem_bytes<D>();
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        from[i] = real >> i & 1 ? first + i * step : NULL;
}

/* Whether a segment has data for the rows of this warp. */
static __device__ __forceinline__ bool serves_warp(const segment_t *s, const unit_tile_t *tile,
                                                   const groups_t *g)
{
    const uint32_t first = g->top + __shfl_sync(ALL_LANES, g->row, 0);
    const uint32_t last = g->top + __shfl_sync(ALL_LANES, g->row, WARP - 1) + (GROUPS - 1) * g->down;
    return s->data && s->row <= last && first < s->row + s->rows && s->col < g->left + tile->cols &&
           g->left < s->col + s->cols;
}

/* In whichever of the unit's segments, at most one a lane; NULL where there is none, or zeros. A group never
 * straddles two of them. First every lane asks every segment, then it takes the address from the lane of the
 * one it found. */
template <weft_dtype_t D>
static __device__ __forceinline__ void find_in_several(const segment_t *segments, const unit_tile_t *tile,
                                                       const groups_t *g, const uint8_t *(&from)[GROUPS])
{
    const uint32_t lane = threadIdx.x % WARP;
    segment_t mine = {};
    if (lane < tile->num_segments)
        mine = segments[tile->first_segment + lane];
    uint32_t found[GROUPS];
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        found[i] = WARP;
    uint32_t serving = __ballot_sync(ALL_LANES, serves_warp(&mine, tile, g));
#pragma unroll 1
    for (; serving; serving &= serving - 1) {
        const uint32_t k = (uint32_t)__ffs((int)serving) - 1;
        const uint32_t rows = __shfl_sync(ALL_LANES, mine.rows, k),
                       cols = __shfl_sync(ALL_LANES, mine.cols, k);
        const uint32_t row = g->top + g->row - __shfl_sync(ALL_LANES, mine.row, k);
        const uint32_t col = g->left + g->col - __shfl_sync(ALL_LANES, mine.col, k);
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++) {
            if (row + i * g->down < rows && col + i * g->right < cols)
                found[i] = k;
        }
    }
    const uint64_t data =
        (uint64_t)mine.data - ((uint64_t)mine.row * mine.ld_elems + mine.col) * elem_bytes<D>();
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const uint64_t origin = __shfl_sync(ALL_LANES, data, found[i]);
        const uint64_t ld = __shfl_sync(ALL_LANES, mine.ld_elems, found[i]);
        const uint64_t row = g->top + g->row + i * g->down, col = g->left + g->col + i * g->right;
        from[i] = found[i] < WARP ? (const uint8_t *)(origin + (row * ld + col) * elem_bytes<D>()) : NULL;
    }
}

/* The groups of a thread as values, zeros where the unit ends; returns real_groups. Waits for what came
 * before on the stream. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t load_tile(const work_t *work, const unit_tile_t *tile,
                                                     const groups_t *g, uint4 (&v)[GROUPS])
{
    const uint32_t real = real_groups(tile, g);
    const uint8_t *from[GROUPS];
    if (tile->src)
        find_in_one<D>(tile, g, real, from);
    else
        find_in_several<D>(work->segments, tile, g, from);
    wait_before(work);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        v[i] = from[i] ? load_group<D>(from[i]) : make_uint4(0, 0, 0, 0);
    return real;
}

#endif
