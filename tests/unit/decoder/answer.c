/* What the decoder makes of kernel-format files:
 *
 *     decoder_answer MODEL_DIR FILES_DIR RANKS[,ep] TEXT OUT
 *
 * Ranks are threads. Writes to OUT the logits after each byte of TEXT, decoded step by step, fp32 [bytes,
 * vocab], and prints the bits per byte of TEXT, scored as one window. A test compares them with those of an
 * oracle.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/decoder/group.h"

/* What one rank is asked and what it saw. */
typedef struct answer {
    const char *text;
    weft_status_t status;
    weft_error_t error;
    size_t count; /* logits */
    float *logits;
    double bits;
} answer_t;

static weft_status_t decode(decoder_t *decoder, answer_t *answer)
{
    size_t bytes = strlen(answer->text);
    answer->count = bytes * decoder_vocab(decoder);
    answer->logits = calloc(answer->count, sizeof *answer->logits);
    if (!answer->logits)
        return WEFT_ERR_NO_MEMORY;
    for (size_t i = 0; i < bytes; i++) {
        weft_status_t status =
            decoder_step(decoder, (uint8_t)answer->text[i], answer->logits + i * decoder_vocab(decoder));
        if (status != WEFT_OK)
            return status;
    }
    return decoder_score(decoder, (const uint8_t *)answer->text, bytes, (uint32_t)bytes, &answer->bits);
}

static void run_rank(const decoder_config_t *config, void *user)
{
    answer_t *answer = user;
    decoder_t *decoder = NULL;
    answer->status = decoder_create(config, &decoder, &answer->error);
    if (answer->status == WEFT_OK)
        answer->status = decode(decoder, answer);
    decoder_destroy(decoder);
}

/* All ranks must have seen the same. */
static int check(const answer_t *answers, uint32_t ranks)
{
    for (uint32_t r = 0; r < ranks; r++) {
        if (answers[r].status != WEFT_OK) {
            fprintf(stderr, "rank %u: %s: %s\n", r, weft_status_text(answers[r].status),
                    answers[r].error.message);
            return 1;
        }
        if (answers[r].bits != answers[0].bits ||
            memcmp(answers[r].logits, answers[0].logits, answers[0].count * sizeof(float)) != 0) {
            fprintf(stderr, "rank %u: not the answer of rank 0\n", r);
            return 1;
        }
    }
    return 0;
}

static int write_answer(const answer_t *answer, const char *path)
{
    FILE *file = fopen(path, "wb");
    bool whole = file && fwrite(answer->logits, sizeof(float), answer->count, file) == answer->count;
    if (!file || fclose(file) != 0 || !whole) {
        fprintf(stderr, "%s cannot be written\n", path);
        return 1;
    }
    printf("%.9f\n", answer->bits);
    return 0;
}

int main(int argc, char **argv)
{
    weft_error_t error = {0};
    weft_model_t *model = NULL;
    answer_t answers[GROUP_MAX] = {0};
    void *users[GROUP_MAX];
    if (argc != 6) {
        fprintf(stderr, "decoder_answer MODEL_DIR FILES_DIR RANKS[,ep] TEXT OUT\n");
        return 2;
    }
    if (weft_model_open(argv[1], &model, &error) != WEFT_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    const group_spec_t spec = {.model = model,
                               .ranks = (uint32_t)strtoul(argv[3], NULL, 10),
                               .expert_parallel = strstr(argv[3], ",ep") != NULL,
                               .files = argv[2]};
    for (uint32_t r = 0; r < GROUP_MAX; r++) {
        answers[r].text = argv[4];
        users[r] = &answers[r];
    }
    group_run(&spec, run_rank, users);
    int code = check(answers, spec.ranks);
    if (code == 0)
        code = write_answer(&answers[0], argv[5]);
    for (uint32_t r = 0; r < GROUP_MAX; r++)
        free(answers[r].logits);
    weft_model_close(model);
    return code;
}
