/* Versions from disk: the bytes of a sync, in one order with what is published; and all that can be wrong with a
 * directory, after which the old weights serve and the next version goes through. */
#include <dirent.h>
#include <sys/stat.h>

#include "src/model/safetensors.h"
#include "src/quantize/kernel_file.h"
#include "tests/support/engine.h"

/* ---- directories ---- */

static char root[] = "/tmp/weft_load_XXXXXX";

static const char *path_of(const char *name)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static void remove_dir(const char *path)
{
    DIR *dir = opendir(path);
    char inside[512];
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && remove(inside) != 0)
            remove_dir(inside);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

static int make_root(void **state)
{
    (void)state;
    memcpy(root + sizeof root - 7, "XXXXXX", 6);
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    remove_dir(root);
    return 0;
}

/* The tensors of the version expected last, after `change` has had its way with them. */
static void write_checkpoint(const job_t *job, const checkpoint_t *cp, const char *dir,
                             uint32_t (*change)(weft_tensor_t *tensors, uint32_t count))
{
    char config[CHECKPOINT_CONFIG_BYTES], path[512];
    weft_error_t error;
    weft_tensor_t *tensors = calloc(job->num_tensors, sizeof *tensors);
    uint32_t count = job->num_tensors;
    for (uint32_t i = 0; i < count; i++)
        tensors[i] = *weft_model_tensor(job->model, i);
    count = change ? change(tensors, count) : count;
    mkdir(dir, 0777);
    checkpoint_config(cp, config);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(config, file);
    fclose(file);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (weft_safetensors_write(path, tensors, count, NULL, 0, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    free(tensors);
}

/* What `weft quantize` would write of a version that is expected, by a plan that calls itself `plan`. */
static void write_kernel_files(job_t *job, uint64_t version, const char *dir, const weft_plan_t *plan,
                               uint32_t (*change)(weft_tensor_t *tensors, uint32_t count))
{
    const job_expected_t *slot = job_slot(job, version);
    for (uint32_t t = 0; t < job->tp; t++) {
        weft_tensor_t *tensors = calloc(job->outputs[t].count, sizeof *tensors);
        uint32_t count = job->outputs[t].count;
        weft_error_t error;
        for (uint32_t i = 0; i < count; i++) {
            const weft_output_t *output = &job->outputs[t].items[i];
            tensors[i] = (weft_tensor_t){.name = output->name,
                                         .dtype = output->dtype,
                                         .num_dims = output->num_dims,
                                         .bytes = output->bytes,
                                         .data = slot->bytes[t] + output->offset};
            memcpy(tensors[i].shape, output->shape, sizeof output->shape);
        }
        count = change ? change(tensors, count) : count;
        if (weft_kernel_file_write(dir, t, tensors, count, plan, slot->digest[t], &error) != WEFT_OK)
            fail_msg("%s", error.message);
        free(tensors);
    }
}

/* ---- loads ---- */

static void ask_one(job_t *job, uint32_t rollout, const char *dir, uint64_t version)
{
    job_rank_t *r = job_rollout(job, rollout);
    if (weft_rollout_load(r->rollout, dir, version, &r->error) != WEFT_OK)
        fail_msg("rollout %u, version %llu: %s", rollout, (unsigned long long)version, r->error.message);
}

static void ask(job_t *job, const char *dir, uint64_t version)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++)
        ask_one(job, (i + (uint32_t)version) % job->num_rollouts, dir, version);
}

/* All ranks hear the same; a failure with `text` in its reason. */
static void hear(job_t *job, uint64_t version, weft_status_t expected, const char *text)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_error_t error = {.message = ""};
        weft_status_t status = weft_rollout_wait(job_rollout(job, i)->rollout, version, JOB_PATIENCE, &error);
        job_check_faults(job);
        if (status != expected || (text && !strstr(error.message, text)))
            fail_msg("rollout %u, version %llu: %s, expected %s \"%s\": %s", i, (unsigned long long)version,
                     weft_status_name(status), weft_status_name(expected), text ? text : "", error.message);
    }
}

