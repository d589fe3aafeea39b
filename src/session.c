/* In: a plan and a transport. Out: a rank that knows its peers agree, with its communicators and its control
 * thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/base/log.h"
#include "src/introduction.h"
#include "src/session_private.h"

/* Ranks start their control threads within a transport's deadline of each other. */
#define WEFT_HELLO_US 30000000

static const weft_transport_ops_t *ops_of(const weft_session_t *s)
{
    return weft_transport_table(s->transport);
}

static weft_status_t check_relay(const weft_plan_t *plan, const weft_transport_t *transport, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    if (plan->relay && ops->lend)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "transport %s lends memory and needs no communicators: it takes a plan with direct routes "
                         "(max_groups of %zu or more)",
                         ops->name, plan->routes.count);
    return WEFT_OK;
}

static weft_status_t check_config(const weft_session_config_t *config, weft_error_t *error)
{
    if (config->struct_size != sizeof *config)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "weft_session_config_t has %zu bytes, expected %zu: start from WEFT_SESSION_CONFIG",
                         config->struct_size, sizeof *config);
    if (!config->plan || !config->transport == !config->service)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "a session needs a plan, and a transport or a service");
    if (config->service)
        return WEFT_OK;
    WEFT_TRY(check_relay(config->plan, config->transport, error));
    uint32_t expected = weft_plan_num_ranks(config->plan),
             found = weft_transport_num_ranks(config->transport);
    if (expected != found)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "the plan has %u trainer and %u rollout ranks, %u in all; the transport joins %u: start as many "
            "processes as the plan has ranks",
            weft_plan_num_trainers(config->plan), weft_plan_num_rollouts(config->plan), expected, found);
    return WEFT_OK;
}

static weft_status_t configure_control(weft_session_t *s, weft_error_t *error)
{
    weft_control_config_t control = WEFT_CONTROL_CONFIG_INIT;
    control.topology =
        (weft_topology_t){s->plan->trainer->num_ranks, s->plan->rollout->replicas, s->plan->rollout->tp};
    control.margin = s->config.margin_steps;
    control.dead_us = s->config.dead_after_us;
    control.hello_us = WEFT_HELLO_US;
    control.beat_us = s->config.dead_after_us / 6;
    control.publish_us = control.transfer_us = s->config.transfer_timeout_us;
    control.commit_us = s->config.commit_timeout_us;
    s->control = control;
    return weft_control_config_check(&s->control, error);
}

/* Rank 0's token is the session's: it comes over the transport, which only the session's ranks share. */
static weft_status_t share_token(weft_session_t *s, weft_introduction_t *all, weft_introduction_t *mine,
                                 weft_error_t *error)
{
    memset(mine, 0, sizeof *mine);
    mine->plan_hash = s->plan->hash;
    if (getrandom(mine->token, sizeof mine->token, 0) != (ssize_t)sizeof mine->token)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: no random bytes for the session's token", s->rank);
    return ops_of(s)->allgather(s->transport, mine, sizeof *mine, all, error);
}

static weft_status_t open_mailbox(weft_session_t *s, const weft_introduction_t *all, weft_error_t *error)
{
    weft_mailbox_config_t config = {
        .rank = s->rank,
        .host = s->config.host ? s->config.host : "127.0.0.1",
        .log = &s->config.log,
    };
    memcpy(config.token, all[0].token, sizeof config.token);
    return weft_mailbox_open(&config, &s->mailbox, error);
}

static weft_status_t connect_peers(weft_session_t *s, const weft_introduction_t *all, weft_error_t *error)
{
    uint32_t coordinator = s->control.coordinator;
    if (s->rank != coordinator)
        WEFT_TRY(weft_mailbox_connect(s->mailbox, coordinator, all[coordinator].endpoint, error));
    if (s->is_trainer)
        return WEFT_OK;
    uint32_t leader =
        weft_topology_leader(&s->control.topology, weft_topology_replica(&s->control.topology, s->rank));
    if (leader != s->rank && leader != coordinator)
        WEFT_TRY(weft_mailbox_connect(s->mailbox, leader, all[leader].endpoint, error));
    return WEFT_OK;
}

