/* In: buckets in order. Out: bytes on routes. Invariant: at most MAX_IN_FLIGHT buckets and as many pack
 * buffers as the budget has room for, taken in turn; receivers have posted whole rounds, so what was started ends and
 * frees its buffer. A bucket leaves after those before it, and when the queue has made its bytes.
 *
 *     start: [pack, digest on the queue]   poll: ticket done? ---> [route] ---> sent, digest taken ---> buffer free
 */
#include "src/sender.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"

#define MAX_IN_FLIGHT 32u
#define MAX_BUFFERS   16u
#define IN_PLACE      (-1)

typedef struct outbound {
    weft_op_t *op; /* NULL: not on its route yet */
    uint32_t bucket;
    uint64_t ticket; /* of its packing and digest */
    bool sent;
} outbound_t;

struct weft_sender {
    weft_session_t *session;
    const weft_program_t *program;
    weft_queue_t *queue;
    weft_lender_t *lender;
    const weft_shard_t *shards;
    weft_packer_t packer;
    weft_wire_digests_t digests;
    uint8_t *memory;
    size_t buffer_bytes;
    uint32_t num_buffers;
    bool taken[MAX_BUFFERS];
    int32_t *buffer_of; /* [buckets]: which, or IN_PLACE */
    outbound_t *outbound; /* [most_in_flight] in order of start */
    uint32_t most_in_flight;
    uint32_t count;
    uint64_t done; /* ticket */
    uint64_t pack_ns;
    uint64_t paced_until_us; /* --rate: the next bucket starts no earlier */
};

/* ---- life ---- */

static uint32_t count_buffers(const weft_program_t *program, size_t buffer_bytes)
{
    uint64_t fit = program->plan->options.budget_bytes / buffer_bytes;
    return fit < 2 ? 2 : fit > MAX_BUFFERS ? MAX_BUFFERS : (uint32_t)fit;
}

static weft_status_t make_buffers(weft_sender_t *s)
{
    s->buffer_bytes =
        (s->program->largest_bucket + WEFT_FRAGMENT_ALIGN) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
    s->num_buffers = count_buffers(s->program, s->buffer_bytes);
    size_t bytes = s->num_buffers * s->buffer_bytes;
    WEFT_TRY(s->queue->ops->alloc(s->queue, bytes, (void **)&s->memory));
    return weft_session_register(s->session, s->memory, bytes);
}

/* Receivers acknowledge what was lent by rounds, so all of a round must be on its way before any of it ends. */
static uint32_t largest_round(const weft_program_t *program)
{
    uint32_t most = 0;
    for (uint32_t r = 0; r < program->num_rounds; r++)
        most = program->rounds[r].num_buckets > most ? program->rounds[r].num_buckets : most;
    return most;
}

static weft_status_t build(weft_sender_t *s)
{
    s->buffer_of = calloc(s->program->num_buckets + 1, sizeof *s->buffer_of);
    s->most_in_flight = s->lender ? 2 * largest_round(s->program) + 1 : MAX_IN_FLIGHT;
    s->outbound = calloc(s->most_in_flight, sizeof *s->outbound);
    if (!s->buffer_of || !s->outbound)
        return WEFT_ERR_NO_MEMORY;
    WEFT_TRY(weft_packer_create(s->program, s->queue, &s->packer));
    WEFT_TRY(weft_wire_digests_create(s->program, s->queue, &s->digests));
    return s->lender ? WEFT_OK : make_buffers(s);
}

weft_status_t weft_sender_create(weft_session_t *session, const weft_program_t *program, weft_queue_t *queue,
                                 weft_lender_t *lender, weft_sender_t **sender)
{
    weft_sender_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    *made = (weft_sender_t){.session = session, .program = program, .queue = queue, .lender = lender};
    weft_status_t status = build(made);
    if (status != WEFT_OK) {
        weft_sender_destroy(made);
        return status;
    }
    *sender = made;
    return WEFT_OK;
}

void weft_sender_destroy(weft_sender_t *sender)
{
    if (!sender)
        return;
    weft_packer_destroy(&sender->packer);
    weft_wire_digests_destroy(&sender->digests);
    sender->queue->ops->free(sender->queue, sender->memory);
    free(sender->buffer_of);
    free(sender->outbound);
    free(sender);
}

/* ---- where things are ---- */

