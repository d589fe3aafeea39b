/* The property that everything rests on: whatever the model, the layouts, the scheme and the budget, the
 * programs of all ranks together put each element where the engine wants it, once, and nothing else travels.
 *
 * Random jobs are planned and their buckets packed from shards full of unlike numbers; what arrives is
 * compared with slices of the whole tensors, taken as tests/support/checkpoint.h describes them. */
#include "tests/support/world.h"

#define MOST_RANKS 64

/* ---- A random job ---- */

typedef struct job {
    checkpoint_t cp;
    char trainer[64], rollout[32];
    const char *scheme;
    weft_plan_options_t options;
    bool tightest;
} job_t;

/* No more pipeline stages than blocks, and no more places than experts: test_misfit.c has those. */
static void random_trainer(random_t *random, const checkpoint_t *cp, char text[64])
{
    const char *axes[] = {"fsdp", "tp", "dp", "pp", "ep"};
    const uint32_t largest[] = {8, 8, 8, cp->blocks,
                                cp->experts && cp->dense_blocks < cp->blocks ? cp->experts : 1};
    uint32_t order[] = {0, 1, 2, 3, 4}, ranks = 1, factors = random_in(random, 1, 3);
    random_shuffle(random, order, 5);
    text[0] = '\0';
    for (uint32_t i = 0; i < factors; i++) {
        uint32_t most = largest[order[i]] < 8 / ranks ? largest[order[i]] : 8 / ranks,
                 size = random_in(random, 1, most);
        ranks *= size;
        sprintf(text + strlen(text), "%s%s:%u", i ? "," : "", axes[order[i]], size);
    }
}

static void random_job(random_t *random, job_t *job)
{
    const char *schemes[] = {"bf16", "fp8-channel", "fp8-block", "fp8-tensor"};
    job->scheme = schemes[random_in(random, 0, 3)];
    checkpoint_random(random, strcmp(job->scheme, "fp8-block") == 0, true, &job->cp);
    random_trainer(random, &job->cp, job->trainer);
    sprintf(job->rollout, "tp:%u", RANDOM_OF(random, 1, 1, 2, 2, 2, 4, 4, 8, 3, 5, 6, 7));
    if (random_once_in(random, 2))
        sprintf(job->rollout + strlen(job->rollout), "x%u", random_in(random, 1, 3));
    if (random_once_in(random, 3))
        strcat(job->rollout, ",ep");
    job->options = WEFT_PLAN_OPTIONS;
    job->options.max_groups = RANDOM_OF(random, 0, 16, 16);
    job->options.max_bucket_bytes = RANDOM_OF(random, 64u << 20, 4096, 40000, 1000000);
    job->tightest = random_once_in(random, 3);
}

/* The job at hand, for the teardown to print: an assertion that fails does not come back. */
static char job_text[512];

static void describe_job(uint32_t index, const job_t *job)
{
    const checkpoint_t *cp = &job->cp;
    snprintf(job_text, sizeof job_text,
             "case %u: %s %s hidden %u heads %u/%u of %u mlp %u vocab %u%s experts %u of %u%s, %s to %s, %s, "
             "buckets of %u, groups %u%s\n",
             index, cp->type, weft_dtype_name(cp->dtype), cp->hidden, cp->heads, cp->kv_heads, cp->head_dim,
             cp->mlp, cp->vocab, cp->tied ? " tied" : "", cp->experts, cp->expert_mlp,
             cp->biased ? " biased" : "", job->trainer, job->rollout, job->scheme,
             job->options.max_bucket_bytes, job->options.max_groups, job->tightest ? ", least budget" : "");
}

static int print_last_job(void **state)
{
    (void)state;
    print_message("last %s", job_text);
    return 0;
}

/* ---- Which jobs fit ---- */

/* The rule of docs/numerics.md: cuts on multiples of 128; only the end of an unsplit K, or of the last part
 * when its rows are unsplit, may be ragged. */
static bool blocks_fit(const source_t *s, uint32_t tp, bool whole, bool last)
{
    uint32_t rows;
    weft_rect_t box = engine_slice(s, tp, 0, whole, &rows);
    bool rows_fit = rows % 128 == 0 || (last && rows == s->rows);
    return rows_fit && (box.cols % 128 == 0 || box.cols == s->cols);
}

