/* src/trainer.c: when a version's memory is let go. The file is compiled here anew, with what it calls of others watched. */
#include "kernels/host/host.h"
#include "src/base/error.h"
#include "src/sender.h"
#include "tests/support/job.h"

/* A version's transfer that the test has taken hold of. */
typedef struct watch {
    job_t *job;
    _Atomic bool breaks;  /* it is to fail once a bucket was started */
    _Atomic bool reading; /* a worker still reads its memory */
    _Atomic bool let_go;  /* it has been said that the memory is let go */
    _Atomic uint32_t ended[2], failed; /* events heard: SENT, DRAINED; TRANSFER_FAILED */
} watch_t;

static watch_t watched;

/* The only worker is busy, so what is started behind this has not begun. Ends by itself: the trainer waits for it. */
static weft_status_t hold_worker(void *user, uint32_t item)
{
    (void)user, (void)item;
    for (int i = 0; i < 200 && !watched.let_go; i++)
        weft_sleep_us(1000);
    watched.reading = false;
    return WEFT_OK;
}

/* Whoever hears of the end may publish at once, so the memory must have been let go before. */
static void watch_end(weft_session_t *s, weft_event_type_t type, uint64_t version)
{
    if (type != WEFT_EVENT_SENT && type != WEFT_EVENT_DRAINED)
        return;
    watched.ended[type == WEFT_EVENT_DRAINED]++;
    pthread_mutex_lock(&s->mutex);
    if (s->transferring == version)
        job_fault(watched.job, "trainer %u: the end of version %llu is told before its memory is let go", s->rank,
                  (unsigned long long)version);
    pthread_mutex_unlock(&s->mutex);
}

static void watched_post(weft_session_t *s, weft_event_type_t type, uint64_t version, uint32_t round)
{
    watch_end(s, type, version);
    weft_session_post(s, type, version, round);
}

static void watched_post_event(weft_session_t *s, const weft_event_t *event)
{
    watched.failed += event->type == WEFT_EVENT_TRANSFER_FAILED;
    weft_session_post_event(s, event);
}

/* The trainer's one broadcast says that nothing of a version is read any more. */
static int watched_broadcast(pthread_cond_t *condition)
{
    if (watched.reading)
        job_fault(watched.job, "the memory of a version is let go while a worker reads it");
    watched.let_go = true;
    return pthread_cond_broadcast(condition);
}

static weft_status_t watched_poll(weft_sender_t *sender, weft_error_t *error)
{
    if (watched.breaks && !weft_sender_idle(sender))
        return weft_fail(error, WEFT_ERR_TRANSPORT, "the test breaks it");
    return weft_sender_poll(sender, error);
}

static void watched_begin(weft_sender_t *sender, const bool *selected);

#define weft_session_post       watched_post
#define weft_session_post_event watched_post_event
#define weft_sender_poll        watched_poll
#define weft_sender_begin       watched_begin
#define pthread_cond_broadcast  watched_broadcast
#include "src/trainer.c"
#undef weft_sender_begin

static void watched_begin(weft_sender_t *sender, const bool *selected)
{
    weft_queue_t *queue = watched.job->ranks[0].trainer->queue;
    weft_sender_begin(sender, selected);
    if (!watched.breaks)
        return;
    watched.reading = true;
    weft_host_start((weft_host_queue_t *)queue, hold_worker, NULL, 0, 1, false);
}

static job_t *open_job(checkpoint_t *cp, const job_config_t *config)
{
    *cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(cp, config);
    watched = (watch_t){.job = job};
    job_open(job);
    return job;
}

static void close_job(job_t *job)
{
    job_check_faults(job);
    job_close(job);
    job_destroy(job);
}

/* Sent whole, and stopped on the way. */
static void test_let_go_before_end_is_told(void **state)
{
    (void)state;
    checkpoint_t cp;
    job_t *job = open_job(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-channel"});
    job_update(job, 1);
    job->plant = (job_plant_t){.version = 2, .tensor = 0, .bits = 0x7F80};
    job_publish(job, 2);
    job_wait(job, 2, WEFT_PUBLISH_APPLIED, WEFT_ERR_NONFINITE);
    job_update(job, 3);
    assert_in_range(watched.ended[0], 2, 3);
    assert_int_equal(watched.ended[1], 1);
    close_job(job);
}

static void wait_broken(job_t *job, bool snapshot)
{
    job_rank_t *r = &job->ranks[0];
    weft_publish_config_t config = WEFT_PUBLISH_CONFIG;
    config.snapshot = snapshot;
    fill_shards(r, 1);
    watched.breaks = true;
    assert_int_equal(weft_trainer_publish_with(r->trainer, 1, &config, &r->error), WEFT_OK);
    assert_int_equal(weft_trainer_wait(r->trainer, 1, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &r->error), WEFT_ERR_TRANSPORT);
    assert_false(weft_trainer_in_flight(r->trainer, 1));
    assert_true(watched.let_go);
    assert_int_equal(watched.failed, 1);
}

/* The transfer breaks while a worker has packing before it: the caller, told that the version failed, may free the memory;
 * one that publishes from copies may take both. */
static void test_broken_transfer_is_not_read(void **state)
{
    (void)state;
    for (int snapshot = 0; snapshot <= 1; snapshot++) {
        checkpoint_t cp;
        setenv("WEFT_TEST_WORKERS", "1", 1);
        job_t *job = open_job(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-channel"});
        unsetenv("WEFT_TEST_WORKERS");
        wait_broken(job, snapshot);
        close_job(job);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_let_go_before_end_is_told),
        cmocka_unit_test(test_broken_transfer_is_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
