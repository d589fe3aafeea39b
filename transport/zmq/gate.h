/* Who may connect to the inbox of the zmq transport: ranks that are present, each known by its key.
 *
 * ZeroMQ asks once a connection, while it is made, and that can be when the progress thread is elsewhere; so
 * a thread answers. A peer can be quicker to connect than this rank is to hear of it: until
 * weft_zmq_gate_admit nobody is answered.
 *
 *     gate = weft_zmq_gate_open(context);           before the inbox is bound
 *     weft_zmq_gate_admit(gate, keys, count);
 *     weft_zmq_gate_close(gate);                    after all other sockets, before zmq_ctx_term
 */
#ifndef WEFT_TRANSPORT_ZMQ_GATE_H
#define WEFT_TRANSPORT_ZMQ_GATE_H

#include "src/socket/zap.h"

typedef struct weft_zmq_gate weft_zmq_gate_t;

/* **Returns** NULL when there is no memory, socket or thread. */
weft_zmq_gate_t *weft_zmq_gate_open(void *context);

/* From now on the `count` keys may enter. **Ownership** of `keys`, from malloc, goes to the gate. */
void weft_zmq_gate_admit(weft_zmq_gate_t *gate, char (*keys)[WEFT_ZAP_KEY_BYTES], uint32_t count);

/* Connections refused so far. */
uint64_t weft_zmq_gate_refused(const weft_zmq_gate_t *gate);

/* The context can only be ended afterwards. NULL is accepted. */
void weft_zmq_gate_close(weft_zmq_gate_t *gate);

#endif
