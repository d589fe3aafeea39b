#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/host/host.h"
#include "src/base/error.h"

#define ALIGN     256u
#define HUGE_PAGE (UINT64_C(2) << 20)
#define HUGE_FROM (UINT64_C(16) << 20) /* below, rounding up costs more than it gives */

static bool host_find(int device, int *number, char bus_id[WEFT_BUS_ID_BYTES])
{
    (void)device;
    (void)number;
    (void)bus_id;
    return false;
}

static weft_status_t host_open(int device, weft_queue_t **queue, weft_error_t *error)
{
    (void)device;
    weft_host_queue_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a queue");
    made->base = (weft_queue_t){&weft_host_queue_ops, .synchronous = true};
    made->kernels = weft_kernels_best();
    *queue = &made->base;
    return WEFT_OK;
}

static void host_close(weft_queue_t *queue)
{
    weft_pool_destroy(((weft_host_queue_t *)queue)->pool);
    free(queue);
}

static weft_status_t host_set_workers(weft_queue_t *queue, uint32_t count, weft_error_t *error)
{
    weft_host_queue_t *q = (weft_host_queue_t *)queue;
    weft_pool_t *pool = NULL;
    weft_status_t status = count ? weft_pool_create(count, &pool) : WEFT_OK;
    if (status != WEFT_OK)
        return weft_fail(error, status, "%u workers for the host's queue cannot be started", count);
    weft_pool_destroy(q->pool);
    q->pool = pool;
    q->ticket = 0;
    q->base.synchronous = count == 0;
    return WEFT_OK;
}

weft_status_t weft_host_start(weft_host_queue_t *q, weft_pool_fn fn, void *user, uint32_t first,
                              uint32_t count, bool apart)
{
    if (q->pool) {
        weft_pool_start(q->pool, fn, user, first, count, apart);
        return WEFT_OK;
    }
    weft_status_t status = WEFT_OK;
    for (uint32_t i = first; i < first + count && status == WEFT_OK; i++)
        status = fn(user, i);
    return status;
}

void weft_host_drain(weft_host_queue_t *q)
{
    if (q->pool)
        weft_pool_drain(q->pool);
}

static void host_thread_begin(weft_queue_t *queue)
{
    (void)queue;
    weft_kernels_thread_begin();
}

/* ---- memory ---- */

static weft_status_t host_alloc(weft_queue_t *queue, size_t bytes, void **memory)
{
    (void)queue;
    size_t align = bytes >= HUGE_FROM ? HUGE_PAGE : ALIGN, whole = (bytes / align + 1) * align;
    void *made = whole < bytes ? NULL : aligned_alloc(align, whole);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    if (align == HUGE_PAGE)
        madvise(made, whole, MADV_HUGEPAGE); /* where the system says never, small pages serve */
    memset(made, 0, whole);
    *memory = made;
    return WEFT_OK;
}

static void host_free(weft_queue_t *queue, void *memory)
{
    weft_host_drain((weft_host_queue_t *)queue);
    free(memory);
}

/* The host cannot tell its memory from a device's: a pointer of the wrong kind is the caller's to refuse. */
static weft_memory_kind_t host_memory_kind(weft_queue_t *queue, const void *pointer)
{
    (void)queue;
    (void)pointer;
    return WEFT_MEMORY_HOST;
}

static bool host_reads(weft_queue_t *queue, weft_memory_kind_t kind)
{
    (void)queue;
    return kind == WEFT_MEMORY_HOST || kind == WEFT_MEMORY_HOST_PINNED;
}

static uint64_t host_used_bytes(weft_queue_t *queue)
{
    (void)queue;
    return 0;
}

/* Behind what is in flight: a table is cleared while earlier units are still quantized from others. */
static weft_status_t host_clear(weft_queue_t *queue, void *memory, size_t bytes)
{
    weft_host_drain((weft_host_queue_t *)queue);
    memset(memory, 0, bytes);
    return WEFT_OK;
}

