/* Every call that may fail is made to fail in turn: the first one of a scene, then the second, until the scene goes
 * through without one. Each time the scene must end, by itself and in time, in success or in an error that says
 * what failed; nothing may leak (a build with AddressSanitizer looks); what served before must serve bit for bit; and
 * the scene must then go through.
 *
 *     faults_sweep SCENE alloc|file|socket|thread [FIRST [STEP]]
 *
 *     model      a checkpoint is opened, a plan made, and a rank's weights quantized from it
 *     open       all ranks of a session open it, with trainers and rollouts, and close it
 *     update     a version is published and applied
 */
#include "tests/faults/fail.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "src/base/error.h"
#include "tests/support/job.h"

typedef struct tally {
    long failed;    /* calls made to fail */
    long refused;   /* of them, those that the scene reported */
    long tolerated; /* those that it went on without */
    uint64_t worst_us;
} tally_t;

static void die(long n, const char *what, const char *why)
{
    fprintf(stderr, "call %ld, %s: %s: %s\n", n, fail_name(), what, why);
    exit(1);
}

/* An error is one of its kind, and says something. */
static void check_error(long n, weft_status_t status, const weft_error_t *error)
{
    if (status == WEFT_OK)
        return;
    if (status == WEFT_ERR_INTERNAL || error->status != status || strlen(error->message) < 10)
        die(n, weft_status_name(status), error->message);
}

static void note(tally_t *tally, long n, bool refused, const char *why)
{
    tally->failed++;
    tally->refused += refused;
    tally->tolerated += !refused;
    if (getenv("WEFT_FAULTS_VERBOSE"))
        printf("# call %ld, %s: %s\n", n, fail_name(), refused ? why : "tolerated");
}

/* ---- model ---- */

static weft_status_t plan_of(const weft_model_t *model, weft_plan_t **plan, weft_error_t *error)
{
    weft_layout_t *trainer = NULL, *rollout = NULL;
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_status_t status = weft_layout_parse("fsdp:2", WEFT_SIDE_TRAINER, &trainer, error);
    if (status == WEFT_OK)
        status = weft_layout_parse("tp:2", WEFT_SIDE_ROLLOUT, &rollout, error);
    if (status == WEFT_OK)
        status = weft_plan_create(model, trainer, rollout, "fp8-block", &options, plan, error);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    return status;
}

/* As job_expect does, of rank 0. */
static weft_status_t quantize(const weft_plan_t *plan, weft_digest_t *digest, weft_error_t *error)
{
    weft_outputs_t outputs = {.count = 0};
    weft_program_t *program = NULL;
    weft_status_t status = weft_outputs_create(plan, 0, &outputs);
    if (status != WEFT_OK)
        return weft_fail(error, status, "no memory for the outputs");
    status = weft_program_create(plan, weft_plan_num_trainers(plan), &outputs, &program);
    if (status != WEFT_OK)
        weft_fail(error, status, "no memory for the program");
    uint8_t *out = calloc(1, outputs.bytes + 1);
    if (status == WEFT_OK)
        status = weft_quantize_offline(program, &outputs, out, digest, error);
    free(out);
    weft_program_destroy(program);
    weft_outputs_destroy(&outputs);
    return status;
}

static weft_status_t open_and_quantize(weft_digest_t *digest, weft_error_t *error)
{
    weft_model_t *model = NULL;
    weft_plan_t *plan = NULL;
    weft_status_t status = weft_model_open(WEFT_SOURCE_DIR "/launch/demo/tiny-qwen3/v1", &model, error);
    if (status == WEFT_OK)
        status = plan_of(model, &plan, error);
    if (status == WEFT_OK)
        status = quantize(plan, digest, error);
    weft_plan_destroy(plan);
    weft_model_close(model);
    return status;
}

static bool sweep_model(int kinds, long n, tally_t *tally)
{
    static weft_digest_t expected;
    weft_digest_t digest = {{0}};
    weft_error_t error = {.message = ""};
    if (expected.word[0] == 0 && open_and_quantize(&expected, &error) != WEFT_OK)
        die(n, "without a failure", error.message);
    uint64_t start_us = weft_now_us();
    fail_arm(kinds, n);
    weft_status_t status = open_and_quantize(&digest, &error);
    bool hit = fail_disarm();
    check_error(n, status, &error);
    if (!hit)
        return false;
    uint64_t took_us = weft_now_us() - start_us;
    tally->worst_us = took_us > tally->worst_us ? took_us : tally->worst_us;
    if (status == WEFT_OK && memcmp(&digest, &expected, sizeof digest) != 0)
        die(n, "success", "other bytes than without a failure");
    note(tally, n, status != WEFT_OK, error.message);
    return true;
}

/* ---- open ---- */

static const job_config_t small = {.trainer = "fsdp:2",
                                   .rollout = "tp:2",
                                   .scheme = "fp8-block",
                                   .bucket_bytes = 65536,
                                   .transport_us = 2000000,
                                   .dead_us = 1500000,
                                   .transfer_us = 2000000,
                                   .commit_us = 1000000};

static job_t *new_job(void)
{
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    return job_create(&cp, &small);
}

