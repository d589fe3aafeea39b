/* Row maxima against a plain loop in double. */
#include "fixture.h"

static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};

static weft_dtype_t value_dtype(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : WEFT_DTYPE_BF16;
}

/* Check one row, and return its first element that is not finite, or `cols`. */
static uint32_t check_row(const matrix_t *matrix, uint32_t row, uint32_t cols, uint16_t found)
{
    double amax = 0;
    uint32_t first = cols;
    for (uint32_t col = 0; col < cols; col++) {
        double value = element_value(matrix->dtype, matrix->data, (size_t)row * matrix->cols + col);
        if (isfinite(value))
            amax = fmax(amax, fabs(value));
        else if (first == cols)
            first = col;
    }
    assert_true(decode_value(value_dtype(matrix->dtype), found) == amax);
    return first;
}

static void check_matrix(const matrix_t *matrix, uint32_t cols)
{
    uint16_t amax[128] = {0};
    uint32_t row = UINT32_MAX, col = UINT32_MAX, first_row = UINT32_MAX, first_col = UINT32_MAX;
    bool finite =
        tested->amax(matrix->data, matrix->cols, matrix->rows, cols, matrix->dtype, amax, &row, &col);
    for (uint32_t i = 0; i < matrix->rows; i++) {
        uint32_t first = check_row(matrix, i, cols, amax[i]);
        if (first < cols && first_row == UINT32_MAX)
            first_row = i, first_col = first;
    }
    assert_int_equal(finite, first_row == UINT32_MAX);
    assert_int_equal(row, first_row);
    assert_int_equal(col, first_col);
}

static void random_rectangles(void **state)
{
    (void)state;
    random_begin("random_rectangles");
    for (int i = 0; i < 120; i++) {
        matrix_t matrix = matrix_random(dtypes[i % 3], random_in(1, 128), random_in(1, 400));
        check_matrix(&matrix, random_in(1, matrix.cols));
        free(matrix.data);
    }
}

/* Any bits at all: subnormals, zeros, NaN, Inf. */
static void random_bits(void **state)
{
    (void)state;
    random_begin("random_bits");
    for (int i = 0; i < 120; i++) {
        matrix_t matrix = matrix_create(dtypes[i % 3], random_in(1, 20), random_in(1, 300));
        for (uint32_t n = 0; n < matrix.rows * matrix.cols; n++)
            matrix_set_bits(&matrix, n, (uint32_t)random_u64());
        check_matrix(&matrix, matrix.cols);
        free(matrix.data);
    }
}

/* Columns of a matrix are the rows of the transposed one; what is not finite counts for nothing. */
static void columns(void **state)
{
    (void)state;
    random_begin("columns");
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_create(dtypes[i % 3], random_in(1, 40), random_in(1, 300));
        uint16_t amax[300] = {0};
        uint32_t cols = random_in(1, matrix.cols);
        for (uint32_t n = 0; n < matrix.rows * matrix.cols; n++)
            matrix_set_bits(&matrix, n, (uint32_t)random_u64());
        weft_amax_columns(matrix.data, matrix.cols, matrix.rows, cols, matrix.dtype, amax);
        for (uint32_t col = 0; col < cols; col++) {
            double most = 0;
            for (uint32_t row = 0; row < matrix.rows; row++) {
                double value = element_value(matrix.dtype, matrix.data, (size_t)row * matrix.cols + col);
                most = isfinite(value) ? fmax(most, fabs(value)) : most;
            }
            assert_true(decode_value(value_dtype(matrix.dtype), amax[col]) == most);
        }
        free(matrix.data);
    }
}

static void folds_into_what_is_there(void **state)
{
    (void)state;
    const uint16_t data[2] = {0x3F80, 0x8000}; /* 1, -0 */
    uint16_t amax[2] = {0x3F00, 0x0001};
    uint32_t row, col;
    assert_true(tested->amax(data, 1, 2, 1, WEFT_DTYPE_BF16, amax, &row, &col));
    assert_int_equal(amax[0], 0x3F80);
    assert_int_equal(amax[1], 0x0001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rectangles),
        cmocka_unit_test(random_bits),
        cmocka_unit_test(columns),
        cmocka_unit_test(folds_into_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
