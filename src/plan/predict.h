/* Prediction: how long an update takes at given speeds, and what limits it. docs/planning.md has the model.
 */
#ifndef WEFT_PLAN_PREDICT_H
#define WEFT_PLAN_PREDICT_H

#include "src/plan/program.h"

typedef enum weft_stage_kind {
    WEFT_STAGE_SEND,
    WEFT_STAGE_RECEIVE,
    WEFT_STAGE_PACK,
    WEFT_STAGE_QUANTIZE,
    WEFT_STAGE_COUNT,
} weft_stage_kind_t;

typedef struct weft_prediction {
    double stage_ms[WEFT_STAGE_COUNT]; /* each for the rank that needs longest */
    double first_round_ms;             /* before the stages run side by side */
    double update_ms;
    double copy_ms;      /* the pause of swap copy */
    uint64_t node_bytes; /* of what leaves trainers: on routes that stay in a node */
    weft_stage_kind_t limit;
    weft_messages_t trainer, rollout; /* of the rank with most bytes on each side */
} weft_prediction_t;

const char *weft_stage_name(weft_stage_kind_t kind);

/* `speeds` is complete: nothing in it is 0 but ranks_per_node. */
weft_status_t weft_plan_predict(const weft_plan_t *plan, const weft_plan_summary_t *summary,
                                const weft_plan_speeds_t *speeds, weft_prediction_t *prediction);

#endif