/* Exchange plans, token and endpoints; in two steps, because the mailbox needs the token. */
static weft_status_t introduce(weft_session_t *s, weft_introduction_t *all, weft_error_t *error)
{
    weft_introduction_t mine;
    WEFT_TRY(share_token(s, all, &mine, error));
    uint32_t ranks = weft_plan_num_ranks(s->plan);
    weft_status_t status = weft_introduction_compare(all, ranks, s->rank, s->plan->hash, error);
    if (status == WEFT_OK)
        status = open_mailbox(s, all, error);
    mine.failed = status != WEFT_OK;
    if (s->mailbox)
        strncpy(mine.endpoint, weft_mailbox_endpoint(s->mailbox), sizeof mine.endpoint - 1);
    weft_error_t second;
    weft_status_t met = ops_of(s)->allgather(s->transport, &mine, sizeof mine, all, &second);
    if (status != WEFT_OK)
        return status;
    if (met != WEFT_OK)
        return weft_fail(error, met, "%s", second.message);
    WEFT_TRY(weft_introduction_check(all, ranks, error));
    return connect_peers(s, all, error);
}

static bool has_rank(const uint32_t *ranks, uint32_t count, uint32_t rank)
{
    for (uint32_t i = 0; i < count; i++)
        if (ranks[i] == rank)
            return true;
    return false;
}

/* Those of group `index` that the transport joins: of a route its source first, then the set. */
static uint32_t list_group(const weft_session_t *s, uint32_t index, uint32_t *ranks)
{
    const weft_plan_t *plan = s->plan;
    uint32_t count = 0, kept = 0;
    if (!plan->relay)
        ranks[count++] = plan->routes.items[index].source;
    count += weft_set_ranks(plan, plan->relay ? index : plan->routes.items[index].set, ranks + count);
    for (uint32_t i = 0; i < count; i++)
        if (!s->service || weft_transport_has(weft_service_bootstrap(s->service), ranks[i]))
            ranks[kept++] = ranks[i];
    return kept;
}

/* A communicator for each route, or with relays for each set of several ranks. */
weft_status_t weft_session_create_groups(weft_session_t *s, weft_error_t *error)
{
    const weft_plan_t *plan = s->plan;
    s->num_groups = (uint32_t)(plan->relay ? plan->sets.count : plan->routes.count);
    s->groups = calloc(s->num_groups + 1, sizeof(weft_group_t *));
    uint32_t *ranks = malloc((plan->rollout->num_ranks + 1) * sizeof *ranks);
    weft_status_t status =
        s->groups && ranks ? WEFT_OK : weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the groups");
    for (uint32_t i = 0; i < s->num_groups && status == WEFT_OK; i++) {
        uint32_t count = list_group(s, i, ranks);
        if (count > 1 && has_rank(ranks, count, s->rank))
            status = ops_of(s)->group_create(s->transport, i, ranks, count, &s->groups[i], error);
    }
    free(ranks);
    return status;
}

void weft_session_destroy_groups(weft_session_t *s)
{
    for (uint32_t i = 0; s->groups && i < s->num_groups; i++)
        if (s->groups[i] && !s->transport_broken)
            ops_of(s)->group_destroy(s->transport, s->groups[i]);
    free(s->groups);
    s->groups = NULL;
    s->num_groups = 0;
}

/* All ranks meet once, over the transport. */
static weft_status_t meet_all(weft_session_t *s, weft_error_t *error)
{
    weft_introduction_t *all = calloc(weft_plan_num_ranks(s->plan), sizeof *all);
    if (!all)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %u introductions",
                         weft_plan_num_ranks(s->plan));
    weft_status_t status = introduce(s, all, error);
    free(all);
    return status == WEFT_OK ? weft_session_create_groups(s, error) : status;
}

static weft_status_t open_all(weft_session_t *s, weft_error_t *error)
{
    WEFT_TRY(configure_control(s, error));
    WEFT_TRY(s->config.service ? weft_session_join(s, error) : meet_all(s, error));
    WEFT_TRY(check_relay(s->plan, s->transport, error));
    return weft_control_start(s, error);
}

static void release(weft_session_t *s)
{
    weft_control_stop(s);
    weft_place_close(s->place);
    weft_mailbox_close(s->mailbox);
    weft_session_destroy_groups(s);
    if (s->config.service)
        weft_transport_close(s->transport);
    weft_service_close(s->service);
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->command_cond);
    pthread_cond_destroy(&s->step_cond);
    pthread_cond_destroy(&s->publish_cond);
    free(s);
}

weft_status_t weft_session_open(const weft_session_config_t *config, weft_session_t **session,
                                weft_error_t *error)
{
    WEFT_TRY(check_config(config, error));
    weft_session_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a session");
    made->config = *config;
    made->plan = config->plan;
    made->transport = config->transport;
    if (config->transport)
        made->rank = weft_transport_rank(config->transport);
    made->is_trainer = made->rank < made->plan->trainer->num_ranks;
    pthread_mutex_init(&made->mutex, NULL);
    weft_condition_init(&made->command_cond);
    weft_condition_init(&made->step_cond);
    weft_condition_init(&made->publish_cond);
    weft_status_t status = open_all(made, error);
    if (status != WEFT_OK) {
        release(made);
        return status;
    }
    *session = made;
    return WEFT_OK;
}

