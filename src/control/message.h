/* What ranks say to each other to move a version: one struct for every message, and its bytes on the wire.
 *
 * Ranks report their whole state (TRAINER_STATE, RANK_STATE), again and again; the coordinator and the leader
 * of a replica answer with what that state lacks. So a lost message is sent again, a repeated one changes
 * nothing, and an old one is recognized by its term, version, ballot or sequence number. docs/protocol.md
 * tells which field means what in which message.
 *
 *     uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
 *     size_t size = weft_message_encode(&message, bytes);
 *     weft_mailbox_send(mailbox, message.to, bytes, size);
 *     ...
 *     WEFT_TRY(weft_message_decode(bytes, size, &message, error));
 */
#ifndef WEFT_CONTROL_MESSAGE_H
#define WEFT_CONTROL_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <weft/types.h>

#define WEFT_PROTOCOL_VERSION   4
#define WEFT_MESSAGE_TEXT_BYTES 200
#define WEFT_SUBSET_BYTES       200
#define WEFT_MESSAGE_MAX_BYTES  640

/* The machine a message is for; several live in one process. */
typedef enum weft_role {
    WEFT_ROLE_TRAINER,
    WEFT_ROLE_RANK, /* of a replica */
    WEFT_ROLE_LEADER,
    WEFT_ROLE_COORDINATOR,
    WEFT_ROLE_COUNT,
} weft_role_t;

/* X(identifier, what it says). The receiver's role follows from the type except for RANK_STATE and the
 * commands that go to trainers and ranks alike. */
#define WEFT_MESSAGE_TYPE_LIST(X)                                                                            \
    X(TRAINER_STATE, "trainer -> coordinator: my whole state")                                               \
    X(RANK_STATE, "rank -> coordinator, leader: my whole state")                                             \
    X(WELCOME, "coordinator -> all: I am here, with this term")                                              \
    X(BEGIN, "coordinator -> trainer, rank: transfer this version")                                          \
    X(STOP, "coordinator -> trainer, rank: post no further round, say how many you posted")                  \
    X(STOP_AT, "coordinator -> trainer, rank: finish the rounds below stop_round, then forget the version")  \
    X(DROP, "coordinator -> rank: forget the version, whose transfer is complete here")                      \
    X(ABORT_TRANSFER, "coordinator -> trainer, rank: a peer is dead, break the transfer off")                \
    X(AUTHORIZE, "coordinator -> leader: commit this version on your replica")                               \
    X(OUTCOME, "coordinator -> trainer, rank: this is what became of the version")                                \
    X(FENCE, "coordinator -> trainer, rank: you or your replica are lost, serve nothing")                    \
    X(ARM, "leader -> rank: promise a limit")                                                                \
    X(FREEZE, "leader -> rank: promise to start no further step")                                            \
    X(COMMIT, "leader -> rank: the version is live from step at_step on")                                    \
    X(ABORT, "leader -> rank: the version will not be live")

typedef enum weft_message_type {
#define X(id, text) WEFT_MESSAGE_##id,
    WEFT_MESSAGE_TYPE_LIST(X)
#undef X
        WEFT_MESSAGE_TYPE_COUNT,
} weft_message_type_t;

/* What became of a version that was published, or loaded. */
typedef enum weft_outcome {
    WEFT_OUTCOME_NONE,
    WEFT_OUTCOME_RELEASED, /* sent: the trainer's memory is its own again. Not final */
    WEFT_OUTCOME_APPLIED,  /* every replica serves it */
    WEFT_OUTCOME_PARTIAL,  /* some replicas serve it; status and text say why the others do not */
    WEFT_OUTCOME_FAILED,   /* no replica serves it; status and text say why */
    WEFT_OUTCOME_COUNT,
} weft_outcome_t;

