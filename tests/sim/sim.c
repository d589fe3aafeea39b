/* One schedule: set up a world from a seed, let time run, carry actions out. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/world.h"

weft_mutation_t weft_mutation;

#define END_US  (90 * 1000 * SIM_MS)
#define PROBE_US (15 * 1000 * SIM_MS)

/* ---- actions ---- */

static uint64_t network_delay(sim_world_t *w)
{
    bool slow = w->now_us < w->heal_us && sim_chance(w, w->slow_percent);
    return slow ? sim_random(w, 1200 * SIM_MS) : 200 + sim_random(w, 12 * SIM_MS);
}

static void put_on_wire(sim_world_t *w, const weft_message_t *message, uint64_t delay_us)
{
    uint16_t body = sim_take_body(w);
    w->body[body].message = *message;
    uint32_t node = message->role == WEFT_ROLE_COORDINATOR ? SIM_COORDINATOR : message->to;
    sim_push(w, w->now_us + delay_us, (sim_entry_t){.kind = SIM_MESSAGE, .node = (uint16_t)node, .body = body});
}

static void count_message(sim_world_t *w, const weft_message_t *m)
{
    w->coverage->dropped_for_digest += m->type == WEFT_MESSAGE_DROP;
    w->coverage->reappointed += m->type == WEFT_MESSAGE_AUTHORIZE && (m->flags & WEFT_FLAG_RECOVER) != 0;
    w->coverage->commit += m->type == WEFT_MESSAGE_COMMIT;
}

static void send(sim_world_t *w, uint32_t n, const weft_message_t *message)
{
    count_message(w, message);
    bool faulty = w->now_us < w->heal_us;
    sim_say(w, "    %u -> %u %s%s version %llu state %u ballot %llx at_step %llu limit %llu", message->from,
            message->to, weft_message_type_name(message->type), message->role >= WEFT_ROLE_LEADER ? "*" : "",
            (unsigned long long)message->version, message->state, (unsigned long long)message->ballot,
            (unsigned long long)message->at_step, (unsigned long long)message->limit);
    if (faulty && sim_chance(w, w->loss_percent)) {
        w->coverage->message_lost++;
        return;
    }
    if (!sim_hears(w, n, message->role == WEFT_ROLE_COORDINATOR ? SIM_COORDINATOR : message->to)) {
        w->coverage->partitioned++;
        return;
    }
    put_on_wire(w, message, network_delay(w));
    if (faulty && sim_chance(w, w->repeat_percent)) {
        w->coverage->message_repeated++;
        bool very_late = sim_chance(w, 25); /* after a silence that kills, a restart, versions that came and went */
        w->coverage->message_very_late += very_late;
        put_on_wire(w, message, sim_random(w, (very_late ? 4000 : 1000) * SIM_MS));
    }
}

static void notify(sim_world_t *w, uint32_t n, const weft_action_t *action)
{
    uint32_t index = sim_index(w, action->version);
    if (!sim_is_trainer(w, n)) {
        sim_hear_load(w, n, action);
        return;
    }
    sim_say(w, "trainer %u: version %llu %s %s: %s", n, (unsigned long long)action->version,
            weft_outcome_name(action->outcome), weft_status_name(action->status), action->text);
    if (action->outcome == WEFT_OUTCOME_RELEASED) {
        w->coverage->version_released++;
        return;
    }
    if (w->node[n].outcome[index] != WEFT_OUTCOME_NONE)
        sim_fail(w, "trainer %u hears twice what became of version %llu", n,
                 (unsigned long long)action->version);
    w->node[n].outcome[index] = action->outcome;
    w->node[n].outcome_status[index] = action->status;
    w->coverage->version_applied += action->outcome == WEFT_OUTCOME_APPLIED;
    w->coverage->version_partial += action->outcome == WEFT_OUTCOME_PARTIAL;
    w->coverage->version_failed += action->outcome == WEFT_OUTCOME_FAILED;
    w->coverage->timed_out += action->status == WEFT_ERR_TIMEOUT;
    w->coverage->superseded += action->status == WEFT_ERR_SUPERSEDED;
    w->coverage->superseded_unbegun +=
        action->status == WEFT_ERR_SUPERSEDED && !w->transfer[index][n].started;
    w->coverage->partial_for_later +=
        action->status == WEFT_ERR_SUPERSEDED && action->outcome == WEFT_OUTCOME_PARTIAL;
    w->coverage->subset_without_base += action->status == WEFT_ERR_BASE;
    w->coverage->contents_differ += action->status == WEFT_ERR_ARGUMENT;
    w->coverage->order_refused += action->status == WEFT_ERR_VERSION_ORDER;
    w->coverage->publish_below_load += strstr(action->text, "loaded from disk") != NULL;
    w->coverage->load_number_published += w->load[index];
    sim_check_outcome(w, n, action);
}

