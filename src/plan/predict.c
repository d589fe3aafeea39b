/* In: a plan and speeds. Out: the time of each stage of an update, and the largest.
 * Invariant: bytes are those of the pieces; nothing is assumed of them but how fast they move. */
#include "src/plan/predict.h"

#include <stdlib.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/plan/instances.h"

typedef struct traffic {
    const weft_plan_t *plan;
    const weft_plan_speeds_t *speeds;
    uint64_t *route_bytes;     /* [routes] */
    double *send, *receive;    /* [trainers], [rollouts]: seconds */
    uint64_t *sent, *received; /* [trainers], [tp] */
    uint64_t node_bytes;
} traffic_t;

const char *weft_stage_name(weft_stage_kind_t kind)
{
    static const char *const names[WEFT_STAGE_COUNT] = {[WEFT_STAGE_SEND] = "send",
                                                        [WEFT_STAGE_RECEIVE] = "receive",
                                                        [WEFT_STAGE_PACK] = "pack",
                                                        [WEFT_STAGE_QUANTIZE] = "quantize"};
    return names[kind];
}

static weft_status_t add_piece(void *user, const weft_piece_t *piece, uint32_t count)
{
    traffic_t *t = user;
    uint32_t route = weft_routes_find(&t->plan->routes, piece->source, piece->set);
    t->route_bytes[route] += weft_piece_bytes(t->plan, piece) * count;
    return WEFT_OK;
}

static bool same_node(const weft_plan_speeds_t *speeds, uint32_t a, uint32_t b)
{
    return speeds->ranks_per_node && a / speeds->ranks_per_node == b / speeds->ranks_per_node;
}

/* A broadcast leaves its source once, over the slowest of what it has to cross. */
static void add_route_time(traffic_t *t, uint32_t index)
{
    const weft_plan_t *plan = t->plan;
    const weft_route_t *route = &plan->routes.items[index];
    const weft_set_t *set = &plan->sets.items[route->set];
    double bytes = (double)t->route_bytes[index];
    bool stays = true;
    for (uint32_t replica = 0; replica < plan->rollout->replicas; replica++)
        for (uint32_t i = 0; i < set->count; i++) {
            uint32_t rank = weft_plan_rollout_rank(plan, replica, set->tp_ranks[i]);
            bool near = same_node(t->speeds, route->source, rank);
            double speed = near ? t->speeds->nvlink_bytes_per_s : t->speeds->link_bytes_per_s;
            t->receive[rank - plan->trainer->num_ranks] += bytes / speed;
            stays &= near;
        }
    t->send[route->source] += bytes / (stays ? t->speeds->nvlink_bytes_per_s : t->speeds->link_bytes_per_s);
    t->sent[route->source] += t->route_bytes[index];
    t->node_bytes += stays ? t->route_bytes[index] : 0;
    for (uint32_t i = 0; i < set->count; i++)
        t->received[set->tp_ranks[i]] += t->route_bytes[index];
}

static double longest(const double *seconds, uint32_t count)
{
    double most = 0;
    for (uint32_t i = 0; i < count; i++)
        most = seconds[i] > most ? seconds[i] : most;
    return most;
}

static uint32_t busiest(const uint64_t *bytes, uint32_t count)
{
    uint32_t found = 0;
    for (uint32_t i = 1; i < count; i++)
        found = bytes[i] > bytes[found] ? i : found;
    return found;
}

static void fill_times(const traffic_t *t, const weft_plan_summary_t *s, weft_prediction_t *out)
{
    const weft_plan_speeds_t *speeds = t->speeds;
    double hbm = speeds->hbm_bytes_per_s;
    out->stage_ms[WEFT_STAGE_SEND] = 1e3 * longest(t->send, t->plan->trainer->num_ranks);
    out->stage_ms[WEFT_STAGE_RECEIVE] = 1e3 * longest(t->receive, t->plan->rollout->num_ranks);
    out->stage_ms[WEFT_STAGE_PACK] = 1e3 * 2 * (double)s->egress_bytes_max / hbm;
    out->stage_ms[WEFT_STAGE_QUANTIZE] = 1e3 * (double)(s->ingress_bytes_max + s->kernel_bytes_max) / hbm;
    for (unsigned i = 0; i < WEFT_STAGE_COUNT; i++)
        if (out->stage_ms[i] > out->stage_ms[out->limit])
            out->limit = i;
    uint64_t first =
        t->plan->round_bytes < s->ingress_bytes_max ? t->plan->round_bytes : s->ingress_bytes_max;
    out->first_round_ms = 1e3 * (double)first / speeds->link_bytes_per_s;
    out->update_ms = out->stage_ms[out->limit] + out->first_round_ms;
    out->copy_ms = 1e3 * 2 * (double)s->kernel_bytes_max / hbm;
    out->node_bytes = t->node_bytes;
}

static weft_status_t count_traffic(traffic_t *t, const weft_plan_summary_t *s, weft_prediction_t *out)
{
    if (!t->route_bytes || !t->send || !t->receive || !t->sent || !t->received)
        return WEFT_ERR_NO_MEMORY;
    const weft_plan_t *plan = t->plan;
    WEFT_TRY(weft_plan_walk_classes(plan, add_piece, t));
    for (uint32_t i = 0; i < plan->routes.count; i++)
        add_route_time(t, i);
    fill_times(t, s, out);
    uint32_t sender = busiest(t->sent, plan->trainer->num_ranks);
    uint32_t receiver = weft_plan_rollout_rank(plan, 0, busiest(t->received, plan->rollout->tp));
    WEFT_TRY(weft_program_messages(plan, sender, &out->trainer));
    return weft_program_messages(plan, receiver, &out->rollout);
}

weft_status_t weft_plan_predict(const weft_plan_t *plan, const weft_plan_summary_t *summary,
                                const weft_plan_speeds_t *speeds, weft_prediction_t *prediction)
{
    traffic_t t = {
        .plan = plan,
        .speeds = speeds,
        .route_bytes = calloc(plan->routes.count + 1, sizeof *t.route_bytes),
        .send = calloc(plan->trainer->num_ranks, sizeof *t.send),
        .receive = calloc(plan->rollout->num_ranks, sizeof *t.receive),
        .sent = calloc(plan->trainer->num_ranks, sizeof *t.sent),
        .received = calloc(plan->rollout->tp, sizeof *t.received),
    };
    weft_prediction_t made = {0};
    weft_status_t status = count_traffic(&t, summary, &made);
    free(t.route_bytes);
    free(t.send);
    free(t.receive);
    free(t.sent);
    free(t.received);
    if (status == WEFT_OK)
        *prediction = made;
    return status;
}
