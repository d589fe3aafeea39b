/* The closing table of the main job, and the same as JSON. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/options.h"
#include "launch/weft/run.h"
#include "src/base/text.h"

#define SHOWN_VERSIONS 12u

/* Everything that rank 0 gathered. */
typedef struct gathered {
    run_job_t *job;
    run_account_t *accounts; /* [ranks] */
    run_record_t *records;   /* [ranks][versions] */
    uint32_t trainers;
} gathered_t;

/* One version over all rollout ranks: sums of bytes, the worst of times. */
typedef struct version_line {
    uint64_t payload, needed, wire, receive_us, quantize_us, update_us, swap_us, pause_us, at_step;
    uint32_t tokens;
    double bits;
    bool failed, loaded;
} version_line_t;

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static version_line_t line_of(const gathered_t *g, uint32_t version)
{
    version_line_t line = {.bits = NAN};
    for (uint32_t rank = g->trainers; rank < g->job->num_ranks; rank++) {
        const run_record_t *record = &g->records[(size_t)rank * g->job->num_versions + version];
        line.payload += record->stats.payload_bytes;
        line.needed += record->stats.needed_bytes;
        line.wire += record->stats.wire_bytes;
        line.receive_us = larger(line.receive_us, record->stats.receive_us);
        line.quantize_us = larger(line.quantize_us, record->stats.quantize_us);
        line.update_us = larger(line.update_us, record->stats.update_us);
        line.swap_us = larger(line.swap_us, record->stats.swap_us);
        line.pause_us = larger(line.pause_us, record->stats.pause_us);
        if (rank == g->trainers) {
            line.at_step = record->stats.at_step;
            line.tokens = record->tokens_during;
            line.bits = record->bits_per_byte;
        }
        line.failed |= record->failed != 0;
        line.loaded |= record->stats.loaded;
    }
    return line;
}

static double factor(uint64_t payload, uint64_t needed)
{
    return needed ? (double)payload / (double)needed : NAN;
}

static void print_line(uint32_t version, const version_line_t *line, const char *dir, bool in_place)
{
    if (line->failed) {
        printf("%8u  failed; %-74s %s\n", version,
               in_place ? "nothing serves until a whole version has come"
                        : "what was live before it serves on",
               dir);
        return;
    }
    char bits[16] = "-";
    if (!isnan(line->bits))
        snprintf(bits, sizeof bits, "%.4f", line->bits);
    if (line->loaded)
        printf("%8u %9s %6s", version, "from disk", "-");
    else
        printf("%8u %9.2f %6.2f", version, (double)line->payload / 1048576,
               factor(line->payload, line->needed));
    printf(" %9.2f %9.2f %9.2f %8.3f %8.3f %7u %9llu %8s  %s\n", (double)line->receive_us / 1e3,
           (double)line->quantize_us / 1e3, (double)line->update_us / 1e3, (double)line->swap_us / 1e3,
           (double)line->pause_us / 1e3, line->tokens, (unsigned long long)line->at_step, bits, dir);
}

static void print_versions(const gathered_t *g)
{
    printf("#version  received   over   receive  quantize    update     swap    pause  tokens   at step     "
           "bits  checkpoint\n");
    printf("#              MiB needed        ms        ms        ms       ms       ms  during            a "
           "byte\n");
    for (uint32_t v = 0; v < g->job->num_versions; v++) {
        if (g->job->num_versions > SHOWN_VERSIONS && v == SHOWN_VERSIONS / 2) {
            v = g->job->num_versions - SHOWN_VERSIONS / 2;
            printf("    ...\n");
        }
        version_line_t line = line_of(g, v);
        print_line(v + 1, &line, run_source(g->job, v), strcmp(g->job->options.swap, "layerwise") == 0);
    }
}

typedef struct totals {
    uint64_t steps, torn, payload, needed, sent, rss_early, rss_late, staging;
    uint32_t failed;
    int64_t growth; /* of the rank that grew most */
    uint64_t gpu_late;
    int64_t gpu_growth;
} totals_t;

