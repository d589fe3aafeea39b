/* The backend of a GPU. */
#include <stdlib.h>
#include <string.h>

#include "launch/decoder/cuda/engine.cuh"

static weft_status_t fail(const decoder_t *decoder, cudaError_t cause, const char *what, weft_error_t *error)
{
    weft_status_t status = cause == cudaErrorMemoryAllocation ? WEFT_ERR_NO_MEMORY : WEFT_ERR_SYSTEM;
    return weft_fail(error, status, "rollout rank %u: decoder on the GPU: %s: %s", decoder->config.tp_rank,
                     what, cudaGetErrorString(cause));
}

static weft_status_t check_device(const decoder_t *decoder, int *device, weft_error_t *error)
{
    int count = 0;
    cudaError_t cause = cudaGetDeviceCount(&count);
    if (cause == cudaSuccess && count)
        cause = cudaGetDevice(device);
    if (cause == cudaSuccess && count)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                     "rollout rank %u: no GPU to decode on (%s); decode on \"host\"", decoder->config.tp_rank,
                     cause != cudaSuccess ? cudaGetErrorString(cause) : "none found");
}

static weft_status_t check_shape(const decoder_t *decoder, weft_error_t *error)
{
    const decoder_shape_t *shape = &decoder->shape;
    if (shape->head_dim <= HEAD_DIM_MAX && shape->experts <= EXPERTS_MAX)
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_UNSUPPORTED,
        "rollout rank %u: head_dim %u and %u experts; on a GPU the decoder takes up to %u and %u",
        decoder->config.tp_rank, shape->head_dim, shape->experts, HEAD_DIM_MAX, EXPERTS_MAX);
}

/* Steps go first where other work waits: a rollout's latency is what users see. */
static cudaError_t make_stream(cuda_engine_t *engine)
{
    int least, greatest;
    DECODER_TRY_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    DECODER_TRY_CUDA(cudaStreamCreateWithPriority(&engine->stream, cudaStreamNonBlocking, greatest));
    return cudaEventCreateWithFlags(&engine->arrived, cudaEventDisableTiming);
}

static weft_status_t cuda_create(decoder_t *decoder, weft_error_t *error)
{
    int device = 0;
    WEFT_TRY(check_shape(decoder, error));
    WEFT_TRY(check_device(decoder, &device, error));
    cuda_engine_t *engine = (cuda_engine_t *)calloc(1, sizeof *engine);
    if (!engine)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory for the decoder");
    decoder->engine = engine;
    engine->decoder = decoder;
    engine->device = device;
    cudaError_t cause = make_stream(engine);
    if (cause != cudaSuccess)
        return fail(decoder, cause, "its stream", error);
    cause = batch_create(engine, 1, decoder->config.max_tokens, 0, &engine->decoding);
    if (cause == cudaSuccess)
        cause = cudaStreamSynchronize(engine->stream);
    return cause == cudaSuccess ? WEFT_OK
                                : fail(decoder, cause, "its memory and the capture of its step", error);
}

static void cuda_destroy(decoder_t *decoder)
{
    cuda_engine_t *engine = (cuda_engine_t *)decoder->engine;
    if (!engine)
        return;
    (void)cudaSetDevice(engine->device);
    if (engine->stream) {
        (void)cudaStreamSynchronize(engine->stream);
        batch_free(engine, &engine->decoding);
        batch_free(engine, &engine->scoring);
        (void)cudaStreamSynchronize(engine->stream);
        (void)cudaStreamDestroy(engine->stream);
    }
    if (engine->arrived)
        (void)cudaEventDestroy(engine->arrived);
    free(engine);
}

static void *cuda_stream(const decoder_t *decoder)
{
    return ((const cuda_engine_t *)decoder->engine)->stream;
}

/* At tp_size > 1 the sum has left the logits on the host already. */
static cudaError_t fetch_logits(cuda_engine_t *engine)
{
    const buffers_t *on = &engine->decoding.on;
    const uint32_t vocab = engine->decoder->shape.vocab;
    if (engine->decoder->config.tp_size == 1)
        DECODER_TRY_CUDA(cudaMemcpyAsync(engine->decoding.exchange, on->logits, vocab * sizeof(float),
                                         cudaMemcpyDeviceToHost, engine->stream));
    engine->logits_on_host = true;
    return cudaEventRecord(engine->arrived, engine->stream);
}

/* A step by whatever token the device holds. */
static weft_status_t take_token(decoder_t *decoder, cuda_engine_t *engine)
{
    engine->logits_on_host = false;
    WEFT_TRY(batch_step(engine, &engine->decoding));
    decoder->run.position++;
    return WEFT_OK;
}

static weft_status_t cuda_step_start(decoder_t *decoder, uint32_t token)
{
    cuda_engine_t *engine = (cuda_engine_t *)decoder->engine;
    if (cudaSetDevice(engine->device) != cudaSuccess ||
        enqueue_place(&engine->decoding.on, token, decoder->run.position, engine->stream) != cudaSuccess)
        return WEFT_ERR_SYSTEM;
    WEFT_TRY(take_token(decoder, engine));
    return fetch_logits(engine) == cudaSuccess ? WEFT_OK : WEFT_ERR_SYSTEM;
}

static weft_status_t cuda_step_next(decoder_t *decoder)
{
    cuda_engine_t *engine = (cuda_engine_t *)decoder->engine;
    if (cudaSetDevice(engine->device) != cudaSuccess)
        return WEFT_ERR_SYSTEM;
    return take_token(decoder, engine);
}

static weft_status_t cuda_step_finish(decoder_t *decoder, float *logits)
{
    cuda_engine_t *engine = (cuda_engine_t *)decoder->engine;
    if (cudaSetDevice(engine->device) != cudaSuccess ||
        (!engine->logits_on_host && fetch_logits(engine) != cudaSuccess) ||
        cudaEventSynchronize(engine->arrived) != cudaSuccess)
        return WEFT_ERR_SYSTEM;
    if (logits)
        memcpy(logits, engine->decoding.exchange, decoder->shape.vocab * sizeof *logits);
    return WEFT_OK;
}

static weft_status_t cuda_tokens(decoder_t *decoder, uint32_t *tokens, uint32_t count)
{
    cuda_engine_t *engine = (cuda_engine_t *)decoder->engine;
    const uint32_t *from = engine->decoding.on.produced + decoder->run.position - count;
    if (cudaSetDevice(engine->device) != cudaSuccess ||
        cudaMemcpyAsync(tokens, from, count * sizeof *tokens, cudaMemcpyDeviceToHost, engine->stream) !=
            cudaSuccess ||
        cudaStreamSynchronize(engine->stream) != cudaSuccess)
        return WEFT_ERR_SYSTEM;
    return WEFT_OK;
}

const decoder_backend_t decoder_cuda_backend = {
    .name = "cuda",
    .create = cuda_create,
    .destroy = cuda_destroy,
    .stream = cuda_stream,
    .step_start = cuda_step_start,
    .step_next = cuda_step_next,
    .step_finish = cuda_step_finish,
    .tokens = cuda_tokens,
    .score = cuda_score,
};
