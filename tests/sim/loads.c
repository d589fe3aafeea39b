/* Versions that ranks load from disk: the users that ask for them, the reading, and what they hear. A load has no
 * rounds: each rank gets on by itself. */
#include <string.h>

#include "tests/sim/world.h"

#define PATIENCE_US (2000 * SIM_MS)

/* Whether whoever makes a version still waits for the one before it. */
bool sim_is_early(sim_world_t *w, uint32_t n, uint32_t index)
{
    sim_node_t *node = &w->node[n];
    if (node->ready_us == 0)
        node->ready_us = w->now_us;
    bool early = w->waited[index] && w->load[index] != w->load[index - 1] && index > 1 &&
                 w->coordinator->done < w->version[index - 1] && w->now_us - node->ready_us < PATIENCE_US;
    node->ready_us = early ? node->ready_us : 0;
    return early;
}

static void ask(sim_world_t *w, uint32_t n, uint32_t index)
{
    sim_node_t *node = &w->node[n];
    node->asked[index] = true;
    sim_say(w, "node %u asks to load version %llu", n, (unsigned long long)w->version[index]);
    for (uint32_t t = 0; t < w->trainers; t++)
        w->coverage->load_beside_publish += w->node[t].trainer.version != 0;
    weft_event_t event = {.type = WEFT_EVENT_LOAD, .now_us = w->now_us, .version = w->version[index]};
    sim_give(w, n, WEFT_ROLE_RANK, &event);
}

/* Ask for the next load, when the last one has its outcome. A program that goes wrong leaves one out on a rank. */
void sim_load(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    uint32_t next = node->published + 1;
    if (node->published == w->versions)
        return;
    if (!w->load[next])
        node->published++;
    else if (node->rank.wants == 0 && !sim_is_early(w, n, next)) {
        bool leaves_out = (w->faults & SIM_FAULT_ORDER) != 0 && next != w->probe && sim_chance(w, 5);
        node->published++;
        if (!leaves_out)
            ask(w, n, next);
    }
    uint64_t late = (w->faults & SIM_FAULT_ORDER) != 0 && sim_chance(w, 4) ? 5000 * SIM_MS : 0;
    sim_schedule(w, sim_random(w, 300 * SIM_MS) + late, SIM_LOAD, n, 0);
}

/* A rank serves what it hears is applied, and nothing that failed. After a deadline it may yet be applied. */
void sim_hear_load(sim_world_t *w, uint32_t n, const weft_action_t *action)
{
    sim_node_t *node = &w->node[n];
    uint32_t index = sim_index(w, action->version);
    uint64_t live = weft_guard_live(&node->guard);
    bool late = node->outcome_status[index] == WEFT_ERR_TIMEOUT || node->outcome_status[index] == WEFT_ERR_PEER_LOST;
    sim_say(w, "node %u: load of version %llu %s %s: %s", n, (unsigned long long)action->version,
            weft_outcome_name(action->outcome), weft_status_name(action->status), action->text);
    if (!node->asked[index] || (node->outcome[index] != WEFT_OUTCOME_NONE && !late))
        sim_fail(w, "node %u hears twice, or unasked, what became of version %llu", n,
                 (unsigned long long)action->version);
    if (action->outcome == WEFT_OUTCOME_APPLIED && action->status == WEFT_OK && live < action->version)
        sim_fail(w, "OUTCOME: node %u was told that version %llu is loaded, and serves %llu", n,
                 (unsigned long long)action->version, (unsigned long long)live);
    if (action->outcome == WEFT_OUTCOME_FAILED && action->status != WEFT_ERR_TIMEOUT &&
        action->status != WEFT_ERR_PEER_LOST && live == action->version && w->transfer[index][n].load)
        sim_fail(w, "OUTCOME: node %u was told that version %llu could not be loaded, and serves it", n,
                 (unsigned long long)action->version);
    node->outcome[index] = action->outcome;
    node->outcome_status[index] = action->status;
    w->coverage->load_applied += action->outcome == WEFT_OUTCOME_APPLIED;
    w->coverage->load_failed += action->outcome == WEFT_OUTCOME_FAILED;
    w->coverage->load_refused += action->status == WEFT_ERR_NONFINITE;
    w->coverage->load_order_refused += action->status == WEFT_ERR_VERSION_ORDER;
    w->coverage->load_after_break += action->outcome == WEFT_OUTCOME_APPLIED && w->coordinator->broken;
    w->coverage->load_carried_on += action->outcome == WEFT_OUTCOME_APPLIED && w->coordinator->recovered;
}

/* One piece further, whatever the others do. */
void sim_move_load(sim_world_t *w, uint32_t n, uint32_t index)
{
    sim_transfer_t *mine = &w->transfer[index][n];
    if (mine->stop_known && !mine->finished) {
        mine->finished = true;
        w->coverage->load_stopped++;
        sim_inject(w, n, sim_random(w, 5 * SIM_MS),
                   (sim_injection_t){.type = WEFT_EVENT_DRAINED, .version = w->version[index]});
    }
    if (mine->stop_known || mine->completed == w->rounds[index])
        return;
    if (!sim_may_write(w, n, index)) {
        sim_schedule(w, 1 * SIM_MS + sim_random(w, 25 * SIM_MS), SIM_DATA, n, 0);
        return;
    }
    mine->completed++;
    sim_maybe_refuse(w, index, n);
    if (mine->completed == w->rounds[index])
        sim_finish_transfer(w, index, n);
    sim_schedule(w, 1 * SIM_MS + sim_random(w, 25 * SIM_MS), SIM_DATA, n, 0);
}

bool sim_loads_are_over(const sim_world_t *w, uint32_t n)
{
    const sim_node_t *node = &w->node[n];
    bool over = node->published == w->versions && node->rank.wants == 0;
    for (uint32_t i = 1; i <= w->versions; i++)
        over = over && (!node->asked[i] || node->outcome[i] != WEFT_OUTCOME_NONE);
    return over;
}
