/* Processes: they die, come back as others, come late, leave, and do not hear each other. */
#include <string.h>

#include "tests/sim/world.h"

void sim_crash(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    if (!node->alive || w->now_us >= w->heal_us)
        return;
    node->alive = false;
    node->ever_troubled = true;
    sim_say(w, "node %u CRASHES", n);
    if (n == SIM_COORDINATOR) {
        if (w->options.dies || sim_chance(w, 85))
            sim_schedule(w, 50 * SIM_MS + sim_random(w, 2500 * SIM_MS), SIM_RESTART, n, 0);
        else
            w->coordinator_gone = true;
        return;
    }
    if (sim_is_trainer(w, n))
        w->coverage->trainer_crashed++;
    else if (sim_leads(w, n))
        w->coverage->leader_crashed++;
    else
        w->coverage->rank_crashed++;
    if ((w->faults & SIM_FAULT_JOIN) != 0)
        sim_call_back(w, n, sim_chance(w, 30) ? 30 * SIM_MS : 2500 * SIM_MS);
}

bool sim_hears(const sim_world_t *w, uint32_t n, uint32_t other)
{
    return w->now_us >= w->cut_until_us || (w->cut >> n & 1) == (w->cut >> other & 1);
}

void sim_cut(sim_world_t *w, uint64_t duration_us)
{
    uint64_t until_us = w->now_us + duration_us;
    w->cut = (uint32_t)sim_random(w, UINT64_C(1) << SIM_MAX_NODES);
    w->cut_until_us = until_us < w->heal_us ? until_us : w->heal_us;
    sim_say(w, "CUT: %x does not hear the others until %.3f ms", w->cut, (double)w->cut_until_us / 1000);
}

/* ---- lives ---- */

void sim_start_node(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    size_t kept = offsetof(sim_node_t, alive);
    memset((char *)node + kept, 0, offsetof(sim_node_t, leader) - kept);
    memset(&node->guard, 0, sizeof *node - offsetof(sim_node_t, guard));
    node->alive = true;
    sim_schedule(w, sim_random(w, SIM_TICK_US), SIM_TICK, n, 0);
    if (n == SIM_COORDINATOR)
        return;
    weft_control_config_t config = w->config;
    config.incarnation = node->incarnation;
    if (sim_is_trainer(w, n)) {
        weft_trainer_machine_init(&node->trainer, &config, n);
        sim_schedule(w, sim_random(w, 300 * SIM_MS), SIM_PUBLISH, n, 0);
        return;
    }
    weft_guard_init(&node->guard);
    weft_rank_machine_init(&node->rank, &config, n, &node->guard);
    if (sim_leads(w, n))
        weft_leader_machine_init(&node->leader, &config, n);
    sim_schedule(w, sim_random(w, 40 * SIM_MS), SIM_STEP, n, 0);
    sim_schedule(w, sim_random(w, 300 * SIM_MS), SIM_LOAD, n, 0);
}

static void expect_birth(sim_world_t *w, uint32_t n, uint32_t generation, uint64_t within_us)
{
    w->births++;
    sim_schedule(w, 5 * SIM_MS + sim_random(w, within_us), SIM_BIRTH, n, generation);
}

/* A trainer is started again by itself; an engine with all its ranks, for a group that lost one computes nothing. */
void sim_call_back(sim_world_t *w, uint32_t n, uint64_t within_us)
{
    if (sim_is_trainer(w, n)) {
        expect_birth(w, n, w->node[n].generation + 1, within_us);
        return;
    }
    sim_replica_t *r = &w->replica[sim_replica_of(w, n)];
    if (w->node[n].generation != r->generation || r->away)
        return; /* under way already */
    r->generation++;
    for (uint32_t p = sim_first_of(w, sim_replica_of(w, n)), end = p + w->tp; p < end; p++)
        expect_birth(w, p, r->generation, within_us);
}

