/* A coordinator in a process of its own: the machine of src/control, its mailbox, the door that ranks come in by, and the
 * roster that lets another process go on with the same session.
 *
 *     weft_coordinator_process_open(&config, &process, &error);
 *     while (!stop) weft_coordinator_process_run(process, &error);     some milliseconds each
 *     weft_coordinator_process_close(process);
 *
 * It needs no model and no plan, and sees no weights. Ranks go on without it, and find the next one by themselves.
 * **Threads** one. */
#ifndef WEFT_SERVICE_COORDINATOR_PROCESS_H
#define WEFT_SERVICE_COORDINATOR_PROCESS_H

#include "src/control/coordinator.h"

typedef struct weft_coordinator_process weft_coordinator_process_t;

typedef struct weft_coordinator_process_config {
    const char *bind;      /* "127.0.0.1:7000": the door. Port 0: the system chooses */
    uint32_t control_port; /* of the mailbox, on the same address; 0: the one after the door's, or the roster's, or what the
                              system chooses when it chooses the door's */
    const char *keys;      /* folder: server.key, and the .pub of those that may join */
    const char *state;     /* file of the roster; NULL: none, and no other coordinator can go on with the session */
    weft_topology_t topology;
    uint64_t wait_us;           /* for ranks to come, before the session begins without those that have not */
    uint64_t dead_after_us;     /* silence after which a rank counts as lost */
    uint64_t transfer_timeout_us, commit_timeout_us;
    weft_log_t log;
} weft_coordinator_process_config_t;

/* Read keys and state, bind. **Returns** WEFT_OK; WEFT_ERR_ARGUMENT, WEFT_ERR_IO, WEFT_ERR_FILE, WEFT_ERR_SYSTEM (an
 * address cannot be bound), WEFT_ERR_UNSUPPORTED (no CURVE), WEFT_ERR_NO_MEMORY. */
weft_status_t weft_coordinator_process_open(const weft_coordinator_process_config_t *config,
                                            weft_coordinator_process_t **process, weft_error_t *error);
void weft_coordinator_process_close(weft_coordinator_process_t *process);

/* Do what there is to do, or wait up to 10 ms. **Returns** WEFT_OK; WEFT_ERR_IO when the state cannot be written;
 * WEFT_ERR_PROTOCOL when another coordinator has taken over: end this one in both cases. */
weft_status_t weft_coordinator_process_run(weft_coordinator_process_t *process, weft_error_t *error);

/* Where the door is: "tcp://127.0.0.1:7000". */
const char *weft_coordinator_process_endpoint(const weft_coordinator_process_t *process);

#endif
