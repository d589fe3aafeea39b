/* Moves: what is quantized already goes to its place as it is.
 *
 *     grain: 1, 2, 4, 8 or 16 bytes, the largest that every address and width of the unit is a multiple of
 *     tile: all rows, MOVE_BYTES of each; a thread moves a grain, neighbours along a row
 *
 * As many bytes read as written. The digest is of a pass of its own.
 */
#include "kernels/cuda/direct.cuh"

template <typename T>
static __device__ __forceinline__ void move_tile(const work_t *work, const unit_t *unit, uint32_t place)
{
    constexpr uint32_t WIDTH = MOVE_BYTES / sizeof(T);
    const sources_t sources = {work->segments + unit->first_segment, unit->num_segments};
    for (uint32_t i = threadIdx.x; i < unit->rows * WIDTH; i += THREADS) {
        const uint32_t row = i / WIDTH, col = place * WIDTH + i % WIDTH;
        if (col >= unit->cols)
            continue;
        const segment_t *s = find_segment(sources, row, col);
        T value = {};
        if (s && s->data)
            value = ((const T *)s->data)[(size_t)(row - s->row) * s->ld_elems + (col - s->col)];
        ((T *)unit->out)[(size_t)row * unit->cols + col] = value;
    }
}

static __global__ void __launch_bounds__(THREADS) move(const __grid_constant__ work_t work)
{
    let_follower_launch(&work);
    wait_before(&work);
    const unit_tile_t tile = work.tiles[blockIdx.x];
    const unit_t unit = work.units[tile.unit];
    switch (unit.log_row_threads) { /* of a grain's bytes */
    case 0:
        move_tile<uint8_t>(&work, &unit, tile.place);
        break;
    case 1:
        move_tile<uint16_t>(&work, &unit, tile.place);
        break;
    case 2:
        move_tile<uint32_t>(&work, &unit, tile.place);
        break;
    case 3:
        move_tile<uint2>(&work, &unit, tile.place);
        break;
    default:
        move_tile<uint4>(&work, &unit, tile.place);
    }
    wait_after(&work);
}

weft_status_t weft_cuda_launch_move(const work_t *work, cudaStream_t stream)
{
    return launch_tiles(move, work, THREADS, stream);
}