/* `version` is to be what `values` is. */
static void expect_again(job_t *job, uint64_t version, uint64_t values)
{
    job_expected_t *to = job_slot(job, version), *from = job_slot(job, values);
    assert_int_equal(from->version, values);
    for (uint32_t t = 0; t < job->tp; t++) {
        if (!to->bytes[t])
            to->bytes[t] = calloc(1, job->outputs[t].bytes + 1);
        memcpy(to->bytes[t], from->bytes[t], job->outputs[t].bytes);
        to->digest[t] = from->digest[t];
    }
    to->version = version;
}

static void check_loaded(job_t *job, uint64_t version)
{
    job_check_live(job, version);
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_stats_t stats;
        weft_rollout_status_t status;
        weft_rollout_get_stats(job_rollout(job, i)->rollout, &stats);
        weft_rollout_get_status(job_rollout(job, i)->rollout, &status);
        assert_int_equal(status.live_version, version);
        assert_int_equal(stats.version, version);
        assert_true(stats.loaded);
        assert_int_equal(stats.payload_bytes, 0);
        assert_memory_equal(&stats.digest, &job_slot(job, version)->digest[i % job->tp], sizeof stats.digest);
    }
}

/* ---- what works ---- */

/* From nothing, from either format; published versions between; and back to the first. */
static void run(const checkpoint_t *cp, const job_config_t *config)
{
    job_t *job = job_create(cp, config);
    job_open(job);
    const char *first = path_of("first"), *third = path_of("third");
    job_expect(job, 1);
    write_checkpoint(job, cp, first, NULL);
    ask(job, first, 1);
    hear(job, 1, WEFT_OK, NULL);
    check_loaded(job, 1);
    job_update(job, 2);
    job_check_live(job, 2);
    job_expect(job, 3);
    write_kernel_files(job, 3, third, job->plan, NULL);
    ask(job, third, 3);
    hear(job, 3, WEFT_OK, NULL);
    check_loaded(job, 3);
    job_update(job, 4);
    expect_again(job, 7, 1);
    ask(job, first, 7);
    hear(job, 7, WEFT_OK, NULL);
    check_loaded(job, 7);
    job_update(job, 8);
    job_check_live(job, 8);
    job_close(job);
    job_destroy(job);
    remove_dir(first);
    remove_dir(third);
}