/* A rank that stops beating looks dead, so nobody leaves before all are ready to. */
static void leave_together(weft_session_t *s)
{
    uint8_t mine = 1;
    uint8_t *all = calloc(weft_plan_num_ranks(s->plan), 1);
    weft_error_t error;
    if (all && !s->transport_broken && ops_of(s)->allgather(s->transport, &mine, 1, all, &error) != WEFT_OK)
        weft_log_line(&s->config.log, WEFT_LOG_WARNING, "rank %u: closing without the others: %s", s->rank,
                      error.message);
    free(all);
}

void weft_session_close(weft_session_t *session)
{
    if (!session)
        return;
    if (!session->service)
        leave_together(session);
    release(session);
}

weft_transport_t *weft_session_transport(const weft_session_t *session)
{
    return session->transport;
}

uint64_t weft_session_incarnation(const weft_session_t *session)
{
    return session->control.incarnation;
}

uint32_t weft_session_rank(const weft_session_t *session)
{
    return session->rank;
}

bool weft_session_is_trainer(const weft_session_t *session)
{
    return session->is_trainer;
}

bool weft_session_abort_transport(weft_session_t *s)
{
    if (!s->transport_broken)
        s->buffers_free = ops_of(s)->abort(s->transport);
    s->transport_broken = true;
    return s->buffers_free;
}

weft_status_t weft_session_register(weft_session_t *s, void *memory, size_t bytes)
{
    return ops_of(s)->register_memory ? ops_of(s)->register_memory(s->transport, memory, bytes) : WEFT_OK;
}

bool weft_session_lends(const weft_session_t *s)
{
    return ops_of(s)->lend != NULL;
}

/* ---- place ---- */

typedef struct opening {
    const weft_session_t *session;
    int device;
    weft_queue_t *queue;
    weft_status_t status;
    weft_error_t *error;
} opening_t;

static void *open_nearby(void *user)
{
    opening_t *o = user;
    if (o->session->place)
        weft_place_bind_thread(o->session->place);
    o->status =
        weft_queue_open(weft_transport_base(o->session->transport)->queue, o->device, &o->queue, o->error);
    return NULL;
}

weft_status_t weft_session_open_queue(weft_session_t *s, weft_queue_t **queue, weft_error_t *error)
{
    const weft_transport_base_t *base = weft_transport_base(s->transport);
    opening_t opening = {.session = s, .device = base->device, .error = error};
    char bus_id[WEFT_BUS_ID_BYTES];
    pthread_t thread;
    if (!s->place && weft_queue_find(base->queue, base->device, &opening.device, bus_id))
        WEFT_TRY(weft_place_open(bus_id, &s->place, error));
    if (pthread_create(&thread, NULL, open_nearby, &opening) != 0)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: no thread can be started", s->rank);
    pthread_join(thread, NULL);
    if (opening.status == WEFT_OK && s->config.workers && opening.queue->ops->set_workers) {
        opening.status = opening.queue->ops->set_workers(opening.queue, s->config.workers, error);
        if (opening.status != WEFT_OK)
            weft_queue_close(opening.queue);
    }
    if (opening.status != WEFT_OK)
        weft_error_prefix(error, "rank %u", s->rank);
    else
        *queue = opening.queue;
    s->eager = opening.status == WEFT_OK && !opening.queue->ops->on_host;
    return opening.status;
}

void weft_session_progress_begin(weft_session_t *s, weft_queue_t *queue)
{
    if (s->place)
        weft_place_bind_thread(s->place);
    prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul); /* ns: naps of this thread are microseconds */
    queue->ops->thread_begin(queue);
}

void weft_session_place(const weft_session_t *s, char *text, size_t bytes)
{
    char line[WEFT_PLACE_TEXT_BYTES] = "no GPU: threads and memory are where the launcher put the process";
    if (s->place)
        weft_place_text(s->place, line);
    snprintf(text, bytes, "%s", line);
}

void weft_session_span(weft_session_t *s, const char *name, uint64_t start_ns, uint64_t version,
                       uint32_t index)
{
    if (!s->config.span)
        return;
    weft_span_t span = {name, start_ns, weft_now_ns(), version, index};
    s->config.span(s->config.span_user, &span);
}