static void fenced(sim_world_t *w, uint32_t n, const weft_action_t *action)
{
    sim_say(w, "node %u is FENCED: %s", n, action->text);
    w->coverage->rank_fenced++;
    w->coverage->zombie_fenced += w->node[n].ever_troubled;
    w->node[n].fence_told = true;
    if (action->status == WEFT_ERR_INTERNAL)
        sim_fail(w, "TORN (prevented by the guard): %s", action->text);
    if (w->rejoins)
        sim_call_back(w, n, 1500 * SIM_MS);
}

/* The node whose machine is handling an event. */
typedef struct actor {
    sim_world_t *w;
    uint32_t node;
} actor_t;

static void carry_out(void *user, const weft_action_t *action)
{
    actor_t *actor = user;
    sim_world_t *w = actor->w;
    uint32_t n = actor->node;
    sim_node_t *node = &w->node[n];
    if (!node->alive)
        return; /* it died at an action before this one */
    switch (action->type) {
    case WEFT_ACTION_SEND:
        send(w, n, action->message);
        break;
    case WEFT_ACTION_START_TRANSFER:
        sim_start_transfer(w, n, action);
        break;
    case WEFT_ACTION_REPORT_POSTED:
        sim_report_posted(w, n, action->version);
        break;
    case WEFT_ACTION_STOP_TRANSFER_AT:
        sim_stop_transfer_at(w, n, action->version, action->round);
        break;
    case WEFT_ACTION_ABORT_TRANSFER:
        sim_abort_transfer(w, n, action->version);
        break;
    case WEFT_ACTION_DISCARD_STAGE:
        sim_check_discarded(w, n, action->version);
        break;
    case WEFT_ACTION_TRY_SWAP:
        sim_schedule(w, sim_random(w, 10 * SIM_MS), SIM_TRY_SWAP, n, 0);
        break;
    case WEFT_ACTION_NOTIFY:
        notify(w, n, action);
        break;
    case WEFT_ACTION_FENCE:
        fenced(w, n, action);
        break;
    case WEFT_ACTION_ENTER_EPOCH:
        sim_enter_epoch(w, n, action->epoch);
        break;
    case WEFT_ACTION_STORE_TERM:
        w->stored_term = w->storage ? action->term : 0;
        w->stored_epoch = w->storage ? action->epoch : SIM_FIRST_EPOCH;
        break;
    case WEFT_ACTION_LOG:
        sim_say(w, "%s", action->text);
        if (action->level == WEFT_LOG_ERROR)
            sim_fail(w, "%s", action->text);
        return;
    case WEFT_ACTION_NOTE_NEWEST:
        sim_check_newest(w, n, action->version);
        break;
    case WEFT_ACTION_WAKE_STEPS:
        break;
    }
    if (++node->actions == node->crash_after)
        sim_crash(w, n);
}

/* ---- events ---- */

void sim_give(sim_world_t *w, uint32_t n, weft_role_t role, const weft_event_t *event)
{
    actor_t actor = {w, n};
    weft_sink_t sink = {carry_out, &actor, w->options.trace != NULL ? WEFT_LOG_DEBUG : WEFT_LOG_ERROR};
    sim_node_t *node = &w->node[n];
    if (role == WEFT_ROLE_COORDINATOR)
        weft_coordinator_handle(w->coordinator, event, &sink);
    else if (role == WEFT_ROLE_TRAINER)
        weft_trainer_machine_handle(&node->trainer, event, &sink);
    else if (role == WEFT_ROLE_LEADER)
        weft_leader_machine_handle(&node->leader, event, &sink);
    else
        weft_rank_machine_handle(&node->rank, event, &sink);
}

/* One with nothing in hand only reports now and then: it is looked at less often. */
static uint64_t tick_us(const sim_world_t *w, uint32_t n)
{
    bool idle = n == SIM_COORDINATOR     ? w->coordinator->state == WEFT_COORDINATOR_IDLE
                : sim_is_trainer(w, n) ? w->node[n].trainer.state == WEFT_TRAINER_IDLE
                                       : w->node[n].rank.state == WEFT_RANK_IDLE;
    return idle ? 3 * SIM_TICK_US : SIM_TICK_US;
}

