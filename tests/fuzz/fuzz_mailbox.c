/* The mailbox, with what ZeroMQ and the kernel's sockets would deliver: ZeroMQ is replaced by a queue of the
 * input's messages, lanes are real ones to a peer that says whatever the input says.
 *
 * Input: operations. The library's own messages begin with the session's token, here 32 times 't', so that a
 * fuzzer can come past it. */
#include <errno.h>
#include <unistd.h>

#include <zmq.h>

#include "src/control/lane.h"
#include "src/control/mailbox.h"
#include "tests/fuzz/fuzz.h"

#define RANK       1
#define ENDPOINT   "tcp://127.0.0.1:4711"
#define MOST_PARTS 5
#define MOST_CALLS 64

/* ---- a ZeroMQ whose sockets deliver what is put there ---- */

typedef struct fake {
    int type;
    uint8_t *parts[MOST_PARTS];
    size_t bytes[MOST_PARTS];
    unsigned count, at; /* of the message that waits */
} fake_t;

static fake_t *router, *dealer, *monitor;

static void forget_message(fake_t *socket)
{
    for (unsigned i = 0; i < socket->count; i++)
        free(socket->parts[i]);
    socket->count = socket->at = 0;
}

void *zmq_ctx_new(void)
{
    return malloc(1);
}

int zmq_ctx_term(void *context)
{
    free(context);
    return 0;
}

void *zmq_socket(void *context, int type)
{
    (void)context;
    fake_t *made = calloc(1, sizeof *made);
    FUZZ_CHECK(made);
    made->type = type;
    *(type == ZMQ_ROUTER ? &router : type == ZMQ_DEALER ? &dealer : &monitor) = made;
    return made;
}

int zmq_close(void *socket)
{
    fake_t **known[] = {&router, &dealer, &monitor};
    for (size_t i = 0; i < 3; i++)
        if (*known[i] == socket)
            *known[i] = NULL;
    forget_message(socket);
    free(socket);
    return 0;
}

int zmq_setsockopt(void *socket, int option, const void *value, size_t bytes)
{
    (void)socket, (void)option, (void)value, (void)bytes;
    return 0;
}

int zmq_getsockopt(void *socket, int option, void *value, size_t *bytes)
{
    fake_t *fake = socket;
    if (option == ZMQ_LAST_ENDPOINT) {
        FUZZ_CHECK(*bytes >= sizeof ENDPOINT);
        memcpy(value, ENDPOINT, sizeof ENDPOINT);
    } else {
        FUZZ_CHECK(option == ZMQ_RCVMORE && *bytes == sizeof(int));
        *(int *)value = fake->at < fake->count;
        if (fake->at >= fake->count)
            forget_message(fake);
    }
    return 0;
}

/* As zmq_recv does: what does not fit is cut, the size is told whole. */
int zmq_recv(void *socket, void *data, size_t room, int flags)
{
    fake_t *fake = socket;
    (void)flags;
    if (fake->at >= fake->count) {
        errno = EAGAIN;
        return -1;
    }
    size_t bytes = fake->bytes[fake->at];
    if (bytes && room)
        memcpy(data, fake->parts[fake->at], bytes < room ? bytes : room);
    fake->at++;
    return (int)bytes;
}

int zmq_send(void *socket, const void *data, size_t bytes, int flags)
{
    (void)socket, (void)flags;
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)data)[i]);
    return (int)bytes;
}

int zmq_bind(void *socket, const char *endpoint)
{
    (void)socket, (void)endpoint;
    return 0;
}

int zmq_connect(void *socket, const char *endpoint)
{
    (void)socket;
    return strlen(endpoint) > 256 ? -1 : 0;
}

int zmq_poll(zmq_pollitem_t *items, int count, long timeout_ms)
{
    (void)items, (void)count, (void)timeout_ms;
    return 0;
}

int zmq_socket_monitor(void *socket, const char *endpoint, int events)
{
    (void)socket, (void)endpoint, (void)events;
    return 0;
}

int zmq_has(const char *capability)
{
    (void)capability;
    return 1;
}

char *zmq_z85_encode(char *text, const uint8_t *data, size_t bytes)
{
    FUZZ_CHECK(bytes == WEFT_MAILBOX_TOKEN_BYTES);
    (void)data;
    memset(text, 's', 40);
    text[40] = 0;
    return text;
}

/* The name of a lane is made of it: each process has lanes of its own. */
int zmq_curve_public(char *key, const char *secret)
{
    (void)secret;
    memset(key, 'p', 40);
    snprintf(key, 41, "%040d", (int)getpid());
    return 0;
}

int zmq_errno(void)
{
    return errno;
}

const char *zmq_strerror(int number)
{
    return strerror(number);
}

void zmq_version(int *major, int *minor, int *patch)
{
    *major = *minor = *patch = 0;
}

/* ---- what others say ---- */

typedef struct frame { /* what the mailbox's own messages begin with */
    uint8_t magic[4];
    uint32_t rank;
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES];
} frame_t;

