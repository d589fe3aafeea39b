/* Hundreds of versions: no step on a torn one, and nothing grows: neither memory nor files nor mappings.
 * WEFT_TEST_VERSIONS=10000 makes the mixed one as long as that. What grows is measured from version 250 on: a shorter one
 * looks at steps and outcomes only.
 */
#include <dirent.h>
#include <malloc.h>

#include "tests/support/engine.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 0
#else
#define OWN_MALLOC 1
#endif

#define SETTLED  250 /* versions after which nothing grows any more: until then queues of messages do */
#define VERSIONS 550

typedef struct usage {
    size_t heap, files, mappings;
} usage_t;

static size_t count_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    size_t count = 0;
    while (folder && readdir(folder))
        count++;
    if (folder)
        closedir(folder);
    return count;
}

static size_t count_mappings(void)
{
    FILE *file = fopen("/proc/self/maps", "r");
    size_t count = 0;
    for (int c; file && (c = fgetc(file)) != EOF;)
        count += c == '\n';
    if (file)
        fclose(file);
    return count;
}

static usage_t use_now(void)
{
    return (usage_t){OWN_MALLOC ? mallinfo2().uordblks + mallinfo2().hblkhd : 0, count_files(), count_mappings()};
}

static void check_usage(usage_t settled, usage_t last, uint64_t versions)
{
    print_message("heap %zu to %zu bytes, files %zu to %zu, mappings %zu to %zu\n", settled.heap, last.heap, settled.files,
                  last.files, settled.mappings, last.mappings);
    assert_int_equal(last.files, settled.files);
    /* Messages under way are on the heap too; what is lost with every version would soon be more than this. */
    assert_true(last.heap <= settled.heap + 4096 + versions * 64);
    /* A sanitizer's allocator maps as it likes, some 20 more in a run; what is lost with every version is far more. */
    assert_true(last.mappings <= settled.mappings + (OWN_MALLOC ? 8 : versions / 4));
}

static void run_soak(const job_config_t *config, random_t *random)
{
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, config);
    usage_t settled = {0};
    job_open(job);
    engine_t *engine = engine_start(job, 0, &(engine_pace_t){.step_us = 200, .park_once_in = 200, .park_us = 40000}, random);
    for (uint64_t version = 1; version <= VERSIONS; version++) {
        job_update(job, version);
        if (version == SETTLED)
            settled = use_now();
    }
    usage_t last = use_now();
    engine_stop(engine);
    uint64_t steps = engine_check(engine);
    engine_destroy(engine);
    print_message("%llu steps; versions %u to %u\n", (unsigned long long)steps, SETTLED, VERSIONS);
    check_usage(settled, last, VERSIONS - SETTLED);
    job_check_live(job, VERSIONS);
    job_close(job);
    job_destroy(job);
}

