/* Series of times, and the table that they end in. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "launch/weft/bench.h"
#include "launch/weft/options.h"
#include "src/base/error.h"
#include "src/base/text.h"

/* ---- series ---- */

/* A value that finds no memory is left out: the others still tell. */
void bench_series_add(bench_series_t *series, double value)
{
    (void)WEFT_ARRAY_PUSH(series, value);
}

void bench_series_free(bench_series_t *series)
{
    WEFT_ARRAY_FREE(series);
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

double bench_percentile(bench_series_t *series, double share)
{
    if (series->count == 0)
        return NAN;
    qsort(series->items, series->count, sizeof *series->items, compare_doubles);
    size_t rank = (size_t)ceil(share * (double)series->count);
    return series->items[rank > 0 ? rank - 1 : 0];
}

/* ---- the head ---- */

static void json_string(FILE *file, const char *value)
{
    weft_text_t text = {0};
    weft_text_add_json_string(&text, value);
    fputs(text.data ? text.data : "\"\"", file);
    weft_text_free(&text);
}

static void json_head(FILE *file, const bench_title_t *title, const char *date)
{
    fprintf(file, "{\n  \"bench\": \"%s\", \"version\": \"%s\", \"date\": \"%s\", \"place\": ", title->name,
            WEFT_VERSION, date);
    json_string(file, title->place);
    fprintf(file, ", \"options\": ");
    json_string(file, title->options);
}

weft_status_t bench_report_open(bench_report_t *report, const bench_title_t *title, weft_error_t *error)
{
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    *report = (bench_report_t){.silent = title->silent};
    if (title->silent)
        return WEFT_OK;
    if (title->json && !(report->json = fopen(title->json, "w")))
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be written: %s", title->json, strerror(errno));
    if (report->json)
        json_head(report->json, title, date);
    printf("# weft bench %s, weft %s, %s\n# on %s\n# options%s\n", title->name, WEFT_VERSION, date,
           title->place, title->options);
    return WEFT_OK;
}

void bench_report_note(const bench_report_t *report, const char *format, ...)
{
    if (report->silent)
        return;
    va_list arguments;
    va_start(arguments, format);
    printf("# ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

/* ---- tables ---- */

static void print_titles(const bench_column_t *columns, unsigned count, bool units)
{
    for (unsigned i = 0; i < count; i++) {
        const char *text = units ? columns[i].unit : columns[i].key;
        int width = columns[i].width, side = columns[i].digits == BENCH_TEXT ? -width : width;
        printf(i ? " %*s" : "# %*s", side, text);
    }
    printf("\n");
}

void bench_report_table(bench_report_t *report, const char *key, const bench_column_t *columns,
                        unsigned count)
{
    if (report->silent)
        return;
    printf("#\n");
    print_titles(columns, count, false);
    print_titles(columns, count, true);
    if (report->json)
        fprintf(report->json, "%s,\n  \"%s\": [", report->num_tables ? "]" : "", key);
    report->columns = columns;
    report->num_columns = count;
    report->num_tables++;
    report->num_rows = 0;
}

static void print_value(const bench_column_t *column, const bench_value_t *value, bool first)
{
    printf("%s", first ? "  " : " ");
    if (value->text)
        printf("%*s", column->digits == BENCH_TEXT ? -column->width : column->width, value->text);
    else if (isnan(value->number))
        printf("%*s", column->digits == BENCH_TEXT ? -column->width : column->width, "-");
    else
        printf("%*.*f", column->width, column->digits, value->number);
}

static void json_value(FILE *file, const bench_column_t *column, const bench_value_t *value)
{
    fprintf(file, "\"%s\": ", column->key[0] == '#' ? column->key + 1 : column->key);
    if (value->text)
        json_string(file, value->text);
    else if (isnan(value->number) || isinf(value->number))
        fprintf(file, "null");
    else
        fprintf(file, "%.9g", value->number);
}

void bench_report_row(bench_report_t *report, const bench_value_t *values)
{
    for (unsigned i = 0; i < report->num_columns && !report->silent; i++) {
        print_value(&report->columns[i], &values[i], i == 0);
        if (report->json)
            fprintf(report->json, "%s", i ? ", " : report->num_rows ? ",\n    {" : "\n    {");
        if (report->json)
            json_value(report->json, &report->columns[i], &values[i]);
        if (strcmp(report->columns[i].key, "#wrong") == 0 && !isnan(values[i].number))
            report->wrong += values[i].number;
    }
    if (report->silent)
        return;
    if (report->json)
        fprintf(report->json, "}");
    printf("\n");
    fflush(stdout);
    report->num_rows++;
}

int bench_report_close(bench_report_t *report)
{
    bool written = true;
    if (report->json) {
        fprintf(report->json, "%s}\n", report->num_tables ? "]" : "");
        written = !ferror(report->json) & (fclose(report->json) == 0);
    }
    report->json = NULL;
    if (!written) {
        fprintf(stderr, "weft bench: the JSON file could not be written whole\n");
        return EXIT_ENVIRONMENT;
    }
    return report->wrong > 0 ? EXIT_CHECK_FAILED : EXIT_OK;
}
