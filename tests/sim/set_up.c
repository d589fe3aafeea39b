/* What a seed means: the shape of the session, its versions, and the trouble that will come. */
#include <string.h>

#include "tests/sim/world.h"

static void choose_faults(sim_world_t *w)
{
    w->faults = 0;
    for (unsigned bit = 0; bit < SIM_FAULT_COUNT; bit++)
        if (sim_chance(w, w->options.density))
            w->faults |= 1u << bit & w->options.faults;
    if (w->faults & SIM_FAULT_NETWORK) {
        w->loss_percent = (uint32_t)sim_random(w, 31);
        w->repeat_percent = (uint32_t)sim_random(w, 31);
        w->slow_percent = (uint32_t)sim_random(w, 15);
    }
}

static void choose_shape(sim_world_t *w)
{
    w->trainers = 1 + (uint32_t)sim_random(w, SIM_MAX_TRAINERS);
    w->replicas = 1 + (uint32_t)sim_random(w, SIM_MAX_REPLICAS);
    w->tp = 1 + (uint32_t)sim_random(w, SIM_MAX_TP);
    w->ranks = w->trainers + w->replicas * w->tp;
    w->asynchronous = sim_chance(w, 50);
    w->first_step = sim_chance(w, 80) ? 1 : 1 + sim_random(w, 3000000);
    w->config = (weft_control_config_t)WEFT_CONTROL_CONFIG_INIT;
    w->config.epoch = w->stored_epoch = SIM_FIRST_EPOCH;
    w->config.rejoins = w->rejoins;
    w->config.topology = (weft_topology_t){w->trainers, w->replicas, w->tp};
    w->config.margin = (uint32_t)sim_random(w, 5);
    w->config.idle_us = 45 * SIM_MS;
    w->config.hello_us = 2000 * SIM_MS;
    w->config.publish_us = 4000 * SIM_MS;
    w->config.transfer_us = 4000 * SIM_MS;
    w->config.drain_us = 3000 * SIM_MS;
    w->config.commit_us = 5000 * SIM_MS;
}

static uint32_t any_rank(sim_world_t *w)
{
    return (uint32_t)sim_random(w, w->ranks);
}

static uint32_t any_rollout(sim_world_t *w)
{
    return w->trainers + (uint32_t)sim_random(w, w->replicas * w->tp);
}

static void choose_content(sim_world_t *w, uint32_t i)
{
    w->load[i] = sim_chance(w, 25);
    w->waited[i] = sim_chance(w, 60);
    w->whole[i] = i == 1 || w->load[i] || sim_chance(w, 60);
    w->supersedes[i] = i > 1 && sim_chance(w, 40);
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        w->subset[i][l] = w->whole[i] || sim_chance(w, 50);
        w->origin[i][l] = w->subset[i][l] ? i : w->origin[i - 1][l];
    }
}

static void choose_versions(sim_world_t *w)
{
    w->versions = 1 + (uint32_t)sim_random(w, SIM_MAX_VERSIONS - 1); /* one is left for the end */
    for (uint32_t i = 1; i <= w->versions; i++) {
        w->version[i] = w->version[i - 1] + 1 + sim_random(w, 3);
        w->rounds[i] = 1 + (uint32_t)sim_random(w, SIM_MAX_ROUNDS);
        choose_content(w, i);
        bool refuses = (w->faults & SIM_FAULT_REFUSE) != 0;
        w->refuse_node[i] = refuses && sim_chance(w, 40) ? any_rank(w) : SIM_MAX_NODES;
        w->refuse_round[i] = (uint32_t)sim_random(w, w->rounds[i] + 1);
        w->fail_node[i] = refuses && sim_chance(w, 5) ? any_rank(w) : SIM_MAX_NODES;
        bool differs = (w->faults & SIM_FAULT_DIGEST) != 0 && sim_chance(w, 40);
        w->digest_node[i] = differs ? any_rollout(w) : SIM_MAX_NODES;
    }
}

/* Replicas that come late, and leave. */
static void choose_members(sim_world_t *w)
{
    if ((w->faults & SIM_FAULT_JOIN) == 0)
        return;
    uint32_t late = (uint32_t)sim_random(w, w->replicas), leaves = any_rollout(w);
    if (w->rejoins && sim_chance(w, 25)) {
        w->coverage->late++;
        for (uint32_t n = sim_first_of(w, late); n < sim_first_of(w, late) + w->tp; n++)
            w->node[n].alive = false;
        sim_call_back(w, sim_first_of(w, late), w->heal_us);
    }
    if (sim_chance(w, 25))
        sim_schedule(w, sim_random(w, w->heal_us), SIM_LEAVE, leaves, sim_chance(w, 50));
}

