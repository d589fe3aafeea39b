#include "src/socket/socket.h"

#include <errno.h>
#include <string.h>

#include <zmq.h>

bool weft_socket_set(void *socket, const weft_socket_int_t *options, size_t count, int64_t max_part_bytes)
{
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_part_bytes, sizeof max_part_bytes))
        return false;
    for (size_t i = 0; i < count; i++)
        if (zmq_setsockopt(socket, options[i].option, &options[i].value, sizeof options[i].value))
            return false;
    return true;
}

static bool set_key(void *socket, int option, const char *key)
{
    return zmq_setsockopt(socket, option, key, strlen(key) + 1) == 0;
}

bool weft_socket_serve_with_key(void *socket, const char *secret)
{
    const int on = 1;
    return set_key(socket, ZMQ_CURVE_SECRETKEY, secret) &&
           zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &on, sizeof on) == 0;
}

bool weft_socket_connect_with_keys(void *socket, const char *public, const char *secret, const char *server)
{
    return set_key(socket, ZMQ_CURVE_SECRETKEY, secret) && set_key(socket, ZMQ_CURVE_PUBLICKEY, public) &&
           set_key(socket, ZMQ_CURVE_SERVERKEY, server);
}

void weft_socket_give_up(void *socket)
{
    int error = zmq_errno();
    zmq_close(socket);
    errno = error;
}

size_t weft_socket_read(void *socket, weft_socket_part_t *parts, size_t wanted)
{
    size_t count = 0;
    for (int more = 1; more; count++) {
        uint8_t spare;
        bool keep = count < wanted;
        int bytes = zmq_recv(socket, keep ? parts[count].data : &spare, keep ? parts[count].capacity : 0,
                             ZMQ_DONTWAIT);
        if (bytes < 0)
            return 0;
        if (keep)
            parts[count].bytes = (size_t)bytes;
        size_t size = sizeof more;
        zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size);
    }
    return count;
}
