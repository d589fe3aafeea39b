/* What the subcommands of `weft bench` share: series of times, the table and its JSON, weight-like data.
 *
 * A table is `#` lines that say what ran where, a line of titles, a line of units, and rows; the same rows go
 * to the file of
 * --json. Times are P50 and P99 over rounds, in which what is measured and what it is measured against take
 * turns. */
#ifndef WEFT_LAUNCH_BENCH_H
#define WEFT_LAUNCH_BENCH_H

#include <stdio.h>

#include "kernels/queue.h"
#include "src/base/array.h"

int command_bench_quantize(int argc, char **argv);
int command_bench_swap(int argc, char **argv);
int command_bench_broadcast(int argc, char **argv);
int command_bench_sync(int argc, char **argv);

/* ---- series ---- */

typedef WEFT_ARRAY(double) bench_series_t;

void bench_series_add(bench_series_t *series, double value);
void bench_series_free(bench_series_t *series);

/* The smallest value that at least `share` of the series do not exceed; NaN of an empty one. Sorts. */
double bench_percentile(bench_series_t *series, double share);

/* ---- report ---- */

#define BENCH_TEXT (-1) /* digits of a column that holds words */

typedef struct bench_column {
    const char *key, *unit; /* title and name in JSON; what its numbers are */
    int width, digits;
} bench_column_t;

typedef struct bench_value {
    double number; /* NaN: not measured, "-" and null */
    const char *text;
} bench_value_t;

#define BENCH_NUMBER(value) ((bench_value_t){.number = (double)(value)})
#define BENCH_WORD(value)   ((bench_value_t){.text = (value)})

typedef struct bench_report {
    FILE *json;  /* NULL without one */
    bool silent; /* another rank speaks */
    const bench_column_t *columns;
    unsigned num_columns, num_tables, num_rows;
    double wrong; /* over all rows */
} bench_report_t;

typedef struct bench_title {
    const char *name;    /* of the subcommand */
    const char *place;   /* on what it runs */
    const char *options; /* as given */
    const char *json;    /* a path, or NULL */
    bool silent;
} bench_title_t;

/* Print what runs; open the file. **Returns** WEFT_OK, WEFT_ERR_IO. */
weft_status_t bench_report_open(bench_report_t *report, const bench_title_t *title, weft_error_t *error);

/* Add a `#` line. */
void bench_report_note(const bench_report_t *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Begin a table, whose rows are `key` in JSON; a column "#wrong" counts into the exit code. */
void bench_report_table(bench_report_t *report, const char *key, const bench_column_t *columns,
                        unsigned count);
void bench_report_row(bench_report_t *report, const bench_value_t *values);

/* End. **Returns** the exit code: 0, 1 where anything was wrong. */
int bench_report_close(bench_report_t *report);

/* ---- what is measured ---- */

/* Join the arguments of a command into one line. */
const char *bench_join(int argc, char **argv, char *line, size_t bytes);

/* Name where a queue's work runs: the processor, or the GPU. */
const char *bench_place(const char *queue, int device, char *text, size_t bytes);

/* "cuda" where there is a GPU, else "host"; a name that was given stays. */
const char *bench_memory(const char *given);

/* Cut the next word off a list "a,b,c"; false at its end. */
bool bench_next_word(const char **list, char *word, size_t bytes);

/* Give what was started a ticket and wait for it. */
weft_status_t bench_settle(weft_queue_t *queue);

/* Weight-like numbers, bf16 of about a normal distribution of sigma 0.02: a block of them, read round and
 * round. Number i of what begins at `from` is the same wherever it is asked for, so that two ranks can make
 * the same tensor each for itself. */
typedef struct bench_random {
    uint16_t *elems;
    uint64_t count;
} bench_random_t;

/* Make a block no larger than `most` numbers need. */
weft_status_t bench_random_create(bench_random_t *random, uint64_t most, weft_error_t *error);
void bench_random_destroy(bench_random_t *random);

/* Where tensor `index` begins; another seed is another version. */
uint64_t bench_random_start(const bench_random_t *random, uint64_t index, uint64_t seed);

/* Write `count` numbers from place `from` on, to host memory or to a queue's. */
void bench_random_copy(const bench_random_t *random, uint64_t from, uint64_t count, uint16_t *out);
weft_status_t bench_random_write(const bench_random_t *random, uint64_t from, uint64_t count,
                                 weft_queue_t *queue, void *out);

/* Bytes that differ. */
double bench_compare(const void *found, const void *expected, size_t bytes);

/* Bytes of a queue's memory that differ from what bench_random_write has put there. */
weft_status_t bench_random_check(const bench_random_t *random, uint64_t from, uint64_t count,
                                 weft_queue_t *queue, const void *memory, double *wrong);

#endif
