/* In: a plan and the name of layers. Out: for each part, expert and TP rank the boxes it is made of and who
 * sends them, equal experts told once and even runs of boxes on one line. Invariant: what is told are the
 * pieces of the walk; nothing is left out without a word. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/base/text.h"
#include "src/plan/plan.h"

#define MOST_SETS   16 /* told of a part; what is beyond is counted */
#define MOST_GROUPS 8  /* of experts */
#define NEAR_NAMES  3

/* A box that goes from one trainer to one set; `to_row` of the part as a rank holds it. */
typedef struct stretch {
    uint32_t set, source;
    weft_rect_t rect;
    uint32_t to_row, to_col;
} stretch_t;

typedef WEFT_ARRAY(stretch_t) stretches_t;

static int compare_stretches(const void *left, const void *right)
{
    const stretch_t *a = left, *b = right;
    const uint32_t x[] = {a->set, a->rect.col, a->rect.row, a->source};
    const uint32_t y[] = {b->set, b->rect.col, b->rect.row, b->source};
    for (unsigned i = 0; i < 4; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

/* Units cut what one trainer sends; joined again here. */
static bool joins(const stretch_t *last, const stretch_t *next)
{
    return last->set == next->set && last->source == next->source && last->rect.col == next->rect.col &&
           last->rect.cols == next->rect.cols && last->rect.row + last->rect.rows == next->rect.row &&
           last->to_row + last->rect.rows == next->to_row;
}

static void join(stretches_t *list)
{
    size_t kept = 0;
    if (list->count)
        qsort(list->items, list->count, sizeof *list->items, compare_stretches);
    for (size_t i = 1; i < list->count; i++) {
        if (joins(&list->items[kept], &list->items[i]))
            list->items[kept].rect.rows += list->items[i].rect.rows;
        else
            list->items[++kept] = list->items[i];
    }
    list->count = list->count ? kept + 1 : 0;
}

static bool collect(const weft_plan_t *plan, uint32_t layer, uint32_t part, uint32_t expert,
                    stretches_t *list)
{
    const weft_part_pattern_t *shape = &weft_plan_pattern(plan, layer)->parts[part];
    list->count = 0;
    for (uint32_t u = 0; u < shape->num_units; u++)
        for (uint32_t i = 0; i < shape->units[u].num_fragments; i++) {
            const weft_fragment_pattern_t *f = &shape->fragments[shape->units[u].first_fragment + i];
            weft_piece_t piece =
                weft_plan_piece(plan, (weft_cursor_t){layer, 0, part, u}, f, WEFT_PIECE_DATA, f->set, expert);
            weft_rect_t rect = f->rect; /* as the layer's rows, however the tensor holds them */
            rect.row += (uint32_t)plan->layers->items[layer].parts[part].first_row;
            stretch_t made = {piece.set, piece.source, rect, u * WEFT_UNIT_ROWS + piece.to_row, piece.to_col};
            if (!WEFT_ARRAY_PUSH(list, made))
                return false;
        }
    join(list);
    return true;
}

/* How many stretches from `first` on are alike: one set, one extent, equal steps of place and source. */
static size_t even_run(const stretches_t *list, size_t first)
{
    const stretch_t *s = list->items;
    size_t end = first + 1;
    while (end < list->count && s[end].set == s[first].set && s[end].rect.rows == s[first].rect.rows &&
           s[end].rect.cols == s[first].rect.cols && s[end].rect.col == s[first].rect.col &&
           s[end].rect.row == s[end - 1].rect.row + s[end - 1].rect.rows &&
           s[end].source - s[end - 1].source == s[first + 1].source - s[first].source)
        end++;
    return end - first;
}

static void add_ranks(weft_text_t *text, const weft_set_t *set)
{
    const uint32_t *t = set->tp_ranks;
    bool run = t[set->count - 1] - t[0] == set->count - 1;
    weft_text_add(text, set->count > 1 ? "TP ranks " : "TP rank ");
    if (set->count > 2 && run)
        weft_text_add(text, "%u to %u", t[0], t[set->count - 1]);
    for (uint32_t i = 0; i < set->count && !(set->count > 2 && run); i++)
        weft_text_add(text, "%s%u", i ? ", " : "", t[i]);
}

static void add_sources(weft_text_t *text, const stretch_t *first, size_t count)
{
    uint32_t next = count > 1 ? first[1].source : 0, last = first[count - 1].source;
    if (count == 1 || last == first->source)
        weft_text_add(text, "trainer %u", first->source);
    else if (count == 2)
        weft_text_add(text, "trainers %u, %u", first->source, last);
    else if (next == first->source + 1)
        weft_text_add(text, "trainers %u to %u", first->source, last);
    else
        weft_text_add(text, "trainers %u, %u, ... %u", first->source, next, last);
}

static void add_run(weft_text_t *text, const stretch_t *first, size_t count, bool vector)
{
    const stretch_t *last = &first[count - 1];
    weft_rect_t r = first->rect;
    uint32_t end = last->rect.row + last->rect.rows;
    if (vector)
        weft_text_add(text, "elements %u to %u", r.col, r.col + r.cols - 1);
    else
        weft_text_add(text, "rows %u to %u, columns %u to %u", r.row, end - 1, r.col, r.col + r.cols - 1);
    weft_text_add(text, " -> %s %u from ", vector ? "element" : "row",
                  vector ? first->to_col : first->to_row);
    if (first->to_col && !vector)
        weft_text_add(text, "(column %u) ", first->to_col);
    add_sources(text, first, count);
    if (count > 1)
        weft_text_add(text, ", %u rows each", r.rows);
}

/* What the part's ranks have below the tensor's rows. */
static void add_padding(weft_text_t *text, const weft_plan_t *plan, const weft_part_t *part, bool whole)
{
    for (uint32_t t = 0; t < plan->rollout->tp; t++) {
        weft_need_t need = weft_rollout_need(part, plan->rollout->tp, t, whole);
        uint32_t real = weft_rect_empty(need.box) ? 0 : need.box.rows;
        if (need.rows > real)
            weft_text_add(text, "      TP rank %u: rows %u to %u are zeros (padding)\n", t, real,
                          need.rows - 1);
    }
}

static void add_part(weft_text_t *text, const weft_plan_t *plan, const stretches_t *list, bool vector)
{
    uint32_t told = 0, left = 0;
    for (size_t i = 0; i < list->count;) {
        const stretch_t *first = &list->items[i];
        size_t count = even_run(list, i);
        bool begins = i == 0 || list->items[i - 1].set != first->set;
        told += begins && told < MOST_SETS;
        bool tell = !left && (!begins || i == 0 || told < MOST_SETS);
        left += !tell && begins;
        if (tell) {
            weft_text_add(text, "      ");
            if (first->set == WEFT_SET_EACH)
                weft_text_add(text, "its TP rank");
            else
                add_ranks(text, &plan->sets.items[first->set]);
            weft_text_add(text, ": ");
            add_run(text, first, count, vector);
            weft_text_add(text, "\n");
        }
        i += count;
    }
    if (left)
        weft_text_add(text, "      and %u more sets of TP ranks of the same form\n", left);
}

/* The rounds that have units of the layer. */
static void add_rounds(weft_text_t *text, const weft_plan_t *plan, uint32_t layer)
{
    uint32_t first = UINT32_MAX, last = 0;
    for (uint32_t r = 0; r < plan->num_rounds; r++) {
        weft_cursor_t cursor = plan->rounds[r].first;
        if (!plan->rounds[r].num_units || cursor.layer > layer)
            continue;
        bool next_is_later = r + 1 >= plan->num_rounds || !plan->rounds[r + 1].num_units ||
                             plan->rounds[r + 1].first.layer > layer;
        uint32_t end_layer = r + 1 < plan->num_rounds && plan->rounds[r + 1].num_units
                                 ? plan->rounds[r + 1].first.layer
                                 : plan->layers->count;
        weft_cursor_t next = r + 1 < plan->num_rounds ? plan->rounds[r + 1].first : (weft_cursor_t){0};
        bool ends_before = end_layer == layer && !next.expert && !next.part && !next.unit;
        if (cursor.layer == layer || end_layer > layer || (end_layer == layer && !ends_before)) {
            first = first == UINT32_MAX ? r : first;
            last = r;
        }
        if (next_is_later)
            break;
    }
    if (first == UINT32_MAX)
        return;
    if (first == last)
        weft_text_add(text, ", in round %u of %u", first, plan->num_rounds);
    else
        weft_text_add(text, ", in rounds %u to %u of %u", first, last, plan->num_rounds);
}

/* The experts with one text. */
typedef struct group {
    weft_text_t text;
    weft_text_t experts;
    uint32_t first, last, count;
} group_t;

typedef WEFT_ARRAY(group_t) groups_t;

static bool describe_expert(const weft_plan_t *plan, uint32_t layer, uint32_t expert, stretches_t *list,
                            weft_text_t *text)
{
    const weft_layer_t *l = &plan->layers->items[layer];
    const weft_pattern_t *pattern = weft_plan_pattern(plan, layer);
    for (uint32_t p = 0; p < l->num_parts; p++) {
        const weft_part_pattern_t *part = &pattern->parts[p];
        if (!collect(plan, layer, p, expert, list))
            return false;
        weft_text_add(text, "    %s, %s %u of the layer on", l->parts[p].role,
                      l->parts[p].vector ? "from element" : "from row",
                      l->parts[p].vector ? part->col_offset : part->row_offset);
        weft_text_add(text, "\n");
        add_part(text, plan, list, l->parts[p].vector);
        add_padding(text, plan, &l->parts[p], pattern->whole);
    }
    return !text->failed;
}

static bool add_to_group(groups_t *groups, weft_text_t *text, uint32_t expert)
{
    size_t g = 0;
    while (g < groups->count && strcmp(groups->items[g].text.data, text->data) != 0)
        g++;
    if (g < groups->count) {
        weft_text_free(text);
    } else {
        group_t made = {.text = *text, .first = expert};
        if (!WEFT_ARRAY_PUSH(groups, made))
            return false;
    }
    group_t *group = &groups->items[g];
    group->last = expert;
    group->count++;
    if (group->count <= 6)
        weft_text_add(&group->experts, "%s%u", group->count > 1 ? ", " : "", expert);
    return !group->experts.failed;
}

static void print_group(weft_text_t *text, const group_t *group, const weft_plan_t *plan, uint32_t layer)
{
    const weft_layer_t *l = &plan->layers->items[layer];
    const char *tensor =
        weft_model_tensor(plan->model, l->tensors[(size_t)group->first * l->num_parts])->name;
    if (l->num_experts && group->count > 1 && group->last - group->first + 1 == group->count)
        weft_text_add(text, "  experts %u to %u; tensors %s ...\n", group->first, group->last, tensor);
    else if (l->num_experts)
        weft_text_add(text, "  %u expert%s %s%s; tensors %s ...\n", group->count,
                      group->count > 1 ? "s:" : ":", group->experts.data, group->count > 6 ? " ..." : "",
                      tensor);
    else
        weft_text_add(text, "  tensors %s%s\n", tensor, l->num_parts > 1 ? " ..." : "");
    weft_text_add(text, "%s", group->text.data);
}

static void print_layer_head(weft_text_t *text, const weft_plan_t *plan, uint32_t layer)
{
    const weft_layer_t *l = &plan->layers->items[layer];
    const weft_pattern_t *pattern = weft_plan_pattern(plan, layer);
    char name[WEFT_LAYER_NAME_BYTES];
    weft_text_add(text, "layer %s: ", weft_layer_full_name(l, name));
    if (l->num_experts)
        weft_text_add(text, "%u experts, %u on a rank with most, each ", l->num_experts,
                      weft_plan_local_experts(plan, layer));
    weft_text_add(text, "[%u, %u] %s", pattern->rows, pattern->cols, weft_dtype_name(pattern->dtype));
    if (l->quantize)
        weft_text_add(text, ", %s", pattern->scheme->name);
    add_rounds(text, plan, layer);
    weft_text_add(text, "; %s\n", plan->relay ? "relayed by one rank of the set" : "each route a broadcast");
    if (pattern->whole)
        weft_text_add(text, "  expert e is on the TP rank that holds its run of experts, whole\n");
    if (l->parts[0].transposed)
        weft_text_add(text, "  the tensor holds each matrix transposed: its columns are the rows below\n");
    if (pattern->domain_amax_bytes)
        weft_text_add(text, "  the largest magnitude of %s comes before its first round, from all of these\n",
                      l->num_experts ? "each expert" : "the layer");
    else if (pattern->amax_ahead)
        weft_text_add(text, "  the largest magnitude of each row comes one round ahead, from all of these\n");
}

static bool print_layer(weft_text_t *text, const weft_plan_t *plan, uint32_t layer)
{
    const weft_layer_t *l = &plan->layers->items[layer];
    uint32_t experts = l->num_experts ? l->num_experts : 1;
    groups_t groups = {0};
    stretches_t list = {0};
    bool done = true;
    for (uint32_t e = 0; e < experts && done; e++) {
        weft_text_t one = {0};
        done = describe_expert(plan, layer, e, &list, &one) && add_to_group(&groups, &one, e);
        if (!done)
            weft_text_free(&one);
    }
    print_layer_head(text, plan, layer);
    for (size_t g = 0; g < groups.count && g < MOST_GROUPS && done; g++)
        print_group(text, &groups.items[g], plan, layer);
    if (groups.count > MOST_GROUPS)
        weft_text_add(text, "  and %zu more groups of experts, whose trainers take turns\n",
                      groups.count - MOST_GROUPS);
    for (size_t g = 0; g < groups.count; g++) {
        weft_text_free(&groups.items[g].text);
        weft_text_free(&groups.items[g].experts);
    }
    WEFT_ARRAY_FREE(&groups);
    WEFT_ARRAY_FREE(&list);
    return done && !text->failed;
}

static bool matches(const weft_layer_t *layer, const char *glob)
{
    char name[WEFT_LAYER_NAME_BYTES];
    weft_layer_full_name(layer, name);
    return fnmatch(glob, layer->name, 0) == 0 || fnmatch(glob, name, 0) == 0;
}

/* Insertions, deletions and replacements from one to the other; names are short. */
static uint32_t distance(const char *a, const char *b)
{
    uint32_t row[256], length = (uint32_t)strnlen(b, 255);
    for (uint32_t j = 0; j <= length; j++)
        row[j] = j;
    for (uint32_t i = 1; *a && i < 256; i++, a++) {
        uint32_t diagonal = row[0];
        row[0] = i;
        for (uint32_t j = 1; j <= length; j++) {
            uint32_t above = row[j], best = diagonal + (*a != b[j - 1]);
            best = above + 1 < best ? above + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diagonal = above;
        }
    }
    return row[length];
}

static weft_status_t refuse(const weft_plan_t *plan, const char *glob, weft_error_t *error)
{
    uint32_t near[NEAR_NAMES], far[NEAR_NAMES], count = 0;
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        uint32_t d = distance(glob, plan->layers->items[i].name),
                 at = count < NEAR_NAMES ? count++ : NEAR_NAMES;
        while (at > 0 && d < far[at - 1]) {
            if (at < NEAR_NAMES) {
                near[at] = near[at - 1];
                far[at] = far[at - 1];
            }
            at--;
        }
        if (at < NEAR_NAMES) {
            near[at] = i;
            far[at] = d;
        }
    }
    weft_text_t names = {0};
    for (uint32_t i = 0; i < count; i++)
        weft_text_add(&names, "%s%s", i ? ", " : "", plan->layers->items[near[i]].name);
    weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "no layer is called '%.200s'; near are %s", glob,
              names.data ? names.data : "none");
    weft_text_free(&names);
    return WEFT_ERR_UNKNOWN_NAME;
}

weft_status_t weft_plan_explain(const weft_plan_t *plan, const char *layers, char **text, weft_error_t *error)
{
    weft_text_t out = {0};
    bool done = true, any = false;
    for (uint32_t i = 0; i < plan->layers->count && done; i++) {
        if (!matches(&plan->layers->items[i], layers))
            continue;
        any = true;
        done = print_layer(&out, plan, i);
    }
    if (!done) {
        weft_text_free(&out);
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory to explain layer '%.200s'", layers);
    }
    if (!any)
        return refuse(plan, layers, error);
    *text = out.data;
    return WEFT_OK;
}