static frame_t good_frame(uint32_t rank)
{
    frame_t frame = {.magic = {'w', 'e', 'f', '1'}, .rank = rank};
    memset(frame.token, 't', sizeof frame.token);
    return frame;
}

/* One part: 2 bytes of length and as many bytes, or a good frame, or the identity of a rank. */
static uint8_t *take_part(fuzz_input_t *input, unsigned kind, size_t *bytes)
{
    uint8_t *made;
    if (kind == 1) {
        frame_t frame = good_frame((uint32_t)fuzz_number(input, 1) % 4);
        made = malloc(*bytes = sizeof frame);
        memcpy(made, &frame, sizeof frame);
        return made;
    }
    if (kind == 2) {
        made = calloc(*bytes = 5, 1);
        made[0] = 'w';
        made[1] = (uint8_t)(fuzz_number(input, 1) % 4);
        return made;
    }
    size_t wanted = (size_t)fuzz_number(input, 2) % 4096;
    made = calloc(wanted + 1, 1);
    FUZZ_CHECK(made);
    size_t there = wanted < input->left ? wanted : input->left;
    memcpy(made, input->at, there);
    input->at += there;
    input->left -= there;
    *bytes = wanted;
    return made;
}

static void deliver(fuzz_input_t *input, fake_t *socket)
{
    unsigned how = (unsigned)fuzz_number(input, 2), count = how % (MOST_PARTS + 1);
    if (!socket)
        return;
    forget_message(socket);
    for (unsigned i = 0; i < count; i++)
        socket->parts[i] = take_part(input, how >> (3 + 2 * i) & 3, &socket->bytes[i]);
    socket->count = count;
}

static void say_in_lane(fuzz_input_t *input, weft_lanes_t *lanes)
{
    unsigned how = (unsigned)fuzz_number(input, 1);
    struct iovec parts[2];
    for (unsigned i = 0; i < 2; i++)
        parts[i].iov_base = take_part(input, how >> 2 * i & 1, &parts[i].iov_len);
    if (lanes)
        weft_lanes_send(lanes, RANK, parts, how & 0x10 ? 1 : 2);
    free(parts[0].iov_base);
    free(parts[1].iov_base);
}

/* ---- the mailbox ---- */

static void poll_once(weft_mailbox_t *mailbox)
{
    uint8_t *data = malloc(WEFT_MAILBOX_MAX_BYTES);
    uint32_t peer = UINT32_MAX;
    size_t bytes = SIZE_MAX;
    FUZZ_CHECK(data);
    if (weft_mailbox_poll(mailbox, 0, &peer, data, &bytes) == WEFT_OK)
        FUZZ_CHECK(bytes <= WEFT_MAILBOX_MAX_BYTES && peer != UINT32_MAX);
    free(data);
}

static void connect_one(fuzz_input_t *input, weft_mailbox_t *mailbox)
{
    char *endpoint = fuzz_take_text(input, "\n");
    weft_error_t error = {0};
    weft_status_t status =
        weft_mailbox_connect(mailbox, (uint32_t)fuzz_number(input, 1) % 4, endpoint, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    free(endpoint);
}

static void send_one(fuzz_input_t *input, weft_mailbox_t *mailbox)
{
    size_t bytes;
    uint32_t peer = (uint32_t)fuzz_number(input, 1) % 4;
    uint8_t *data = take_part(input, 0, &bytes);
    weft_mailbox_send(mailbox, peer, data, bytes);
    free(data);
}

static void run(fuzz_input_t *input, weft_mailbox_t *mailbox, weft_lanes_t *stranger)
{
    for (unsigned i = 0; i < MOST_CALLS && input->left; i++) {
        switch (fuzz_number(input, 1) % 6) {
        case 0:
            deliver(input, router);
            break;
        case 1:
            deliver(input, dealer);
            break;
        case 2:
            deliver(input, monitor);
            break;
        case 3:
            say_in_lane(input, stranger);
            break;
        case 4:
            connect_one(input, mailbox);
            break;
        default:
            send_one(input, mailbox);
        }
        poll_once(mailbox);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    char key[41];
    weft_mailbox_config_t config = {.rank = RANK, .host = "127.0.0.1"};
    weft_mailbox_t *mailbox = NULL;
    weft_lanes_t *stranger = NULL;
    weft_error_t error;
    memset(config.token, 't', sizeof config.token);
    unsigned how = (unsigned)fuzz_number(&input, 1);
    config.no_lanes = how & 1;
    FUZZ_CHECK(weft_mailbox_open(&config, &mailbox, &error) == WEFT_OK);
    FUZZ_CHECK(weft_mailbox_connect(mailbox, 0, ENDPOINT "0", &error) == WEFT_OK);
    if (!config.no_lanes) {
        zmq_curve_public(key, "");
        stranger = weft_lanes_open(key, NULL);
        weft_lanes_connect(stranger, RANK, ENDPOINT);
    }
    run(&input, mailbox, stranger);
    weft_lanes_close(stranger);
    poll_once(mailbox);
    weft_mailbox_close(mailbox);
    return 0;
}
