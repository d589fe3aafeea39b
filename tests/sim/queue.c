/* Virtual time: a binary heap of what will happen, and the one source of chance. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/world.h"

uint64_t sim_random(sim_world_t *w, uint64_t below)
{
    uint64_t z = w->random += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint64_t)((unsigned __int128)(z ^ z >> 31) * below >> 64);
}

bool sim_chance(sim_world_t *w, uint32_t percent)
{
    return sim_random(w, 100) < percent;
}

void sim_push(sim_world_t *w, uint64_t at_us, sim_entry_t entry)
{
    if (w->queued == SIM_MAX_QUEUE || w->order >> SIM_ORDER_BITS != 0) {
        fprintf(stderr, "sim: too many events\n");
        abort();
    }
    entry.life = w->node[entry.node].life;
    entry.key = at_us << SIM_ORDER_BITS | w->order++;
    size_t i = w->queued++;
    for (; i > 0 && entry.key < w->queue[(i - 1) / 2].key; i = (i - 1) / 2)
        w->queue[i] = w->queue[(i - 1) / 2];
    w->queue[i] = entry;
}

bool sim_pop(sim_world_t *w, sim_entry_t *entry)
{
    if (w->queued == 0)
        return false;
    *entry = w->queue[0];
    sim_entry_t last = w->queue[--w->queued];
    w->queue[w->queued].key = UINT64_MAX; /* the second child of a node that has one */
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->queued; i = child) {
        child += w->queue[child + 1].key < w->queue[child].key;
        if (w->queue[child].key >= last.key)
            break;
        w->queue[i] = w->queue[child];
    }
    w->queue[i] = last;
    return true;
}

void sim_schedule(sim_world_t *w, uint64_t delay_us, sim_kind_t kind, uint32_t node, uint64_t argument)
{
    sim_push(w, w->now_us + delay_us,
             (sim_entry_t){.kind = (uint16_t)kind, .node = (uint16_t)node, .argument = argument, .body = SIM_NO_BODY});
}

uint16_t sim_take_body(sim_world_t *w)
{
    if (w->free_body != SIM_NO_BODY) {
        uint16_t body = w->free_body;
        w->free_body = w->body[body].next_free;
        return body;
    }
    if (w->used_bodies == SIM_MAX_BODIES) {
        fprintf(stderr, "sim: too many messages under way\n");
        abort();
    }
    return w->used_bodies++;
}

void sim_return_body(sim_world_t *w, uint16_t body)
{
    w->body[body].next_free = w->free_body;
    w->free_body = body;
}

void sim_inject(sim_world_t *w, uint32_t node, uint64_t delay_us, sim_injection_t injection)
{
    uint16_t body = sim_take_body(w);
    w->body[body].injection = injection;
    sim_push(w, w->now_us + delay_us, (sim_entry_t){.kind = SIM_INJECT, .node = (uint16_t)node, .body = body});
}

/* Remember the first violation; the schedule ends with it. */
void sim_fail(sim_world_t *w, const char *format, ...)
{
    if (w->failure != NULL)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(w->failure_text, sizeof w->failure_text, format, arguments);
    va_end(arguments);
    w->failure = w->failure_text;
}

void sim_say(sim_world_t *w, const char *format, ...)
{
    if (w->options.trace == NULL)
        return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(w->options.trace, "%9.3f ms  ", (double)w->now_us / 1000);
    vfprintf(w->options.trace, format, arguments);
    fputc('\n', w->options.trace);
    va_end(arguments);
}

uint32_t sim_index(const sim_world_t *w, uint64_t version)
{
    for (uint32_t i = 1; i <= w->versions; i++)
        if (w->version[i] == version)
            return i;
    return 0;
}
