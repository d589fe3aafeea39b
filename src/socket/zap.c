#include "src/socket/zap.h"

#include <string.h>

#include <zmq.h>

#define ENDPOINT  "inproc://zeromq.zap.01" /* where libzmq looks for it */
#define KEY_BYTES 32u

enum { PART_ID = 1, PART_ADDRESS = 3, PART_MECHANISM = 5, PART_KEY = 6 };

void *weft_zap_open(void *context)
{
    const weft_socket_int_t at_once = {ZMQ_LINGER, 0};
    void *zap = zmq_socket(context, ZMQ_REP);
    if (zap && weft_socket_set(zap, &at_once, 1, -1) && zmq_bind(zap, ENDPOINT) == 0)
        return zap;
    if (zap)
        weft_socket_give_up(zap);
    return NULL;
}

bool weft_zap_read(void *zap, weft_zap_request_t *r)
{
    for (size_t i = 0; i < WEFT_ZAP_PARTS; i++)
        r->parts[i] = (weft_socket_part_t){r->space[i], WEFT_ZAP_PART_BYTES - 1, 0};
    r->count = weft_socket_read(zap, r->parts, WEFT_ZAP_PARTS);
    return r->count != 0;
}

static bool is_whole(const weft_zap_request_t *r, size_t part)
{
    return r->count > part && r->parts[part].bytes < WEFT_ZAP_PART_BYTES;
}

bool weft_zap_key(const weft_zap_request_t *r, char key[WEFT_ZAP_KEY_BYTES])
{
    bool curve = r->count == WEFT_ZAP_PARTS && is_whole(r, PART_ID) && r->parts[PART_MECHANISM].bytes == 5 &&
                 memcmp(r->space[PART_MECHANISM], "CURVE", 5) == 0;
    return curve && r->parts[PART_KEY].bytes == KEY_BYTES &&
           zmq_z85_encode(key, r->space[PART_KEY], KEY_BYTES) != NULL;
}

const char *weft_zap_address(weft_zap_request_t *r)
{
    if (!is_whole(r, PART_ADDRESS))
        return "";
    r->space[PART_ADDRESS][r->parts[PART_ADDRESS].bytes] = '\0';
    return (const char *)r->space[PART_ADDRESS];
}

void weft_zap_answer(void *zap, const weft_zap_request_t *r, bool enters)
{
    const char *parts[] = {enters ? "200" : "400", enters ? "OK" : "this key is not on the list", "", ""};
    zmq_send(zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(zap, r->space[PART_ID], is_whole(r, PART_ID) ? r->parts[PART_ID].bytes : 0, ZMQ_SNDMORE);
    for (size_t i = 0; i < 4; i++)
        zmq_send(zap, parts[i], strlen(parts[i]), i < 3 ? ZMQ_SNDMORE : 0);
}