static void test_from_disk(void **state)
{
    (void)state;
    checkpoint_t block = checkpoint_block(WEFT_DTYPE_BF16), moe = checkpoint_moe(WEFT_DTYPE_BF16),
                 tiny = checkpoint_tiny(WEFT_DTYPE_F32);
    run(&block, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block"});
    run(&block, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2x2", .scheme = "fp8-channel", .swap = "copy"});
    run(&block, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-block", .profile = "vllm"});
    run(&moe, &(job_config_t){.trainer = "ep:2", .rollout = "tp:2,ep", .scheme = "fp8-block", .relay = true});
    run(&moe, &(job_config_t){.trainer = "tp:2", .rollout = "tp:2", .scheme = "fp8-channel", .minimum = true});
    run(&tiny, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:1x2", .scheme = "bf16"});
}

/* Steps go on, each on one version on all ranks, while loads and publications take turns. */
static void test_between_steps(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    random_t random = random_begin("loads between steps");
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block"});
    job_open(job);
    job_expect(job, 1);
    write_checkpoint(job, &cp, path_of("1"), NULL);
    ask(job, path_of("1"), 1);
    hear(job, 1, WEFT_OK, NULL);
    engine_t *engine =
        engine_start(job, 0, &(engine_pace_t){.step_us = 200, .park_once_in = 50, .park_us = 30000}, &random);
    for (uint64_t version = 2; version <= 12; version++) {
        if (version % 3 == 2) {
            job_update(job, version);
            continue;
        }
        job_expect(job, version);
        if (version % 3)
            write_checkpoint(job, &cp, path_of("even"), NULL);
        else
            write_kernel_files(job, version, path_of("odd"), job->plan, NULL);
        ask(job, path_of(version % 3 ? "even" : "odd"), version);
        hear(job, version, WEFT_OK, NULL);
    }
    engine_stop(engine);
    engine_check(engine);
    engine_destroy(engine);
    job_close(job);
    job_destroy(job);
}

/* A subset goes over what was loaded. */
static void test_a_subset_over_a_load(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "fp8-block"});
    weft_publish_config_t config = WEFT_PUBLISH_CONFIG;
    job->origin = calloc(job->num_tensors + 1, sizeof *job->origin);
    job_open(job);
    for (uint32_t i = 0; i < job->num_tensors; i++)
        job->origin[i] = 1;
    job_expect(job, 1);
    write_checkpoint(job, &cp, path_of("base"), NULL);
    ask(job, path_of("base"), 1);
    hear(job, 1, WEFT_OK, NULL);
    for (uint32_t i = 0; i < job->num_tensors; i++)
        job->origin[i] = strstr(weft_model_tensor(job->model, i)->name, ".mlp.") ? 2 : 1;
    config.base = 1;
    config.layers = "*.mlp.*";
    job_expect(job, 2);
    spoil_shards(&job->ranks[0]);
    fill_shards(&job->ranks[0], 2);
    assert_int_equal(weft_trainer_publish_with(job->ranks[0].trainer, 2, &config, NULL), WEFT_OK);
    job_wait(job, 2, WEFT_PUBLISH_APPLIED, WEFT_OK);
    job_check_live(job, 2);
    job_close(job);
    free(job->origin);
    job->origin = NULL;
    job_destroy(job);
}

/* ---- one order ---- */

static void test_order(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:1x2", .scheme = "bf16"});
    job_open(job);
    job_expect(job, 5);
    write_checkpoint(job, &cp, path_of("5"), NULL);
    ask(job, path_of("5"), 5);
    hear(job, 5, WEFT_OK, NULL);
    job_publish(job, 5);
    job_wait(job, 5, WEFT_PUBLISH_APPLIED, WEFT_ERR_VERSION_ORDER);
    assert_non_null(strstr(job->ranks[0].error.message, "version 5 was loaded from disk before"));
    assert_non_null(strstr(job->ranks[0].error.message, "6 or above"));
    job_update(job, 6);
    for (int twice = 0; twice < 2; twice++) {
        ask(job, path_of("5"), 5);
        hear(job, 5, WEFT_ERR_VERSION_ORDER, "7 or above");
    }
    ask(job, path_of("5"), 6);
    hear(job, 6, WEFT_ERR_VERSION_ORDER, "7 or above");
    for (uint32_t i = 0; i < job->num_rollouts; i++)
        assert_true(job_serves(job, i, 6));
    job_close(job);
    job_destroy(job);
}

/* Published and asked for at once, in both orders of numbers: both have an outcome, and the higher one serves. */
static void test_at_once(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block"});
    job_open(job);
    job_update(job, 1);
    uint32_t both = 0;
    for (uint64_t version = 2; version <= 16; version += 2) {
        uint64_t load = version + (version / 2) % 2, published = load == version ? version + 1 : version;
        job_expect(job, load);
        write_checkpoint(job, &cp, path_of("beside"), NULL);
        job_expect(job, published);
        bool first = version % 4 == 0;
        if (first)
            ask(job, path_of("beside"), load);
        job_publish(job, published);
        if (!first)
            ask(job, path_of("beside"), load);
        uint32_t applied = 0;
        weft_error_t error;
        weft_status_t of_load = weft_rollout_wait(job_rollout(job, 0)->rollout, load, JOB_PATIENCE, &error);
        weft_status_t of_other =
            weft_trainer_wait(job->ranks[0].trainer, published, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &error);
        assert_true(of_load == WEFT_OK || (of_load == WEFT_ERR_VERSION_ORDER && load < published));
        assert_true(of_other == WEFT_OK || (of_other == WEFT_ERR_VERSION_ORDER && published < load));
        hear(job, load, of_load, NULL);
        job_wait(job, published, WEFT_PUBLISH_APPLIED, of_other);
        applied = (of_load == WEFT_OK) + (of_other == WEFT_OK);
        both += applied == 2;
        job_check_live(job, version + 1);
    }
    print_message("%u of 8 times both were applied\n", both);
    assert_true(both > 0);
    job_close(job);
    job_destroy(job);
}

/* Ranks that do not ask alike. */
static void test_not_alike(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(
        &cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "bf16", .transfer_us = 1000000});
    job_open(job);
    job_update(job, 1);
    job_expect(job, 2);
    write_checkpoint(job, &cp, path_of("2"), NULL);
    ask_one(job, 0, path_of("2"), 2);
    weft_error_t error = {.message = ""};
    weft_rollout_t *rollout = job_rollout(job, 0)->rollout;
    assert_int_equal(weft_rollout_load(rollout, path_of("2"), 3, &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "is not over"));
    assert_int_equal(weft_rollout_load(rollout, "", 3, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_rollout_load(rollout, path_of("2"), 0, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_rollout_wait(rollout, 2, JOB_PATIENCE, &error), WEFT_ERR_TIMEOUT);
    assert_non_null(strstr(error.message, "for want of: rank 2"));
    ask_one(job, 0, path_of("2"), 3);
    ask_one(job, 1, path_of("2"), 4);
    assert_int_equal(weft_rollout_wait(rollout, 3, JOB_PATIENCE, &error), WEFT_ERR_VERSION_ORDER);
    assert_int_equal(weft_rollout_wait(job_rollout(job, 1)->rollout, 4, JOB_PATIENCE, &error), WEFT_ERR_TIMEOUT);
    job_update(job, 5);
    job_check_live(job, 5);
    job_close(job);
    job_destroy(job);
}

/* ---- without the others ---- */

static void leave(job_rank_t *r)
{
    assert_int_equal(pthread_create(&r->thread, NULL, close_rank, r), 0);
    join_in_time(r->thread, "a rank that leaves");
}

/* A session that has lost a trainer in a transfer, and its transport with it, can publish nothing and still loads; so
 * does the replica that is left when another is lost. */
static void test_after_losses(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2",
                                                 .rollout = "tp:2x2",
                                                 .scheme = "fp8-block",
                                                 .bucket_bytes = 8192,
                                                 .rate = 180e3,
                                                 .transport_us = 5000000,
                                                 .dead_us = 1500000});
    weft_error_t error;
    job_open(job);
    job_update(job, 1);
    job_publish(job, 2);
    usleep(300000);
    leave(&job->ranks[1]);
    assert_int_not_equal(weft_trainer_wait(job->ranks[0].trainer, 2, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &error), WEFT_OK);
    job_check_live(job, 1);
    job_expect(job, 3);
    write_checkpoint(job, &cp, path_of("3"), NULL);
    ask(job, path_of("3"), 3);
    hear(job, 3, WEFT_OK, NULL);
    check_loaded(job, 3);
    fill_shards(&job->ranks[0], 4);
    assert_int_equal(weft_trainer_publish(job->ranks[0].trainer, 4, &error), WEFT_OK);
    assert_int_equal(weft_trainer_wait(job->ranks[0].trainer, 4, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &error),
                     WEFT_ERR_PEER_LOST);
    job_expect(job, 5);
    write_kernel_files(job, 5, path_of("5"), job->plan, NULL);
    leave(job_rollout(job, 3));
    for (uint32_t i = 0; i < 2; i++)
        ask_one(job, i, path_of("5"), 5);
    for (uint32_t i = 0; i < 2; i++) {
        if (weft_rollout_wait(job_rollout(job, i)->rollout, 5, JOB_PATIENCE, &error) != WEFT_OK)
            fail_msg("%s", error.message);
        assert_true(job_serves(job, i, 5));
    }
    assert_int_equal(weft_rollout_wait(job_rollout(job, 2)->rollout, 5, JOB_PATIENCE, &error), WEFT_ERR_PEER_LOST);
    assert_int_equal(weft_rollout_load(job_rollout(job, 2)->rollout, path_of("5"), 6, &error), WEFT_ERR_PEER_LOST);
    job_check_faults(job);
    job_close(job);
    job_destroy(job);
}

/* ---- what is wrong with a directory ---- */

static uint32_t drop_last(weft_tensor_t *tensors, uint32_t count)
{
    (void)tensors;
    return count - 1;
}

static uint32_t cast(weft_tensor_t *tensors, uint32_t count)
{
    tensors[count - 1].dtype = WEFT_DTYPE_F16;
    return count;
}

static uint32_t shorten(weft_tensor_t *tensors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (tensors[i].num_dims == 2 && tensors[i].shape[0] % 2 == 0) {
            tensors[i].shape[0] /= 2;
            return count;
        }
    return count;
}

static uint16_t nan_elements[1 << 20];

static uint32_t poison(weft_tensor_t *tensors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (strstr(tensors[i].name, "down_proj")) {
            memcpy(nan_elements, tensors[i].data, tensors[i].bytes);
            nan_elements[77] = 0x7FC0;
            tensors[i].data = nan_elements;
        }
    return count;
}

static uint32_t damage(weft_tensor_t *tensors, uint32_t count)
{
    memcpy(nan_elements, tensors[0].data, tensors[0].bytes);
    nan_elements[5] ^= 1;
    tensors[0].data = nan_elements;
    return count;
}

static uint32_t rename_first(weft_tensor_t *tensors, uint32_t count)
{
    tensors[0].name = "something.else";
    return count;
}

static void cut_file(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size - 100), 0);
}

