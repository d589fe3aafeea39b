/* In: requests of ZeroMQ. Out: whether a connection may be. Invariant: no request is answered before it is
 * known who may enter. */
#include "transport/zmq/gate.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

struct weft_zmq_gate {
    void *context, *zap; /* `zap` is the thread's once it runs */
    pthread_t thread;
    pthread_mutex_t mutex; /* everything below */
    pthread_cond_t changed;
    char (*keys)[WEFT_ZAP_KEY_BYTES]; /* NULL: not known yet */
    uint32_t count;
    bool closing;
    _Atomic uint64_t refused;
};

/* Under the mutex. */
static bool may_enter(const weft_zmq_gate_t *g, const weft_zap_request_t *request)
{
    char key[WEFT_ZAP_KEY_BYTES];
    if (!weft_zap_key(request, key))
        return false;
    for (uint32_t i = 0; i < g->count; i++)
        if (strcmp(g->keys[i], key) == 0)
            return true;
    return false;
}

static void answer(weft_zmq_gate_t *g, const weft_zap_request_t *request)
{
    pthread_mutex_lock(&g->mutex);
    while (!g->keys && !g->closing)
        pthread_cond_wait(&g->changed, &g->mutex);
    bool enters = !g->closing && may_enter(g, request);
    pthread_mutex_unlock(&g->mutex);
    g->refused += !enters;
    weft_zap_answer(g->zap, request, enters);
}

/* Until the context is shut down. */
static void *serve(void *user)
{
    weft_zmq_gate_t *g = user;
    weft_zap_request_t request;
    zmq_pollitem_t item = {g->zap, 0, ZMQ_POLLIN, 0};
    while (zmq_poll(&item, 1, -1) >= 0 || zmq_errno() == EINTR)
        while (weft_zap_read(g->zap, &request))
            answer(g, &request);
    zmq_close(g->zap);
    return NULL;
}

static void free_gate(weft_zmq_gate_t *g)
{
    pthread_mutex_destroy(&g->mutex);
    pthread_cond_destroy(&g->changed);
    free(g->keys);
    free(g);
}

weft_zmq_gate_t *weft_zmq_gate_open(void *context)
{
    weft_zmq_gate_t *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->context = context;
    pthread_mutex_init(&made->mutex, NULL);
    pthread_cond_init(&made->changed, NULL);
    made->zap = weft_zap_open(context);
    if (made->zap && pthread_create(&made->thread, NULL, serve, made) == 0)
        return made;
    if (made->zap)
        zmq_close(made->zap);
    free_gate(made);
    return NULL;
}

void weft_zmq_gate_admit(weft_zmq_gate_t *g, char (*keys)[WEFT_ZAP_KEY_BYTES], uint32_t count)
{
    pthread_mutex_lock(&g->mutex);
    free(g->keys);
    g->keys = keys;
    g->count = count;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->mutex);
}

uint64_t weft_zmq_gate_refused(const weft_zmq_gate_t *g)
{
    return g->refused;
}

void weft_zmq_gate_close(weft_zmq_gate_t *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&g->mutex);
    g->closing = true;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->mutex);
    zmq_ctx_shutdown(g->context);
    pthread_join(g->thread, NULL);
    free_gate(g);
}
