/* Decoding through updates: an engine that never rests, while versions are published.
 *
 *     engine   [step][step][step][step] ..         one step runs while the next is enqueued
 *     trainer        published ... applied         steps lost: those that would have fitted into this window,
 * less those done
 */
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "launch/decoder/decoder.h"
#include "launch/weft/bench_sync.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/session_private.h"

#define AHEAD     2u     /* steps that are enqueued at most */
#define SETTLE_US 100000 /* of decoding before the first window, and between two */
#define QUIET_US  80000  /* of these, what a window is compared with */
#define TAG_STOP  1

struct bench_engine {
    bench_sync_t *sync;
    decoder_t *decoder;
    weft_queue_t *ends[AHEAD]; /* each remembers the end of every AHEAD-th step */
    uint64_t step, version;    /* of the last step */
    uint64_t pause_step;       /* by this one the pause before `version` is known; 0: it was noted */
    bench_series_t times;      /* when steps ended: ns, rising */
    bench_series_t pause_us;
};

/* One way to publish while the engine decodes. */
typedef struct phase {
    const char *name;
    double rate; /* of trainers, 0: unlimited */
    bool updates;
    double *windows; /* [updates][2]: published and heard by rank 0, ns */
    uint32_t num_windows;
} phase_t;

/* What a phase came to; each rollout rank has its own, printed is the worst. */
typedef struct outcome {
    bench_series_t step_us, window_us;
    double done, seconds;        /* steps in windows, and how long these were */
    double quiet, quiet_seconds; /* just before them */
} outcome_t;

static const bench_column_t columns[] = {
    {"phase", "", 12, BENCH_TEXT}, {"rate", "GB/s", 7, 3},        {"updates", "", 7, 0},
    {"steps", "1/s", 9, 1},        {"quiet", "1/s", 9, 1},        {"step_p50", "us", 9, 1},
    {"step_p99", "us", 9, 1},      {"window_p50", "ms", 10, 3},   {"pause_p50", "us", 9, 1},
    {"pause_p99", "us", 9, 1},     {"lost", "% of steps", 10, 2},
};

/* ---- the engine ---- */

static bool find_weight(void *user, const char *name, decoder_weight_t *weight)
{
    weft_tensor_t tensor;
    if (weft_rollout_get(((bench_sync_t *)user)->rollout, name, &tensor) != WEFT_OK)
        return false;
    *weight = (decoder_weight_t){.data = tensor.data, .dtype = tensor.dtype, .shape = {1, 1, 1}};
    for (uint32_t d = 0; d < tensor.num_dims && d < 3; d++)
        weight->shape[d] = tensor.shape[d];
    return true;
}

weft_status_t bench_engine_create(bench_sync_t *s, weft_error_t *error)
{
    const weft_transport_base_t *base = weft_transport_base(s->world.job.transport);
    bench_engine_t *e = s->engine = calloc(1, sizeof *e);
    if (!e)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rollout rank %u: no memory for a decoder",
                         s->world.job.rank);
    const decoder_config_t config = {.model = s->world.job.model,
                                     .tp_size = 1,
                                     .max_tokens = s->tokens,
                                     .find = find_weight,
                                     .user = s,
                                     .device = base->queue};
    e->sync = s;
    WEFT_TRY(decoder_create(&config, &e->decoder, error));
    for (uint32_t i = 0; i < AHEAD; i++)
        WEFT_TRY(weft_queue_open(base->queue, base->device, &e->ends[i], error));
    weft_status_t status = weft_rollout_set_stream(s->rollout, decoder_stream(e->decoder));
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "rollout rank %u: a step was begun", s->world.job.rank);
}

void bench_engine_destroy(bench_engine_t *e)
{
    if (!e)
        return;
    decoder_destroy(e->decoder);
    for (uint32_t i = 0; i < AHEAD; i++)
        weft_queue_close(e->ends[i]);
    bench_series_free(&e->times);
    bench_series_free(&e->pause_us);
    free(e);
}

static weft_status_t fail_step(const bench_engine_t *e, weft_status_t status, weft_error_t *error)
{
    return weft_fail(error, status, "rollout rank %u: step %llu failed: %s", e->sync->world.job.rank,
                     (unsigned long long)e->step, weft_status_text(status));
}

/* The sequence begins anew when its cache is full. */
static weft_status_t enqueue_step(bench_engine_t *e)
{
    if (decoder_position(e->decoder) == e->sync->tokens)
        decoder_reset(e->decoder);
    return decoder_position(e->decoder) ? decoder_step_next(e->decoder) : decoder_step_start(e->decoder, 0);
}

/* Wait for the step AHEAD before this one, and note when it ended. */
static void await_step(bench_engine_t *e, uint64_t step)
{
    weft_queue_t *end = e->ends[step % AHEAD];
    while (!end->ops->engine_idle(end))
        sched_yield();
    bench_series_add(&e->times, (double)weft_now_ns());
}

