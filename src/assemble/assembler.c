/* In: buckets as they arrive. Out: units that are complete, layers that are staged.
 * Invariant: a unit is handed out exactly once a version, and only when every fragment it needs has arrived.
 */
#include "src/assemble/assembler.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/base/log.h"

typedef struct unit_progress {
    uint32_t outstanding; /* fragments */
    weft_unit_state_t state;
} unit_progress_t;

typedef struct round_progress {
    uint32_t outstanding_buckets, outstanding_units;
} round_progress_t;

struct weft_assembler {
    const weft_program_t *program;
    const weft_log_t *log;
    const weft_selection_t *selection; /* NULL: the whole model */
    unit_progress_t *units;
    uint32_t *domains; /* [domains] fragments of amax outstanding; then its later units need one thing less */
    round_progress_t *rounds;
    bool *arrived;         /* [buckets] */
    uint32_t *layer_units; /* [layers]: units not yet staged */
    uint32_t *unit_round;  /* [units] */
    uint32_t *ready;       /* ring of complete units; each enters once, so a plain queue */
    size_t ready_head, ready_tail;
    uint32_t granted; /* rounds [0, granted) */
    uint32_t rounds_left, layers_staged;
};

static const char *const state_names[] = {"EMPTY", "FILLING", "COMPLETE", "STAGED"};

/* The only place where a unit changes state: forward by one, or over FILLING when a single fragment completes
 * it. */
static void set_state(weft_assembler_t *a, uint32_t unit, weft_unit_state_t next)
{
    unit_progress_t *progress = &a->units[unit];
    if (next <= progress->state)
        weft_log_line(a->log, WEFT_LOG_ERROR, "unit %u of layer %s goes from %s back to %s: a bug in weft",
                      unit, a->program->plan->layers->items[a->program->units[unit].layer].name,
                      state_names[progress->state], state_names[next]);
    progress->state = next;
    if (next == WEFT_UNIT_COMPLETE)
        a->ready[a->ready_tail++] = unit;
}

static bool allocate(weft_assembler_t *a)
{
    const weft_program_t *p = a->program;
    a->units = calloc(p->num_units + 1, sizeof *a->units);
    a->domains = calloc(p->num_domains + 1, sizeof *a->domains);
    a->rounds = calloc(p->num_rounds + 1, sizeof *a->rounds);
    a->arrived = calloc(p->num_buckets + 1, sizeof *a->arrived);
    a->layer_units = calloc((size_t)p->plan->layers->count + 1, sizeof *a->layer_units);
    a->unit_round = calloc(p->num_units + 1, sizeof *a->unit_round);
    a->ready = calloc(p->num_units + 1, sizeof *a->ready);
    return a->units && a->domains && a->rounds && a->arrived && a->layer_units && a->unit_round && a->ready;
}

weft_status_t weft_assembler_create(const weft_program_t *program, const weft_log_t *log,
                                    weft_assembler_t **assembler)
{
    weft_assembler_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->program = program;
    made->log = log;
    if (!allocate(made)) {
        weft_assembler_destroy(made);
        return WEFT_ERR_NO_MEMORY;
    }
    for (uint32_t r = 0; r < program->num_rounds; r++)
        for (uint32_t u = 0; u < program->rounds[r].num_units; u++)
            made->unit_round[program->rounds[r].first_unit + u] = r;
    weft_assembler_begin(made, NULL);
    *assembler = made;
    return WEFT_OK;
}

void weft_assembler_destroy(weft_assembler_t *a)
{
    if (!a)
        return;
    free(a->units);
    free(a->domains);
    free(a->rounds);
    free(a->arrived);
    free(a->layer_units);
    free(a->unit_round);
    free(a->ready);
    free(a);
}

/* Take off what the selection leaves out. */
static void leave_out(weft_assembler_t *a, const weft_selection_t *selection)
{
    const weft_program_t *p = a->program;
    for (uint32_t u = 0; u < p->num_units; u++) {
        if (selection->layers[p->units[u].layer])
            continue;
        a->units[u].state = WEFT_UNIT_STAGED;
        a->rounds[a->unit_round[u]].outstanding_units--;
    }
    for (size_t b = 0; b < p->num_buckets; b++)
        a->rounds[p->buckets[b].round].outstanding_buckets -= !selection->buckets[b];
    for (uint32_t i = 0; i < p->plan->layers->count; i++) {
        if (selection->layers[i])
            continue;
        a->layer_units[i] = 0;
        a->layers_staged++;
    }
}

/* The first unit of a domain has the fragments of its amax among its inputs; each other waits for all of them
 * as for one fragment. */
static void expect_domains(weft_assembler_t *a)
{
    const weft_program_t *p = a->program;
    for (size_t d = 0; d < p->num_domains; d++) {
        const weft_unit_t *first = &p->units[p->domains[d].first_unit];
        a->domains[d] = 0;
        for (uint32_t i = 0; i < first->num_inputs; i++)
            a->domains[d] += p->fragments[p->inputs[first->first_input + i]].kind == WEFT_PIECE_AMAX;
        for (uint32_t u = 1; u < p->domains[d].num_units; u++)
            a->units[p->domains[d].first_unit + u].outstanding++;
    }
}

void weft_assembler_begin(weft_assembler_t *a, const weft_selection_t *selection)
{
    const weft_program_t *p = a->program;
    a->selection = selection && !selection->whole ? selection : NULL;
    for (size_t u = 0; u < p->num_units; u++)
        a->units[u] = (unit_progress_t){p->units[u].num_inputs, WEFT_UNIT_EMPTY};
    expect_domains(a);
    for (uint32_t r = 0; r < p->num_rounds; r++)
        a->rounds[r] = (round_progress_t){p->rounds[r].num_buckets, p->rounds[r].num_units};
    memset(a->arrived, 0, p->num_buckets * sizeof *a->arrived);
    memcpy(a->layer_units, p->layer_units, p->plan->layers->count * sizeof *a->layer_units);
    a->ready_head = a->ready_tail = 0;
    a->granted = a->layers_staged = 0;
    a->rounds_left = p->num_rounds;
    if (a->selection)
        leave_out(a, a->selection);
}

