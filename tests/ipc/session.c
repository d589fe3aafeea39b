/* Sessions over the IPC transport: a version whose source goes away, or changes, while it is read.
 *
 *     ipc_session killed      a trainer is killed in the middle of version 2, the coordinator's or another:
 *                             version 1 goes on serving, bit for bit
 *     ipc_session anytime     the same at speed, at whatever moment it comes: what serves is whole
 *     ipc_session taken       a trainer takes back what it lends, midway, and overwrites it:
 *                             version 2 is refused, version 3 is applied whole
 *     ipc_session rebind      versions from other memory than the one before
 *     ipc_session nonfinite   NaN or Inf in lent memory: refused by name, the next version is applied
 *     ipc_session publish     subsets, snapshots, and a version that is superseded
 *     ipc_session full        a GPU without a byte left while version 2 is published: it is applied or refused, what
 *                             serves is whole, version 3 is applied
 *
 * A second argument says where the weights are: host (default) or cuda. Exit status 77: no such memory here.
 * Each scene has processes of its own (processes.h).
 */
#include "tests/ipc/processes.h"

#define NUM(array) (sizeof(array) / sizeof(array)[0])

/* Version 2 takes seconds at this rate, in rounds of few buckets. */
#define SLOW_BYTES_PER_S 150e3
/* And about 20 ms at this one: units are quantized most of that time. */
#define BRISK_BYTES_PER_S 40e6

/* ---- Trainers ---- */

/* The progress thread, which reads it, is idle between versions. */
static void set_rate(process_t *p, double bytes_per_s)
{
    p->r->session->config.rate_bytes_per_s = bytes_per_s;
}

static int publish(process_t *p, uint64_t version)
{
    TRY(write_version(p, version));
    OK(weft_trainer_publish(p->r->trainer, version, &p->r->error));
    return 0;
}

static weft_status_t wait_applied(process_t *p, uint64_t version)
{
    p->r->error = (weft_error_t){.message = ""};
    return weft_trainer_wait(p->r->trainer, version, WEFT_PUBLISH_APPLIED, PROCESS_PATIENCE, &p->r->error);
}

/* From an optimizer step to all replicas serving it; the memory is written again as soon as it may be. */
static int update(process_t *p, uint64_t version)
{
    TRY(publish(p, version));
    OK(weft_trainer_wait(p->r->trainer, version, WEFT_PUBLISH_RELEASED, PROCESS_PATIENCE, &p->r->error));
    TRY(spoil_lent(p));
    OK(wait_applied(p, version));
    return 0;
}

/* `version` comes to nothing, for a reason that every trainer is told. */
static int expect_failure(process_t *p, uint64_t version, weft_status_t expected, const char *text)
{
    weft_status_t status = wait_applied(p, version);
    CHECK(status == expected && strstr(p->r->error.message, text), "version %llu: %s: %s, not %s",
          (unsigned long long)version, weft_status_name(status), p->r->error.message, text);
    return 0;
}

static int await_midway(process_t *p)
{
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE;
    while (p->shared->midway < p->job->num_rollouts && weft_now_us() < deadline_us)
        weft_sleep_us(500);
    CHECK(p->shared->midway == p->job->num_rollouts, "the rollouts do not get midway");
    return 0;
}

/* ---- Rollouts ---- */

/* Decode until this rank serves `last`. No step is on anything but a whole version that may be served. */
static int step_until(process_t *p, uint64_t last)
{
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE, version = 0, before = 0;
    OK(weft_rollout_wait(p->r->rollout, 1, PROCESS_PATIENCE, &p->r->error));
    note(p, "steps");
    while (version < last) {
        CHECK(weft_now_us() < deadline_us, "version %llu still serves", (unsigned long long)version);
        TRY(run_step(p, &version));
        CHECK(version >= before, "from version %llu back to %llu", (unsigned long long)before,
              (unsigned long long)version);
        before = version;
    }
    return 0;
}

/* A step that must run on version 1. */
static int step_on_first(process_t *p)
{
    uint64_t version;
    TRY(run_step(p, &version));
    CHECK(version == 1, "step %llu runs on version %llu", (unsigned long long)p->step,
          (unsigned long long)version);
    return 0;
}

