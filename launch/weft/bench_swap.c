/* weft bench swap: the stage made live, beside a copy of the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "launch/weft/bench.h"
#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/swap/weights.h"

#define WARM_ROUNDS 2u

typedef struct swap_bench {
    const char *memory, *sizes, *modes, *json;
    uint32_t rounds;
    weft_queue_t *queue;
    bench_random_t random;
    bench_report_t report;
} swap_bench_t;

/* One row. */
typedef struct swap_row {
    const char *mode;
    uint64_t bytes;
    weft_weights_t *weights;
    bench_series_t swap, settle, copy;
    double wrong;
} swap_row_t;

static const bench_column_t columns[] = {
    {"mode", "", 6, BENCH_TEXT}, {"bytes", "B", 12, 0},       {"swap_p50", "us", 10, 1},
    {"swap_p99", "us", 10, 1},   {"settle_p50", "us", 10, 1}, {"copy_p50", "us", 10, 1},
    {"copy_p99", "us", 10, 1},   {"copy_gbs", "GB/s", 9, 1},  {"ratio", "of copy", 8, 3},
    {"#wrong", "B", 8, 0},
};

static weft_status_t fail_queue(const swap_bench_t *b, weft_status_t status, weft_error_t *error)
{
    return weft_fail(error, status, "the %s queue failed: %s", b->queue->ops->name, weft_status_text(status));
}

/* Until the new version may be read; and after that, while steps run on, until the next may be staged. */
static weft_status_t time_swap(const swap_bench_t *b, const swap_row_t *row, double *us, double *settle_us,
                               weft_error_t *error)
{
    uint64_t start = weft_now_ns();
    WEFT_TRY(weft_weights_swap(row->weights, NULL, error));
    weft_status_t status = bench_settle(b->queue);
    uint64_t swapped = weft_now_ns();
    if (status != WEFT_OK)
        return fail_queue(b, status, error);
    WEFT_TRY(weft_weights_settle(row->weights, error));
    *us = (double)(swapped - start) / 1e3;
    *settle_us = (double)(weft_now_ns() - swapped) / 1e3;
    return WEFT_OK;
}

/* Both ranges hold the same afterwards. */
static weft_status_t time_copy(const swap_bench_t *b, const swap_row_t *row, double *us, weft_error_t *error)
{
    uint64_t start = weft_now_ns();
    weft_status_t status = b->queue->ops->engine_copy(b->queue, NULL, weft_weights_live(row->weights, 0),
                                                      weft_weights_stage(row->weights), row->bytes);
    if (status == WEFT_OK)
        status = bench_settle(b->queue);
    *us = (double)(weft_now_ns() - start) / 1e3;
    return status == WEFT_OK ? status : fail_queue(b, status, error);
}

static weft_status_t run_rounds(const swap_bench_t *b, swap_row_t *row, weft_error_t *error)
{
    for (uint32_t round = 0; round < WARM_ROUNDS + b->rounds; round++) {
        double swap_us, settle_us, copy_us;
        WEFT_TRY(time_copy(b, row, &copy_us, error));
        WEFT_TRY(time_swap(b, row, &swap_us, &settle_us, error));
        if (round < WARM_ROUNDS)
            continue;
        bench_series_add(&row->copy, copy_us);
        bench_series_add(&row->swap, swap_us);
        bench_series_add(&row->settle, settle_us);
    }
    return WEFT_OK;
}

/* Another version staged and swapped in: all of the live range must be it. */
/* Another version staged and swapped in: all of the live range must be it. */
static weft_status_t check_version(const swap_bench_t *b, swap_row_t *row, uint64_t version,
                                   weft_error_t *error)
{
    double us, settle_us;
    uint64_t elems = row->bytes / sizeof(uint16_t), from = bench_random_start(&b->random, 0, version);
    weft_status_t status =
        bench_random_write(&b->random, from, elems, b->queue, weft_weights_stage(row->weights));
    if (status != WEFT_OK)
        return fail_queue(b, status, error);
    WEFT_TRY(time_swap(b, row, &us, &settle_us, error));
    status = bench_random_check(&b->random, from, elems, b->queue, weft_weights_live(row->weights, 0),
                                &row->wrong);
    return status == WEFT_OK ? status : fail_queue(b, status, error);
}

static weft_status_t check_swap(const swap_bench_t *b, swap_row_t *row, weft_error_t *error)
{
    WEFT_TRY(check_version(b, row, 1, error));
    return check_version(b, row, 2, error);
}

static void print_row(swap_bench_t *b, swap_row_t *row)
{
    double swap = bench_percentile(&row->swap, 0.5), copy = bench_percentile(&row->copy, 0.5);
    const bench_value_t values[] = {
        BENCH_WORD(row->mode),
        BENCH_NUMBER(row->bytes),
        BENCH_NUMBER(swap),
        BENCH_NUMBER(bench_percentile(&row->swap, 0.99)),
        BENCH_NUMBER(bench_percentile(&row->settle, 0.5)),
        BENCH_NUMBER(copy),
        BENCH_NUMBER(bench_percentile(&row->copy, 0.99)),
        BENCH_NUMBER(2 * (double)row->bytes / copy / 1e3),
        BENCH_NUMBER(swap / copy),
        BENCH_NUMBER(row->wrong),
    };
    bench_report_row(&b->report, values);
}