static bool output_fits(const job_t *job, const output_t *output, uint32_t trainer_tp, uint32_t tp, bool ep)
{
    bool whole = ep && output->num_experts;
    if (whole && output->num_experts < tp)
        return false;
    for (uint32_t p = 0; p < output->num_parts; p++) {
        const source_t *s = &job->cp.sources[output->first_source + p];
        if (!source_divides(s, trainer_tp))
            return false;
        if (!whole && s->slice != SLICE_VOCAB && !source_divides(s, tp))
            return false;
        bool blocks = output->quantized && strcmp(job->scheme, "fp8-block") == 0;
        if (blocks && !blocks_fit(s, tp, whole, p + 1 == output->num_parts))
            return false;
    }
    return true;
}

static bool job_fits(const job_t *job)
{
    uint32_t trainer_tp, tp = (uint32_t)strtoul(job->rollout + 3, NULL, 10);
    trainer_place(job->trainer, "tp", 0, &trainer_tp);
    for (uint32_t i = 0; i < job->cp.num_outputs; i++)
        if (!output_fits(job, &job->cp.outputs[i], trainer_tp, tp, strstr(job->rollout, ",ep") != NULL))
            return false;
    return true;
}

/* Plan under a random budget, in one of three jobs the least there is; NULL when the layouts do not fit. */
static world_t *plan_job(random_t *random, job_t *job)
{
    weft_error_t error;
    weft_plan_summary_t summary;
    world_t *w = world_try(&job->cp, job->trainer, job->rollout, job->scheme, &job->options, &error);
    if (!w) {
        if (error.status != WEFT_ERR_MISFIT || job_fits(job))
            fail_msg("%s", error.message);
        return NULL;
    }
    if (!job_fits(job))
        fail_msg("a misfit was planned");
    weft_plan_summarize(w->plan, &summary);
    world_destroy(w);
    job->options.budget_bytes = summary.least_budget_bytes;
    if (!job->tightest)
        job->options.budget_bytes += random_u64(random) % (6 * summary.least_budget_bytes);
    return world_create(&job->cp, job->trainer, job->rollout, job->scheme, &job->options);
}

/* ---- The order of buckets: run all ranks at once, each waiting for its next bucket ---- */

static bool is_at(const world_t *w, uint32_t rank, size_t place, const weft_bucket_t *bucket)
{
    const weft_program_t *program = w->programs[rank];
    return place < program->num_buckets && program->buckets[place].route == bucket->route &&
           program->buckets[place].sequence == bucket->sequence;
}

static void compare_buckets(const world_t *w, const weft_bucket_t *sent, uint32_t rank, size_t place)
{
    const weft_program_t *from = w->programs[sent->source], *to = w->programs[rank];
    const weft_bucket_t *got = &to->buckets[place];
    assert_int_equal(got->round, sent->round);
    assert_int_equal(got->source, sent->source);
    assert_int_equal(got->set, sent->set);
    assert_int_equal(got->relay, sent->relay);
    assert_int_equal(got->bytes, sent->bytes);
    assert_int_equal(got->payload_bytes, sent->payload_bytes);
    assert_int_equal(got->contiguous, sent->contiguous);
    assert_int_equal(got->num_fragments, sent->num_fragments);
    for (uint32_t i = 0; i < sent->num_fragments; i++) {
        const weft_fragment_t *a = &from->fragments[sent->first_fragment + i];
        const weft_fragment_t *b = &to->fragments[got->first_fragment + i];
        assert_int_equal(b->kind, a->kind);
        assert_int_equal(b->tensor, a->tensor);
        assert_true(weft_rect_equal(b->rect, a->rect));
        assert_int_equal(b->to_row, a->to_row);
        assert_int_equal(b->to_col, a->to_col);
        assert_int_equal(b->offset, a->offset);
        assert_int_equal(b->bytes, a->bytes);
        assert_int_equal(b->bucket, place);
    }
}

static void check_relay(const world_t *w, const weft_bucket_t *bucket, const uint32_t *members,
                        uint32_t count)
{
    bool member = false;
    for (uint32_t i = 0; i < count; i++)
        member |= members[i] == bucket->relay;
    if (w->plan->relay)
        assert_true(member);
    else
        assert_int_equal(bucket->relay, bucket->source);
}

