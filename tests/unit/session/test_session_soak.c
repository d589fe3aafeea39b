/* Hundreds of versions: no step on a torn one, and nothing grows: neither memory nor files nor mappings. */
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
    print_message("%llu steps; versions %u to %u: heap %zu to %zu bytes, files %zu to %zu, mappings %zu to %zu\n", (unsigned long long)steps,
                  SETTLED, VERSIONS, settled.heap, last.heap, settled.files, last.files, settled.mappings, last.mappings);
    assert_int_equal(last.files, settled.files);
    /* Messages under way are on the heap too; what is lost with every version would be more than this. */
    assert_true(last.heap <= settled.heap + (VERSIONS - SETTLED) * 64);
    /* A sanitizer's allocator maps as it likes, some 20 more in a run; what is lost with every version is far more. */
    assert_true(last.mappings <= settled.mappings + (OWN_MALLOC ? 8 : (VERSIONS - SETTLED) / 4));
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_soak), cmocka_unit_test(test_reopen)};
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