/* Decode on version 1 until a good part of version 2 has come. (Before its transfer begins, the bytes are
 * those of version 1, all of them.) */
static int step_until_midway(process_t *p)
{
    weft_rollout_status_t status = {.received_bytes = 0};
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE;
    TRY(step_until(p, 1));
    while (status.pending_version != 2 || status.received_bytes <= status.expected_bytes / 4 ||
           status.received_bytes == status.expected_bytes) {
        CHECK(weft_now_us() < deadline_us, "version 2 does not come, or in no time");
        TRY(step_on_first(p));
        weft_rollout_get_status(p->r->rollout, &status);
    }
    CHECK(status.phase == WEFT_ROLLOUT_RECEIVING && status.layers_staged > 0 &&
              status.layers_staged < status.num_layers,
          "phase %u, %u of %u layers", status.phase, status.layers_staged, status.num_layers);
    note(p, "is midway");
    p->shared->midway++;
    return 0;
}

/* Until version 4 serves; of what comes before it some is refused. */
static int rollout_to_fourth(process_t *p)
{
    return step_until(p, 4);
}

/* ---- Killed ---- */

/* Those that are left are told that version 2 will not be served, and that nothing can follow it; by their own control
 * thread where the coordinator is gone. */
static int bereaved_trainer(process_t *p)
{
    weft_status_t status = wait_applied(p, 2);
    note(p, "knows of the loss");
    CHECK(status == WEFT_ERR_PEER_LOST, "version 2: %s: %s", weft_status_name(status), p->r->error.message);
    TRY(spoil_lent(p));
    status = weft_trainer_publish(p->r->trainer, 3, &p->r->error);
    if (status == WEFT_OK)
        status = wait_applied(p, 3);
    CHECK(status == WEFT_ERR_PEER_LOST, "version 3: %s: %s", weft_status_name(status), p->r->error.message);
    return 0;
}

static int killed_trainer(process_t *p)
{
    TRY(update(p, 1));
    set_rate(p, SLOW_BYTES_PER_S);
    TRY(publish(p, 2));
    while (p->r->rank == p->scene->victim)
        pause();
    return bereaved_trainer(p);
}

/* Decode until this rank has given the transfer up. */
static int step_until_given_up(process_t *p)
{
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE, version, generation;
    while (process_ops(p)->lent(p->r->transport, p->scene->victim, &version, &generation) !=
           WEFT_ERR_CLOSED) {
        CHECK(weft_now_us() < deadline_us, "the loss of rank %u is not seen", p->scene->victim);
        TRY(step_on_first(p));
    }
    note(p, "has given version 2 up");
    return 0;
}

static int killed_rollout(process_t *p)
{
    weft_rollout_status_t status;
    TRY(step_until_midway(p));
    TRY(step_until_given_up(p));
    for (int i = 0; i < 100; i++)
        TRY(step_on_first(p));
    weft_rollout_get_status(p->r->rollout, &status);
    CHECK(status.live_version == 1 && status.phase != WEFT_ROLLOUT_LOST &&
              status.received_bytes < status.expected_bytes,
          "live version %llu, phase %u, %llu of %llu bytes", (unsigned long long)status.live_version,
          status.phase, (unsigned long long)status.received_bytes, (unsigned long long)status.expected_bytes);
    weft_status_t waited = weft_rollout_wait(p->r->rollout, 2, 0, &p->r->error);
    CHECK(waited == WEFT_ERR_TIMEOUT, "version 2: %s", weft_status_name(waited));
    return check_context(p); /* with the mappings of what the dead lent; once more without */
}

/* ---- Killed at any time ---- */

static int doomed_trainer(process_t *p)
{
    TRY(update(p, 1));
    set_rate(p, BRISK_BYTES_PER_S);
    TRY(publish(p, 2));
    for (;;)
        pause();
}

/* The source may have gone before version 2 was whole, or after: with it or without it, this rank serves on.
 */
