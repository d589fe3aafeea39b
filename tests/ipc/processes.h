/* A whole job over the IPC transport with every rank a process, so that any of them may be killed, rank 0 and
 * its coordinator too. The caller is none of them: it forks all, kills one if the scene says so, and waits.
 *
 *     int trainer(process_t *p) { ... return 0; }                      0: passed, 77: skipped
 *     scene_t scene = {.memory = "host", .trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block",
 *                      .victim = 1, .trainer_main = trainer, .rollout_main = rollout};
 *     failed = scene_run(&scene);
 *
 * What versions must become is computed before the fork, on the host, so every process has it and none has
 * used CUDA.
 */
#ifndef WEFT_TESTS_IPC_PROCESSES_H
#define WEFT_TESTS_IPC_PROCESSES_H

#include <sys/mman.h>
#include <sys/prctl.h>

#include "tests/ipc/world.h"
#include "tests/support/job.h"

#define SCENE_NOBODY     UINT32_MAX
#define SCENE_PATIENCE   UINT64_C(60000000) /* us: longer than a scene may take, also under a sanitizer */
#define PROCESS_PATIENCE UINT64_C(20000000) /* us: longer than anything in it may take */

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: rank %u: %s: ", __FILE__, __LINE__, p->world.base.rank, #condition);     \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

#define TRY(expression)                                                                                      \
    do {                                                                                                     \
        int failed_ = (expression);                                                                          \
        if (failed_)                                                                                         \
            return failed_;                                                                                  \
    } while (0)

#define OK(call) CHECK((call) == WEFT_OK, "%s", p->r->error.message)

/* What the processes of a scene tell each other. */
typedef struct shared {
    _Atomic uint32_t midway; /* rollout ranks that have a part of the version that is slow, not all of it */
    _Atomic uint32_t decided; /* trainers that know what has become of version 2 */
    uint64_t start_us;       /* of the scene */
} shared_t;

typedef struct process process_t;

typedef struct scene {
    const char *memory, *trainer, *rollout, *scheme;
    uint64_t versions; /* bit v: version v can be served */
    const char *const *layers; /* [versions] of a subset: what it carries; NULL: all versions are whole */
    uint32_t victim;   /* rank to kill when all rollouts are midway, or SCENE_NOBODY */
    uint32_t delay_us; /* and this much later */
    int (*trainer_main)(process_t *p);
    int (*rollout_main)(process_t *p);
} scene_t;

struct process {
    const scene_t *scene;
    shared_t *shared;
    world_t world; /* by which the ranks meet */
    job_t *job;
    job_rank_t *r;       /* its shards are images in host memory */
    weft_queue_t *queue; /* the test's own, beside the session's */
    void **lent;         /* trainer: [tensors] what is bound */
    uint64_t step;       /* rollout: the last one */
};

static inline const weft_transport_ops_t *process_ops(const process_t *p)
{
    return weft_transport_table(p->r->transport);
}

/* ---- Memory ---- */

static inline size_t shard_bytes(const process_t *p, uint32_t tensor)
{
    const job_shard_t *shard = &p->r->shards[tensor];
    size_t element = weft_dtype_bytes(weft_model_tensor(p->job->model, tensor)->dtype);
    return shard->cols ? shard->rows * shard->ld_elems * element : 0;
}

/* Of the queue on a GPU; on the host only the transport's own can be lent. */
static inline int alloc_lent(process_t *p, size_t bytes, void **memory)
{
    if (strcmp(p->scene->memory, "host") == 0)
        OK(process_ops(p)->alloc_lendable(p->r->transport, bytes, memory, &p->r->error));
    else
        CHECK(p->queue->ops->alloc(p->queue, bytes, memory) == WEFT_OK, "no memory of %zu bytes", bytes);
    return 0;
}

static inline void free_lent(process_t *p, void *memory)
{
    if (strcmp(p->scene->memory, "host") == 0)
        process_ops(p)->free_lendable(p->r->transport, memory);
    else
        p->queue->ops->free(p->queue, memory);
}

/* Give tensor `tensor` memory that it has not had, with other gaps between its rows, and bind it. The memory
 * before is left to the caller. */
