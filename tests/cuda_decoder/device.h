/* Weights of a host fixture, copied to the GPU as a decoder asks for them.
 *
 *     device_rank_t rank;
 *     decoder_config_t config = {..., .find = kernel_rank_find, .user = &weights};
 *     device_rank_wrap(&rank, &config, false);           the same decoder on the GPU
 *     decoder_create(&config, &decoder, &error);
 *     device_rank_write(&rank, name, data);              other bytes at the same address
 *     device_rank_free(&rank);
 *
 * Nothing here asserts, so that threads may use it: a copy that fails is a weight that is missing.
 */
#ifndef WEFT_TESTS_CUDA_DECODER_DEVICE_H
#define WEFT_TESTS_CUDA_DECODER_DEVICE_H

#include "launch/decoder/decoder.h"

typedef struct device_copy {
    char name[96];
    decoder_weight_t weight; /* its data is device memory */
    void *memory;
    size_t bytes;
} device_copy_t;

typedef struct device_rank {
    decoder_config_t host; /* as it was before the wrap */
    bool shifted;          /* every tensor starts one element past an aligned address */
    struct {
        device_copy_t *items;
        size_t count, capacity;
    } copies;
} device_rank_t;

/* Whether there is a GPU; says on stderr why not. */
bool device_found(void);

/* Put `rank` in front of the callbacks of `config`, and its device to "cuda". */
void device_rank_wrap(device_rank_t *rank, decoder_config_t *config, bool shifted);
bool device_rank_write(device_rank_t *rank, const char *name, const void *data);
void device_rank_free(device_rank_t *rank);

#endif