static totals_t sum_up(const gathered_t *g)
{
    totals_t t = {.growth = INT64_MIN, .gpu_growth = INT64_MIN};
    for (uint32_t rank = 0; rank < g->job->num_ranks; rank++) {
        const run_account_t *account = &g->accounts[rank];
        int64_t growth = (int64_t)account->rss_late_bytes - (int64_t)account->rss_early_bytes;
        t.steps = larger(t.steps, account->steps);
        t.torn += account->torn_steps;
        t.sent += account->sent_bytes;
        t.growth = growth > t.growth ? growth : t.growth;
        t.rss_late = larger(t.rss_late, account->rss_late_bytes);
        int64_t gpu_growth = (int64_t)account->gpu_late_bytes - (int64_t)account->gpu_early_bytes;
        t.gpu_growth = gpu_growth > t.gpu_growth ? gpu_growth : t.gpu_growth;
        t.gpu_late = larger(t.gpu_late, account->gpu_late_bytes);
        const run_record_t *last = &g->records[(size_t)(rank + 1) * g->job->num_versions - 1];
        t.staging = larger(t.staging, last->stats.staging_bytes);
    }
    for (uint32_t v = 0; v < g->job->num_versions; v++) {
        version_line_t line = line_of(g, v);
        t.payload += line.payload;
        t.needed += line.needed;
        t.failed += line.failed;
    }
    return t;
}

/* Where ranks sit; one line for all that sit alike. */
static void print_places(const gathered_t *g)
{
    for (uint32_t first = 0, end; first < g->job->num_ranks; first = end) {
        const char *place = g->accounts[first].place;
        for (end = first + 1; end < g->job->num_ranks && strcmp(g->accounts[end].place, place) == 0;)
            end++;
        if (end == first + 1)
            printf("rank %-17u %s\n", first, place);
        else
            printf("ranks %u to %-8u %s\n", first, end - 1, place);
    }
}

/* Of what was published. */
static void print_traffic(const gathered_t *g, const totals_t *t)
{
    uint32_t published = g->job->num_versions - g->job->num_loaded;
    weft_plan_summary_t plan;
    weft_plan_summarize(g->job->plan, &plan);
    double amax = (double)(plan.egress_bytes_total - plan.unique_bytes_total);
    if (published == 0)
        return;
    printf("received over needed   %.4f\n"
           "sent over checkpoint   %.4f, for %u replicas; amax vectors apart\n",
           factor(t->payload, t->needed),
           ((double)t->sent / published - amax) / (double)plan.checkpoint_bytes,
           weft_plan_num_rollouts(g->job->plan) / weft_plan_tp(g->job->plan));
}

static void print_totals(const gathered_t *g, const totals_t *t)
{
    char memory[24], staging[24];
    printf("\n");
    print_traffic(g, t);
    printf("steps                  %llu, torn %llu; %u versions, %u failed\n", (unsigned long long)t->steps,
           (unsigned long long)t->torn, g->job->num_versions, t->failed);
    printf("memory                 staging %s a rank, resident %s at most",
           weft_text_bytes((double)t->staging, staging), weft_text_bytes((double)t->rss_late, memory));
    if (g->job->num_versions >= 100)
        printf(", %+.1f MiB since a tenth of the updates", (double)t->growth / 1048576);
    printf("\n");
    if (t->gpu_late)
        printf("GPU memory             %s in use at most, by all; %+.1f MiB since a tenth of the updates\n",
               weft_text_bytes((double)t->gpu_late, memory), (double)t->gpu_growth / 1048576);
    print_places(g);
}

static void json_number(FILE *file, const char *name, double value)
{
    if (isnan(value))
        fprintf(file, ", \"%s\": null", name);
    else
        fprintf(file, ", \"%s\": %.6f", name, value);
}

