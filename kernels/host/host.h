/* The queue of the host: work is done when its start returns, or by workers. Shared by the files of this folder. */
#ifndef WEFT_KERNELS_HOST_H
#define WEFT_KERNELS_HOST_H

#include "kernels/host/pool.h"
#include "kernels/queue.h"

typedef struct weft_host_queue {
    weft_queue_t base;
    const weft_kernels_t *kernels;
    weft_pool_t *pool; /* NULL: no workers */
    uint64_t ticket;
} weft_host_queue_t;

/* Do items [first, first + count), or have them done behind all that was started before; or beside it, where both are apart
 * (pool.h): units and digests of what arrived are. */
weft_status_t weft_host_start(weft_host_queue_t *queue, weft_pool_fn fn, void *user, uint32_t first, uint32_t count,
                              bool apart);

/* Wait until nothing that was started is left. */
void weft_host_drain(weft_host_queue_t *queue);

/* lists.c */
weft_status_t weft_host_quantize_create(weft_queue_t *queue, const weft_unit_job_t *units, uint32_t num_units,
                                        const weft_run_t *tensors, uint32_t num_tensors,
                                        weft_quantize_list_t **list);
void weft_host_quantize_destroy(weft_quantize_list_t *list);
weft_status_t weft_host_quantize_begin(weft_quantize_list_t *list);
weft_status_t weft_host_quantize_run(weft_quantize_list_t *list, uint32_t first, uint32_t count);
weft_status_t weft_host_quantize_finish(weft_quantize_list_t *list, uint32_t first, uint32_t count);
const weft_digest_t *weft_host_quantize_digests(const weft_quantize_list_t *list);
weft_status_t weft_host_quantize_refused(weft_quantize_list_t *list, bool *refused, uint32_t *unit,
                                         weft_quantize_result_t *result);

weft_status_t weft_host_pack_create(weft_queue_t *queue, const weft_pack_job_t *jobs, uint32_t num_jobs,
                                    weft_pack_list_t **list);
void weft_host_pack_destroy(weft_pack_list_t *list);
weft_status_t weft_host_pack_run(weft_pack_list_t *list, uint32_t first, uint32_t count);

weft_status_t weft_host_amax_create(weft_queue_t *queue, const weft_amax_job_t *jobs, uint32_t num_jobs,
                                    weft_amax_list_t **list);
void weft_host_amax_destroy(weft_amax_list_t *list);
weft_status_t weft_host_amax_run(weft_amax_list_t *list, uint32_t first, uint32_t count);

weft_status_t weft_host_digest_create(weft_queue_t *queue, const weft_run_t *runs, uint32_t num_runs,
                                      weft_digest_list_t **list);
void weft_host_digest_destroy(weft_digest_list_t *list);
weft_status_t weft_host_digest_run(weft_digest_list_t *list, uint32_t first, uint32_t count);
const weft_digest_t *weft_host_digest_results(const weft_digest_list_t *list);

/* pair.c */
weft_status_t weft_host_pair_create(weft_queue_t *queue, size_t bytes, bool remap, weft_pair_t *pair,
                                    weft_error_t *error);
void weft_host_pair_destroy(weft_queue_t *queue, weft_pair_t *pair);
weft_status_t weft_host_pair_exchange(weft_queue_t *queue, weft_pair_t *pair);
weft_status_t weft_host_pair_settle(weft_queue_t *queue, weft_pair_t *pair);

#endif
