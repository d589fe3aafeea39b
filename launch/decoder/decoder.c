#include "launch/decoder/decoder.h"

#include <stdlib.h>

#include "launch/decoder/forward.h"
#include "src/base/error.h"

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
    decoder_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory for the decoder");
    made->config = *config;
    made->config.model = NULL;
    weft_status_t status;
    WEFT_TRY_GOTO(decoder_shape_read(config, &made->shape, error), destroy_decoder);
    WEFT_TRY_GOTO(decoder_weights_find(config, &made->shape, &made->weights, error), destroy_decoder);
    status = decoder_run_create(&made->shape, 1, config->max_tokens, &made->run);
    if (status != WEFT_OK) {
        weft_fail(error, status, "out of memory for a KV cache of %u tokens", config->max_tokens);
        goto destroy_decoder;
    }
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
    decoder_run_free(&decoder->run);
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

weft_status_t decoder_step(decoder_t *decoder, uint32_t token, float *logits)
{
    decoder_run_t *run = &decoder->run;
    if (token >= decoder->shape.vocab || run->position == run->tokens_max)
        return WEFT_ERR_ARGUMENT;
    WEFT_TRY(decoder_forward(decoder, run, &token, 1));
    return decoder_logits(decoder, run, 0, 1, logits);
}
