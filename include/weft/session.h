/* Sessions: the ranks of one plan, joined over a transport, with the control plane that agrees on versions.
 *
 * Each rank opens a session with the same plan; rank numbers are the transport's, trainers first. The session
 * runs the control thread of this rank (and, in rank 0, the coordinator); a trainer or a rollout object on
 * top of it runs the progress thread that moves bytes.
 *
 *     weft_session_config_t config = WEFT_SESSION_CONFIG;
 *     config.plan = plan;
 *     config.transport = transport;
 *     weft_session_open(&config, &session, &error);
 *     ... weft_trainer_create(session, ...) or weft_rollout_create(session, ...) ...
 *     weft_session_close(session);
 */
#ifndef WEFT_SESSION_H
#define WEFT_SESSION_H

#include <weft/plan.h>
#include <weft/service.h>
#include <weft/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_session weft_session_t;

typedef struct weft_session_config {
    size_t struct_size;
    const weft_plan_t *plan;
    weft_transport_t
        *transport;   /* of as many ranks as the plan has; used by this session alone while it is open. NULL with `service` */
    const char *host; /* address of this host that this rank's control messages come to, and with a service its weights by
                         zmq; NULL: 127.0.0.1 */
    weft_log_t log;
    weft_span_fn span; /* NULL: no timeline */
    void *span_user;
    uint64_t transfer_timeout_us; /* from the first trainer's publish to every rank prepared; default 120 s */
    uint64_t commit_timeout_us;   /* from armed to committed, after which a rank is fenced; default 10 s */
    uint64_t dead_after_us;       /* silence after which a peer counts as lost; default 1.5 s */
    uint32_t margin_steps;        /* steps a rank may run between its answer and the commit; default 4 */
    double rate_bytes_per_s;      /* a trainer sends no faster than this; 0: as fast as it goes */
    uint32_t workers; /* host memory: threads that pack, quantize and digest while the transfer goes on; default 0: the
                         progress thread does it. For ranks that have cores to spare */
    const weft_service_config_t *service; /* NULL: the ranks meet over `transport`; else at this coordinator, and the session
                                             opens its transport itself. Not kept, but its strings are */
} weft_session_config_t;

#define WEFT_SESSION_CONFIG                                                                                  \
    ((weft_session_config_t){.struct_size = sizeof(weft_session_config_t),                                   \
                             .transfer_timeout_us = 120000000,                                               \
                             .commit_timeout_us = 10000000,                                                  \
                             .dead_after_us = 1500000,                                                       \
                             .margin_steps = 4})

/* Open the session on this rank: compare plans, create communicators, meet the coordinator.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT; WEFT_ERR_PLAN_MISMATCH naming the first rank with another hash;
 * WEFT_ERR_TIMEOUT, WEFT_ERR_TRANSPORT, WEFT_ERR_NO_MEMORY. With a service also WEFT_ERR_IO and WEFT_ERR_FILE (keys),
 * and WEFT_ERR_TRANSPORT when the coordinator refuses the key.
 * **Collective** over all ranks; with a service over none: a rank joins when it comes, only that of a replica waits for the
 * replica's first. **Blocks** until all ranks are there or the transport's deadline passes.
 * **Ownership** plan and transport must outlive the session. */
WEFT_API weft_status_t weft_session_open(const weft_session_config_t *config, weft_session_t **session,
                                         weft_error_t *error);

/* With a service, on a rollout rank: take this replica out of the session, when the version in hand, if any, has been
 * finished or given up. The other ranks of the replica are told so too (their calls fail and say that it has left), and others go
 * on without it; the same ranks may join again as new processes.
 * **Returns** WEFT_OK; WEFT_ERR_TIMEOUT when the coordinator did not let it go in time: close all the same, it then counts
 * as lost; WEFT_ERR_ARGUMENT on a trainer, or without a service. **Blocks** up to `timeout_us`. **Threads** any, with no
 * step open. */
WEFT_API weft_status_t weft_session_leave(weft_session_t *session, uint64_t timeout_us, weft_error_t *error);

/* Close it; destroy the trainer or rollout first. NULL is accepted. **Collective** over all ranks that still
 * live; with a service over none. **Blocks** until they come to close it too, at most for the transport's deadline: where a
 * session is opened beside one that serves, all close the old one when a version is live in the new one. */
WEFT_API void weft_session_close(weft_session_t *session);

/* Write one line into `text` [bytes] that says where this rank's GPU is and what was placed next to it; complete once the
 * trainer or rollout has been made. **Threads** any. */
WEFT_API void weft_session_place(const weft_session_t *session, char *text, size_t bytes);

/* The transport by which weights travel: the one given, or with a service the session's own. Lives as long as the
 * session. */
WEFT_API weft_transport_t *weft_session_transport(const weft_session_t *session);

/* Which process in the place of this rank this is: 1, or with a service more when others were there before. */
WEFT_API uint64_t weft_session_incarnation(const weft_session_t *session);

/* This rank of the session; whether it is a trainer. */
WEFT_API uint32_t weft_session_rank(const weft_session_t *session);
WEFT_API bool weft_session_is_trainer(const weft_session_t *session);

#ifdef __cplusplus
}
#endif
#endif