/* Post the trainer's next bucket if every member of its set stands before it too. */
static bool post_bucket(const world_t *w, uint32_t trainer, size_t *places)
{
    uint32_t members[MOST_RANKS];
    if (places[trainer] == w->programs[trainer]->num_buckets)
        return false;
    const weft_bucket_t *bucket = &w->programs[trainer]->buckets[places[trainer]];
    assert_int_equal(bucket->source, trainer);
    uint32_t count = weft_set_ranks(w->plan, bucket->set, members);
    for (uint32_t i = 0; i < count; i++)
        if (!is_at(w, members[i], places[members[i]], bucket))
            return false;
    check_relay(w, bucket, members, count);
    for (uint32_t i = 0; i < count; i++)
        compare_buckets(w, bucket, members[i], places[members[i]]++);
    places[trainer]++;
    return true;
}

/* Buckets are posted in order and each waits for all its ranks: everyone must come to the end. */
static void check_order(const world_t *w)
{
    size_t places[MOST_RANKS] = {0};
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t t = 0; t < w->num_trainers; t++)
            while (post_bucket(w, t, places))
                moved = true;
    }
    for (uint32_t rank = 0; rank < w->num_ranks; rank++)
        assert_int_equal(places[rank], w->programs[rank]->num_buckets);
}

/* ---- Staging ---- */

static void check_slots(const world_t *w, const weft_program_t *program)
{
    for (uint32_t r = 0; r < program->num_rounds; r++) {
        const weft_round_t *round = &program->rounds[r];
        uint64_t end = 0;
        for (uint32_t b = round->first_bucket; b < round->first_bucket + round->num_buckets; b++) {
            assert_int_equal(program->buckets[b].round, r);
            assert_true(program->buckets[b].slot >= end &&
                        program->buckets[b].slot % WEFT_FRAGMENT_ALIGN == 0);
            end = program->buckets[b].slot + program->buckets[b].bytes;
        }
        assert_true(end <= round->slot_bytes && round->slot_bytes <= program->slot_bytes);
        assert_true(round->amax_rows <= program->amax_rows);
    }
    assert_true(program->slot_bytes <= w->plan->round_bytes);
    assert_true(program->amax_rows <= w->plan->amax_round_rows);
    uint64_t table = ((uint64_t)program->amax_rows * 2 + 255) / 256 * 256;
    assert_true(2 * program->slot_bytes + 3 * table <= w->plan->options.budget_bytes);
}

static void check_bucket_sizes(const world_t *w, const weft_program_t *program)
{
    for (size_t b = 0; b < program->num_buckets; b++) {
        const weft_bucket_t *bucket = &program->buckets[b];
        assert_true(bucket->num_fragments > 0 && bucket->bytes >= bucket->payload_bytes);
        assert_true(bucket->bytes <= w->plan->options.budget_bytes / 2);
        assert_true(bucket->bytes <= w->plan->options.max_bucket_bytes || bucket->num_fragments == 1);
        assert_true(bucket->bytes <= program->largest_bucket);
    }
}

/* ---- What arrives ---- */

/* The outputs of one rollout rank, an element of the source's bits at each place; and how often it was
 * written. */
typedef struct received {
    uint32_t **elements;
    uint8_t **writes;
} received_t;

static uint64_t output_elems(const weft_output_t *output)
{
    return output->bytes / weft_dtype_bytes(output->dtype);
}

static received_t make_received(const weft_outputs_t *outputs)
{
    received_t got = {calloc(outputs->count, sizeof(uint32_t *)), calloc(outputs->count, sizeof(uint8_t *))};
    for (uint32_t i = 0; i < outputs->count; i++) {
        got.elements[i] = calloc(output_elems(&outputs->items[i]), sizeof(uint32_t));
        got.writes[i] = calloc(output_elems(&outputs->items[i]), 1);
    }
    return got;
}

static void free_received(received_t *got, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(got->elements[i]);
        free(got->writes[i]);
    }
    free(got->elements);
    free(got->writes);
}

/* Where a unit begins in its layer's weight, in elements. */
static uint64_t unit_place(const weft_outputs_t *outputs, const weft_unit_t *unit, uint32_t *index)
{
    *index = outputs->layers[unit->layer].weight;
    const weft_output_t *output = &outputs->items[*index];
    assert_true(unit->weight_offset >= output->offset);
    uint64_t bytes = unit->weight_offset - output->offset;
    assert_int_equal(bytes % weft_dtype_bytes(output->dtype), 0);
    return bytes / weft_dtype_bytes(output->dtype);
}