static inline int bind_anew(process_t *p, uint32_t tensor)
{
    job_shard_t *shard = &p->r->shards[tensor];
    free(shard->memory);
    make_shard(p->r, tensor, shard);
    p->lent[tensor] = NULL;
    if (shard_bytes(p, tensor) == 0)
        return 0;
    TRY(alloc_lent(p, shard_bytes(p, tensor), &p->lent[tensor]));
    OK(weft_trainer_bind(p->r->trainer, weft_model_tensor(p->job->model, tensor)->name, p->lent[tensor],
                         shard->ld_elems, &p->r->error));
    return 0;
}

/* The images become what is bound. */
static inline int write_lent(process_t *p)
{
    for (uint32_t i = 0; i < p->job->num_tensors; i++)
        if (p->lent[i])
            CHECK(p->queue->ops->write(p->queue, p->lent[i], p->r->shards[i].memory, shard_bytes(p, i)) ==
                      WEFT_OK,
                  "tensor %u cannot be written", i);
    return 0;
}

/* As an optimizer step would; gaps between rows are never read. */
static inline int write_version(process_t *p, uint64_t version)
{
    spoil_shards(p->r);
    fill_shards(p->r, version);
    return write_lent(p);
}

/* NaNs: whoever reads on after RELEASED is found out. */
static inline int spoil_lent(process_t *p)
{
    spoil_shards(p->r);
    return write_lent(p);
}

/* Memory can be made, written and read back, by a queue that is opened for this. */
static inline int check_context(process_t *p)
{
    enum { words = 1 << 20 };
    weft_queue_t *queue;
    void *memory;
    uint32_t *out = malloc(words * sizeof *out), *in = calloc(words, sizeof *in);
    for (uint32_t i = 0; i < words; i++)
        out[i] = (uint32_t)mix64(i);
    OK(weft_queue_open(p->scene->memory, -1, &queue, &p->r->error));
    queue->ops->thread_begin(queue);
    CHECK(queue->ops->alloc(queue, words * sizeof *out, &memory) == WEFT_OK, "no memory");
    CHECK(queue->ops->write(queue, memory, out, words * sizeof *out) == WEFT_OK, "writing failed");
    CHECK(queue->ops->read(queue, memory, in, words * sizeof *in) == WEFT_OK, "reading failed");
    CHECK(memcmp(in, out, words * sizeof *out) == 0, "other bytes come back");
    queue->ops->free(queue, memory);
    weft_queue_close(queue);
    free(out);
    free(in);
    return 0;
}

/* ---- What is served ---- */

/* Whether the live bytes are `version`, bit for bit, as weft_quantize_offline makes them. No swap may be due.
 */
static inline int check_served(process_t *p, uint64_t version)
{
    uint32_t t = (p->r->rank - p->job->num_trainers) % p->job->tp;
    const job_expected_t *slot = job_slot(p->job, version);
    uint8_t *found = malloc(p->job->outputs[t].bytes + 1);
    CHECK(slot->version == version, "version %llu is served", (unsigned long long)version);
    for (uint32_t i = 0; i < p->job->outputs[t].count; i++) {
        const weft_output_t *output = &p->job->outputs[t].items[i];
        const void *live = weft_rollout_tensor(p->r->rollout, i).data;
        CHECK(p->queue->ops->read(p->queue, live, found, output->bytes) == WEFT_OK, "%s cannot be read",
              output->name);
        CHECK(memcmp(found, slot->bytes[t] + output->offset, output->bytes) == 0, "%s is not version %llu",
              output->name, (unsigned long long)version);
    }
    free(found);
    return 0;
}

/* One decode step, and what it runs on. */
static inline int run_step(process_t *p, uint64_t *version)
{
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE;
    weft_status_t status = WEFT_ERR_FENCED;
    p->step++;
    while (status == WEFT_ERR_FENCED && weft_now_us() < deadline_us)
        status = weft_rollout_step_begin(p->r->rollout, p->step, 100000, version, &p->r->error);
    OK(status);
    TRY(check_served(p, *version));
    CHECK(weft_rollout_step_end(p->r->rollout, p->step) == WEFT_OK, "step %llu does not end",
          (unsigned long long)p->step);
    weft_sleep_us(1000);
    return 0;
}

