/* In: a coordinator's address, later who takes part in a version. Out: a session whose transport joins just
 * those. Invariants: the ranks of a version meet before its first byte, all of them or none; memory that a
 * trainer lends stays where it is while they meet anew. */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/base/log.h"
#include "src/session_private.h"

#define DEFAULT_TIMEOUT_US 30000000u
#define LEAVE_POLL_US      10000u

/* ---- what was asked for, or the environment says ---- */

typedef struct place {
    const char *coordinator, *keys, *key_name;
    uint32_t rank;
} place_t;

static const char *choose(const char *given, const char *variable)
{
    const char *value = given ? given : getenv(variable);
    return value && *value ? value : NULL;
}

static weft_status_t read_rank(uint32_t given, uint32_t *rank, weft_error_t *error)
{
    const char *text = getenv("WEFT_RANK");
    *rank = given;
    if (given != WEFT_RANK_OF_ENVIRONMENT)
        return WEFT_OK;
    if (!text)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "joining a service takes a rank: service.rank, or WEFT_RANK");
    size_t length = strlen(text);
    if (length == 0 || length > 9 || strspn(text, "0123456789") != length)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "WEFT_RANK is \"%.32s\", not a rank's number", text);
    *rank = (uint32_t)strtoul(text, NULL, 10);
    return WEFT_OK;
}

static weft_status_t find_place(const weft_service_config_t *config, uint32_t num_ranks, place_t *place,
                                weft_error_t *error)
{
    if (config->struct_size != sizeof *config)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "weft_service_config_t has %zu bytes, expected %zu: start from WEFT_SERVICE_CONFIG",
                         config->struct_size, sizeof *config);
    *place = (place_t){.coordinator = choose(config->coordinator, "WEFT_COORDINATOR"),
                       .keys = choose(config->keys, "WEFT_KEYS"),
                       .key_name = choose(config->key_name, "WEFT_KEY_NAME")};
    if (!place->key_name)
        place->key_name = "client";
    if (!place->coordinator)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "joining a service takes its address: service.coordinator, or WEFT_COORDINATOR, as HOST:PORT");
    if (!place->keys)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "joining a service takes keys: service.keys, or WEFT_KEYS, names the folder that "
                         "weft keygen made");
    WEFT_TRY(read_rank(config->rank, &place->rank, error));
    if (place->rank >= num_ranks)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u of a plan of %u ranks", place->rank, num_ranks);
    return WEFT_OK;
}

/* ---- joining ---- */

static weft_status_t enter(weft_session_t *s, const place_t *place, weft_error_t *error)
{
    const weft_service_config_t *config = s->config.service;
    weft_service_join_t join = {.coordinator = place->coordinator,
                                .keys = place->keys,
                                .key_name = place->key_name,
                                .rank = place->rank,
                                .topology = s->control.topology,
                                .plan_hash = s->plan->hash,
                                .timeout_us = config->timeout_us ? config->timeout_us : DEFAULT_TIMEOUT_US,
                                .given_up = &s->given_up};
    WEFT_TRY(weft_service_open(&join, &s->service, error));
    s->control.incarnation = weft_service_incarnation(s->service);
    s->control.coordinator = weft_topology_ranks(&s->control.topology); /* a process of its own */
    return weft_control_config_check(&s->control, error);
}

static weft_status_t open_mailbox(weft_session_t *s, weft_error_t *error)
{
    weft_mailbox_config_t config = {
        .rank = s->rank, .host = s->config.host ? s->config.host : "127.0.0.1", .log = &s->config.log};
    memcpy(config.token, weft_service_token(s->service), sizeof config.token);
    weft_status_t status = weft_mailbox_open(&config, &s->mailbox, error);
    explicit_bzero(config.token, sizeof config.token);
    WEFT_TRY(status);
    WEFT_TRY(weft_service_register(s->service, weft_mailbox_endpoint(s->mailbox), error));
    return weft_mailbox_connect(s->mailbox, s->control.coordinator, weft_service_control(s->service), error);
}

static weft_status_t connect_leader(weft_session_t *s, weft_error_t *error)
{
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
    if (s->is_trainer)
        return WEFT_OK;
    const weft_topology_t *topology = &s->control.topology;
    uint32_t leader = weft_topology_leader(topology, weft_topology_replica(topology, s->rank));
    if (leader == s->rank)
        return WEFT_OK;
    WEFT_TRY(weft_service_find(s->service, leader, endpoint, error));
    s->control.incarnation = weft_service_incarnation(s->service);
    return weft_mailbox_connect(s->mailbox, leader, endpoint, error);
}

