#include "src/plan/layout.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

static const char *const axis_names[WEFT_AXIS_COUNT] = {
    [WEFT_AXIS_FSDP] = "fsdp", [WEFT_AXIS_TP] = "tp", [WEFT_AXIS_DP] = "dp",
    [WEFT_AXIS_PP] = "pp",     [WEFT_AXIS_EP] = "ep",
};

/* Read a decimal number in [1, WEFT_MAX_LAYOUT_RANKS]; false when there is none. */
static bool read_size(const char **cursor, uint32_t *size)
{
    uint64_t value = 0;
    const char *c = *cursor;
    while (*c >= '0' && *c <= '9' && value <= WEFT_MAX_LAYOUT_RANKS)
        value = value * 10 + (uint64_t)(*c++ - '0');
    if (c == *cursor || value == 0 || value > WEFT_MAX_LAYOUT_RANKS)
        return false;
    *cursor = c;
    *size = (uint32_t)value;
    return true;
}

static bool read_word(const char **cursor, const char *word)
{
    size_t length = strlen(word);
    if (strncmp(*cursor, word, length) != 0)
        return false;
    *cursor += length;
    return true;
}

static bool read_trainer_axis(weft_layout_t *layout, const char **cursor, bool seen[WEFT_AXIS_COUNT])
{
    for (unsigned axis = 0; axis < WEFT_AXIS_COUNT; axis++) {
        const char *start = *cursor;
        if (read_word(cursor, axis_names[axis]) && read_word(cursor, ":")) {
            if (seen[axis] || !read_size(cursor, &layout->size[axis]))
                return false;
            seen[axis] = true;
            layout->stride[axis] = layout->num_ranks;
            uint64_t ranks = (uint64_t)layout->num_ranks * layout->size[axis];
            layout->num_ranks = (uint32_t)ranks;
            return ranks <= WEFT_MAX_LAYOUT_RANKS;
        }
        *cursor = start;
    }
    return false;
}

static bool parse_trainer(weft_layout_t *layout, const char *cursor)
{
    bool seen[WEFT_AXIS_COUNT] = {false};
    do {
        if (!read_trainer_axis(layout, &cursor, seen))
            return false;
    } while (read_word(&cursor, ","));
    return *cursor == '\0';
}

static bool parse_rollout(weft_layout_t *layout, const char *cursor)
{
    if (!read_word(&cursor, "tp:") || !read_size(&cursor, &layout->tp))
        return false;
    if (read_word(&cursor, "x") && !read_size(&cursor, &layout->replicas))
        return false;
    layout->ep = read_word(&cursor, ",ep");
    uint64_t ranks = (uint64_t)layout->tp * layout->replicas;
    layout->num_ranks = (uint32_t)ranks;
    return *cursor == '\0' && ranks <= WEFT_MAX_LAYOUT_RANKS;
}

static weft_status_t refuse(weft_layout_t *layout, weft_error_t *error)
{
    weft_side_t side = layout->side;
    weft_fail(
        error, WEFT_ERR_ARGUMENT,
        side == WEFT_SIDE_TRAINER
            ? "trainer layout \"%s\" is not understood: write fsdp:N, tp:N, pp:N, ep:N, dp:N or a product "
              "such as tp:2,pp:2, each factor once, at most %u ranks; or boxes:FILE"
            : "rollout layout \"%s\" is not understood: write tp:T, tp:TxR for R replicas, and ,ep for whole "
              "experts a rank, such as tp:2x2,ep, at most %u ranks",
        layout->text, WEFT_MAX_LAYOUT_RANKS);
    weft_layout_destroy(layout);
    return WEFT_ERR_ARGUMENT;
}

