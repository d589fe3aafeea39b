/* How many threads help a rank's progress thread to pack and quantize on the host. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/options.h"
#include "launch/weft/run.h"
#include "src/base/error.h"
#include "src/place/place.h"

#define MOST_BY_ITSELF 6 /* then memory is the limit */
#define BUSY_CORES     2 /* a rank's steps, or its optimizer, and its progress */

/* How many ranks of this node may run on the same CPUs as this one. */
static uint32_t count_sharing(const run_job_t *job)
{
    MPI_Comm node;
    int ranks, sharing = 0;
    cpu_set_t mine, *all;
    memset(&mine, 0, sizeof mine);
    sched_getaffinity(0, sizeof mine, &mine);
    MPI_Comm_split_type(job->world, MPI_COMM_TYPE_SHARED, (int)job->rank, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &ranks);
    all = calloc((size_t)ranks, sizeof *all);
    int none = all == NULL, anywhere;
    MPI_Allreduce(&none, &anywhere, 1, MPI_INT, MPI_MAX, node);
    if (!anywhere) {
        MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, node);
        for (int i = 0; i < ranks; i++)
            sharing += CPU_EQUAL(&mine, &all[i]) != 0;
    }
    MPI_Comm_free(&node);
    free(all);
    return sharing ? (uint32_t)sharing : (uint32_t)ranks;
}

/* Cores that are left when each of the ranks that share them has what it needs. */
static weft_status_t choose(const run_job_t *job, uint32_t *workers, weft_error_t *error)
{
    weft_place_t *place;
    uint32_t sharing = count_sharing(job);
    WEFT_TRY(weft_place_open(NULL, &place, error));
    uint32_t cores = weft_place_num_cores(place) / sharing;
    weft_place_close(place);
    *workers = cores <= BUSY_CORES                   ? 0
               : cores - BUSY_CORES < MOST_BY_ITSELF ? cores - BUSY_CORES
                                                     : MOST_BY_ITSELF;
    return WEFT_OK;
}

weft_status_t run_choose_workers(run_job_t *job, weft_error_t *error)
{
    const char *text = job->options.workers;
    if (!text || strcmp(text, "auto") == 0)
        return choose(job, &job->workers, error);
    uint32_t count;
    if (!options_read_count(text, &count) || count > 64)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--workers expects auto or a number up to 64, found %s",
                         text);
    job->workers = count;
    return WEFT_OK;
}