static void take_element(received_t *got, const weft_outputs_t *outputs, const weft_unit_t *unit,
                         uint32_t row, uint32_t col, uint32_t bits)
{
    uint32_t index;
    uint64_t at = unit_place(outputs, unit, &index) + (uint64_t)row * unit->cols + col;
    assert_true(row < unit->rows && col < unit->cols);
    assert_true(at < output_elems(&outputs->items[index]));
    got->elements[index][at] = bits;
    got->writes[index][at]++;
}

static void take_data(const world_t *w, const weft_program_t *program, const weft_fragment_t *f,
                      const uint8_t *bytes, received_t *got)
{
    weft_dtype_t dtype = weft_model_tensor(w->model, f->tensor)->dtype;
    const weft_unit_t *unit = &program->units[f->unit];
    const weft_outputs_t *outputs = &w->outputs[program->tp_rank];
    assert_int_equal(f->bytes, weft_rect_area(f->rect) * weft_dtype_bytes(dtype));
    for (uint32_t r = 0; r < f->rect.rows; r++)
        for (uint32_t c = 0; c < f->rect.cols; c++) {
            const uint8_t *at = bytes + ((uint64_t)r * f->rect.cols + c) * weft_dtype_bytes(dtype);
            take_element(got, outputs, unit, f->to_row + r, f->to_col + c, read_element(at, dtype));
        }
}

static void take_padding(const world_t *w, const weft_program_t *program, received_t *got)
{
    for (size_t u = 0; u < program->num_units; u++) {
        const weft_unit_t *unit = &program->units[u];
        for (uint32_t r = unit->real_rows; r < unit->rows; r++)
            for (uint32_t c = 0; c < unit->cols; c++)
                take_element(got, &w->outputs[program->tp_rank], unit, r, c, 0);
    }
}

/* The row of the layer's whole tensor that a unit starts at: layers with amax have one part and uncut rows.
 */
static const source_t *amax_source(const world_t *w, const weft_program_t *program, const weft_unit_t *unit,
                                   uint32_t *source, uint32_t *row)
{
    const weft_outputs_t *outputs = &w->outputs[program->tp_rank];
    uint32_t index;
    uint64_t flat = unit_place(outputs, unit, &index) / unit->cols;
    const output_t *output = find_output(w->cp, outputs->items[index].name);
    assert_int_equal(output->num_parts, 1);
    const source_t *first = &w->cp->sources[output->first_source];
    *source = output->first_source + (uint32_t)(flat / first->rows);
    *row = (uint32_t)(flat % first->rows);
    return &w->cp->sources[*source];
}

/* What all amax vectors of a unit fold to is the amax of whole rows. */
static void check_amax(const world_t *w, const weft_program_t *program, const weft_unit_t *unit)
{
    uint16_t folded[WEFT_UNIT_ROWS] = {0};
    uint32_t source, first_row, round = UINT32_MAX;
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &program->fragments[program->inputs[unit->first_input + i]];
        const weft_bucket_t *bucket = &program->buckets[f->bucket];
        const uint16_t *sent =
            (const uint16_t *)(w->packed[bucket->source][sent_bucket(w, bucket)] + f->offset);
        if (f->kind == WEFT_PIECE_DATA)
            round = bucket->round;
        for (uint32_t r = 0; f->kind == WEFT_PIECE_AMAX && r < f->rect.rows; r++)
            folded[f->to_row + r] = sent[r] > folded[f->to_row + r] ? sent[r] : folded[f->to_row + r];
    }
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &program->fragments[program->inputs[unit->first_input + i]];
        assert_int_equal(program->buckets[f->bucket].round + (f->kind == WEFT_PIECE_AMAX), round);
    }
    const source_t *s = amax_source(w, program, unit, &source, &first_row);
    for (uint32_t r = 0; r < unit->rows; r++) {
        uint16_t expected = 0;
        for (uint32_t c = 0; c < s->cols; c++) {
            uint64_t flat = (uint64_t)(first_row + r) * s->cols + c;
            uint16_t magnitude = element_magnitude(w->element(source, flat, s->dtype), s->dtype);
            expected = magnitude > expected ? magnitude : expected;
        }
        assert_int_equal(folded[r], expected);
    }
}

