#include <math.h>
#include <stdlib.h>

#include "launch/decoder/forward.h"
#include "src/base/error.h"

/* What scoring adds up over all windows, and the room it needs for one. */
typedef struct scorer {
    const decoder_t *decoder;
    decoder_run_t run;
    uint32_t *tokens; /* [batch] */
    float *logits;    /* [DECODER_LOGITS_BATCH, vocab] */
    double bits;
    size_t scored;
} scorer_t;

/* -log2 of the probability that softmax(logits) gives `token`. */
static double bits_of(const float *logits, uint32_t vocab, uint32_t token)
{
    float largest = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < vocab; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - largest);
    return (log(sum) + largest - logits[token]) / log(2);
}

/* Score bytes 1..bytes-1 of a window: the states after byte t predict byte t + 1. */
static weft_status_t score_window(scorer_t *scorer, const uint8_t *window, uint32_t bytes)
{
    uint32_t vocab = scorer->decoder->shape.vocab, count = bytes - 1;
    for (uint32_t t = 0; t < count; t++)
        scorer->tokens[t] = window[t];
    scorer->run.position = 0;
    WEFT_TRY(decoder_forward(scorer->decoder, &scorer->run, scorer->tokens, count));
    for (uint32_t first = 0; first < count; first += DECODER_LOGITS_BATCH) {
        uint32_t some = count - first < DECODER_LOGITS_BATCH ? count - first : DECODER_LOGITS_BATCH;
        WEFT_TRY(decoder_logits(scorer->decoder, &scorer->run, first, some, scorer->logits));
        for (uint32_t t = 0; t < some; t++)
            scorer->bits += bits_of(scorer->logits + (size_t)t * vocab, vocab, window[first + t + 1]);
    }
    scorer->scored += count;
    return WEFT_OK;
}

static weft_status_t score_text(scorer_t *scorer, const uint8_t *text, size_t bytes, uint32_t window)
{
    for (size_t begin = 0; begin + 1 < bytes; begin += window)
        WEFT_TRY(
            score_window(scorer, text + begin, bytes - begin < window ? (uint32_t)(bytes - begin) : window));
    return WEFT_OK;
}

weft_status_t decoder_host_score(decoder_t *decoder, const uint8_t *text, size_t bytes, uint32_t window,
                                 double *bits_per_byte)
{
    uint32_t batch = (bytes < window ? (uint32_t)bytes : window) - 1;
    scorer_t scorer = {
        .decoder = decoder,
        .tokens = calloc(batch, sizeof *scorer.tokens),
        .logits = calloc((size_t)DECODER_LOGITS_BATCH * decoder->shape.vocab, sizeof *scorer.logits)};
    weft_status_t status = WEFT_ERR_NO_MEMORY;
    if (!scorer.tokens || !scorer.logits)
        goto free_scorer;
    WEFT_TRY_GOTO(decoder_run_create(&decoder->shape, batch, batch, &scorer.run), free_scorer);
    WEFT_TRY_GOTO(score_text(&scorer, text, bytes, window), free_scorer);
    *bits_per_byte = scorer.bits / (double)scorer.scored;
free_scorer:
    decoder_run_free(&scorer.run);
    free(scorer.logits);
    free(scorer.tokens);
    return status;
}
