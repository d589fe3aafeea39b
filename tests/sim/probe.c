/* The last version of a schedule: when all trouble is over, whoever is left takes it, soon. */
#include "tests/sim/world.h"

static bool replica_takes_part(const sim_world_t *w, uint32_t r)
{
    return w->coordinator->replica[r] != WEFT_REPLICA_LOST;
}

/* What trainers publish goes over unless one of them, or the transport, is lost for good. */
static bool can_be_published(const sim_world_t *w)
{
    for (uint32_t n = 0; n < w->trainers; n++)
        if (!w->node[n].alive || w->coordinator->peer[n].dead || w->node[n].trainer.state == WEFT_TRAINER_FENCED)
            return false;
    return !w->coordinator->broken || w->rejoins;
}

static void add_version(sim_world_t *w)
{
    uint32_t i = w->probe = ++w->versions;
    w->version[i] = w->version[i - 1] + 1;
    w->rounds[i] = 1 + (uint32_t)sim_random(w, SIM_MAX_ROUNDS);
    w->whole[i] = true;
    w->load[i] = !can_be_published(w) || sim_chance(w, 30);
    w->refuse_node[i] = w->fail_node[i] = w->digest_node[i] = SIM_MAX_NODES;
    for (uint32_t l = 0; l < SIM_LAYERS; l++) {
        w->subset[i][l] = true;
        w->origin[i][l] = i;
    }
    if (w->load[i])
        w->coverage->probe_loaded++;
    else
        w->coverage->probe_published++;
}

static void ask_all(sim_world_t *w)
{
    for (uint32_t n = 0; n < w->ranks; n++) {
        w->node[n].swap_fails = false;
        if (sim_is_trainer(w, n))
            sim_schedule(w, sim_random(w, 100 * SIM_MS), SIM_PUBLISH, n, 0);
        else if (replica_takes_part(w, sim_replica_of(w, n)))
            sim_schedule(w, sim_random(w, 100 * SIM_MS), SIM_LOAD, n, 0);
    }
}

bool sim_probe(sim_world_t *w)
{
    bool anyone = false;
    for (uint32_t r = 0; r < w->replicas; r++)
        anyone |= replica_takes_part(w, r);
    if (!anyone)
        return false;
    add_version(w);
    w->probe_us = w->now_us;
    sim_say(w, "all is settled: version %llu must go through", (unsigned long long)w->version[w->probe]);
    ask_all(w);
    return true;
}

void sim_check_probe(sim_world_t *w)
{
    uint64_t version = w->version[w->probe];
    if (w->coordinator->done != version || w->coordinator->outcome != WEFT_OUTCOME_APPLIED)
        sim_fail(w, "HANG: version %llu, after all trouble, is %s: %s", (unsigned long long)version,
                 weft_outcome_name(w->coordinator->outcome), w->coordinator->outcome_text);
    for (uint32_t n = w->trainers; n < w->ranks; n++)
        if (replica_takes_part(w, sim_replica_of(w, n)) && weft_guard_live(&w->node[n].guard) != version)
            sim_fail(w, "HANG: node %u serves version %llu and not %llu", n,
                     (unsigned long long)weft_guard_live(&w->node[n].guard), (unsigned long long)version);
}