/* What all amax vectors of a domain fold to is the amax of all parts of the layer, or of the expert. */
static void check_domain(const world_t *w, const weft_program_t *program, const weft_unit_t *first)
{
    uint16_t folded = 0, expected = 0;
    for (uint32_t i = 0; i < first->num_inputs; i++) {
        const weft_fragment_t *f = &program->fragments[program->inputs[first->first_input + i]];
        const weft_bucket_t *bucket = &program->buckets[f->bucket];
        const uint16_t *sent =
            (const uint16_t *)(w->packed[bucket->source][sent_bucket(w, bucket)] + f->offset);
        for (uint32_t r = 0; f->kind == WEFT_PIECE_AMAX && r < f->rect.rows; r++)
            folded = sent[r] > folded ? sent[r] : folded;
    }
    const weft_outputs_t *outputs = &w->outputs[program->tp_rank];
    const weft_layer_outputs_t *layer = &outputs->layers[first->layer];
    const weft_output_t *weight = &outputs->items[layer->weight];
    const output_t *output = find_output(w->cp, weight->name);
    uint32_t held, expert = (uint32_t)((first->weight_offset - weight->offset) / ((uint64_t)layer->rows * layer->cols));
    (void)engine_experts(output, w->tp, program->tp_rank, w->rollout->ep, &held);
    for (uint32_t p = 0; p < output->num_parts; p++) {
        uint32_t source = output->first_source + (held + expert) * output->num_parts + p;
        const source_t *s = &w->cp->sources[source];
        for (uint64_t flat = 0; flat < (uint64_t)s->rows * s->cols; flat++) {
            uint16_t magnitude = element_magnitude(w->element(source, flat, s->dtype), s->dtype);
            expected = magnitude > expected ? magnitude : expected;
        }
    }
    assert_int_equal(folded, expected);
}

static bool wants_amax(const world_t *w, const output_t *output)
{
    bool whole = w->rollout->ep && output->num_experts;
    return strcmp(weft_plan_scheme(w->plan), "fp8-channel") == 0 && output->quantized && w->tp > 1 &&
           !whole && w->cp->sources[output->first_source].slice == SLICE_COLS;
}

static bool spans(const world_t *w, const output_t *output)
{
    return strcmp(weft_plan_scheme(w->plan), "fp8-tensor") == 0 && output->quantized;
}

static void check_units(const world_t *w, const weft_program_t *program)
{
    const weft_outputs_t *outputs = &w->outputs[program->tp_rank];
    for (size_t u = 0; u < program->num_units; u++) {
        const weft_unit_t *unit = &program->units[u];
        const weft_layer_outputs_t *layer = &outputs->layers[unit->layer];
        const weft_output_t *weight = &outputs->items[layer->weight];
        assert_true(unit->rows > 0 && unit->rows <= WEFT_UNIT_ROWS && unit->real_rows <= unit->rows);
        assert_int_equal(unit->amax_row != UINT32_MAX, wants_amax(w, find_output(w->cp, weight->name)));
        if (unit->amax_row != UINT32_MAX)
            check_amax(w, program, unit);
        assert_int_equal(unit->domain != UINT32_MAX, spans(w, find_output(w->cp, weight->name)));
        if (unit->domain == UINT32_MAX)
            continue;
        const weft_domain_t *domain = &program->domains[unit->domain];
        assert_in_range(u, domain->first_unit, domain->first_unit + domain->num_units - 1);
        assert_int_equal(unit->layer, program->units[domain->first_unit].layer);
        if (u == domain->first_unit)
            check_domain(w, program, unit);
    }
}

/* The scale of a unit belongs to the unit's rows. */
static void check_scales(const world_t *w, const weft_program_t *program)
{
    const weft_outputs_t *outputs = &w->outputs[program->tp_rank];
    for (size_t u = 0; u < program->num_units; u++) {
        const weft_unit_t *unit = &program->units[u];
        const weft_layer_outputs_t *layer = &outputs->layers[unit->layer];
        uint32_t index;
        uint64_t row = unit_place(outputs, unit, &index) / unit->cols;
        if (layer->scale == UINT32_MAX) {
            assert_true(unit->scale_offset == UINT64_MAX);
            continue;
        }
        uint64_t place = row;
        if (strcmp(weft_plan_pattern(w->plan, unit->layer)->scheme->name, "fp8-block") == 0) {
            uint64_t blocks = (layer->rows + 127) / 128;
            place = (row / layer->rows * blocks + row % layer->rows / 128) * ((unit->cols + 127) / 128);
            assert_int_equal(row % layer->rows % 128, 0);
        }
        if (unit->domain != UINT32_MAX) { /* one of its units writes it */
            bool first = u == program->domains[unit->domain].first_unit;
            assert_int_equal(unit->scale_offset != UINT64_MAX, first);
            if (!first)
                continue;
            place = row / layer->rows;
        }
        assert_true(unit->scale_offset == outputs->items[layer->scale].offset + place * sizeof(float));
    }
}

