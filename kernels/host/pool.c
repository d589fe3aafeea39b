#include "kernels/host/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

#define STARTS 1024u /* that may wait, a power of two */
#define LOOKS  64u   /* at an empty queue, before a worker sleeps */
#define BESIDE 64u   /* starts and marks from the oldest on that may have begun */

/* One start, or a mark, which has no items. */
typedef struct task {
    weft_pool_fn fn;
    void *user;
    uint32_t next, left; /* the next item to take; taken by nobody yet */
    uint32_t unfinished;
    bool apart;      /* of its neighbours that are too */
    uint64_t ticket; /* of a mark */
    void *copy_to;
    uint32_t copy_bytes;
    uint8_t payload[WEFT_POOL_PAYLOAD];
} task_t;

struct weft_pool {
    pthread_mutex_t mutex;
    pthread_cond_t work, progress; /* for workers; for whoever waits for room or for the end */
    task_t *tasks;                 /* [STARTS], a ring from head to tail */
    uint64_t head, tail;
    uint64_t given; /* tickets */
    _Atomic uint64_t done;
    _Atomic weft_status_t failed;
    uint32_t sleeping;
    bool ending;
    uint32_t num_threads;
    pthread_t threads[];
};

static task_t *task_at(weft_pool_t *p, uint64_t index)
{
    return &p->tasks[index % STARTS];
}

/* ---- workers ---- */

/* The oldest start is over, and marks behind it. */
static void retire(weft_pool_t *p)
{
    while (p->head != p->tail && task_at(p, p->head)->unfinished == 0) {
        if (task_at(p, p->head)->ticket)
            p->done = task_at(p, p->head)->ticket;
        p->head++;
    }
    pthread_cond_broadcast(&p->progress);
    if (p->sleeping && (p->head != p->tail || p->ending))
        pthread_cond_broadcast(&p->work);
}

static weft_status_t do_item(task_t *task, uint32_t item)
{
    if (task->fn)
        return task->fn(task->user, item);
    memcpy(task->copy_to, task->payload, task->copy_bytes);
    return WEFT_OK;
}

/* With the mutex held; gives it up meanwhile. */
static void take_item(weft_pool_t *p, task_t *task)
{
    uint32_t item = task->next++;
    task->left--;
    pthread_mutex_unlock(&p->mutex);
    weft_status_t status = do_item(task, item);
    pthread_mutex_lock(&p->mutex);
    if (status != WEFT_OK && p->failed == WEFT_OK)
        p->failed = status;
    if (--task->unfinished == 0)
        retire(p);
}

/* A start that has begun, or may, and has items that nobody has taken; NULL when there is none. Marks stand
 * in nobody's way. */
static task_t *open_task(weft_pool_t *p)
{
    for (uint64_t i = p->head; i != p->tail && i < p->head + BESIDE; i++) {
        task_t *task = task_at(p, i);
        if (i != p->head && !task->apart)
            return NULL;
        if (task->left > 0)
            return task;
        if (!task->apart)
            return NULL;
    }
    return NULL;
}

/* A wake costs more than a small item. */
static void look_on(weft_pool_t *p)
{
    for (uint32_t i = 0; i < LOOKS && !open_task(p) && !p->ending; i++) {
        pthread_mutex_unlock(&p->mutex);
        sched_yield();
        pthread_mutex_lock(&p->mutex);
    }
}

static void *work(void *user)
{
    weft_pool_t *p = user;
    weft_kernels_thread_begin();
    pthread_mutex_lock(&p->mutex);
    while (!p->ending || p->head != p->tail) {
        task_t *task = open_task(p);
        if (task) {
            take_item(p, task);
            continue;
        }
        look_on(p);
        if (open_task(p) || (p->ending && p->head == p->tail))
            continue;
        p->sleeping++;
        pthread_cond_wait(&p->work, &p->mutex);
        p->sleeping--;
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

/* ---- life ---- */

static void end_threads(weft_pool_t *p, uint32_t count)
{
    pthread_mutex_lock(&p->mutex);
    p->ending = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mutex);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->progress);
    pthread_mutex_destroy(&p->mutex);
    free(p->tasks);
    free(p);
}

weft_status_t weft_pool_create(uint32_t workers, weft_pool_t **pool)
{
    weft_pool_t *made = calloc(1, sizeof *made + workers * sizeof made->threads[0]);
    task_t *tasks = calloc(STARTS, sizeof *tasks);
    if (!made || !tasks) {
        free(made);
        free(tasks);
        return WEFT_ERR_NO_MEMORY;
    }
    made->tasks = tasks;
    pthread_mutex_init(&made->mutex, NULL);
    pthread_cond_init(&made->work, NULL);
    pthread_cond_init(&made->progress, NULL);
    for (; made->num_threads < workers; made->num_threads++)
        if (pthread_create(&made->threads[made->num_threads], NULL, work, made) != 0) {
            end_threads(made, made->num_threads);
            return WEFT_ERR_SYSTEM;
        }
    *pool = made;
    return WEFT_OK;
}

void weft_pool_destroy(weft_pool_t *p)
{
    if (p)
        end_threads(p, p->num_threads);
}

/* ---- starts ---- */

/* With the mutex held. */
static task_t *next_task(weft_pool_t *p)
{
    while (p->tail - p->head == STARTS)
        pthread_cond_wait(&p->progress, &p->mutex);
    task_t *task = task_at(p, p->tail);
    task->fn = NULL;
    task->ticket = 0;
    task->next = task->left = task->unfinished = 0;
    task->apart = false;
    return task;
}

/* One worker for each item, as far as there are any. */
static void wake(weft_pool_t *p, uint32_t items)
{
    if (!p->sleeping)
        return;
    if (items == 1)
        pthread_cond_signal(&p->work);
    else
        pthread_cond_broadcast(&p->work);
}

static void push(weft_pool_t *p, task_t *task, uint32_t first, uint32_t count)
{
    task->next = first;
    task->left = task->unfinished = count;
    p->tail++;
    wake(p, count);
}

void weft_pool_start(weft_pool_t *p, weft_pool_fn fn, void *user, uint32_t first, uint32_t count, bool apart)
{
    if (count == 0)
        return;
    pthread_mutex_lock(&p->mutex);
    task_t *task = next_task(p);
    task->fn = fn;
    task->user = user;
    task->apart = apart;
    push(p, task, first, count);
    pthread_mutex_unlock(&p->mutex);
}

void weft_pool_start_copy(weft_pool_t *p, void *to, const void *from, size_t bytes)
{
    pthread_mutex_lock(&p->mutex);
    task_t *task = next_task(p);
    task->copy_to = to;
    task->copy_bytes = (uint32_t)bytes;
    memcpy(task->payload, from, bytes);
    push(p, task, 0, 1);
    pthread_mutex_unlock(&p->mutex);
}

uint64_t weft_pool_mark(weft_pool_t *p)
{
    pthread_mutex_lock(&p->mutex);
    task_t *task = next_task(p);
    task->ticket = ++p->given;
    task->apart = true;
    p->tail++;
    if (p->tail - p->head == 1)
        retire(p);
    uint64_t ticket = p->given;
    pthread_mutex_unlock(&p->mutex);
    return ticket;
}

weft_status_t weft_pool_poll(weft_pool_t *p, uint64_t *done)
{
    *done = p->done;
    return p->failed;
}

void weft_pool_drain(weft_pool_t *p)
{
    pthread_mutex_lock(&p->mutex);
    while (p->head != p->tail)
        pthread_cond_wait(&p->progress, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}
