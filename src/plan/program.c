/* In: the plan and a rank. Out: its buckets, fragments and units, round by round.
 * Invariant: the buckets of a route are the same on every rank of the route, in the same order. */
#include "src/plan/program.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "src/base/array.h"
#include "src/base/error.h"

/* A run this long is worth a bucket of its own: it is sent from where it lies. */
#define CONTIGUOUS_BYTES (1u << 20)

/* How a fragment lies in its source's memory. */
typedef struct source_run {
    bool continues; /* goes on where the fragment before ends */
    bool solid;     /* is one run by itself */
} source_run_t;

/* The fragments of one route in the round at hand. */
typedef struct route_list {
    WEFT_ARRAY(weft_fragment_t) fragments;
    WEFT_ARRAY(source_run_t) runs; /* of each fragment */
    weft_piece_t last;
    uint32_t sequence; /* of the next bucket, over all rounds */
} route_list_t;

typedef struct builder {
    const weft_plan_t *plan;
    const weft_outputs_t *outputs;
    weft_program_t *program;
    route_list_t *lists;  /* [routes] */
    bool *my_sets;        /* [sets]: a rollout rank is a member; NULL for a trainer */
    uint32_t unit, layer; /* whose pieces are being walked */
    uint32_t *set_ranks;  /* scratch */
    WEFT_ARRAY(weft_bucket_t) buckets;
    WEFT_ARRAY(weft_fragment_t) fragments;
    WEFT_ARRAY(weft_unit_t) units;
    WEFT_ARRAY(weft_domain_t) domains;
    bool only_sizes; /* of buckets: nothing else is kept from round to round */
    WEFT_ARRAY(uint32_t) sizes;
} builder_t;

static uint64_t align_up(uint64_t bytes)
{
    return (bytes + WEFT_FRAGMENT_ALIGN - 1) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
}

uint32_t weft_set_ranks(const weft_plan_t *plan, uint32_t set, uint32_t *ranks)
{
    const weft_set_t *members = &plan->sets.items[set];
    uint32_t count = 0;
    for (uint32_t replica = 0; replica < plan->rollout->replicas; replica++)
        for (uint32_t i = 0; i < members->count; i++)
            ranks[count++] = weft_plan_rollout_rank(plan, replica, members->tp_ranks[i]);
    return count;
}

/* Whether `next` starts in the source's memory where `last` ended. */
static bool runs_on(const weft_piece_t *last, const weft_piece_t *next)
{
    return last->kind == WEFT_PIECE_DATA && next->kind == WEFT_PIECE_DATA && last->tensor == next->tensor &&
           last->whole_rows && next->whole_rows && last->rect.col == next->rect.col &&
           last->rect.cols == next->rect.cols && last->rect.row + last->rect.rows == next->rect.row;
}

static weft_status_t list_piece(void *user, const weft_piece_t *piece)
{
    builder_t *b = user;
    if (b->program->is_trainer && piece->source != b->program->rank)
        return WEFT_OK;
    route_list_t *list = &b->lists[weft_routes_find(&b->plan->routes, piece->source, piece->set)];
    weft_fragment_t fragment = {
        .kind = piece->kind,
        .layer = b->layer,
        .tensor = piece->tensor,
        .rect = piece->rect,
        .transposed = piece->transposed,
        .unit = b->unit,
        .to_row = piece->to_row,
        .to_col = piece->to_col,
        .bytes = (uint32_t)weft_piece_bytes(b->plan, piece),
    };
    source_run_t run = {
        .continues = list->fragments.count && runs_on(&list->last, piece),
        .solid = piece->kind == WEFT_PIECE_DATA && (piece->whole_rows || piece->rect.rows == 1),
    };
    list->last = *piece;
    if (!WEFT_ARRAY_PUSH(&list->fragments, fragment) || !WEFT_ARRAY_PUSH(&list->runs, run))
        return WEFT_ERR_NO_MEMORY;
    return WEFT_OK;
}