/* ---- What should have arrived ---- */

/* Compare one part of one expert with its slice of the source; returns the elements it has, padding included.
 */
static uint64_t compare_part(const world_t *w, uint32_t source, uint32_t tp_rank, bool whole,
                             const uint32_t *elements, const uint8_t *writes)
{
    const source_t *s = &w->cp->sources[source];
    uint32_t rows;
    weft_rect_t box = engine_slice(s, w->tp, tp_rank, whole, &rows);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < box.cols; c++) {
            uint64_t flat = (uint64_t)(box.row + r) * s->cols + box.col + c, at = (uint64_t)r * box.cols + c;
            uint32_t expected = r < box.rows ? w->element(source, flat, s->dtype) : 0;
            if (elements[at] != expected || writes[at] != 1)
                fail_msg("%s, rank %u, row %u, column %u: found %x written %u times, expected %x once",
                         s->name, tp_rank, r, c, elements[at], writes[at], expected);
        }
    return (uint64_t)rows * box.cols;
}

static void compare_outputs(const world_t *w, uint32_t tp_rank, const received_t *got)
{
    const weft_outputs_t *outputs = &w->outputs[tp_rank];
    for (uint32_t i = 0; i < w->cp->num_outputs; i++) {
        uint32_t first, index = outputs->layers[i].weight;
        const output_t *output = &w->cp->outputs[i];
        bool whole = w->rollout->ep && output->num_experts;
        uint32_t experts = engine_experts(output, w->tp, tp_rank, w->rollout->ep, &first);
        uint64_t at = 0;
        assert_string_equal(outputs->items[index].name, output->name);
        for (uint32_t p = 0; p < experts * output->num_parts; p++)
            at += compare_part(w, output->first_source + first * output->num_parts + p, tp_rank, whole,
                               got->elements[index] + at, got->writes[index] + at);
        assert_int_equal(at, output_elems(&outputs->items[index]));
    }
}

static void check_arrivals(const world_t *w, const weft_program_t *program)
{
    const weft_outputs_t *outputs = &w->outputs[program->tp_rank];
    received_t got = make_received(outputs);
    for (size_t b = 0; b < program->num_buckets; b++) {
        const weft_bucket_t *bucket = &program->buckets[b];
        const uint8_t *bytes = w->packed[bucket->source][sent_bucket(w, bucket)];
        for (uint32_t i = 0; i < bucket->num_fragments; i++) {
            const weft_fragment_t *f = &program->fragments[bucket->first_fragment + i];
            if (f->kind == WEFT_PIECE_DATA)
                take_data(w, program, f, bytes + f->offset, &got);
        }
    }
    take_padding(w, program, &got);
    compare_outputs(w, program->tp_rank, &got);
    free_received(&got, outputs->count);
}

/* ---- What travelled ---- */

/* Into how many runs trainers and ranks together cut a row: both cut evenly. */
static uint32_t row_pieces(const world_t *w, const source_t *s, bool whole, uint32_t slices)
{
    uint32_t a = slices, b = whole ? 1 : w->tp, both = 0;
    for (uint32_t i = 1; i <= a && i <= b; i++)
        both = a % i == 0 && b % i == 0 ? i : both;
    return s->slice == SLICE_COLS ? a + b - both : 1;
}

/* Bytes of sources that a TP rank needs, and of the amax vectors that come with them: one number of two bytes
 * for each row and each trainer slice of it; of a scale that spans tensors, for each run of each row. */
static uint64_t needed_bytes(const world_t *w, uint32_t tp_rank)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < w->cp->num_outputs; i++) {
        const output_t *output = &w->cp->outputs[i];
        uint32_t first, padded, slices;
        uint32_t experts = engine_experts(output, w->tp, tp_rank, w->rollout->ep, &first);
        trainer_place(w->trainer->text, "tp", 0, &slices);
        for (uint32_t p = 0; p < experts * output->num_parts; p++) {
            const source_t *s = &w->cp->sources[output->first_source + first * output->num_parts + p];
            weft_rect_t box = engine_slice(s, w->tp, tp_rank, w->rollout->ep && output->num_experts, &padded);
            bytes += weft_rect_area(box) * weft_dtype_bytes(s->dtype);
            bytes += wants_amax(w, output) ? (uint64_t)s->rows * slices * 2 : 0;
            bool whole = w->rollout->ep && output->num_experts;
            bytes += spans(w, output) ? (uint64_t)s->rows * row_pieces(w, s, whole, slices) * 2 : 0;
        }
    }
    return bytes;
}

