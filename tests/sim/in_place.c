/* Swap layerwise: no stage. The engine pauses, a version is written over what serves, and steps go on when it is live; one
 * that is given up after its first byte leaves the rank tainted. The window is the real one; the truth beside it is
 * `mixed`. */
#include "tests/sim/world.h"

static weft_window_state_t window_now(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    if (node->window.state != WEFT_WINDOW_WRITTEN)
        return node->window.state;
    weft_window_given_up(&node->window, node->given_up);
    w->coverage->tainted += node->window.state == WEFT_WINDOW_TAINTED;
    return node->window.state;
}

bool sim_may_step(sim_world_t *w, uint32_t n)
{
    return !w->in_place || window_now(w, n) == WEFT_WINDOW_RUNNING;
}

/* ---- the engine ---- */

/* With no step open, and nothing to do. One that the version it is to pause for has reached already runs on. */
void sim_rest(sim_world_t *w, uint32_t n)
{
    sim_replica_t *r = &w->replica[sim_replica_of(w, n)];
    bool asked = r->pausing && w->node[n].generation == r->run_generation;
    if (w->in_place && asked && weft_guard_live(&w->node[n].guard) <= r->paused_on)
        weft_window_pause(&w->node[n].window);
}

static uint64_t lowest_live(const sim_world_t *w, uint32_t replica)
{
    uint64_t lowest = UINT64_MAX;
    for (uint32_t n = sim_first_of(w, replica), end = n + w->tp; n < end; n++) {
        uint64_t live = weft_guard_live(&w->node[n].guard);
        lowest = live < lowest ? live : lowest;
    }
    return lowest;
}

static bool all_rest(const sim_world_t *w, uint32_t replica)
{
    for (uint32_t n = sim_first_of(w, replica), end = n + w->tp; n < end; n++)
        if (!w->node[n].rests || w->node[n].step != w->replica[replica].highest_step)
            return false;
    return true;
}

/* All ranks go on, or none: those that could pause again. */
static bool resume(sim_world_t *w, uint32_t replica)
{
    uint32_t first = sim_first_of(w, replica), resumed = 0;
    for (uint32_t n = first; n < first + w->tp; n++)
        resumed += window_now(w, n) != WEFT_WINDOW_TAINTED && weft_window_resume(&w->node[n].window);
    if (resumed == w->tp) {
        w->coverage->resumed++;
        return true;
    }
    w->coverage->resume_refused++;
    for (uint32_t n = first; n < first + w->tp; n++)
        weft_window_pause(&w->node[n].window);
    return false;
}

/* The engine's word on each of its ranks at once: whether it runs steps. It pauses for good when no requests come. */
bool sim_pause_or_resume(sim_world_t *w, uint32_t replica)
{
    sim_replica_t *r = &w->replica[replica];
    bool over = w->now_us >= w->traffic_until_us;
    if (!w->in_place)
        return true;
    bool renewed = lowest_live(w, replica) > r->paused_on;
    if (r->pausing && all_rest(w, replica) && (renewed || (!over && sim_chance(w, 30))))
        r->pausing = !resume(w, replica);
    else if (!r->pausing && (over || sim_chance(w, 50)))
        r->pausing = true;
    if (r->pausing)
        r->paused_on = lowest_live(w, replica);
    return !r->pausing;
}

/* ---- the data path ---- */

static void refuse(sim_world_t *w, uint32_t n, uint32_t index)
{
    w->coverage->subset_over_tainted++;
    w->transfer[index][n].unread = true;
    sim_inject(w, n, 0,
               (sim_injection_t){.type = WEFT_EVENT_TRANSFER_REFUSED,
                                 .version = w->version[index],
                                 .status = WEFT_ERR_TAINTED});
}

/* **Returns** whether the transfer may go on: the engine has paused, or the bytes are not wanted any more. */
bool sim_may_write(sim_world_t *w, uint32_t n, uint32_t index)
{
    sim_node_t *node = &w->node[n];
    sim_transfer_t *mine = &w->transfer[index][n];
    if (!w->in_place || sim_is_trainer(w, n) || mine->written || mine->unread)
        return true;
    if (mine->stop_known) {
        w->coverage->stopped_unwritten++;
        return mine->unread = true;
    }
    bool tainted = window_now(w, n) == WEFT_WINDOW_TAINTED, unserved = weft_guard_live(&node->guard) == 0;
    if (tainted && !w->whole[index]) {
        refuse(w, n, index);
        return true;
    }
    mine->written = weft_window_write(&node->window, w->version[index], w->whole[index], unserved);
    node->mixed |= mine->written;
    w->coverage->mended += mine->written && tainted;
    w->coverage->write_waited += !mine->written;
    return mine->written;
}
