/* The data path as the protocol sees it: rounds that are collectives. A round is finished on a rank when
 * everyone who takes part has posted it; whoever never posts it hangs all others. That is what STOP and
 * STOP_AT are there for. */
#include "tests/sim/world.h"

static bool takes_part(const sim_world_t *w, weft_members_t members, uint32_t node)
{
    return sim_is_trainer(w, node) || weft_members_has(members, sim_replica_of(w, node));
}

static bool same(weft_members_t a, weft_members_t b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static void keep_moving(sim_world_t *w, uint32_t node)
{
    sim_schedule(w, 1 * SIM_MS + sim_random(w, 25 * SIM_MS), SIM_DATA, node, 0);
}

void sim_maybe_refuse(sim_world_t *w, uint32_t index, uint32_t node)
{
    sim_transfer_t *mine = &w->transfer[index][node];
    sim_injection_t event = {.version = w->version[index]};
    if (w->refuse_node[index] == node && w->refuse_round[index] == mine->completed) {
        event.type = WEFT_EVENT_TRANSFER_REFUSED;
        event.status = WEFT_ERR_NONFINITE;
        sim_inject(w, node, 0, event);
    } else if (w->fail_node[index] == node && !mine->load && mine->completed == 1) {
        event.type = WEFT_EVENT_TRANSFER_FAILED;
        event.status = WEFT_ERR_TRANSPORT;
        mine->aborted = true;
        sim_inject(w, node, 0, event);
    }
}

void sim_start_transfer(sim_world_t *w, uint32_t node, const weft_action_t *action)
{
    uint64_t version = action->version;
    weft_members_t members = action->members;
    bool load = action->content->load;
    uint32_t index = sim_index(w, version);
    sim_transfer_t *mine = &w->transfer[index][node];
    if (index == 0 || (mine->started && !mine->aborted))
        sim_fail(w, "node %u starts the transfer of version %llu twice, or of an unknown one", node,
                 (unsigned long long)version);
    for (uint32_t n = 0; n < w->ranks; n++) {
        bool sound = w->node[n].alive && !w->coordinator->peer[n].dead && !w->transfer[index][n].aborted &&
                     !w->node[n].fence_told;
        if (sound && w->transfer[index][n].started && !same(w->transfer[index][n].members, members))
            sim_fail(w, "nodes %u and %u disagree on who takes part in version %llu", node, n,
                     (unsigned long long)version);
    }
    if (!takes_part(w, members, node) || (load && !w->node[node].asked[index]))
        sim_fail(w, "node %u starts a transfer it takes no part in, or a load it did not ask for", node);
    *mine = (sim_transfer_t){.started = true, .members = members, .load = load};
    w->node[node].transfer_version = version;
    sim_maybe_refuse(w, index, node);
    keep_moving(w, node);
}

void sim_report_posted(sim_world_t *w, uint32_t node, uint64_t version)
{
    sim_transfer_t *mine = &w->transfer[sim_index(w, version)][node];
    mine->frozen = true;
    sim_inject(w, node, sim_random(w, 10 * SIM_MS),
               (sim_injection_t){.type = WEFT_EVENT_POSTED, .version = version, .round = mine->posted});
}

void sim_stop_transfer_at(sim_world_t *w, uint32_t node, uint64_t version, uint32_t round)
{
    sim_transfer_t *mine = &w->transfer[sim_index(w, version)][node];
    if (!mine->frozen || round < mine->posted)
        sim_fail(w, "node %u is to stop version %llu at round %u but has posted %u", node,
                 (unsigned long long)version, round, mine->posted);
    if (round == 0)
        w->coverage->stopped_at_zero++;
    else
        w->coverage->stopped_at_round++;
    mine->stop_known = true;
    mine->stop_round = round;
    w->node[node].transfer_version = version;
    keep_moving(w, node);
}

void sim_abort_transfer(sim_world_t *w, uint32_t node, uint64_t version)
{
    w->transfer[sim_index(w, version)][node].aborted = true;
    w->coverage->transfer_aborted++;
}

/* How many rounds this node may have posted by now: two beyond what it finished, none beyond where it was
 * stopped. */
static uint32_t may_post(const sim_world_t *w, uint32_t index, const sim_transfer_t *mine)
{
    uint32_t end = w->rounds[index];
    if (mine->stop_known && mine->stop_round < end)
        end = mine->stop_round;
    if (mine->frozen && !mine->stop_known)
        end = mine->posted;
    return end < mine->completed + 2 ? end : mine->completed + 2;
}

static bool everyone_posted(const sim_world_t *w, uint32_t index, uint32_t node, const sim_transfer_t *mine)
{
    for (uint32_t n = 0; n < w->ranks; n++)
        if (takes_part(w, mine->members, n) &&
            (w->transfer[index][n].posted <= mine->completed || !sim_hears(w, node, n)))
            return false;
    return true;
}

static uint64_t digest_of(const sim_world_t *w, uint32_t index, uint32_t node)
{
    uint64_t digest = w->version[index] * 100 + (node - w->trainers) % w->tp + 1;
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        digest = digest * 31 + w->node[node].layers[index][l];
    return w->digest_node[index] == node ? digest + 50 : digest;
}

/* What a subset does not carry is taken over from what serves. */
static void stage(sim_world_t *w, uint32_t index, uint32_t node)
{
    uint32_t live = sim_index(w, weft_guard_live(&w->node[node].guard));
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        w->node[node].layers[index][l] = w->subset[index][l] ? index : w->node[node].layers[live][l];
}

void sim_finish_transfer(sim_world_t *w, uint32_t index, uint32_t node)
{
    sim_injection_t done = {.type = WEFT_EVENT_SENT, .version = w->version[index]};
    if (w->transfer[index][node].unread)
        return;
    if (!sim_is_trainer(w, node)) {
        done.type = WEFT_EVENT_TRANSFER_DONE;
        stage(w, index, node);
        done.digest.word[0] = w->node[node].staged[index] = digest_of(w, index, node);
    }
    sim_inject(w, node, sim_random(w, 5 * SIM_MS), done);
}

void sim_move_data(sim_world_t *w, uint32_t node)
{
    uint64_t version = w->node[node].transfer_version;
    uint32_t index = sim_index(w, version);
    sim_transfer_t *mine = &w->transfer[index][node];
    if (version == 0 || mine->aborted)
        return;
    if (mine->load) {
        sim_move_load(w, node, index);
        return;
    }
    if (!sim_may_write(w, node, index)) {
        keep_moving(w, node);
        return;
    }
    if (mine->posted < may_post(w, index, mine))
        mine->posted++;
    if (mine->completed < mine->posted && everyone_posted(w, index, node, mine)) {
        mine->completed++;
        sim_maybe_refuse(w, index, node);
        if (mine->completed == w->rounds[index])
            sim_finish_transfer(w, index, node);
    }
    bool drained =
        mine->stop_known && (mine->completed >= mine->stop_round || mine->completed == w->rounds[index]);
    if (drained && !mine->finished)
        sim_inject(w, node, sim_random(w, 5 * SIM_MS),
                   (sim_injection_t){.type = WEFT_EVENT_DRAINED, .version = version});
    if (drained)
        mine->finished = true;
    else if (mine->completed < w->rounds[index])
        keep_moving(w, node);
}
