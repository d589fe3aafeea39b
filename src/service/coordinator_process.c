/* In: reports in the mailbox, questions at the door. Out: commands and answers. Invariants: a term or an
 * epoch is in the state file before anybody hears of it; what cannot be written ends the process. */
#include "src/service/coordinator_process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/base/log.h"
#include "src/service/door.h"

#define POLL_US 10000

struct weft_coordinator_process {
    weft_coordinator_process_config_t config;
    weft_key_pair_t keys;
    weft_key_list_t clients;
    weft_roster_t roster;
    weft_door_t *door;
    weft_mailbox_t *mailbox;
    weft_coordinator_t *machine;
    uint32_t number; /* its address in messages: one past the ranks */
    uint64_t ticked_us;
    weft_status_t failed; /* a term could not be stored */
    weft_error_t failure;
};

typedef weft_coordinator_process_t process_t;

/* ---- what the machine wants done ---- */

static void store_term(process_t *p, const weft_action_t *action)
{
    p->roster.term = action->term;
    p->roster.epoch = action->epoch;
    if (p->failed == WEFT_OK)
        p->failed = weft_roster_save(&p->roster, &p->failure);
}

/* A lost message is sent again by the machine. */
static void send_message(process_t *p, const weft_message_t *message)
{
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    if (p->failed == WEFT_OK)
        weft_mailbox_send(p->mailbox, message->to, bytes, weft_message_encode(message, bytes));
}

static void carry_out(void *user, const weft_action_t *action)
{
    process_t *p = user;
    if (action->type == WEFT_ACTION_SEND)
        send_message(p, action->message);
    else if (action->type == WEFT_ACTION_STORE_TERM)
        store_term(p, action);
    else if (action->type == WEFT_ACTION_LOG)
        weft_log_line(&p->config.log, action->level, "%s", action->text);
}

/* ---- its turn ---- */

static void handle(process_t *p, const weft_event_t *event)
{
    weft_sink_t sink = {carry_out, p, p->config.log.level};
    weft_coordinator_handle(p->machine, event, &sink);
}

/* A message of an earlier life of a rank, or of one that never came in by the door, is nobody's. */
static bool is_known(const process_t *p, const weft_message_t *message, uint32_t peer)
{
    return message->from == peer && peer < p->number && message->role == WEFT_ROLE_COORDINATOR &&
           message->incarnation != 0 && message->incarnation <= p->roster.peers[peer].incarnation;
}

static void receive(process_t *p)
{
    uint8_t bytes[WEFT_MAILBOX_MAX_BYTES];
    uint32_t peer;
    size_t size;
    weft_message_t message;
    weft_error_t error;
    if (weft_mailbox_poll(p->mailbox, POLL_US, &peer, bytes, &size) != WEFT_OK)
        return;
    if (weft_message_decode(bytes, size, &message, &error) != WEFT_OK)
        weft_log_line(&p->config.log, WEFT_LOG_WARNING, "coordinator: message from rank %u dropped: %s", peer,
                      error.message);
    else if (!is_known(p, &message, peer))
        weft_log_line(&p->config.log, WEFT_LOG_WARNING,
                      "coordinator: message from rank %u dropped: it speaks for rank %u, life %llu", peer,
                      message.from, (unsigned long long)message.incarnation);
    else
        handle(p, &(weft_event_t){.type = WEFT_EVENT_MESSAGE, .now_us = weft_now_us(), .message = &message});
}

weft_status_t weft_coordinator_process_run(process_t *p, weft_error_t *error)
{
    WEFT_TRY(weft_door_serve(p->door, error));
    receive(p);
    uint64_t now_us = weft_now_us();
    if (now_us - p->ticked_us >= POLL_US) {
        p->ticked_us = now_us;
        handle(p, &(weft_event_t){.type = WEFT_EVENT_TICK, .now_us = now_us});
    }
    if (p->failed != WEFT_OK)
        return weft_fail(error, p->failed, "%s", p->failure.message);
    if (p->machine->state == WEFT_COORDINATOR_DEPOSED)
        return weft_fail(error, WEFT_ERR_PROTOCOL,
                         "another coordinator has taken this session over: this one ends");
    return WEFT_OK;
}

const char *weft_coordinator_process_endpoint(const process_t *p)
{
    return weft_door_endpoint(p->door);
}

/* ---- life ---- */

static weft_status_t open_door(process_t *p, weft_error_t *error)
{
    weft_door_config_t config = {.bind = p->config.bind,
                                 .keys = &p->keys,
                                 .clients = &p->clients,
                                 .roster = &p->roster,
                                 .log = p->config.log};
    return weft_door_open(&config, &p->door, error);
}

