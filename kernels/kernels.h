/* The operations on bytes: quantize a unit, find an amax, pack a fragment, digest a run; and the table that finds
 * them by backend and scheme. Everything here is a plain-C entry; `ref/` is the complete, readable host backend that
 * every other one must equal to the byte.
 *
 * A unit is at most 128 rows of one part of a layer by the rank's columns. Its input is a list of segments, because
 * the wire, the trainer's shards and another process's memory all cut it differently; its output goes straight to
 * its place in the stage:
 *
 *      segments (rects of the unit)                 out: `rows` rows of the output tensor, contiguous
 *      +--------+-------------+  row 0              +----------------------+  + scale outputs of the scheme
 *      | seg 0  |   seg 1     |           ====>     |  rows * cols codes   |
 *      |        +-------------+                     +----------------------+
 *      |        |   zero      |  row 127
 *      +--------+-------------+
 */
#ifndef WEFT_KERNELS_H
#define WEFT_KERNELS_H

#include <weft/types.h>

/* A rectangle of the unit and where its elements are. Segments of a unit do not overlap and cover it. */
typedef struct weft_segment {
    const void *data; /* element (row, col) of the unit; NULL: zeros (padding). Aligned to the element */
    size_t ld_elems;  /* elements from one row of `data` to the next; transposed: from one column to the next */
    uint32_t row, col, rows, cols; /* within the unit */
    bool transposed; /* a column lies together: element (r, c) of the segment is data[c * ld_elems + r] */
} weft_segment_t;

typedef enum weft_kernel_id {
    WEFT_KERNEL_CAST,        /* weight only: bf16, fp16 kept, or fp32 (out_dtype says which); codes as they are */
    WEFT_KERNEL_FP8_BLOCK,   /* 128 x 128 blocks; scale f32 [ceil(rows/128), ceil(cols/128)] */
    WEFT_KERNEL_FP8_CHANNEL, /* a scale for each row; scale f32 [rows, 1] */
    WEFT_KERNEL_INT8_CHANNEL, /* the same, codes I8 */
    WEFT_KERNEL_MXFP8,        /* 32 along a row; scale u8 [rows, cols/32], an exponent */
    WEFT_KERNEL_MXFP4,        /* the same, two codes in a U8, that of the even column low */
    WEFT_KERNEL_INT4_GROUP_32, /* 32 along a row; scale bf16 [rows, cols/32]; eight codes in an I32, the first lowest */
    WEFT_KERNEL_INT4_GROUP_64,
    WEFT_KERNEL_INT4_GROUP_128,
    WEFT_KERNEL_FP8_TENSOR, /* one scale for the whole tensor; scale f32 [1] */
    WEFT_KERNEL_NVFP4, /* 16 along a row; scale e4m3 [rows, cols/16], global; codes as MXFP4 */
    WEFT_KERNEL_COUNT,
} weft_kernel_id_t;

/* Exact arithmetic within a kernel; docs/numerics.md. Kernels without profiles take WEFT_PROFILE_DEFAULT only. */
typedef enum weft_profile {
    WEFT_PROFILE_DEFAULT, /* of kernels that have IEEE, the same */
    WEFT_PROFILE_IEEE,
    WEFT_PROFILE_VLLM,
    WEFT_PROFILE_POW2,
    WEFT_PROFILE_VLLM_POW2,
    WEFT_PROFILE_CT, /* compressed-tensors, from bf16 weights */
    WEFT_PROFILE_QAT,
    WEFT_PROFILE_MODELOPT,
    WEFT_PROFILE_COUNT,
} weft_profile_t;

/* How a matrix lies in memory, its scales or its codes too; kernels/arrange.h. */
typedef enum weft_arrange {
    WEFT_ARRANGE_PLAIN,
    WEFT_ARRANGE_PADDED,
    WEFT_ARRANGE_DEEPGEMM,
    WEFT_ARRANGE_SWIZZLE, /* 128x4 */
    WEFT_ARRANGE_MARLIN,
    WEFT_ARRANGE_COUNT,
} weft_arrange_t;