/* One past the last fragment of the run that starts at `first`, and its bytes; a run ends at the bucket
 * limit. */
static size_t run_end(const route_list_t *list, size_t first, uint64_t limit, uint64_t *bytes)
{
    size_t end = first + 1;
    *bytes = list->fragments.items[first].bytes;
    while (end < list->fragments.count && list->runs.items[end].continues &&
           *bytes + list->fragments.items[end].bytes <= limit)
        *bytes += list->fragments.items[end++].bytes;
    return end;
}

static weft_status_t open_bucket(builder_t *b, uint32_t route, uint32_t round, bool contiguous)
{
    const weft_route_t *r = &b->plan->routes.items[route];
    uint32_t sequence = b->lists[route].sequence++;
    uint32_t relay = r->source;
    if (b->plan->relay) {
        uint32_t members = weft_set_ranks(b->plan, r->set, b->set_ranks);
        relay = b->set_ranks[(sequence + round + r->source) % members];
    }
    weft_bucket_t bucket = {
        .round = round,
        .route = route,
        .source = r->source,
        .set = r->set,
        .relay = relay,
        .sequence = sequence,
        .first_fragment = (uint32_t)b->fragments.count,
        .contiguous = contiguous,
    };
    return WEFT_ARRAY_PUSH(&b->buckets, bucket) ? WEFT_OK : WEFT_ERR_NO_MEMORY;
}

/* Append fragments [first, end) of a list to the bucket opened last, the first of them aligned. */
static weft_status_t fill_bucket(builder_t *b, const route_list_t *list, size_t first, size_t end)
{
    weft_bucket_t *bucket = &b->buckets.items[b->buckets.count - 1];
    uint64_t offset = align_up(bucket->bytes);
    for (size_t i = first; i < end; i++) {
        weft_fragment_t fragment = list->fragments.items[i];
        fragment.offset = (uint32_t)offset;
        offset += fragment.bytes;
        bucket->payload_bytes += fragment.kind == WEFT_PIECE_DIGEST ? 0 : fragment.bytes;
        bucket->num_fragments++;
        if (!WEFT_ARRAY_PUSH(&b->fragments, fragment))
            return WEFT_ERR_NO_MEMORY;
    }
    bucket->bytes = (uint32_t)offset;
    return WEFT_OK;
}

/* Cut one route's list of a round into buckets: long runs alone, the rest packed together. */
static weft_status_t cut_route(builder_t *b, uint32_t route, uint32_t round)
{
    route_list_t *list = &b->lists[route];
    uint64_t limit = b->plan->options.max_bucket_bytes;
    bool packing = false;
    for (size_t first = 0; first < list->fragments.count;) {
        uint64_t bytes;
        size_t end = run_end(list, first, limit, &bytes);
        bool alone = bytes >= CONTIGUOUS_BYTES && list->runs.items[first].solid;
        bool fits = packing && align_up(b->buckets.items[b->buckets.count - 1].bytes) + bytes <= limit;
        if (alone || !fits)
            WEFT_TRY(open_bucket(b, route, round, alone));
        WEFT_TRY(fill_bucket(b, list, first, end));
        packing = !alone;
        first = end;
    }
    list->fragments.count = list->runs.count = 0;
    return WEFT_OK;
}

/* Partners rotate: sets in the order (set - source), so that all sources send at once to different sets. */
typedef struct bucket_key {
    uint32_t turn, source, sequence, index;
} bucket_key_t;

static int compare_keys(const void *left, const void *right)
{
    const bucket_key_t *a = left, *b = right;
    if (a->turn != b->turn)
        return a->turn < b->turn ? -1 : 1;
    if (a->source != b->source)
        return a->source < b->source ? -1 : 1;
    return a->sequence < b->sequence ? -1 : a->sequence > b->sequence;
}

