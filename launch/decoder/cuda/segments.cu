/* The step as segments between the sums over the ranks, and their graphs. */
#include <stdlib.h>

#include "launch/decoder/cuda/engine.cuh"

static cudaError_t enqueue_attention_half(const decoder_t *decoder, uint32_t index, const buffers_t *on,
                                          cudaStream_t stream)
{
    const decoder_shape_t *shape = &decoder->shape;
    const decoder_block_t *block = &decoder->weights.blocks[index];
    DECODER_TRY_CUDA(enqueue_norm(shape, &block->input_norm, index > 0, on, stream));
    DECODER_TRY_CUDA(enqueue_matmul(&block->qkv, on->normed, on->batch, on->qkv, block->qkv.rows, stream));
    DECODER_TRY_CUDA(enqueue_attention(shape, block, index, on, stream));
    return enqueue_matmul(&block->o, on->attended, on->batch, on->delta, shape->hidden, stream);
}

static cudaError_t enqueue_dense(const decoder_shape_t *shape, const decoder_block_t *block,
                                 const buffers_t *on, cudaStream_t stream)
{
    DECODER_TRY_CUDA(
        enqueue_matmul(&block->gate_up, on->normed, on->batch, on->wide, block->gate_up.rows, stream));
    DECODER_TRY_CUDA(enqueue_swiglu(on, on->batch, shape->mlp_width, stream));
    return enqueue_matmul(&block->down, on->activated, on->batch, on->delta, shape->hidden, stream);
}

static cudaError_t enqueue_sparse(const decoder_shape_t *shape, const decoder_block_t *block,
                                  const buffers_t *on, cudaStream_t stream)
{
    if (!shape->experts_held)
        return cudaMemsetAsync(on->delta, 0, (size_t)on->batch * shape->hidden * sizeof(float), stream);
    DECODER_TRY_CUDA(
        enqueue_matmul(&block->router, on->normed, on->batch, on->routes, shape->experts, stream));
    DECODER_TRY_CUDA(enqueue_route(shape, on, stream));
    DECODER_TRY_CUDA(enqueue_experts_up(shape, &block->w13, on, stream));
    DECODER_TRY_CUDA(enqueue_swiglu(on, on->batch * shape->experts_active, shape->expert_width, stream));
    return enqueue_experts_down(shape, &block->w2, on, stream);
}

static cudaError_t enqueue_mlp_half(const decoder_t *decoder, uint32_t index, const buffers_t *on,
                                    cudaStream_t stream)
{
    const decoder_block_t *block = &decoder->weights.blocks[index];
    DECODER_TRY_CUDA(enqueue_norm(&decoder->shape, &block->post_norm, true, on, stream));
    if (block->sparse)
        return enqueue_sparse(&decoder->shape, block, on, stream);
    return enqueue_dense(&decoder->shape, block, on, stream);
}

/* A rank fills its columns of zeroed rows, and the sum gathers them; rows of padding are left out. */
static cudaError_t enqueue_head(const decoder_t *decoder, const buffers_t *on, cudaStream_t stream)
{
    const decoder_shape_t *shape = &decoder->shape;
    decoder_matrix_t head = decoder->weights.head;
    const uint32_t real = shape->vocab_begin < shape->vocab ? shape->vocab - shape->vocab_begin : 0;
    head.rows = real < shape->vocab_rows ? real : shape->vocab_rows;
    DECODER_TRY_CUDA(enqueue_norm(shape, &decoder->weights.norm, true, on, stream));
    if (head.rows < shape->vocab)
        DECODER_TRY_CUDA(
            cudaMemsetAsync(on->logits, 0, (size_t)on->batch * shape->vocab * sizeof(float), stream));
    if (!head.rows)
        return cudaSuccess;
    return enqueue_matmul(&head, on->normed, on->batch, on->logits + shape->vocab_begin, shape->vocab,
                          stream);
}

static uint32_t tail_of(const decoder_t *decoder)
{
    return 2 * decoder->shape.blocks + 2;
}

static cudaError_t enqueue_work(const decoder_t *decoder, uint32_t segment, const buffers_t *on,
                                cudaStream_t stream)
{
    const uint32_t tail = tail_of(decoder);
    if (segment == 0)
        return enqueue_embed(&decoder->shape, &decoder->weights.embed, on, stream);
    if (segment == tail)
        return enqueue_tail(&decoder->shape, on, stream);
    if (segment == tail - 1)
        return enqueue_head(decoder, on, stream);
    if (segment % 2)
        return enqueue_attention_half(decoder, segment / 2, on, stream);
    return enqueue_mlp_half(decoder, segment / 2 - 1, on, stream);
}

