/* ZeroMQ's question who may connect to a CURVE server of a context, and the answer (ZAP, RFC 27).
 *
 *     void *zap = weft_zap_open(context);          before any socket of the context is bound
 *     while (weft_zap_read(zap, &request))
 *         weft_zap_answer(zap, &request, weft_zap_key(&request, key) && is_on_my_list(key));
 *
 * A request must be answered before the next is read. Where nobody listens, ZeroMQ lets everybody in that
 * knows the server's public key. */
#ifndef WEFT_SOCKET_ZAP_H
#define WEFT_SOCKET_ZAP_H

#include "src/socket/socket.h"

#define WEFT_ZAP_PARTS      7u /* version, request id, domain, address, identity, mechanism, key */
#define WEFT_ZAP_PART_BYTES 256u
#define WEFT_ZAP_KEY_BYTES  41 /* in Z85, with its NUL */

typedef struct weft_zap_request {
    uint8_t space[WEFT_ZAP_PARTS][WEFT_ZAP_PART_BYTES];
    weft_socket_part_t parts[WEFT_ZAP_PARTS];
    size_t count;
} weft_zap_request_t;

/* **Returns** NULL, with zmq_errno, when there can be none. Close it with zmq_close. */
void *weft_zap_open(void *context);

/* Take the next request, without waiting. **Returns** false when there is none. */
bool weft_zap_read(void *zap, weft_zap_request_t *request);

/* The key that the connection has proved to have. **Returns** false when it has none: another mechanism, a
 * malformed request. */
bool weft_zap_key(const weft_zap_request_t *request, char key[WEFT_ZAP_KEY_BYTES]);

/* Where it comes from, "" where ZeroMQ does not say. **Ownership** of the request. */
const char *weft_zap_address(weft_zap_request_t *request);

void weft_zap_answer(void *zap, const weft_zap_request_t *request, bool enters);

#endif
