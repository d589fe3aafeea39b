#include "launch/decoder/forward.h"
#include "launch/decoder/matmul.h"
#include "launch/decoder/vector.h"

void decoder_mlp(const decoder_t *decoder, uint32_t block, decoder_run_t *run, uint32_t count)
{
    const decoder_block_t *weights = &decoder->weights.blocks[block];
    decoder_matmul(run->normed, count, &weights->gate_up, run->wide);
    decoder_swiglu(run->wide, count, decoder->shape.mlp_width);
    decoder_matmul(run->wide, count, &weights->down, run->delta);
}