/* ---- A rank ---- */

/* When a rank has come how far: what to look at where a scene takes long. */
static inline void note(const process_t *p, const char *what)
{
    printf("# %.3f s: rank %u %s\n", (double)(weft_now_us() - p->shared->start_us) * 1e-6, p->world.base.rank,
           what);
}

static inline void print_line(void *user, weft_log_level_t level, const char *line)
{
    (void)user, (void)level;
    fprintf(stderr, "# %s\n", line);
}

static inline int open_process_session(process_t *p)
{
    weft_transport_config_t transport = WEFT_TRANSPORT_CONFIG;
    weft_session_config_t session = WEFT_SESSION_CONFIG;
    transport.bootstrap = world_bootstrap(&p->world);
    transport.memory = p->scene->memory;
    transport.timeout_us = PROCESS_PATIENCE;
    OK(weft_transport_open("ipc", &transport, &p->r->transport, &p->r->error));
    session.plan = p->job->plan;
    session.transport = p->r->transport;
    session.log = (weft_log_t){print_line, NULL, WEFT_LOG_WARNING};
    session.dead_after_us = 3000000; /* nobody is lost by being slow */
    session.transfer_timeout_us = PROCESS_PATIENCE;
    session.commit_timeout_us = 5000000;
    OK(weft_session_open(&session, &p->r->session, &p->r->error));
    return 0;
}

static inline int open_process(process_t *p)
{
    weft_rollout_config_t rollout = WEFT_ROLLOUT_CONFIG;
    TRY(open_process_session(p));
    if (!weft_session_is_trainer(p->r->session)) {
        OK(weft_rollout_create(p->r->session, &rollout, &p->r->rollout, &p->r->error));
        return 0;
    }
    OK(weft_trainer_create(p->r->session, &p->r->trainer, &p->r->error));
    p->r->shards = calloc(p->job->num_tensors, sizeof *p->r->shards);
    p->lent = calloc(p->job->num_tensors, sizeof *p->lent);
    for (uint32_t i = 0; i < p->job->num_tensors; i++)
        TRY(bind_anew(p, i));
    return 0;
}

/* What was lent ends with the transport, or on a GPU with the process: others may still have it mapped. */
static inline void close_process(process_t *p)
{
    weft_trainer_destroy(p->r->trainer);
    weft_rollout_destroy(p->r->rollout);
    weft_session_close(p->r->session);
    free(p->lent);
    weft_transport_close(p->r->transport);
    weft_queue_close(p->queue);
    job_free_shards(p->r);
}

/* 77: this build or this machine has no such memory. */
static inline int open_own_queue(process_t *p)
{
    weft_status_t status = weft_queue_open(p->scene->memory, -1, &p->queue, &p->r->error);
    if (status == WEFT_ERR_UNSUPPORTED || status == WEFT_ERR_UNKNOWN_NAME) {
        fprintf(stderr, "skipped: rank %u: %s\n", p->world.base.rank, p->r->error.message);
        return 77;
    }
    OK(status);
    p->queue->ops->thread_begin(p->queue);
    return 0;
}

static inline int run_process(process_t *p)
{
    TRY(open_own_queue(p));
    TRY(open_process(p));
    note(p, "is open");
    TRY(p->r->trainer ? p->scene->trainer_main(p) : p->scene->rollout_main(p));
    note(p, "closes");
    close_process(p);
    note(p, "has closed");
    TRY(check_context(p));
    job_destroy(p->job);
    return 0;
}

/* ---- The scene ---- */

typedef struct play {
    const scene_t *scene;
    job_t *job;
    shared_t *shared;
    int pairs[WORLD_MAX][2]; /* from rank 0 to each other rank */
    pid_t processes[WORLD_MAX];
    uint32_t left; /* processes that run */
    bool killed;
} play_t;

/* What a rank keeps of the socket pairs is its world; the others' ends must not stay open in it. */
static inline void keep_links(const play_t *play, world_t *world)
{
    uint32_t rank = world->base.rank;
    for (uint32_t i = 1; i < world->base.num_ranks; i++) {
        if (rank != 0)
            close(play->pairs[i][0]);
        if (rank != i)
            close(play->pairs[i][1]);
        if (rank == 0)
            world_link(world, i, play->pairs[i][0]);
        else if (rank == i)
            world_link(world, 0, play->pairs[i][1]);
    }
}

