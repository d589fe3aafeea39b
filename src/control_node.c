/* In: messages from other ranks, events from this process. Out: messages, and commands to the progress
 * thread. Invariant: only this thread touches the machines and the mailbox; it never waits for anything but
 * the mailbox.
 *
 * What one process says to itself is carried out before anything leaves it: the leader's whole exchange with
 * the rank beside it takes microseconds, and a message to another process tens of them. Of several reports
 * that wait to leave the last is enough. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/base/log.h"
#include "src/pause.h"
#include "src/session_private.h"

#define POLL_US   10000
#define MOST_HELD 32u /* messages that may be handled while others wait to leave */

/* A lost message is sent again by the machines. */
static void flush_outbox(weft_session_t *s)
{
    for (uint32_t i = 0; i < s->num_outgoing; i++)
        weft_mailbox_send(s->mailbox, s->outbox[i].to, s->outbox[i].data, s->outbox[i].bytes);
    s->num_outgoing = s->num_held = 0;
}

static bool is_report(const weft_message_t *message)
{
    return message->type == WEFT_MESSAGE_TRAINER_STATE || message->type == WEFT_MESSAGE_RANK_STATE;
}

/* Where to put it: over the earlier report that says less, or behind the others. */
static weft_outgoing_t *find_place(weft_session_t *s, const weft_message_t *message)
{
    for (uint32_t i = 0; i < s->num_outgoing && is_report(message); i++)
        if (s->outbox[i].to == message->to && s->outbox[i].role == message->role &&
            s->outbox[i].type == message->type)
            return &s->outbox[i];
    if (s->num_outgoing == WEFT_OUTBOX_LENGTH)
        flush_outbox(s);
    return &s->outbox[s->num_outgoing++];
}

static void send_message(weft_session_t *s, const weft_message_t *message)
{
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    if (message->to == s->rank) {
        weft_mailbox_send(s->mailbox, message->to, bytes, weft_message_encode(message, bytes));
        return;
    }
    weft_outgoing_t *place = find_place(s, message);
    place->to = message->to;
    place->role = message->role;
    place->type = message->type;
    place->bytes = weft_message_encode(message, place->data);
}

static weft_publication_t *find_publication(weft_session_t *s, uint64_t version)
{
    for (unsigned i = 0; i < WEFT_PUBLICATIONS; i++)
        if (s->publications[i].version == version)
            return &s->publications[i];
    return NULL;
}

static void notify(weft_session_t *s, const weft_action_t *action)
{
    pthread_mutex_lock(&s->mutex);
    weft_publication_t *publication = find_publication(s, action->version);
    if (publication) {
        publication->released |= action->outcome == WEFT_OUTCOME_RELEASED;
        if (action->outcome != WEFT_OUTCOME_RELEASED) {
            publication->outcome = action->outcome;
            publication->status = action->status;
            weft_copy_text(publication->text, action->text);
        }
        pthread_cond_broadcast(&s->publish_cond);
        pthread_cond_broadcast(&s->step_cond); /* a rollout that waits for a load */
    }
    pthread_mutex_unlock(&s->mutex);
}

static void wake_steps(weft_session_t *s)
{
    pthread_mutex_lock(&s->mutex);
    pthread_cond_broadcast(&s->step_cond);
    pthread_mutex_unlock(&s->mutex);
}

static void fence(weft_session_t *s, const weft_action_t *action)
{
    pthread_mutex_lock(&s->mutex);
    if (!s->fenced) {
        s->fenced = true;
        s->fenced_status = action->status ? action->status : WEFT_ERR_PEER_LOST;
        weft_copy_text(s->fenced_text, action->text);
    }
    pthread_cond_broadcast(&s->step_cond);
    pthread_cond_broadcast(&s->publish_cond);
    pthread_mutex_unlock(&s->mutex);
}

/* Routes go through every replica: a version that leaves a lost one out cannot be sent in a session whose ranks meet only
 * once. */
static bool all_take_part(const weft_session_t *s, weft_members_t members)
{
    for (uint32_t replica = 0; replica < s->control.topology.replicas; replica++)
        if (!weft_members_has(members, replica))
            return false;
    return true;
}

