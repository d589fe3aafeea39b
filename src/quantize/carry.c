/* In: live outputs of the layers that are not selected. Out: the same bytes in the stage, and their digests.
 */
#include "src/quantize/carry.h"

#include <stdlib.h>

#include "src/base/error.h"

struct weft_carry {
    weft_queue_t *queue;
    const weft_outputs_t *outputs;
    weft_pack_list_t *copies;    /* [outputs] */
    weft_digest_list_t *digests; /* [outputs] */
    bool *which;                 /* [outputs] */
    bool in_place;               /* the stage is what is live: only digests are wanting */
};

static weft_status_t make_lists(weft_carry_t *c, const void *const *live, uint8_t *stage)
{
    uint32_t count = c->outputs->count;
    weft_pack_job_t *jobs = calloc((size_t)count + 1, sizeof *jobs);
    weft_run_t *runs = calloc((size_t)count + 1, sizeof *runs);
    weft_status_t status = jobs && runs ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    c->in_place = count > 0 && live[0] == stage + c->outputs->items[0].offset;
    for (uint32_t i = 0; i < count && status == WEFT_OK; i++) {
        const weft_output_t *output = &c->outputs->items[i];
        jobs[i] = (weft_pack_job_t){.data = live[i],
                                    .ld_bytes = output->bytes,
                                    .rows = 1,
                                    .row_bytes = output->bytes,
                                    .out = stage + output->offset};
        runs[i] = (weft_run_t){stage + output->offset, output->bytes};
    }
    if (status == WEFT_OK)
        status = c->queue->ops->pack_create(c->queue, jobs, count, &c->copies);
    if (status == WEFT_OK)
        status = c->queue->ops->digest_create(c->queue, runs, count, &c->digests);
    free(jobs);
    free(runs);
    return status;
}

weft_status_t weft_carry_create(weft_queue_t *queue, const weft_outputs_t *outputs, const void *const *live,
                                uint8_t *stage, weft_carry_t **carry)
{
    weft_carry_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->queue = queue;
    made->outputs = outputs;
    made->which = calloc((size_t)outputs->count + 1, sizeof *made->which);
    weft_status_t status = made->which ? make_lists(made, live, stage) : WEFT_ERR_NO_MEMORY;
    if (status != WEFT_OK) {
        weft_carry_destroy(made);
        return status;
    }
    *carry = made;
    return WEFT_OK;
}

void weft_carry_destroy(weft_carry_t *c)
{
    if (!c)
        return;
    c->queue->ops->pack_destroy(c->copies);
    c->queue->ops->digest_destroy(c->digests);
    free(c->which);
    free(c);
}

weft_status_t weft_carry_run(weft_carry_t *c, const bool *selected, uint32_t num_layers)
{
    const weft_queue_ops_t *ops = c->queue->ops;
    for (uint32_t i = 0; i < num_layers; i++) {
        const weft_layer_outputs_t *layer = &c->outputs->layers[i];
        for (uint32_t o = layer->weight; o < layer->weight + layer->count; o++)
            c->which[o] = !selected[i];
        if (selected[i])
            continue;
        if (!c->in_place)
            WEFT_TRY(ops->pack_run(c->copies, layer->weight, layer->count));
        WEFT_TRY(ops->digest_run(c->digests, layer->weight, layer->count));
    }
    return WEFT_OK;
}

const weft_digest_t *weft_carry_digests(const weft_carry_t *c)
{
    return c->queue->ops->digest_results(c->digests);
}

const bool *weft_carry_which(const weft_carry_t *c)
{
    return c->which;
}