static inline bool fork_process(play_t *play, uint32_t rank)
{
    fflush(NULL);
    pid_t process = fork();
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        process_t p = {.scene = play->scene,
                       .shared = play->shared,
                       .world = {.base = {&world_ops, rank, play->job->num_ranks, "host", -1}},
                       .job = play->job,
                       .r = &play->job->ranks[rank]};
        keep_links(play, &p.world);
        int failed = run_process(&p);
        fflush(NULL);
        exit(failed);
    }
    play->processes[rank] = process;
    play->left += process > 0;
    return process > 0;
}

static inline bool fork_all(play_t *play)
{
    uint32_t num_ranks = play->job->num_ranks;
    bool all = true;
    for (uint32_t i = 1; i < num_ranks; i++)
        all = !socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, play->pairs[i]) && all;
    for (uint32_t i = 0; i < num_ranks && all; i++)
        all = fork_process(play, i);
    for (uint32_t i = 1; i < num_ranks; i++) {
        close(play->pairs[i][0]);
        close(play->pairs[i][1]);
    }
    return all;
}

/* What a process that has ended came to: the victim must have been killed, by us, unless it was skipped. */
static inline int judge(play_t *play, pid_t process, int status)
{
    uint32_t rank = 0;
    while (rank + 1 < play->job->num_ranks && play->processes[rank] != process)
        rank++;
    play->processes[rank] = 0;
    play->left--;
    bool skipped = WIFEXITED(status) && WEXITSTATUS(status) == 77;
    if (rank == play->scene->victim && !skipped)
        return play->killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : 1;
    if (WIFSIGNALED(status))
        fprintf(stderr, "rank %u ended by signal %d\n", rank, WTERMSIG(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static inline void kill_victim(play_t *play)
{
    weft_sleep_us(play->scene->delay_us);
    play->killed = kill(play->processes[play->scene->victim], SIGKILL) == 0;
}

static inline int watch(play_t *play)
{
    const scene_t *scene = play->scene;
    uint64_t deadline_us = weft_now_us() + SCENE_PATIENCE;
    int failed = 0, status;
    while (play->left && !failed) {
        if (scene->victim != SCENE_NOBODY && !play->killed && play->shared->midway == play->job->num_rollouts)
            kill_victim(play);
        pid_t process = waitpid(-1, &status, WNOHANG);
        if (process > 0) {
            failed = judge(play, process, status);
        } else if (weft_now_us() > deadline_us) {
            fprintf(stderr, "%u ranks hang\n", play->left);
            failed = 1;
        } else {
            weft_sleep_us(500);
        }
    }
    return failed;
}

static inline void end_all(const play_t *play)
{
    for (uint32_t i = 0; i < play->job->num_ranks; i++)
        if (play->processes[i] > 0)
            kill(play->processes[i], SIGKILL);
    while (waitpid(-1, NULL, 0) > 0)
        ;
}

/* Run all ranks; 0 when all passed, 77 when one was skipped. */
static inline int scene_run(const scene_t *scene)
{
    static play_t play; /* where a leak checker finds what every process holds */
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_config_t config = {.trainer = scene->trainer,
                           .rollout = scene->rollout,
                           .scheme = scene->scheme,
                           .minimum = true,
                           .bucket_bytes = 8192};
    play = (play_t){.scene = scene, .job = job_create(&cp, &config)};
    for (uint64_t version = 1; version < 64; version++) {
        bool served = scene->versions >> version & 1;
        if (served && scene->layers)
            job_note_origin(play.job, scene->layers[version] ? scene->layers[version] : "*", version);
        if (served)
            job_expect(play.job, version);
    }
    play.shared = mmap(NULL, sizeof *play.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (play.shared == MAP_FAILED)
        return 1;
    play.shared->start_us = weft_now_us();
    int failed = fork_all(&play) ? watch(&play) : 1;
    end_all(&play);
    munmap(play.shared, sizeof *play.shared);
    job_destroy(play.job);
    return failed;
}

#endif
