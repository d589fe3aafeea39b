/* A whole job in one process: every rank a thread of its own on the loopback transport, with a session and a trainer or
 * a rollout; what each version must become is computed offline.
 *
 *     job_t *job = job_create(model, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel"});
 *     job_open(job);                     all ranks at once
 *     job_update(job, 1);                fill the shards, publish, wait until every replica serves it
 *     job_check_live(job, 1);            byte for byte what weft_quantize_offline makes of version 1
 *     job_close(job);
 *     job_destroy(job);
 *
 * cmocka's asserts leave a test by longjmp and so belong to the main thread. Others say job_fault, and the main thread
 * fails at the next job_check_faults. Nothing here waits without a deadline.
 */
#ifndef WEFT_TESTS_SUPPORT_JOB_H
#define WEFT_TESTS_SUPPORT_JOB_H

#include <fnmatch.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <weft/weft.h>

#include "src/base/clock.h"
#include "src/plan/program.h"
#include "src/quantize/offline.h"
#include "src/session_private.h"
#include "tests/support/checkpoint.h"

#define JOB_MAX_TP    8
#define JOB_SLOTS     64 /* versions whose bytes are kept */
#define JOB_PATIENCE  UINT64_C(60000000) /* us: longer than anything may take, also under a sanitizer */

/* ThreadSanitizer takes ten times as long: property loops are shorter under it. */
#if defined(__SANITIZE_THREAD__)
#define JOB_CASES(usual, less) (less)
#else
#define JOB_CASES(usual, less) (usual)
#endif

typedef struct job job_t;

typedef struct job_config {
    const char *trainer, *rollout, *scheme, *profile; /* profile NULL: the scheme's default */
    const char *swap;     /* NULL: flip */
    bool relay;           /* no communicator for a route */
    bool minimum;         /* the least budget that works */
    uint32_t bucket_bytes; /* largest bucket; 0: the default */
    uint32_t margin;      /* 0: the default */
    double rate;
    uint64_t transport_us, dead_us, transfer_us, commit_us; /* deadlines; 0: the defaults */
} job_config_t;

/* What a trainer holds of one tensor. */
typedef struct job_shard {
    weft_box_t box;
    uint32_t rows, cols;
    size_t ld_elems;
    uint8_t *memory;
} job_shard_t;

typedef struct job_rank {
    job_t *job;
    uint32_t rank;
    const weft_plan_t *plan; /* the job's, unless a test gives this rank another */
    pthread_t thread;
    weft_transport_t *transport;
    weft_session_t *session;
    weft_trainer_t *trainer;
    weft_rollout_t *rollout;
    job_shard_t *shards; /* trainer: [tensors] */
    weft_status_t status;
    weft_error_t error;
} job_rank_t;

/* One element of a version that is not what it should be. */
typedef struct job_plant {
    uint64_t version;
    uint32_t tensor, bits;
    uint64_t flat;
} job_plant_t;

typedef uint32_t (*job_element_fn)(uint32_t tensor, uint64_t flat, weft_dtype_t dtype);

typedef struct job_expected {
    _Atomic uint64_t version;
    uint8_t *bytes[JOB_MAX_TP];
    weft_digest_t digest[JOB_MAX_TP];
} job_expected_t;

struct job {
    job_config_t config;
    weft_model_t *model; /* its tensors have bytes: those of the version expected last */
    uint32_t num_tensors;
    uint8_t **base;      /* [tensors]: version 0 */
    weft_plan_t *plan;
    weft_outputs_t outputs[JOB_MAX_TP];
    weft_program_t *programs[JOB_MAX_TP];
    uint32_t num_trainers, num_rollouts, num_ranks, tp;
    weft_loopback_t *hub;
    job_rank_t *ranks;
    job_plant_t plant;
    uint64_t seed; /* of gaps between rows */
    uint64_t *origin; /* [tensors]: the version whose values a rollout has of each; NULL: of the version it serves */
    job_expected_t expected[JOB_SLOTS];

    pthread_mutex_t mutex;
    _Atomic bool faulty;
    char fault[1024]; /* the first one */
};

/* ---- Faults ---- */

static inline void job_fault(job_t *job, const char *format, ...) __attribute__((format(printf, 2, 3)));

