/* A rollout of the main job: an engine that never stops decoding. Every step is bracketed by step_begin and
 * step_end, and every step checks that all ranks of the replica run it on the same version. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "launch/decoder/decoder.h"
#include "launch/weft/options.h"
#include "launch/weft/run.h"
#include "launch/weft/stop.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/quantize/kernel_file.h"
#include "transport/transport.h"

#define MAX_TOKENS      512 /* of one sequence; then the prompt begins anew */
#define SCORE_WINDOW    512
#define STEP_TIMEOUT_US 10000000
#define PROGRESS_US     250000
#define EMPTY_STEP_US   1000 /* of a model that the decoder does not know */

typedef enum engine_order {
    ORDER_STEP,
    ORDER_SCORE,
    ORDER_RENEW, /* swap layerwise: pause for the next version */
    ORDER_STOP,
} engine_order_t;

/* What the leader tells its replica before each step. */
typedef struct engine_command {
    uint32_t order, token, reset, record; /* record: the version that a score belongs to */
} engine_command_t;

typedef struct engine {
    run_job_t *job;
    weft_rollout_t *rollout;
    decoder_t *decoder; /* NULL: it does not know the model; steps are empty */
    float *logits;
    uint8_t *eval_text;
    size_t eval_size;
    bool leader, first_replica;
    uint64_t step, version;
    uint32_t next_token;
    size_t prompt_at;

    /* leader: the progress of the job */
    uint32_t asked, concluded;  /* versions asked for, and heard of */
    uint32_t tokens_on_version; /* since the last one was concluded */
    bool scored;                /* the version that is live */
    bool stopping;              /* first leader: the trainers have been told that there is no more */
    bool over;                  /* there is no more */
    uint64_t shown_us, paced_us;
    bool line_open;
} engine_t;

/* ---- what is seen ---- */

static bool talks(const engine_t *e)
{
    return e->leader && e->first_replica && !e->job->options.quiet;
}

static void show_token(engine_t *e, uint32_t token)
{
    if (!talks(e) || !e->decoder)
        return;
    fputc(token == '\n' || (token >= 32 && token < 127) ? (int)token : '?', stdout);
    e->line_open = token != '\n';
    fflush(stdout);
}

static void end_line(engine_t *e)
{
    if (e->line_open)
        fputc('\n', stdout);
    e->line_open = false;
}

static void show_progress(engine_t *e, const weft_rollout_status_t *status)
{
    uint64_t now = weft_now_us();
    if (!talks(e) || now - e->shown_us < PROGRESS_US || !status->expected_bytes)
        return;
    e->shown_us = now;
    end_line(e);
    printf("  [version %llu on its way: %3.0f %%, %.1f of %.1f MiB a rank, %u of %u layers staged]\n",
           (unsigned long long)status->pending_version,
           100.0 * (double)status->received_bytes / (double)status->expected_bytes,
           (double)status->received_bytes / 1048576, (double)status->expected_bytes / 1048576,
           status->layers_staged, status->num_layers);
    fflush(stdout);
}

static void show_version(engine_t *e, uint64_t version, uint64_t step)
{
    if (!talks(e))
        return;
    end_line(e);
    printf("  [version %llu is live from step %llu: %s]\n", (unsigned long long)version,
           (unsigned long long)step, run_source(e->job, (uint32_t)version - 1));
    fflush(stdout);
}

/* ---- the engine ---- */

/* What the decoder's callbacks reach. */
typedef struct engine_links {
    const weft_plan_t *plan;
    weft_rollout_t *rollout;
    MPI_Comm replica;
} engine_links_t;

static bool find_weight(void *user, const char *name, decoder_weight_t *weight)
{
    weft_tensor_t tensor;
    const engine_links_t *links = user;
    char its[256];
    if (strstr(name, ".experts.") && weft_engine_name(links->plan->engine, name, its, sizeof its))
        name = its;
    if (weft_rollout_get(links->rollout, name, &tensor) != WEFT_OK)
        return false;
    *weight = (decoder_weight_t){.data = tensor.data, .dtype = tensor.dtype, .shape = {1, 1, 1}};
    for (uint32_t d = 0; d < tensor.num_dims && d < 3; d++)
        weight->shape[d] = tensor.shape[d];
    return true;
}

