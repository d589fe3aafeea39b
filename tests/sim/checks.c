/* What must hold, in every schedule. */
#include "tests/sim/world.h"

/* All ranks that begin a step begin it on the same version, which is never older than that of the step
 * before. */
void sim_check_begun(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    sim_replica_t *replica = &w->replica[sim_replica_of(w, n)];
    uint64_t slot = (node->step - w->first_step) % SIM_STEP_WINDOW;
    sim_say(w, "node %u begins step %llu on version %llu", n, (unsigned long long)node->step,
            (unsigned long long)node->step_version);
    if (node->fence_told)
        sim_fail(w, "FENCED: node %u begins step %llu, and was told to serve nothing", n, (unsigned long long)node->step);
    if (node->mixed)
        sim_fail(w, "TAINTED: node %u begins step %llu on weights of two versions", n, (unsigned long long)node->step);
    if (node->step_version != node->served)
        sim_fail(w, "EARLY: node %u begins step %llu on version %llu, and its last swap was to %llu", n,
                 (unsigned long long)node->step, (unsigned long long)node->step_version,
                 (unsigned long long)node->served);
    if (node->generation < replica->begun_generation)
        sim_fail(w, "LIFE: node %u begins a step after a later life of its replica has", n);
    if (node->generation != replica->run_generation)
        return; /* it is about to be stopped; steps are counted anew already */
    replica->begun_generation = node->generation;
    if (node->step <= replica->highest_step) {
        if (replica->step_version[slot] != node->step_version)
            sim_fail(w, "TORN: node %u runs step %llu on version %llu, another rank of replica %u on %llu", n,
                     (unsigned long long)node->step, (unsigned long long)node->step_version,
                     sim_replica_of(w, n), (unsigned long long)replica->step_version[slot]);
        if (replica->highest_step - node->step == 1)
            w->coverage->ranks_two_steps_apart++;
        return;
    }
    uint64_t before = (slot + SIM_STEP_WINDOW - 1) % SIM_STEP_WINDOW;
    if (replica->highest_step != 0 && node->step_version < replica->step_version[before])
        sim_fail(w, "BACK: replica %u goes from version %llu back to %llu at step %llu", sim_replica_of(w, n),
                 (unsigned long long)replica->step_version[before], (unsigned long long)node->step_version,
                 (unsigned long long)node->step);
    replica->highest_step = node->step;
    replica->step_version[slot] = node->step_version;
}

/* All its ranks are alive, and nobody believes otherwise. */
static bool replica_is_sound(const sim_world_t *w, uint32_t replica)
{
    for (uint32_t i = 0; i < w->tp; i++) {
        const sim_node_t *node = &w->node[sim_first_of(w, replica) + i];
        if (!node->alive || node->rank.joins || weft_guard_look(&node->guard).fenced ||
            w->coordinator->peer[sim_first_of(w, replica) + i].dead)
            return false;
    }
    return true;
}

static bool serves_soundly(const sim_world_t *w, uint32_t replica)
{
    return replica_is_sound(w, replica) && w->coordinator->replica[replica] != WEFT_REPLICA_LOST;
}

/* A version goes live only where it was staged whole, with the bytes of the other replicas, and was not given
 * up. */
void sim_check_swapped(sim_world_t *w, uint32_t n, uint64_t version)
{
    uint32_t index = sim_index(w, version), first = sim_first_of(w, sim_replica_of(w, n));
    sim_replica_t *replica = &w->replica[sim_replica_of(w, n)];
    if (version <= w->node[n].served)
        sim_fail(w, "ORDER: node %u swaps from version %llu to %llu", n, (unsigned long long)w->node[n].served,
                 (unsigned long long)version);
    w->node[n].served = version;
    w->newest_served = version > w->newest_served ? version : w->newest_served;
    if (w->node[n].generation == replica->run_generation && version > replica->committed)
        replica->committed = version;
    if (w->node[n].staged[index] == 0)
        sim_fail(w, "INCOMPLETE: node %u made version %llu live, which it had not whole", n,
                 (unsigned long long)version);
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        if (w->node[n].layers[index][l] != w->origin[index][l])
            sim_fail(
                w, "BASE: node %u serves layer %u of version %llu as version %llu wrote it, trainers of %llu",
                n, l, (unsigned long long)version,
                (unsigned long long)w->version[w->node[n].layers[index][l]],
                (unsigned long long)w->version[w->origin[index][l]]);
    w->coverage->subset_applied += !w->whole[index];
    for (uint32_t i = 0; i < w->tp; i++)
        if (w->node[first + i].discarded[index])
            sim_fail(w, "ABORTED AND LIVE: node %u made version %llu live, node %u has given it up", n,
                     (unsigned long long)version, first + i);
    if (!serves_soundly(w, sim_replica_of(w, n)))
        return; /* a replica that is lost serves nothing */
    for (uint32_t r = 0; r < w->replicas; r++) {
        uint32_t p = sim_first_of(w, r) + (n - first);
        bool serves = serves_soundly(w, r) && weft_guard_live(&w->node[p].guard) == version;
        if (serves && w->node[p].staged[index] != w->node[n].staged[index])
            sim_fail(w, "DIGEST: node %u serves other bytes of version %llu than node %u", n,
                     (unsigned long long)version, p);
    }
}

