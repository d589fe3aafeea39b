/* A whole job without a transport: checkpoint, layouts, plan, the program of every rank and the trainers'
 * shards.
 *
 *     world_t *w = world_create(&cp, "fsdp:2,tp:2", "tp:4x2", "fp8-channel", &options);
 *     world_fill(w, element_id, random);      shards in memory, as the trainers would hold them
 *     world_pack(w);                          every bucket of every trainer: w->packed[trainer][bucket]
 *     world_destroy(w);
 */
#ifndef WEFT_TESTS_SUPPORT_WORLD_H
#define WEFT_TESTS_SUPPORT_WORLD_H

#include "src/assemble/packer.h" /* the type of a shard; nothing of it is called */
#include "src/plan/program.h"
#include "tests/support/checkpoint.h"

typedef uint32_t (*element_fn)(uint32_t source, uint64_t flat, weft_dtype_t dtype);

typedef struct world {
    const checkpoint_t *cp;
    const weft_kernels_t *kernels;
    weft_queue_t *queue;
    weft_model_t *model;
    weft_layout_t *trainer, *rollout;
    weft_plan_t *plan;
    uint32_t num_trainers, num_rollouts, num_ranks, tp, num_tensors;
    weft_outputs_t *outputs;   /* [tp] */
    weft_program_t **programs; /* [num_ranks] */
    uint32_t *tensor_source;   /* [num_tensors]: source of a tensor of the model */
    element_fn element;
    weft_shard_t *shards; /* [num_trainers * num_tensors] */
    uint8_t ***packed;    /* [num_trainers][buckets] */
} world_t;