static int anytime_rollout(process_t *p)
{
    weft_rollout_status_t status = {.pending_version = 0};
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE, version = 1, generation, lent;
    TRY(step_until(p, 1));
    while (status.pending_version != 2 && status.live_version != 2) {
        CHECK(weft_now_us() < deadline_us, "version 2 does not come");
        weft_rollout_get_status(p->r->rollout, &status);
    }
    p->shared->midway++;
    for (int after = 0; after < 100;) {
        CHECK(weft_now_us() < deadline_us, "the loss of rank %u is not seen", p->scene->victim);
        TRY(run_step(p, &version));
        after += process_ops(p)->lent(p->r->transport, p->scene->victim, &lent, &generation) != WEFT_OK;
    }
    weft_rollout_get_status(p->r->rollout, &status);
    printf("# rank %u: %llu of %llu bytes; version %llu serves\n", p->r->rank,
           (unsigned long long)status.received_bytes, (unsigned long long)status.expected_bytes,
           (unsigned long long)version);
    return check_context(p);
}

/* ---- Taken ---- */

/* Behind the session's back: a trainer whose transfer was aborted does the same. The last trainer overwrites
 * with what looks as good as version 2 does. */
static int taking_trainer(process_t *p)
{
    char text[64];
    snprintf(text, sizeof text, "trainer rank %u took its memory back", p->job->num_trainers - 1);
    TRY(update(p, 1));
    set_rate(p, SLOW_BYTES_PER_S);
    TRY(publish(p, 2));
    if (p->r->rank + 1 == p->job->num_trainers) {
        TRY(await_midway(p));
        process_ops(p)->unlend(p->r->transport);
        TRY(write_version(p, 3));
    }
    TRY(expect_failure(p, 2, WEFT_ERR_ABORTED, text));
    set_rate(p, 0);
    TRY(update(p, 3));
    return update(p, 4);
}

static int robbed_rollout(process_t *p)
{
    TRY(step_until_midway(p));
    return step_until(p, 4);
}

/* ---- Rebind ---- */

static int rebind_all(process_t *p, uint64_t seed)
{
    p->job->seed = seed;
    for (uint32_t i = 0; i < p->job->num_tensors; i++)
        TRY(bind_anew(p, i));
    return 0;
}

/* Other memory for all tensors; then memory that may stand where the first stood, which is the case that
 * addresses alone would not show; then for one tensor. What is left behind holds NaNs. */
static int rebinding_trainer(process_t *p)
{
    void **first = malloc(p->job->num_tensors * sizeof *first);
    TRY(update(p, 1));
    memcpy(first, p->lent, p->job->num_tensors * sizeof *first);
    TRY(rebind_all(p, 1));
    TRY(update(p, 2));
    for (uint32_t i = 0; i < p->job->num_tensors; i++)
        free_lent(p, first[i]);
    free(first);
    TRY(rebind_all(p, 0));
    TRY(update(p, 3));
    p->job->seed = 2;
    TRY(bind_anew(p, 2));
    return update(p, 4);
}

/* ---- Nonfinite ---- */

static uint32_t find_tensor(const process_t *p, weft_dtype_t dtype, uint32_t num_dims)
{
    uint32_t last = p->job->num_tensors - 1;
    while (last > 0 && (weft_model_tensor(p->job->model, last)->dtype != dtype ||
                        weft_model_tensor(p->job->model, last)->num_dims != num_dims))
        last--;
    return last;
}

/* One element of `version`, which every trainer knows of and one holds, is not finite. */
static int publish_bad(process_t *p, uint64_t version, job_plant_t plant)
{
    char text[160];
    plant.version = version;
    p->job->plant = plant;
    snprintf(text, sizeof text, "tensor %s holds NaN or Inf at flat index %llu (",
             weft_model_tensor(p->job->model, plant.tensor)->name, (unsigned long long)plant.flat);
    TRY(publish(p, version));
    TRY(expect_failure(p, version, WEFT_ERR_NONFINITE, text));
    return spoil_lent(p);
}

static int planting_trainer(process_t *p)
{
    uint32_t matrix = find_tensor(p, WEFT_DTYPE_BF16, 2), vector = find_tensor(p, WEFT_DTYPE_F32, 1);
    TRY(update(p, 1));
    TRY(publish_bad(p, 2, (job_plant_t){.tensor = matrix, .bits = 0x7F81, .flat = 12345}));
    TRY(publish_bad(p, 3, (job_plant_t){.tensor = vector, .bits = 0xFF800000, .flat = 100}));
    return update(p, 4);
}

/* ---- Publish ---- */

