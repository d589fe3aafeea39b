/* In: a plan. Out: the numbers it is judged by. Invariant: counted from the pieces themselves, not from
 * formulas. */
#include <stdlib.h>

#include "src/base/error.h"
#include "src/plan/instances.h"
#include "src/plan/outputs.h"

typedef struct tally {
    const weft_plan_t *plan;
    uint64_t *egress;  /* [trainers] */
    uint64_t *ingress; /* [tp], the same in every replica */
    uint64_t data_bytes;
} tally_t;

static weft_status_t count_piece(void *user, const weft_piece_t *piece, uint32_t count)
{
    tally_t *tally = user;
    uint64_t bytes = weft_piece_bytes(tally->plan, piece) * count;
    const weft_set_t *set = &tally->plan->sets.items[piece->set];
    tally->egress[piece->source] += bytes;
    tally->data_bytes += piece->kind == WEFT_PIECE_DATA ? bytes : 0;
    for (uint32_t i = 0; i < set->count; i++)
        tally->ingress[set->tp_ranks[i]] += bytes;
    return WEFT_OK;
}

static void fill_counted(const tally_t *tally, weft_plan_summary_t *out)
{
    const weft_plan_t *plan = tally->plan;
    out->egress_bytes_min = UINT64_MAX;
    for (uint32_t i = 0; i < plan->trainer->num_ranks; i++) {
        uint64_t egress = tally->egress[i];
        out->egress_bytes_total += egress;
        out->egress_bytes_max = egress > out->egress_bytes_max ? egress : out->egress_bytes_max;
        out->egress_bytes_min = egress < out->egress_bytes_min ? egress : out->egress_bytes_min;
    }
    for (uint32_t t = 0; t < plan->rollout->tp; t++) {
        uint64_t ingress = tally->ingress[t], kernel = weft_outputs_bytes(plan, t);
        out->needed_bytes_total += ingress * plan->rollout->replicas;
        out->ingress_bytes_max = ingress > out->ingress_bytes_max ? ingress : out->ingress_bytes_max;
        out->kernel_bytes_max = kernel > out->kernel_bytes_max ? kernel : out->kernel_bytes_max;
    }
    out->unique_bytes_total = tally->data_bytes;
}

static void fill_model(const weft_plan_t *plan, weft_plan_summary_t *out)
{
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_layer_t *layer = &plan->layers->items[i];
        uint32_t slots = layer->num_parts * (layer->num_experts ? layer->num_experts : 1);
        for (uint32_t t = 0; t < slots; t++) {
            /* Parts and experts of one tensor follow each other. */
            if (t > 0 && layer->tensors[t] == layer->tensors[t - 1])
                continue;
            out->num_tensors++;
            out->checkpoint_bytes += weft_model_tensor(plan->model, layer->tensors[t])->bytes;
        }
    }
}

void weft_plan_summarize(const weft_plan_t *plan, weft_plan_summary_t *summary)
{
    uint64_t tables =
        (plan->amax_round_rows * 2 + 255) / 256 * 256 * 3 + (plan->num_domains * 2 + 255) / 256 * 256;
    weft_plan_summary_t out = {
        .num_layers = plan->layers->count,
        .num_patterns = plan->num_patterns,
        .num_rounds = plan->num_rounds,
        .staging_bytes = 2 * plan->round_bytes + tables,
        .least_budget_bytes = plan->least_budget,
        .num_routes = (uint32_t)plan->routes.count,
        .num_sets = (uint32_t)plan->sets.count,
        .groups_max = plan->groups_max,
        .relay = plan->relay,
    };
    tally_t tally = {
        .plan = plan,
        .egress = calloc(plan->trainer->num_ranks, sizeof *tally.egress),
        .ingress = calloc(plan->rollout->tp, sizeof *tally.ingress),
    };
    fill_model(plan, &out);
    if (tally.egress && tally.ingress && weft_plan_walk_classes(plan, count_piece, &tally) == WEFT_OK)
        fill_counted(&tally, &out);
    free(tally.egress);
    free(tally.ingress);
    *summary = out;
}