weft_content_t weft_session_content(weft_session_t *s)
{
    pthread_mutex_lock(&s->mutex);
    weft_content_t content = s->content;
    pthread_mutex_unlock(&s->mutex);
    return content;
}

static void start_transfer(weft_session_t *s, const weft_action_t *action)
{
    if (action->content->load || s->service || all_take_part(s, action->members)) {
        pthread_mutex_lock(&s->mutex);
        s->transferring = action->version;
        s->members = action->members;
        s->content = *action->content;
        pthread_mutex_unlock(&s->mutex);
        weft_session_command(s, action->type, action->version, 0);
        return;
    }
    weft_event_t event = {.type = WEFT_EVENT_TRANSFER_FAILED,
                          .version = action->version,
                          .status = WEFT_ERR_PEER_LOST,
                          .text = "a replica is lost and the routes go through it: open a new session"};
    weft_session_post_event(s, &event);
}

static void carry_out(void *user, const weft_action_t *action)
{
    weft_session_t *s = user;
    switch (action->type) {
    case WEFT_ACTION_SEND:
        send_message(s, action->message);
        break;
    case WEFT_ACTION_START_TRANSFER:
        start_transfer(s, action);
        break;
    case WEFT_ACTION_DISCARD_STAGE:
        pthread_mutex_lock(&s->mutex);
        s->discarded = action->version;
        pthread_mutex_unlock(&s->mutex);
        break;
    case WEFT_ACTION_NOTE_NEWEST:
        pthread_mutex_lock(&s->mutex);
        s->newest = action->version;
        pthread_mutex_unlock(&s->mutex);
        break;
    case WEFT_ACTION_ABORT_TRANSFER:
        s->given_up = action->version; /* the progress thread may be waiting for others to meet */
        weft_session_command(s, action->type, action->version, action->round);
        break;
    case WEFT_ACTION_REPORT_POSTED:
    case WEFT_ACTION_STOP_TRANSFER_AT:
    case WEFT_ACTION_TRY_SWAP:
        weft_session_command(s, action->type, action->version, action->round);
        break;
    case WEFT_ACTION_WAKE_STEPS:
        wake_steps(s);
        break;
    case WEFT_ACTION_NOTIFY:
        notify(s, action);
        break;
    case WEFT_ACTION_FENCE:
        fence(s, action);
        break;
    case WEFT_ACTION_ENTER_EPOCH: /* its transports are opened with its first version */
        pthread_mutex_lock(&s->mutex);
        s->epoch = action->epoch;
        pthread_mutex_unlock(&s->mutex);
        break;
    case WEFT_ACTION_STORE_TERM: /* a session's coordinator does not outlive its process */
        break;
    case WEFT_ACTION_LOG:
        weft_log_line(&s->config.log, action->level, "rank %u: %s", s->rank, action->text);
        break;
    }
}

static void handle_all(weft_session_t *s, const weft_event_t *event)
{
    weft_sink_t sink = {carry_out, s, s->config.log.level};
    if (s->trainer_machine)
        weft_trainer_machine_handle(s->trainer_machine, event, &sink);
    if (s->rank_machine)
        weft_rank_machine_handle(s->rank_machine, event, &sink);
    if (event->type != WEFT_EVENT_TICK)
        return;
    if (s->leader_machine)
        weft_leader_machine_handle(s->leader_machine, event, &sink);
    if (s->coordinator)
        weft_coordinator_handle(s->coordinator, event, &sink);
}

/* ---- whether the coordinator is there ---- */

static uint32_t coordinator_of(const weft_session_t *s)
{
    return s->trainer_machine ? s->trainer_machine->coordinator : s->rank_machine->coordinator;
}

/* Those who wait for a version learn that none can come now. It is no last word: the state machines go on,
 * and a coordinator that comes back finds everything as it was. */
