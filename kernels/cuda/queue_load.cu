/* Every kernel run once. CUDA loads code when it is first launched, and loading may wait for kernels that
 * run: a broadcast that waits for a peer, which waits for this rank, would hold it up for ever. So nothing is
 * left to load when the first version comes.
 *
 *     scratch   [ source: zeros | out | scales, amax ]
 */
#include "kernels/cuda/queue.cuh"

constexpr uint32_t COLS = 128;
/* fp8-channel: other kernels for longer rows */
constexpr uint32_t MIDDLE_COLS = 8192 + 128, LONG_COLS = 12288 + 128, WIDE_COLS = 16384 + 128;
constexpr size_t SOURCE_BYTES = 4 * WIDE_COLS, OUT_BYTES = 2 * WIDE_COLS, SMALL_BYTES = 1024;
constexpr uint32_t NUM_DTYPES = 3, NUM_SHAPES = 18, NUM_UNITS = NUM_DTYPES * NUM_SHAPES;

static const weft_dtype_t dtypes[NUM_DTYPES] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};

static const struct {
    weft_kernel_id_t kernel;
    weft_dtype_t out_dtype;
    uint32_t rows, cols;
    weft_arrange_t arrange = WEFT_ARRANGE_PLAIN;
} shapes[NUM_SHAPES] = {
    {WEFT_KERNEL_CAST, WEFT_DTYPE_BF16, 1, COLS},
    {WEFT_KERNEL_CAST, WEFT_DTYPE_F32, 1, COLS},
    {WEFT_KERNEL_CAST, WEFT_DTYPE_U8, 1, COLS}, /* of U8: a move */
    {WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3, 1, COLS},
    {WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, 1, COLS},
    {WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, 1, MIDDLE_COLS},
    {WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, 1, LONG_COLS},
    {WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, 1, WIDE_COLS},
    {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, 1, COLS},
    {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, 1, MIDDLE_COLS},
    {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, 1, LONG_COLS},
    {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, 1, WIDE_COLS},
    {WEFT_KERNEL_MXFP8, WEFT_DTYPE_F8_E4M3, 1, COLS},
    {WEFT_KERNEL_INT4_GROUP_128, WEFT_DTYPE_I32, 64, COLS, WEFT_ARRANGE_MARLIN},
    {WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3, 64, COLS, WEFT_ARRANGE_MARLIN},
    {WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, 64, COLS, WEFT_ARRANGE_MARLIN},
    {WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, 64, COLS, WEFT_ARRANGE_MARLIN},
    {WEFT_KERNEL_FP8_TENSOR, WEFT_DTYPE_F8_E4M3, 64, COLS, WEFT_ARRANGE_MARLIN},
};
static_assert(64 * COLS * 4 <= SOURCE_BYTES && 64 * COLS <= OUT_BYTES && 64 * 4 <= SMALL_BYTES, "a tile of marlin");

static weft_unit_job_t unit_of(uint32_t index, uint8_t *scratch, weft_segment_t *segment)
{
    const auto &shape = shapes[index / NUM_DTYPES];
    const bool moves = shape.kernel == WEFT_KERNEL_CAST && shape.out_dtype == WEFT_DTYPE_U8;
    *segment = weft_segment_t{scratch, shape.cols, 0, 0, shape.rows, shape.cols, false};
    weft_unit_job_t job = {};
    job.kernel = shape.kernel;
    job.tensor = WEFT_RUN_NONE;
    job.unit.segments = segment;
    job.unit.num_segments = 1;
    job.unit.dtype = moves ? shape.out_dtype : dtypes[index % NUM_DTYPES];
    job.unit.rows = job.unit.matrix_rows = shape.rows;
    job.unit.cols = job.unit.matrix_cols = shape.cols;
    job.unit.arrange = shape.arrange;
    job.unit.out_dtype = shape.out_dtype;
    job.unit.out = scratch + SOURCE_BYTES;
    if (shape.kernel == WEFT_KERNEL_FP8_TENSOR) /* whatever it is */
        job.unit.tensor_amax = (const uint16_t *)(void *)scratch;
    if (shape.kernel != WEFT_KERNEL_CAST)
        job.unit.scale = (float *)(void *)(scratch + SOURCE_BYTES + OUT_BYTES);
    return job;
}

