/* The plan's inside: patterns, the instance table, sets and routes, rounds. */
#ifndef WEFT_PLAN_PLAN_H
#define WEFT_PLAN_PLAN_H

#include "src/plan/pattern.h"
#include "src/plan/scheme_map.h"

/* The largest bucket: transports send at most 2^31 - 1 bytes at once, and a fragment begins at a multiple of 256. */
#define WEFT_MAX_BUCKET_BYTES 2147483392u

/* A place in the global order of units: layer, then expert (as a rank counts its own), then part, then unit.
 */
typedef struct weft_cursor {
    uint32_t layer, expert, part, unit;
} weft_cursor_t;

/* A run of whole units that is staged together. The amax vectors of a round's units travel in the round
 * before; the first round may hold nothing else, and the last holds the digests of what travelled. */
typedef struct weft_plan_round {
    weft_cursor_t first;
    uint32_t num_units;
    bool digests;
} weft_plan_round_t;

struct weft_plan {
    const weft_model_t *model;
    weft_layout_t *trainer, *rollout;
    const weft_engine_t *engine; /* NULL: none */
    bool engine_chose_scheme;
    weft_scheme_map_t map;
    weft_plan_options_t options;

    weft_layers_t *layers;
    weft_holdings_t *holdings; /* NULL where the trainer layout is made of axes */
    weft_pattern_t *patterns;
    uint32_t num_patterns;
    uint32_t *layer_pattern; /* [layers]: which pattern */
    uint32_t *layer_ordinal; /* [layers]: the how-manieth layer of its pattern; rotates among equal holders */
    uint32_t *layer_stage;   /* [layers]: the trainer's pipeline stage that holds it */
    uint32_t *layer_entry;   /* [layers]: which entry of the scheme map decides */

    weft_sets_t sets;
    uint32_t *single_sets; /* [tp]: the set of that rank alone; UINT32_MAX where none is needed */
    weft_routes_t routes;
    bool relay;
    uint32_t groups_max; /* communicators of the rank with most */

    weft_plan_round_t *rounds;
    uint32_t num_rounds;
    uint64_t round_bytes;     /* a round's data and amax on any rank: at most this */
    uint64_t amax_round_rows; /* rows of amax that a round's units need, at most */
    uint64_t num_domains;     /* on a TP rank, at most: tensors whose scale spans all of them */
    uint64_t least_budget;

    weft_digest_t hash;
};

/* What goes from a source to a set. */
typedef enum weft_piece_kind {
    WEFT_PIECE_DATA,
    WEFT_PIECE_AMAX,   /* rect: the rows of the part, and the columns that the source holds; 2 bytes a row travel */
    WEFT_PIECE_DIGEST, /* 16 bytes: the digest of what the route carried */
} weft_piece_kind_t;

typedef struct weft_piece {
    weft_piece_kind_t kind;
    uint32_t source, set;
    uint32_t tensor; /* index in the model */
    weft_rect_t rect;    /* as it lies in the tensor, seen as one matrix of all its rows */
    bool transposed;     /* its columns are the unit's rows */
    uint32_t to_row, to_col;
    bool whole_rows; /* rect spans all columns that the source holds: its rows are contiguous there */
} weft_piece_t;

/* Called for each piece. Returning anything but WEFT_OK ends the walk. */
typedef weft_status_t (*weft_piece_fn)(void *user, const weft_piece_t *piece);

/* What the scheme map says of a layer; one that is never quantized is a cast all the same. */
const weft_scheme_entry_t *weft_plan_entry(const weft_plan_t *plan, uint32_t layer);

/* The pattern and the unit that a cursor stands on. */
const weft_pattern_t *weft_plan_pattern(const weft_plan_t *plan, uint32_t layer);
const weft_unit_pattern_t *weft_cursor_unit(const weft_plan_t *plan, weft_cursor_t cursor);

/* Whether a domain begins with this unit: its amax, of all its units, must have come before it. */
bool weft_cursor_begins_domain(const weft_plan_t *plan, weft_cursor_t cursor);

/* Bytes of amax that must have come before this unit and not before an earlier one. */
uint64_t weft_cursor_amax_bytes(const weft_plan_t *plan, weft_cursor_t cursor);

/* Experts of `layer` on the TP rank with most; 1 for a layer without. */
uint32_t weft_plan_local_experts(const weft_plan_t *plan, uint32_t layer);

/* Step to the next unit; false at the end. */
bool weft_cursor_next(const weft_plan_t *plan, weft_cursor_t *cursor);

/* Whether the TP rank has this unit at all (under ep ranks may hold one expert fewer), and of which expert of
 * the model. */
bool weft_cursor_expert(const weft_plan_t *plan, weft_cursor_t cursor, uint32_t tp_rank, uint32_t *expert);

/* Walk the data or the amax pieces of a unit, in an order that is the same on every rank. All amax pieces of a domain
 * are those of its first unit. */
weft_status_t weft_plan_walk(const weft_plan_t *plan, weft_cursor_t cursor, weft_piece_kind_t kind,
                             weft_piece_fn fn, void *user);

/* The same, only the pieces of the sets s with sets[s]. */
weft_status_t weft_plan_walk_sets(const weft_plan_t *plan, weft_cursor_t cursor, weft_piece_kind_t kind,
                                  const bool *sets, weft_piece_fn fn, void *user);

/* The piece that a fragment of the cursor's unit is for expert `expert` of the model. */
weft_piece_t weft_plan_piece(const weft_plan_t *plan, weft_cursor_t cursor,
                             const weft_fragment_pattern_t *fragment, weft_piece_kind_t kind, uint32_t set,
                             uint32_t expert);

/* The set of one TP rank alone; where a pattern says "each" there is one for every rank. */
uint32_t weft_plan_single_set(const weft_plan_t *plan, uint32_t tp_rank);

/* Bytes that a piece carries. */
uint64_t weft_piece_bytes(const weft_plan_t *plan, const weft_piece_t *piece);

/* Ranks of the session: trainers first, then replicas one after the other. */
uint32_t weft_plan_rollout_rank(const weft_plan_t *plan, uint32_t replica, uint32_t tp_rank);
uint32_t weft_plan_num_ranks(const weft_plan_t *plan);

/* Steps of weft_plan_create, one file each. */
weft_status_t weft_plan_check_fit(const weft_plan_t *plan, weft_error_t *error); /* misfit.c */
weft_status_t weft_plan_make_routes(weft_plan_t *plan);                          /* routes.c */
weft_status_t weft_plan_make_rounds(weft_plan_t *plan, weft_error_t *error);     /* rounds.c */
weft_status_t weft_plan_make_hash(weft_plan_t *plan);                            /* plan_hash.c */

#endif