static bool all_reduce(void *user, float *data, size_t count)
{
    MPI_Comm replica = ((engine_links_t *)user)->replica;
    return MPI_Allreduce(MPI_IN_PLACE, data, (int)count, MPI_FLOAT, MPI_SUM, replica) == MPI_SUCCESS;
}

/* Steps are bracketed all the same, and swaps happen between them. */
static weft_status_t do_without_decoder(engine_t *e, weft_error_t *error)
{
    if (e->job->options.eval)
        return error->status;
    if (talks(e))
        printf("  [%s: rollouts step without decoding]\n", error->message);
    return WEFT_OK;
}

/* The decoder reads scales row by row. */
static weft_status_t check_arrangements(const weft_plan_t *plan, weft_error_t *error)
{
    for (uint32_t p = 0; p < plan->num_patterns; p++)
        if (plan->patterns[p].arrange != WEFT_ARRANGE_PLAIN)
            return weft_fail(error, WEFT_ERR_UNSUPPORTED, "the decoder does not read matrices that lie as %s",
                             weft_arrange_name(plan->patterns[p].arrange));
    return WEFT_OK;
}

static weft_status_t make_decoder(engine_t *e, engine_links_t *links, weft_error_t *error)
{
    run_job_t *job = e->job;
    if (check_arrangements(job->plan, error) != WEFT_OK)
        return do_without_decoder(e, error);
    uint32_t tp = weft_plan_tp(job->plan);
    decoder_config_t config = {
        .model = job->model,
        .tp_rank = (job->rank - weft_plan_num_trainers(job->plan)) % tp,
        .tp_size = tp,
        .expert_parallel = strstr(weft_plan_rollout_text(job->plan), ",ep") != NULL,
        .max_tokens = MAX_TOKENS,
        .find = find_weight,
        .all_reduce = tp > 1 ? all_reduce : NULL,
        .user = links,
        .device = weft_transport_base(job->transport)->queue,
    };
    weft_status_t status = decoder_create(&config, &e->decoder, error);
    if (status == WEFT_ERR_UNSUPPORTED)
        return do_without_decoder(e, error);
    WEFT_TRY(status);
    WEFT_TRY(weft_rollout_set_stream(e->rollout, decoder_stream(e->decoder)));
    e->logits = malloc(decoder_vocab(e->decoder) * sizeof *e->logits);
    return e->logits ? WEFT_OK : weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for logits");
}

/* All ranks of the replica must run this step on one version. */
static void check_step(engine_t *e, uint64_t version)
{
    uint64_t both[2] = {version, ~version}, least[2];
    MPI_Allreduce(both, least, 2, MPI_UINT64_T, MPI_MIN, e->job->replica);
    if (least[0] == version && ~least[1] == version)
        return;
    e->job->account.torn_steps++;
    weft_error_t error;
    weft_fail(&error, WEFT_ERR_INTERNAL,
              "step %llu is torn: rank %u runs it on version %llu, others on %llu to %llu",
              (unsigned long long)e->step, e->job->rank, (unsigned long long)version,
              (unsigned long long)least[0], (unsigned long long)~least[1]);
    run_abort(e->job, &error);
}

static void note_version(engine_t *e, uint64_t version)
{
    if (version == e->version)
        return;
    e->version = version;
    show_version(e, version, e->step);
}

static void begin_step(engine_t *e)
{
    weft_error_t error;
    uint64_t version;
    if (weft_rollout_step_begin(e->rollout, ++e->step, STEP_TIMEOUT_US, &version, &error) != WEFT_OK)
        run_abort(e->job, &error);
    note_version(e, version);
    check_step(e, version);
    weft_rollout_get_stats(e->rollout, &e->job->records[version - 1].stats);
}

