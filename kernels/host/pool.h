/* Workers of the host's queue: threads that do the items of each start, one start after the other.
 *
 *     start quantize, units 12..40 ---> [ 12 13 14 ... 40 ][ mark 3 ][ digest, 16 pieces ][ mark 4 ]
 *                                         \  |  /  items of the oldest start, by whoever is free
 *
 * A start begins when all before it have ended, so work that reads what earlier work wrote needs no other order; but starts
 * that are said to be apart from each other run beside each other, where nothing else stands between them. Tickets keep the order
 * in either case. A worker with nothing to do looks on for some microseconds and then sleeps.
 */
#ifndef WEFT_KERNELS_HOST_POOL_H
#define WEFT_KERNELS_HOST_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <weft/status.h>

#define WEFT_POOL_PAYLOAD 64u

typedef struct weft_pool weft_pool_t;

/* Do one item. Any worker, items of a start at the same time. */
typedef weft_status_t (*weft_pool_fn)(void *user, uint32_t item);

/* **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY, WEFT_ERR_SYSTEM (a thread cannot be started). */
weft_status_t weft_pool_create(uint32_t workers, weft_pool_t **pool);

/* Finish what was started, and end the threads. NULL is accepted. */
void weft_pool_destroy(weft_pool_t *pool);

/* Start items [first, first + count). `apart`: they neither read nor write what other starts that are apart write. Returns at
 * once, but where 1024 starts are waiting. **Threads** one at a time, as of its queue. */
void weft_pool_start(weft_pool_t *pool, weft_pool_fn fn, void *user, uint32_t first, uint32_t count, bool apart);

/* Start a copy of `bytes` (at most WEFT_POOL_PAYLOAD) that are taken along now. */
void weft_pool_start_copy(weft_pool_t *pool, void *to, const void *from, size_t bytes);

/* A ticket for all that was started so far. */
uint64_t weft_pool_mark(weft_pool_t *pool);

/* The highest ticket whose work has ended; the first failure of any item so far. **Threads** any. */
weft_status_t weft_pool_poll(weft_pool_t *pool, uint64_t *done);

/* Wait until nothing that was started is left. **Blocks**. **Threads** any. */
void weft_pool_drain(weft_pool_t *pool);

#endif