static uint8_t *place_in_buffer(void *user, uint32_t bucket, uint32_t fragment)
{
    const weft_sender_t *s = user;
    if (s->buffer_of[bucket] == IN_PLACE)
        return NULL;
    return s->memory + (size_t)s->buffer_of[bucket] * s->buffer_bytes + s->program->fragments[fragment].offset;
}

/* The bytes of a bucket as they leave. */
static const uint8_t *bytes_of(void *user, uint32_t index)
{
    const weft_sender_t *s = user;
    const weft_fragment_t *first = &s->program->fragments[s->program->buckets[index].first_fragment];
    if (s->buffer_of[index] != IN_PLACE)
        return s->memory + (size_t)s->buffer_of[index] * s->buffer_bytes;
    if (first->kind != WEFT_PIECE_DATA)
        return NULL;
    size_t element = weft_dtype_bytes(weft_model_tensor(s->program->plan->model, first->tensor)->dtype);
    return weft_shard_at(&s->shards[first->tensor], element, first->rect.row, first->rect.col);
}

static void assign_buffers(weft_sender_t *s)
{
    uint32_t next = 0;
    for (size_t b = 0; b < s->program->num_buckets; b++) {
        bool in_place = s->lender || weft_bucket_in_place(s->program, s->shards, &s->program->buckets[b]);
        s->buffer_of[b] = in_place ? IN_PLACE : (int32_t)(next++ % s->num_buffers);
    }
}

static weft_status_t prepare_lists(weft_sender_t *s)
{
    if (s->lender)
        return weft_packer_prepare(&s->packer, s->shards, weft_lender_place, s->lender);
    WEFT_TRY(weft_packer_prepare(&s->packer, s->shards, place_in_buffer, s));
    return weft_wire_digests_prepare(&s->digests, bytes_of, s);
}

weft_status_t weft_sender_prepare(weft_sender_t *s, const weft_shard_t *shards, weft_error_t *error)
{
    s->shards = shards;
    assign_buffers(s);
    weft_status_t status = prepare_lists(s);
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "trainer rank %u: its buckets cannot be listed in %s memory: %s",
                                         s->program->rank, s->queue->ops->name, weft_status_text(status));
}

void weft_sender_begin(weft_sender_t *s, const bool *selected)
{
    weft_wire_digests_begin(&s->digests, selected);
    memset(s->taken, 0, sizeof s->taken);
}

/* ---- buckets ---- */

static bool is_digests(const weft_sender_t *s, uint32_t bucket)
{
    return s->program->plan->rounds[s->program->buckets[bucket].round].digests;
}

bool weft_sender_ready(const weft_sender_t *s, uint32_t bucket)
{
    bool paced = s->paced_until_us && weft_now_us() < s->paced_until_us;
    bool room = s->buffer_of[bucket] == IN_PLACE || !s->taken[s->buffer_of[bucket]];
    bool known = !is_digests(s, bucket) || s->digests.num_pending == 0;
    return room && known && s->count < s->most_in_flight && !paced;
}

/* A digest bucket is filled; any other is packed where it must be, and digested. A lender's buckets are read where they
 * lie, after its word, so nothing of them travels that could be digested. */