/* The tensor is part of no unit, so that finish reads it and both kernels of digests run. */
static weft_status_t load_quantize(weft_queue_t *queue, uint8_t *scratch)
{
    weft_segment_t segments[NUM_UNITS];
    weft_unit_job_t units[NUM_UNITS];
    for (uint32_t i = 0; i < NUM_UNITS; i++)
        units[i] = unit_of(i, scratch, &segments[i]);
    weft_run_t tensor = {scratch, COLS};
    weft_quantize_list_t *list;
    WEFT_TRY(weft_cuda_list_quantize_create(queue, units, NUM_UNITS, &tensor, 1, &list));
    weft_status_t status = weft_cuda_list_quantize_begin(list);
    if (status == WEFT_OK)
        status = weft_cuda_list_quantize_run(list, 0, NUM_UNITS);
    if (status == WEFT_OK)
        status = weft_cuda_list_quantize_finish(list, 0, 1);
    weft_cuda_list_quantize_destroy(list);
    return status;
}

static weft_status_t load_pack(weft_queue_t *queue, uint8_t *scratch)
{
    weft_pack_job_t job = {scratch, COLS, 1, COLS, scratch + SOURCE_BYTES};
    weft_pack_list_t *list;
    WEFT_TRY(weft_cuda_list_pack_create(queue, &job, 1, &list));
    weft_status_t status = weft_cuda_list_pack_run(list, 0, 1);
    weft_cuda_list_pack_destroy(list);
    return status;
}

static weft_status_t load_amax(weft_queue_t *queue, uint8_t *scratch)
{
    constexpr uint32_t NUM_JOBS = 2 * NUM_DTYPES; /* by row and by column */
    uint16_t *amax = (uint16_t *)(void *)(scratch + SOURCE_BYTES + OUT_BYTES);
    weft_amax_job_t jobs[NUM_JOBS];
    for (uint32_t i = 0; i < NUM_JOBS; i++)
        jobs[i] = weft_amax_job_t{scratch, COLS, 1, COLS, dtypes[i / 2], amax, i % 2 == 1};
    weft_amax_list_t *list;
    WEFT_TRY(weft_cuda_list_amax_create(queue, jobs, NUM_JOBS, &list));
    weft_status_t status = weft_cuda_list_amax_run(list, 0, NUM_JOBS);
    weft_cuda_list_amax_destroy(list);
    return status;
}

/* What the runtime brings: a small copy in, a clear, a copy on the device. */
static weft_status_t load_copies(weft_queue_t *queue, uint8_t *scratch)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    uint8_t bytes[COLS] = {0};
    WEFT_TRY(queue->ops->put(queue, scratch, bytes, sizeof bytes));
    WEFT_TRY(queue->ops->clear(queue, scratch, SOURCE_BYTES));
    WEFT_TRY_SETTLE(
        cudaMemcpyAsync(scratch + SOURCE_BYTES, scratch, OUT_BYTES, cudaMemcpyDeviceToDevice, q->stream));
    return weft_cuda_settle(cudaStreamSynchronize(q->stream));
}

weft_status_t weft_cuda_queue_load(weft_cuda_queue_t *q)
{
    weft_queue_t *queue = &q->base;
    void *scratch;
    WEFT_TRY(queue->ops->alloc(queue, SOURCE_BYTES + OUT_BYTES + SMALL_BYTES, &scratch));
    weft_status_t status = load_quantize(queue, (uint8_t *)scratch);
    if (status == WEFT_OK)
        status = load_pack(queue, (uint8_t *)scratch);
    if (status == WEFT_OK)
        status = load_amax(queue, (uint8_t *)scratch);
    if (status == WEFT_OK)
        status = load_copies(queue, (uint8_t *)scratch);
    queue->ops->free(queue, scratch);
    return status;
}