void sim_check_discarded(sim_world_t *w, uint32_t n, uint64_t version)
{
    uint32_t index = sim_index(w, version), first = sim_first_of(w, sim_replica_of(w, n));
    w->node[n].given_up = version;
    if (w->node[n].rank.state == WEFT_RANK_FENCED || weft_guard_look(&w->node[n].guard).fenced)
        return; /* its replica is lost: it serves nothing */
    w->node[n].discarded[index] = true;
    for (uint32_t i = 0; i < w->tp; i++)
        if (weft_guard_live(&w->node[first + i].guard) == version)
            sim_fail(w, "ABORTED AND LIVE: node %u gives version %llu up, node %u serves it", n,
                     (unsigned long long)version, first + i);
}

/* APPLIED means all serve it; FAILED, but for a timeout, means nobody does. */
void sim_check_outcome(sim_world_t *w, uint32_t n, const weft_action_t *action)
{
    uint32_t index = sim_index(w, action->version);
    bool applied = action->outcome == WEFT_OUTCOME_APPLIED;
    if (w->load[index] && !w->transfer[index][n].started && action->outcome != WEFT_OUTCOME_FAILED)
        sim_fail(w, "OUTCOME: trainer %u was told that version %llu is %s, which ranks loaded", n,
                 (unsigned long long)action->version, weft_outcome_name(action->outcome));
    bool failed = action->outcome == WEFT_OUTCOME_FAILED && action->status != WEFT_ERR_TIMEOUT &&
                  action->status != WEFT_ERR_PEER_LOST;
    for (uint32_t p = w->trainers; p < w->ranks; p++) {
        uint64_t live = weft_guard_live(&w->node[p].guard);
        bool member = weft_members_has(w->transfer[index][n].members, sim_replica_of(w, p));
        bool joined_since = w->node[p].epoch > w->node[n].epoch;
        if (!replica_is_sound(w, sim_replica_of(w, p)) || joined_since || !w->transfer[index][n].started || !member)
            continue;
        if (applied && live < action->version)
            sim_fail(w, "OUTCOME: trainer %u was told that version %llu is applied, node %u serves %llu", n,
                     (unsigned long long)action->version, p, (unsigned long long)live);
        if (failed && live == action->version)
            sim_fail(w, "OUTCOME: trainer %u was told that version %llu failed, node %u serves it", n,
                     (unsigned long long)action->version, p);
    }
}

/* Nobody is called stale for a version that nobody serves. */
void sim_check_newest(sim_world_t *w, uint32_t n, uint64_t version)
{
    if (version > w->newest_served)
        sim_fail(w, "node %u is told that version %llu serves, but the highest that did is %llu", n,
                 (unsigned long long)version, (unsigned long long)w->newest_served);
}

/* ---- the end ---- */

static bool counts(const sim_world_t *w, uint32_t n)
{
    return w->node[n].alive;
}

static bool trainer_is_settled(const sim_world_t *w, uint32_t n)
{
    const weft_trainer_machine_t *m = &w->node[n].trainer;
    if (m->state == WEFT_TRAINER_FENCED)
        return !w->rejoins;
    return m->state == WEFT_TRAINER_IDLE && !m->joins && (w->node[n].published == w->versions);
}

static bool rank_is_settled(const sim_world_t *w, uint32_t n)
{
    const sim_node_t *node = &w->node[n];
    if (node->rank.state == WEFT_RANK_FENCED)
        return !w->rejoins || w->replica[sim_replica_of(w, n)].away;
    weft_guard_view_t view = weft_guard_look(&node->guard);
    bool lost = w->coordinator->replica[sim_replica_of(w, n)] == WEFT_REPLICA_LOST;
    bool runs = w->in_place && node->served != 0 && node->window.state == WEFT_WINDOW_RUNNING; /* and lets nothing in */
    return node->rank.state == WEFT_RANK_IDLE && !node->rank.joins && !runs && sim_loads_are_over(w, n) && view.limit == WEFT_GUARD_NO_LIMIT && !lost &&
           node->rank.newest >= w->coordinator->newest; /* it knows whether it is stale */
}