static weft_status_t order_buckets(builder_t *b, size_t first)
{
    size_t count = b->buckets.count - first;
    uint32_t sets = (uint32_t)b->plan->sets.count;
    bucket_key_t *keys = malloc((count + 1) * sizeof *keys);
    weft_bucket_t *sorted = malloc((count + 1) * sizeof *sorted);
    if (!keys || !sorted) {
        free(keys);
        free(sorted);
        return WEFT_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        const weft_bucket_t *bucket = &b->buckets.items[first + i];
        keys[i] = (bucket_key_t){(bucket->set + sets - bucket->source % sets) % sets, bucket->source,
                                 bucket->sequence, (uint32_t)i};
    }
    qsort(keys, count, sizeof *keys, compare_keys);
    for (size_t i = 0; i < count; i++)
        sorted[i] = b->buckets.items[first + keys[i].index];
    if (count)
        memcpy(b->buckets.items + first, sorted, count * sizeof *sorted);
    free(keys);
    free(sorted);
    return WEFT_OK;
}

static uint64_t place_slots(builder_t *b, size_t first)
{
    uint64_t slot = 0;
    for (size_t i = first; i < b->buckets.count; i++) {
        weft_bucket_t *bucket = &b->buckets.items[i];
        bucket->slot = slot;
        slot += align_up(bucket->bytes);
        if (bucket->bytes > b->program->largest_bucket)
            b->program->largest_bucket = bucket->bytes;
        b->program->payload_bytes += bucket->payload_bytes;
        b->program->wire_bytes += bucket->bytes;
    }
    return slot;
}

/* Where the unit's output lies in the stage. */
static void place_outputs(const builder_t *b, weft_cursor_t cursor, weft_unit_t *unit)
{
    const weft_pattern_t *pattern = weft_plan_pattern(b->plan, cursor.layer);
    const weft_layer_outputs_t *layer = &b->outputs->layers[cursor.layer];
    const weft_output_t *weight = &b->outputs->items[layer->weight];
    const weft_part_pattern_t *part = &pattern->parts[cursor.part];
    const weft_format_t *format = weft_kernel_format(pattern->scheme->kernel);
    uint64_t row = part->row_offset + (uint64_t)cursor.unit * WEFT_UNIT_ROWS;
    uint64_t rows_before = weft_arrange_moves_codes(pattern->arrange) ? 0 : row;
    unit->weight_offset = weight->offset + cursor.expert * (weight->bytes / layer->num_experts) +
                          rows_before * weft_format_row_bytes(format, pattern->dtype, layer->cols) +
                          part->col_offset * weft_dtype_bytes(pattern->dtype);
    unit->scale_offset = unit->global_offset = UINT64_MAX;
    /* What is for a whole domain is written by one of its units. */
    bool first = !pattern->domain_amax_bytes || weft_cursor_begins_domain(b->plan, cursor);
    if (layer->global != WEFT_OUTPUT_NONE && first)
        unit->global_offset = b->outputs->items[layer->global].offset + cursor.expert * sizeof(float);
    if (layer->scale == WEFT_OUTPUT_NONE || (weft_arrange_one_scale(pattern->arrange, format) && !first))
        return;
    const weft_output_t *scale = &b->outputs->items[layer->scale];
    uint64_t per_expert = scale->bytes / layer->num_experts, before = 0;
    if (pattern->arrange == WEFT_ARRANGE_PLAIN)
        before = weft_format_scale_offset(format, row, layer->cols);
    else if (pattern->arrange == WEFT_ARRANGE_PADDED)
        before =
            row / format->scale_rows * scale->shape[scale->num_dims - 1] * weft_dtype_bytes(scale->dtype);
    unit->scale_offset = scale->offset + cursor.expert * per_expert + before;
    unit->matrix_row = (uint32_t)row;
}