static weft_status_t run_step(bench_engine_t *e, weft_error_t *error)
{
    uint64_t version;
    weft_queue_t *end = e->ends[++e->step % AHEAD];
    WEFT_TRY(weft_rollout_step_begin(e->sync->rollout, e->step, 10000000, &version, error));
    if (version != e->version)
        e->pause_step = e->step + AHEAD;
    e->version = version;
    weft_status_t status = enqueue_step(e);
    weft_status_t ended = weft_rollout_step_end(e->sync->rollout, e->step);
    if (status == WEFT_OK)
        status = ended;
    if (status == WEFT_OK)
        status = end->ops->engine_end(end, decoder_stream(e->decoder));
    return status == WEFT_OK ? status : fail_step(e, status, error);
}

static void note_pause(bench_engine_t *e)
{
    weft_rollout_stats_t stats;
    if (!e->pause_step || e->step < e->pause_step)
        return;
    e->pause_step = 0;
    weft_rollout_get_stats(e->sync->rollout, &stats);
    if (stats.version == e->version)
        bench_series_add(&e->pause_us, (double)stats.pause_us);
}

/* Leave nothing on the stream. */
static weft_status_t drain(bench_engine_t *e, weft_error_t *error)
{
    weft_status_t status = decoder_step_finish(e->decoder, NULL);
    return status == WEFT_OK ? status : fail_step(e, status, error);
}

weft_status_t bench_engine_run(bench_sync_t *s, uint32_t steps, weft_error_t *error)
{
    for (uint32_t i = 0; i < steps; i++)
        WEFT_TRY(run_step(s->engine, error));
    return drain(s->engine, error);
}

/* Decode until rank 0 says stop. */
static weft_status_t decode_until_told(bench_engine_t *e, weft_error_t *error)
{
    MPI_Request request;
    int stop, told = 0;
    uint64_t first = e->step + 1;
    e->times.count = e->pause_us.count = 0;
    e->pause_step = 0;
    MPI_Irecv(&stop, 1, MPI_INT, 0, TAG_STOP, e->sync->world.job.world, &request);
    while (!told) {
        WEFT_TRY(run_step(e, error));
        if (e->step == first)
            e->pause_step = 0; /* it was parked before */
        if (e->step >= first + AHEAD - 1)
            await_step(e, e->step - AHEAD + 1);
        note_pause(e);
        MPI_Test(&request, &told, MPI_STATUS_IGNORE);
    }
    return drain(e, error);
}

/* ---- the trainers ---- */

static void tell_stop(bench_sync_t *s)
{
    int stop = 1;
    uint32_t trainers = weft_plan_num_trainers(s->world.job.plan);
    for (uint32_t rank = trainers; s->world.job.rank == 0 && rank < s->world.job.num_ranks; rank++)
        MPI_Send(&stop, 1, MPI_INT, (int)rank, TAG_STOP, s->world.job.world);
}

static weft_status_t publish_all(bench_sync_t *s, phase_t *phase, weft_error_t *error)
{
    s->world.job.session->config.rate_bytes_per_s = phase->rate;
    for (uint32_t i = 0; i < phase->num_windows; i++) {
        uint64_t published, heard;
        weft_sleep_us(SETTLE_US);
        WEFT_TRY(bench_sync_publish(s, &published, &heard, error));
        phase->windows[2 * i] = (double)published;
        phase->windows[2 * i + 1] = (double)heard;
    }
    if (!phase->updates)
        weft_sleep_us((uint64_t)(s->baseline_s * 1e6));
    weft_sleep_us(SETTLE_US);
    tell_stop(s);
    return WEFT_OK;
}

/* ---- counting ---- */

/* Steps ended by moment `ns`, in parts of a step. */
static double steps_by(const bench_series_t *times, double ns)
{
    size_t low = 0, high = times->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (times->items[middle] <= ns)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || low == times->count)
        return (double)low;
    double before = times->items[low - 1], after = times->items[low];
    return (double)low + (ns - before) / (after - before);
}

static void count_times(const bench_series_t *times, double from, double to, outcome_t *o)
{
    for (size_t i = 1; i < times->count; i++)
        if (times->items[i] > from && times->items[i - 1] < to)
            bench_series_add(&o->step_us, (times->items[i] - times->items[i - 1]) / 1e3);
}

/* What fits into a window is what was done just before it. */
static void count_window(const bench_series_t *times, double from, double to, outcome_t *o)
{
    count_times(times, from, to, o);
    o->done += steps_by(times, to) - steps_by(times, from);
    o->seconds += (to - from) / 1e9;
    o->quiet += steps_by(times, from) - steps_by(times, from - QUIET_US * 1e3);
    o->quiet_seconds += QUIET_US / 1e6;
}

