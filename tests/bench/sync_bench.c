/* Update time against a bare broadcast of the same bytes: the same routes, buckets and order, contiguous and
 * preallocated, in interleaved runs. "update" ends when every rollout rank is prepared, quantized and
 * digested; the swap is not in it.
 *
 *     mpirun -n 2 sync_bench [--trainer fsdp:1] [--rollout tp:1] [--scheme fp8-block] [--layers 1] [--hidden
 * 4096]
 *                            [--intermediate 12288] [--rounds 9] [--max-groups 16] [--budget 256MiB] */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <weft/weft.h>

#include "launch/weft/options.h"
#include "src/base/clock.h"
#include "src/plan/program.h"
#include "src/session_private.h"

typedef struct bench {
    const char *trainer, *rollout, *scheme;
    uint32_t layers, hidden, intermediate, rounds, max_groups;
    uint64_t budget;
    int rank, size;
    weft_model_t *model;
    weft_plan_t *plan;
    weft_transport_t *transport;
    weft_session_t *session;
    weft_program_t *program;
    weft_outputs_t outputs;
    uint8_t *buffer; /* all buckets of this rank side by side */
    weft_op_t **ops;
} bench_t;

static void check(weft_status_t status, const weft_error_t *error)
{
    if (status == WEFT_OK)
        return;
    fprintf(stderr, "sync_bench: %s: %s\n", weft_status_name(status), error->message);
    MPI_Abort(MPI_COMM_WORLD, EXIT_ENVIRONMENT);
}

static void add(bench_t *b, const char *name, uint64_t rows, uint64_t cols)
{
    weft_error_t error;
    uint64_t shape[2] = {rows, cols};
    check(weft_model_add(b->model, name, WEFT_DTYPE_BF16, cols ? shape : &rows, cols ? 2 : 1, &error),
          &error);
}

/* A Qwen3 of `layers` blocks with real layer shapes and a small vocabulary. */
static void make_model(bench_t *b)
{
    char config[512], name[128];
    weft_error_t error;
    uint32_t heads = b->hidden / 128, kv = heads / 4 ? heads / 4 : 1;
    snprintf(config, sizeof config,
             "{\"model_type\": \"qwen3\", \"num_hidden_layers\": %u, \"hidden_size\": %u, "
             "\"intermediate_size\": %u, \"num_attention_heads\": %u, "
             "\"num_key_value_heads\": %u, \"head_dim\": 128, \"vocab_size\": 1024, \"tie_word_embeddings\": "
             "false}",
             b->layers, b->hidden, b->intermediate, heads, kv);
    check(weft_model_create(config, &b->model, &error), &error);
    add(b, "model.embed_tokens.weight", 1024, b->hidden);
    add(b, "model.norm.weight", b->hidden, 0);
    add(b, "lm_head.weight", 1024, b->hidden);
    const struct {
        const char *leaf;
        uint64_t rows, cols;
    } parts[] = {{"input_layernorm", b->hidden, 0},
                 {"post_attention_layernorm", b->hidden, 0},
                 {"self_attn.q_proj", heads * 128, b->hidden},
                 {"self_attn.k_proj", kv * 128, b->hidden},
                 {"self_attn.v_proj", kv * 128, b->hidden},
                 {"self_attn.q_norm", 128, 0},
                 {"self_attn.k_norm", 128, 0},
                 {"self_attn.o_proj", b->hidden, heads * 128},
                 {"mlp.gate_proj", b->intermediate, b->hidden},
                 {"mlp.up_proj", b->intermediate, b->hidden},
                 {"mlp.down_proj", b->hidden, b->intermediate}};
    for (uint32_t l = 0; l < b->layers; l++)
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, parts[i].leaf);
            add(b, name, parts[i].rows, parts[i].cols);
        }
}

static void make_plan(bench_t *b)
{
    weft_error_t error;
    weft_layout_t *trainer, *rollout;
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    options.max_groups = b->max_groups;
    options.budget_bytes = b->budget;
    check(weft_layout_parse(b->trainer, WEFT_SIDE_TRAINER, &trainer, &error), &error);
    check(weft_layout_parse(b->rollout, WEFT_SIDE_ROLLOUT, &rollout, &error), &error);
    check(weft_plan_create(b->model, trainer, rollout, b->scheme, &options, &b->plan, &error), &error);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
}

