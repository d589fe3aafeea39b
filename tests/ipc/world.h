/* Ranks as processes without mpirun, so that one may be killed: the caller is rank 0, the others are forked.
 * They meet over socket pairs, which is what the transport under test takes as its bootstrap.
 *
 *     int run(world_t *world) { ... open_ipc(world, &config) ... }      0: passed
 *     failed = world_run(3, run);
 */
#ifndef WEFT_TESTS_IPC_WORLD_H
#define WEFT_TESTS_IPC_WORLD_H

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/error.h"
#include "transport/transport.h"

#define WORLD_MAX      8
#define WORLD_PATIENCE 30 /* seconds for a rank that does not come */

typedef struct world {
    weft_transport_base_t base; /* first: this is a transport */
    int links[WORLD_MAX];       /* rank 0: to each rank; others: [0], to rank 0 */
    pid_t processes[WORLD_MAX]; /* rank 0: of each other rank */
    bool expendable[WORLD_MAX]; /* rank 0: this rank may end as it likes */
} world_t;

static inline bool world_move(int link, void *data, size_t bytes, bool out)
{
    for (size_t done = 0; done < bytes;) {
        char *at = (char *)data + done;
        ssize_t moved = out ? send(link, at, bytes - done, MSG_NOSIGNAL) : recv(link, at, bytes - done, 0);
        if (moved <= 0 && errno != EINTR)
            return false;
        done += moved > 0 ? (size_t)moved : 0;
    }
    return true;
}

static inline weft_status_t world_allgather(weft_transport_t *transport, const void *mine, size_t bytes,
                                            void *all, weft_error_t *error)
{
    world_t *world = (world_t *)transport;
    uint32_t rank = world->base.rank, num_ranks = world->base.num_ranks;
    bool moved = true;
    memcpy((char *)all + rank * bytes, mine, bytes);
    if (rank > 0)
        moved = world_move(world->links[0], (void *)mine, bytes, true) &&
                world_move(world->links[0], all, bytes * num_ranks, false);
    for (uint32_t i = 1; rank == 0 && moved && i < num_ranks; i++)
        moved = world_move(world->links[i], (char *)all + i * bytes, bytes, false);
    for (uint32_t i = 1; rank == 0 && moved && i < num_ranks; i++)
        moved = world_move(world->links[i], all, bytes * num_ranks, true);
    return moved ? WEFT_OK
                 : weft_fail(error, WEFT_ERR_PEER_LOST, "rank %u: the test's allgather failed", rank);
}

static const weft_transport_ops_t world_ops = {.name = "world", .allgather = world_allgather};

static inline weft_transport_t *world_bootstrap(world_t *world)
{
    return (weft_transport_t *)world;
}

static inline void world_link(world_t *world, uint32_t at, int link)
{
    struct timeval patience = {.tv_sec = WORLD_PATIENCE};
    setsockopt(link, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    world->links[at] = link;
}

/* Fork rank `rank`; it never returns. */
static inline bool world_fork(world_t *world, uint32_t rank, int (*run)(world_t *world))
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return false;
    fflush(NULL);
    pid_t process = fork();
    if (process == 0) {
        for (uint32_t i = 1; i < rank; i++)
            close(world->links[i]);
        close(pair[0]);
        world->base.rank = rank;
        world_link(world, 0, pair[1]);
        int failed = run(world);
        fflush(NULL);
        exit(failed);
    }
    close(pair[1]);
    world_link(world, rank, pair[0]);
    world->processes[rank] = process;
    return process > 0;
}

/* What a child came to: 0, 77 or 1. Where rank 0 has failed it may wait for ever, so it is killed. */
static inline int world_wait(const world_t *world, uint32_t rank, int failed)
{
    int status = 0;
    if (failed || world->expendable[rank])
        kill(world->processes[rank], SIGKILL);
    waitpid(world->processes[rank], &status, 0);
    if (failed || world->expendable[rank])
        return failed;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* Run all ranks; 0 when all passed, 77 when one was skipped. */
static inline int world_run(uint32_t num_ranks, int (*run)(world_t *world))
{
    world_t world = {.base = {&world_ops, 0, num_ranks, "host", -1}};
    for (uint32_t i = 1; i < num_ranks; i++)
        if (!world_fork(&world, i, run))
            return 1;
    int failed = run(&world);
    for (uint32_t i = 1; i < num_ranks; i++) {
        failed = world_wait(&world, i, failed);
        close(world.links[i]);
    }
    return failed;
}

#endif