static weft_unit_t describe_unit(const builder_t *b, weft_cursor_t cursor, weft_round_t *round)
{
    const weft_pattern_t *pattern = weft_plan_pattern(b->plan, cursor.layer);
    const weft_unit_pattern_t *shape = weft_cursor_unit(b->plan, cursor);
    weft_need_t need = weft_rollout_need(&pattern->example->parts[cursor.part], b->plan->rollout->tp,
                                         b->program->tp_rank, pattern->whole);
    uint32_t first_row = cursor.unit * WEFT_UNIT_ROWS;
    uint32_t real = need.box.rows > first_row ? need.box.rows - first_row : 0;
    weft_unit_t unit = {
        .layer = cursor.layer,
        .part = cursor.part,
        .rows = shape->rows,
        .cols = pattern->parts[cursor.part].cols,
        .real_rows = real < shape->rows ? real : shape->rows,
        .amax_row = UINT32_MAX,
        .domain = UINT32_MAX,
    };
    if (shape->num_amax && !pattern->domain_amax_bytes) {
        unit.amax_row = round->amax_rows;
        round->amax_rows += shape->rows;
    }
    place_outputs(b, cursor, &unit);
    return unit;
}

/* Walk the units of plan round `index`, listing pieces of one kind. `first_unit` numbers this rank's units.
 */
static weft_status_t walk_round(builder_t *b, uint32_t index, weft_piece_kind_t kind, uint32_t first_unit)
{
    const weft_plan_round_t *round = &b->plan->rounds[index];
    weft_cursor_t cursor = round->first;
    b->unit = first_unit;
    for (uint32_t u = 0; u < round->num_units; u++) {
        uint32_t expert;
        b->layer = cursor.layer;
        WEFT_TRY(weft_plan_walk_sets(b->plan, cursor, kind, b->my_sets, list_piece, b));
        if (!b->program->is_trainer && weft_cursor_expert(b->plan, cursor, b->program->tp_rank, &expert))
            b->unit++;
        weft_cursor_next(b->plan, &cursor);
    }
    return WEFT_OK;
}

/* Count the unit into its domain, which it may begin. */
static weft_status_t join_domain(builder_t *b, weft_cursor_t cursor, weft_unit_t *unit)
{
    if (!weft_plan_pattern(b->plan, cursor.layer)->domain_amax_bytes)
        return WEFT_OK;
    const weft_domain_t begun = {.first_unit = (uint32_t)b->units.count};
    if (weft_cursor_begins_domain(b->plan, cursor) && !WEFT_ARRAY_PUSH(&b->domains, begun))
        return WEFT_ERR_NO_MEMORY;
    unit->domain = (uint32_t)b->domains.count - 1;
    b->domains.items[unit->domain].num_units++;
    return WEFT_OK;
}

static weft_status_t list_units(builder_t *b, uint32_t index, weft_round_t *round)
{
    const weft_plan_round_t *planned = &b->plan->rounds[index];
    weft_cursor_t cursor = planned->first;
    round->first_unit = (uint32_t)b->units.count;
    round->first_domain = (uint32_t)b->domains.count;
    for (uint32_t u = 0; u < planned->num_units && !b->program->is_trainer && !b->only_sizes; u++) {
        uint32_t expert;
        if (weft_cursor_expert(b->plan, cursor, b->program->tp_rank, &expert)) {
            weft_unit_t unit = describe_unit(b, cursor, round);
            WEFT_TRY(join_domain(b, cursor, &unit));
            b->program->layer_units[cursor.layer]++;
            if (!WEFT_ARRAY_PUSH(&b->units, unit))
                return WEFT_ERR_NO_MEMORY;
        }
        weft_cursor_next(b->plan, &cursor);
    }
    round->num_units = (uint32_t)b->units.count - round->first_unit;
    round->num_domains = (uint32_t)b->domains.count - round->first_domain;
    return WEFT_OK;
}

