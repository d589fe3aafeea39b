/* The timeline of a run, in the Trace Event Format that Perfetto and chrome://tracing open: a process a rank,
 * a row for each kind of span. Ranks of one node share a clock; across nodes the clocks are not aligned. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/options.h"
#include "launch/weft/run.h"
#include "src/base/array.h"

#define MAX_SPANS 1000000u

void run_trace_add(void *user, const weft_span_t *span)
{
    run_trace_t *trace = user;
    pthread_mutex_lock(&trace->mutex);
    size_t capacity = trace->capacity;
    if (trace->count < MAX_SPANS &&
        weft_array_reserve((void **)&trace->spans, trace->count + 1, &capacity, sizeof *trace->spans)) {
        trace->capacity = (uint32_t)capacity;
        trace->spans[trace->count++] = *span;
    }
    pthread_mutex_unlock(&trace->mutex);
}

/* One rank's spans as text, each with its comma in front. */
static char *format_spans(const run_job_t *job, size_t *length)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, length);
    if (!out)
        return NULL;
    const char *role = job->replica == MPI_COMM_NULL ? "trainer" : "rollout";
    fprintf(
        out,
        "%s{\"ph\": \"M\", \"name\": \"process_name\", \"pid\": %u, \"args\": {\"name\": \"%s rank %u\"}}",
        job->rank ? ",\n" : "", job->rank, role, job->rank);
    for (uint32_t i = 0; i < job->trace.count; i++) {
        const weft_span_t *span = &job->trace.spans[i];
        fprintf(out,
                ",\n{\"ph\": \"X\", \"name\": \"%s\", \"pid\": %u, \"tid\": \"%s\", \"ts\": %.3f, \"dur\": "
                "%.3f, \"args\": {\"version\": %llu, \"index\": %u}}",
                span->name, job->rank, span->name, (double)span->start_ns / 1e3,
                (double)(span->end_ns - span->start_ns) / 1e3, (unsigned long long)span->version,
                span->index);
    }
    return fclose(out) == 0 ? text : NULL;
}

static int write_gathered(const run_job_t *job, const char *mine, size_t length)
{
    FILE *file = fopen(job->options.trace, "w");
    if (file)
        fprintf(file, "{\"traceEvents\": [\n%.*s", (int)length, mine);
    for (uint32_t rank = 1; rank < job->num_ranks; rank++) {
        MPI_Status status;
        int bytes;
        MPI_Probe((int)rank, 0, job->world, &status);
        MPI_Get_count(&status, MPI_BYTE, &bytes);
        char *text = malloc((size_t)bytes + 1);
        MPI_Recv(text, bytes, MPI_BYTE, (int)rank, 0, job->world, MPI_STATUS_IGNORE);
        if (file)
            fwrite(text, 1, (size_t)bytes, file);
        free(text);
    }
    if (file)
        fprintf(file, "\n]}\n");
    bool whole = file && (!ferror(file) & (fclose(file) == 0));
    if (!whole)
        fprintf(stderr, "weft run: %s cannot be written whole: %s\n", job->options.trace, strerror(errno));
    return whole ? EXIT_OK : EXIT_ENVIRONMENT;
}

int run_write_trace(run_job_t *job)
{
    size_t length = 0;
    char *mine = format_spans(job, &length);
    int code = EXIT_OK;
    if (job->rank == 0)
        code = write_gathered(job, mine ? mine : "", mine ? length : 0);
    else
        MPI_Send(mine, mine ? (int)length : 0, MPI_BYTE, 0, 0, job->world);
    free(mine);
    return code;
}