static weft_status_t run_row(swap_bench_t *b, const char *mode, uint64_t bytes, weft_error_t *error)
{
    swap_row_t row = {.mode = mode, .bytes = bytes};
    WEFT_TRY(weft_weights_create(b->queue, mode, bytes, &row.weights, error));
    weft_status_t status = check_swap(b, &row, error);
    if (status == WEFT_OK)
        status = run_rounds(b, &row, error);
    if (status == WEFT_OK)
        status = check_swap(b, &row, error);
    if (status == WEFT_OK)
        print_row(b, &row);
    bench_series_free(&row.swap);
    bench_series_free(&row.settle);
    bench_series_free(&row.copy);
    weft_weights_destroy(row.weights);
    return status;
}

static weft_status_t run_sizes(swap_bench_t *b, const char *mode, weft_error_t *error)
{
    char word[64];
    for (const char *list = b->sizes; bench_next_word(&list, word, sizeof word);) {
        uint64_t bytes;
        if (options_read_bytes(word, &bytes))
            WEFT_TRY(run_row(b, mode, bytes, error));
    }
    return WEFT_OK;
}

/* All lists are looked at before anything runs. */
static weft_status_t check_lists(const swap_bench_t *b, uint64_t *largest, weft_error_t *error)
{
    char word[64];
    uint64_t bytes;
    for (const char *list = b->modes; bench_next_word(&list, word, sizeof word);) {
        WEFT_TRY(weft_weights_check_mode(word, error));
        if (strcmp(word, "layerwise") == 0)
            return weft_fail(error, WEFT_ERR_ARGUMENT, "swap mode layerwise has nothing to swap: flip or copy");
    }
    for (const char *list = b->sizes; bench_next_word(&list, word, sizeof word);) {
        if (!options_read_bytes(word, &bytes) || bytes < 2 || bytes % 2)
            return weft_fail(error, WEFT_ERR_ARGUMENT,
                             "--sizes expects even sizes such as 64MiB,1GiB, found %s", word);
        *largest = bytes > *largest ? bytes : *largest;
    }
    return b->rounds ? WEFT_OK : weft_fail(error, WEFT_ERR_ARGUMENT, "--samples must not be 0");
}

static weft_status_t run_all(swap_bench_t *b, int argc, char **argv, weft_error_t *error)
{
    char options[1024], place[256], word[64];
    uint64_t largest = 0;
    b->memory = bench_memory(b->memory);
    if (!b->sizes)
        b->sizes = strcmp(b->memory, "host") == 0 ? "16MiB,64MiB,256MiB" : "256MiB,1GiB,8GiB";
    WEFT_TRY(check_lists(b, &largest, error));
    WEFT_TRY(weft_queue_open(b->memory, -1, &b->queue, error));
    b->queue->ops->thread_begin(b->queue);
    WEFT_TRY(bench_random_create(&b->random, largest / 2, error));
    const bench_title_t title = {.name = "swap",
                                 .place = bench_place(b->memory, -1, place, sizeof place),
                                 .options = bench_join(argc, argv, options, sizeof options),
                                 .json = b->json};
    WEFT_TRY(bench_report_open(&b->report, &title, error));
    bench_report_note(&b->report,
                      "%s memory, %u samples; time until the new version may be read, on the host's clock",
                      b->memory, b->rounds);
    bench_report_table(&b->report, "rows", columns, sizeof columns / sizeof columns[0]);
    for (const char *list = b->modes; bench_next_word(&list, word, sizeof word);)
        WEFT_TRY(run_sizes(b, word, error));
    return WEFT_OK;
}

static int parse(swap_bench_t *b, int argc, char **argv)
{
    const option_row_t rows[] = {
        {"memory", OPTION_TEXT, &b->memory, "KIND", "where weights are: host, or cuda (default with a GPU)"},
        {"sizes", OPTION_TEXT, &b->sizes, "LIST",
         "bytes of live weights (default 16MiB to 256MiB; on a GPU to 8GiB)"},
        {"modes", OPTION_TEXT, &b->modes, "LIST", "flip, copy (default: both)"},
        {"samples", OPTION_COUNT, &b->rounds, "N", "swaps of each (default 20)"},
        {"json", OPTION_TEXT, &b->json, "FILE", "write the rows as JSON too"},
    };
    const command_spec_t spec = {
        .name = "bench swap",
        .synopsis = "[--memory KIND] [--sizes LIST] [--modes LIST] [options]",
        .about = "Time a swap: a flip exchanges mappings, a copy moves every byte. Each size takes as much "
                 "memory twice.\n"
                 "What a decode step sees of it on a GPU, drain and graph replay included, "
                 "tests/cuda/bench_swap.cu times.",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    return options_parse(&spec, argc, argv, false, none, &count);
}

int command_bench_swap(int argc, char **argv)
{
    swap_bench_t b = {.modes = "flip,copy", .rounds = 20};
    weft_error_t error;
    int code = parse(&b, argc, argv);
    if (code >= 0)
        return code;
    weft_status_t status = run_all(&b, argc, argv, &error);
    int closed = bench_report_close(&b.report);
    bench_random_destroy(&b.random);
    weft_queue_close(b.queue);
    return status == WEFT_OK ? closed : report_error("bench swap", &error);
}
