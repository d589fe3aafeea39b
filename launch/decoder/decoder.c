#include "launch/decoder/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "launch/decoder/backend.h"
#include "launch/decoder/forward.h"
#include "src/base/error.h"

static const decoder_backend_t *const backends[] = {
    &decoder_host_backend,
#ifdef WEFT_HAVE_CUDA
    &decoder_cuda_backend,
#endif
};

static const decoder_backend_t *find_backend(const char *device)
{
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
        if (strcmp(backends[i]->name, device ? device : "host") == 0)
            return backends[i];
    return NULL;
}

static weft_status_t fail_no_backend(const decoder_config_t *config, weft_error_t *error)
{
    if (strcmp(config->device, "cuda") == 0)
        return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                         "rollout rank %u: decoder on \"cuda\", but this build has no CUDA; build with "
                         "-DWEFT_CUDA=ON or decode on \"host\"",
                         config->tp_rank);
    return weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
                     "rollout rank %u: decoder on \"%s\", expected \"host\" or \"cuda\"", config->tp_rank,
                     config->device);
}

static weft_status_t check_config(const decoder_config_t *config, weft_error_t *error)
{
    if (!config->model || !config->find)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "decoder: model and find must be given");
    if (!config->tp_size || config->tp_rank >= config->tp_size)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "decoder: tp_rank %u of %u ranks", config->tp_rank,
                         config->tp_size);
    if (config->tp_size > 1 && !config->all_reduce)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "decoder: %u ranks need an all_reduce", config->tp_size);
    if (!config->max_tokens)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "decoder: max_tokens must not be 0");
    return WEFT_OK;
}

weft_status_t decoder_create(const decoder_config_t *config, decoder_t **decoder, weft_error_t *error)
{
    WEFT_TRY(check_config(config, error));
    const decoder_backend_t *backend = find_backend(config->device);
    if (!backend)
        return fail_no_backend(config, error);
    decoder_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory for the decoder");
    made->config = *config;
    made->config.model = NULL;
    made->backend = backend;
    weft_status_t status;
    WEFT_TRY_GOTO(decoder_shape_read(config, &made->shape, error), destroy_decoder);
    WEFT_TRY_GOTO(decoder_weights_find(config, &made->shape, &made->weights, error), destroy_decoder);
    WEFT_TRY_GOTO(backend->create(made, error), destroy_decoder);
    *decoder = made;
    return WEFT_OK;
destroy_decoder:
    decoder_destroy(made);
    return status;
}

void decoder_destroy(decoder_t *decoder)
{
    if (!decoder)
        return;
    decoder->backend->destroy(decoder);
    decoder_weights_free(&decoder->weights);
    free(decoder);
}

void decoder_reset(decoder_t *decoder)
{
    decoder->run.position = 0;
}

uint32_t decoder_position(const decoder_t *decoder)
{
    return decoder->run.position;
}

uint32_t decoder_vocab(const decoder_t *decoder)
{
    return decoder->shape.vocab;
}

void *decoder_stream(const decoder_t *decoder)
{
    return decoder->backend->stream(decoder);
}

static bool cache_is_full(const decoder_t *decoder)
{
    return decoder->run.position == decoder->config.max_tokens;
}

weft_status_t decoder_step_start(decoder_t *decoder, uint32_t token)
{
    if (token >= decoder->shape.vocab || cache_is_full(decoder))
        return WEFT_ERR_ARGUMENT;
    return decoder->backend->step_start(decoder, token);
}

weft_status_t decoder_step_next(decoder_t *decoder)
{
    if (decoder->run.position == 0 || cache_is_full(decoder))
        return WEFT_ERR_ARGUMENT;
    return decoder->backend->step_next(decoder);
}

weft_status_t decoder_step_finish(decoder_t *decoder, float *logits)
{
    return decoder->backend->step_finish(decoder, logits);
}

weft_status_t decoder_step(decoder_t *decoder, uint32_t token, float *logits)
{
    WEFT_TRY(decoder_step_start(decoder, token));
    return decoder_step_finish(decoder, logits);
}

weft_status_t decoder_tokens(decoder_t *decoder, uint32_t *tokens, uint32_t count)
{
    if (count > decoder->run.position)
        return WEFT_ERR_ARGUMENT;
    return decoder->backend->tokens(decoder, tokens, count);
}

static bool every_byte_is_a_token(const decoder_t *decoder, const uint8_t *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (text[i] >= decoder->shape.vocab)
            return false;
    return true;
}

weft_status_t decoder_score(decoder_t *decoder, const uint8_t *text, size_t bytes, uint32_t window,
                            double *bits_per_byte)
{
    if (window < 2 || bytes < 2 || !every_byte_is_a_token(decoder, text, bytes))
        return WEFT_ERR_ARGUMENT;
    return decoder->backend->score(decoder, text, bytes, window, bits_per_byte);
}
