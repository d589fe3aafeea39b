/* The host backend that defines the bytes: complete, readable, and what every other backend is compared with.
 */
#ifndef WEFT_KERNELS_REF_H
#define WEFT_KERNELS_REF_H

#include "kernels/kernels.h"

weft_status_t weft_ref_cast(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
/* CAST of what is no number, such as codes: a copy, without transposed segments. */
bool weft_ref_moves(const weft_quantize_unit_t *unit);
weft_status_t weft_ref_move(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);

weft_status_t weft_ref_fp8_block(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
weft_status_t weft_ref_fp8_channel(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);

weft_status_t weft_ref_int8_channel(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);

weft_status_t weft_ref_mxfp8(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
weft_status_t weft_ref_mxfp4(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
weft_status_t weft_ref_int4_group_32(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
weft_status_t weft_ref_int4_group_64(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
weft_status_t weft_ref_int4_group_128(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
weft_status_t weft_ref_fp8_tensor(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);
weft_status_t weft_ref_nvfp4(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);

/* What no backend has a faster way for: every table of kernels begins with these. */
#define WEFT_REF_ONLY                                                                                        \
    [WEFT_KERNEL_INT8_CHANNEL] = weft_ref_int8_channel, [WEFT_KERNEL_MXFP8] = weft_ref_mxfp8,                \
    [WEFT_KERNEL_MXFP4] = weft_ref_mxfp4, [WEFT_KERNEL_INT4_GROUP_32] = weft_ref_int4_group_32,              \
    [WEFT_KERNEL_INT4_GROUP_64] = weft_ref_int4_group_64,                                                    \
    [WEFT_KERNEL_INT4_GROUP_128] = weft_ref_int4_group_128,                                                  \
    [WEFT_KERNEL_FP8_TENSOR] = weft_ref_fp8_tensor, [WEFT_KERNEL_NVFP4] = weft_ref_nvfp4

/* Whether fp8-block knows the profile. */
static inline bool weft_ref_block_profile(weft_profile_t profile)
{
    return (unsigned)profile <= WEFT_PROFILE_VLLM_POW2;
}

/* The scale of a block's codes as they are first made; `vllm-pow2` makes them once more. */
float weft_ref_block_scale(weft_profile_t profile, float amax);

/* Store the scale of block `block` of the unit, wherever the unit's arrangement has it. */
void weft_ref_put_block_scale(const weft_quantize_unit_t *unit, uint32_t block, float scale);

/* Store `count` codes of a byte, those of row `row` of the unit from column `col` on, wherever its arrangement has them. */
void weft_ref_put_codes(const weft_quantize_unit_t *unit, uint32_t row, uint32_t col, const void *codes, uint32_t count);

/* The same of the scale of a whole row. */
void weft_ref_put_row_scale(const weft_quantize_unit_t *unit, uint32_t row, float scale);

bool weft_ref_amax(const void *data, size_t ld_elems, uint32_t rows, uint32_t cols, weft_dtype_t dtype,
                   uint16_t *amax, uint32_t *row, uint32_t *col);
void weft_ref_pack(const void *data, size_t ld_bytes, uint32_t rows, size_t row_bytes, void *out);
void weft_ref_digest(const void *data, uint64_t begin, size_t bytes, weft_digest_t *sums);

#endif