typedef struct weft_quantize_unit {
    const weft_segment_t *segments;
    uint32_t num_segments;
    weft_dtype_t dtype;  /* of the source: F32, F16 or BF16; F32 is rounded to bf16 before anything else, unless
                            it is cast to F32 or F16. CAST: also codes (F8, I8, U8, I32, I64), which stay as they are */
    uint32_t rows, cols; /* rows <= 128 */
    weft_profile_t profile;
    bool allow_nonfinite;
    const uint16_t *row_amax; /* [rows], the amax of each whole row as bits of bf16 (fp16 for an F16 source), when
                                 columns are split over ranks; NULL: the unit holds whole rows, find it here */
    weft_dtype_t out_dtype;   /* CAST: BF16, F16 or F32, of codes the same; the others: as the scheme stores it */
    void *out;                /* [rows, cols / codes], contiguous; MARLIN: where those of the matrix begin */
    void *scale; /* its scales, row-major, as weft_format_scales says: FP8_BLOCK one row of the grid; CAST: NULL */
    float *global; /* [1], the scale of the whole tensor beside those, for kernels that have one;
                      NULL: another unit writes it. FP8_TENSOR: the same of `scale` */
    const uint16_t *tensor_amax; /* [1], the amax of the whole tensor, for kernels whose scale spans it; NULL: the unit
                                    is the whole tensor (on the host) */
    weft_arrange_t arrange; /* unless PLAIN (PADDED is, for a unit), `scale` is where the scales of the matrix begin, */
    uint32_t matrix_row, matrix_rows; /* and this unit's first row is row matrix_row of its matrix_rows */
    bool inverse; /* CAST to F32: store 1/x; a divisor becomes a multiplier */
    uint32_t matrix_cols; /* MARLIN: those of the matrix, and its rows are matrix_rows, as weft_arrange_extent says */
} weft_quantize_unit_t;

/* What a unit's pass found besides its output. */
typedef struct weft_quantize_result {
    bool nonfinite; /* a NaN or Inf was met; CAST: came out, of an overflow to fp16 too */
    uint32_t nonfinite_row, nonfinite_col; /* the first in row-major order of the unit */
} weft_quantize_result_t;

/* Quantize one unit.
 * **Returns** WEFT_OK (a non-finite input is reported in `result`, and `out` is then unspecified unless allowed),
 * WEFT_ERR_ARGUMENT (a dtype or profile the kernel has not). */
typedef weft_status_t (*weft_quantize_fn)(const weft_quantize_unit_t *unit, weft_quantize_result_t *result);

/* Fold max(|x|) of each row of a rows x cols rectangle into `amax` [rows] (bits of the value dtype: bf16 for BF16 and
 * F32, fp16 for F16; the caller sets them to 0 first). Integer compares only: exact, order-free.
 * **Returns** true when all finite; else false with the first non-finite element in *row, *col. */
typedef bool (*weft_amax_fn)(const void *data, size_t ld_elems, uint32_t rows, uint32_t cols, weft_dtype_t dtype,
                             uint16_t *amax, uint32_t *row, uint32_t *col);

/* The same of each column over its finite elements, for a matrix that lies transposed: `amax` [cols]. */
void weft_amax_columns(const void *data, size_t ld_elems, uint32_t rows, uint32_t cols, weft_dtype_t dtype,
                       uint16_t *amax);

/* Copy a rows x row_bytes rectangle with leading dimension `ld_bytes` into a contiguous run at `out`. */
typedef void (*weft_pack_fn)(const void *data, size_t ld_bytes, uint32_t rows, size_t row_bytes, void *out);

/* Add the words of bytes [begin, begin + bytes) of a tensor to its digest sums: word i is bytes [8i, 8i+8) of the tensor,
 * and `begin` must be a multiple of 8; a last word that is not whole is padded with zeros. The length word is added
 * by weft_digest_finish. */
typedef void (*weft_digest_fn)(const void *data, uint64_t begin, size_t bytes, weft_digest_t *sums);

typedef struct weft_kernels {
    const char *name; /* "ref", "avx2", "avx512" */
    weft_quantize_fn quantize[WEFT_KERNEL_COUNT];
    weft_amax_fn amax;
    weft_pack_fn pack;
    weft_digest_fn digest;
} weft_kernels_t;

/* The kernels of a backend by name ("ref" always exists); NULL when this build or machine has it not. */
const weft_kernels_t *weft_kernels_find(const char *name);

/* The fastest backend of this machine's processor. */
const weft_kernels_t *weft_kernels_best(void);

/* Add the length word (the unpadded length in bytes, at word index ceil(bytes/8)) and so end a digest of `bytes`. */
void weft_digest_finish(uint64_t bytes, weft_digest_t *sums);

/* The whole digest of one contiguous run. */
weft_digest_t weft_digest_run(const weft_kernels_t *kernels, const void *data, size_t bytes);

/* Give this thread the arithmetic that the kernels promise (fesetenv(FE_DFL_ENV)): a host program may have set FTZ. */
void weft_kernels_thread_begin(void);

#endif
