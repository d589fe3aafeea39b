#include "src/swap/weights.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/array.h"
#include "src/base/clock.h"
#include "src/base/error.h"

#define DRAIN_TIMEOUT_US 10000000u

typedef struct bound_range {
    uint64_t offset, bytes;
    uint8_t *memory;
} bound_range_t;

typedef struct swap_mode {
    const char *name;
    weft_status_t (*swap)(weft_weights_t *weights, void *stream, weft_error_t *error);
    bool remaps;      /* the ranges' contents are exchanged */
    bool takes_bound; /* the live range may be the caller's memory */
    bool in_place;    /* there is no stage: what is staged is written over what serves */
} swap_mode_t;

struct weft_weights {
    const swap_mode_t *mode;
    weft_queue_t *queue;
    weft_pair_t pair;
    pthread_mutex_t mutex;           /* a swap and settling exclude each other */
    uint64_t size;                   /* of what was asked for */
    WEFT_ARRAY(bound_range_t) bound; /* copy: sorted by offset */
};

/* ---- copy ---- */

static weft_status_t copy_range(weft_weights_t *w, void *stream, void *to, uint64_t offset, uint64_t bytes)
{
    if (bytes == 0)
        return WEFT_OK;
    return w->queue->ops->engine_copy(w->queue, stream, to, w->pair.stage + offset, bytes);
}

static weft_status_t copy_ranges(weft_weights_t *w, void *stream)
{
    uint64_t at = 0;
    for (size_t i = 0; i < w->bound.count; i++) {
        const bound_range_t *range = &w->bound.items[i];
        WEFT_TRY(copy_range(w, stream, w->pair.live + at, at, range->offset - at));
        WEFT_TRY(copy_range(w, stream, range->memory, range->offset, range->bytes));
        at = range->offset + range->bytes;
    }
    return copy_range(w, stream, w->pair.live + at, at, w->pair.bytes - at);
}

static weft_status_t copy_swap(weft_weights_t *w, void *stream, weft_error_t *error)
{
    weft_status_t status = copy_ranges(w, stream);
    if (status != WEFT_OK)
        weft_fail(error, status, "swap mode copy: the copy of %zu bytes could not be started", w->pair.bytes);
    return status;
}

/* ---- flip ---- */

/* Remapping does not wait for kernels that read the range, so the last step must have ended before. */
static weft_status_t wait_for_engine(weft_weights_t *w, weft_error_t *error)
{
    uint64_t deadline = weft_now_us() + DRAIN_TIMEOUT_US;
    while (!w->queue->ops->engine_idle(w->queue)) {
        if (weft_now_us() > deadline)
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "swap mode %s: the last step's work has not ended on its stream within %.0f s",
                             w->mode->name, DRAIN_TIMEOUT_US / 1e6);
        sched_yield();
    }
    return WEFT_OK;
}

static weft_status_t flip_swap(weft_weights_t *w, void *stream, weft_error_t *error)
{
    (void)stream;
    WEFT_TRY(wait_for_engine(w, error));
    pthread_mutex_lock(&w->mutex);
    weft_status_t status = w->queue->ops->pair_exchange(w->queue, &w->pair);
    pthread_mutex_unlock(&w->mutex);
    if (status != WEFT_OK)
        weft_fail(error, status, "swap mode flip: the system refused to remap %zu bytes (%s)", w->pair.bytes,
                  weft_status_text(status));
    return status;
}

/* ---- layerwise ---- */

/* It was written in place, with no step running since before the first byte: src/swap/window.h. */
static weft_status_t layerwise_swap(weft_weights_t *w, void *stream, weft_error_t *error)
{
    (void)w;
    (void)stream;
    (void)error;
    return WEFT_OK;
}

static const swap_mode_t modes[] = {
    {.name = "copy", .swap = copy_swap, .takes_bound = true},
    {.name = "flip", .swap = flip_swap, .remaps = true},
    {.name = "layerwise", .swap = layerwise_swap, .in_place = true},
};

static const swap_mode_t *find_mode(const char *name)
{
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(modes[i].name, name) == 0)
            return &modes[i];
    return NULL;
}

weft_status_t weft_weights_check_mode(const char *mode, weft_error_t *error)
{
    if (find_mode(mode))
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
                     "swap mode \"%s\" is not known; there are copy, flip and layerwise", mode);
}

