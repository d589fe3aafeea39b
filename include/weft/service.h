/* Service mode: ranks that join a session by the address of its coordinator, a process of its own (`weft coordinator`),
 * instead of by MPI. They may come late, leave, and come back as another process in the same place.
 *
 *     weft_service_config_t service = WEFT_SERVICE_CONFIG;
 *     service.coordinator = "127.0.0.1:7000";      or the environment: WEFT_COORDINATOR, WEFT_RANK, WEFT_KEYS
 *     service.keys = "keys";
 *     service.rank = 2;
 *     weft_session_config_t config = WEFT_SESSION_CONFIG;
 *     config.plan = plan;
 *     config.service = &service;
 *     weft_session_open(&config, &session, &error);
 *     ... weft_trainer_create or weft_rollout_create, as under MPI ...
 *     weft_session_leave(session, timeout_us, &error);
 *     weft_session_close(session);
 */
#ifndef WEFT_SERVICE_H
#define WEFT_SERVICE_H

#include <weft/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_RANK_OF_ENVIRONMENT UINT32_MAX

typedef struct weft_service_config {
    size_t struct_size;
    const char *coordinator; /* HOST:PORT; NULL: WEFT_COORDINATOR of the environment */
    const char *keys;        /* folder with server.pub and this rank's key; NULL: WEFT_KEYS */
    const char *key_name;    /* of the key: client reads client.key; NULL: WEFT_KEY_NAME, or else client */
    uint32_t rank;           /* in the plan; the macro's WEFT_RANK_OF_ENVIRONMENT: WEFT_RANK */
    const char *transport;   /* by which weights travel, the same on all ranks; default "ipc": trainers and rollouts of one
                                node. "zmq": host memory over TCP, encrypted; a rank listens on weft_session_config_t.host */
    const char *memory;      /* ipc: where trainers hold their weights, "cuda" (default with a GPU) or "host" */
    int32_t device;          /* CUDA device number; the macro's -1: the current one */
    uint64_t timeout_us;     /* for the coordinator to answer, and for ranks to meet; default 30 s */
} weft_service_config_t;

#define WEFT_SERVICE_CONFIG                                                                                  \
    ((weft_service_config_t){.struct_size = sizeof(weft_service_config_t),                                   \
                             .rank = WEFT_RANK_OF_ENVIRONMENT,                                               \
                             .transport = "ipc",                                                             \
                             .device = -1,                                                                   \
                             .timeout_us = 30000000})

#ifdef __cplusplus
}
#endif
#endif
