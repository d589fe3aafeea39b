#include "tests/unit/decoder/group.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/decoder/fixture.h"

typedef struct group {
    uint32_t ranks;
    pthread_barrier_t barrier;
    float *data[GROUP_MAX];
} group_t;

typedef struct member {
    group_t *group;
    uint32_t rank;
    kernel_rank_t weights;
    decoder_config_t config;
    group_fn fn;
    void *user;
} member_t;

/* Every rank adds up the same addends in the same order. */
static bool all_reduce(void *user, float *data, size_t count)
{
    member_t *member = user;
    group_t *group = member->group;
    float *sum = calloc(count + 1, sizeof *sum);
    group->data[member->rank] = data;
    pthread_barrier_wait(&group->barrier);
    for (uint32_t r = 0; sum && r < group->ranks; r++)
        for (size_t i = 0; i < count; i++)
            sum[i] += group->data[r][i];
    pthread_barrier_wait(&group->barrier);
    if (sum)
        memcpy(data, sum, count * sizeof *sum);
    free(sum);
    return sum != NULL;
}

static bool find(void *user, const char *name, decoder_weight_t *weight)
{
    return kernel_rank_find(&((member_t *)user)->weights, name, weight);
}

static void *thread_main(void *argument)
{
    member_t *member = argument;
    member->fn(&member->config, member->user);
    return NULL;
}

static void fill_member(const group_spec_t *spec, uint32_t rank, member_t *member)
{
    kernel_place_t place = {
        .rank = rank, .ranks = spec->ranks, .expert_parallel = spec->expert_parallel, .vocab = spec->vocab};
    char path[512];
    snprintf(path, sizeof path, "%s/rank%u.safetensors", spec->files ? spec->files : "", rank);
    if (spec->files)
        kernel_rank_read(&member->weights, path);
    else
        kernel_rank_build(&member->weights, spec->model, place);
    member->config = (decoder_config_t){.model = spec->config ? spec->config : spec->model,
                                        .tp_rank = rank,
                                        .tp_size = spec->ranks,
                                        .expert_parallel = spec->expert_parallel,
                                        .max_tokens = 256,
                                        .find = find,
                                        .all_reduce = all_reduce,
                                        .user = member};
}

void group_run(const group_spec_t *spec, group_fn fn, void *users[])
{
    group_t group = {.ranks = spec->ranks};
    member_t members[GROUP_MAX] = {0};
    pthread_t threads[GROUP_MAX];
    assert_in_range(spec->ranks, 1, GROUP_MAX);
    pthread_barrier_init(&group.barrier, NULL, spec->ranks);
    for (uint32_t r = 0; r < spec->ranks; r++) {
        members[r] = (member_t){.group = &group, .rank = r, .fn = fn, .user = users[r]};
        fill_member(spec, r, &members[r]);
    }
    for (uint32_t r = 0; r < spec->ranks; r++)
        assert_int_equal(pthread_create(&threads[r], NULL, thread_main, &members[r]), 0);
    for (uint32_t r = 0; r < spec->ranks; r++) {
        pthread_join(threads[r], NULL);
        kernel_rank_free(&members[r].weights);
    }
    pthread_barrier_destroy(&group.barrier);
}
