/* The engine: ranks of a replica begin the same steps, each when it gets to it; a step is an all-reduce, so
 * it ends when all have begun it (asynchronous: when all have begun the one before). Requests come and go, so
 * steppers park anywhere. */
#include "tests/sim/world.h"

static uint64_t lowest_begun(const sim_world_t *w, uint32_t replica, uint32_t generation)
{
    uint64_t lowest = UINT64_MAX;
    for (uint32_t i = 0; i < w->tp; i++) {
        const sim_node_t *node = &w->node[sim_first_of(w, replica) + i];
        uint64_t step = node->generation == generation ? node->step : 0;
        lowest = step < lowest ? step : lowest;
    }
    return lowest;
}

static void end_step(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    uint64_t others = lowest_begun(w, sim_replica_of(w, n), node->generation) + w->asynchronous;
    if (others < node->step)
        return;
    if (!weft_guard_step_end(&node->guard))
        sim_fail(w, "node %u: step %llu was open and is not", n, (unsigned long long)node->step);
    node->step_open = false;
}

static void begin_step(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    uint64_t step = node->step == 0 ? w->first_step : node->step + 1;
    switch (weft_guard_step_begin(&node->guard, step, &node->step_version)) {
    case WEFT_STEP_OK:
        node->step_open = true;
        node->step = step;
        sim_check_begun(w, n);
        break;
    case WEFT_STEP_MUST_SWAP:
        sim_try_swap(w, n, true);
        break;
    case WEFT_STEP_AT_LIMIT:
        w->coverage->step_at_limit++;
        break;
    case WEFT_STEP_ORDER:
        sim_fail(w, "node %u: step %llu is out of order", n, (unsigned long long)step);
        break;
    default: /* SWAPPING, NOT_READY, FENCED: comes back later */
        break;
    }
}

static uint64_t next_move_us(sim_world_t *w)
{
    if (sim_chance(w, 3))
        return 100 * SIM_MS + sim_random(w, 500 * SIM_MS); /* one rank lags: parked apart */
    return 5 * SIM_MS + sim_random(w, 35 * SIM_MS);
}

/* The first of a new generation that looks for requests: the steps of the engine are numbered anew. */
static void start_steps(sim_world_t *w, uint32_t n)
{
    sim_replica_t *replica = &w->replica[sim_replica_of(w, n)];
    if (w->node[n].generation < replica->run_generation)
        return;
    replica->run_generation = w->node[n].generation;
    replica->target = replica->highest_step = replica->committed = 0;
}

void sim_move_step(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    sim_replica_t *replica = &w->replica[sim_replica_of(w, n)];
    if (node->generation != replica->run_generation)
        start_steps(w, n);
    bool asked = node->step < replica->target || node->step < replica->highest_step;
    node->rests = !node->step_open && !asked;
    if (node->rests) {
        sim_rest(w, n);
        return;
    }
    if (node->swapping)
        ;
    else if (node->step_open)
        end_step(w, n);
    else if (sim_may_step(w, n))
        begin_step(w, n);
    sim_schedule(w, next_move_us(w), SIM_STEP, n, 0);
}

static void wake(sim_world_t *w, uint32_t replica)
{
    for (uint32_t n = sim_first_of(w, replica); n < sim_first_of(w, replica) + w->tp; n++) {
        if (w->node[n].rests)
            sim_schedule(w, next_move_us(w), SIM_STEP, n, 0);
        w->node[n].rests = false;
    }
}

void sim_try_swap(sim_world_t *w, uint32_t n, bool by_step)
{
    sim_node_t *node = &w->node[n];
    if (!weft_guard_swap_begin(&node->guard, &node->swap_version, &node->swap_at))
        return;
    if (node->step_open || node->swapping)
        sim_fail(w, "node %u swaps with step %llu open", n, (unsigned long long)node->step);
    if (by_step)
        w->coverage->swap_by_step++;
    else
        w->coverage->swap_by_progress++;
    node->swapping = true;
    sim_schedule(w, sim_random(w, 20 * SIM_MS), SIM_SWAP_END, n, 0);
}

void sim_end_swap(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    bool fails = node->swap_fails;
    if (!fails) { /* before anyone can see that the version is live */
        weft_window_applied(&node->window);
        node->mixed = false;
    }
    weft_guard_swap_end(&node->guard, !fails);
    node->swapping = false;
    sim_say(w, "node %u: version %llu is %s from step %llu on", n, (unsigned long long)node->swap_version,
            fails ? "torn" : "live", (unsigned long long)node->swap_at);
    if (fails)
        w->coverage->swap_failed++;
    else
        sim_check_swapped(w, n, node->swap_version);
    sim_inject(w, n, sim_random(w, 30 * SIM_MS),
               (sim_injection_t){.type = fails ? WEFT_EVENT_SWAP_FAILED : WEFT_EVENT_SWAPPED,
                                 .version = node->swap_version,
                                 .step = node->swap_at,
                                 .status = fails ? WEFT_ERR_SYSTEM : WEFT_OK});
}

void sim_add_traffic(sim_world_t *w, uint32_t replica)
{
    sim_replica_t *r = &w->replica[replica];
    if (r->target < w->first_step)
        r->target = w->first_step - 1;
    bool runs = sim_pause_or_resume(w, replica);
    r->target += runs ? sim_random(w, 12) : 0;
    if (r->target < r->highest_step)
        r->target = r->highest_step;
    wake(w, replica);
    if (w->now_us < w->traffic_until_us || w->in_place)
        sim_schedule(w, 50 * SIM_MS + sim_random(w, 600 * SIM_MS), SIM_TRAFFIC, replica, 0);
}
