/* The session's inside: the control thread that drives the machines, and the two queues between it and the
 * progress thread of the trainer or rollout on top.
 *
 *     user's thread      progress thread                 control thread                  other ranks
 *          |                  |  <---- commands (actions) ---- machines <--- mailbox <----    |
 *          |                  |  ------- events ------------->    |     ---> mailbox ---->    |
 *          +------- events (publish), guard (steps) ------------->|
 */
#ifndef WEFT_SESSION_PRIVATE_H
#define WEFT_SESSION_PRIVATE_H

#include <pthread.h>

#include <weft/session.h>

#include "src/control/coordinator.h"
#include "src/control/leader_machine.h"
#include "src/control/mailbox.h"
#include "src/control/rank_machine.h"
#include "src/control/trainer_machine.h"
#include "kernels/queue.h"
#include "src/place/place.h"
#include "src/service/service.h"
#include "src/plan/program.h"
#include "transport/transport.h"

#define WEFT_QUEUE_LENGTH 64

/* What the control thread asks of the progress thread. */
typedef struct weft_command {
    weft_action_type_t type;
    uint64_t version;
    uint32_t round;
} weft_command_t;

/* What a version that was published here came to. */
typedef struct weft_publication {
    uint64_t version;
    bool released;
    weft_outcome_t outcome; /* NONE until it is final */
    weft_status_t status;
    char text[WEFT_MESSAGE_TEXT_BYTES];
} weft_publication_t;

#define WEFT_PUBLICATIONS 8

typedef struct weft_queued_event {
    weft_event_t event;
    char text[WEFT_MESSAGE_TEXT_BYTES];
} weft_queued_event_t;

/* A message that waits to leave. */
typedef struct weft_outgoing {
    uint32_t to;
    weft_role_t role;
    weft_message_type_t type;
    size_t bytes;
    uint8_t data[WEFT_MESSAGE_MAX_BYTES];
} weft_outgoing_t;

#define WEFT_OUTBOX_LENGTH 16

struct weft_session {
    const weft_plan_t *plan;
    weft_transport_t *transport;
    weft_session_config_t config;
    weft_control_config_t control;
    uint32_t rank;
    bool is_trainer;
    weft_service_t *service; /* NULL: the ranks have met over the transport, for good */
    _Atomic uint64_t given_up; /* the version whose transfer was aborted last; UINT64_MAX: the session ends */
    bool met;                  /* the progress thread's: the transport joins `met_members` of `met_epoch` */
    uint32_t met_epoch;
    weft_members_t met_members;
    weft_group_t **groups; /* direct: by route; relay: by set; NULL where this rank has none */
    uint32_t num_groups;

    weft_mailbox_t *mailbox;
    weft_guard_t guard;                      /* rollout */
    weft_trainer_machine_t *trainer_machine; /* one of the two */
    weft_rank_machine_t *rank_machine;
    weft_leader_machine_t *leader_machine;      /* TP rank 0 of a replica */
    weft_coordinator_t *coordinator;            /* rank 0 */
    weft_outgoing_t outbox[WEFT_OUTBOX_LENGTH]; /* the control thread's */
    uint32_t num_outgoing, num_held;
    uint64_t control_awake_us; /* until then it looks on */
    uint64_t heard_us;         /* the control thread's: when the coordinator spoke last; before it has, since when it may */
    bool heard;                /* likewise: it has spoken */

    weft_place_t *place; /* of the queue's GPU; NULL without one */
    _Atomic bool eager;  /* a GPU works: threads look on instead of sleeping while a version is on its way */
    uint64_t progress_awake_us; /* the progress thread's: until then it looks on */
    uint32_t wakes_seen;        /* the progress thread's: it has looked round since these wakes */

    pthread_t control_thread;
    bool control_started;