static inline weft_layout_t *parse_layout(const char *text, weft_side_t side)
{
    weft_layout_t *layout;
    weft_error_t error;
    if (weft_layout_parse(text, side, &layout, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return layout;
}

static inline uint32_t find_source(const checkpoint_t *cp, const char *name)
{
    for (uint32_t i = 0; i < cp->num_sources; i++)
        if (strcmp(cp->sources[i].name, name) == 0)
            return i;
    fail_msg("no source is called %s", name);
    return 0;
}

static inline const output_t *find_output(const checkpoint_t *cp, const char *name)
{
    for (uint32_t i = 0; i < cp->num_outputs; i++)
        if (strcmp(cp->outputs[i].name, name) == 0)
            return &cp->outputs[i];
    fail_msg("no output is called %s", name);
    return NULL;
}

static inline void make_programs(world_t *w)
{
    w->outputs = calloc(w->tp, sizeof *w->outputs);
    w->programs = calloc(w->num_ranks, sizeof(weft_program_t *));
    for (uint32_t t = 0; t < w->tp; t++)
        assert_int_equal(weft_outputs_create(w->plan, t, &w->outputs[t]), WEFT_OK);
    for (uint32_t rank = 0; rank < w->num_ranks; rank++) {
        bool sends = rank < w->num_trainers;
        const weft_outputs_t *outputs = sends ? NULL : &w->outputs[(rank - w->num_trainers) % w->tp];
        assert_int_equal(weft_program_create(w->plan, rank, outputs, &w->programs[rank]), WEFT_OK);
    }
}

static inline void world_destroy(world_t *w);

/* NULL, and the reason in `error`, when there is no such plan. `options` may be NULL. */
static inline world_t *world_try(const checkpoint_t *cp, const char *trainer, const char *rollout,
                                 const char *scheme, const weft_plan_options_t *options, weft_error_t *error)
{
    world_t *w = calloc(1, sizeof *w);
    w->cp = cp;
    w->kernels = weft_kernels_find("ref");
    weft_error_t no_queue;
    if (weft_queue_open("host", -1, &w->queue, &no_queue) != WEFT_OK)
        fail_msg("%s", no_queue.message);
    w->model = checkpoint_model(cp);
    w->trainer = parse_layout(trainer, WEFT_SIDE_TRAINER);
    w->rollout = parse_layout(rollout, WEFT_SIDE_ROLLOUT);
    if (weft_plan_create(w->model, w->trainer, w->rollout, scheme, options, &w->plan, error) != WEFT_OK) {
        world_destroy(w);
        return NULL;
    }
    w->num_trainers = weft_plan_num_trainers(w->plan);
    w->num_rollouts = weft_plan_num_rollouts(w->plan);
    w->num_ranks = w->num_trainers + w->num_rollouts;
    w->tp = weft_plan_tp(w->plan);
    w->num_tensors = weft_model_num_tensors(w->model);
    w->tensor_source = calloc(w->num_tensors, sizeof *w->tensor_source);
    for (uint32_t i = 0; i < w->num_tensors; i++)
        w->tensor_source[i] = find_source(cp, weft_model_tensor(w->model, i)->name);
    make_programs(w);
    return w;
}

static inline world_t *world_create(const checkpoint_t *cp, const char *trainer, const char *rollout,
                                    const char *scheme, const weft_plan_options_t *options)
{
    weft_error_t error;
    world_t *w = world_try(cp, trainer, rollout, scheme, options, &error);
    if (!w)
        fail_msg("%s", error.message);
    return w;
}

static inline weft_program_t *rollout_program(const world_t *w, uint32_t replica, uint32_t tp_rank)
{
    return w->programs[w->num_trainers + replica * w->tp + tp_rank];
}

/* ---- Shards ---- */

/* Where a trainer rank stands on an axis of a layout's text, whose leftmost factor varies fastest. */
static inline uint32_t trainer_place(const char *layout, const char *axis, uint32_t rank, uint32_t *size)
{
    *size = 1;
    for (const char *c = layout; *c;) {
        const char *colon = strchr(c, ':');
        char *end;
        uint32_t factor = (uint32_t)strtoul(colon + 1, &end, 10);
        if ((size_t)(colon - c) == strlen(axis) && strncmp(c, axis, strlen(axis)) == 0) {
            *size = factor;
            return rank % factor;
        }
        rank /= factor;
        c = *end == ',' ? end + 1 : end;
    }
    return 0;
}

/* torch.chunk(count)[index] of dimension 0: chunks of ceil(extent / count), as many as there are. */
static inline weft_rect_t torch_chunk(weft_rect_t box, bool vector, uint32_t count, uint32_t index)
{
    uint32_t *start = vector ? &box.col : &box.row, *extent = vector ? &box.cols : &box.rows;
    uint32_t size = (*extent + count - 1) / count, skip = size * index < *extent ? size * index : *extent;
    uint32_t rest = *extent - skip;
    *start += skip;
    *extent = rest < size ? rest : size;
    return box;
}

/* Whether holder `place` of `places` has item `item` of `items`, which are dealt out in runs, longer ones
 * first. */
static inline bool is_dealt_to(uint32_t item, uint32_t items, uint32_t place, uint32_t places)
{
    uint32_t first = 0, count = 0;
    for (uint32_t i = 0; i <= place; i++) {
        first += count;
        count = items / places + (i < items % places);
    }
    return item >= first && item < first + count;
}

/* Whether a pipeline stage has the source: the embedding goes with the first, norm and head with the last. */
static inline bool stage_has(const source_t *s, uint32_t stages, uint32_t stage)
{
    if (s->block == UINT32_MAX)
        return stage == 0;
    if (s->block == s->blocks)
        return stage + 1 == stages;
    return is_dealt_to(s->block, s->blocks, stage, stages);
}

/* The box of a source on a trainer rank: its stage's and its experts' alone, sliced by tp, and then dimension
 * 0 dealt out by fsdp. */
static inline weft_rect_t trainer_box(const source_t *s, const char *layout, uint32_t rank)
{
    uint32_t pp, pp_rank = trainer_place(layout, "pp", rank, &pp);
    uint32_t ep, ep_rank = trainer_place(layout, "ep", rank, &ep);
    if (!stage_has(s, pp, pp_rank) || (s->experts && !is_dealt_to(s->expert, s->experts, ep_rank, ep)))
        return (weft_rect_t){0};
    uint32_t tp, fsdp, tp_rank = trainer_place(layout, "tp", rank, &tp);
    uint32_t fsdp_rank = trainer_place(layout, "fsdp", rank, &fsdp);
    return torch_chunk(source_slice(s, tp, tp_rank), s->vector, fsdp, fsdp_rank);
}

static inline void write_element(uint8_t *at, uint32_t bits, weft_dtype_t dtype)
{
    memcpy(at, &bits, weft_dtype_bytes(dtype)); /* little-endian */
}

static inline uint32_t read_element(const uint8_t *at, weft_dtype_t dtype)
{
    uint32_t bits = 0;
    memcpy(&bits, at, weft_dtype_bytes(dtype));
    return bits;
}

/* Allocate and fill the shard of one tensor; rows are `gap` elements further apart than they must be. */
static inline void fill_shard(const world_t *w, uint32_t source, weft_rect_t box, uint32_t gap,
                              weft_shard_t *shard)
{
    const source_t *s = &w->cp->sources[source];
    size_t element = weft_dtype_bytes(s->dtype), ld = box.cols + gap;
    uint8_t *data = malloc(box.rows * ld * element + 1);
    memset(data, 0xEE, box.rows * ld * element);
    for (uint32_t r = 0; r < box.rows; r++)
        for (uint32_t c = 0; c < box.cols; c++) {
            uint64_t flat = (uint64_t)(box.row + r) * s->cols + box.col + c;
            write_element(data + (r * ld + c) * element, w->element(source, flat, s->dtype), s->dtype);
        }
    *shard = (weft_shard_t){.box = box, .data = data, .ld_elems = ld};
}

static inline weft_shard_t *trainer_shards(const world_t *w, uint32_t trainer)
{
    return w->shards + (size_t)trainer * w->num_tensors;
}

/* Make every trainer's shards. With `random` some of them have rows that do not touch. */
static inline void world_fill(world_t *w, element_fn element, random_t *random)
{
    w->element = element;
    w->shards = calloc((size_t)w->num_trainers * w->num_tensors, sizeof *w->shards);
    for (uint32_t rank = 0; rank < w->num_trainers; rank++)
        for (uint32_t i = 0; i < w->num_tensors; i++) {
            uint32_t source = w->tensor_source[i],
                     gap = random && random_once_in(random, 3) ? random_in(random, 1, 9) : 0;
            fill_shard(w, source, trainer_box(&w->cp->sources[source], w->trainer->text, rank), gap,
                       &trainer_shards(w, rank)[i]);
        }
}

/* Write one fragment element by element, as its rectangle says; an amax is the largest magnitude of each row.
 */
static inline void pack_plainly(const world_t *w, const weft_shard_t *shard, const weft_fragment_t *f,
                                uint8_t *out)
{
    weft_dtype_t dtype = weft_model_tensor(w->model, f->tensor)->dtype;
    size_t element = weft_dtype_bytes(dtype);
    weft_rect_t box = shard->box, rect = f->rect;
    assert_true(f->kind == WEFT_PIECE_DIGEST || weft_rect_equal(weft_rect_intersect(box, rect), rect));
    for (uint32_t r = 0; f->kind != WEFT_PIECE_DIGEST && r < rect.rows; r++) {
        uint16_t most = 0;
        for (uint32_t c = 0; c < rect.cols; c++) {
            size_t at = (size_t)(rect.row - box.row + r) * shard->ld_elems + rect.col - box.col + c;
            uint32_t bits = read_element(shard->data + at * element, dtype);
            uint16_t magnitude = element_magnitude(bits, dtype);
            most = magnitude > most ? magnitude : most;
            if (f->kind == WEFT_PIECE_DATA)
                write_element(out + ((size_t)r * rect.cols + c) * element, bits, dtype);
        }
        if (f->kind == WEFT_PIECE_AMAX)
            memcpy(out + r * sizeof most, &most, sizeof most);
    }
}

static inline uint8_t *pack_bucket(const world_t *w, const weft_program_t *program,
                                   const weft_bucket_t *bucket)
{
    uint8_t *out = calloc(bucket->bytes, 1);
    for (uint32_t i = 0; i < bucket->num_fragments; i++) {
        const weft_fragment_t *f = &program->fragments[bucket->first_fragment + i];
        assert_true(f->offset + f->bytes <= bucket->bytes);
        pack_plainly(w, &trainer_shards(w, program->rank)[f->tensor], f, out + f->offset);
    }
    return out;
}

static inline void world_pack(world_t *w)
{
    w->packed = calloc(w->num_trainers, sizeof(uint8_t **));
    for (uint32_t rank = 0; rank < w->num_trainers; rank++) {
        const weft_program_t *program = w->programs[rank];
        w->packed[rank] = calloc(program->num_buckets + 1, sizeof(uint8_t *));
        for (size_t b = 0; b < program->num_buckets; b++)
            w->packed[rank][b] = pack_bucket(w, program, &program->buckets[b]);
    }
}

/* The source's bucket that a rollout rank knows as `bucket`; its index in the source's program. */
static inline size_t sent_bucket(const world_t *w, const weft_bucket_t *bucket)
{
    const weft_program_t *program = w->programs[bucket->source];
    for (size_t b = 0; b < program->num_buckets; b++)
        if (program->buckets[b].route == bucket->route && program->buckets[b].sequence == bucket->sequence)
            return b;
    fail_msg("trainer %u sends no bucket %u of route %u", bucket->source, bucket->sequence, bucket->route);
    return 0;
}

/* ---- The end ---- */

static inline void free_memory(world_t *w)
{
    for (uint32_t rank = 0; rank < w->num_trainers; rank++) {
        for (size_t b = 0; w->packed && b < w->programs[rank]->num_buckets; b++)
            free(w->packed[rank][b]);
        if (w->packed)
            free(w->packed[rank]);
        for (uint32_t i = 0; w->shards && i < w->num_tensors; i++)
            free((void *)trainer_shards(w, rank)[i].data);
    }
    free(w->packed);
    free(w->shards);
    weft_queue_close(w->queue);
}

static inline void world_destroy(world_t *w)
{
    free_memory(w);
    for (uint32_t rank = 0; rank < w->num_ranks; rank++)
        weft_program_destroy(w->programs[rank]);
    for (uint32_t t = 0; t < w->tp; t++)
        weft_outputs_destroy(&w->outputs[t]);
    free(w->programs);
    free(w->outputs);
    free(w->tensor_source);
    weft_plan_destroy(w->plan);
    weft_layout_destroy(w->trainer);
    weft_layout_destroy(w->rollout);
    weft_model_close(w->model);
    free(w);
}

#endif