/* Count how often each element of each tensor leaves a trainer: once for every output it is part of. */
static void check_departures(const world_t *w)
{
    for (uint32_t tensor = 0; tensor < w->num_tensors; tensor++) {
        const source_t *s = &w->cp->sources[w->tensor_source[tensor]];
        uint8_t *left = calloc((size_t)s->rows * s->cols, 1);
        for (uint32_t rank = 0; rank < w->num_trainers; rank++)
            for (size_t i = 0; i < w->programs[rank]->num_fragments; i++) {
                const weft_fragment_t *f = &w->programs[rank]->fragments[i];
                if (f->kind != WEFT_PIECE_DATA || f->tensor != tensor)
                    continue;
                weft_rect_t held = trainer_box(s, w->trainer->text, rank);
                assert_true(weft_rect_equal(weft_rect_intersect(held, f->rect), f->rect));
                for (uint32_t r = 0; r < f->rect.rows; r++)
                    for (uint32_t c = 0; c < f->rect.cols; c++)
                        left[(size_t)(f->rect.row + r) * s->cols + f->rect.col + c]++;
            }
        uint8_t times = w->cp->tied && w->tensor_source[tensor] == 0 ? 2 : 1;
        for (size_t i = 0; i < (size_t)s->rows * s->cols; i++)
            if (left[i] != times)
                fail_msg("%s: element %zu leaves the trainers %u times, not %u", s->name, i, left[i], times);
        free(left);
    }
}

static void check_payload(const world_t *w)
{
    uint64_t needed = 0, sent = 0, most = 0;
    weft_plan_summary_t summary;
    weft_plan_summarize(w->plan, &summary);
    for (uint32_t rank = 0; rank < w->num_trainers; rank++)
        sent += w->programs[rank]->payload_bytes;
    for (uint32_t rank = w->num_trainers; rank < w->num_ranks; rank++) {
        uint64_t mine = needed_bytes(w, w->programs[rank]->tp_rank);
        assert_true(w->programs[rank]->payload_bytes == mine);
        needed += mine;
        most = mine > most ? mine : most;
    }
    assert_true(summary.needed_bytes_total == needed);
    assert_true(summary.ingress_bytes_max == most);
    assert_true(summary.egress_bytes_total == sent);
    assert_true(summary.unique_bytes_total <= sent && (w->tp > 1 || strcmp(weft_plan_scheme(w->plan), "fp8-tensor") == 0 ||
                                                     summary.unique_bytes_total == sent));
}

/* A contiguous bucket really is one run of the shard's memory, wherever the shard's rows touch each other. */
static uint32_t check_in_place(const world_t *w, uint32_t trainer)
{
    const weft_program_t *program = w->programs[trainer];
    uint32_t found = 0;
    for (size_t b = 0; b < program->num_buckets; b++) {
        const weft_bucket_t *bucket = &program->buckets[b];
        const weft_fragment_t *f = &program->fragments[bucket->first_fragment];
        const weft_shard_t *shard = &trainer_shards(w, trainer)[f->tensor];
        if (!bucket->contiguous || shard->ld_elems != shard->box.cols)
            continue;
        size_t element = weft_dtype_bytes(weft_model_tensor(w->model, f->tensor)->dtype);
        size_t start =
            (size_t)(f->rect.row - shard->box.row) * shard->ld_elems + f->rect.col - shard->box.col;
        assert_memory_equal(shard->data + start * element, w->packed[trainer][b], bucket->bytes);
        assert_int_equal(bucket->bytes, bucket->payload_bytes);
        found++;
    }
    return found;
}

/* ---- The tests ---- */

