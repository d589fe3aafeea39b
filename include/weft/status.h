/* Status codes and the error record.
 *
 * Every function that can fail returns a weft_status_t; 0 is success. Codes are grouped by what has to be
 * rebuilt before trying again: an argument, the version in flight, the session, or the process. Functions
 * that meet input from outside also take a weft_error_t, which they fill with one sentence that names rank,
 * layer, what was found, what was expected and what to do.
 *
 *     weft_error_t error;
 *     if (weft_model_open(path, &model, &error) != WEFT_OK)
 *         fprintf(stderr, "%s: %s\n", weft_status_name(error.status), error.message);
 */
#ifndef WEFT_STATUS_H
#define WEFT_STATUS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define WEFT_API __attribute__((visibility("default")))
#else
#define WEFT_API
#endif

/* X(identifier, group, text): the only place where a status is written down. */
#define WEFT_STATUS_LIST(X)                                                                                  \
    X(OK, NONE, "success")                                                                                   \
    X(ERR_ARGUMENT, ARGUMENT, "an argument is not acceptable")                                               \
    X(ERR_UNKNOWN_NAME, ARGUMENT, "a name is not known")                                                     \
    X(ERR_FILE, ARGUMENT, "a file is malformed")                                                             \
    X(ERR_IO, ARGUMENT, "a file cannot be read or written")                                                  \
    X(ERR_MISSING_TENSOR, ARGUMENT, "a tensor is missing")                                                   \
    X(ERR_SHAPE, ARGUMENT, "a tensor has another shape or dtype than expected")                              \
    X(ERR_MISFIT, ARGUMENT, "the layouts do not fit the model and the scheme")                               \
    X(ERR_BUDGET, ARGUMENT, "the staging budget is too small")                                               \
    X(ERR_VERSION_ORDER, VERSION, "versions must rise")                                                      \
    X(ERR_NONFINITE, VERSION, "a tensor holds NaN or Inf")                                                   \
    X(ERR_DIGEST, VERSION, "bytes differ from what was sent")                                                \
    X(ERR_ABORTED, VERSION, "the version was aborted; the weights before it go on serving")                  \
    X(ERR_SUPERSEDED, VERSION, "the version was stopped for a later one")                                    \
    X(ERR_BASE, VERSION, "a subset of the layers was published over a version that is not served")           \
    X(ERR_NOT_READY, VERSION, "no version has been applied yet")                                             \
    X(ERR_TAINTED, VERSION, "the live weights were overwritten in part; a whole version must come")          \
    X(ERR_STEP_ORDER, ARGUMENT, "step numbers must rise by one")                                             \
    X(ERR_PLAN_MISMATCH, SESSION, "the ranks hold different plans")                                          \
    X(ERR_PEER_LOST, SESSION, "a peer was lost")                                                             \
    X(ERR_TIMEOUT, SESSION, "a deadline passed")                                                             \
    X(ERR_FENCED, SESSION, "the rank may not start a step until its leader answers")                         \
    X(ERR_TRANSPORT, SESSION, "the transport failed")                                                        \
    X(ERR_PROTOCOL, SESSION, "a message does not belong here")                                               \
    X(ERR_CLOSED, SESSION, "the session is closed")                                                          \
    X(ERR_NO_MEMORY, PROCESS, "out of memory")                                                               \
    X(ERR_SYSTEM, PROCESS, "a system call failed")                                                           \
    X(ERR_UNSUPPORTED, PROCESS, "not available in this build or on this machine")                            \
    X(ERR_INTERNAL, PROCESS, "a bug in weft")

typedef enum weft_status {
#define X(id, group, text) WEFT_##id,
    WEFT_STATUS_LIST(X)
#undef X
} weft_status_t;

/* What is lost, and so what must be rebuilt, when a call fails. */
typedef enum weft_status_group {
    WEFT_STATUS_GROUP_NONE,     /* nothing */
    WEFT_STATUS_GROUP_ARGUMENT, /* the call changed nothing: correct it and call again */
    WEFT_STATUS_GROUP_VERSION,  /* the version in flight is lost, the session goes on */
    WEFT_STATUS_GROUP_SESSION,  /* close the session and open a new one */
    WEFT_STATUS_GROUP_PROCESS,  /* the process cannot go on usefully */
} weft_status_group_t;

#define WEFT_ERROR_MESSAGE_BYTES 1024

typedef struct weft_error {
    weft_status_t status;
    char message[WEFT_ERROR_MESSAGE_BYTES]; /* one sentence or more, NUL-terminated, no line end */
} weft_error_t;

/* Return the identifier without its prefix, such as "ERR_MISFIT"; never NULL. */
WEFT_API const char *weft_status_name(weft_status_t status);

/* Return one lower-case sentence without a full stop; never NULL. */
WEFT_API const char *weft_status_text(weft_status_t status);

/* Return the group of a status. */
WEFT_API weft_status_group_t weft_status_group(weft_status_t status);

#ifdef __cplusplus
}
#endif
#endif