static void count_token(engine_t *e)
{
    weft_rollout_status_t status;
    weft_rollout_get_status(e->rollout, &status);
    if (status.phase == WEFT_ROLLOUT_IDLE || !status.pending_version)
        return;
    if (status.pending_version <= e->job->num_versions)
        e->job->records[status.pending_version - 1].tokens_during++;
    if (status.phase == WEFT_ROLLOUT_RECEIVING)
        show_progress(e, &status);
}

static weft_status_t decode_step(engine_t *e, const engine_command_t *command)
{
    if (command->reset)
        decoder_reset(e->decoder);
    begin_step(e);
    weft_status_t status = decoder_step_start(e->decoder, command->token);
    weft_status_t ended =
        weft_rollout_step_end(e->rollout, e->step); /* on a GPU: enqueued, all that a swap needs */
    if (status == WEFT_OK)
        status = ended;
    return status == WEFT_OK ? decoder_step_finish(e->decoder, e->logits) : status;
}

static weft_status_t empty_step(engine_t *e)
{
    begin_step(e);
    weft_sleep_us(EMPTY_STEP_US);
    return weft_rollout_step_end(e->rollout, e->step);
}

static void decode_token(engine_t *e, const engine_command_t *command)
{
    uint64_t start = weft_now_ns();
    weft_status_t status = e->decoder ? decode_step(e, command) : empty_step(e);
    if (status != WEFT_OK)
        run_abort(e->job, &(weft_error_t){status, "the decoder lost a peer"});
    count_token(e);
    e->job->account.steps++;
    if (e->job->options.trace)
        run_trace_add(&e->job->trace,
                      &(weft_span_t){"step", start, weft_now_ns(), e->version, (uint32_t)e->step});
    e->job->account.step_us_total += (weft_now_ns() - start) / 1000;
}

static void score(engine_t *e, uint32_t record)
{
    double bits;
    begin_step(e);
    weft_status_t status = decoder_score(e->decoder, e->eval_text, e->eval_size, SCORE_WINDOW, &bits);
    weft_rollout_step_end(e->rollout, e->step);
    if (status != WEFT_OK)
        run_abort(e->job, &(weft_error_t){status, "the decoder lost a peer"});
    e->job->records[record].bits_per_byte = bits;
}

/* ---- the leader: what comes next ---- */

static void hear_results(engine_t *e)
{
    int waiting = 1;
    while (waiting) {
        run_result_t result;
        MPI_Iprobe(MPI_ANY_SOURCE, RUN_TAG_RESULT, e->job->world, &waiting, MPI_STATUS_IGNORE);
        if (!waiting)
            break;
        MPI_Recv(&result, sizeof result, MPI_BYTE, MPI_ANY_SOURCE, RUN_TAG_RESULT, e->job->world,
                 MPI_STATUS_IGNORE);
        if (result.index == RUN_NO_MORE) {
            e->over = true;
            continue;
        }
        e->concluded = result.index + 1;
        if (e->asked < e->concluded) /* another replica was quicker: it has asked for this one */
            e->asked = e->concluded;
        e->job->records[result.index].failed = result.failed;
        e->tokens_on_version = 0;
        e->scored = result.failed;
    }
}

static void tell_trainers(const engine_t *e, uint32_t index)
{
    uint32_t trainers = weft_plan_num_trainers(e->job->plan);
    for (uint32_t t = 0; e->first_replica && t < trainers; t++)
        MPI_Send(&index, 1, MPI_UINT32_T, (int)t, RUN_TAG_GO, e->job->world);
}

static void ask_for_next(engine_t *e)
{
    tell_trainers(e, e->asked);
    e->asked++;
}

/* Nothing is left to ask for. */
static bool is_over(const engine_t *e)
{
    return e->over || e->concluded == e->job->num_versions;
}

static void tell_leaders(engine_t *e)
{
    const run_result_t no_more = {.index = RUN_NO_MORE};
    uint32_t first = weft_plan_num_trainers(e->job->plan), tp = weft_plan_tp(e->job->plan);
    for (uint32_t leader = first + tp; leader < e->job->num_ranks; leader += tp)
        MPI_Send(&no_more, sizeof no_more, MPI_BYTE, (int)leader, RUN_TAG_RESULT, e->job->world);
    e->over = true;
}

