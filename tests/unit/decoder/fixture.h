/* A checkpoint in kernel format, made by plain copying: what rollout ranks would hold, without any of weft's
 * layers.
 *
 *     kernel_rank_t rank;
 *     kernel_rank_build(&rank, model, (kernel_place_t){.rank = 0, .ranks = 2});
 *     decoder_config_t config = {..., .find = kernel_rank_find, .user = &rank};
 *     kernel_rank_free(&rank);
 *
 * Memory that runs out or a tensor that is not there fails the running test.
 */
#ifndef WEFT_TESTS_DECODER_FIXTURE_H
#define WEFT_TESTS_DECODER_FIXTURE_H

#include "launch/decoder/decoder.h"
#include "launch/decoder/matrix.h"

typedef struct kernel_place {
    uint32_t rank, ranks;
    bool expert_parallel;
    uint32_t vocab; /* rows of the vocabulary kept; 0: as many as the checkpoint has */
} kernel_place_t;

typedef struct kernel_tensor {
    char name[96];
    decoder_weight_t weight;
    void *data; /* the same address, to be freed */
} kernel_tensor_t;

typedef struct kernel_rank {
    struct {
        kernel_tensor_t *items;
        size_t count, capacity;
    } tensors;
} kernel_rank_t;

/* Open launch/demo/<name>. */
weft_model_t *open_demo(const char *name);

/* Read launch/demo/<name> whole; free() it. */
char *read_demo(const char *name, size_t *bytes);

void kernel_rank_build(kernel_rank_t *rank, const weft_model_t *model, kernel_place_t place);

/* What a file in kernel format holds, such as `weft quantize` writes, in any scheme. */
void kernel_rank_read(kernel_rank_t *rank, const char *path);
void kernel_rank_free(kernel_rank_t *rank);

/* The tensor of that name, or NULL. */
kernel_tensor_t *kernel_rank_tensor(kernel_rank_t *rank, const char *name);

/* decoder_config_t.find over a kernel_rank_t. */
bool kernel_rank_find(void *user, const char *name, decoder_weight_t *weight);

/* Round every linear weight of a bf16 rank to the codes of a format that has scales, with scales that are
 * powers of two, so that code * scale is a bf16 number again: `quantized` holds codes and scales, `rank` what
 * they stand for. The two must decode alike to the bit. */
void kernel_rank_quantize(kernel_rank_t *rank, decoder_format_id_t format, kernel_rank_t *quantized);

/* Cast all of a bf16 rank to fp16 or fp32, likewise: what fp16 rounds is a bf16 number again. */
void kernel_rank_cast(kernel_rank_t *rank, decoder_format_id_t format, kernel_rank_t *cast);

/* Whichever of the two the format takes. */
void kernel_rank_convert(kernel_rank_t *rank, decoder_format_id_t format, kernel_rank_t *converted);

#endif
