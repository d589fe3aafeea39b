/* In: buckets in order. Out: bytes on routes. Invariant: at most MAX_IN_FLIGHT buckets and as many pack
 * buffers as the budget has room for; receivers have posted whole rounds, so what was started ends and frees
 * its buffer. */
#include "src/sender.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"

#define MAX_IN_FLIGHT 32u
#define MAX_BUFFERS   16u

typedef struct outbound {
    weft_op_t *op;
    int32_t buffer; /* -1: sent from where it lay */
    uint32_t bucket;
} outbound_t;

struct weft_sender {
    weft_session_t *session;
    const weft_program_t *program;
    const weft_kernels_t *kernels;
    uint8_t *memory;
    size_t buffer_bytes;
    uint32_t num_buffers, num_free;
    uint32_t free_buffers[MAX_BUFFERS];
    outbound_t outbound[MAX_IN_FLIGHT];
    uint32_t count;
    uint64_t pack_ns;
    uint64_t paced_until_us; /* --rate: the next bucket starts no earlier */
};

static uint32_t count_buffers(const weft_program_t *program, size_t buffer_bytes)
{
    uint64_t fit = program->plan->options.budget_bytes / buffer_bytes;
    return fit < 2 ? 2 : fit > MAX_BUFFERS ? MAX_BUFFERS : (uint32_t)fit;
}

weft_status_t weft_sender_create(weft_session_t *session, const weft_program_t *program,
                                 const weft_kernels_t *kernels, weft_sender_t **sender)
{
    weft_sender_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    size_t aligned =
        (program->largest_bucket + WEFT_FRAGMENT_ALIGN) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
    *made =
        (weft_sender_t){.session = session, .program = program, .kernels = kernels, .buffer_bytes = aligned};
    made->num_buffers = made->num_free = count_buffers(program, aligned);
    made->memory = aligned_alloc(WEFT_FRAGMENT_ALIGN, made->num_buffers * aligned);
    if (!made->memory) {
        free(made);
        return WEFT_ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < made->num_buffers; i++)
        made->free_buffers[i] = i;
    *sender = made;
    return WEFT_OK;
}

void weft_sender_destroy(weft_sender_t *sender)
{
    if (!sender)
        return;
    free(sender->memory);
    free(sender);
}

bool weft_sender_ready(const weft_sender_t *s, uint32_t bucket)
{
    (void)bucket;
    bool paced = s->paced_until_us && weft_now_us() < s->paced_until_us;
    return s->num_free > 0 && s->count < MAX_IN_FLIGHT && !paced;
}

static void fill_digest(const weft_bucket_t *bucket, const weft_wire_digests_t *digests, uint8_t *out)
{
    memcpy(out, &digests->routes[bucket->route], sizeof(weft_digest_t));
}

/* The bucket's bytes: where they lie, or packed into a buffer. */
static const uint8_t *bytes_of(weft_sender_t *s, uint32_t index, const weft_shard_t *shards,
                               weft_wire_digests_t *digests, int32_t *buffer)
{
    const weft_bucket_t *bucket = &s->program->buckets[index];
    const weft_fragment_t *first = &s->program->fragments[bucket->first_fragment];
    uint64_t start = weft_now_ns();
    const uint8_t *bytes;
    *buffer = -1;
    if (first->kind == WEFT_PIECE_DATA && weft_bucket_in_place(s->program, shards, bucket)) {
        size_t element = weft_dtype_bytes(weft_model_tensor(s->program->plan->model, first->tensor)->dtype);
        bytes = weft_shard_at(&shards[first->tensor], element, first->rect.row, first->rect.col);
    } else {
        *buffer = (int32_t)s->free_buffers[--s->num_free];
        uint8_t *out = s->memory + (size_t)*buffer * s->buffer_bytes;
        if (first->kind == WEFT_PIECE_DIGEST)
            fill_digest(bucket, digests, out);
        else
            weft_pack_bucket(s->program, s->kernels, shards, bucket, out);
        bytes = out;
    }
    if (first->kind != WEFT_PIECE_DIGEST)
        weft_wire_digests_add(digests, s->kernels, index, bytes);
    s->pack_ns += weft_now_ns() - start;
    weft_session_span(s->session, "pack", start, 0, index);
    return bytes;
}

static weft_status_t start_on_route(weft_sender_t *s, const weft_bucket_t *bucket, const uint8_t *bytes,
                                    weft_op_t **op)
{
    weft_transport_t *transport = s->session->transport;
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    if (s->program->plan->relay)
        return ops->send_start(transport, bucket->relay, bytes, bucket->bytes, op);
    /* A broadcast's root only reads. */
    return ops->broadcast_start(transport, s->session->groups[bucket->route], 0, (void *)(uintptr_t)bytes,
                                bucket->bytes, op);
}

static void pace(weft_sender_t *s, uint32_t bytes)
{
    double rate = s->session->config.rate_bytes_per_s;
    if (rate <= 0)
        return;
    uint64_t now = weft_now_us();
    uint64_t from = s->paced_until_us > now ? s->paced_until_us : now;
    s->paced_until_us = from + (uint64_t)(bytes / rate * 1e6);
}

weft_status_t weft_sender_start(weft_sender_t *s, uint32_t index, const weft_shard_t *shards,
                                weft_wire_digests_t *digests, weft_error_t *error)
{
    const weft_bucket_t *bucket = &s->program->buckets[index];
    outbound_t out = {.bucket = index};
    const uint8_t *bytes = bytes_of(s, index, shards, digests, &out.buffer);
    weft_status_t status = start_on_route(s, bucket, bytes, &out.op);
    if (status != WEFT_OK)
        return weft_fail(error, status, "trainer rank %u: bucket %u of round %u could not be started: %s",
                         s->program->rank, bucket->sequence, bucket->round, weft_status_text(status));
    s->outbound[s->count++] = out;
    pace(s, bucket->bytes);
    return WEFT_OK;
}

weft_status_t weft_sender_poll(weft_sender_t *s, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(s->session->transport);
    for (uint32_t i = 0; i < s->count; i++) {
        weft_error_t why = {.message = ""};
        bool done = false;
        weft_status_t status = ops->test(s->session->transport, s->outbound[i].op, &done, &why);
        if (status != WEFT_OK) {
            const weft_bucket_t *bucket = &s->program->buckets[s->outbound[i].bucket];
            return weft_fail(error, status, "trainer rank %u: bucket %u of round %u: %s", s->program->rank,
                             bucket->sequence, bucket->round, why.message);
        }
        if (!done)
            continue;
        if (s->outbound[i].buffer >= 0)
            s->free_buffers[s->num_free++] = (uint32_t)s->outbound[i].buffer;
        s->outbound[i--] = s->outbound[--s->count];
    }
    return WEFT_OK;
}

bool weft_sender_idle(const weft_sender_t *s)
{
    return s->count == 0;
}

void weft_sender_clear(weft_sender_t *s, bool buffers_free)
{
    s->count = 0;
    if (!buffers_free)
        s->memory = NULL;
}

size_t weft_sender_bytes(const weft_sender_t *s)
{
    return s->num_buffers * s->buffer_bytes;
}

uint64_t weft_sender_take_pack_us(weft_sender_t *s)
{
    uint64_t us = s->pack_ns / 1000;
    s->pack_ns = 0;
    return us;
}
