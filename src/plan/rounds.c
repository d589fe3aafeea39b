/* In: the global order of units and the budget. Out: rounds, runs of whole units that fit half the budget on
 * every rank. Invariant: two rounds and the amax tables never exceed the budget; a budget that cannot hold
 * the largest unit twice is refused with the least that can. */
#include <stdlib.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/base/text.h"
#include "src/plan/plan.h"

#define ALIGN       256u
#define AMAX_TABLES 3u /* round r is quantized while r+1 has its amax and r+2's is arriving */

typedef WEFT_ARRAY(weft_plan_round_t) round_array_t;

/* The largest unit of the plan, for data and for amax. */
static void largest_unit(const weft_plan_t *plan, uint64_t *data, uint64_t *amax)
{
    *data = *amax = 0;
    for (uint32_t i = 0; i < plan->num_patterns; i++) {
        uint64_t domain = plan->patterns[i].domain_amax_bytes;
        *amax = domain > *amax ? domain : *amax;
        for (uint32_t p = 0; p < plan->patterns[i].num_parts; p++) {
            const weft_part_pattern_t *part = &plan->patterns[i].parts[p];
            for (uint32_t u = 0; u < part->num_units; u++) {
                *data = part->units[u].staged_bytes > *data ? part->units[u].staged_bytes : *data;
                *amax = part->units[u].amax_bytes > *amax ? part->units[u].amax_bytes : *amax;
            }
        }
    }
}

/* A domain's amax is kept from its first unit to its last, whatever rounds those are in: one entry for each.
 */
static uint64_t domain_table_bytes(weft_plan_t *plan)
{
    for (uint32_t i = 0; i < plan->layers->count; i++)
        if (weft_plan_pattern(plan, i)->domain_amax_bytes)
            plan->num_domains += weft_plan_local_experts(plan, i);
    return (plan->num_domains * sizeof(uint16_t) + ALIGN - 1) / ALIGN * ALIGN;
}

/* The closing round brings one digest from each source that a rank hears. */
static uint64_t digest_round_bytes(const weft_plan_t *plan)
{
    uint64_t most = 0;
    for (uint32_t t = 0; t < plan->rollout->tp; t++) {
        uint64_t bytes = 0;
        for (size_t i = 0; i < plan->routes.count; i++)
            bytes += weft_set_has(&plan->sets.items[plan->routes.items[i].set], t) ? ALIGN : 0;
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* How much of a round is data and how much amax. */
static weft_status_t share_budget(weft_plan_t *plan, uint64_t *data, uint64_t *amax, weft_error_t *error)
{
    uint64_t least_data, least_amax;
    largest_unit(plan, &least_data, &least_amax);
    uint64_t digests = digest_round_bytes(plan);
    least_data = digests > least_data ? digests : least_data;
    uint64_t domains = domain_table_bytes(plan);
    plan->least_budget = 2 * (least_data + least_amax) + AMAX_TABLES * least_amax + domains;
    uint64_t budget = plan->options.budget_bytes;
    if (budget < plan->least_budget) {
        char found[24], least[24];
        return weft_fail(
            error, WEFT_ERR_BUDGET,
            "a staging budget of %llu bytes (%s) cannot hold two rounds of the largest unit; the least "
            "that works is %llu bytes (%s)",
            (unsigned long long)budget, weft_text_bytes((double)budget, found),
            (unsigned long long)plan->least_budget, weft_text_bytes((double)plan->least_budget, least));
    }
    uint64_t spare = budget - plan->least_budget;
    *amax = least_amax ? least_amax + spare / 64 : 0;
    *data = (budget - domains - (2 + AMAX_TABLES) * *amax) / 2;
    return WEFT_OK;
}

/* Fills plan->round_bytes and plan->amax_round_rows with the most that any round really has. */
static weft_status_t cut(weft_plan_t *plan, uint64_t data_limit, uint64_t amax_limit, round_array_t *rounds)
{
    weft_cursor_t cursor = {0};
    uint64_t data = 0, amax = 0, rows = 0, most_data = digest_round_bytes(plan), most_amax = 0;
    bool more = plan->layers->count > 0;
    while (more) {
        const weft_unit_pattern_t *unit = weft_cursor_unit(plan, cursor);
        uint64_t unit_amax = weft_cursor_amax_bytes(plan, cursor);
        weft_plan_round_t *round = rounds->count ? &rounds->items[rounds->count - 1] : NULL;
        if (!round || data + unit->staged_bytes > data_limit || amax + unit_amax > amax_limit) {
            if (!WEFT_ARRAY_PUSH(rounds, (weft_plan_round_t){.first = cursor}))
                return WEFT_ERR_NO_MEMORY;
            round = &rounds->items[rounds->count - 1];
            data = amax = rows = 0;
        }
        round->num_units++;
        data += unit->staged_bytes;
        amax += unit_amax;
        rows += unit->num_amax && !weft_plan_pattern(plan, cursor.layer)->domain_amax_bytes ? unit->rows : 0;
        most_data = data > most_data ? data : most_data;
        most_amax = amax > most_amax ? amax : most_amax;
        plan->amax_round_rows = rows > plan->amax_round_rows ? rows : plan->amax_round_rows;
        more = weft_cursor_next(plan, &cursor);
    }
    plan->round_bytes = most_data + most_amax;
    return WEFT_OK;
}

static bool wants_amax(const weft_plan_t *plan, const weft_plan_round_t *round)
{
    weft_cursor_t cursor = round->first;
    for (uint32_t u = 0; u < round->num_units; u++) {
        if (weft_cursor_amax_bytes(plan, cursor))
            return true;
        weft_cursor_next(plan, &cursor);
    }
    return false;
}

weft_status_t weft_plan_make_rounds(weft_plan_t *plan, weft_error_t *error)
{
    uint64_t data = 0, amax = 0;
    WEFT_TRY(share_budget(plan, &data, &amax, error));
    uint64_t most = data + amax < WEFT_MAX_BUCKET_BYTES ? data + amax : WEFT_MAX_BUCKET_BYTES;
    if (plan->options.max_bucket_bytes == 0 || plan->options.max_bucket_bytes > most)
        plan->options.max_bucket_bytes = (uint32_t)most;
    round_array_t rounds = {0};
    weft_status_t status = cut(plan, data, amax, &rounds);
    bool lead = status == WEFT_OK && rounds.count && wants_amax(plan, &rounds.items[0]);
    if (status == WEFT_OK && !WEFT_ARRAY_RESERVE(&rounds, rounds.count + 2))
        status = WEFT_ERR_NO_MEMORY;
    if (status == WEFT_OK && lead) {
        for (size_t i = rounds.count++; i > 0; i--)
            rounds.items[i] = rounds.items[i - 1];
        rounds.items[0] = (weft_plan_round_t){0};
    }
    if (status == WEFT_OK)
        rounds.items[rounds.count++] = (weft_plan_round_t){.digests = true};
    plan->rounds = rounds.items;
    plan->num_rounds = (uint32_t)rounds.count;
    return status;
}
