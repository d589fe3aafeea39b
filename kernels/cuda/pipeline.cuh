/* The pipeline: the last warps of a block copy tiles to shared memory, as many ahead as there are stages, while the others
 * work on tiles that have come. Blocks stay for the whole launch, tile after tile, so loads never stop for arithmetic.
 *
 *     copying warps     wait for an empty stage, start the copies of a tile, leave its unit's record
 *                              | full                                  ^ empty
 *                       +------v-------+--------------+--------------+ |
 *                       | stage 0      | stage 1      | stage 2      | |
 *                       +--------------+--------------+--------------+ |
 *                              v                                       |
 *     working warps     wait for a full stage: amax, codes, stores, digest
 *
 * Long pieces of rows are copied by the bulk engine, one instruction each; it spends about 70 cycles on an instruction, so
 * short ones go 16 bytes at a time (cp.async), which costs no registers either. A stage counts as full when every copying
 * thread has arrived at its barrier, what it copied has come, and so have the bytes announced for the bulk engine. Tiles
 * that are not direct pass through as a record alone.
 *
 * The loops of the working warps are short and rolled: each launch begins with cold instruction caches.
 *
 * Launches overlap: the next may start its blocks when this one's have all started, but waits for its end before it
 * touches anything that is not a list (griddepcontrol).
 */
#ifndef WEFT_KERNELS_CUDA_PIPELINE_CUH
#define WEFT_KERNELS_CUDA_PIPELINE_CUH

#include "kernels/cuda/tile.cuh"

#ifndef WEFT_TUNE_STAGES
#define WEFT_TUNE_STAGES 3
#endif
#ifndef WEFT_TUNE_BLOCKS
#define WEFT_TUNE_BLOCKS 2
#endif
#ifndef WEFT_TUNE_COPIERS
#define WEFT_TUNE_COPIERS 2
#endif
#ifndef WEFT_TUNE_BULK
#define WEFT_TUNE_BULK 2048
#endif
constexpr uint32_t STAGES = WEFT_TUNE_STAGES;
constexpr uint32_t BLOCKS = WEFT_TUNE_BLOCKS; /* of a multiprocessor, for 2-byte sources */
constexpr uint32_t WARPS = THREADS / WARP;    /* that work */
constexpr uint32_t COPIERS = WEFT_TUNE_COPIERS * WARP;
constexpr uint32_t PIPELINE_THREADS = THREADS + COPIERS;
constexpr uint32_t LEAST_BULK = WEFT_TUNE_BULK; /* bytes of a piece for which the bulk engine is used */

template <weft_dtype_t D> constexpr uint32_t stage_bytes = TILE_ELEMS * (D == WEFT_DTYPE_F32 ? 4 : 2);
template <weft_dtype_t D> constexpr uint32_t blocks_of = D == WEFT_DTYPE_F32 ? 1 : BLOCKS;

typedef struct ring {
    uint64_t full[STAGES], empty[STAGES];
    unit_t units[STAGES];
    tile_t tiles[STAGES];
} ring_t;

/* The part of its unit that a tile is, and how it lies in a stage. */
typedef struct frame {
    uint32_t row, col, rows, cols;
    uint32_t pitch; /* elements from row to row of the stage */
} frame_t;

/* ---- Barriers and copies ---- */

static __device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

