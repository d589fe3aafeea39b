/* The hub, joining it and leaving it. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/loopback/backend.h"

static weft_status_t init_wait(weft_loopback_t *hub)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int failed = pthread_cond_init(&hub->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (failed)
        return WEFT_ERR_SYSTEM;
    if (pthread_mutex_init(&hub->mutex, NULL)) {
        pthread_cond_destroy(&hub->changed);
        return WEFT_ERR_SYSTEM;
    }
    return WEFT_OK;
}

static void free_hub(weft_loopback_t *hub)
{
    free(hub->presence);
    free(hub->ops);
    free(hub->sent);
    free(hub->received);
    free(hub);
}

weft_status_t weft_loopback_create(uint32_t num_ranks, weft_loopback_t **hub)
{
    if (num_ranks == 0 || num_ranks > UINT16_MAX || !hub)
        return WEFT_ERR_ARGUMENT;
    weft_loopback_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    size_t pairs = (size_t)num_ranks * num_ranks;
    made->num_ranks = num_ranks;
    made->presence = calloc(num_ranks, sizeof *made->presence);
    made->ops = calloc(num_ranks, sizeof *made->ops);
    made->sent = calloc(pairs, sizeof *made->sent);
    made->received = calloc(pairs, sizeof *made->received);
    weft_status_t status = WEFT_ERR_NO_MEMORY;
    if (made->presence && made->ops && made->sent && made->received)
        status = init_wait(made);
    if (status != WEFT_OK) {
        free_hub(made);
        return status;
    }
    *hub = made;
    return WEFT_OK;
}

void weft_loopback_destroy(weft_loopback_t *hub)
{
    if (!hub)
        return;
    free(hub->gather.data);
    pthread_cond_destroy(&hub->changed);
    pthread_mutex_destroy(&hub->mutex);
    free_hub(hub);
}

bool weft_loopback_wait(weft_loopback_t *hub, uint64_t deadline_us)
{
    if (weft_now_us() >= deadline_us)
        return false;
    struct timespec until = {(time_t)(deadline_us / 1000000), (long)(deadline_us % 1000000) * 1000};
    pthread_cond_timedwait(&hub->changed, &hub->mutex, &until);
    return true;
}

/* A rank that left may come back once all others have left too: before, their operations might still mean its
 * earlier self. */
static weft_status_t join(weft_loopback_t *hub, uint32_t rank, uint64_t deadline_us, weft_error_t *error)
{
    while (hub->presence[rank] == LOOPBACK_GONE)
        if (!weft_loopback_wait(hub, deadline_us))
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "rank %u: reopening waits for the others to close, %u of %u have", rank,
                             hub->num_closed, hub->num_ranks);
    if (hub->presence[rank] == LOOPBACK_PRESENT)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u of this loopback hub is open already", rank);
    hub->presence[rank] = LOOPBACK_PRESENT;
    return WEFT_OK;
}

static weft_status_t weft_loopback_open(const weft_transport_config_t *config, weft_transport_t **transport,
                                        weft_error_t *error)
{
    weft_loopback_t *hub = config->loopback;
    if (!hub)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "loopback: config.loopback is NULL; see weft_loopback_create");
    if (config->rank >= hub->num_ranks)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "loopback: rank %u of a hub of %u ranks", config->rank,
                         hub->num_ranks);
    weft_transport_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "loopback: out of memory");
    made->base = (weft_transport_base_t){&weft_loopback_ops, config->rank, hub->num_ranks, "host", -1};
    made->hub = hub;
    made->timeout_us = weft_transport_timeout_us(config);

    pthread_mutex_lock(&hub->mutex);
    weft_status_t status = join(hub, config->rank, weft_now_us() + made->timeout_us, error);
    pthread_mutex_unlock(&hub->mutex);
    if (status != WEFT_OK) {
        free(made);
        return status;
    }
    *transport = made;
    return WEFT_OK;
}

/* Taking back is exact: whoever copies from or into this rank's buffers holds the mutex while it does. */
static bool weft_loopback_abort(weft_transport_t *transport)
{
    weft_loopback_t *hub = transport->hub;
    pthread_mutex_lock(&hub->mutex);
    transport->aborted = true;
    hub->presence[transport->base.rank] = LOOPBACK_GONE;
    weft_loopback_ops_drop(hub, transport->base.rank);
    pthread_cond_broadcast(&hub->changed);
    pthread_mutex_unlock(&hub->mutex);
    return true;
}

/* Everybody has left: the hub is as new. */
static void start_over(weft_loopback_t *hub)
{
    size_t pairs = (size_t)hub->num_ranks * hub->num_ranks;
    memset(hub->sent, 0, pairs * sizeof *hub->sent);
    memset(hub->received, 0, pairs * sizeof *hub->received);
    for (uint32_t i = 0; i < hub->num_ranks; i++)
        hub->presence[i] = LOOPBACK_ABSENT;
    hub->num_closed = 0;
}

static void weft_loopback_close(weft_transport_t *transport)
{
    weft_loopback_abort(transport);
    weft_loopback_t *hub = transport->hub;
    pthread_mutex_lock(&hub->mutex);
    weft_loopback_groups_leave(hub, transport->base.rank);
    if (++hub->num_closed == hub->num_ranks)
        start_over(hub);
    pthread_cond_broadcast(&hub->changed);
    pthread_mutex_unlock(&hub->mutex);
    free(transport);
}

const weft_transport_ops_t weft_loopback_ops = {
    .name = "loopback",
    .open = weft_loopback_open,
    .allgather = weft_loopback_allgather,
    .group_create = weft_loopback_group_create,
    .group_destroy = weft_loopback_group_destroy,
    .broadcast_start = weft_loopback_broadcast_start,
    .send_start = weft_loopback_send_start,
    .recv_start = weft_loopback_recv_start,
    .test = weft_loopback_test,
    .abort = weft_loopback_abort,
    .close = weft_loopback_close,
};