static inline void job_fault(job_t *job, const char *format, ...)
{
    pthread_mutex_lock(&job->mutex);
    if (!job->faulty) {
        va_list args;
        va_start(args, format);
        vsnprintf(job->fault, sizeof job->fault, format, args);
        va_end(args);
    }
    job->faulty = true;
    pthread_mutex_unlock(&job->mutex);
}

static inline void job_check_faults(job_t *job)
{
    if (job->faulty)
        fail_msg("%s", job->fault);
}

/* A test that hangs has failed; its threads cannot be ended one by one. */
static inline void join_in_time(pthread_t thread, const char *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2 * (time_t)(JOB_PATIENCE / 1000000);
    if (pthread_timedjoin_np(thread, NULL, &until) != 0) {
        fprintf(stderr, "%s hangs\n", what);
        abort();
    }
}

/* ---- Models ---- */

/* Give each tensor of `model` bytes. */
static inline void job_fill_base(job_t *job, job_element_fn element)
{
    for (uint32_t i = 0; i < job->num_tensors; i++) {
        weft_tensor_t *tensor = (weft_tensor_t *)weft_model_tensor(job->model, i);
        size_t size = weft_dtype_bytes(tensor->dtype);
        for (uint64_t flat = 0; flat < tensor->bytes / size; flat++) {
            uint32_t bits = element(i, flat, tensor->dtype);
            memcpy(job->base[i] + flat * size, &bits, size);
        }
    }
}

static inline void job_take_model(job_t *job, weft_model_t *model, const weft_model_t *values)
{
    job->model = model;
    job->num_tensors = weft_model_num_tensors(model);
    job->base = calloc(job->num_tensors, sizeof *job->base);
    for (uint32_t i = 0; i < job->num_tensors; i++) {
        weft_tensor_t *tensor = (weft_tensor_t *)weft_model_tensor(model, i);
        job->base[i] = malloc(tensor->bytes + 1);
        tensor->data = malloc(tensor->bytes + 1);
        if (values)
            memcpy(job->base[i], weft_model_find(values, tensor->name)->data, tensor->bytes);
    }
    if (!values)
        job_fill_base(job, element_weight);
}

static inline char *read_text(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return NULL;
    char *text = calloc(1, 65536);
    size_t bytes = fread(text, 1, 65535, file);
    text[bytes] = '\0';
    fclose(file);
    return text;
}