static __device__ __forceinline__ void barrier_init(uint64_t *barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/* Arrive, and announce bytes that copies will bring. */
static __device__ __forceinline__ void barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

static __device__ __forceinline__ void copy_bulk(void *to, const void *from, uint32_t bytes, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

static __device__ __forceinline__ void copy_16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

/* Arrive when all copies of 16 bytes that this thread has started are there. */
static __device__ __forceinline__ void barrier_arrive_copied(uint64_t *barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/* What came before this launch on its stream is complete and visible. */
static __device__ __forceinline__ void wait_for_stream(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

static __device__ __forceinline__ void let_next_launch(void)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

static __device__ __forceinline__ void ring_init(ring_t *ring)
{
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < STAGES; i++) {
            barrier_init(&ring->full[i], 1 + COPIERS);
            barrier_init(&ring->empty[i], WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    let_next_launch();
}

/* ---- The copying warps ---- */

/* Where a segment and a frame meet, in the unit. */
typedef struct meet {
    uint32_t row, rows, col, cols;
} meet_t;

static __device__ __forceinline__ meet_t meet_of(const segment_t *s, const frame_t *f)
{
    const uint32_t row = max(s->row, f->row), end_row = min(s->row + s->rows, f->row + f->rows);
    const uint32_t col = max(s->col, f->col), end_col = min(s->col + s->cols, f->col + f->cols);
    if (row >= end_row || col >= end_col)
        return meet_t{0, 0, 0, 0};
    return meet_t{row, end_row - row, col, end_col - col};
}

/* Bytes that lie together on both sides: of all rows, or of one. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t piece_bytes(const segment_t *s, const frame_t *f, meet_t m)
{
    const bool together = m.cols == s->ld_elems && m.cols == f->pitch;
    return m.cols * (together ? m.rows : 1) * elem_bytes<D>();
}

/* Bytes that the bulk engine will copy. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t bulk_bytes(const segment_t *s, const frame_t *f)
{
    const meet_t m = meet_of(s, f);
    return piece_bytes<D>(s, f, m) >= LEAST_BULK ? m.rows * m.cols * elem_bytes<D>() : 0;
}

/* Copy rows of short pieces, 16 bytes by each copying thread in turn. */
static __device__ __forceinline__ void copy_short(uint8_t *to, uint32_t to_pitch, const uint8_t *from, size_t from_pitch,
                                                  uint32_t rows, uint32_t row_bytes)
{
    const uint32_t copier = threadIdx.x - THREADS, width = row_bytes / 16;
    const uint32_t step_rows = COPIERS / width, step = COPIERS % width;
    uint32_t row = copier / width, at = copier % width;
#pragma unroll 4
    while (row < rows) {
        copy_16(to + row * to_pitch + at * 16, from + row * from_pitch + at * 16);
        row += step_rows, at += step;
        if (at >= width)
            row++, at -= width;
    }
}

/* The same where a row is BLOCK 2-byte elements, as most are. */
static __device__ __forceinline__ void copy_block_rows(uint8_t *to, const uint8_t *from, size_t from_pitch,
                                                       uint32_t rows)
{
    constexpr uint32_t WIDTH = BLOCK * 2 / 16, STEP_ROWS = COPIERS / WIDTH;
    const uint32_t copier = threadIdx.x - THREADS;
    to += copier * 16;
    from += (copier / WIDTH) * from_pitch + copier % WIDTH * 16;
    const size_t step = STEP_ROWS * from_pitch;
#pragma unroll 8
    for (uint32_t row = copier / WIDTH; row < rows; row += STEP_ROWS) {
        copy_16(to, from);
        to += COPIERS * 16;
        from += step;
    }
}

/* Start the copies of what a segment has of a frame. */
template <weft_dtype_t D>
static __device__ __forceinline__ void copy_segment(const segment_t *s, const frame_t *f, uint8_t *stage,
                                                    uint64_t *barrier)
{
    const meet_t m = meet_of(s, f);
    const uint32_t copier = threadIdx.x - THREADS, piece = piece_bytes<D>(s, f, m);
    const uint32_t row_bytes = m.cols * elem_bytes<D>(), pitch = f->pitch * elem_bytes<D>();
    const size_t from_pitch = (size_t)s->ld_elems * elem_bytes<D>();
    const uint8_t *from = s->data + (m.row - s->row) * from_pitch + (size_t)(m.col - s->col) * elem_bytes<D>();
    uint8_t *to = stage + (m.row - f->row) * pitch + (m.col - f->col) * elem_bytes<D>();
    if (piece < LEAST_BULK) {
        if (row_bytes == BLOCK * 2 && pitch == BLOCK * 2)
            copy_block_rows(to, from, from_pitch, m.rows);
        else
            copy_short(to, pitch, from, from_pitch, m.rows, row_bytes);
    } else if (copier < WARP) {
        const uint32_t pieces = m.rows * row_bytes / piece;
        for (uint32_t i = copier; i < pieces; i += WARP)
            copy_bulk(to + i * pitch, from + i * from_pitch, piece, barrier);
    }
}

static __device__ __forceinline__ segment_t shuffle_segment(const segment_t *s, uint32_t lane)
{
    return segment_t{
        .data = (const uint8_t *)__shfl_sync(ALL_LANES, (unsigned long long)s->data, lane),
        .ld_elems = __shfl_sync(ALL_LANES, s->ld_elems, lane),
        .row = __shfl_sync(ALL_LANES, s->row, lane),
        .col = __shfl_sync(ALL_LANES, s->col, lane),
        .rows = __shfl_sync(ALL_LANES, s->rows, lane),
        .cols = __shfl_sync(ALL_LANES, s->cols, lane),
        .aligned = 1,
    };
}

/* Announce and start all copies of a frame. A lane looks at one segment; then its warp copies those that meet it. */
template <weft_dtype_t D>
static __device__ __forceinline__ void copy_frame(const work_t *work, const unit_t *unit, const frame_t *f,
                                                  uint8_t *stage, uint64_t *barrier)
{
    const uint32_t copier = threadIdx.x - THREADS, lane = copier % WARP;
    if (unit->src) {
        const segment_t whole = {unit->src, unit->ld_elems, 0, 0, unit->rows, unit->cols, 1};
        if (copier == 0)
            barrier_expect(barrier, bulk_bytes<D>(&whole, f));
        __syncwarp();
        copy_segment<D>(&whole, f, stage, barrier);
        return;
    }
    const segment_t *segments = work->segments + unit->first_segment;
    if (copier < WARP) {
        uint32_t bytes = 0;
        for (uint32_t i = lane; i < unit->num_segments; i += WARP)
            bytes += bulk_bytes<D>(&segments[i], f);
        bytes = __reduce_add_sync(ALL_LANES, bytes);
        if (copier == 0)
            barrier_expect(barrier, bytes);
        __syncwarp();
    }
    for (uint32_t first = 0; first < unit->num_segments; first += WARP) {
        segment_t mine = {};
        if (first + lane < unit->num_segments)
            mine = segments[first + lane];
        uint32_t meeting = __ballot_sync(ALL_LANES, meet_of(&mine, f).rows > 0);
        for (; meeting; meeting &= meeting - 1) {
            const segment_t s = shuffle_segment(&mine, (uint32_t)__ffs((int)meeting) - 1);
            copy_segment<D>(&s, f, stage, barrier);
        }
    }
}

/* What the last warps do: tile after tile into the ring. `frame_of(unit, place)` says what a tile is. */
template <weft_dtype_t D, typename FRAME>
static __device__ __forceinline__ void fill_ring(const work_t *work, ring_t *ring, uint8_t *stages, FRAME frame_of)
{
    const uint32_t copier = threadIdx.x - THREADS;
    uint32_t stage = 0, parity = 1; /* a barrier never used counts as passed the phase before */
    for (uint32_t at = blockIdx.x; at < work->num_tiles; at += gridDim.x) {
        const tile_t tile = work->tiles[at];
        const unit_t unit = work->units[tile.unit];
        barrier_wait(&ring->empty[stage], parity);
        if (at == blockIdx.x)
            wait_for_stream();
        if (copier == 0) {
            ring->units[stage] = unit;
            ring->tiles[stage] = tile;
        }
        if (unit.flags & UNIT_DIRECT) {
            const frame_t frame = frame_of(&unit, tile.place);
            copy_frame<D>(work, &unit, &frame, stages + stage * stage_bytes<D>, &ring->full[stage]);
        } else if (copier == 0) {
            barrier_arrive(&ring->full[stage]);
        }
        barrier_arrive_copied(&ring->full[stage]);
        if (++stage == STAGES)
            stage = 0, parity ^= 1;
    }
}

/* ---- The working warps ---- */

/* A group of a stage as values. */
template <weft_dtype_t D> static __device__ __forceinline__ uint4 stage_group(const uint8_t *stage, uint32_t elem)
{
    const uint4 *at = (const uint4 *)(stage + elem * elem_bytes<D>());
    if (D != WEFT_DTYPE_F32)
        return at[0];
    uint4 a = at[0], b = at[1];
    return make_uint4(bf16_pair(__uint_as_float(a.x), __uint_as_float(a.y)),
                      bf16_pair(__uint_as_float(a.z), __uint_as_float(a.w)),
                      bf16_pair(__uint_as_float(b.x), __uint_as_float(b.y)),
                      bf16_pair(__uint_as_float(b.z), __uint_as_float(b.w)));
}

/* This warp has all that it needs of a stage. */
static __device__ __forceinline__ void release_stage(ring_t *ring, uint32_t stage)
{
    __syncwarp();
    if (threadIdx.x % WARP == 0)
        barrier_arrive(&ring->empty[stage]);
}

/* What the other warps do. `direct(unit, tile, stage, index, turn)` releases the stage itself, and says whether it did the
 * tile; `gathered(tile)` does the others. `turn` alternates between 0 and 1 from tile to tile. */
template <weft_dtype_t D, typename DIRECT_FN, typename GATHERED_FN>
static __device__ __forceinline__ void drain_ring(const work_t *work, ring_t *ring, const uint8_t *stages,
                                                  DIRECT_FN direct, GATHERED_FN gathered)
{
    wait_for_stream();
    uint32_t stage = 0, parity = 0, turn = 0;
    for (uint32_t at = blockIdx.x; at < work->num_tiles; at += gridDim.x) {
        barrier_wait(&ring->full[stage], parity);
        const unit_t unit = ring->units[stage];
        const tile_t tile = ring->tiles[stage];
        bool done = false;
        if (unit.flags & UNIT_DIRECT)
            done = direct(&unit, tile, stages + stage * stage_bytes<D>, stage, turn);
        else
            release_stage(ring, stage);
        if (!done)
            gathered(tile);
        if (++stage == STAGES)
            stage = 0, parity ^= 1;
        turn ^= 1;
    }
}

/* ---- Launch ---- */

/* Bytes of dynamic shared memory: the stages, and what brings the first to a multiple of 128. */
template <weft_dtype_t D> constexpr uint32_t dynamic_bytes = STAGES * stage_bytes<D> + 128;

static __device__ __forceinline__ uint8_t *align_stages(uint8_t *dynamic)
{
    return dynamic + (128 - shared_address(dynamic) % 128) % 128;
}

static inline weft_status_t pipeline_prepare(void (*kernel)(const work_t), uint32_t bytes)
{
    return weft_cuda_status(
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

static inline weft_status_t pipeline_launch(void (*kernel)(const work_t), const work_t *work, uint32_t blocks,
                                            uint32_t bytes, cudaStream_t stream)
{
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    uint32_t most = work->num_processors * blocks;
    config.gridDim = dim3(work->num_tiles < most ? work->num_tiles : most);
    config.blockDim = dim3(PIPELINE_THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = 1;
    return weft_cuda_status(cudaLaunchKernelEx(&config, kernel, *work));
}

static inline uint32_t pipeline_bytes(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F32 ? dynamic_bytes<WEFT_DTYPE_F32> : dynamic_bytes<WEFT_DTYPE_BF16>;
}

static inline uint32_t pipeline_blocks(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F32 ? blocks_of<WEFT_DTYPE_F32> : blocks_of<WEFT_DTYPE_BF16>;
}

#endif