static void tick(sim_world_t *w, uint32_t n)
{
    weft_event_t event = {.type = WEFT_EVENT_TICK, .now_us = w->now_us};
    if (n == SIM_COORDINATOR)
        sim_give(w, n, WEFT_ROLE_COORDINATOR, &event);
    else
        sim_give(w, n, sim_is_trainer(w, n) ? WEFT_ROLE_TRAINER : WEFT_ROLE_RANK, &event);
    if (sim_leads(w, n) && w->node[n].alive)
        sim_give(w, n, WEFT_ROLE_LEADER, &event);
    sim_schedule(w, tick_us(w, n), SIM_TICK, n, 0);
}

/* What this message found and left behind, for the counters. */
static void count_transition(sim_world_t *w, uint32_t n, const weft_message_t *m, weft_rank_state_t before)
{
    const sim_node_t *node = &w->node[n];
    weft_rank_state_t after = node->rank.state;
    if (m->type == WEFT_MESSAGE_FREEZE && before == WEFT_RANK_COMMITTED) {
        w->coverage->lowered_commit += after == WEFT_RANK_FROZEN;
        w->coverage->freeze_lost_to_swap += after != WEFT_RANK_FROZEN;
    }
    if (after == WEFT_RANK_FROZEN && before != WEFT_RANK_FROZEN)
        for (uint32_t i = 0; i < w->tp; i++)
            w->coverage->frozen_beside_applied +=
                weft_guard_live(&w->node[sim_first_of(w, sim_replica_of(w, n)) + i].guard) == m->version;
    w->coverage->parked_commit += m->type == WEFT_MESSAGE_COMMIT && before == WEFT_RANK_FROZEN;
    w->coverage->first_version_parked += m->type == WEFT_MESSAGE_COMMIT && m->at_step == 1;
}

/* What a command may change of a rank. */
typedef struct rank_mark {
    weft_rank_state_t state;
    uint64_t word, version, live, done, promised, accepted, at_step, limit;
} rank_mark_t;

static rank_mark_t mark_of(const sim_node_t *node)
{
    const weft_rank_machine_t *m = &node->rank;
    return (rank_mark_t){m->state,    node->guard.word, m->version, m->live, m->done,
                         m->promised, m->accepted,      m->at_step, m->limit};
}

static bool same_mark(const rank_mark_t *a, const rank_mark_t *b)
{
    return a->state == b->state && a->word == b->word && a->version == b->version && a->live == b->live &&
           a->done == b->done && a->promised == b->promised && a->accepted == b->accepted &&
           a->at_step == b->at_step && a->limit == b->limit;
}

/* A command that comes again at once changes nothing. */
static void deliver_again(sim_world_t *w, uint32_t n, const weft_message_t *message, const weft_event_t *event)
{
    rank_mark_t before = mark_of(&w->node[n]);
    w->coverage->commit_repeated += message->type == WEFT_MESSAGE_COMMIT;
    sim_give(w, n, message->role, event);
    rank_mark_t after = mark_of(&w->node[n]);
    if (!same_mark(&before, &after))
        sim_fail(w, "TWICE: %s of version %llu, again, changes node %u", weft_message_type_name(message->type),
                 (unsigned long long)message->version, n);
}

static void deliver(sim_world_t *w, uint32_t n, const weft_message_t *message)
{
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = w->now_us, .message = message};
    weft_rank_state_t before = n < SIM_MAX_RANKS ? w->node[n].rank.state : WEFT_RANK_IDLE;
    sim_give(w, n, message->role, &event);
    if (message->role != WEFT_ROLE_RANK)
        return;
    count_transition(w, n, message, before);
    if (w->node[n].alive && sim_chance(w, 15))
        deliver_again(w, n, message, &event);
}

static void inject(sim_world_t *w, uint32_t n, const sim_injection_t *in)
{
    weft_event_t event = {.type = in->type,
                          .now_us = w->now_us,
                          .version = in->version,
                          .step = in->step,
                          .round = in->round,
                          .digest = in->digest,
                          .status = in->status,
                          .text = "as the schedule wants"};
    sim_give(w, n, sim_is_trainer(w, n) ? WEFT_ROLE_TRAINER : WEFT_ROLE_RANK, &event);
}

