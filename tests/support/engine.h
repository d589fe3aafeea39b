/* Engines for a job: each rollout rank steps on a thread of its own; the ranks of a replica meet inside each step, as in
 * a TP all-reduce, so that they are at most one step apart.
 *
 *     engine_t *engine = engine_start(job, replica, &(engine_pace_t){.step_us = 200, .park_once_in = 50, .park_us = 30000}, &random);
 *     ... job_update(job, version) ...
 *     engine_stop(engine);       all of its ranks, after the same step
 *     engine_check(engine);      one version a step, never an older one; the log agrees
 *     engine_destroy(engine);
 *
 * In each step, at both ends of it, a rank compares all it serves with the version that step_begin has named.
 */
#ifndef WEFT_TESTS_SUPPORT_ENGINE_H
#define WEFT_TESTS_SUPPORT_ENGINE_H

#include "tests/support/job.h"

#define ENGINE_MAX_STEPS (1u << 18)

typedef struct engine_pace {
    uint32_t step_us;      /* up to this long between two steps */
    uint32_t inside_us;    /* and within one */
    uint32_t park_once_in; /* steps; 0: never */
    uint32_t park_us;      /* up to this long */
    bool may_be_lost;      /* the engine ends when step_begin says PEER_LOST; else that is a fault */
} engine_pace_t;

typedef struct engine_rank {
    struct engine *engine;
    uint32_t tp_rank;
    random_t random;
    pthread_t thread;
    uint64_t version;  /* of its last step */
    uint64_t refusals; /* step_begin said FENCED or NOT_READY */
} engine_rank_t;

typedef struct engine {
    job_t *job;
    uint32_t replica;
    engine_pace_t pace;
    random_t random; /* under the mutex */
    uint64_t first_step;
    _Atomic uint64_t *versions; /* [steps from first_step]: what the first rank to begin it was told */
    engine_rank_t ranks[JOB_MAX_TP];
    pthread_mutex_t mutex;
    pthread_cond_t met;
    uint32_t arrived;
    uint64_t meetings, last_step, park_after;
    _Atomic bool stopping, lost;
} engine_t;

static inline weft_rollout_t *engine_rollout(const engine_rank_t *r)
{
    const engine_t *e = r->engine;
    return job_rollout(e->job, e->replica * e->job->tp + r->tp_rank)->rollout;
}

/* Wait for all ranks of the replica. The last to come decides for all whether to stop, or park, after this step. */
static inline bool engine_meet(engine_t *e, uint64_t step)
{
    uint64_t deadline = weft_now_us() + JOB_PATIENCE;
    bool met = true;
    pthread_mutex_lock(&e->mutex);
    if (++e->arrived == e->job->tp) {
        e->arrived = 0;
        e->meetings++;
        if (e->stopping)
            e->last_step = step;
        if (e->pace.park_once_in && random_once_in(&e->random, e->pace.park_once_in))
            e->park_after = step;
        pthread_cond_broadcast(&e->met);
    } else {
        uint64_t before = e->meetings;
        while (met && e->meetings == before) {
            weft_condition_wait(&e->met, &e->mutex, weft_now_us() + 100000);
            met = weft_now_us() < deadline && !e->job->faulty && !e->lost;
        }
        if (!met && !e->job->faulty && !e->lost)
            job_fault(e->job, "replica %u: only %u ranks have come to step %llu", e->replica, e->arrived, (unsigned long long)step);
    }
    pthread_mutex_unlock(&e->mutex);
    return met;
}

static inline bool engine_begin(engine_rank_t *r, uint64_t step, uint64_t *version)
{
    uint64_t deadline = weft_now_us() + JOB_PATIENCE;
    weft_error_t error;
    for (;;) {
        uint64_t timeout_us = RANDOM_OF(&r->random, 0, 1000, 50000);
        weft_status_t status = weft_rollout_step_begin(engine_rollout(r), step, timeout_us, version, &error);
        if (status == WEFT_OK)
            return true;
        if (status == WEFT_ERR_PEER_LOST && r->engine->pace.may_be_lost)
            r->engine->lost = true;
        if (r->engine->lost)
            return false;
        bool again = status == WEFT_ERR_FENCED || status == WEFT_ERR_NOT_READY;
        if (!again || weft_now_us() > deadline || r->engine->job->faulty) {
            job_fault(r->engine->job, "step %llu does not begin: %s", (unsigned long long)step, error.message);
            return false;
        }
        r->refusals++;
        weft_sleep_us(500);
    }
}