static void open_session(bench_t *b)
{
    weft_error_t error;
    MPI_Comm world = MPI_COMM_WORLD;
    weft_transport_config_t transport = WEFT_TRANSPORT_CONFIG;
    transport.mpi_comm = &world;
    check(weft_transport_open("mpi", &transport, &b->transport, &error), &error);
    weft_session_config_t config = WEFT_SESSION_CONFIG;
    config.plan = b->plan;
    config.transport = b->transport;
    check(weft_session_open(&config, &b->session, &error), &error);
    if (!weft_session_is_trainer(b->session))
        weft_outputs_create(b->plan,
                            ((uint32_t)b->rank - weft_plan_num_trainers(b->plan)) % weft_plan_tp(b->plan),
                            &b->outputs);
    weft_program_create(b->plan, (uint32_t)b->rank, &b->outputs, &b->program);
    size_t bytes = 0;
    for (size_t i = 0; i < b->program->num_buckets; i++)
        bytes += b->program->buckets[i].bytes;
    b->buffer = malloc(bytes + 1);
    memset(b->buffer, 1, bytes + 1);
    b->ops = calloc(b->program->num_buckets + 1, sizeof *b->ops);
}

/* Start every bucket's broadcast at once and wait for all. Direct routes only. */
static double bare(bench_t *b)
{
    const weft_transport_ops_t *ops = weft_transport_table(b->transport);
    weft_error_t error;
    size_t offset = 0, open = b->program->num_buckets;
    MPI_Barrier(MPI_COMM_WORLD);
    uint64_t start = weft_now_us();
    for (size_t i = 0; i < b->program->num_buckets; i++) {
        const weft_bucket_t *bucket = &b->program->buckets[i];
        weft_status_t status = ops->broadcast_start(b->transport, b->session->groups[bucket->route], 0,
                                                    b->buffer + offset, bucket->bytes, &b->ops[i]);
        check(status, &(weft_error_t){status, "a broadcast could not be started"});
        offset += bucket->bytes;
    }
    while (open) {
        for (size_t i = 0; i < b->program->num_buckets; i++) {
            bool done = false;
            if (!b->ops[i])
                continue;
            check(ops->test(b->transport, b->ops[i], &done, &error), &error);
            if (done) {
                b->ops[i] = NULL;
                open--;
            }
        }
        sched_yield();
    }
    double mine = (double)(weft_now_us() - start), most;
    MPI_Allreduce(&mine, &most, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return most;
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return values[count / 2];
}

static void fill_random(uint16_t *data, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        data[i] = (uint16_t)(0x3800 + (seed >> 53)) ^ (uint16_t)(seed >> 48 & 0x8000);
    }
}

static void bind_all(bench_t *b, weft_trainer_t *trainer)
{
    weft_error_t error;
    for (uint32_t i = 0; i < weft_model_num_tensors(b->model); i++) {
        const weft_tensor_t *tensor = weft_model_tensor(b->model, i);
        weft_box_t box;
        check(weft_trainer_box(trainer, tensor->name, &box),
              &(weft_error_t){WEFT_ERR_INTERNAL, "a tensor is not in the plan"});
        size_t count = box.extent[0] * (box.num_dims > 1 ? box.extent[1] : 1);
        if (count == 0)
            continue;
        uint16_t *data = aligned_alloc(64, (count * 2 + 63) / 64 * 64);
        fill_random(data, count, i + 1);
        check(weft_trainer_bind(trainer, tensor->name, data, 0, &error), &error);
    }
}

typedef struct update_times {
    double prepare, quantize, digest;
} update_times_t;