static weft_status_t make_bytes(weft_sender_t *s, uint32_t index, bool *any)
{
    const weft_bucket_t *bucket = &s->program->buckets[index];
    *any = !s->lender;
    if (is_digests(s, index)) {
        weft_wire_digests_finish(&s->digests);
        return s->lender ? WEFT_OK
                         : s->queue->ops->put(s->queue, (void *)(uintptr_t)bytes_of(s, index),
                                              &s->digests.routes[bucket->route], sizeof(weft_digest_t));
    }
    WEFT_TRY(weft_packer_run(&s->packer, index, any));
    *any |= !s->lender;
    return s->lender ? WEFT_OK : weft_wire_digests_start(&s->digests, index);
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

weft_status_t weft_sender_start(weft_sender_t *s, uint32_t index, weft_error_t *error)
{
    uint64_t start = weft_now_ns();
    outbound_t out = {.bucket = index};
    bool any; /* a lender has nothing to make but amax, and must not wake a GPU that its reader uses */
    weft_status_t status = make_bytes(s, index, &any);
    if (status == WEFT_OK && any)
        status = s->queue->ops->mark(s->queue, &out.ticket);
    if (status != WEFT_OK)
        return weft_fail(error, status, "trainer rank %u: bucket %u of round %u could not be packed: %s",
                         s->program->rank, s->program->buckets[index].sequence, s->program->buckets[index].round,
                         weft_status_text(status));
    weft_wire_digests_mark(&s->digests, out.ticket);
    if (s->buffer_of[index] != IN_PLACE)
        s->taken[s->buffer_of[index]] = true;
    s->outbound[s->count++] = out;
    pace(s, s->program->buckets[index].bytes);
    s->pack_ns += weft_now_ns() - start;
    weft_session_span(s->session, "pack", start, 0, index);
    return WEFT_OK;
}

static weft_status_t start_on_route(weft_sender_t *s, outbound_t *out)
{
    weft_transport_t *transport = s->session->transport;
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    const weft_bucket_t *bucket = &s->program->buckets[out->bucket];
    const uint8_t *bytes = bytes_of(s, out->bucket);
    if (!s->program->plan->relay && !s->session->groups[bucket->route]) { /* nobody there takes part */
        out->sent = true;
        return WEFT_OK;
    }
    if (s->program->plan->relay)
        return ops->send_start(transport, bucket->relay, bytes, bucket->bytes, &out->op);
    /* A broadcast's root only reads. */
    return ops->broadcast_start(transport, s->session->groups[bucket->route], 0, (void *)(uintptr_t)bytes,
                                bucket->bytes, &out->op);
}

static weft_status_t name_failure(const weft_sender_t *s, uint32_t index, weft_status_t status, const char *why,
                                  weft_error_t *error)
{
    const weft_bucket_t *bucket = &s->program->buckets[index];
    return weft_fail(error, status, "trainer rank %u: bucket %u of round %u: %s", s->program->rank,
                     bucket->sequence, bucket->round, why);
}

/* Buckets whose bytes are made leave in order; one that lies in place need not wait for its digest. */
static weft_status_t send_made(weft_sender_t *s, weft_error_t *error)
{
    for (uint32_t i = 0; i < s->count; i++) {
        outbound_t *out = &s->outbound[i];
        if (out->op || out->sent)
            continue;
        if (out->ticket > s->done && (s->lender || s->buffer_of[out->bucket] != IN_PLACE))
            return WEFT_OK;
        weft_status_t status = start_on_route(s, out);
        if (status != WEFT_OK)
            return name_failure(s, out->bucket, status, weft_status_text(status), error);
    }
    return WEFT_OK;
}

static weft_status_t test_sent(weft_sender_t *s, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(s->session->transport);
    for (uint32_t i = 0; i < s->count; i++) {
        outbound_t *out = &s->outbound[i];
        weft_error_t why = {.message = ""};
        bool done = false;
        if (!out->op)
            continue;
        weft_status_t status = ops->test(s->session->transport, out->op, &done, &why);
        if (status != WEFT_OK)
            return name_failure(s, out->bucket, status, why.message, error);
        if (done) {
            out->sent = true;
            out->op = NULL;
        }
    }
    return WEFT_OK;
}

/* Forget what has left and been digested, keeping the others in order. */
static void drop_sent(weft_sender_t *s)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        outbound_t out = s->outbound[i];
        if (!out.sent || out.ticket > s->done)
            s->outbound[kept++] = out;
        else if (s->buffer_of[out.bucket] != IN_PLACE)
            s->taken[s->buffer_of[out.bucket]] = false;
    }
    s->count = kept;
}

weft_status_t weft_sender_poll(weft_sender_t *s, weft_error_t *error)
{
    weft_status_t status = s->queue->ops->poll(s->queue, &s->done);
    if (status != WEFT_OK)
        return weft_fail(error, status, "trainer rank %u: its %s queue failed: %s", s->program->rank,
                         s->queue->ops->name, weft_status_text(status));
    weft_wire_digests_take(&s->digests, s->done);
    WEFT_TRY(send_made(s, error));
    WEFT_TRY(test_sent(s, error));
    drop_sent(s);
    return WEFT_OK;
}

bool weft_sender_idle(const weft_sender_t *s)
{
    return s->count == 0;
}

/* Workers, or a GPU, may still pack what was started. */
void weft_sender_clear(weft_sender_t *s, bool buffers_free)
{
    uint64_t ticket;
    if (s->queue->ops->mark(s->queue, &ticket) == WEFT_OK)
        weft_queue_wait(s->queue, ticket);
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
