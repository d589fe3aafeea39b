#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "transport/transport.h"

static void test_unknown_name_lists_what_exists(void **state)
{
    (void)state;
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    assert_int_equal(weft_transport_open("carrier pigeon", &config, &transport, &error),
                     WEFT_ERR_UNKNOWN_NAME);
    assert_null(transport);
    assert_non_null(strstr(error.message, "carrier pigeon"));
    assert_non_null(strstr(error.message, "loopback"));
    assert_non_null(strstr(error.message, "mpi"));
    assert_int_equal(weft_transport_open("MPI", &config, &transport, NULL), WEFT_ERR_UNKNOWN_NAME);
}

static void test_struct_size(void **state)
{
    (void)state;
    weft_loopback_t *hub;
    assert_int_equal(weft_loopback_create(1, &hub), WEFT_OK);
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    config.loopback = hub;
    config.struct_size = 0;
    assert_int_equal(weft_transport_open("loopback", &config, &transport, &error), WEFT_ERR_ARGUMENT);
    config.struct_size = sizeof config + 8;
    assert_int_equal(weft_transport_open("loopback", &config, &transport, &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "WEFT_TRANSPORT_CONFIG"));
    assert_null(transport);

    /* From before there were deadlines: what lies behind is not read. */
    config.struct_size = offsetof(weft_transport_config_t, timeout_us);
    config.timeout_us = 1;
    assert_int_equal(weft_transport_open("loopback", &config, &transport, &error), WEFT_OK);
    assert_int_equal(weft_transport_rank(transport), 0);
    assert_int_equal(weft_transport_num_ranks(transport), 1);
    assert_ptr_equal(weft_transport_table(transport), &weft_loopback_ops);
    weft_transport_close(transport);
    weft_transport_close(NULL);
    weft_loopback_destroy(hub);
}

static void test_mpi_needs_mpi(void **state)
{
    (void)state;
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    assert_int_equal(weft_transport_open("mpi", &config, &transport, &error), WEFT_ERR_ARGUMENT);
    assert_null(transport);
    assert_non_null(strstr(error.message, "MPI_Init_thread"));
}

static void test_arguments(void **state)
{
    (void)state;
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *transport = NULL;
    assert_int_equal(weft_transport_open(NULL, &config, &transport, NULL), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_open("loopback", NULL, &transport, NULL), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_open("loopback", &config, NULL, NULL), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_open("loopback", &config, &transport, NULL), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_timeout_us(&config), 30000000);
    config.timeout_us = 5;
    assert_int_equal(weft_transport_timeout_us(&config), 5);
}

static void test_check_group(void **state)
{
    (void)state;
    weft_transport_base_t base = {NULL, 2, 5};
    const uint32_t good[] = {4, 2, 0}, twice[] = {4, 2, 4}, beyond[] = {2, 5}, without[] = {0, 1};
    uint32_t position = 77;
    weft_error_t error;
    assert_int_equal(weft_transport_check_group(&base, 1, twice, 3, &position, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_check_group(&base, 1, beyond, 2, &position, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_check_group(&base, 1, without, 2, &position, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_check_group(&base, 1, good, 0, &position, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_transport_check_group(&base, WEFT_MAX_GROUPS, good, 3, &position, &error),
                     WEFT_ERR_ARGUMENT);
    assert_int_equal(position, 77);
    assert_int_equal(weft_transport_check_group(&base, WEFT_MAX_GROUPS - 1, good, 3, &position, &error),
                     WEFT_OK);
    assert_int_equal(position, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_name_lists_what_exists),
        cmocka_unit_test(test_struct_size),
        cmocka_unit_test(test_mpi_needs_mpi),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_check_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