/* One version, from publish to applied; the times are the slowest rollout rank's. */
static update_times_t update(weft_trainer_t *trainer, weft_rollout_t *rollout, uint64_t version)
{
    weft_error_t error;
    weft_rollout_stats_t stats = {0};
    MPI_Barrier(MPI_COMM_WORLD);
    if (trainer) {
        check(weft_trainer_publish(trainer, version, &error), &error);
        check(weft_trainer_wait(trainer, version, WEFT_PUBLISH_APPLIED, 60000000, &error), &error);
    } else {
        check(weft_rollout_wait(rollout, version, 60000000, &error), &error);
        weft_rollout_get_stats(rollout, &stats);
    }
    double mine[3] = {(double)stats.prepare_us, (double)stats.quantize_us, (double)stats.digest_us}, most[3];
    MPI_Allreduce(mine, most, 3, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return (update_times_t){most[0], most[1], most[2]};
}

static void print_table(const bench_t *b, double bare_us, double update_us, double quantize_us,
                        double digest_us)
{
    weft_plan_summary_t plan;
    weft_plan_summarize(b->plan, &plan);
    double bytes = (double)plan.ingress_bytes_max;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    printf("# sync_bench: trainer %s, rollout %s, %s; qwen3 shapes, hidden %u, %u layers; mpi, host memory\n",
           b->trainer, b->rollout, b->scheme, b->hidden, b->layers);
    printf("# %d ranks on %ld cores: %ld cores free for quantizers; P50 of %u interleaved rounds; the "
           "slowest rank counts\n",
           b->size, cores, cores > b->size ? cores - b->size : 0L, b->rounds);
    printf("# %12s %12s %12s %12s %12s %12s %8s\n", "bytes/rank", "bare ms", "bare GB/s", "update ms",
           "quantize ms", "digest ms", "ratio");
    printf("  %12.0f %12.2f %12.2f %12.2f %12.2f %12.2f %8.2f\n", bytes, bare_us / 1e3, bytes / bare_us / 1e3,
           update_us / 1e3, quantize_us / 1e3, digest_us / 1e3, update_us / bare_us);
}

static void measure(bench_t *b, weft_trainer_t *trainer, weft_rollout_t *rollout)
{
    double *columns[4];
    for (int i = 0; i < 4; i++)
        columns[i] = calloc(b->rounds + 1, sizeof(double));
    for (uint32_t round = 0; round <= b->rounds; round++) { /* the first warms up */
        double bare_us = bare(b);
        update_times_t times = update(trainer, rollout, round + 1);
        if (round == 0)
            continue;
        columns[0][round - 1] = bare_us;
        columns[1][round - 1] = times.prepare;
        columns[2][round - 1] = times.quantize;
        columns[3][round - 1] = times.digest;
    }
    if (b->rank == 0)
        print_table(b, median(columns[0], b->rounds), median(columns[1], b->rounds),
                    median(columns[2], b->rounds), median(columns[3], b->rounds));
    for (int i = 0; i < 4; i++)
        free(columns[i]);
}

static int parse(bench_t *b, int argc, char **argv)
{
    const option_row_t rows[] = {
        {"trainer", OPTION_TEXT, &b->trainer, "LAYOUT", "trainer layout (default fsdp:1)"},
        {"rollout", OPTION_TEXT, &b->rollout, "LAYOUT", "rollout layout (default tp:1)"},
        {"scheme", OPTION_TEXT, &b->scheme, "NAME", "scheme (default fp8-block)"},
        {"layers", OPTION_COUNT, &b->layers, "N", "transformer blocks (default 1)"},
        {"hidden", OPTION_COUNT, &b->hidden, "N", "hidden size, a multiple of 512 (default 4096)"},
        {"intermediate", OPTION_COUNT, &b->intermediate, "N", "MLP width (default 12288)"},
        {"rounds", OPTION_COUNT, &b->rounds, "N", "interleaved rounds (default 9)"},
        {"max-groups", OPTION_COUNT, &b->max_groups, "N", "communicators a rank (default 1000)"},
        {"budget", OPTION_BYTES, &b->budget, "BYTES", "staging (default 256MiB)"},
    };
    const command_spec_t spec = {.name = "sync_bench",
                                 .synopsis = "[options]",
                                 .about = "Update time over a bare broadcast of the same bytes.",
                                 .options = rows,
                                 .num_options = sizeof rows / sizeof rows[0],
                                 .positional_names = ""};
    const char *none[1];
    unsigned count;
    return options_parse(&spec, argc, argv, b->rank != 0, none, &count);
}

int main(int argc, char **argv)
{
    int provided;
    bench_t b = {.trainer = "fsdp:1",
                 .rollout = "tp:1",
                 .scheme = "fp8-block",
                 .layers = 1,
                 .hidden = 4096,
                 .intermediate = 12288,
                 .rounds = 9,
                 .max_groups = 1000,
                 .budget = 256u << 20};
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &b.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &b.size);
    int code = parse(&b, argc, argv);
    if (code >= 0) {
        MPI_Finalize();
        return code;
    }
    make_model(&b);
    make_plan(&b);
    open_session(&b);
    weft_error_t error;
    weft_trainer_t *trainer = NULL;
    weft_rollout_t *rollout = NULL;
    if (weft_session_is_trainer(b.session)) {
        check(weft_trainer_create(b.session, &trainer, &error), &error);
        bind_all(&b, trainer);
    } else {
        check(weft_rollout_create(b.session, NULL, &rollout, &error), &error);
    }
    measure(&b, trainer, rollout);
    weft_trainer_destroy(trainer);
    weft_rollout_destroy(rollout);
    weft_session_close(b.session);
    weft_program_destroy(b.program);
    weft_outputs_destroy(&b.outputs);
    weft_transport_close(b.transport);
    weft_plan_destroy(b.plan);
    weft_model_close(b.model);
    free(b.buffer);
    free(b.ops);
    MPI_Finalize();
    return 0;
}