/* Of each version; none of two layers that share a tensor. */
static const char *const published_layers[] = {NULL, NULL, "*norm*,*.o_proj", "*.mlp.*", NULL, NULL, "model.layers.0.*"};

static int publish_with(process_t *p, uint64_t version, bool snapshot, bool supersede)
{
    weft_publish_config_t config = WEFT_PUBLISH_CONFIG;
    config.layers = published_layers[version];
    config.snapshot = snapshot;
    config.supersede = supersede;
    TRY(write_version(p, version));
    OK(weft_trainer_publish_with(p->r->trainer, version, &config, &p->r->error));
    while (!p->queue->ops->stream_idle(p->queue, NULL)) /* the trainer's, by which a GPU copies */
        weft_sleep_us(50);
    return snapshot ? spoil_lent(p) : 0; /* NaNs: whoever reads what is bound is found out */
}

/* Version 4 is so slow that version 5 takes its place. */
static int publishing_trainer(process_t *p)
{
    for (uint64_t version = 1; version <= 3; version++) {
        TRY(publish_with(p, version, version != 2, false));
        OK(wait_applied(p, version));
    }
    set_rate(p, 2 * SLOW_BYTES_PER_S);
    TRY(publish_with(p, 4, true, false));
    weft_sleep_us(300000);
    TRY(publish_with(p, 5, true, true));
    weft_status_t status = wait_applied(p, 4);
    CHECK(status == WEFT_ERR_SUPERSEDED, "version 4: %s", weft_status_name(status));
    OK(wait_applied(p, 5));
    set_rate(p, 0);
    TRY(publish_with(p, 6, false, false));
    OK(wait_applied(p, 6));
    return 0;
}

static int rollout_to_sixth(process_t *p)
{
    return step_until(p, 6);
}

/* ---- Full ---- */

#define HOARD_MAX   4096
#define LEAST_PIECE ((size_t)64 << 10)

/* All of the GPU's memory, in pieces that get smaller; returns how many. */
static uint32_t hoard(process_t *p, void *pieces[HOARD_MAX])
{
    uint32_t count = 0;
    for (size_t bytes = (size_t)1 << 32; bytes >= LEAST_PIECE && count < HOARD_MAX;)
        if (p->queue->ops->alloc(p->queue, bytes, &pieces[count]) == WEFT_OK)
            count++;
        else
            bytes /= 2;
    return count;
}

static int await_count(process_t *p, _Atomic uint32_t *counter, uint32_t wanted)
{
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE;
    while (*counter < wanted && weft_now_us() < deadline_us)
        weft_sleep_us(500);
    CHECK(*counter >= wanted, "%u of %u have come", *counter, wanted);
    return 0;
}

static int trainer_beside_a_hoard(process_t *p)
{
    TRY(update(p, 1));
    TRY(await_count(p, &p->shared->midway, p->job->num_rollouts));
    TRY(publish(p, 2));
    weft_status_t status = wait_applied(p, 2);
    printf("# without memory, version 2: %s %s\n", weft_status_name(status), p->r->error.message);
    CHECK(status == WEFT_OK || weft_status_group(status) == WEFT_STATUS_GROUP_VERSION ||
              status == WEFT_ERR_NO_MEMORY,
          "version 2: %s", p->r->error.message);
    p->shared->decided++;
    TRY(await_count(p, &p->shared->midway, 2 * p->job->num_rollouts));
    return update(p, 3);
}

static int hoarding_rollout(process_t *p)
{
    static void *pieces[HOARD_MAX];
    bool hoards = p->r->rank == p->job->num_trainers;
    uint64_t deadline_us = weft_now_us() + PROCESS_PATIENCE, version;
    void *more;
    TRY(step_until(p, 1));
    uint32_t count = hoards ? hoard(p, pieces) : 0;
    CHECK(!hoards || (count > 0 && p->queue->ops->alloc(p->queue, LEAST_PIECE, &more) == WEFT_ERR_NO_MEMORY),
          "%u pieces, and there is memory left", count);
    p->shared->midway++;
    while (p->shared->decided < p->job->num_trainers) {
        CHECK(weft_now_us() < deadline_us, "version 2 is not decided");
        TRY(run_step(p, &version));
    }
    for (uint32_t i = 0; i < count; i++)
        p->queue->ops->free(p->queue, pieces[i]);
    p->shared->midway++;
    return step_until(p, 3);
}