static void choose_trouble(sim_world_t *w)
{
    uint64_t window = w->heal_us;
    choose_members(w);
    for (int i = 0; i < 2 && (w->faults & SIM_FAULT_CUT) != 0; i++)
        sim_schedule(w, sim_random(w, window), SIM_CUT, 0, sim_random(w, 2500 * SIM_MS));
    if (w->faults & SIM_FAULT_CRASH) {
        uint32_t n = any_rank(w);
        if (sim_chance(w, 50))
            w->node[n].crash_after = 1 + sim_random(w, 150);
        else
            sim_schedule(w, sim_random(w, window), SIM_CRASH, n, 0);
    }
    for (int i = 0; i < 2 && (w->faults & SIM_FAULT_STALL) != 0; i++) {
        uint32_t n = sim_chance(w, 20) ? (uint32_t)SIM_COORDINATOR : any_rank(w);
        sim_schedule(w, sim_random(w, window), SIM_STALL, n, sim_random(w, 3000 * SIM_MS));
    }
    if (w->faults & SIM_FAULT_RESTART) {
        if (sim_chance(w, 50))
            w->node[SIM_COORDINATOR].crash_after = 1 + sim_random(w, 300);
        else
            sim_schedule(w, sim_random(w, window), SIM_CRASH, SIM_COORDINATOR, 0);
    }
    if ((w->faults & SIM_FAULT_REFUSE) != 0 && sim_chance(w, 5))
        w->node[any_rollout(w)].swap_fails = true;
}

static void start_anew(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    node->incarnation = 1;
    node->life = 0;
    node->generation = node->epoch = 0;
    sim_start_node(w, n);
}

/* The window of steps need not be cleared: what it holds is looked at only up to the highest step. */
static void clear_replica(sim_replica_t *r)
{
    r->target = r->highest_step = r->committed = 0;
    r->generation = r->run_generation = r->begun_generation = 0;
    r->away = r->pausing = false;
    r->paused_on = 0;
}

uint32_t sim_dying_node(const sim_world_t *w)
{
    return w->options.dies_node == SIM_COORDINATOR ? (uint32_t)SIM_COORDINATOR : w->options.dies_node % w->ranks;
}

void sim_set_up(sim_world_t *w, const sim_options_t *options, sim_coverage_t *coverage)
{
    weft_coordinator_t *coordinator = w->coordinator;
    memset(w, 0, offsetof(sim_world_t, node));
    w->coordinator = coordinator;
    w->options = *options;
    w->coverage = coverage;
    w->random = options->seed * UINT64_C(0x2545f4914f6cdd1d);
    w->queued = w->used_bodies = 0;
    w->order = 0;
    w->free_body = SIM_NO_BODY;
    choose_faults(w);
    w->rejoins = (w->faults & SIM_FAULT_JOIN) != 0 && sim_chance(w, 75);
    w->in_place = sim_chance(w, 20);
    choose_shape(w);
    choose_versions(w);
    w->storage = sim_chance(w, 50);
    w->heal_us = w->faults == 0 && !w->options.dies ? 0 : (700 + sim_random(w, 2500)) * SIM_MS;
    w->traffic_until_us = sim_random(w, 3000 * SIM_MS);
    weft_coordinator_init(w->coordinator, &w->config, 0, 0, 0);
    for (uint32_t r = 0; r < w->replicas; r++)
        clear_replica(&w->replica[r]);
    for (uint32_t n = 0; n < w->ranks; n++)
        start_anew(w, n);
    start_anew(w, SIM_COORDINATOR);
    for (uint32_t r = 0; r < w->replicas; r++) {
        sim_schedule(w, sim_random(w, 400 * SIM_MS), SIM_TRAFFIC, r, 0);
    }
    choose_trouble(w);
    if (w->options.dies)
        w->node[sim_dying_node(w)].crash_after = w->options.dies_after;
    sim_schedule(w, w->heal_us + 250 * SIM_MS, SIM_INSPECT, 0, 0);
}