/* A program that goes wrong: one trainer names other layers than the others. */
static void describe_content(sim_world_t *w, uint32_t n, uint32_t index, weft_content_t *content)
{
    bool differs = (w->faults & SIM_FAULT_ORDER) != 0 && n != 0 && index != w->probe && sim_chance(w, 4);
    if (w->whole[index] && !differs)
        return;
    content->base = w->version[index - 1];
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        content->subset[l] = w->subset[index][l] ? '1' : '0';
    content->subset[0] = differs ? 'x' : content->subset[0];
}

static void publish(sim_world_t *w, uint32_t n)
{
    sim_node_t *node = &w->node[n];
    if (node->published == w->versions)
        return;
    if (sim_is_early(w, n, node->published + 1)) {
        sim_schedule(w, sim_random(w, 200 * SIM_MS), SIM_PUBLISH, n, 0);
        return;
    }
    if (weft_trainer_machine_has_room(&node->trainer) || node->trainer.state == WEFT_TRAINER_FENCED) {
        w->coverage->second_version_queued += node->trainer.version != 0;
        uint64_t version = w->version[++node->published];
        bool disorder = (w->faults & SIM_FAULT_ORDER) != 0 && node->published != w->probe;
        bool leaves_out = disorder && node->published < w->versions && sim_chance(w, 8);
        if (w->load[node->published]) /* not theirs; a program that goes wrong publishes the same number */
            leaves_out = !disorder || sim_chance(w, 70);
        if (leaves_out)
            node->outcome[node->published] = WEFT_OUTCOME_FAILED;
        weft_event_t event = {.type = WEFT_EVENT_PUBLISH,
                              .now_us = w->now_us,
                              .version = version,
                              .supersedes = w->supersedes[node->published]};
        describe_content(w, n, node->published, &event.content);
        if (!leaves_out)
            sim_give(w, n, WEFT_ROLE_TRAINER, &event);
    }
    uint64_t late = (w->faults & SIM_FAULT_ORDER) != 0 && sim_chance(w, 10) ? 5000 * SIM_MS : 0;
    sim_schedule(w, sim_random(w, 700 * SIM_MS) + late, SIM_PUBLISH, n, 0);
}

static void restart(sim_world_t *w)
{
    w->coordinator_starts++;
    w->coverage->coordinator_restarted++;
    w->coverage->restarted_without_storage += !w->storage;
    w->node[SIM_COORDINATOR].alive = true;
    w->node[SIM_COORDINATOR].life++;
    w->node[SIM_COORDINATOR].crash_after = 0;
    w->config.epoch = w->stored_epoch;
    w->restarted_us = w->now_us;
    weft_coordinator_init(w->coordinator, &w->config, 0, w->stored_term, w->now_us);
    sim_schedule(w, 0, SIM_TICK, SIM_COORDINATOR, 0);
}

/* True for what happens to a process whichever life it is in, or to none. */
static bool outlives(uint16_t kind)
{
    return kind == SIM_TRAFFIC || kind == SIM_INSPECT || kind == SIM_RESTART || kind == SIM_MESSAGE || kind == SIM_BIRTH ||
           kind == SIM_CUT || kind == SIM_CRASH || kind == SIM_STALL || kind == SIM_LEAVE;
}

/* A process that stands still does nothing, and finds everything waiting when it comes back. */
static bool is_put_off(sim_world_t *w, const sim_entry_t *entry)
{
    sim_node_t *node = &w->node[entry->node];
    if (node->stalled_until_us <= w->now_us)
        return false;
    sim_push(w, node->stalled_until_us, *entry);
    return true;
}

static void happen(sim_world_t *w, const sim_entry_t *entry)
{
    uint32_t n = entry->node;
    switch ((sim_kind_t)entry->kind) {
    case SIM_TICK:
        tick(w, n);
        break;
    case SIM_MESSAGE:
        deliver(w, n, &w->body[entry->body].message);
        break;
    case SIM_DATA:
        sim_move_data(w, n);
        break;
    case SIM_STEP:
        sim_move_step(w, n);
        break;
    case SIM_TRY_SWAP:
        sim_try_swap(w, n, false);
        break;
    case SIM_SWAP_END:
        sim_end_swap(w, n);
        break;
    case SIM_INJECT:
        inject(w, n, &w->body[entry->body].injection);
        break;
    case SIM_PUBLISH:
        publish(w, n);
        break;
    case SIM_LOAD:
        sim_load(w, n);
        break;
    case SIM_STALL:
        if (w->now_us >= w->heal_us)
            break; /* it stood still when it should have */
        sim_say(w, "node %u STALLS for %llu ms", n, (unsigned long long)entry->argument / 1000);
        w->node[n].stalled_until_us = w->now_us + entry->argument;
        w->node[n].ever_troubled = true;
        break;
    case SIM_CRASH:
        sim_crash(w, n);
        break;
    case SIM_LEAVE:
        sim_leave(w, n, entry->argument != 0);
        break;
    default: /* not of a living node */
        break;
    }
}