/* What the ranks sum after a segment. */
static float *partial_of(const decoder_t *decoder, uint32_t segment, const buffers_t *on, size_t *elems)
{
    const bool last = segment == tail_of(decoder) - 1;
    *elems = (size_t)on->batch * (last ? decoder->shape.vocab : decoder->shape.hidden);
    return segment == 0 ? on->hidden : last ? on->logits : on->delta;
}

/* With several ranks a segment begins by fetching the sum of the one before and ends by handing out its own
 * part. */
static cudaError_t enqueue_segment(const cuda_engine_t *engine, const batch_t *batch, uint32_t segment)
{
    const decoder_t *decoder = engine->decoder;
    const bool alone = decoder->config.tp_size == 1;
    cudaStream_t stream = engine->stream;
    size_t elems;
    if (!alone && segment > 0) {
        float *sum = partial_of(decoder, segment - 1, &batch->on, &elems);
        DECODER_TRY_CUDA(
            cudaMemcpyAsync(sum, batch->exchange, elems * sizeof *sum, cudaMemcpyHostToDevice, stream));
    }
    DECODER_TRY_CUDA(enqueue_work(decoder, segment, &batch->on, stream));
    if (alone || segment == tail_of(decoder))
        return cudaSuccess;
    const float *part = partial_of(decoder, segment, &batch->on, &elems);
    return cudaMemcpyAsync(batch->exchange, part, elems * sizeof *part, cudaMemcpyDeviceToHost, stream);
}

static cudaError_t enqueue_segments(const cuda_engine_t *engine, const batch_t *batch, uint32_t first,
                                    uint32_t count)
{
    for (uint32_t s = first; s < first + count; s++)
        DECODER_TRY_CUDA(enqueue_segment(engine, batch, s));
    return cudaSuccess;
}

static cudaError_t capture(const cuda_engine_t *engine, const batch_t *batch, uint32_t first, uint32_t count,
                           cudaGraphExec_t *exec)
{
    cudaGraph_t graph = NULL;
    /* Relaxed: what other threads do meanwhile, and the loading of a kernel, are not our capture's business.
     */
    DECODER_TRY_CUDA(cudaStreamBeginCapture(engine->stream, cudaStreamCaptureModeRelaxed));
    cudaError_t error = enqueue_segments(engine, batch, first, count);
    cudaError_t ended = cudaStreamEndCapture(engine->stream, &graph); /* also after an error */
    if (error == cudaSuccess)
        error = ended;
    if (error == cudaSuccess)
        error = cudaGraphInstantiate(exec, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    return error;
}

cudaError_t batch_capture(const cuda_engine_t *engine, batch_t *batch)
{
    const uint32_t segments = tail_of(engine->decoder) + 1;
    const uint32_t count = engine->decoder->config.tp_size == 1 ? segments : 1;
    batch->graphs = (cudaGraphExec_t *)calloc(segments / count, sizeof *batch->graphs);
    if (!batch->graphs)
        return cudaErrorMemoryAllocation;
    for (uint32_t first = 0; first < segments; first += count) {
        DECODER_TRY_CUDA(capture(engine, batch, first, count, &batch->graphs[batch->num_graphs]));
        batch->num_graphs++;
        DECODER_TRY_CUDA(cudaGraphUpload(batch->graphs[batch->num_graphs - 1], engine->stream));
    }
    return cudaSuccess;
}

/* Wait for the part that a segment hands out, and sum it over the ranks. */
static weft_status_t sum_over_ranks(const cuda_engine_t *engine, const batch_t *batch, uint32_t segment)
{
    const decoder_config_t *config = &engine->decoder->config;
    size_t elems;
    partial_of(engine->decoder, segment, &batch->on, &elems);
    if (cudaEventRecord(engine->arrived, engine->stream) != cudaSuccess ||
        cudaEventSynchronize(engine->arrived) != cudaSuccess)
        return WEFT_ERR_SYSTEM;
    return config->all_reduce(config->user, batch->exchange, elems) ? WEFT_OK : WEFT_ERR_PEER_LOST;
}

weft_status_t batch_step(const cuda_engine_t *engine, const batch_t *batch)
{
    for (uint32_t i = 0; i < batch->num_graphs; i++) {
        if (cudaGraphLaunch(batch->graphs[i], engine->stream) != cudaSuccess)
            return WEFT_ERR_SYSTEM;
        if (i + 1 < batch->num_graphs)
            WEFT_TRY(sum_over_ranks(engine, batch, i));
    }
    return WEFT_OK;
}
