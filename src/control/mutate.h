/* Rules that the simulator (tests/sim) can break, to prove that it notices. In the library every WEFT_BROKEN
 * is the constant false and leaves no trace. */
#ifndef WEFT_CONTROL_MUTATE_H
#define WEFT_CONTROL_MUTATE_H

/* X(identifier, name on the simulator's command line). */
#define WEFT_MUTATION_LIST(X)                                                                                \
    X(IGNORE_BALLOT, "ignore-ballot")               /* a rank obeys a COMMIT below its promise */            \
    X(LOWER_WITHOUT_FREEZE, "lower-without-freeze") /* a leader lowers at_step on parked reports alone */    \
    X(MARGIN_OFF_BY_ONE, "margin-off-by-one")       /* at_step is the highest limit itself */                \
    X(ABORT_AFTER_ARM, "abort-after-arm")           /* an armed rank gives up by itself */                   \
    X(STOP_AT_MIN, "stop-at-min")                   /* the lowest posted round instead of the highest */     \
    X(FORGET_APPLIED, "forget-applied")             /* a leader lowers at_step past a rank that swapped */   \
    X(AUTHORIZE_EARLY, "authorize-early")           /* one rank that is not prepared yet is forgiven */      \
    X(NO_RECOVER, "no-recover")                     /* a leader appointed anew does not freeze first */      \
    X(NO_REPEAT, "no-repeat")                       /* commands are sent once */                             \
    X(IGNORE_DIGEST, "ignore-digest")               /* replicas may hold different bytes */                  \
    X(IGNORE_BASE, "ignore-base")                   /* a subset goes over whatever serves */                 \
    X(SUPERSEDE_UNASKED, "supersede-unasked")       /* a stop for a later version does not ask for rounds */ \
    X(LOAD_UNASKED, "load-unasked")                 /* a load begins when one rank asks for it */            \
    X(LOAD_OUTCOME, "load-outcome")                 /* trainers hear of a load as if it were theirs */          \
    X(LEAVE_BEHIND, "leave-behind")                 /* a trainer may send for ever what is over for all others */ \
    X(IGNORE_LIFE, "ignore-life")                   /* a rank obeys what was meant for the life before */    \
    X(OLD_VIEWS, "old-views")                       /* a leader counts what ranks said in an earlier epoch */ \
    X(ADMIT_HALF, "admit-half")                     /* a replica is admitted when its first rank waits */      \
    X(MIX_LIVES, "mix-lives")                       /* ... or when ranks of two starts of its engine do */ \
    X(FORGET_BROKEN, "forget-broken")               /* a new coordinator takes a broken session for a whole one */   \
    X(WELCOME_LOST, "welcome-lost")                 /* a rank of a lost replica hears of epochs, and not that it is lost */ \
    X(EPOCH_AT_ONCE, "epoch-at-once")               /* who joins hears of the epoch before those who are in */ \
    X(KEEP_LEFT_BEHIND, "keep-left-behind")         /* a new coordinator goes on with a version of an earlier epoch */ \
    X(SKIP_ARM, "skip-arm")                         /* a leader commits on what ranks last said, unasked */  \
    X(COUNT_DUPLICATES, "count-duplicates")         /* a report that came before counts as news */           \
    X(OBEY_OLD_TERM, "obey-old-term")               /* a rank obeys a coordinator that has been replaced */  \
    X(KEEP_TERM, "keep-term")                       /* a new coordinator takes the term of the one before */ \
    X(FENCE_LATE, "fence-late")                     /* a fenced rank's guard lets steps begin */             \
    X(ADMIT_IN_FLIGHT, "admit-in-flight")           /* membership changes while a replica has a version */ \
    X(CALL_UNKNOWN_FAILED, "call-unknown-failed")   /* a trainer hears that nobody serves what some do */

#ifdef WEFT_SIM
typedef enum weft_mutation {
    WEFT_MUTATION_NONE,
#define X(id, name) WEFT_MUTATION_##id,
    WEFT_MUTATION_LIST(X)
#undef X
} weft_mutation_t;
extern weft_mutation_t weft_mutation;
#define WEFT_BROKEN(id) (weft_mutation == WEFT_MUTATION_##id)
#else
#define WEFT_BROKEN(id) 0
#endif

#endif