/* Some rank was signalled: the version in hand is the last. Leaders hear so from the trainers, behind its
 * outcome; or from here, when the trainers have nothing left to publish and listen no more. */
static void stop_after_this(engine_t *e)
{
    int told = 0;
    if (!e->first_replica || e->stopping || e->concluded != e->asked)
        return;
    MPI_Iprobe(MPI_ANY_SOURCE, RUN_TAG_STOP, e->job->world, &told, MPI_STATUS_IGNORE);
    if (!told && !stop_asked())
        return;
    e->stopping = true;
    if (is_over(e))
        tell_leaders(e);
    else
        tell_trainers(e, RUN_NO_MORE);
}

static uint32_t argmax(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static engine_command_t next_token(engine_t *e)
{
    engine_command_t command = {.order = ORDER_STEP};
    const char *prompt = e->job->options.prompt;
    if (!e->decoder)
        return command;
    if (decoder_position(e->decoder) == MAX_TOKENS) {
        end_line(e);
        e->prompt_at = 0;
        command.reset = 1;
    }
    if (e->prompt_at < strlen(prompt))
        command.token = (uint8_t)prompt[e->prompt_at++];
    else
        command.token = argmax(e->logits, decoder_vocab(e->decoder));
    return command;
}

static void keep_pace(engine_t *e)
{
    if (e->job->options.pace <= 0)
        return;
    uint64_t now = weft_now_us();
    if (e->paced_us > now)
        weft_sleep_us(e->paced_us - now);
    e->paced_us = (e->paced_us > now ? e->paced_us : now) + (uint64_t)(1e6 / e->job->options.pace);
}

/* Decode; when enough was decoded on a concluded version, score it, then ask for the next or stop. */
static engine_command_t decide(engine_t *e)
{
    hear_results(e);
    stop_after_this(e);
    if (e->over)
        return (engine_command_t){.order = ORDER_STOP};
    bool rested = !e->stopping && e->concluded == e->asked && e->tokens_on_version >= e->job->options.tokens;
    if (rested && e->eval_text && e->first_replica && !e->scored) {
        e->scored = true;
        return (engine_command_t){.order = ORDER_SCORE, .record = (uint32_t)e->version - 1};
    }
    if (rested && e->concluded == e->job->num_versions)
        return (engine_command_t){.order = ORDER_STOP};
    if (rested && strcmp(e->job->options.swap, "layerwise") == 0)
        return (engine_command_t){.order = ORDER_RENEW};
    if (rested)
        ask_for_next(e);
    keep_pace(e);
    e->tokens_on_version++;
    return next_token(e);
}

/* Whether this rank could run a step: some version is live, and whole. */
static bool can_serve(engine_t *e, uint64_t version)
{
    uint64_t deadline = weft_now_us() + STEP_TIMEOUT_US;
    weft_status_t status =
        version ? weft_rollout_wait(e->rollout, version, STEP_TIMEOUT_US, NULL) : WEFT_ERR_NOT_READY;
    if (status != WEFT_OK)
        return false;
    while ((status = weft_rollout_resume(e->rollout, NULL)) == WEFT_ERR_NOT_READY && weft_now_us() < deadline)
        weft_sleep_us(200); /* it has not heard yet that the version is given up */
    return status == WEFT_OK;
}

/* All ranks go on, or none: one that nothing was written on yet pauses again, for the next version waits for
 * it. */
static bool replica_can_serve(engine_t *e, uint64_t version)
{
    int mine = can_serve(e, version), all;
    weft_error_t error;
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, e->job->replica);
    if (!all && weft_rollout_pause(e->rollout, &error) != WEFT_OK)
        run_abort(e->job, &error);
    return all;
}

typedef struct verdict {
    uint32_t concluded, over; /* what was asked for has an outcome; nothing is left to ask for */
    uint64_t live;
} verdict_t;