/* The load fails on all ranks, the version before serves, and the next goes through. */
static void fails(job_t *job, const char *dir, weft_status_t expected, const char *text, uint64_t *version)
{
    uint64_t before = *version;
    ask(job, dir, before + 1);
    hear(job, before + 1, expected, text);
    job_check_live(job, before);
    job_update(job, before + 2);
    job_check_live(job, before + 2);
    *version = before + 2;
}

static void test_wrong_checkpoints(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16), other = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2x2", .scheme = "fp8-block"});
    uint64_t version = 1;
    job_open(job);
    job_update(job, 1);
    mkdir(path_of("empty"), 0777);
    fails(job, path_of("nowhere"), WEFT_ERR_IO, "cannot be read", &version);
    fails(job, path_of("empty"), WEFT_ERR_IO, "neither a checkpoint", &version);
    write_checkpoint(job, &cp, path_of("fewer"), drop_last);
    fails(job, path_of("fewer"), WEFT_ERR_MISSING_TENSOR, "is missing", &version);
    write_checkpoint(job, &cp, path_of("cast"), cast);
    fails(job, path_of("cast"), WEFT_ERR_SHAPE, "expected", &version);
    write_checkpoint(job, &cp, path_of("shorter"), shorten);
    fails(job, path_of("shorter"), WEFT_ERR_SHAPE, "expected BF16", &version);
    write_checkpoint(job, &cp, path_of("nan"), poison);
    fails(job, path_of("nan"), WEFT_ERR_NONFINITE, "flat index 77", &version);
    write_checkpoint(job, &other, path_of("llama"), NULL);
    fails(job, path_of("llama"), WEFT_ERR_UNKNOWN_NAME, "model_type is \"llama\"", &version);
    write_checkpoint(job, &cp, path_of("cut"), NULL);
    cut_file(path_of("cut/model.safetensors"));
    fails(job, path_of("cut"), WEFT_ERR_FILE, NULL, &version);
    job_close(job);
    job_destroy(job);
}

