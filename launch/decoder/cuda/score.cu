/* Scoring: the windows of a text are sequences of one batch, and a step takes a byte of each. */
#include "launch/decoder/cuda/engine.cuh"

constexpr size_t WINDOWS_MAX = 64;
constexpr size_t CACHE_BYTES_MAX = (size_t)1 << 30;

static size_t smaller_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

static weft_status_t status_of(cudaError_t error)
{
    return error == cudaSuccess                 ? WEFT_OK
           : error == cudaErrorMemoryAllocation ? WEFT_ERR_NO_MEMORY
                                                : WEFT_ERR_SYSTEM;
}

/* Keep the batch of the last scoring where it fits: making one means memory and graphs. Every rank decides
 * alike. */
static weft_status_t prepare(cuda_engine_t *engine, size_t bytes, uint32_t window)
{
    batch_t *batch = &engine->scoring;
    const size_t fit = CACHE_BYTES_MAX / batch_cache_bytes(&engine->decoder->shape, window - 1);
    size_t windows = smaller_of(smaller_of((bytes + window - 1) / window, WINDOWS_MAX), fit);
    if (!windows)
        windows = 1;
    if (batch->on.window == window && batch->on.batch == windows)
        return WEFT_OK;
    batch_free(engine, batch);
    cudaError_t error = batch_create(engine, (uint32_t)windows, window - 1, window, batch);
    if (error != cudaSuccess)
        batch_free(engine, batch);
    return status_of(error);
}

/* Score one batch of windows, `bytes` in all. */
static weft_status_t score_batch(const cuda_engine_t *engine, const uint8_t *text, size_t bytes, double *bits)
{
    const buffers_t *on = &engine->scoring.on;
    double sums[WINDOWS_MAX];
    cudaError_t error = cudaMemcpyAsync(on->text, text, bytes, cudaMemcpyHostToDevice, engine->stream);
    if (error == cudaSuccess)
        error = enqueue_windows(on, bytes, engine->stream);
    WEFT_TRY(status_of(error));
    for (size_t i = 0; i + 1 < smaller_of(bytes, on->window); i++)
        WEFT_TRY(batch_step(engine, &engine->scoring));
    error = cudaMemcpyAsync(sums, on->bits, on->batch * sizeof *sums, cudaMemcpyDeviceToHost, engine->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(engine->stream);
    WEFT_TRY(status_of(error));
    for (uint32_t i = 0; i < on->batch; i++)
        *bits += sums[i];
    return WEFT_OK;
}

weft_status_t cuda_score(decoder_t *decoder, const uint8_t *text, size_t bytes, uint32_t window,
                         double *bits_per_byte)
{
    cuda_engine_t *engine = (cuda_engine_t *)decoder->engine;
    double bits = 0;
    if (bytes < window)
        window = (uint32_t)bytes;
    WEFT_TRY(status_of(cudaSetDevice(engine->device)));
    WEFT_TRY(prepare(engine, bytes, window));
    const size_t together = (size_t)engine->scoring.on.batch * window;
    for (size_t begin = 0; begin < bytes; begin += together)
        WEFT_TRY(score_batch(engine, text + begin, smaller_of(bytes - begin, together), &bits));
    *bits_per_byte = bits / (double)(bytes - (bytes + window - 1) / window); /* of each window all but one */
    return WEFT_OK;
}
