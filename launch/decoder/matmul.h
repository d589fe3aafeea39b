/* Floats times live weights. Every sum has one fixed order, whatever machine or vector width computes it. */
#ifndef WEFT_LAUNCH_DECODER_MATMUL_H
#define WEFT_LAUNCH_DECODER_MATMUL_H

#include "launch/decoder/weights.h"

/* y [count, rows] = x [count, cols] times the transposed matrix [rows, cols]. */
void decoder_matmul(const float *x, uint32_t count, const decoder_matrix_t *matrix, float *y);

#endif
