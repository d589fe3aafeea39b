#include "tests/cuda_decoder/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "src/base/array.h"

bool device_found(void)
{
    int gpus = 0;
    cudaError_t error = cudaGetDeviceCount(&gpus);
    if (error == cudaSuccess && gpus)
        return true;
    fprintf(stderr, "skipped: no GPU (%s)\n",
            error != cudaSuccess ? cudaGetErrorString(error) : "none found");
    return false;
}

static device_copy_t *copy_of(device_rank_t *rank, const char *name)
{
    for (size_t i = 0; i < rank->copies.count; i++)
        if (strcmp(rank->copies.items[i].name, name) == 0)
            return &rank->copies.items[i];
    return NULL;
}

static bool upload(device_rank_t *rank, const char *name, const decoder_weight_t *weight)
{
    size_t elem = weft_dtype_bytes(weight->dtype), shift = rank->shifted ? elem : 0;
    device_copy_t copy = {.weight = *weight};
    snprintf(copy.name, sizeof copy.name, "%s", name);
    copy.bytes = weight->shape[0] * weight->shape[1] * weight->shape[2] * elem;
    if (cudaMalloc(&copy.memory, copy.bytes + shift) != cudaSuccess)
        return false;
    copy.weight.data = (char *)copy.memory + shift;
    if (!WEFT_ARRAY_PUSH(&rank->copies, copy)) {
        cudaFree(copy.memory);
        return false;
    }
    return device_rank_write(rank, name, weight->data);
}

static bool find(void *user, const char *name, decoder_weight_t *weight)
{
    device_rank_t *rank = user;
    decoder_weight_t host;
    if (!rank->host.find(rank->host.user, name, &host))
        return false;
    if (!copy_of(rank, name) && !upload(rank, name, &host))
        return false;
    *weight = copy_of(rank, name)->weight;
    return true;
}

static bool all_reduce(void *user, float *data, size_t count)
{
    device_rank_t *rank = user;
    return rank->host.all_reduce(rank->host.user, data, count);
}

void device_rank_wrap(device_rank_t *rank, decoder_config_t *config, bool shifted)
{
    *rank = (device_rank_t){.host = *config, .shifted = shifted};
    config->find = find;
    config->all_reduce = config->all_reduce ? all_reduce : NULL;
    config->user = rank;
    config->device = "cuda";
}

bool device_rank_write(device_rank_t *rank, const char *name, const void *data)
{
    const device_copy_t *copy = copy_of(rank, name);
    return copy &&
           cudaMemcpy((void *)copy->weight.data, data, copy->bytes, cudaMemcpyHostToDevice) == cudaSuccess &&
           cudaStreamSynchronize(NULL) == cudaSuccess;
}

void device_rank_free(device_rank_t *rank)
{
    for (size_t i = 0; i < rank->copies.count; i++)
        cudaFree(rank->copies.items[i].memory);
    WEFT_ARRAY_FREE(&rank->copies);
}