static weft_status_t host_write(weft_queue_t *queue, void *memory, const void *host, size_t bytes)
{
    weft_host_drain((weft_host_queue_t *)queue);
    memcpy(memory, host, bytes);
    return WEFT_OK;
}

static weft_status_t host_put(weft_queue_t *queue, void *memory, const void *host, size_t bytes)
{
    weft_host_queue_t *q = (weft_host_queue_t *)queue;
    if (!q->pool || bytes > WEFT_POOL_PAYLOAD)
        return host_write(queue, memory, host, bytes);
    weft_pool_start_copy(q->pool, memory, host, bytes);
    return WEFT_OK;
}

static weft_status_t host_read(weft_queue_t *queue, const void *memory, void *host, size_t bytes)
{
    return host_write(queue, host, memory, bytes);
}

/* ---- progress ---- */

static weft_status_t host_mark(weft_queue_t *queue, uint64_t *ticket)
{
    weft_host_queue_t *q = (weft_host_queue_t *)queue;
    *ticket = q->pool ? weft_pool_mark(q->pool) : ++q->ticket;
    return WEFT_OK;
}

static weft_status_t host_poll(weft_queue_t *queue, uint64_t *done)
{
    weft_host_queue_t *q = (weft_host_queue_t *)queue;
    if (q->pool)
        return weft_pool_poll(q->pool, done);
    *done = q->ticket;
    return WEFT_OK;
}

/* ---- the engine's stream: a step on the host has ended when its call returns ---- */

static weft_status_t host_engine_note(weft_queue_t *queue, void *stream)
{
    (void)queue;
    (void)stream;
    return WEFT_OK;
}

static bool host_stream_idle(weft_queue_t *queue, void *stream)
{
    (void)queue;
    (void)stream;
    return true;
}

static bool host_engine_idle(weft_queue_t *queue)
{
    (void)queue;
    return true;
}

static weft_status_t host_engine_copy(weft_queue_t *queue, void *stream, void *to, const void *from,
                                      size_t bytes)
{
    (void)queue;
    (void)stream;
    memcpy(to, from, bytes);
    return WEFT_OK;
}

static double host_engine_pause_us(weft_queue_t *queue)
{
    (void)queue;
    return -1;
}

const weft_queue_ops_t weft_host_queue_ops = {
    .name = "host",
    .on_host = true,
    .find = host_find,
    .open = host_open,
    .close = host_close,
    .set_workers = host_set_workers,
    .thread_begin = host_thread_begin,
    .alloc = host_alloc,
    .free = host_free,
    .memory_kind = host_memory_kind,
    .reads = host_reads,
    .used_bytes = host_used_bytes,
    .clear = host_clear,
    .put = host_put,
    .read = host_read,
    .write = host_write,
    .mark = host_mark,
    .poll = host_poll,
    .quantize_create = weft_host_quantize_create,
    .quantize_destroy = weft_host_quantize_destroy,
    .quantize_begin = weft_host_quantize_begin,
    .quantize_run = weft_host_quantize_run,
    .quantize_finish = weft_host_quantize_finish,
    .quantize_digests = weft_host_quantize_digests,
    .quantize_refused = weft_host_quantize_refused,
    .pack_create = weft_host_pack_create,
    .pack_destroy = weft_host_pack_destroy,
    .pack_run = weft_host_pack_run,
    .amax_create = weft_host_amax_create,
    .amax_destroy = weft_host_amax_destroy,
    .amax_run = weft_host_amax_run,
    .digest_create = weft_host_digest_create,
    .digest_destroy = weft_host_digest_destroy,
    .digest_run = weft_host_digest_run,
    .digest_results = weft_host_digest_results,
    .pair_create = weft_host_pair_create,
    .pair_destroy = weft_host_pair_destroy,
    .pair_exchange = weft_host_pair_exchange,
    .pair_settle = weft_host_pair_settle,
    .stream_idle = host_stream_idle,
    .engine_end = host_engine_note,
    .engine_idle = host_engine_idle,
    .engine_copy = host_engine_copy,
    .engine_begin = host_engine_note,
    .engine_pause_us = host_engine_pause_us,
};
