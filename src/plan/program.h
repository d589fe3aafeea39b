/* A program: the plan as one rank runs it. Rounds of buckets in the order they are posted; on a rollout rank
 * also the units that the buckets complete.
 *
 *     round 0            round 1                      ...   last round
 *     [bucket][bucket]   [bucket][bucket][bucket]           [digests]
 *        |  fragments: tensor, rect, offset in the bucket -> unit, place in the unit
 *
 * Every member of a route derives the same buckets, since a bucket's content follows from the round and the
 * route alone. */
#ifndef WEFT_PLAN_PROGRAM_H
#define WEFT_PLAN_PROGRAM_H

#include "src/plan/outputs.h"

#define WEFT_FRAGMENT_ALIGN 256u

typedef struct weft_fragment {
    weft_piece_kind_t kind;
    uint32_t layer, tensor;
    weft_rect_t rect; /* as it lies in the tensor */
    bool transposed;  /* its columns are the unit's rows */
    uint32_t bucket;  /* index in the program's buckets */
    uint32_t unit;    /* rollout: index in the program's units */
    uint32_t to_row, to_col;
    uint32_t offset, bytes; /* in the bucket */
} weft_fragment_t;

/* Rows and columns of the unit that a fragment is, or whose maxima it holds. */
static inline uint32_t weft_fragment_rows(const weft_fragment_t *fragment)
{
    return fragment->transposed ? fragment->rect.cols : fragment->rect.rows;
}

static inline uint32_t weft_fragment_cols(const weft_fragment_t *fragment)
{
    return fragment->transposed ? fragment->rect.rows : fragment->rect.cols;
}

typedef struct weft_bucket {
    uint32_t round, route, source, set;
    uint32_t relay;    /* session rank that broadcasts it: the source itself, or one of the set's ranks */
    uint32_t sequence; /* within the route, over all rounds */
    uint32_t first_fragment, num_fragments;
    uint32_t bytes, payload_bytes; /* as sent, and without alignment */
    bool contiguous;               /* one run of the source's tensor: needs no packing */
    uint64_t slot;                 /* rollout: offset within the round's staging */
} weft_bucket_t;

typedef struct weft_unit {
    uint32_t layer, part;
    uint32_t rows, cols;
    uint32_t real_rows;                   /* rows from here on are zeros */
    uint32_t first_input, num_inputs;     /* into the program's inputs */
    uint32_t amax_row;                    /* first row in the round's amax table; UINT32_MAX without */
    uint32_t domain;                      /* in the program's domains; UINT32_MAX without */
    uint64_t weight_offset, scale_offset; /* bytes in the stage; scale UINT64_MAX without. Of arrangements that cut no
                                             scales (marlin: nor codes) by units, of the matrix */
    uint32_t matrix_row; /* of the matrix (of one expert): the unit's first */
    uint64_t global_offset;               /* of the whole tensor's scale beside those; UINT64_MAX without */
} weft_unit_t;

/* Units whose scales depend on one amax; the fragments that carry it are inputs of the first. */
typedef struct weft_domain {
    uint32_t first_unit, num_units;
} weft_domain_t;

typedef struct weft_round {
    uint32_t first_bucket, num_buckets;
    uint32_t first_unit, num_units;
    uint64_t slot_bytes;
    uint32_t amax_rows;
    uint32_t first_domain, num_domains; /* that begin in it */
} weft_round_t;

typedef struct weft_program {
    const weft_plan_t *plan;
    uint32_t rank; /* of the session */
    bool is_trainer;
    uint32_t replica, tp_rank; /* rollout */
    weft_round_t *rounds;
    uint32_t num_rounds;
    weft_bucket_t *buckets;
    size_t num_buckets;
    weft_fragment_t *fragments;
    size_t num_fragments;
    weft_unit_t *units;
    size_t num_units;
    weft_domain_t *domains;
    size_t num_domains;
    uint32_t *inputs;      /* fragments of unit u: inputs[first_input ..] */
    uint32_t *layer_units; /* rollout, [layers]: units of each layer */
    uint64_t slot_bytes;   /* the largest round */
    uint32_t amax_rows;    /* the largest table */
    uint32_t largest_bucket;
    uint64_t payload_bytes, wire_bytes; /* over all rounds */
} weft_program_t;

/* Derive what session rank `rank` does. `outputs` is the rank's (rollout) or NULL (trainer).
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. **Ownership** the plan must outlive the program. */
weft_status_t weft_program_create(const weft_plan_t *plan, uint32_t rank, const weft_outputs_t *outputs,
                                  weft_program_t **program);
void weft_program_destroy(weft_program_t *program);

/* Sizes of the buckets that one rank sends or receives, those with digests included. */
typedef struct weft_messages {
    uint32_t rank; /* of the session */
    uint64_t count, min_bytes, median_bytes, max_bytes;
} weft_messages_t;

/* Count them without keeping a program: memory does not grow with the model but by 4 bytes a bucket. */
weft_status_t weft_program_messages(const weft_plan_t *plan, uint32_t rank, weft_messages_t *messages);

/* The session ranks of a set, replica by replica; returns their number. `ranks` has room for all rollout
 * ranks. */
uint32_t weft_set_ranks(const weft_plan_t *plan, uint32_t set, uint32_t *ranks);

#endif
