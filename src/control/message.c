#include "src/control/message.h"

#include <string.h>

#include "src/base/error.h"
#include "src/control/machine.h"
#include "src/control/rank_machine.h"
#include "src/control/trainer_machine.h"

/* Header: "weft", protocol version, bytes of the whole message. Then the fields in the order of FIELDS,
 * little-endian, then the subset and the text without their NULs, each preceded by its length. */
#define MAGIC        UINT32_C(0x74666577)
#define HEADER_BYTES 8

/* clang-format off */
#define FIELDS(X)                                                                                            \
    X(8, type) X(8, role) X(8, state) X(8, outcome)                                                          \
    X(32, flags) X(32, from) X(32, to) X(32, epoch) X(32, status)                                            \
    X(64, term) X(64, incarnation) X(64, sequence) X(64, version) X(64, live) X(64, done) X(64, wants) X(64, newest) X(64, ballot)            \
    X(64, step) X(64, limit) X(64, at_step)                                                                  \
    X(32, round) X(32, stop_round)                                                                           \
    X(64, digest.word[0]) X(64, digest.word[1]) X(64, members.word[0]) X(64, members.word[1])  \
    X(64, content.base) X(8, content.load)
/* clang-format on */

/* A limit is a step plus a margin. */
#define MAX_STEP_FIELD (2 * WEFT_GUARD_MAX_STEP)

#define ROLE(id) (1u << WEFT_ROLE_##id)

static const struct {
    const char *name;
    unsigned roles; /* that may receive it */
} types[WEFT_MESSAGE_TYPE_COUNT] = {
    [WEFT_MESSAGE_TRAINER_STATE] = {"TRAINER_STATE", ROLE(COORDINATOR)},
    [WEFT_MESSAGE_RANK_STATE] = {"RANK_STATE", ROLE(COORDINATOR) | ROLE(LEADER)},
    [WEFT_MESSAGE_WELCOME] = {"WELCOME", ROLE(TRAINER) | ROLE(RANK)},
    [WEFT_MESSAGE_BEGIN] = {"BEGIN", ROLE(TRAINER) | ROLE(RANK)},
    [WEFT_MESSAGE_STOP] = {"STOP", ROLE(TRAINER) | ROLE(RANK)},
    [WEFT_MESSAGE_STOP_AT] = {"STOP_AT", ROLE(TRAINER) | ROLE(RANK)},
    [WEFT_MESSAGE_DROP] = {"DROP", ROLE(RANK)},
    [WEFT_MESSAGE_ABORT_TRANSFER] = {"ABORT_TRANSFER", ROLE(TRAINER) | ROLE(RANK)},
    [WEFT_MESSAGE_AUTHORIZE] = {"AUTHORIZE", ROLE(LEADER)},
    [WEFT_MESSAGE_OUTCOME] = {"OUTCOME", ROLE(TRAINER) | ROLE(RANK)},
    [WEFT_MESSAGE_FENCE] = {"FENCE", ROLE(TRAINER) | ROLE(RANK)},
    [WEFT_MESSAGE_ARM] = {"ARM", ROLE(RANK)},
    [WEFT_MESSAGE_FREEZE] = {"FREEZE", ROLE(RANK)},
    [WEFT_MESSAGE_COMMIT] = {"COMMIT", ROLE(RANK)},
    [WEFT_MESSAGE_ABORT] = {"ABORT", ROLE(RANK)},
};

const char *weft_message_type_name(weft_message_type_t type)
{
    return (unsigned)type < WEFT_MESSAGE_TYPE_COUNT ? types[type].name : "?";
}

const char *weft_outcome_name(weft_outcome_t outcome)
{
    static const char *const names[] = {"NONE", "RELEASED", "APPLIED", "PARTIAL", "FAILED"};
    return (unsigned)outcome < WEFT_OUTCOME_COUNT ? names[outcome] : "?";
}

static uint8_t *put(uint8_t *at, uint64_t value, int bits)
{
    for (int shift = 0; shift < bits; shift += 8)
        *at++ = (uint8_t)(value >> shift);
    return at;
}

static uint64_t get(const uint8_t **at, int bits)
{
    uint64_t value = 0;
    for (int shift = 0; shift < bits; shift += 8)
        value |= (uint64_t) * (*at)++ << shift;
    return value;
}

#define COUNT_BYTES(bits, field) +bits / 8
enum { FIXED_BYTES = HEADER_BYTES FIELDS(COUNT_BYTES) + 2 };
_Static_assert(FIXED_BYTES + WEFT_SUBSET_BYTES + WEFT_MESSAGE_TEXT_BYTES <= WEFT_MESSAGE_MAX_BYTES,
               "the largest message fits");
_Static_assert(WEFT_MESSAGE_TEXT_BYTES <= 256 && WEFT_SUBSET_BYTES <= 256, "a length is one byte");

static uint8_t *put_text(uint8_t *at, const char *text, size_t bytes)
{
    at = put(at, bytes, 8);
    memcpy(at, text, bytes);
    return at + bytes;
}

