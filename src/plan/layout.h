/* Layouts after parsing. */
#ifndef WEFT_PLAN_LAYOUT_H
#define WEFT_PLAN_LAYOUT_H

#include <weft/plan.h>

#define WEFT_MAX_LAYOUT_RANKS 65536u

/* What a rank holds of a tensor, as the user says it. */
typedef struct weft_named_box {
    char *tensor;
    uint32_t rank;
    weft_box_t box;
} weft_named_box_t;

typedef enum weft_axis {
    WEFT_AXIS_FSDP, /* chunks of dimension 0 of what the other axes leave */
    WEFT_AXIS_TP,   /* as the recipe splits */
    WEFT_AXIS_DP,   /* copies */
    WEFT_AXIS_PP, /* runs of blocks; what lies before the blocks is with the first, what lies behind with the
                     last */
    WEFT_AXIS_EP, /* runs of experts; of all else copies */
    WEFT_AXIS_COUNT,
} weft_axis_t;

struct weft_layout {
    char *text;
    weft_side_t side;
    uint32_t num_ranks;

    /* trainer: the size of each axis (1 when absent) and how many ranks lie between neighbours on it */
    uint32_t size[WEFT_AXIS_COUNT], stride[WEFT_AXIS_COUNT];

    /* trainer, box by box: then all axes are 1 */
    bool by_boxes;
    weft_named_box_t *boxes;
    size_t num_boxes, boxes_capacity;

    /* rollout */
    uint32_t tp, replicas;
    bool ep;
};

/* Where trainer rank `rank` stands on `axis`. */
static inline uint32_t weft_layout_coordinate(const weft_layout_t *layout, uint32_t rank, weft_axis_t axis)
{
    return rank / layout->stride[axis] % layout->size[axis];
}

/* Copy a layout; NULL when memory ran out. */
weft_layout_t *weft_layout_copy(const weft_layout_t *layout);

/* Read a file of boxes; `text` is what the layout is called. **Returns** as weft_layout_parse. */
weft_status_t weft_layout_read_boxes(const char *path, const char *text, weft_layout_t **layout, weft_error_t *error);

#endif