static verdict_t look_for_outcome(engine_t *e)
{
    weft_rollout_status_t status;
    hear_results(e);
    stop_after_this(e);
    weft_rollout_get_status(e->rollout, &status);
    if (status.phase == WEFT_ROLLOUT_LOST)
        run_abort(e->job,
                  &(weft_error_t){WEFT_ERR_PEER_LOST, "the replica lost a rank before a version was live"});
    return (verdict_t){e->concluded == e->asked || e->over, is_over(e), status.live_version};
}

/* Wait, with no step open, until what was asked for has come; ask on while nothing can serve. */
static bool await_version(engine_t *e, weft_error_t *error)
{
    for (;;) {
        verdict_t verdict = {0};
        if (e->leader)
            verdict = look_for_outcome(e);
        MPI_Bcast(&verdict, sizeof verdict, MPI_BYTE, 0, e->job->replica);
        if (verdict.concluded && replica_can_serve(e, verdict.live))
            return true;
        if (verdict.concluded && verdict.over) {
            weft_fail(error, WEFT_ERR_NOT_READY, "no version could be applied");
            return false;
        }
        if (verdict.concluded && e->leader && !e->stopping)
            ask_for_next(e);
        weft_sleep_us(500);
    }
}

/* The first version that does not fail is waited for without a step open: the replica is parked. */
static bool wait_for_first(engine_t *e, weft_error_t *error)
{
    e->asked = 1;
    return await_version(e, error);
}

/* Swap layerwise: all ranks stop after the same step, and the next version is written over the weights. */
static bool renew(engine_t *e, weft_error_t *error)
{
    if (weft_rollout_pause(e->rollout, error) != WEFT_OK)
        run_abort(e->job, error);
    if (e->leader)
        ask_for_next(e);
    return await_version(e, error);
}

/* ---- the loop ---- */

static bool serve(engine_t *e, weft_error_t *error)
{
    for (;;) {
        engine_command_t command;
        run_tell_stop(e->job);
        if (e->leader)
            command = decide(e);
        MPI_Bcast(&command, sizeof command, MPI_BYTE, 0, e->job->replica);
        if (command.order == ORDER_STOP)
            return true;
        if (command.order == ORDER_RENEW) {
            if (!renew(e, error))
                return false;
            continue;
        }
        if (command.order == ORDER_SCORE) {
            score(e, command.record);
            continue;
        }
        decode_token(e, &command);
        show_token(e, command.token);
        if (!e->job->account.rss_early_bytes)
            run_sample_memory(e->job, e->version);
    }
}

static weft_status_t read_eval(engine_t *e, weft_error_t *error)
{
    const char *path = e->job->options.eval;
    if (!path)
        return WEFT_OK;
    FILE *file = fopen(path, "rb");
    if (!file)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be read", path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    e->eval_size = size > 0 ? (size_t)size : 0;
    if (e->job->options.eval_bytes && e->job->options.eval_bytes < e->eval_size)
        e->eval_size = e->job->options.eval_bytes;
    e->eval_text = malloc(e->eval_size + 1);
    bool whole =
        e->eval_text && e->eval_size > 1 && fread(e->eval_text, 1, e->eval_size, file) == e->eval_size;
    fclose(file);
    return whole
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_IO, "%s cannot be read whole, or holds fewer than 2 bytes", path);
}

/* Start from disk. What fails here is as a version that was published and failed: the next may go through. */
static weft_status_t load_first(engine_t *e, weft_error_t *error)
{
    run_job_t *job = e->job;
    weft_error_t why = {.message = ""};
    if (job->num_loaded == 0)
        return WEFT_OK;
    WEFT_TRY(weft_rollout_load(e->rollout, job->options.load, 1, error));
    weft_status_t status = weft_rollout_wait(e->rollout, 1, 2 * job->options.timeout_us, &why);
    weft_status_group_t group = weft_status_group(status);
    if (status != WEFT_OK && group != WEFT_STATUS_GROUP_VERSION && group != WEFT_STATUS_GROUP_ARGUMENT) {
        *error = why;
        return status;
    }
    if (status != WEFT_OK && e->leader && e->first_replica)
        fprintf(stderr, "\nweft run: %s\n", why.message);
    job->records[0].failed = status != WEFT_OK;
    e->concluded = 1;
    e->scored = status != WEFT_OK;
    return WEFT_OK;
}

