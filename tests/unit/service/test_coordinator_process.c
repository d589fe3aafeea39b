/* Who may speak as whom: a process that holds the session's token, and so gets as far as the coordinator's
 * mailbox. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zmq.h>

#include "src/base/clock.h"
#include "src/control/mailbox.h"
#include "src/control/message.h"
#include "src/service/coordinator_process.h"
#include "src/service/keys.h"
#include "src/service/service.h"

#define LONG_US 10000000u

static const weft_topology_t topology = {1, 1, 1};
static char dir[64], said[16384];
static weft_coordinator_process_t *process;

static void keep(void *user, weft_log_level_t level, const char *line)
{
    (void)user, (void)level;
    size_t used = strlen(said);
    snprintf(said + used, sizeof said - used, "%s\n", line);
}

static int setup(void **state)
{
    (void)state;
    if (!zmq_has("curve"))
        return 0;
    said[0] = '\0';
    strcpy(dir, "/tmp/weft-process-XXXXXX");
    if (!mkdtemp(dir) || weft_keys_write(dir, WEFT_KEYS_SERVER, NULL) != WEFT_OK ||
        weft_keys_write(dir, WEFT_KEYS_CLIENT, NULL) != WEFT_OK)
        return -1;
    const weft_coordinator_process_config_t config = {.bind = "127.0.0.1:0",
                                                      .keys = dir,
                                                      .topology = topology,
                                                      .wait_us = LONG_US,
                                                      .dead_after_us = 1500000,
                                                      .transfer_timeout_us = LONG_US,
                                                      .commit_timeout_us = LONG_US,
                                                      .log = {keep, NULL, WEFT_LOG_INFO}};
    return weft_coordinator_process_open(&config, &process, NULL) == WEFT_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[96];
    weft_coordinator_process_close(process);
    process = NULL;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static atomic_bool stop;

static void *serve(void *user)
{
    weft_error_t error;
    while (!stop)
        assert_int_equal(weft_coordinator_process_run(process, &error), WEFT_OK);
    return user;
}

/* Rank 1 joins by the door, which is served meanwhile. */
static weft_service_t *join(void)
{
    weft_service_t *service = NULL;
    weft_error_t error = {.message = ""};
    pthread_t thread;
    const weft_service_join_t wanted = {.coordinator =
                                            weft_coordinator_process_endpoint(process) + strlen("tcp://"),
                                        .keys = dir,
                                        .key_name = WEFT_KEYS_CLIENT,
                                        .rank = 1,
                                        .topology = topology,
                                        .timeout_us = LONG_US};
    stop = false;
    assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
    weft_status_t status = weft_service_open(&wanted, &service, &error);
    stop = true;
    pthread_join(thread, NULL);
    if (status != WEFT_OK)
        fail_msg("%s", error.message);
    return service;
}

static weft_mailbox_t *enter(const weft_service_t *service)
{
    weft_mailbox_t *mailbox;
    weft_mailbox_config_t config = {.rank = 1, .host = "127.0.0.1"};
    memcpy(config.token, weft_service_token(service), sizeof config.token);
    assert_int_equal(weft_mailbox_open(&config, &mailbox, NULL), WEFT_OK);
    assert_int_equal(weft_mailbox_connect(mailbox, 2, weft_service_control(service), NULL), WEFT_OK);
    return mailbox;
}

/* Whether the coordinator comes to say `text` of what is sent. */
static bool says(weft_mailbox_t *mailbox, const weft_message_t *message, const char *text, uint64_t limit_us)
{
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    uint64_t deadline_us = weft_now_us() + limit_us;
    weft_error_t error;
    weft_mailbox_send(mailbox, 2, bytes, weft_message_encode(message, bytes));
    while (!strstr(said, text) && weft_now_us() < deadline_us)
        assert_int_equal(weft_coordinator_process_run(process, &error), WEFT_OK);
    return strstr(said, text) != NULL;
}

static void test_in_whose_name(void **state)
{
    (void)state;
    if (!zmq_has("curve"))
        skip();
    weft_service_t *service = join();
    weft_mailbox_t *mailbox = enter(service);
    weft_message_t own = {.type = WEFT_MESSAGE_RANK_STATE,
                          .role = WEFT_ROLE_COORDINATOR,
                          .from = 1,
                          .to = 2,
                          .incarnation = weft_service_incarnation(service),
                          .sequence = 1};
    weft_message_t other = own, unborn = own, leaders = own;
    other.from = 0;
    unborn.incarnation++;
    leaders.role = WEFT_ROLE_LEADER;
    assert_false(says(mailbox, &own, "dropped", 200000));
    assert_true(says(mailbox, &other, "from rank 1 dropped: it speaks for rank 0", LONG_US));
    assert_true(says(mailbox, &unborn, "it speaks for rank 1, life 2", LONG_US));
    said[0] = '\0';
    assert_true(says(mailbox, &leaders, "from rank 1 dropped", LONG_US));
    weft_mailbox_close(mailbox);
    weft_service_close(service);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_in_whose_name, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