static void json_version(FILE *file, const gathered_t *g, uint32_t v)
{
    version_line_t line = line_of(g, v);
    fprintf(file,
            "    {\"version\": %u, \"failed\": %s, \"loaded\": %s, \"payload_bytes\": %llu, "
            "\"needed_bytes\": %llu, "
            "\"wire_bytes\": %llu",
            v + 1, line.failed ? "true" : "false", line.loaded ? "true" : "false",
            (unsigned long long)line.payload, (unsigned long long)line.needed, (unsigned long long)line.wire);
    fprintf(file,
            ", \"receive_us\": %llu, \"quantize_us\": %llu, \"update_us\": %llu, \"swap_us\": %llu, "
            "\"pause_us\": %llu",
            (unsigned long long)line.receive_us, (unsigned long long)line.quantize_us,
            (unsigned long long)line.update_us, (unsigned long long)line.swap_us,
            (unsigned long long)line.pause_us);
    fprintf(file, ", \"tokens_during\": %u, \"at_step\": %llu", line.tokens,
            (unsigned long long)line.at_step);
    json_number(file, "bits_per_byte", line.bits);
    fprintf(file, "}%s\n", v + 1 < g->job->num_versions ? "," : "");
}

static int write_json(const gathered_t *g, const totals_t *t)
{
    FILE *file = fopen(g->job->options.json, "w");
    if (!file) {
        fprintf(stderr, "weft run: %s cannot be written\n", g->job->options.json);
        return EXIT_ENVIRONMENT;
    }
    fprintf(file,
            "{\n  \"trainer\": \"%s\", \"rollout\": \"%s\", \"scheme\": \"%s\", \"profile\": \"%s\", "
            "\"swap\": \"%s\",\n",
            weft_plan_trainer_text(g->job->plan), weft_plan_rollout_text(g->job->plan),
            weft_plan_scheme(g->job->plan), weft_plan_profile(g->job->plan), g->job->options.swap);
    fprintf(file, "  \"steps\": %llu, \"torn_steps\": %llu, \"failed_versions\": %u, \"sent_bytes\": %llu,\n",
            (unsigned long long)t->steps, (unsigned long long)t->torn, t->failed,
            (unsigned long long)t->sent);
    fprintf(file,
            "  \"received_bytes\": %llu, \"needed_bytes\": %llu, \"staging_bytes\": %llu, "
            "\"rss_growth_bytes\": %lld, \"gpu_growth_bytes\": %lld, \"transport\": \"%s\", \"memory\": "
            "\"%s\",\n",
            (unsigned long long)t->payload, (unsigned long long)t->needed, (unsigned long long)t->staging,
            (long long)t->growth, (long long)t->gpu_growth, g->job->options.transport, g->job->memory);
    fprintf(file, "  \"versions\": [\n");
    for (uint32_t v = 0; v < g->job->num_versions; v++)
        json_version(file, g, v);
    fprintf(file, "  ]\n}\n");
    bool whole = !ferror(file) & (fclose(file) == 0);
    if (!whole)
        fprintf(stderr, "weft run: %s cannot be written whole: %s\n", g->job->options.json, strerror(errno));
    return whole ? EXIT_OK : EXIT_ENVIRONMENT;
}

int run_report(run_job_t *job)
{
    gathered_t g = {.job = job, .trainers = weft_plan_num_trainers(job->plan)};
    size_t bytes = job->num_versions * sizeof *job->records;
    if (job->rank == 0) {
        g.accounts = calloc(job->num_ranks, sizeof *g.accounts);
        g.records = calloc(job->num_ranks, bytes);
        if (!g.accounts || !g.records)
            run_abort(job, &(weft_error_t){WEFT_ERR_NO_MEMORY, "no memory for the table"});
    }
    MPI_Gather(&job->account, sizeof job->account, MPI_BYTE, g.accounts, sizeof job->account, MPI_BYTE, 0,
               job->world);
    MPI_Gather(job->records, (int)bytes, MPI_BYTE, g.records, (int)bytes, MPI_BYTE, 0, job->world);
    int code = EXIT_OK;
    if (job->rank == 0) {
        totals_t totals = sum_up(&g);
        fflush(stdout);
        printf("\n");
        print_versions(&g);
        print_totals(&g, &totals);
        code = totals.torn || totals.failed ? EXIT_CHECK_FAILED : EXIT_OK;
        if (job->options.json && write_json(&g, &totals) != EXIT_OK)
            code = EXIT_ENVIRONMENT;
    }
    free(g.accounts);
    free(g.records);
    return code;
}