static void set_cut_off(weft_session_t *s, bool cut_off, uint64_t silent_us)
{
    char text[sizeof s->cut_off_text];
    if (s->cut_off == cut_off)
        return;
    snprintf(text, sizeof text, "the coordinator, rank %u, was last heard %.1f s ago", coordinator_of(s),
             (double)silent_us * 1e-6);
    pthread_mutex_lock(&s->mutex);
    s->cut_off = cut_off;
    memcpy(s->cut_off_text, text, sizeof text);
    pthread_cond_broadcast(&s->publish_cond);
    pthread_cond_broadcast(&s->step_cond);
    pthread_mutex_unlock(&s->mutex);
    weft_log_line(&s->config.log, WEFT_LOG_WARNING, "rank %u: %s", s->rank,
                  cut_off ? text : "the coordinator is heard again");
}

static void note_heard(weft_session_t *s, const weft_message_t *message)
{
    if (message->role == WEFT_ROLE_COORDINATOR || message->role == WEFT_ROLE_LEADER ||
        message->from != coordinator_of(s))
        return;
    s->heard_us = weft_now_us();
    s->heard = true;
    set_cut_off(s, false, 0);
}

/* It speaks every dead_us / 2, so that with a beat more a word may be lost. A process that itself stood still
 * has heard nobody meanwhile; ranks need not all be there when the session opens. */
static void check_heard(weft_session_t *s, uint64_t gap_us)
{
    uint64_t patience_us = s->heard ? s->control.dead_us + s->control.beat_us : s->control.hello_us;
    if (s->coordinator)
        return;
    if (gap_us > s->control.dead_us / 2)
        s->heard_us += gap_us;
    uint64_t now_us = weft_now_us(), silent_us = now_us > s->heard_us ? now_us - s->heard_us : 0;
    if (silent_us > patience_us)
        set_cut_off(s, true, silent_us);
}

static void handle_message(weft_session_t *s, const weft_message_t *message)
{
    weft_sink_t sink = {carry_out, s, s->config.log.level};
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = weft_now_us(), .message = message};
    if (message->role == WEFT_ROLE_TRAINER && s->trainer_machine)
        weft_trainer_machine_handle(s->trainer_machine, &event, &sink);
    else if (message->role == WEFT_ROLE_RANK && s->rank_machine)
        weft_rank_machine_handle(s->rank_machine, &event, &sink);
    else if (message->role == WEFT_ROLE_LEADER && s->leader_machine)
        weft_leader_machine_handle(s->leader_machine, &event, &sink);
    else if (message->role == WEFT_ROLE_COORDINATOR && s->coordinator)
        weft_coordinator_handle(s->coordinator, &event, &sink);
    note_heard(s, message);
}

/* Whether a version is on its way here. */
static bool is_busy(const weft_session_t *s)
{
    if (s->trainer_machine)
        return s->trainer_machine->state != WEFT_TRAINER_IDLE;
    return s->rank_machine->state != WEFT_RANK_IDLE && s->rank_machine->state != WEFT_RANK_FENCED;
}

static void stay_awake(weft_session_t *s)
{
    if (s->eager && is_busy(s))
        s->control_awake_us = weft_now_us() + WEFT_PAUSE_EAGER_US;
}

/* Wait for a message, or look on for one; what has to leave leaves when this process has nothing to say to
 * itself. */
static weft_status_t poll_mailbox(weft_session_t *s, uint32_t *peer, uint8_t *bytes, size_t *size)
{
    bool looks_on = s->control_awake_us > weft_now_us();
    uint64_t wait_us = s->num_outgoing || looks_on ? 0 : POLL_US;
    if (s->num_outgoing && s->num_held++ == MOST_HELD) /* others speak without a pause */
        flush_outbox(s);
    weft_status_t status = weft_mailbox_poll(s->mailbox, wait_us, peer, bytes, size);
    if (status == WEFT_OK)
        return status;
    if (s->num_outgoing)
        flush_outbox(s);
    else if (looks_on)
        sched_yield();
    return status;
}