/* One range for both. */
static weft_status_t make_single(weft_weights_t *w, weft_error_t *error)
{
    void *memory;
    weft_status_t status = w->queue->ops->alloc(w->queue, w->size, &memory);
    if (status != WEFT_OK)
        return weft_fail(error, status, "swap mode layerwise: no %s memory for weights of %llu bytes",
                         w->queue->ops->name, (unsigned long long)w->size);
    w->pair = (weft_pair_t){.live = memory, .stage = memory, .bytes = w->size};
    return WEFT_OK;
}

weft_status_t weft_weights_create(weft_queue_t *queue, const char *mode, uint64_t bytes,
                                  weft_weights_t **weights, weft_error_t *error)
{
    WEFT_TRY(weft_weights_check_mode(mode, error));
    weft_weights_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the weights");
    *made = (weft_weights_t){.mode = find_mode(mode), .queue = queue, .size = bytes};
    weft_status_t status =
        made->mode->in_place ? make_single(made, error)
                             : queue->ops->pair_create(queue, bytes, made->mode->remaps, &made->pair, error);
    if (status != WEFT_OK) {
        free(made);
        return status;
    }
    pthread_mutex_init(&made->mutex, NULL);
    *weights = made;
    return WEFT_OK;
}

void weft_weights_destroy(weft_weights_t *w)
{
    if (!w)
        return;
    if (w->mode->in_place)
        w->queue->ops->free(w->queue, w->pair.live);
    else
        w->queue->ops->pair_destroy(w->queue, &w->pair);
    pthread_mutex_destroy(&w->mutex);
    free(w->bound.items);
    free(w);
}

static bool is_bound(const weft_weights_t *w, uint64_t offset, uint64_t bytes)
{
    for (size_t i = 0; i < w->bound.count; i++) {
        const bound_range_t *range = &w->bound.items[i];
        if (range->offset < offset + bytes && offset < range->offset + range->bytes)
            return true;
    }
    return false;
}

weft_status_t weft_weights_bind(weft_weights_t *w, uint64_t offset, uint64_t bytes, void *memory,
                                weft_error_t *error)
{
    if (!w->mode->takes_bound)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "swap mode %s owns its memory: use get, or swap mode copy",
                         w->mode->name);
    if (offset > w->size || bytes > w->size - offset)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "a binding of %llu bytes at %llu lies outside of the weights",
                         (unsigned long long)bytes, (unsigned long long)offset);
    if (is_bound(w, offset, bytes))
        return weft_fail(error, WEFT_ERR_ARGUMENT, "%llu bytes at %llu are bound already, in part or whole",
                         (unsigned long long)bytes, (unsigned long long)offset);
    if (!WEFT_ARRAY_PUSH(&w->bound, (bound_range_t){offset, bytes, memory}))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a binding");
    for (size_t i = w->bound.count - 1; i > 0 && w->bound.items[i - 1].offset > offset; i--) {
        bound_range_t swap = w->bound.items[i];
        w->bound.items[i] = w->bound.items[i - 1];
        w->bound.items[i - 1] = swap;
    }
    return WEFT_OK;
}

void *weft_weights_live(const weft_weights_t *w, uint64_t offset)
{
    for (size_t i = 0; i < w->bound.count; i++) {
        const bound_range_t *range = &w->bound.items[i];
        if (offset >= range->offset && offset - range->offset < range->bytes)
            return range->memory + (offset - range->offset);
    }
    return w->pair.live + offset;
}

uint8_t *weft_weights_stage(const weft_weights_t *w)
{
    return w->pair.stage;
}

weft_status_t weft_weights_swap(weft_weights_t *w, void *stream, weft_error_t *error)
{
    return w->mode->swap(w, stream, error);
}

weft_status_t weft_weights_settle(weft_weights_t *w, weft_error_t *error)
{
    if (!w->mode->remaps)
        return WEFT_OK;
    pthread_mutex_lock(&w->mutex);
    weft_status_t status = w->queue->ops->pair_settle(w->queue, &w->pair);
    pthread_mutex_unlock(&w->mutex);
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "swap mode flip: the stage of %zu bytes cannot be mapped again: %s",
                           w->pair.bytes, weft_status_text(status));
}

bool weft_weights_in_place(const weft_weights_t *w)
{
    return w->mode->in_place;
}

weft_status_t weft_weights_await_engine(weft_weights_t *w, weft_error_t *error)
{
    return wait_for_engine(w, error);
}

const char *weft_weights_mode(const weft_weights_t *w)
{
    return w->mode->name;
}