/* The plan of another job, by which files may have been written. */
static weft_plan_t *other_plan(const job_t *job, const char *rollout, const char *scheme, const char *profile)
{
    job_t like = *job;
    weft_error_t error;
    like.config.rollout = rollout;
    like.config.scheme = scheme;
    like.config.profile = profile;
    weft_plan_t *plan = job_plan(&like, 0, &error);
    if (!plan)
        fail_msg("%s", error.message);
    return plan;
}

static void fails_as(job_t *job, const char *name, weft_plan_t *plan, const char *text, uint64_t *version)
{
    write_kernel_files(job, *version, path_of(name), plan, NULL);
    fails(job, path_of(name), WEFT_ERR_MISFIT, text, version);
    weft_plan_destroy(plan);
}

static void test_wrong_kernel_files(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:2x2", .scheme = "fp8-block"});
    uint64_t version = 1;
    job_open(job);
    job_update(job, 1);
    fails_as(job, "scheme", other_plan(job, "tp:2", "fp8-channel", NULL), "scheme is fp8-channel", &version);
    fails_as(job, "profile", other_plan(job, "tp:2", "fp8-block", "vllm"), "profile is vllm", &version);
    fails_as(job, "ranks", other_plan(job, "tp:1", "fp8-block", NULL), "rollout is tp:1, expected tp:2x2", &version);
    write_kernel_files(job, version, path_of("fewer"), job->plan, drop_last);
    fails(job, path_of("fewer"), WEFT_ERR_MISSING_TENSOR, "is missing", &version);
    write_kernel_files(job, version, path_of("renamed"), job->plan, rename_first);
    fails(job, path_of("renamed"), WEFT_ERR_MISSING_TENSOR, "is missing", &version);
    write_kernel_files(job, version, path_of("shorter"), job->plan, shorten);
    fails(job, path_of("shorter"), WEFT_ERR_SHAPE, "expected", &version);
    write_kernel_files(job, version, path_of("damaged"), job->plan, damage);
    fails(job, path_of("damaged"), WEFT_ERR_DIGEST, "it is damaged", &version);
    write_kernel_files(job, version, path_of("cut"), job->plan, NULL);
    cut_file(path_of("cut/rank1.safetensors"));
    fails(job, path_of("cut"), WEFT_ERR_FILE, NULL, &version);
    write_kernel_files(job, version, path_of("one"), job->plan, NULL);
    assert_int_equal(remove(path_of("one/rank1.safetensors")), 0);
    fails(job, path_of("one"), WEFT_ERR_MISFIT, "its tp_rank is 0, expected 1", &version);
    job_close(job);
    job_destroy(job);
}