/* What the ranks of a job say, and the first error of one that is not only another's victim. */
static bool judge(const job_t *job, long n, const weft_error_t **why)
{
    bool refused = false;
    for (uint32_t i = 0; i < job->num_ranks; i++) {
        const job_rank_t *r = &job->ranks[i];
        check_error(n, r->status, &r->error);
        bool own = r->status != WEFT_OK && r->status != WEFT_ERR_PEER_LOST && r->status != WEFT_ERR_TIMEOUT;
        if (own || (r->status != WEFT_OK && !refused))
            *why = &r->error;
        refused |= r->status != WEFT_OK;
    }
    return refused;
}

static void forget_errors(job_t *job)
{
    for (uint32_t i = 0; i < job->num_ranks; i++) {
        job->ranks[i].error = (weft_error_t){.message = ""};
        job->ranks[i].status = WEFT_OK;
    }
}

/* One rank cannot open: nobody else is left waiting for longer than the transport's deadline allows. */
static void *open_or_leave(void *user)
{
    job_rank_t *r = user;
    open_rank(r);
    if (r->status != WEFT_OK)
        close_rank(r);
    return NULL;
}

static bool sweep_open(int kinds, long n, tally_t *tally)
{
    job_t *job = new_job();
    const weft_error_t *why = NULL;
    uint64_t start_us = weft_now_us();
    forget_errors(job);
    fail_arm(kinds, n);
    job_each(job, open_or_leave);
    bool hit = fail_disarm();
    bool refused = judge(job, n, &why);
    uint64_t took_us = weft_now_us() - start_us;
    tally->worst_us = took_us > tally->worst_us ? took_us : tally->worst_us;
    if (hit && took_us > 3 * small.transport_us)
        die(n, "opening", "takes longer than its deadlines");
    if (!refused)
        job_update(job, 1), job_check_live(job, 1);
    job_close(job);
    job_destroy(job);
    if (hit)
        note(tally, n, refused, why ? why->message : "");
    return hit;
}

/* ---- update ---- */

/* Whatever becomes of the version, what serves is whole. */
static bool check_after(job_t *job, long n, uint64_t version)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_status_t status;
        weft_rollout_get_status(job_rollout(job, i)->rollout, &status);
        if (status.live_version != version && status.live_version != version - 1)
            die(n, "what serves", "is neither the version nor the one before");
        if (!job_serves(job, i, status.live_version))
            die(n, "what serves", job->fault);
    }
    return true;
}

static bool publish_with_failure(job_t *job, int kinds, long n, uint64_t version, tally_t *tally, bool *session_lost)
{
    const weft_error_t *why = NULL;
    uint64_t start_us = weft_now_us();
    forget_errors(job);
    job_expect(job, version);
    fail_arm(kinds, n);
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[i];
        fill_shards(r, version);
        r->status = weft_trainer_publish(r->trainer, version, &r->error);
    }
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[i];
        if (r->status == WEFT_OK)
            r->status = weft_trainer_wait(r->trainer, version, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &r->error);
        *session_lost |= weft_status_group(r->status) >= WEFT_STATUS_GROUP_SESSION;
    }
    bool hit = fail_disarm(), refused = judge(job, n, &why);
    uint64_t took_us = weft_now_us() - start_us;
    tally->worst_us = took_us > tally->worst_us ? took_us : tally->worst_us;
    if (!hit && refused)
        die(n, "without a failure", why->message);
    if (hit)
        note(tally, n, refused, why ? why->message : "");
    return hit;
}

/* On one session as long as it lasts. */
static bool sweep_update(int kinds, long n, tally_t *tally)
{
    static job_t *job;
    static uint64_t version;
    bool lost = false;
    if (!job) {
        job = new_job();
        job_open(job);
        version = 1;
        job_update(job, version);
    }
    version++;
    bool hit = publish_with_failure(job, kinds, n, version, tally, &lost);
    check_after(job, n, version);
    if (!lost)
        job_update(job, ++version), job_check_live(job, version);
    if (lost || !hit) {
        job_close(job);
        job_destroy(job);
        job = NULL;
    }
    return hit;
}

/* ---- all ---- */

typedef struct scene {
    const char *name;
    bool (*sweep)(int kinds, long n, tally_t *tally); /* false: there was no such call */
} scene_t;

static const scene_t scenes[] = {{"model", sweep_model}, {"open", sweep_open}, {"update", sweep_update}};

static int kinds_of(const char *name)
{
    static const char *const names[] = {"alloc", "file", "socket", "thread"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0)
            return 1 << i;
    return 0;
}

int main(int argc, char **argv)
{
    int kinds = argc > 2 ? kinds_of(argv[2]) : 0;
    long first = argc > 3 ? atol(argv[3]) : 1, step = argc > 4 ? atol(argv[4]) : 1;
    for (size_t i = 0; kinds && i < sizeof scenes / sizeof *scenes; i++) {
        tally_t tally = {.failed = 0};
        if (strcmp(scenes[i].name, argv[1]) != 0)
            continue;
        for (long n = first; scenes[i].sweep(kinds, n, &tally); n += step)
            ;
        printf("%s %s: %ld calls failed, %ld reported, %ld tolerated; %.2f s at most\n", argv[1], argv[2],
               tally.failed, tally.refused, tally.tolerated, (double)tally.worst_us * 1e-6);
        return 0;
    }
    fprintf(stderr, "usage: %s model|open|update alloc|file|socket|thread [FIRST [STEP]]\n", argv[0]);
    return 2;
}