static void receive_one(weft_session_t *s)
{
    uint8_t bytes[WEFT_MAILBOX_MAX_BYTES];
    uint32_t peer;
    size_t size;
    weft_message_t message;
    weft_error_t error;
    if (poll_mailbox(s, &peer, bytes, &size) != WEFT_OK)
        return;
    if (weft_message_decode(bytes, size, &message, &error) != WEFT_OK)
        weft_log_line(&s->config.log, WEFT_LOG_WARNING, "rank %u: message from rank %u dropped: %s", s->rank,
                      peer, error.message);
    else if (message.from != peer)
        weft_log_line(&s->config.log, WEFT_LOG_WARNING,
                      "rank %u: rank %u speaks in the name of rank %u: dropped", s->rank, peer, message.from);
    else
        handle_message(s, &message);
    stay_awake(s);
}

/* Copy the oldest event out of the queue; its text moves along. */
static bool take_event(weft_session_t *s, weft_queued_event_t *taken)
{
    pthread_mutex_lock(&s->mutex);
    bool any = s->num_events > 0;
    if (any) {
        *taken = s->events[s->first_event];
        taken->event.text = taken->text;
        s->first_event = (s->first_event + 1) % WEFT_QUEUE_LENGTH;
        s->num_events--;
    }
    pthread_mutex_unlock(&s->mutex);
    return any;
}

static bool is_closing(weft_session_t *s)
{
    pthread_mutex_lock(&s->mutex);
    bool closing = s->closing;
    pthread_mutex_unlock(&s->mutex);
    return closing;
}

static void *control_main(void *user)
{
    weft_session_t *s = user;
    weft_queued_event_t queued;
    uint64_t ticked_us = s->heard_us = weft_now_us();
    while (!is_closing(s)) {
        receive_one(s);
        while (take_event(s, &queued)) {
            queued.event.now_us = weft_now_us();
            handle_all(s, &queued.event);
            stay_awake(s);
        }
        if (weft_now_us() - ticked_us >= POLL_US) {
            check_heard(s, weft_now_us() - ticked_us);
            weft_event_t tick = {.type = WEFT_EVENT_TICK, .now_us = ticked_us = weft_now_us()};
            handle_all(s, &tick);
        }
    }
    flush_outbox(s);
    return NULL;
}

void weft_session_post_event(weft_session_t *s, const weft_event_t *event)
{
    pthread_mutex_lock(&s->mutex);
    bool room = s->num_events < WEFT_QUEUE_LENGTH;
    if (room) {
        weft_queued_event_t *queued = &s->events[(s->first_event + s->num_events++) % WEFT_QUEUE_LENGTH];
        queued->event = *event;
        weft_copy_text(queued->text, event->text);
    }
    pthread_mutex_unlock(&s->mutex);
    weft_mailbox_wake(s->mailbox);
    if (!room)
        weft_log_line(&s->config.log, WEFT_LOG_ERROR, "rank %u: the event queue is full: a bug in weft",
                      s->rank);
}

void weft_session_post(weft_session_t *s, weft_event_type_t type, uint64_t version, uint32_t round)
{
    weft_event_t event = {.type = type, .version = version, .round = round};
    weft_session_post_event(s, &event);
}

/* Under the mutex. A swap that is due is asked for again and again; once in the queue is enough. */
static bool is_queued(const weft_session_t *s, weft_action_type_t type)
{
    for (uint32_t i = 0; i < s->num_commands; i++)
        if (s->commands[(s->first_command + i) % WEFT_QUEUE_LENGTH].type == type)
            return true;
    return false;
}

void weft_session_command(weft_session_t *s, weft_action_type_t type, uint64_t version, uint32_t round)
{
    pthread_mutex_lock(&s->mutex);
    bool again = type == WEFT_ACTION_TRY_SWAP && is_queued(s, type);
    bool room = s->num_commands < WEFT_QUEUE_LENGTH;
    if (!again && room)
        s->commands[(s->first_command + s->num_commands++) % WEFT_QUEUE_LENGTH] =
            (weft_command_t){type, version, round};
    pthread_cond_broadcast(&s->command_cond);
    pthread_mutex_unlock(&s->mutex);
    if (!again && !room)
        weft_log_line(&s->config.log, WEFT_LOG_ERROR, "rank %u: the command queue is full: a bug in weft",
                      s->rank);
}