static uint32_t check_world(world_t *w, random_t *random)
{
    uint32_t in_place = 0;
    assert_true(w->num_ranks <= MOST_RANKS);
    world_fill(w, element_id, random);
    world_pack(w);
    check_order(w);
    check_departures(w);
    check_payload(w);
    for (uint32_t rank = 0; rank < w->num_ranks; rank++)
        check_bucket_sizes(w, w->programs[rank]);
    for (uint32_t rank = 0; rank < w->num_trainers; rank++)
        in_place += check_in_place(w, rank);
    for (uint32_t rank = w->num_trainers; rank < w->num_ranks; rank++) {
        check_slots(w, w->programs[rank]);
        check_units(w, w->programs[rank]);
        check_scales(w, w->programs[rank]);
        if (w->programs[rank]->replica == 0) /* others have the same buckets, which check_order has seen */
            check_arrivals(w, w->programs[rank]);
    }
    return in_place;
}

static void test_random_jobs(void **state)
{
    (void)state;
    random_t base = random_begin("test_random_jobs");
    uint32_t first = (uint32_t)environment_number("WEFT_TEST_FIRST", 0), cases = random_cases(150),
             planned = 0;
    for (uint32_t i = first; i < first + cases; i++) {
        random_t random = random_case(&base, i);
        job_t job;
        do
            random_job(&random, &job);
        while (!job_fits(&job) && !random_once_in(&random, 20)); /* most should fit, and some not */
        describe_job(i, &job);
        world_t *w = plan_job(&random, &job);
        if (!w)
            continue;
        check_world(w, &random);
        planned++;
        world_destroy(w);
    }
    print_message("%u jobs planned, %u misfits refused\n", planned, cases - planned);
    assert_true(cases < 20 || planned > cases / 2);
}

static const checkpoint_t wide = {.type = "qwen3",
                                  .dtype = WEFT_DTYPE_F32,
                                  .hidden = 1024,
                                  .blocks = 1,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 32,
                                  .mlp = 2048,
                                  .vocab = 1500,
                                  .expert_mlp = 1};

/* Shards of megabytes, so that whole runs are sent from where they lie. */
static void test_large_runs_go_in_place(void **state)
{
    (void)state;
    random_t random = random_begin("test_large_runs_go_in_place");
    const char *trainers[] = {"fsdp:1", "fsdp:2", "tp:2", "dp:2"};
    checkpoint_t cp = wide;
    checkpoint_describe(&cp);
    for (unsigned i = 0; i < 4; i++) {
        world_t *w = world_create(&cp, trainers[i], "tp:1", "bf16", NULL);
        uint32_t in_place = check_world(w, i % 2 ? &random : NULL);
        if (i == 0)
            assert_true(in_place > 0);
        world_destroy(w);
    }
}

/* Parts of a vector layer lie one after the other: a qkv bias has no column in common. */
static void test_biases_of_unequal_parts(void **state)
{
    (void)state;
    const char *rollouts[] = {"tp:1", "tp:2", "tp:4"};
    for (unsigned i = 0; i < 3; i++) {
        checkpoint_t cp = {.type = "llama",
                           .dtype = WEFT_DTYPE_BF16,
                           .hidden = 32,
                           .blocks = 1,
                           .heads = 8,
                           .kv_heads = 2,
                           .head_dim = 8,
                           .mlp = 40,
                           .vocab = 70,
                           .expert_mlp = 1,
                           .biased = true};
        checkpoint_describe(&cp);
        world_t *w = world_create(&cp, "fsdp:3", rollouts[i], "fp8-channel", NULL);
        check_world(w, NULL);
        world_destroy(w);
    }
}

/* Each rank of a plan derives the same rounds, however it is asked. */
static void test_programs_are_repeatable(void **state)
{
    (void)state;
    checkpoint_t cp = wide;
    cp.hidden = 64, cp.mlp = 96;
    checkpoint_describe(&cp);
    world_t *a = world_create(&cp, "fsdp:3", "tp:2x2", "fp8-channel", NULL);
    world_t *b = world_create(&cp, "fsdp:3", "tp:2x2", "fp8-channel", NULL);
    weft_digest_t x = weft_plan_hash(a->plan), y = weft_plan_hash(b->plan);
    assert_memory_equal(&x, &y, sizeof x);
    for (uint32_t rank = 0; rank < a->num_ranks; rank++) {
        assert_int_equal(a->programs[rank]->num_buckets, b->programs[rank]->num_buckets);
        assert_true(a->programs[rank]->wire_bytes == b->programs[rank]->wire_bytes);
    }
    world_destroy(a);
    world_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_random_jobs, print_last_job),
        cmocka_unit_test(test_biases_of_unequal_parts),
        cmocka_unit_test(test_large_runs_go_in_place),
        cmocka_unit_test(test_programs_are_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