/* Replace each tensor's live address by a copy in host memory, one allocation for all; NULL on the host. */
static weft_status_t fetch_live(run_job_t *job, weft_tensor_t *tensors, uint32_t count, uint8_t **copies,
                                weft_error_t *error)
{
    uint64_t bytes = 0;
    *copies = NULL;
    if (job->queue->ops->on_host)
        return WEFT_OK;
    for (uint32_t i = 0; i < count; i++)
        bytes += tensors[i].bytes;
    *copies = malloc(bytes + 1);
    if (!*copies)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a dump");
    uint8_t *next = *copies;
    for (uint32_t i = 0; i < count; i++) {
        weft_status_t status = job->queue->ops->read(job->queue, tensors[i].data, next, tensors[i].bytes);
        if (status != WEFT_OK)
            return weft_fail(error, status, "tensor %s could not be read from its GPU: %s", tensors[i].name,
                             weft_status_text(status));
        tensors[i].data = next;
        next += tensors[i].bytes;
    }
    return WEFT_OK;
}

weft_status_t run_dump(run_job_t *job, const weft_rollout_t *rollout, weft_error_t *error)
{
    uint32_t count = weft_rollout_num_tensors(rollout);
    weft_rollout_stats_t stats;
    weft_tensor_t *tensors = malloc((count + 1) * sizeof *tensors);
    if (!tensors)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a dump");
    for (uint32_t i = 0; i < count; i++)
        tensors[i] = weft_rollout_tensor(rollout, i);
    weft_rollout_get_stats(rollout, &stats);
    uint8_t *copies;
    weft_status_t status = fetch_live(job, tensors, count, &copies, error);
    if (status == WEFT_OK)
        status = weft_kernel_file_write(job->options.dump, job->rank - weft_plan_num_trainers(job->plan),
                                        tensors, count, job->plan, stats.digest, error);
    free(copies);
    free(tensors);
    return status;
}

static weft_status_t live(engine_t *e, engine_links_t *links, weft_error_t *error)
{
    run_job_t *job = e->job;
    weft_rollout_config_t config = WEFT_ROLLOUT_CONFIG;
    config.swap = job->options.swap;
    for (uint32_t i = 0; i < job->num_versions; i++)
        job->records[i].bits_per_byte = NAN;
    WEFT_TRY(read_eval(e, error));
    WEFT_TRY(weft_rollout_create(job->session, &config, &e->rollout, error));
    weft_session_place(job->session, job->account.place, sizeof job->account.place);
    *links = (engine_links_t){job->plan, e->rollout, job->replica};
    WEFT_TRY(make_decoder(e, links, error));
    WEFT_TRY(load_first(e, error));
    if (!wait_for_first(e, error))
        return error->status;
    if (!serve(e, error))
        return error->status;
    end_line(e);
    run_sample_memory(job, e->version);
    return job->options.dump ? run_dump(e->job, e->rollout, error) : WEFT_OK;
}

int run_rollout(run_job_t *job)
{
    uint32_t place = job->rank - weft_plan_num_trainers(job->plan), tp = weft_plan_tp(job->plan);
    engine_t e = {.job = job, .leader = place % tp == 0, .first_replica = place < tp};
    engine_links_t links;
    weft_error_t error = {.message = ""};
    weft_status_t status = live(&e, &links, &error);
    if (status != WEFT_OK && status != WEFT_ERR_NOT_READY)
        run_abort(job, &error);
    if (status != WEFT_OK && e.leader && e.first_replica)
        fprintf(stderr, "weft run: %s\n", error.message);
    decoder_destroy(e.decoder);
    weft_rollout_destroy(e.rollout);
    free(e.logits);
    free(e.eval_text);
    return status == WEFT_OK ? EXIT_OK : EXIT_CHECK_FAILED;
}