static weft_status_t list_digests(builder_t *b)
{
    for (uint32_t i = 0; i < b->plan->routes.count; i++) {
        const weft_route_t *route = &b->plan->routes.items[i];
        if (b->my_sets && !b->my_sets[route->set])
            continue;
        weft_piece_t piece = {.kind = WEFT_PIECE_DIGEST, .source = route->source, .set = route->set};
        WEFT_TRY(list_piece(b, &piece));
    }
    return WEFT_OK;
}

static weft_status_t build_round(builder_t *b, uint32_t index)
{
    weft_round_t *round = &b->program->rounds[index];
    bool last = index + 1 == b->plan->num_rounds;
    round->first_bucket = (uint32_t)b->buckets.count;
    WEFT_TRY(list_units(b, index, round));
    WEFT_TRY(walk_round(b, index, WEFT_PIECE_DATA, round->first_unit));
    if (!last)
        WEFT_TRY(walk_round(b, index + 1, WEFT_PIECE_AMAX, (uint32_t)b->units.count));
    if (b->plan->rounds[index].digests)
        WEFT_TRY(list_digests(b));
    for (uint32_t route = 0; route < b->plan->routes.count; route++)
        if (b->lists[route].fragments.count)
            WEFT_TRY(cut_route(b, route, index));
    WEFT_TRY(order_buckets(b, round->first_bucket));
    round->num_buckets = (uint32_t)b->buckets.count - round->first_bucket;
    round->slot_bytes = place_slots(b, round->first_bucket);
    if (round->slot_bytes > b->program->slot_bytes)
        b->program->slot_bytes = round->slot_bytes;
    if (round->amax_rows > b->program->amax_rows)
        b->program->amax_rows = round->amax_rows;
    return WEFT_OK;
}

/* Tell each fragment its bucket; it could not be known before the buckets of a round were in order. */
static void number_buckets(weft_program_t *program)
{
    for (uint32_t i = 0; i < program->num_buckets; i++)
        for (uint32_t f = 0; f < program->buckets[i].num_fragments; f++)
            program->fragments[program->buckets[i].first_fragment + f].bucket = i;
}

/* List the fragments of each unit together. */
static weft_status_t index_inputs(weft_program_t *program)
{
    uint32_t total = 0;
    program->inputs = calloc(program->num_fragments + 1, sizeof *program->inputs);
    if (!program->inputs)
        return WEFT_ERR_NO_MEMORY;
    for (size_t i = 0; i < program->num_fragments; i++)
        if (program->fragments[i].kind != WEFT_PIECE_DIGEST)
            program->units[program->fragments[i].unit].num_inputs++;
    for (size_t u = 0; u < program->num_units; u++) {
        program->units[u].first_input = total;
        total += program->units[u].num_inputs;
        program->units[u].num_inputs = 0;
    }
    for (size_t i = 0; i < program->num_fragments; i++) {
        if (program->fragments[i].kind == WEFT_PIECE_DIGEST)
            continue;
        weft_unit_t *unit = &program->units[program->fragments[i].unit];
        program->inputs[unit->first_input + unit->num_inputs++] = (uint32_t)i;
    }
    return WEFT_OK;
}

static weft_status_t find_my_sets(builder_t *b)
{
    if (b->program->is_trainer)
        return WEFT_OK;
    b->my_sets = calloc(b->plan->sets.count + 1, sizeof *b->my_sets);
    if (!b->my_sets)
        return WEFT_ERR_NO_MEMORY;
    for (size_t i = 0; i < b->plan->sets.count; i++)
        b->my_sets[i] = weft_set_has(&b->plan->sets.items[i], b->program->tp_rank);
    return WEFT_OK;
}

/* Note the sizes of the round's buckets, and forget it. */
static weft_status_t keep_sizes(builder_t *b)
{
    for (size_t i = 0; i < b->buckets.count; i++)
        if (!WEFT_ARRAY_PUSH(&b->sizes, b->buckets.items[i].bytes))
            return WEFT_ERR_NO_MEMORY;
    b->buckets.count = b->fragments.count = 0;
    return WEFT_OK;
}