/* Of one rollout rank. */
static void count_phase(const bench_engine_t *e, const phase_t *phase, outcome_t *o)
{
    const bench_series_t *times = &e->times;
    size_t last = times->count ? times->count - 1 : 0, skipped = last / 10;
    for (uint32_t i = 0; i < phase->num_windows; i++)
        count_window(times, phase->windows[2 * i], phase->windows[2 * i + 1], o);
    if (!phase->updates && last > skipped) {
        count_times(times, times->items[skipped], times->items[last], o);
        o->seconds = (times->items[last] - times->items[skipped]) / 1e9;
        o->done = (double)(last - skipped);
    }
}

/* The part of the steps that fit which was not done, in percent. */
static double lost_percent(const outcome_t *o)
{
    return o->quiet > 0 ? 100 * (1 - o->done / o->seconds / (o->quiet / o->quiet_seconds)) : NAN;
}

static double per_second(double steps, double seconds)
{
    return seconds > 0 ? steps / seconds : NAN;
}

/* The worst of all rollout ranks; a rank without a value says so by the least there is. */
static double worst_of(const bench_sync_t *s, double mine)
{
    double worst = isnan(mine) ? -INFINITY : mine;
    bench_world_most(&s->world, &worst, 1);
    return isinf(worst) ? NAN : worst;
}

static double worst_percentile(const bench_sync_t *s, bench_series_t *series, double share)
{
    return worst_of(s, series ? bench_percentile(series, share) : NAN);
}

static void print_phase(bench_sync_t *s, const phase_t *phase, outcome_t *o)
{
    bench_series_t *pauses = s->engine ? &s->engine->pause_us : NULL;
    for (uint32_t i = 0; i < phase->num_windows; i++)
        bench_series_add(&o->window_us, (phase->windows[2 * i + 1] - phase->windows[2 * i]) / 1e3);
    const bench_value_t values[] = {BENCH_WORD(phase->name),
                                    BENCH_NUMBER(phase->rate > 0 ? phase->rate / 1e9 : NAN),
                                    BENCH_NUMBER(phase->num_windows),
                                    BENCH_NUMBER(-worst_of(s, -per_second(o->done, o->seconds))),
                                    BENCH_NUMBER(-worst_of(s, -per_second(o->quiet, o->quiet_seconds))),
                                    BENCH_NUMBER(worst_percentile(s, &o->step_us, 0.5)),
                                    BENCH_NUMBER(worst_percentile(s, &o->step_us, 0.99)),
                                    BENCH_NUMBER(bench_percentile(&o->window_us, 0.5) / 1e3),
                                    BENCH_NUMBER(worst_percentile(s, pauses, 0.5)),
                                    BENCH_NUMBER(worst_percentile(s, pauses, 0.99)),
                                    BENCH_NUMBER(worst_of(s, lost_percent(o)))};
    bench_report_row(&s->world.report, values);
}

/* ---- phases ---- */

static weft_status_t run_phase(bench_sync_t *s, phase_t *phase, weft_error_t *error)
{
    outcome_t outcome = {.done = 0};
    phase->num_windows = phase->updates ? s->world.job.options.updates : 0;
    phase->windows = calloc(2 * (size_t)phase->num_windows + 1, sizeof *phase->windows);
    if (!phase->windows)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: no memory", s->world.job.rank);
    MPI_Barrier(s->world.job.world);
    WEFT_TRY(s->trainer ? publish_all(s, phase, error) : decode_until_told(s->engine, error));
    if (s->rollout)
        s->version += phase->num_windows;
    MPI_Bcast(phase->windows, 2 * (int)phase->num_windows, MPI_DOUBLE, 0, s->world.job.world);
    if (s->rollout)
        count_phase(s->engine, phase, &outcome);
    print_phase(s, phase, &outcome);
    bench_series_free(&outcome.step_us);
    bench_series_free(&outcome.window_us);
    free(phase->windows);
    return WEFT_OK;
}

weft_status_t bench_sync_decode(bench_sync_t *s, weft_error_t *error)
{
    double rate = s->world.job.options.rate;
    phase_t phases[] = {{.name = "no update"},
                        {.name = "throttled", .rate = rate, .updates = true},
                        {.name = "unthrottled", .updates = true}};
    bench_report_note(&s->world.report, "decoding; steps: between publish and applied; quiet: in the 80 ms "
                                        "before; lost: what is missing of the quiet rate");
    bench_report_table(&s->world.report, "decode", columns, sizeof columns / sizeof columns[0]);
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++) {
        bool asked = !phases[i].updates || phases[i].rate > 0 || i + 1 == sizeof phases / sizeof phases[0];
        if (asked)
            WEFT_TRY(run_phase(s, &phases[i], error));
    }
    return WEFT_OK;
}