static const char *state_of(const sim_world_t *w, uint32_t n)
{
    return sim_is_trainer(w, n) ? weft_trainer_state_name(w->node[n].trainer.state)
                                : weft_rank_state_name(w->node[n].rank.state);
}

/* The coordinator and the process agree on whether it lives. */
static bool is_known(const sim_world_t *w, uint32_t n)
{
    const sim_node_t *node = &w->node[n];
    bool fenced = sim_is_trainer(w, n) ? node->trainer.state == WEFT_TRAINER_FENCED
                                       : node->rank.state == WEFT_RANK_FENCED;
    bool leaves = !sim_is_trainer(w, n) && node->rank.leaves && !fenced;
    return node->alive ? !leaves && (fenced || !w->coordinator->peer[n].dead)
                       : w->coordinator->peer[n].dead;
}

static bool is_settled(const sim_world_t *w, uint32_t n)
{
    return !counts(w, n) || (sim_is_trainer(w, n) ? trainer_is_settled(w, n) : rank_is_settled(w, n));
}

/* Without a coordinator versions stay where they are, but every trainer hears of a deadline. */
static bool all_have_heard(const sim_world_t *w)
{
    for (uint32_t n = 0; n < w->trainers; n++) {
        const sim_node_t *node = &w->node[n];
        for (uint32_t i = 1; node->alive && i <= w->versions; i++)
            if (node->published < i || node->outcome[i] < WEFT_OUTCOME_APPLIED)
                return false;
    }
    return true;
}

bool sim_is_settled(sim_world_t *w)
{
    if (w->coordinator_gone)
        return w->births == 0 && all_have_heard(w);
    for (uint32_t n = 0; n < w->ranks; n++)
        if (!is_settled(w, n) || !is_known(w, n))
            return false;
    bool resumes = w->in_place && w->now_us < w->traffic_until_us;
    return !resumes && w->node[SIM_COORDINATOR].alive && w->coordinator->state == WEFT_COORDINATOR_IDLE && w->births == 0;
}

static void check_transfers(sim_world_t *w, uint32_t n)
{
    for (uint32_t index = 1; index <= w->versions; index++) {
        const sim_transfer_t *t = &w->transfer[index][n];
        if (t->started && !t->aborted && t->completed < t->posted && counts(w, n))
            sim_fail(w, "HANG: node %u waits in round %u of version %llu", n, t->completed,
                     (unsigned long long)w->version[index]);
    }
}

static void check_outcomes(sim_world_t *w, uint32_t n)
{
    for (uint32_t i = 1; i <= w->node[n].published; i++)
        if (w->node[n].outcome[i] < WEFT_OUTCOME_APPLIED)
            sim_fail(w, "HANG: trainer %u never heard what became of version %llu", n,
                     (unsigned long long)w->version[i]);
}

static void check_quiet_run(sim_world_t *w)
{
    if (!w->whole[w->versions])
        return; /* the version it goes over may have been superseded */
    for (uint32_t n = w->trainers; n < w->ranks; n++)
        if (weft_guard_live(&w->node[n].guard) != w->version[w->versions])
            sim_fail(w, "nothing went wrong, and yet node %u serves version %llu", n,
                     (unsigned long long)weft_guard_live(&w->node[n].guard));
}

/* What one rank has swapped to, the replica was committed to. */
static void check_commits(sim_world_t *w, uint32_t n)
{
    uint32_t r = sim_replica_of(w, n);
    bool serves = serves_soundly(w, r) && w->node[n].generation == w->replica[r].run_generation;
    if (serves && weft_guard_live(&w->node[n].guard) < w->replica[r].committed)
        sim_fail(w, "LOST COMMIT: node %u serves version %llu, another rank of its replica had %llu", n,
                 (unsigned long long)weft_guard_live(&w->node[n].guard), (unsigned long long)w->replica[r].committed);
}

void sim_check_end(sim_world_t *w)
{
    for (uint32_t n = 0; n < w->ranks; n++) {
        if (!counts(w, n))
            continue;
        if (!w->coordinator_gone && !is_settled(w, n))
            sim_fail(w, "HANG: node %u is still %s (coordinator %s)", n, state_of(w, n),
                     weft_coordinator_state_name(w->coordinator->state));
        if (!w->coordinator_gone)
            check_transfers(w, n);
        if (sim_is_trainer(w, n))
            check_outcomes(w, n);
        else if (!w->coordinator_gone)
            check_commits(w, n);
    }
    if (w->faults == 0 && !w->options.dies && !w->in_place) /* an engine that does not pause in time gets nothing */
        check_quiet_run(w);
}