void weft_session_wake(weft_session_t *s)
{
    pthread_mutex_lock(&s->mutex);
    s->wakes++;
    pthread_cond_broadcast(&s->command_cond);
    pthread_mutex_unlock(&s->mutex);
}

void weft_session_stay_awake(weft_session_t *s)
{
    if (s->eager)
        s->progress_awake_us = weft_now_us() + WEFT_PAUSE_EAGER_US;
}

static void look_on(weft_session_t *s)
{
    while (s->num_commands == 0 && s->wakes == s->wakes_seen && weft_now_us() < s->progress_awake_us)
        sched_yield();
}

bool weft_session_next_command(weft_session_t *s, uint64_t timeout_us, weft_command_t *command)
{
    uint64_t deadline = weft_now_us() + timeout_us;
    if (timeout_us)
        look_on(s);
    pthread_mutex_lock(&s->mutex);
    while (s->num_commands == 0 && !s->closing && timeout_us && s->wakes == s->wakes_seen)
        if (!weft_condition_wait(&s->command_cond, &s->mutex, deadline))
            break;
    bool any = s->num_commands > 0;
    if (any) {
        *command = s->commands[s->first_command];
        s->first_command = (s->first_command + 1) % WEFT_QUEUE_LENGTH;
        s->num_commands--;
    } else if (timeout_us) {
        s->wakes_seen = s->wakes;
    }
    pthread_mutex_unlock(&s->mutex);
    return any;
}

void weft_condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

bool weft_condition_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t deadline_us)
{
    struct timespec until = {(time_t)(deadline_us / 1000000), (long)(deadline_us % 1000000) * 1000};
    return pthread_cond_timedwait(condition, mutex, &until) == 0;
}

static weft_status_t make_machines(weft_session_t *s)
{
    const weft_topology_t *topology = &s->control.topology;
    if (s->is_trainer) {
        s->trainer_machine = calloc(1, sizeof *s->trainer_machine);
        if (!s->trainer_machine)
            return WEFT_ERR_NO_MEMORY;
        weft_trainer_machine_init(s->trainer_machine, &s->control, s->rank);
    } else {
        s->rank_machine = calloc(1, sizeof *s->rank_machine);
        if (!s->rank_machine)
            return WEFT_ERR_NO_MEMORY;
        weft_guard_init(&s->guard);
        weft_rank_machine_init(s->rank_machine, &s->control, s->rank, &s->guard);
        if (weft_topology_tp_rank(topology, s->rank) == 0) {
            s->leader_machine = calloc(1, sizeof *s->leader_machine);
            if (!s->leader_machine)
                return WEFT_ERR_NO_MEMORY;
            weft_leader_machine_init(s->leader_machine, &s->control, s->rank);
        }
    }
    if (s->rank == s->control.coordinator) {
        s->coordinator = calloc(1, sizeof *s->coordinator);
        if (!s->coordinator)
            return WEFT_ERR_NO_MEMORY;
        weft_coordinator_init(s->coordinator, &s->control, s->rank, 0, weft_now_us());
    }
    return WEFT_OK;
}

weft_status_t weft_control_start(weft_session_t *s, weft_error_t *error)
{
    if (make_machines(s) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: no memory for the control machines", s->rank);
    if (pthread_create(&s->control_thread, NULL, control_main, s) != 0)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: the control thread cannot be started", s->rank);
    s->control_started = true;
    return WEFT_OK;
}

void weft_control_stop(weft_session_t *s)
{
    pthread_mutex_lock(&s->mutex);
    s->closing = true;
    pthread_cond_broadcast(&s->command_cond);
    pthread_cond_broadcast(&s->step_cond);
    pthread_cond_broadcast(&s->publish_cond);
    pthread_mutex_unlock(&s->mutex);
    if (s->control_started) {
        weft_mailbox_wake(s->mailbox);
        pthread_join(s->control_thread, NULL);
    }
    free(s->trainer_machine);
    free(s->rank_machine);
    free(s->leader_machine);
    free(s->coordinator);
}
