/* What a rank asks of the coordinator before and between versions, over an authenticated connection of its own: who it
 * is, where others are, and the gathering by which transports meet. Questions and answers, one at a time; a question
 * that is asked again changes nothing, so it is repeated until it is answered.
 *
 *     rank                                        coordinator
 *     JOIN      topology, plan, life          ->  incarnation, session token, where its mailbox is
 *     REGISTER  where this rank's mailbox is  ->
 *     FIND      a rank                        ->  where its mailbox is, "" until it has said so, and its life
 *     GATHER    key, sequence, members, bytes ->  everybody's bytes, once all members have given theirs
 *
 * All fields are little-endian, as the hosts are, at fixed offsets without padding. */
#ifndef WEFT_SERVICE_WIRE_H
#define WEFT_SERVICE_WIRE_H

#include "src/control/mailbox.h"
#include "src/control/message.h"
#include "src/service/roster.h"

#define WEFT_WIRE_VERSION          1u
#define WEFT_WIRE_MAX_GATHER_BYTES 4096u /* of one rank */
#define WEFT_WIRE_TEXT_BYTES       512u

typedef enum weft_wire_type {
    WEFT_WIRE_JOIN = 1,
    WEFT_WIRE_REGISTER,
    WEFT_WIRE_FIND,
    WEFT_WIRE_GATHER,
} weft_wire_type_t;

/* In front of every question. */
typedef struct weft_wire_question {
    uint8_t magic[4];
    uint32_t version;
    uint32_t type; /* weft_wire_type_t */
    uint32_t rank;
    uint64_t incarnation; /* of the asker; 0 in JOIN */
    uint64_t serial;      /* comes back in the answer */
} weft_wire_question_t;

/* In front of every answer; behind it the body, or a text when status is not WEFT_OK. */
typedef struct weft_wire_answer {
    uint8_t magic[4];
    uint32_t version;
    uint32_t type; /* of the question */
    uint32_t status;
    uint64_t serial;
} weft_wire_answer_t;

typedef struct weft_wire_join {
    uint32_t trainers, replicas, tp, zero;
    weft_digest_t plan_hash;
    uint8_t life[WEFT_LIFE_BYTES];
} weft_wire_join_t;

typedef struct weft_wire_joined {
    uint64_t incarnation;
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES];
    char control[WEFT_MAILBOX_ENDPOINT_BYTES];
} weft_wire_joined_t;

typedef struct weft_wire_place {
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
} weft_wire_place_t;

typedef struct weft_wire_find {
    uint32_t rank, zero;
    uint64_t incarnation; /* that it must have */
} weft_wire_find_t;

typedef struct weft_wire_found {
    uint64_t incarnation; /* that it has; 0: nobody has come yet */
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
} weft_wire_found_t;

/* Behind it `bytes` of the asker; the answer is [ranks * bytes], zeros where a rank is no member. */
typedef struct weft_wire_gather {
    uint64_t key; /* of a series of gatherings; rises */
    uint32_t sequence, bytes;
    weft_members_t members; /* replicas that take part; trainers always do */
} weft_wire_gather_t;

_Static_assert(sizeof(weft_wire_question_t) == 32 && sizeof(weft_wire_answer_t) == 24, "no padding");
_Static_assert(sizeof(weft_wire_join_t) == 48 && sizeof(weft_wire_joined_t) == 168, "no padding");
_Static_assert(sizeof(weft_wire_find_t) == 16 && sizeof(weft_wire_gather_t) == 32, "no padding");

#define WEFT_WIRE_MAX_QUESTION_BYTES                                                                         \
    (sizeof(weft_wire_question_t) + sizeof(weft_wire_gather_t) + WEFT_WIRE_MAX_GATHER_BYTES)

static inline void weft_wire_set_magic(uint8_t magic[4])
{
    memcpy(magic, "wefd", 4);
}

static inline bool weft_wire_has_magic(const uint8_t magic[4])
{
    return memcmp(magic, "wefd", 4) == 0;
}

/* Whether the text ends within its field and is like tcp://host:port in printable characters. */
static inline bool weft_wire_is_endpoint(const char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES])
{
    size_t length = strnlen(endpoint, WEFT_MAILBOX_ENDPOINT_BYTES);
    if (length == WEFT_MAILBOX_ENDPOINT_BYTES || strncmp(endpoint, "tcp://", 6) != 0)
        return false;
    for (size_t i = 0; i < length; i++)
        if (endpoint[i] <= ' ' || endpoint[i] > '~')
            return false;
    return true;
}

#endif