static weft_status_t build(builder_t *b)
{
    weft_program_t *program = b->program;
    weft_status_t status = find_my_sets(b);
    for (uint32_t round = 0; round < b->plan->num_rounds && status == WEFT_OK; round++) {
        status = build_round(b, round);
        if (status == WEFT_OK && b->only_sizes)
            status = keep_sizes(b);
    }
    program->buckets = b->buckets.items;
    program->num_buckets = b->buckets.count;
    program->fragments = b->fragments.items;
    program->num_fragments = b->fragments.count;
    program->units = b->units.items;
    program->num_units = b->units.count;
    program->domains = b->domains.items;
    program->num_domains = b->domains.count;
    if (status != WEFT_OK)
        return status; /* half a round: its buckets are not what they say */
    number_buckets(program);
    return program->is_trainer ? WEFT_OK : index_inputs(program);
}

static void free_builder(builder_t *b)
{
    for (size_t i = 0; b->lists && i < b->plan->routes.count; i++) {
        free(b->lists[i].fragments.items);
        free(b->lists[i].runs.items);
    }
    free(b->lists);
    free(b->my_sets);
    free(b->set_ranks);
}

static weft_status_t create(builder_t *b, const weft_plan_t *plan, uint32_t rank,
                            const weft_outputs_t *outputs, weft_program_t **program)
{
    weft_program_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    uint32_t trainers = plan->trainer->num_ranks;
    *made = (weft_program_t){
        .plan = plan,
        .rank = rank,
        .is_trainer = rank < trainers,
        .replica = rank < trainers ? 0 : (rank - trainers) / plan->rollout->tp,
        .tp_rank = rank < trainers ? 0 : (rank - trainers) % plan->rollout->tp,
        .num_rounds = plan->num_rounds,
        .rounds = calloc(plan->num_rounds, sizeof *made->rounds),
        .layer_units = calloc((size_t)plan->layers->count + 1, sizeof *made->layer_units),
    };
    b->plan = plan;
    b->outputs = outputs;
    b->program = made;
    b->lists = calloc(plan->routes.count + 1, sizeof *b->lists);
    b->set_ranks = calloc(plan->rollout->num_ranks, sizeof *b->set_ranks);
    bool ready = made->rounds && made->layer_units && b->lists && b->set_ranks;
    weft_status_t status = ready ? build(b) : WEFT_ERR_NO_MEMORY;
    free_builder(b);
    if (status != WEFT_OK) {
        weft_program_destroy(made);
        return status;
    }
    *program = made;
    return WEFT_OK;
}

weft_status_t weft_program_create(const weft_plan_t *plan, uint32_t rank, const weft_outputs_t *outputs,
                                  weft_program_t **program)
{
    builder_t b = {0};
    return create(&b, plan, rank, outputs, program);
}

static int compare_sizes(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

weft_status_t weft_program_messages(const weft_plan_t *plan, uint32_t rank, weft_messages_t *messages)
{
    builder_t b = {.only_sizes = true};
    weft_program_t *empty = NULL;
    weft_status_t status = create(&b, plan, rank, NULL, &empty);
    weft_program_destroy(empty);
    if (status == WEFT_OK) {
        size_t count = b.sizes.count;
        *messages = (weft_messages_t){.rank = rank, .count = count};
        if (count) {
            qsort(b.sizes.items, count, sizeof *b.sizes.items, compare_sizes);
            messages->min_bytes = b.sizes.items[0];
            messages->median_bytes = b.sizes.items[count / 2];
            messages->max_bytes = b.sizes.items[count - 1];
        }
    }
    WEFT_ARRAY_FREE(&b.sizes);
    return status;
}

void weft_program_destroy(weft_program_t *program)
{
    if (!program)
        return;
    free(program->rounds);
    free(program->buckets);
    free(program->fragments);
    free(program->units);
    free(program->domains);
    free(program->inputs);
    free(program->layer_units);
    free(program);
}