/* What step_begin has said, against the other ranks, the steps before and the log. */
static inline void engine_note(engine_rank_t *r, uint64_t step, uint64_t version)
{
    engine_t *e = r->engine;
    uint64_t none = 0;
    weft_version_span_t last = {0};
    if (!atomic_compare_exchange_strong(&e->versions[step - e->first_step], &none, version) && none != version)
        job_fault(e->job, "replica %u runs step %llu on versions %llu and %llu", e->replica, (unsigned long long)step,
                  (unsigned long long)none, (unsigned long long)version);
    if (version < r->version)
        job_fault(e->job, "replica %u goes back from version %llu to %llu at step %llu", e->replica,
                  (unsigned long long)r->version, (unsigned long long)version, (unsigned long long)step);
    weft_rollout_version_log(engine_rollout(r), &last, 1);
    if (last.version != version || last.first_step > step)
        job_fault(e->job, "step %llu of replica %u rank %u runs on version %llu, the log ends with %llu from step %llu",
                  (unsigned long long)step, e->replica, r->tp_rank, (unsigned long long)version,
                  (unsigned long long)last.version, (unsigned long long)last.first_step);
    r->version = version;
}

/* One decode step. False when something is wrong. */
static inline bool engine_step(engine_rank_t *r, uint64_t step)
{
    engine_t *e = r->engine;
    uint32_t rollout = e->replica * e->job->tp + r->tp_rank;
    uint64_t version;
    if (!engine_begin(r, step, &version))
        return false;
    engine_note(r, step, version);
    bool whole = job_serves(e->job, rollout, version);
    if (e->pace.inside_us)
        weft_sleep_us(random_in(&r->random, 0, e->pace.inside_us));
    whole = whole && engine_meet(e, step) && job_serves(e->job, rollout, version);
    if (weft_rollout_step_end(engine_rollout(r), step) != WEFT_OK)
        job_fault(e->job, "step %llu does not end", (unsigned long long)step);
    return whole;
}

static inline void *engine_main(void *user)
{
    engine_rank_t *r = user;
    engine_t *e = r->engine;
    for (uint64_t step = e->first_step; engine_step(r, step) && step != e->last_step; step++) {
        if (step - e->first_step + 2 > ENGINE_MAX_STEPS)
            job_fault(e->job, "more than %u steps", ENGINE_MAX_STEPS);
        weft_sleep_us(random_in(&r->random, 0, step == e->park_after ? e->pace.park_us : e->pace.step_us));
    }
    return NULL;
}

static inline engine_t *engine_start(job_t *job, uint32_t replica, const engine_pace_t *pace, random_t *random)
{
    engine_t *e = calloc(1, sizeof *e);
    *e = (engine_t){.job = job, .replica = replica, .pace = *pace, .random = {random_u64(random)}};
    e->first_step = random_once_in(random, 2) ? 1 : random_in(random, 2, 3000000);
    e->versions = calloc(ENGINE_MAX_STEPS, sizeof *e->versions);
    pthread_mutex_init(&e->mutex, NULL);
    weft_condition_init(&e->met);
    for (uint32_t t = 0; t < job->tp; t++) {
        e->ranks[t] = (engine_rank_t){.engine = e, .tp_rank = t, .random = {random_u64(random)}};
        assert_int_equal(pthread_create(&e->ranks[t].thread, NULL, engine_main, &e->ranks[t]), 0);
    }
    return e;
}

static inline void engine_stop(engine_t *e)
{
    e->stopping = true;
    for (uint32_t t = 0; t < e->job->tp; t++)
        join_in_time(e->ranks[t].thread, "an engine");
    job_check_faults(e->job);
}

/* After engine_stop: what the steps ran on is what the log of each rank says. Returns the number of steps. */
static inline uint64_t engine_check(const engine_t *e)
{
    static weft_version_span_t spans[4096];
    for (uint32_t t = 0; t < e->job->tp; t++) {
        uint32_t count = weft_rollout_version_log(engine_rollout(&e->ranks[t]), spans, 4096), at = 0;
        assert_true(count > 0);
        assert_true(spans[0].first_step <= e->first_step || count == 4096); /* or the log has forgotten how it began */
        uint64_t first = spans[0].first_step > e->first_step ? spans[0].first_step : e->first_step;
        for (uint64_t step = first; step <= e->last_step; step++) {
            while (at + 1 < count && spans[at + 1].first_step <= step) {
                at++;
                assert_true(spans[at].version > spans[at - 1].version);
                assert_true(spans[at].first_step >= spans[at - 1].first_step);
            }
            assert_int_equal(e->versions[step - e->first_step], spans[at].version);
        }
    }
    return e->last_step - e->first_step + 1;
}

static inline void engine_destroy(engine_t *e)
{
    pthread_cond_destroy(&e->met);
    pthread_mutex_destroy(&e->mutex);
    free(e->versions);
    free(e);
}

#endif