/* A demo checkpoint as a built model; *values is the opened one. NULL where there is none. */
static inline weft_model_t *demo_model(const char *name, weft_model_t **values)
{
    char path[512];
    weft_error_t error;
    weft_model_t *model;
    snprintf(path, sizeof path, "%s/launch/demo/%s", WEFT_SOURCE_DIR, name);
    if (access(path, R_OK) != 0)
        return NULL;
    if (weft_model_open(path, values, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    strncat(path, "/config.json", sizeof path - strlen(path) - 1);
    char *config = read_text(path);
    assert_int_equal(weft_model_create(config, &model, &error), WEFT_OK);
    free(config);
    for (uint32_t i = 0; i < weft_model_num_tensors(*values); i++) {
        const weft_tensor_t *t = weft_model_tensor(*values, i);
        assert_int_equal(weft_model_add(model, t->name, t->dtype, t->shape, t->num_dims, &error), WEFT_OK);
    }
    return model;
}

/* ---- Values ---- */

/* Sign and mantissa: whatever they are, a finite element stays finite. */
static inline uint32_t free_bits(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F32 ? 0x807FFFFF : dtype == WEFT_DTYPE_F16 ? 0x83FF : 0x807F;
}

/* The element of a version: version 0 with sign and mantissa of (almost) every element changed. */
static inline uint32_t job_element(const job_t *job, uint64_t version, uint32_t tensor, uint64_t flat,
                                   weft_dtype_t dtype)
{
    const job_plant_t *plant = &job->plant;
    uint32_t bits = 0;
    size_t size = weft_dtype_bytes(dtype);
    if (version == plant->version && tensor == plant->tensor && flat == plant->flat && plant->version)
        return plant->bits;
    memcpy(&bits, job->base[tensor] + flat * size, size);
    return version ? bits ^ ((uint32_t)mix64(version << 48 ^ (uint64_t)tensor << 32 ^ flat) & free_bits(dtype)) : bits;
}

static inline void job_fill_model(job_t *job, uint64_t version)
{
    for (uint32_t i = 0; i < job->num_tensors; i++) {
        const weft_tensor_t *tensor = weft_model_tensor(job->model, i);
        size_t size = weft_dtype_bytes(tensor->dtype);
        for (uint64_t flat = 0; flat < tensor->bytes / size; flat++) {
            uint32_t bits = job_element(job, job->origin ? job->origin[i] : version, i, flat, tensor->dtype);
            memcpy((uint8_t *)tensor->data + flat * size, &bits, size);
        }
    }
}

static inline bool layer_matches(const weft_layer_t *layer, const char *patterns)
{
    char name[WEFT_LAYER_NAME_BYTES], copy[200], *rest = copy;
    bool matches = false;
    snprintf(copy, sizeof copy, "%s", patterns);
    for (char *pattern; (pattern = strsep(&rest, ","));)
        matches |= fnmatch(pattern, layer->name, 0) == 0 || fnmatch(pattern, weft_layer_full_name(layer, name), 0) == 0;
    return matches;
}

/* From `version` on rollouts have from it the tensors of layers that match one of the patterns. */
static inline void job_note_origin(job_t *job, const char *patterns, uint64_t version)
{
    job->origin = job->origin ? job->origin : calloc(job->num_tensors + 1, sizeof *job->origin);
    for (uint32_t i = 0; i < job->plan->layers->count; i++) {
        const weft_layer_t *layer = &job->plan->layers->items[i];
        uint32_t tensors = layer->num_parts * (layer->num_experts ? layer->num_experts : 1);
        for (uint32_t t = 0; t < tensors && layer_matches(layer, patterns); t++)
            job->origin[layer->tensors[t]] = version;
    }
}

/* ---- What a version must become ---- */

static inline job_expected_t *job_slot(job_t *job, uint64_t version)
{
    return &job->expected[version % JOB_SLOTS];
}

/* Quantize `version` offline. Before it is published. */
static inline void job_expect(job_t *job, uint64_t version)
{
    job_expected_t *slot = job_slot(job, version);
    weft_error_t error;
    job_fill_model(job, version);
    slot->version = 0;
    for (uint32_t t = 0; t < job->tp; t++) {
        if (!slot->bytes[t])
            slot->bytes[t] = calloc(1, job->outputs[t].bytes + 1);
        if (weft_quantize_offline(job->programs[t], &job->outputs[t], slot->bytes[t],
                                  &slot->digest[t], &error) != WEFT_OK)
            fail_msg("version %llu offline: %s", (unsigned long long)version, error.message);
    }
    slot->version = version;
}

static inline job_rank_t *job_rollout(const job_t *job, uint32_t rollout)
{
    return &job->ranks[job->num_trainers + rollout];
}

/* Whether what a rollout rank serves is `version`, byte for byte; a fault if not. No step may end, or one be open. */
static inline bool job_serves(job_t *job, uint32_t rollout, uint64_t version)
{
    job_expected_t *slot = job_slot(job, version);
    const weft_rollout_t *r = job_rollout(job, rollout)->rollout;
    uint32_t t = rollout % job->tp;
    if (slot->version != version) {
        job_fault(job, "rollout %u serves version %llu, which it must not", rollout, (unsigned long long)version);
        return false;
    }
    for (uint32_t i = 0; i < job->outputs[t].count; i++) {
        const weft_output_t *output = &job->outputs[t].items[i];
        const uint8_t *found = weft_rollout_tensor(r, i).data, *expected = slot->bytes[t] + output->offset;
        if (memcmp(found, expected, output->bytes) == 0)
            continue;
        size_t at = 0;
        while (at + 1 < output->bytes && found[at] == expected[at])
            at++;
        job_fault(job, "rollout %u, version %llu: %s differs at byte %zu of %zu: %02x, expected %02x", rollout,
                  (unsigned long long)version, output->name, at, (size_t)output->bytes, found[at], expected[at]);
        return false;
    }
    return true;
}

static inline void job_check_live(job_t *job, uint64_t version)
{
    weft_error_t error;
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        /* Also what orders these reads after the swap: the trainers' word came over sockets, by way of other ranks. */
        if (weft_rollout_wait(job_rollout(job, i)->rollout, version, 0, &error) != WEFT_OK)
            fail_msg("%s", error.message);
        job_serves(job, i, version);
    }
    job_check_faults(job);
}

/* ---- Life ---- */

static inline weft_layout_t *job_layout(const char *text, weft_side_t side)
{
    weft_layout_t *layout;
    weft_error_t error;
    if (weft_layout_parse(text, side, &layout, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return layout;
}

/* A plan of the job's model, as its config says; NULL and why when there is none. */
static inline weft_plan_t *job_plan(const job_t *job, uint64_t budget_bytes, weft_error_t *error)
{
    const job_config_t *config = &job->config;
    weft_layout_t *trainer = job_layout(config->trainer, WEFT_SIDE_TRAINER);
    weft_layout_t *rollout = job_layout(config->rollout, WEFT_SIDE_ROLLOUT);
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    options.profile = config->profile;
    if (config->relay)
        options.max_groups = 0;
    if (config->bucket_bytes)
        options.max_bucket_bytes = config->bucket_bytes;
    if (budget_bytes)
        options.budget_bytes = budget_bytes;
    weft_plan_t *plan = NULL;
    if (weft_plan_create(job->model, trainer, rollout, config->scheme, &options, &plan, error) != WEFT_OK)
        plan = NULL;
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    return plan;
}

static inline uint64_t least_budget(const weft_plan_t *plan)
{
    weft_plan_summary_t summary;
    weft_plan_summarize(plan, &summary);
    return summary.least_budget_bytes;
}

static inline void job_prepare(job_t *job)
{
    job->num_trainers = weft_plan_num_trainers(job->plan);
    job->num_rollouts = weft_plan_num_rollouts(job->plan);
    job->num_ranks = job->num_trainers + job->num_rollouts;
    job->tp = weft_plan_tp(job->plan);
    assert_true(job->tp <= JOB_MAX_TP);
    for (uint32_t t = 0; t < job->tp; t++) {
        assert_int_equal(weft_outputs_create(job->plan, t, &job->outputs[t]), WEFT_OK);
        assert_int_equal(weft_program_create(job->plan, job->num_trainers + t, &job->outputs[t], &job->programs[t]),
                         WEFT_OK);
    }
    job->ranks = calloc(job->num_ranks, sizeof *job->ranks);
    for (uint32_t i = 0; i < job->num_ranks; i++)
        job->ranks[i] = (job_rank_t){.job = job, .rank = i, .plan = job->plan};
    assert_int_equal(weft_loopback_create(job->num_ranks, &job->hub), WEFT_OK);
}

static inline void job_destroy(job_t *job);

/* Takes `model` over; its elements are those of `values`, or made up. NULL and why when there is no such plan. */
static inline job_t *job_try(weft_model_t *model, const weft_model_t *values, const job_config_t *config,
                             weft_error_t *error)
{
    job_t *job = calloc(1, sizeof *job);
    job->config = *config;
    pthread_mutex_init(&job->mutex, NULL);
    job_take_model(job, model, values);
    job->plan = job_plan(job, 0, error);
    if (job->plan && config->minimum) {
        uint64_t least = least_budget(job->plan);
        weft_plan_destroy(job->plan);
        job->plan = job_plan(job, least, error);
    }
    if (!job->plan) {
        job_destroy(job);
        return NULL;
    }
    job_prepare(job);
    return job;
}

static inline job_t *job_create(const checkpoint_t *cp, const job_config_t *config)
{
    weft_error_t error;
    job_t *job = job_try(checkpoint_model(cp), NULL, config, &error);
    if (!job)
        fail_msg("%s to %s, %s: %s", config->trainer, config->rollout, config->scheme, error.message);
    return job;
}

static inline void job_free_shards(job_rank_t *r)
{
    for (uint32_t i = 0; r->shards && i < r->job->num_tensors; i++)
        free(r->shards[i].memory);
    free(r->shards);
    r->shards = NULL;
}

static inline void job_free_model(job_t *job)
{
    for (uint32_t i = 0; i < job->num_tensors; i++) {
        free(job->base[i]);
        free((void *)weft_model_tensor(job->model, i)->data);
    }
    free(job->base);
    free(job->origin);
    weft_plan_destroy(job->plan);
    weft_model_close(job->model);
}

static inline void job_destroy(job_t *job)
{
    for (uint32_t i = 0; i < job->num_ranks; i++)
        job_free_shards(&job->ranks[i]);
    free(job->ranks);
    for (uint32_t t = 0; t < job->tp; t++) {
        weft_program_destroy(job->programs[t]);
        weft_outputs_destroy(&job->outputs[t]);
    }
    for (uint32_t i = 0; i < JOB_SLOTS; i++)
        for (uint32_t t = 0; t < JOB_MAX_TP; t++)
            free(job->expected[i].bytes[t]);
    weft_loopback_destroy(job->hub);
    job_free_model(job);
    pthread_mutex_destroy(&job->mutex);
    free(job);
}

/* ---- Ranks ---- */

/* Run `main` for every rank on a thread of its own; *status of each says what came of it. */
static inline void job_each(job_t *job, void *(*main)(void *rank))
{
    for (uint32_t i = 0; i < job->num_ranks; i++)
        assert_int_equal(pthread_create(&job->ranks[i].thread, NULL, main, &job->ranks[i]), 0);
    for (uint32_t i = 0; i < job->num_ranks; i++)
        join_in_time(job->ranks[i].thread, "a rank that opens or closes");
}

static inline weft_status_t open_session(job_rank_t *r)
{
    const job_config_t *from = &r->job->config;
    weft_transport_config_t transport = WEFT_TRANSPORT_CONFIG;
    transport.loopback = r->job->hub;
    transport.rank = r->rank;
    transport.timeout_us = from->transport_us;
    weft_status_t status = weft_transport_open("loopback", &transport, &r->transport, &r->error);
    if (status != WEFT_OK)
        return status;
    weft_session_config_t session = WEFT_SESSION_CONFIG;
    session.plan = r->plan;
    session.transport = r->transport;
    session.rate_bytes_per_s = from->rate;
    session.workers = getenv("WEFT_TEST_WORKERS") ? (uint32_t)atoi(getenv("WEFT_TEST_WORKERS")) : 0;
    session.margin_steps = from->margin ? from->margin : session.margin_steps;
    session.dead_after_us = from->dead_us ? from->dead_us : 20000000; /* sanitizers on few cores are slow */
    session.transfer_timeout_us = from->transfer_us ? from->transfer_us : session.transfer_timeout_us;
    session.commit_timeout_us = from->commit_us ? from->commit_us : session.commit_timeout_us;
    return weft_session_open(&session, &r->session, &r->error);
}

/* Memory for the box of one tensor, its rows up to seven elements further apart than they must be. */
static inline void make_shard(const job_rank_t *r, uint32_t index, job_shard_t *shard)
{
    const weft_tensor_t *tensor = weft_model_tensor(r->job->model, index);
    weft_box_t *box = &shard->box;
    weft_trainer_box(r->trainer, tensor->name, box);
    shard->rows = (uint32_t)(box->num_dims == 2 ? box->extent[0] : 1);
    shard->cols = (uint32_t)box->extent[box->num_dims - 1];
    uint64_t z = mix64(r->job->seed ^ (uint64_t)r->rank << 32 ^ index);
    shard->ld_elems = shard->cols + (z % 3 == 0 ? z / 3 % 8 : 0);
    shard->memory = malloc(shard->rows * shard->ld_elems * weft_dtype_bytes(tensor->dtype) + 1);
}

static inline weft_status_t bind_shards(job_rank_t *r)
{
    r->shards = calloc(r->job->num_tensors, sizeof *r->shards);
    for (uint32_t i = 0; i < r->job->num_tensors; i++) {
        job_shard_t *shard = &r->shards[i];
        make_shard(r, i, shard);
        weft_status_t status = weft_trainer_bind(r->trainer, weft_model_tensor(r->job->model, i)->name, shard->memory,
                                                 shard->ld_elems, &r->error);
        if (status != WEFT_OK)
            return status;
    }
    return WEFT_OK;
}

static inline weft_status_t open_role(job_rank_t *r)
{
    if (weft_session_is_trainer(r->session)) {
        weft_status_t status = weft_trainer_create(r->session, &r->trainer, &r->error);
        return status == WEFT_OK ? bind_shards(r) : status;
    }
    weft_rollout_config_t config = WEFT_ROLLOUT_CONFIG;
    config.swap = r->job->config.swap ? r->job->config.swap : config.swap;
    return weft_rollout_create(r->session, &config, &r->rollout, &r->error);
}

static inline void *open_rank(void *user)
{
    job_rank_t *r = user;
    r->status = open_session(r);
    if (r->status == WEFT_OK)
        r->status = open_role(r);
    return NULL;
}

static inline void *close_rank(void *user)
{
    job_rank_t *r = user;
    weft_trainer_destroy(r->trainer);
    weft_rollout_destroy(r->rollout);
    weft_session_close(r->session);
    weft_transport_close(r->transport);
    r->trainer = NULL;
    r->rollout = NULL;
    r->session = NULL;
    r->transport = NULL;
    job_free_shards(r);
    return NULL;
}

static inline void job_open(job_t *job)
{
    job_each(job, open_rank);
    for (uint32_t i = 0; i < job->num_ranks; i++)
        if (job->ranks[i].status != WEFT_OK)
            fail_msg("rank %u does not open: %s: %s", i, weft_status_name(job->ranks[i].status),
                     job->ranks[i].error.message);
}

static inline void job_close(job_t *job)
{
    job_each(job, close_rank);
}

/* ---- Versions ---- */

/* Write `version` into the memory that trainer `r` has bound, as an optimizer step would. */
static inline void fill_shards(job_rank_t *r, uint64_t version)
{
    for (uint32_t i = 0; i < r->job->num_tensors; i++) {
        const weft_tensor_t *tensor = weft_model_tensor(r->job->model, i);
        const job_shard_t *shard = &r->shards[i];
        size_t size = weft_dtype_bytes(tensor->dtype);
        uint64_t row0 = shard->box.num_dims == 2 ? shard->box.offset[0] : 0;
        uint64_t col0 = shard->box.offset[shard->box.num_dims - 1];
        uint64_t row_elems = tensor->shape[tensor->num_dims - 1];
        for (uint32_t row = 0; row < shard->rows; row++)
            for (uint32_t col = 0; col < shard->cols; col++) {
                uint64_t flat = (row0 + row) * row_elems + col0 + col;
                uint32_t bits = job_element(r->job, version, i, flat, tensor->dtype);
                memcpy(shard->memory + (row * shard->ld_elems + col) * size, &bits, size);
            }
    }
}

/* Write NaNs into the bound memory, padding included: whoever reads it after RELEASED is found out. */
static inline void spoil_shards(job_rank_t *r)
{
    for (uint32_t i = 0; i < r->job->num_tensors; i++) {
        const weft_tensor_t *tensor = weft_model_tensor(r->job->model, i);
        memset(r->shards[i].memory, 0xFF, r->shards[i].rows * r->shards[i].ld_elems * weft_dtype_bytes(tensor->dtype));
    }
}

static inline void job_publish(job_t *job, uint64_t version)
{
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[(i + version) % job->num_trainers];
        spoil_shards(r); /* the gaps between rows are never read */
        fill_shards(r, version);
        if (weft_trainer_publish(r->trainer, version, &r->error) != WEFT_OK)
            fail_msg("trainer %u, version %llu: %s", r->rank, (unsigned long long)version, r->error.message);
    }
}

/* Wait on every trainer. All must say `expected`. */
static inline void job_wait(job_t *job, uint64_t version, weft_publish_state_t state, weft_status_t expected)
{
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[i];
        r->error = (weft_error_t){.message = ""};
        r->status = weft_trainer_wait(r->trainer, version, state, JOB_PATIENCE, &r->error);
        job_check_faults(job);
        if (r->status != expected)
            fail_msg("trainer %u, version %llu: %s, expected %s: %s", i, (unsigned long long)version,
                     weft_status_name(r->status), weft_status_name(expected), r->error.message);
        if (r->status == WEFT_OK && state == WEFT_PUBLISH_RELEASED)
            spoil_shards(r);
    }
}

/* From an optimizer step to all replicas serving it. */
static inline void job_update(job_t *job, uint64_t version)
{
    job_expect(job, version);
    job_publish(job, version);
    job_wait(job, version, WEFT_PUBLISH_RELEASED, WEFT_OK);
    job_wait(job, version, WEFT_PUBLISH_APPLIED, WEFT_OK);
}

#endif