/* ---- All ---- */

typedef struct test {
    const char *name;
    uint64_t versions;
    int (*trainer_main)(process_t *p);
    int (*rollout_main)(process_t *p);
    scene_t scenes[6]; /* how the ranks are laid out */
} test_t;

static const test_t tests[] = {
    {"killed",
     1 << 1,
     killed_trainer,
     killed_rollout,
     {{.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "fp8-block", .victim = 0, .delay_us = 1000},
      {.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-channel", .victim = 0, .delay_us = 40000},
      {.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block", .victim = 0, .delay_us = 150000},
      {.trainer = "fsdp:2", .rollout = "tp:1x2", .scheme = "fp8-block", .victim = 1, .delay_us = 75000}}},
    {"anytime",
     1 << 1 | 1 << 2,
     doomed_trainer,
     anytime_rollout,
     {{.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "fp8-block", .victim = 0, .delay_us = 0},
      {.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-channel", .victim = 0, .delay_us = 3000},
      {.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "fp8-channel", .victim = 0, .delay_us = 7000},
      {.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-block", .victim = 0, .delay_us = 12000},
      {.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "fp8-block", .victim = 0, .delay_us = 18000},
      {.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-channel", .victim = 0, .delay_us = 40000}}},
    {"taken",
     1 << 1 | 1 << 3 | 1 << 4,
     taking_trainer,
     robbed_rollout,
     {{.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "fp8-block", .victim = SCENE_NOBODY},
      {.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel", .victim = SCENE_NOBODY}}},
    {"rebind",
     1 << 1 | 1 << 2 | 1 << 3 | 1 << 4,
     rebinding_trainer,
     rollout_to_fourth,
     {{.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel", .victim = SCENE_NOBODY}}},
    {"nonfinite",
     1 << 1 | 1 << 4,
     planting_trainer,
     rollout_to_fourth,
     {{.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block", .victim = SCENE_NOBODY},
      {.trainer = "tp:2", .rollout = "tp:1", .scheme = "fp8-channel", .victim = SCENE_NOBODY}}},
    {"publish",
     1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6,
     publishing_trainer,
     rollout_to_sixth,
     {{.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block", .layers = published_layers, .victim = SCENE_NOBODY},
      {.trainer = "tp:2", .rollout = "tp:1x2", .scheme = "fp8-channel", .layers = published_layers, .victim = SCENE_NOBODY}}},
    {"full",
     1 << 1 | 1 << 2 | 1 << 3,
     trainer_beside_a_hoard,
     hoarding_rollout,
     {{.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block", .victim = SCENE_NOBODY}}},
};

static int run_scenes(const test_t *test, const char *memory)
{
    int failed = 0;
    for (size_t i = 0; i < NUM(test->scenes) && test->scenes[i].trainer && !failed; i++) {
        scene_t scene = test->scenes[i];
        uint64_t start_us = weft_now_us();
        scene.memory = memory;
        scene.versions = test->versions;
        scene.trainer_main = test->trainer_main;
        scene.rollout_main = test->rollout_main;
        failed = scene_run(&scene);
        printf("# %s to %s, %s: %s after %.1f s\n", scene.trainer, scene.rollout, scene.scheme,
               failed == 0    ? "passed"
               : failed == 77 ? "skipped"
                              : "failed",
               (double)(weft_now_us() - start_us) * 1e-6);
    }
    return failed;
}

int main(int argc, char **argv)
{
    const char *memory = argc > 2 ? argv[2] : "host";
    int failed = 2;
    if (argc > 1 && strcmp(argv[1], "full") == 0 && strcmp(memory, "cuda") != 0) {
        fprintf(stderr, "skipped: the host's memory is everybody's\n");
        return 77;
    }
    for (size_t i = 0; i < NUM(tests) && argc > 1; i++)
        if (strcmp(argv[1], tests[i].name) == 0)
            failed = run_scenes(&tests[i], memory);
    if (failed == 2)
        fprintf(stderr, "usage: %s killed|anytime|taken|rebind|nonfinite|publish|full [host|cuda]\n", argv[0]);
    return failed;
}