static weft_status_t check_renews(const weft_session_t *s, const char *name, weft_error_t *error)
{
    const weft_transport_ops_t *ops;
    for (size_t i = 0; (ops = weft_transport_listed(i)) != NULL; i++)
        if (strcmp(ops->name, name) == 0 && !ops->renew)
            return weft_fail(
                error, WEFT_ERR_UNSUPPORTED,
                "rank %u: a service moves weights by the transport ipc (one node) or zmq, not by "
                "\"%s\": its ranks cannot meet anew",
                s->rank, name);
    return WEFT_OK;
}

/* Alone, for now: whom it joins is known with the first version. Keys of zmq travel behind the coordinator's
 * door. */
static weft_status_t open_transport(weft_session_t *s, weft_error_t *error)
{
    const weft_service_config_t *service = s->config.service;
    const char *name = service->transport ? service->transport : "ipc";
    weft_zmq_options_t zmq = WEFT_ZMQ_OPTIONS;
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    zmq.address = s->config.host;
    zmq.new_keys = true;
    config.bootstrap = weft_service_bootstrap(s->service);
    config.device = service->device;
    config.memory = service->memory;
    config.timeout_us = service->timeout_us;
    config.zmq = &zmq;
    WEFT_TRY(check_renews(s, name, error));
    return weft_transport_open(name, &config, &s->transport, error);
}

weft_status_t weft_session_join(weft_session_t *s, weft_error_t *error)
{
    place_t place = {0};
    WEFT_TRY(find_place(s->config.service, weft_plan_num_ranks(s->plan), &place, error));
    s->rank = place.rank;
    s->is_trainer = s->rank < s->plan->trainer->num_ranks;
    WEFT_TRY(enter(s, &place, error));
    WEFT_TRY(open_mailbox(s, error));
    WEFT_TRY(connect_leader(s, error));
    return open_transport(s, error);
}

/* ---- meeting ---- */

static bool has_met(const weft_session_t *s, uint32_t epoch, const weft_members_t *members)
{
    return s->met && !s->transport_broken && s->met_epoch == epoch &&
           memcmp(&s->met_members, members, sizeof *members) == 0;
}

static weft_status_t renew(weft_session_t *s, uint64_t version, weft_members_t members, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(s->transport);
    if (s->transport_broken && !s->buffers_free)
        return weft_fail(error, WEFT_ERR_TRANSPORT,
                         "rank %u: an earlier transfer still holds its buffers: start this rank again",
                         s->rank);
    weft_service_begin(s->service, version, members);
    WEFT_TRY(ops->renew(s->transport, error));
    s->transport_broken = s->buffers_free = false;
    return weft_session_create_groups(s, error);
}

/* Everybody who takes part comes by here with the same epoch and members, and has met the same others the
 * last time; or comes for the first time or with a broken transport, and then the epoch is new to all. */
weft_status_t weft_session_meet(weft_session_t *s, uint64_t version, bool *renewed, weft_error_t *error)
{
    *renewed = false;
    if (!s->service)
        return WEFT_OK;
    pthread_mutex_lock(&s->mutex);
    uint32_t epoch = s->epoch;
    weft_members_t members = s->members;
    pthread_mutex_unlock(&s->mutex);
    if (has_met(s, epoch, &members))
        return WEFT_OK;
    s->met = false;
    *renewed = true;
    weft_session_destroy_groups(s);
    WEFT_TRY(renew(s, version, members, error));
    s->met = true;
    s->met_epoch = epoch;
    s->met_members = members;
    weft_log_line(&s->config.log, WEFT_LOG_INFO, "rank %u: the ranks have met for version %llu, epoch %u",
                  s->rank, (unsigned long long)version, epoch);
    return WEFT_OK;
}

/* ---- leaving ---- */

void weft_session_give_up(weft_session_t *s)
{
    s->given_up = UINT64_MAX;
}

static bool is_out(weft_session_t *s)
{
    pthread_mutex_lock(&s->mutex);
    bool out = s->fenced;
    pthread_mutex_unlock(&s->mutex);
    return out;
}

weft_status_t weft_session_leave(weft_session_t *s, uint64_t timeout_us, weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + timeout_us;
    if (!s->service || s->is_trainer)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rank %u: only a rollout that joined a service leaves; others close", s->rank);
    weft_session_post(s, WEFT_EVENT_LEAVE, 0, 0);
    while (!is_out(s)) {
        if (weft_now_us() >= deadline_us)
            return weft_fail(
                error, WEFT_ERR_TIMEOUT,
                "rank %u: the coordinator did not let the replica go within %.1f s: it counts as lost",
                s->rank, (double)timeout_us * 1e-6);
        weft_sleep_us(LEAVE_POLL_US);
    }
    return WEFT_OK;
}
