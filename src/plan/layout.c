#include "src/plan/layout.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

#define MAX_RANKS 65536u

static const char *const axis_names[WEFT_AXIS_COUNT] = {
    [WEFT_AXIS_FSDP] = "fsdp", [WEFT_AXIS_TP] = "tp", [WEFT_AXIS_DP] = "dp",
    [WEFT_AXIS_PP] = "pp",     [WEFT_AXIS_EP] = "ep",
};

/* Read a decimal number in [1, MAX_RANKS]; false when there is none. */
static bool read_size(const char **cursor, uint32_t *size)
{
    uint64_t value = 0;
    const char *c = *cursor;
    while (*c >= '0' && *c <= '9' && value <= MAX_RANKS)
        value = value * 10 + (uint64_t)(*c++ - '0');
    if (c == *cursor || value == 0 || value > MAX_RANKS)
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
            return ranks <= MAX_RANKS;
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
    return *cursor == '\0' && ranks <= MAX_RANKS;
}

static weft_status_t refuse(weft_layout_t *layout, weft_error_t *error)
{
    weft_side_t side = layout->side;
    weft_fail(
        error, WEFT_ERR_ARGUMENT,
        side == WEFT_SIDE_TRAINER
            ? "trainer layout \"%s\" is not understood: write fsdp:N, tp:N, pp:N, ep:N, dp:N or a product "
              "such as "
              "tp:2,pp:2, each factor once, at most %u ranks"
            : "rollout layout \"%s\" is not understood: write tp:T, tp:TxR for R replicas, and ,ep for whole "
              "experts a rank, such as tp:2x2,ep, at most %u ranks",
        layout->text, MAX_RANKS);
    weft_layout_destroy(layout);
    return WEFT_ERR_ARGUMENT;
}

weft_status_t weft_layout_parse(const char *text, weft_side_t side, weft_layout_t **layout,
                                weft_error_t *error)
{
    weft_layout_t *made = calloc(1, sizeof *made);
    char *copy = strdup(text);
    if (!made || !copy) {
        free(made);
        free(copy);
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a layout");
    }
    *made = (weft_layout_t){.text = copy, .side = side, .num_ranks = 1, .tp = 1, .replicas = 1};
    for (unsigned axis = 0; axis < WEFT_AXIS_COUNT; axis++)
        made->size[axis] = made->stride[axis] = 1;
    if (!(side == WEFT_SIDE_TRAINER ? parse_trainer(made, text) : parse_rollout(made, text)))
        return refuse(made, error);
    *layout = made;
    return WEFT_OK;
}

weft_layout_t *weft_layout_copy(const weft_layout_t *layout)
{
    weft_layout_t *copy = malloc(sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *layout;
    copy->text = strdup(layout->text);
    if (!copy->text) {
        free(copy);
        return NULL;
    }
    return copy;
}

void weft_layout_destroy(weft_layout_t *layout)
{
    if (!layout)
        return;
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
