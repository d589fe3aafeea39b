/* The engine's stream: nothing but events is put there, and copies that a step must follow.
 *
 *     engine   [step 7][end][step 8][end] ............ [begin][step 9][end]
 *                             ends[0] <--- pause --->  begin          ends[1]
 *
 *     engine   [step 8][end][copy][copied]
 *     queue    [work started before]    \----> [work started later]
 *
 * At a begin the end before it is put aside, so that later ends, which take turns with it, leave the pause as
 * it was. A step may be the replay of a graph.
 */
#include "kernels/cuda/queue.cuh"

static void lock(weft_cuda_engine_t *engine)
{
    (void)pthread_mutex_lock(&engine->lock); /* of a default mutex: cannot fail */
}

static void unlock(weft_cuda_engine_t *engine)
{
    (void)pthread_mutex_unlock(&engine->lock);
}

weft_status_t weft_cuda_engine_create(weft_cuda_engine_t *engine)
{
    engine->last = engine->before = -1;
    if (pthread_mutex_init(&engine->lock, NULL) != 0)
        return WEFT_ERR_SYSTEM;
    WEFT_TRY_SETTLE(cudaEventCreateWithFlags(&engine->ends[0], cudaEventDefault));
    WEFT_TRY_SETTLE(cudaEventCreateWithFlags(&engine->ends[1], cudaEventDefault));
    WEFT_TRY_SETTLE(cudaEventCreateWithFlags(&engine->begin, cudaEventDefault));
    return weft_cuda_settle(cudaEventCreateWithFlags(&engine->copied, cudaEventDisableTiming));
}

void weft_cuda_engine_destroy(weft_cuda_engine_t *engine)
{
    for (cudaEvent_t event : {engine->ends[0], engine->ends[1], engine->begin, engine->copied})
        if (event)
            (void)cudaEventDestroy(event);
    (void)pthread_mutex_destroy(&engine->lock);
}

bool weft_cuda_stream_idle(weft_queue_t *queue, void *stream)
{
    weft_cuda_scope_t scope(weft_cuda_queue_of(queue));
    return scope.status == WEFT_OK && weft_cuda_settle(cudaStreamQuery((cudaStream_t)stream)) == WEFT_OK;
}

/* The current device matters where `stream` is NULL: it is then that device's legacy stream. */
weft_status_t weft_cuda_engine_end(weft_queue_t *queue, void *stream)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_engine_t *engine = &q->engine;
    weft_cuda_scope_t scope(q);
    WEFT_TRY(scope.status);
    lock(engine);
    int place = engine->before == 0;
    weft_status_t status = weft_cuda_settle(cudaEventRecord(engine->ends[place], (cudaStream_t)stream));
    if (status == WEFT_OK)
        engine->last = place;
    unlock(engine);
    return status;
}

/* Where the device has failed nothing is idle: poll says what happened. */
bool weft_cuda_engine_idle(weft_queue_t *queue)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_engine_t *engine = &q->engine;
    weft_cuda_scope_t scope(q);
    if (scope.status != WEFT_OK)
        return false;
    lock(engine);
    bool idle = engine->last < 0 || weft_cuda_settle(cudaEventQuery(engine->ends[engine->last])) == WEFT_OK;
    unlock(engine);
    return idle;
}

weft_status_t weft_cuda_engine_copy(weft_queue_t *queue, void *stream, void *to, const void *from,
                                    size_t bytes)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_engine_t *engine = &q->engine;
    weft_cuda_scope_t scope(q);
    WEFT_TRY(scope.status);
    lock(engine);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t error = cudaStreamIsCapturing((cudaStream_t)stream, &capture);
    if (error == cudaSuccess && capture != cudaStreamCaptureStatusNone)
        error = cudaErrorStreamCaptureUnsupported; /* a copy must happen now, not become part of a graph */
    if (error == cudaSuccess)
        error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream);
    if (error == cudaSuccess)
        error = cudaEventRecord(engine->copied, (cudaStream_t)stream);
    if (error == cudaSuccess)
        error = cudaStreamWaitEvent(q->stream, engine->copied, cudaEventWaitDefault);
    unlock(engine);
    return weft_cuda_settle(error);
}

weft_status_t weft_cuda_engine_begin(weft_queue_t *queue, void *stream)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_engine_t *engine = &q->engine;
    weft_cuda_scope_t scope(q);
    WEFT_TRY(scope.status);
    lock(engine);
    /* The last copy may have been on another stream, before the engine said which one it uses. */
    weft_status_t status =
        weft_cuda_settle(cudaStreamWaitEvent((cudaStream_t)stream, engine->copied, cudaEventWaitDefault));
    if (status == WEFT_OK)
        status = weft_cuda_settle(cudaEventRecord(engine->begin, (cudaStream_t)stream));
    if (status == WEFT_OK)
        engine->before = engine->last;
    unlock(engine);
    return status;
}

/* Not known: no step ended before the begin, or the device has not come to it yet. */
double weft_cuda_engine_pause_us(weft_queue_t *queue)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_engine_t *engine = &q->engine;
    weft_cuda_scope_t scope(q);
    float ms = -1;
    if (scope.status != WEFT_OK)
        return -1;
    lock(engine);
    bool known =
        engine->before >= 0 &&
        weft_cuda_settle(cudaEventElapsedTime(&ms, engine->ends[engine->before], engine->begin)) == WEFT_OK;
    unlock(engine);
    return !known ? -1 : ms > 0 ? 1e3 * (double)ms : 0;
}