/* The address that ranks have been told stays, whatever the system would choose now. */
static void choose_control(const process_t *p, char address[WEFT_MAILBOX_ENDPOINT_BYTES])
{
    const char *door = weft_door_endpoint(p->door) + strlen("tcp://"), *colon = strrchr(door, ':');
    unsigned long port = strtoul(colon + 1, NULL, 10);
    bool chosen = strcmp(strrchr(p->config.bind, ':'), ":0") == 0;
    unsigned long wanted = p->config.control_port ? p->config.control_port : chosen ? 0 : port + 1;
    if (wanted)
        snprintf(address, WEFT_MAILBOX_ENDPOINT_BYTES, "%.*s:%lu", (int)(colon - door), door, wanted);
    else if (p->roster.control[0])
        snprintf(address, WEFT_MAILBOX_ENDPOINT_BYTES, "%s", p->roster.control + strlen("tcp://"));
    else
        snprintf(address, WEFT_MAILBOX_ENDPOINT_BYTES, "%.*s", (int)(colon - door), door);
}

static weft_status_t open_mailbox(process_t *p, weft_error_t *error)
{
    char address[WEFT_MAILBOX_ENDPOINT_BYTES];
    choose_control(p, address);
    weft_mailbox_config_t config = {.rank = p->number, .host = address, .log = &p->config.log};
    memcpy(config.token, p->roster.token, sizeof config.token);
    weft_status_t status = weft_mailbox_open(&config, &p->mailbox, error);
    explicit_bzero(config.token, sizeof config.token);
    if (status != WEFT_OK)
        return weft_error_prefix(error, "the control port");
    memset(p->roster.control, 0, sizeof p->roster.control);
    snprintf(p->roster.control, sizeof p->roster.control, "%s", weft_mailbox_endpoint(p->mailbox));
    return weft_roster_save(&p->roster, error);
}

static weft_status_t make_machine(process_t *p, weft_error_t *error)
{
    weft_control_config_t control = WEFT_CONTROL_CONFIG_INIT;
    control.topology = p->config.topology;
    control.coordinator = p->number;
    control.rejoins = true;
    control.epoch = p->roster.epoch;
    control.dead_us = p->config.dead_after_us;
    control.beat_us = p->config.dead_after_us / 6;
    control.hello_us = p->config.wait_us;
    control.publish_us = control.transfer_us = p->config.transfer_timeout_us;
    control.commit_us = p->config.commit_timeout_us;
    WEFT_TRY(weft_control_config_check(&control, error));
    p->machine = calloc(1, sizeof *p->machine);
    if (!p->machine)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the coordinator");
    weft_coordinator_init(p->machine, &control, p->number, p->roster.term, weft_now_us());
    return WEFT_OK;
}

static weft_status_t check(const weft_coordinator_process_config_t *config, weft_error_t *error)
{
    WEFT_TRY(weft_door_check_address(config->bind, error));
    weft_control_config_t control = WEFT_CONTROL_CONFIG_INIT;
    control.topology = config->topology;
    WEFT_TRY(weft_control_config_check(&control, error));
    if (weft_topology_ranks(&config->topology) >= WEFT_CONTROL_MAX_RANKS)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "%u ranks and a coordinator: at most %d together",
                         weft_topology_ranks(&config->topology), WEFT_CONTROL_MAX_RANKS);
    return WEFT_OK;
}

weft_status_t weft_coordinator_process_open(const weft_coordinator_process_config_t *config,
                                            process_t **process, weft_error_t *error)
{
    WEFT_TRY(check(config, error));
    process_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the coordinator");
    made->config = *config;
    made->number = weft_topology_ranks(&config->topology);
    made->roster.lock = -1;
    weft_status_t status = weft_keys_read(config->keys, WEFT_KEYS_SERVER, &made->keys, error);
    if (status == WEFT_OK)
        status = weft_keys_read_clients(config->keys, &made->clients, error);
    if (status == WEFT_OK)
        status = weft_roster_open(config->state, &config->topology, &made->roster, error);
    if (status == WEFT_OK)
        status = open_door(made, error);
    if (status == WEFT_OK)
        status = open_mailbox(made, error);
    if (status == WEFT_OK)
        status = make_machine(made, error);
    if (status != WEFT_OK) {
        weft_coordinator_process_close(made);
        return status;
    }
    *process = made;
    return WEFT_OK;
}

void weft_coordinator_process_close(process_t *p)
{
    if (!p)
        return;
    weft_door_close(p->door);
    weft_mailbox_close(p->mailbox);
    free(p->machine);
    weft_roster_close(&p->roster);
    weft_keys_free(&p->clients);
    weft_keys_wipe(&p->keys);
    free(p);
}