/* What its user goes on with: what is not over yet. */
static void skip_what_is_over(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    for (uint32_t i = 1; i <= w->versions && w->version[i] <= w->coordinator->done; i++) {
        node->published = i;
        node->outcome[i] = WEFT_OUTCOME_FAILED;
    }
    for (uint32_t i = 1; i <= SIM_MAX_VERSIONS; i++)
        w->transfer[i][n] = (sim_transfer_t){.aborted = true};
}

void sim_bear(sim_world_t *w, uint32_t n, uint64_t generation)
{
    sim_node_t *node = &w->node[n];
    w->births--;
    uint32_t wanted = sim_is_trainer(w, n) ? node->generation + 1 : w->replica[sim_replica_of(w, n)].generation;
    if (generation != wanted)
        return;
    node->life++;
    node->alive = false;
    if (!sim_is_trainer(w, n) && w->replica[sim_replica_of(w, n)].away)
        return; /* its engine has been told to end meanwhile */
    node->incarnation = generation + 1;
    node->generation = (uint32_t)generation;
    sim_start_node(w, n);
    node->ever_troubled = true;
    skip_what_is_over(w, n);
    w->coverage->reborn++;
    sim_say(w, "node %u is BORN, incarnation %llu", n, (unsigned long long)node->incarnation);
    if (!sim_is_trainer(w, n))
        sim_schedule(w, 300 * SIM_MS, SIM_TRAFFIC, sim_replica_of(w, n), 0);
}

/* A number is given twice only where nobody could know: without storage, when all who had heard of it are gone. */
static bool is_remembered(const sim_world_t *w, uint32_t epoch)
{
    bool known = w->storage;
    for (uint32_t n = 0; n < w->ranks; n++) {
        const sim_node_t *node = &w->node[n];
        bool was_in = node->incarnation == 1 && !node->ever_troubled && !node->fence_told;
        bool told = was_in && !w->coordinator->peer[n].dead && (w->faults & (SIM_FAULT_CUT | SIM_FAULT_NETWORK)) == 0;
        bool entered = node->entered_us != 0 && node->epoch == epoch && node->entered_us < w->restarted_us;
        known |= node->alive && (told || entered);
    }
    return known;
}

/* No two lives are in one epoch, and epochs only rise. */
void sim_enter_epoch(sim_world_t *w, uint32_t n, uint32_t epoch)
{
    sim_node_t *node = &w->node[n];
    bool trainer = sim_is_trainer(w, n);
    sim_say(w, "node %u enters epoch %u", n, epoch);
    w->coverage->admitted += node->incarnation > 1;
    w->coverage->rank_admitted_twice += node->incarnation > 2 && !trainer;
    w->coverage->epoch_after_break += node->incarnation == 1;
    w->coverage->admitted_under_new_coordinator += node->incarnation > 1 && w->coordinator_starts != 0;
    bool again = epoch == node->epoch && !is_remembered(w, epoch);
    if ((epoch <= node->epoch && !again) || epoch <= SIM_FIRST_EPOCH)
        sim_fail(w, "EPOCH: node %u enters epoch %u after %u", n, epoch, node->epoch);
    if (!trainer && weft_guard_live(&node->guard) != 0 && node->epoch == 0 && node->incarnation > 1)
        sim_fail(w, "EPOCH: node %u serves before it is admitted", n);
    node->epoch = epoch;
    node->entered_us = w->now_us;
}

void sim_leave(sim_world_t *w, uint32_t n, bool for_good)
{
    sim_replica_t *r = &w->replica[sim_replica_of(w, n)];
    weft_event_t event = {.type = WEFT_EVENT_LEAVE, .now_us = w->now_us};
    if (w->node[n].generation != r->generation || w->now_us >= w->heal_us)
        return; /* it is being started anew, or has stood still too long */
    sim_say(w, "node %u wants its replica to leave", n);
    w->coverage->left++;
    w->coverage->returned += !for_good && w->rejoins;
    r->away = for_good;
    sim_give(w, n, WEFT_ROLE_RANK, &event);
    for (uint32_t p = sim_first_of(w, sim_replica_of(w, n)), end = p + w->tp; p < end && for_good; p++)
        if (w->node[p].alive && p != n)
            sim_give(w, p, WEFT_ROLE_RANK, &event);
}