static weft_layout_t *make_layout(const char *text, weft_side_t side)
{
    weft_layout_t *made = calloc(1, sizeof *made);
    char *copy = strdup(text);
    if (!made || !copy) {
        free(made);
        free(copy);
        return NULL;
    }
    *made = (weft_layout_t){.text = copy, .side = side, .num_ranks = 1, .tp = 1, .replicas = 1};
    for (unsigned axis = 0; axis < WEFT_AXIS_COUNT; axis++)
        made->size[axis] = made->stride[axis] = 1;
    return made;
}

weft_status_t weft_layout_parse(const char *text, weft_side_t side, weft_layout_t **layout,
                                weft_error_t *error)
{
    const char *path = text;
    if (side == WEFT_SIDE_TRAINER && read_word(&path, "boxes:"))
        return weft_layout_read_boxes(path, text, layout, error);
    weft_layout_t *made = make_layout(text, side);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a layout");
    if (!(side == WEFT_SIDE_TRAINER ? parse_trainer(made, text) : parse_rollout(made, text)))
        return refuse(made, error);
    *layout = made;
    return WEFT_OK;
}

weft_status_t weft_layout_boxes(uint32_t num_ranks, weft_layout_t **layout, weft_error_t *error)
{
    if (num_ranks == 0 || num_ranks > WEFT_MAX_LAYOUT_RANKS)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "a layout by boxes of %u ranks: expected 1 to %u",
                         num_ranks, WEFT_MAX_LAYOUT_RANKS);
    weft_layout_t *made = make_layout("boxes", WEFT_SIDE_TRAINER);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a layout");
    made->by_boxes = true;
    made->num_ranks = num_ranks;
    *layout = made;
    return WEFT_OK;
}

static bool push_box(weft_layout_t *layout, uint32_t rank, const char *tensor, const weft_box_t *box)
{
    if (layout->num_boxes == layout->boxes_capacity) {
        size_t capacity = layout->boxes_capacity ? 2 * layout->boxes_capacity : 64;
        weft_named_box_t *grown = realloc(layout->boxes, capacity * sizeof *grown);
        if (!grown)
            return false;
        layout->boxes = grown;
        layout->boxes_capacity = capacity;
    }
    char *name = strdup(tensor);
    if (name)
        layout->boxes[layout->num_boxes++] = (weft_named_box_t){name, rank, *box};
    return name != NULL;
}

weft_status_t weft_layout_add_box(weft_layout_t *layout, uint32_t rank, const char *tensor,
                                  const weft_box_t *box, weft_error_t *error)
{
    if (!layout->by_boxes)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "layout %s is made of axes: it takes no boxes",
                         layout->text);
    if (rank >= layout->num_ranks)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor %s: a box of rank %u of %u ranks", tensor, rank,
                         layout->num_ranks);
    if (box->num_dims == 0 || box->num_dims > WEFT_MAX_DIMS)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "tensor %s: a box of %u dimensions", tensor,
                         box->num_dims);
    return push_box(layout, rank, tensor, box) ? WEFT_OK
                                               : weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a box");
}

weft_layout_t *weft_layout_copy(const weft_layout_t *layout)
{
    weft_layout_t *copy = make_layout(layout->text, layout->side);
    if (!copy)
        return NULL;
    char *text = copy->text;
    *copy = *layout;
    copy->text = text;
    copy->boxes = NULL;
    copy->num_boxes = copy->boxes_capacity = 0;
    for (size_t i = 0; i < layout->num_boxes; i++)
        if (!push_box(copy, layout->boxes[i].rank, layout->boxes[i].tensor, &layout->boxes[i].box)) {
            weft_layout_destroy(copy);
            return NULL;
        }
    return copy;
}

void weft_layout_destroy(weft_layout_t *layout)
{
    if (!layout)
        return;
    for (size_t i = 0; i < layout->num_boxes; i++)
        free(layout->boxes[i].tensor);
    free(layout->boxes);
    free(layout->text);
    free(layout);
}

uint32_t weft_layout_num_ranks(const weft_layout_t *layout)
{
    return layout->num_ranks;
}

const char *weft_layout_text(const weft_layout_t *layout)
{
    return layout->text;
}