static void test_soak(void **state)
{
    (void)state;
    random_t random = random_begin("soak");
    mallopt(M_ARENA_MAX, 1); /* mallinfo2 sees one arena */
    run_soak(&(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel", .minimum = true}, &random);
    run_soak(&(job_config_t){.trainer = "tp:2", .rollout = "tp:2", .scheme = "bf16", .swap = "copy", .relay = true}, &random);
}

/* ---- Mixed ---- */

typedef enum mixed_kind {
    MIXED_WHOLE,
    MIXED_SUBSET,     /* over the one that serves */
    MIXED_SUPERSEDED, /* by the next, if that comes in time */
    MIXED_ABORTED,    /* an element is not finite */
    MIXED_KINDS,
} mixed_kind_t;

typedef struct mixed {
    job_t *job;
    random_t *random;
    uint64_t version, live;
    uint32_t counts[MIXED_KINDS]; /* how versions ended */
} mixed_t;

static void publish_mixed(mixed_t *m, const char *layers, bool supersede)
{
    weft_publish_config_t config = WEFT_PUBLISH_CONFIG;
    config.layers = layers;
    config.base = layers ? m->live : 0;
    config.snapshot = supersede || random_once_in(m->random, 2);
    config.supersede = supersede;
    for (uint32_t i = 0; i < m->job->num_trainers; i++) {
        job_rank_t *r = &m->job->ranks[(i + m->version) % m->job->num_trainers];
        spoil_shards(r);
        fill_shards(r, m->version);
        if (weft_trainer_publish_with(r->trainer, m->version, &config, &r->error) != WEFT_OK)
            fail_msg("trainer %u, version %llu: %s", r->rank, (unsigned long long)m->version, r->error.message);
        if (config.snapshot)
            spoil_shards(r);
    }
}

static void expect_mixed(mixed_t *m, const char *layers)
{
    job_note_origin(m->job, layers ? layers : "*", ++m->version);
    job_expect(m->job, m->version);
}

static void end_mixed(mixed_t *m, mixed_kind_t kind)
{
    job_wait(m->job, m->version, WEFT_PUBLISH_APPLIED, WEFT_OK);
    m->live = m->version;
    m->counts[kind]++;
}

static void run_subset(mixed_t *m)
{
    static const char *const patterns[] = {"*norm*", "*.mlp.*", "model.layers.0.*", "*.o_proj,*norm*"};
    const char *layers = patterns[random_in(m->random, 0, 3)];
    expect_mixed(m, layers);
    publish_mixed(m, layers, false);
    end_mixed(m, MIXED_SUBSET);
}

/* Either may serve, the first only until the second does. */
static void run_superseded(mixed_t *m)
{
    expect_mixed(m, NULL);
    publish_mixed(m, NULL, true);
    uint64_t first = m->version;
    usleep(random_in(m->random, 0, 3000));
    expect_mixed(m, NULL);
    publish_mixed(m, NULL, true);
    weft_status_t status =
        weft_trainer_wait(m->job->ranks[0].trainer, first, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &m->job->ranks[0].error);
    if (status != WEFT_ERR_SUPERSEDED && status != WEFT_OK)
        fail_msg("version %llu: %s", (unsigned long long)first, m->job->ranks[0].error.message);
    m->counts[status == WEFT_OK ? MIXED_WHOLE : MIXED_SUPERSEDED]++;
    end_mixed(m, MIXED_WHOLE);
}

/* Nothing is expected of it: a step on it would be found out. */
static void run_aborted(mixed_t *m)
{
    uint32_t tensor = random_in(m->random, 0, m->job->num_tensors - 1);
    const weft_tensor_t *of = weft_model_tensor(m->job->model, tensor);
    uint64_t elems = of->bytes / weft_dtype_bytes(of->dtype);
    m->job->plant =
        (job_plant_t){.version = ++m->version, .tensor = tensor, .bits = 0x7F81, .flat = random_in(m->random, 0, (uint32_t)elems - 1)};
    publish_mixed(m, NULL, false);
    job_wait(m->job, m->version, WEFT_PUBLISH_APPLIED, WEFT_ERR_NONFINITE);
    m->counts[MIXED_ABORTED]++;
}

static void run_whole(mixed_t *m)
{
    expect_mixed(m, NULL);
    publish_mixed(m, NULL, false);
    end_mixed(m, MIXED_WHOLE);
}

static void run_one(mixed_t *m)
{
    static void (*const runs[MIXED_KINDS])(mixed_t *) = {run_whole, run_subset, run_superseded, run_aborted};
    runs[m->live ? random_in(m->random, 0, MIXED_KINDS - 1) : MIXED_WHOLE](m);
}

static uint64_t versions_to_mix(void)
{
    const char *text = getenv("WEFT_TEST_VERSIONS");
    return text ? strtoull(text, NULL, 10) : VERSIONS;
}

static const char *scheme_to_mix(void)
{
    const char *scheme = getenv("WEFT_TEST_SCHEME");
    return scheme ? scheme : "fp8-channel";
}

static void test_mixed(void **state)
{
    (void)state;
    random_t random = random_begin("soak");
    uint64_t versions = versions_to_mix();
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_config_t config = {.trainer = "fsdp:2", .rollout = "tp:2", .scheme = scheme_to_mix(), .rate = 20e6, .bucket_bytes = 4096};
    mixed_t m = {.job = job_create(&cp, &config), .random = &random};
    usage_t settled = {0};
    uint64_t settled_at = 0; /* the version after which it was taken; 0: not yet */
    mallopt(M_ARENA_MAX, 1);
    job_open(m.job);
    engine_t *engine = engine_start(m.job, 0, &(engine_pace_t){.step_us = 500, .park_once_in = 200, .park_us = 40000}, &random);
    while (m.version < versions) {
        run_one(&m);
        if (m.version < SETTLED || settled_at)
            continue;
        settled = use_now();
        settled_at = m.version;
    }
    usage_t last = use_now();
    engine_stop(engine);
    print_message("%llu steps; %u versions were applied whole, %u as subsets, %u superseded, %u aborted\n",
                  (unsigned long long)engine_check(engine), m.counts[MIXED_WHOLE], m.counts[MIXED_SUBSET],
                  m.counts[MIXED_SUPERSEDED], m.counts[MIXED_ABORTED]);
    engine_destroy(engine);
    for (uint32_t kind = 0; kind < MIXED_KINDS; kind++)
        assert_true(m.counts[kind] > 0);
    if (settled_at)
        check_usage(settled, last, m.version - settled_at);
    else
        print_message("fewer than %u versions: what grows was not measured\n", SETTLED);
    run_whole(&m);
    job_check_live(m.job, m.live);
    job_close(m.job);
    job_destroy(m.job);
}

/* Sessions opened and closed on the same process leave nothing behind. */
static void test_reopen(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel"});
    size_t files = 0;
    for (uint32_t i = 0; i < 12; i++) {
        job_open(job);
        for (uint64_t version = 1; version <= 2; version++) {
            job_update(job, version);
            job_check_live(job, version);
        }
        job_close(job);
        if (i == 1)
            files = count_files();
    }
    assert_int_equal(count_files(), files);
    job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_soak), cmocka_unit_test(test_mixed), cmocka_unit_test(test_reopen)};
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