/* Replicas that load different checkpoints: one of them keeps what it serves. */
static void test_replicas_that_differ(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:1x2", .scheme = "bf16"});
    job_open(job);
    job_update(job, 1);
    job_expect(job, 2);
    write_checkpoint(job, &cp, path_of("2"), NULL);
    job_expect(job, 3);
    write_checkpoint(job, &cp, path_of("3"), NULL);
    ask_one(job, 0, path_of("2"), 4);
    ask_one(job, 1, path_of("3"), 4);
    uint32_t applied = 0, refused = 0;
    for (uint32_t i = 0; i < 2; i++) {
        weft_error_t error;
        weft_status_t status = weft_rollout_wait(job_rollout(job, i)->rollout, 4, JOB_PATIENCE, &error);
        applied += status == WEFT_OK;
        refused += status == WEFT_ERR_DIGEST;
        assert_true(status == WEFT_OK || strstr(error.message, "its weights differ"));
        if (status == WEFT_OK)
            expect_again(job, 4, i ? 3 : 2);
        assert_true(job_serves(job, i, status == WEFT_OK ? 4 : 1));
    }
    assert_int_equal(applied, 1);
    assert_int_equal(refused, 1);
    job_update(job, 5);
    job_check_live(job, 5);
    job_close(job);
    job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_from_disk, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_between_steps, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_a_subset_over_a_load, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_order, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_at_once, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_not_alike, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_after_losses, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_wrong_checkpoints, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_wrong_kernel_files, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_replicas_that_differ, make_root, remove_root),
    };
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
