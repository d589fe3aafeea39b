/* The backend of the host's cores: a step is done when its start returns. */
#include <stdlib.h>
#include <string.h>

#include "launch/decoder/backend.h"
#include "launch/decoder/forward.h"
#include "src/base/error.h"

typedef struct host_engine {
    float *logits;      /* [vocab], of the last step */
    uint32_t *produced; /* [max_tokens], the likeliest token after each position */
} host_engine_t;

static weft_status_t host_create(decoder_t *decoder, weft_error_t *error)
{
    uint32_t tokens = decoder->config.max_tokens;
    host_engine_t *engine = decoder->engine = calloc(1, sizeof *engine);
    if (engine) {
        engine->logits = calloc(decoder->shape.vocab, sizeof *engine->logits);
        engine->produced = calloc(tokens, sizeof *engine->produced);
    }
    if (!engine || !engine->logits || !engine->produced ||
        decoder_run_create(&decoder->shape, 1, tokens, &decoder->run) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory for a KV cache of %u tokens", tokens);
    return WEFT_OK;
}

static void host_destroy(decoder_t *decoder)
{
    host_engine_t *engine = decoder->engine;
    decoder_run_free(&decoder->run);
    if (!engine)
        return;
    free(engine->logits);
    free(engine->produced);
    free(engine);
}

static void *host_stream(const decoder_t *decoder)
{
    (void)decoder;
    return NULL;
}

static uint32_t likeliest(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static weft_status_t host_step_start(decoder_t *decoder, uint32_t token)
{
    host_engine_t *engine = decoder->engine;
    uint32_t position = decoder->run.position;
    WEFT_TRY(decoder_forward(decoder, &decoder->run, &token, 1));
    WEFT_TRY(decoder_logits(decoder, &decoder->run, 0, 1, engine->logits));
    engine->produced[position] = likeliest(engine->logits, decoder->shape.vocab);
    return WEFT_OK;
}

static weft_status_t host_step_next(decoder_t *decoder)
{
    const host_engine_t *engine = decoder->engine;
    return host_step_start(decoder, engine->produced[decoder->run.position - 1]);
}

static weft_status_t host_step_finish(decoder_t *decoder, float *logits)
{
    const host_engine_t *engine = decoder->engine;
    if (logits)
        memcpy(logits, engine->logits, decoder->shape.vocab * sizeof *logits);
    return WEFT_OK;
}

static weft_status_t host_tokens(decoder_t *decoder, uint32_t *tokens, uint32_t count)
{
    const host_engine_t *engine = decoder->engine;
    memcpy(tokens, engine->produced + decoder->run.position - count, count * sizeof *tokens);
    return WEFT_OK;
}

const decoder_backend_t decoder_host_backend = {
    .name = "host",
    .create = host_create,
    .destroy = host_destroy,
    .stream = host_stream,
    .step_start = host_step_start,
    .step_next = host_step_next,
    .step_finish = host_step_finish,
    .tokens = host_tokens,
    .score = decoder_host_score,
};