static void finish_if_done(weft_assembler_t *a, uint32_t round)
{
    if (weft_assembler_round_done(a, round))
        a->rounds_left--;
}

void weft_assembler_grant(weft_assembler_t *a, uint32_t round)
{
    const weft_round_t *r = &a->program->rounds[round];
    a->granted = round + 1;
    for (uint32_t u = r->first_unit; u < r->first_unit + r->num_units; u++)
        if (a->units[u].outstanding == 0 && a->units[u].state < WEFT_UNIT_COMPLETE)
            set_state(a, u, WEFT_UNIT_COMPLETE);
    finish_if_done(a, round);
}

static weft_status_t refuse_bucket(const weft_assembler_t *a, const weft_bucket_t *bucket,
                                   weft_error_t *error)
{
    const weft_fragment_t *fragment = &a->program->fragments[bucket->first_fragment];
    bool twice = bucket->round < a->granted;
    return weft_fail(error, WEFT_ERR_PROTOCOL,
                     "rank %u: bucket %u of trainer %u (round %u, first tensor %s) %s", a->program->rank,
                     bucket->sequence, bucket->source, bucket->round,
                     fragment->kind == WEFT_PIECE_DIGEST
                         ? "of digests"
                         : weft_model_tensor(a->program->plan->model, fragment->tensor)->name,
                     twice ? "arrived twice" : "arrived before its round was granted");
}

/* One thing less that the unit waits for. */
static void take_one(weft_assembler_t *a, uint32_t index)
{
    unit_progress_t *unit = &a->units[index];
    unit->outstanding--;
    if (unit->outstanding == 0 && a->unit_round[index] < a->granted)
        set_state(a, index, WEFT_UNIT_COMPLETE);
    else if (unit->state == WEFT_UNIT_EMPTY && unit->outstanding > 0)
        set_state(a, index, WEFT_UNIT_FILLING);
}

static void take_fragment(weft_assembler_t *a, const weft_fragment_t *fragment)
{
    uint32_t domain = a->program->units[fragment->unit].domain;
    take_one(a, fragment->unit);
    if (fragment->kind != WEFT_PIECE_AMAX || domain == UINT32_MAX || --a->domains[domain] > 0)
        return;
    const weft_domain_t *d = &a->program->domains[domain];
    for (uint32_t u = 1; u < d->num_units; u++)
        take_one(a, d->first_unit + u);
}

weft_status_t weft_assembler_arrive(weft_assembler_t *a, uint32_t index, weft_error_t *error)
{
    const weft_bucket_t *bucket = &a->program->buckets[index];
    if (a->arrived[index] || bucket->round >= a->granted)
        return refuse_bucket(a, bucket, error);
    a->arrived[index] = true;
    for (uint32_t i = 0; i < bucket->num_fragments; i++) {
        const weft_fragment_t *fragment = &a->program->fragments[bucket->first_fragment + i];
        bool wanted = !a->selection || a->selection->layers[fragment->layer];
        if (fragment->kind != WEFT_PIECE_DIGEST && wanted)
            take_fragment(a, fragment);
    }
    a->rounds[bucket->round].outstanding_buckets--;
    finish_if_done(a, bucket->round);
    return WEFT_OK;
}

bool weft_assembler_next(weft_assembler_t *a, uint32_t *unit)
{
    if (a->ready_head == a->ready_tail)
        return false;
    *unit = a->ready[a->ready_head++];
    return true;
}

bool weft_assembler_next_is(const weft_assembler_t *a, uint32_t unit)
{
    return a->ready_head != a->ready_tail && a->ready[a->ready_head] == unit;
}

void weft_assembler_staged(weft_assembler_t *a, uint32_t unit, bool *layer_staged)
{
    uint32_t layer = a->program->units[unit].layer;
    set_state(a, unit, WEFT_UNIT_STAGED);
    *layer_staged = --a->layer_units[layer] == 0;
    a->layers_staged += *layer_staged;
    a->rounds[a->unit_round[unit]].outstanding_units--;
    finish_if_done(a, a->unit_round[unit]);
}

bool weft_assembler_round_done(const weft_assembler_t *a, uint32_t round)
{
    return round < a->granted && a->rounds[round].outstanding_buckets == 0 &&
           a->rounds[round].outstanding_units == 0;
}

bool weft_assembler_done(const weft_assembler_t *a)
{
    return a->rounds_left == 0;
}

bool weft_assembler_missing(const weft_assembler_t *a, uint32_t *bucket)
{
    for (uint32_t r = 0; r < a->granted; r++) {
        const weft_round_t *round = &a->program->rounds[r];
        for (uint32_t i = 0; a->rounds[r].outstanding_buckets && i < round->num_buckets; i++)
            if (!a->arrived[round->first_bucket + i] &&
                (!a->selection || a->selection->buckets[round->first_bucket + i])) {
                *bucket = round->first_bucket + i;
                return true;
            }
    }
    return false;
}

uint32_t weft_assembler_unit_round(const weft_assembler_t *a, uint32_t unit)
{
    return a->unit_round[unit];
}

weft_unit_state_t weft_assembler_unit_state(const weft_assembler_t *a, uint32_t unit)
{
    return a->units[unit].state;
}

uint32_t weft_assembler_layers_staged(const weft_assembler_t *a)
{
    return a->layers_staged;
}
