/* The memory of a batch: one allocation, cut into its buffers. It is taken and given back in stream order,
 * which, unlike cudaFree, waits for nobody. */
#include <stdlib.h>

#include "launch/decoder/cuda/engine.cuh"

constexpr size_t ALIGNMENT = 256;

typedef struct want {
    void **buffer;
    size_t bytes;
} want_t;

static size_t larger_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t rounded(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

size_t batch_cache_bytes(const decoder_shape_t *shape, uint32_t tokens_max)
{
    return 2 * sizeof(float) * shape->blocks * shape->kv_heads * shape->head_dim * (size_t)tokens_max;
}

static cudaError_t carve(const want_t *wants, size_t count, cudaStream_t stream, void **arena)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += rounded(wants[i].bytes);
    DECODER_TRY_CUDA(cudaMallocAsync(arena, total, stream));
    DECODER_TRY_CUDA(cudaMemsetAsync(*arena, 0, total, stream));
    uint8_t *next = (uint8_t *)*arena;
    for (size_t i = 0; i < count; i++) {
        if (wants[i].bytes)
            *wants[i].buffer = next;
        next += rounded(wants[i].bytes);
    }
    return cudaSuccess;
}

static cudaError_t make_buffers(const decoder_shape_t *shape, cudaStream_t stream, buffers_t *on,
                                void **arena)
{
    const size_t batch = on->batch, elem = sizeof(float), dim = shape->head_dim;
    const size_t heads = shape->heads, kv_heads = shape->kv_heads, active = shape->experts_active;
    const size_t width = larger_of(shape->mlp_width, active * shape->expert_width);
    const size_t cache = batch * batch_cache_bytes(shape, on->tokens_max) / 2;
    const size_t decoded = on->window ? 0 : on->tokens_max, scored = on->window ? batch : 0;
    const want_t wants[] = {
        {(void **)&on->sequences, batch * sizeof *on->sequences},
        {(void **)&on->keys, cache},
        {(void **)&on->values, cache},
        {(void **)&on->rope, on->tokens_max * dim * elem},
        {(void **)&on->hidden, batch * shape->hidden * elem},
        {(void **)&on->normed, batch * shape->hidden * elem},
        {(void **)&on->delta, batch * shape->hidden * elem},
        {(void **)&on->qkv, batch * (heads + 2 * kv_heads) * dim * elem},
        {(void **)&on->attended, batch * heads * dim * elem},
        {(void **)&on->wide, batch * 2 * width * elem},
        {(void **)&on->activated, batch * width * elem},
        {(void **)&on->routes, batch * shape->experts * elem},
        {(void **)&on->choices, batch * active * sizeof *on->choices},
        {(void **)&on->logits, batch * shape->vocab * elem},
        {(void **)&on->produced, decoded * sizeof *on->produced},
        {(void **)&on->text, scored * on->window},
        {(void **)&on->lengths, scored * sizeof *on->lengths},
        {(void **)&on->bits, scored * sizeof *on->bits},
    };
    return carve(wants, sizeof wants / sizeof wants[0], stream, arena);
}

static cudaError_t upload_rope(const decoder_shape_t *shape, const buffers_t *on, cudaStream_t stream)
{
    const size_t elems = (size_t)on->tokens_max * shape->head_dim;
    float *rope = (float *)malloc(elems * sizeof *rope);
    if (!rope)
        return cudaErrorMemoryAllocation;
    decoder_rope_fill(shape, on->tokens_max, rope);
    cudaError_t error = cudaMemcpyAsync(on->rope, rope, elems * sizeof *rope, cudaMemcpyHostToDevice, stream);
    const cudaError_t ended = cudaStreamSynchronize(stream); /* before `rope` goes */
    free(rope);
    return error != cudaSuccess ? error : ended;
}

cudaError_t batch_create(cuda_engine_t *engine, uint32_t sequences, uint32_t tokens_max, uint32_t window,
                         batch_t *batch)
{
    const decoder_shape_t *shape = &engine->decoder->shape;
    const size_t exchanged = (size_t)sequences * larger_of(shape->hidden, shape->vocab) * sizeof(float);
    *batch = {};
    batch->on.batch = sequences;
    batch->on.tokens_max = tokens_max;
    batch->on.window = window;
    DECODER_TRY_CUDA(make_buffers(shape, engine->stream, &batch->on, &batch->arena));
    DECODER_TRY_CUDA(upload_rope(shape, &batch->on, engine->stream));
    DECODER_TRY_CUDA(cudaHostAlloc((void **)&batch->exchange, exchanged, cudaHostAllocDefault));
    return batch_capture(engine, batch);
}

/* Nothing of it can be told to anybody: errors of an end are not reported. */
void batch_free(cuda_engine_t *engine, batch_t *batch)
{
    for (uint32_t i = 0; i < batch->num_graphs; i++)
        (void)cudaGraphExecDestroy(batch->graphs[i]);
    free(batch->graphs);
    if (batch->exchange)
        (void)cudaFreeHost(batch->exchange);
    if (batch->arena)
        (void)cudaFreeAsync(batch->arena, engine->stream);
    *batch = {};
}