/* Bits of weft_message_t.flags. */
enum {
    WEFT_FLAG_OPEN = 1 << 0,      /* a step is open */
    WEFT_FLAG_PARKED = 1 << 1,    /* no step open for idle_us */
    WEFT_FLAG_STARTED = 1 << 2,   /* a first step has fixed the numbering */
    WEFT_FLAG_BROKEN = 1 << 3,    /* the transport of this rank was aborted: it takes no further version */
    WEFT_FLAG_STOP_AT = 1 << 4,   /* stop_round is known */
    WEFT_FLAG_RECOVER = 1 << 5,   /* an earlier leader may have decided: freeze first, then learn */
    WEFT_FLAG_POSTED = 1 << 6,    /* round is known and will not rise */
    WEFT_FLAG_SUPERSEDE = 1 << 7, /* a later version that was published behind this one wants it stopped */
    WEFT_FLAG_JOINS = 1 << 8,     /* this life of the process has not been admitted yet; in WELCOME: and is not now */
    WEFT_FLAG_LEAVES = 1 << 9,    /* the replica of this rank wants to serve no longer */
    WEFT_FLAG_ALL = (1 << 10) - 1,
};

/* A ballot orders what leaders ask about one version: 24 bits of the term that appointed the leader (a
 * coordinator appoints once a term), 40 of sequence. */
typedef uint64_t weft_ballot_t;

#define WEFT_MAX_TERM ((UINT64_C(1) << 24) - 1)

static inline weft_ballot_t weft_ballot(uint64_t term, uint64_t sequence)
{
    return term << 40 | sequence;
}

static inline uint64_t weft_ballot_term(weft_ballot_t ballot)
{
    return ballot >> 40;
}

/* Which replicas take part in a version, one bit each. */
typedef struct weft_members {
    uint64_t word[2];
} weft_members_t;

/* What of the model a version carries, and where it comes from. A subset is sent over the version that it names,
 * whose other layers stay. */
typedef struct weft_content {
    uint64_t base;                  /* 0: nothing is needed of an earlier version */
    uint64_t load;                  /* 1: each rank reads it from its disk; trainers take no part */
    char subset[WEFT_SUBSET_BYTES]; /* patterns of layer names, separated by commas; "": the whole model */
} weft_content_t;

static inline bool weft_content_equal(const weft_content_t *a, const weft_content_t *b)
{
    return a->base == b->base && a->load == b->load && strncmp(a->subset, b->subset, WEFT_SUBSET_BYTES) == 0;
}

typedef struct weft_message {
    uint8_t type;    /* weft_message_type_t */
    uint8_t role;    /* weft_role_t of the receiver */
    uint8_t state;   /* of the sender: weft_trainer_state_t or weft_rank_state_t */
    uint8_t outcome; /* weft_outcome_t */
    uint32_t flags;
    uint32_t from, to; /* ranks */
    uint32_t epoch;
    uint32_t status; /* weft_status_t */
    uint64_t term;
    uint64_t incarnation; /* of the sender of a state; of the receiver a command is meant for, 0: whatever it is */
    uint64_t sequence;    /* rises with every state message of an incarnation */
    uint64_t version;  /* in hand, or spoken of */
    uint64_t live;     /* served by the sender */
    uint64_t done;     /* highest version the sender is through with, applied or not */
    uint64_t wants;    /* a rank: the version it asks to load, until it has heard the outcome; 0: none */
    uint64_t newest;   /* coordinator: the highest version that any replica serves; a rank: the highest it was told */
    weft_ballot_t ballot;
    uint64_t step;       /* last begun */
    uint64_t limit;      /* highest step that may begin, by promise */
    uint64_t at_step;    /* first step on the new version */
    uint32_t round;      /* rounds posted so far */
    uint32_t stop_round; /* rounds below this one are finished, others never start */
    weft_digest_t digest;
    weft_members_t members;
    weft_content_t content;             /* of the version: in states, BEGIN, STOP and ABORT_TRANSFER */
    char text[WEFT_MESSAGE_TEXT_BYTES]; /* NUL-terminated */
} weft_message_t;

/* Return "ARM" and the like; never NULL. */
const char *weft_message_type_name(weft_message_type_t type);
const char *weft_outcome_name(weft_outcome_t outcome);

/* Write `message` into `bytes` [WEFT_MESSAGE_MAX_BYTES]. **Returns** the bytes used. */
size_t weft_message_encode(const weft_message_t *message, uint8_t *bytes);

/* Read a message from bytes that may be anything. **Returns** WEFT_OK, or WEFT_ERR_PROTOCOL with the field
 * that is wrong in `error` (may be NULL); *message is then untouched. */
weft_status_t weft_message_decode(const uint8_t *bytes, size_t size, weft_message_t *message,
                                  weft_error_t *error);

#endif
