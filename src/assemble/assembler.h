/* The assembler: which buckets of a version have arrived, and so which units may be quantized and which
 * layers are whole. It holds no bytes and moves none.
 *
 *     unit:   EMPTY --first fragment--> FILLING --last fragment--> COMPLETE --quantized--> STAGED
 *     layer:  COMPLETE when all its units are, STAGED when all their outputs are written
 *
 * Coverage is exact: each bucket is expected once, the plan has proven that the buckets cover each unit once,
 * so a unit with no fragment outstanding is complete and a bucket that comes twice is an error, never
 * progress.
 */
#ifndef WEFT_ASSEMBLE_ASSEMBLER_H
#define WEFT_ASSEMBLE_ASSEMBLER_H

#include "src/assemble/selection.h"

typedef enum weft_unit_state {
    WEFT_UNIT_EMPTY,    /* nothing has arrived */
    WEFT_UNIT_FILLING,  /* some fragments have */
    WEFT_UNIT_COMPLETE, /* all have: may be quantized */
    WEFT_UNIT_STAGED,   /* its output is in the stage */
} weft_unit_state_t;

typedef struct weft_assembler weft_assembler_t;

weft_status_t weft_assembler_create(const weft_program_t *program, const weft_log_t *log,
                                    weft_assembler_t **assembler);
void weft_assembler_destroy(weft_assembler_t *assembler);

/* Expect a version anew: the layers that `selection` has (NULL: all). Units of other layers count as staged.
 */
void weft_assembler_begin(weft_assembler_t *assembler, const weft_selection_t *selection);

/* A round is granted: from now on its buckets may arrive, and its units without any input are complete. */
void weft_assembler_grant(weft_assembler_t *assembler, uint32_t round);

/* A bucket has arrived.
 * **Returns** WEFT_OK; WEFT_ERR_PROTOCOL with the route, the round and the tensor in `error` when it had
 * arrived before or its round is not granted. */
weft_status_t weft_assembler_arrive(weft_assembler_t *assembler, uint32_t bucket, weft_error_t *error);

/* Take the next unit that is complete, in order of completion; false when there is none. */
bool weft_assembler_next(weft_assembler_t *assembler, uint32_t *unit);

/* Whether the next complete unit to take is `unit`. */
bool weft_assembler_next_is(const weft_assembler_t *assembler, uint32_t unit);

/* A unit's output is in the stage; *layer_staged says whether its layer is whole with it. */
void weft_assembler_staged(weft_assembler_t *assembler, uint32_t unit, bool *layer_staged);

/* Whether all of a round's buckets have arrived and all its units are staged: its slot is free. */
bool weft_assembler_round_done(const weft_assembler_t *assembler, uint32_t round);

/* Whether every round is. */
bool weft_assembler_done(const weft_assembler_t *assembler);

/* The first bucket of a granted round that has not arrived: what a stall waits for. False when none is
 * missing. */
bool weft_assembler_missing(const weft_assembler_t *assembler, uint32_t *bucket);

/* The round that a unit belongs to. */
uint32_t weft_assembler_unit_round(const weft_assembler_t *assembler, uint32_t unit);

weft_unit_state_t weft_assembler_unit_state(const weft_assembler_t *assembler, uint32_t unit);
uint32_t weft_assembler_layers_staged(const weft_assembler_t *assembler);

#endif
