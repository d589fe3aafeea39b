#include "kernels/queue.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "src/base/error.h"

/* What this build has. */
static const weft_queue_ops_t *const queues[] = {
    &weft_host_queue_ops,
#ifdef WEFT_HAVE_CUDA
    &weft_cuda_queue_ops,
#endif
};

#define NUM_QUEUES (sizeof queues / sizeof queues[0])

static const weft_queue_ops_t *find_queue(const char *name)
{
    for (size_t i = 0; i < NUM_QUEUES; i++)
        if (strcmp(queues[i]->name, name) == 0)
            return queues[i];
    return NULL;
}

weft_status_t weft_queue_open(const char *name, int device, weft_queue_t **queue, weft_error_t *error)
{
    const weft_queue_ops_t *ops = find_queue(name);
    if (!ops)
        return weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
                         "weights cannot be in \"%s\" memory: this build has host%s", name,
                         NUM_QUEUES > 1 ? " and cuda" : "; configure with -DWEFT_CUDA=ON for cuda");
    return ops->open(device, queue, error);
}

bool weft_queue_find(const char *name, int device, int *number, char bus_id[WEFT_BUS_ID_BYTES])
{
    const weft_queue_ops_t *ops = find_queue(name);
    return ops && ops->find(device, number, bus_id);
}

void weft_queue_close(weft_queue_t *queue)
{
    if (queue)
        queue->ops->close(queue);
}

bool weft_queue_available(const char *name)
{
    weft_queue_t *queue;
    weft_error_t error;
    if (weft_queue_open(name, -1, &queue, &error) != WEFT_OK)
        return false;
    weft_queue_close(queue);
    return true;
}

const char *weft_memory_kind_name(weft_memory_kind_t kind)
{
    switch (kind) {
    case WEFT_MEMORY_HOST:
        return "host memory";
    case WEFT_MEMORY_HOST_PINNED:
        return "pinned host memory";
    case WEFT_MEMORY_DEVICE:
        return "device memory (cudaMalloc)";
    case WEFT_MEMORY_DEVICE_VMM:
        return "device memory (virtual memory management or a pool)";
    case WEFT_MEMORY_MANAGED:
        return "managed memory";
    case WEFT_MEMORY_OTHER_DEVICE:
        return "memory of another GPU";
    }
    return "memory of an unknown kind";
}

weft_status_t weft_queue_wait(weft_queue_t *queue, uint64_t ticket)
{
    uint64_t done;
    for (;;) {
        weft_status_t status = queue->ops->poll(queue, &done);
        if (status != WEFT_OK || done >= ticket)
            return status;
        sched_yield();
    }
}