    pthread_mutex_t mutex; /* everything below */
    pthread_cond_t command_cond, step_cond, publish_cond;
    bool closing;
    _Atomic uint32_t wakes; /* of the progress thread, which reads it without the mutex while it looks on */
    weft_queued_event_t events[WEFT_QUEUE_LENGTH];
    uint32_t first_event, num_events;
    weft_command_t commands[WEFT_QUEUE_LENGTH];
    uint32_t first_command;
    _Atomic uint32_t num_commands;                      /* likewise */
    weft_publication_t publications[WEFT_PUBLICATIONS]; /* newest overwrite oldest */
    uint32_t num_publications;
    uint32_t epoch;         /* that this rank has entered */
    weft_members_t members; /* of the version begun last */
    weft_content_t content; /* of that */
    uint64_t transferring; /* the version begun last; on a trainer 0 once it is over */
    uint64_t newest;       /* rollout: the highest version that some replica serves, as far as it was told */
    uint64_t discarded;    /* rollout: the last version that was given up after it had begun */
    bool fenced;
    weft_status_t fenced_status;
    char fenced_text[WEFT_MESSAGE_TEXT_BYTES];
    bool cut_off;               /* the coordinator is silent; it may come back */
    char cut_off_text[128];
    bool transport_broken; /* aborted: no barrier at close */
    bool buffers_free;     /* what the abort said */
};

/* Give the control thread an event. Any thread. */
void weft_session_post(weft_session_t *session, weft_event_type_t type, uint64_t version, uint32_t round);
void weft_session_post_event(weft_session_t *session, const weft_event_t *event);

/* Take the next command, waiting up to `timeout_us` (0: not at all); false when there is none. Progress
 * thread. */
/* The content of the version begun last. */
weft_content_t weft_session_content(weft_session_t *session);

bool weft_session_next_command(weft_session_t *session, uint64_t timeout_us, weft_command_t *command);

/* The progress thread has ended its part of a version and expects the next command soon. */
void weft_session_stay_awake(weft_session_t *session);

/* Put a command into the queue of this rank's own progress thread. Any thread. */
void weft_session_command(weft_session_t *session, weft_action_type_t type, uint64_t version, uint32_t round);

/* Make a weft_session_next_command that waits return without one, so that the progress thread looks whether
 * it is to quit. */
void weft_session_wake(weft_session_t *session);

/* Report a span that began at `start_ns` and ends now. */
void weft_session_span(weft_session_t *session, const char *name, uint64_t start_ns, uint64_t version,
                       uint32_t index);

/* Abort the transport after a failure; what was in flight is given up. Returns whether its buffers may be
 * freed. Progress thread. */
bool weft_session_abort_transport(weft_session_t *session);

/* Tell the transport of memory that stays: staging, pack buffers. */
weft_status_t weft_session_register(weft_session_t *session, void *memory, size_t bytes);

/* Whether the transport lends memory instead of moving it. */
bool weft_session_lends(const weft_session_t *session);

/* Open the queue of the memory that the transport moves, from a thread next to its GPU, so that its pinned
 * buffers lie there too. Once a session. */
weft_status_t weft_session_open_queue(weft_session_t *session, weft_queue_t **queue, weft_error_t *error);

/* Make the calling thread the progress thread: next to the GPU, with the queue's arithmetic. */
void weft_session_progress_begin(weft_session_t *session, weft_queue_t *queue);

/* session.c: open communicators with those that are present. */
weft_status_t weft_session_create_groups(weft_session_t *session, weft_error_t *error);
void weft_session_destroy_groups(weft_session_t *session);

/* session_service.c: join the coordinator's session, and open the transport. */
weft_status_t weft_session_join(weft_session_t *session, weft_error_t *error);

/* Before a version is transferred: meet those that take part, if they are others than the last time or the transport
 * is broken. *renewed: what was borrowed is forgotten. Without a service nothing happens. Progress thread. */
weft_status_t weft_session_meet(weft_session_t *session, uint64_t version, bool *renewed, weft_error_t *error);

/* The progress thread is about to be ended: it waits for nobody any more. */
void weft_session_give_up(weft_session_t *session);

/* control_node.c: the control thread. */
weft_status_t weft_control_start(weft_session_t *session, weft_error_t *error);
void weft_control_stop(weft_session_t *session);

/* Set a condition's clock to the monotonic one; wait until `deadline_us` of weft_now_us. False when it
 * passed. */
void weft_condition_init(pthread_cond_t *condition);
bool weft_condition_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t deadline_us);

#endif