/* ---- time ---- */

/* Two looks in a row must find everything settled: the first may have met the moment between two versions. */
static bool inspect(sim_world_t *w, uint64_t found_before)
{
    bool over = sim_is_settled(w) || (w->coordinator_gone && w->now_us > w->heal_us + 40000 * SIM_MS);
    over = over && w->node[SIM_COORDINATOR].stalled_until_us <= w->now_us;
    for (uint32_t n = 0; over && n < w->ranks; n++)
        over = w->node[n].stalled_until_us <= w->now_us;
    if (over && found_before && (w->coordinator_gone || w->probe != 0 || !sim_probe(w)))
        return true;
    over &= !found_before;
    if (w->probe != 0 && w->now_us > w->probe_us + PROBE_US)
        sim_fail(w, "HANG: version %llu, after all trouble, does not go through",
                 (unsigned long long)w->version[w->probe]);
    sim_schedule(w, over ? 300 * SIM_MS : 150 * SIM_MS, SIM_INSPECT, 0, over);
    return false;
}

static bool step_time(sim_world_t *w)
{
    sim_entry_t entry;
    if (!sim_pop(w, &entry) || sim_time_of(&entry) > END_US)
        return false;
    w->now_us = sim_time_of(&entry);
    if (entry.kind == SIM_INSPECT)
        return !inspect(w, entry.argument);
    bool over = entry.life != w->node[entry.node].life && !outlives(entry.kind);
    if (entry.kind == SIM_TRAFFIC)
        sim_add_traffic(w, entry.node);
    else if (entry.kind == SIM_RESTART)
        restart(w);
    else if (entry.kind == SIM_BIRTH)
        sim_bear(w, entry.node, entry.argument);
    else if (entry.kind == SIM_CUT)
        sim_cut(w, entry.argument);
    else if (!over && is_put_off(w, &entry))
        return w->failure == NULL;
    else if (!over && w->node[entry.node].alive)
        happen(w, &entry);
    if (entry.body != SIM_NO_BODY && (entry.kind == SIM_MESSAGE || entry.kind == SIM_INJECT))
        sim_return_body(w, entry.body);
    return w->failure == NULL;
}

static void count_end(sim_world_t *w)
{
    bool applied = false, aborted = false;
    for (uint32_t r = 0; r < w->replicas; r++) {
        w->coverage->replica_lost += w->coordinator->replica[r] == WEFT_REPLICA_LOST;
        applied |= w->coordinator->replica[r] == WEFT_REPLICA_APPLIED;
        aborted |= w->coordinator->replica[r] == WEFT_REPLICA_ABORTED;
    }
    w->coverage->applied_beside_aborted += applied && aborted;
    w->coverage->recovered_stop += w->coordinator->recovered && w->coordinator->stop_decided;
}

static sim_world_t *the_world(void)
{
    static sim_world_t *w;
    if (w == NULL) {
        w = calloc(1, sizeof *w);
        w->coordinator = calloc(1, sizeof *w->coordinator);
    }
    return w;
}

uint64_t sim_count_actions(const sim_options_t *options)
{
    sim_world_t *w = the_world();
    sim_options_t unharmed = *options;
    sim_coverage_t coverage = {0};
    unharmed.dies = true;
    unharmed.dies_after = UINT64_MAX;
    sim_run(&unharmed, &coverage);
    return w->node[sim_dying_node(w)].actions;
}

const char *sim_run(const sim_options_t *options, sim_coverage_t *coverage)
{
    sim_world_t *w = the_world();
    sim_set_up(w, options, coverage);
    while (step_time(w))
        ;
    if (w->failure == NULL)
        sim_check_end(w);
    if (w->failure == NULL && w->probe != 0)
        sim_check_probe(w);
    count_end(w);
    return w->failure;
}