size_t weft_message_encode(const weft_message_t *message, uint8_t *bytes)
{
    size_t text_bytes = strnlen(message->text, WEFT_MESSAGE_TEXT_BYTES - 1);
    size_t subset_bytes = strnlen(message->content.subset, WEFT_SUBSET_BYTES - 1);
    size_t size = FIXED_BYTES + subset_bytes + text_bytes;
    uint8_t *at = put(bytes, MAGIC, 32);
    at = put(at, WEFT_PROTOCOL_VERSION, 16);
    at = put(at, size, 16);
#define PUT(bits, field) at = put(at, message->field, bits);
    FIELDS(PUT)
#undef PUT
    at = put_text(at, message->content.subset, subset_bytes);
    put_text(at, message->text, text_bytes);
    return size;
}

static weft_status_t wrong(weft_error_t *error, const char *field, uint64_t found)
{
    return weft_fail(error, WEFT_ERR_PROTOCOL, "a control message was refused: its %s is %llu", field,
                     (unsigned long long)found);
}

static weft_status_t check_header(const uint8_t *bytes, size_t size, weft_error_t *error)
{
    if (size < FIXED_BYTES || size > WEFT_MESSAGE_MAX_BYTES)
        return wrong(error, "size", size);
    const uint8_t *at = bytes;
    uint64_t magic = get(&at, 32), protocol = get(&at, 16), length = get(&at, 16);
    if (magic != MAGIC)
        return wrong(error, "magic number", magic);
    if (protocol != WEFT_PROTOCOL_VERSION)
        return wrong(error, "protocol version (the peer runs another weft)", protocol);
    if (length != size)
        return wrong(error, "length", length);
    return WEFT_OK;
}

static unsigned state_count(uint8_t type)
{
    if (type == WEFT_MESSAGE_TRAINER_STATE)
        return WEFT_TRAINER_STATE_COUNT;
    return type == WEFT_MESSAGE_RANK_STATE ? WEFT_RANK_STATE_COUNT : 1;
}

static weft_status_t check_fields(const weft_message_t *m, weft_error_t *error)
{
    if (m->type >= WEFT_MESSAGE_TYPE_COUNT)
        return wrong(error, "type", m->type);
    if (m->role >= WEFT_ROLE_COUNT || (types[m->type].roles & 1u << m->role) == 0)
        return wrong(error, "receiver's role", m->role);
    if (m->state >= state_count(m->type))
        return wrong(error, "state", m->state);
    if (m->outcome >= WEFT_OUTCOME_COUNT)
        return wrong(error, "outcome", m->outcome);
    if (m->flags > WEFT_FLAG_ALL)
        return wrong(error, "flags word", m->flags);
    if (m->from >= WEFT_CONTROL_MAX_RANKS || m->to >= WEFT_CONTROL_MAX_RANKS)
        return wrong(error, "sender or receiver", m->from >= WEFT_CONTROL_MAX_RANKS ? m->from : m->to);
    if (m->status > WEFT_ERR_INTERNAL)
        return wrong(error, "status", m->status);
    if (m->content.load > 1)
        return wrong(error, "content", m->content.load);
    if (m->term > WEFT_MAX_TERM)
        return wrong(error, "term", m->term);
    if (m->step > MAX_STEP_FIELD || m->limit > MAX_STEP_FIELD || m->at_step > MAX_STEP_FIELD)
        return wrong(error, "step", m->step > MAX_STEP_FIELD ? m->step : m->limit);
    return WEFT_OK;
}

/* Read a text of at most `room` bytes, its NUL counted, that ends at `end` or before. */
static weft_status_t get_text(const uint8_t **at, const uint8_t *end, char *text, size_t room,
                              weft_error_t *error)
{
    size_t bytes = get(at, 8);
    if (bytes >= room || bytes > (size_t)(end - *at))
        return wrong(error, "text length", bytes);
    for (size_t i = 0; i < bytes; i++)
        if ((*at)[i] < 0x20 || (*at)[i] == 0x7f)
            return wrong(error, "text holds a control character, which", (*at)[i]);
    memcpy(text, *at, bytes);
    memset(text + bytes, 0, room - bytes);
    *at += bytes;
    return WEFT_OK;
}

weft_status_t weft_message_decode(const uint8_t *bytes, size_t size, weft_message_t *message,
                                  weft_error_t *error)
{
    WEFT_TRY(check_header(bytes, size, error));
    weft_message_t read;
    const uint8_t *at = bytes + HEADER_BYTES;
#define GET(bits, field) read.field = (uint##bits##_t)get(&at, bits);
    FIELDS(GET)
#undef GET
    WEFT_TRY(check_fields(&read, error));
    WEFT_TRY(get_text(&at, bytes + size - 1, read.content.subset, WEFT_SUBSET_BYTES, error));
    WEFT_TRY(get_text(&at, bytes + size, read.text, WEFT_MESSAGE_TEXT_BYTES, error));
    if (at != bytes + size)
        return wrong(error, "text length", (uint64_t)(at - bytes));
    *message = read;
    return WEFT_OK;
}
