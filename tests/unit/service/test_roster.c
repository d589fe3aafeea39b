/* The state file: what was written is what is read, and a file that was cut or changed is refused. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/service/roster.h"

static char path[64], command[128];
static const weft_topology_t topology = {2, 2, 2};

static int setup(void **state)
{
    (void)state;
    strcpy(path, "/tmp/weft-roster-XXXXXX");
    if (!mkdtemp(path))
        return -1;
    snprintf(command, sizeof command, "rm -rf %s", path);
    strcat(path, "/state");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return system(command);
}

static weft_status_t open_roster(weft_roster_t *roster)
{
    weft_error_t error = {.message = ""};
    return weft_roster_open(path, &topology, roster, &error);
}

static void fill(weft_roster_t *roster)
{
    uint8_t life[WEFT_LIFE_BYTES];
    memset(life, 0xab, sizeof life);
    roster->term = 5;
    roster->epoch = 7;
    roster->plan_known = true;
    roster->plan_hash = (weft_digest_t){{0x0123456789abcdef, 42}};
    strcpy(roster->control, "tcp://127.0.0.1:7001");
    weft_roster_admit(roster, 3, life);
    strcpy(roster->peers[3].endpoint, "tcp://127.0.0.1:4000");
    assert_int_equal(weft_roster_save(roster, NULL), WEFT_OK);
}

static void test_round_trip(void **state)
{
    (void)state;
    weft_roster_t first, second;
    assert_int_equal(open_roster(&first), WEFT_OK);
    fill(&first);
    close(first.lock);
    first.lock = -1;
    assert_int_equal(open_roster(&second), WEFT_OK);
    assert_memory_equal(first.token, second.token, sizeof first.token);
    assert_memory_equal(&first.plan_hash, &second.plan_hash, sizeof first.plan_hash);
    assert_true(second.plan_known);
    assert_string_equal(first.control, second.control);
    assert_int_equal(second.term, 5);
    assert_int_equal(second.epoch, 7);
    assert_memory_equal(first.peers, second.peers, weft_topology_ranks(&topology) * sizeof *first.peers);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    weft_roster_close(&first);
    weft_roster_close(&second);
}

static void test_one_at_a_time(void **state)
{
    (void)state;
    weft_roster_t first, second;
    assert_int_equal(open_roster(&first), WEFT_OK);
    assert_int_equal(open_roster(&second), WEFT_ERR_IO);
    weft_roster_close(&second);
    weft_roster_close(&first);
    assert_int_equal(open_roster(&second), WEFT_OK);
    weft_roster_close(&second);
}

static void write_state(const char *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), bytes);
    close(fd);
}

static void test_damage(void **state)
{
    (void)state;
    char text[4096], changed[4096];
    weft_roster_t roster;
    assert_int_equal(open_roster(&roster), WEFT_OK);
    fill(&roster);
    weft_roster_close(&roster);
    int fd = open(path, O_RDONLY);
    ssize_t bytes = read(fd, text, sizeof text);
    close(fd);
    assert_true(bytes > 0 && (size_t)bytes < sizeof text);
    for (ssize_t cut = 0; cut < bytes; cut++) {
        write_state(text, (size_t)cut);
        assert_int_equal(open_roster(&roster), WEFT_ERR_FILE);
        weft_roster_close(&roster);
    }
    for (ssize_t at = 0; at < bytes; at++) {
        memcpy(changed, text, (size_t)bytes);
        changed[at] ^= 1;
        write_state(changed, (size_t)bytes);
        assert_int_equal(open_roster(&roster), WEFT_ERR_FILE);
        weft_roster_close(&roster);
    }
    write_state(text, (size_t)bytes);
    assert_int_equal(open_roster(&roster), WEFT_OK);
    weft_roster_close(&roster);
}

/* The file holds the session's token. */
static void test_other_users(void **state)
{
    (void)state;
    weft_roster_t roster;
    assert_int_equal(open_roster(&roster), WEFT_OK);
    weft_roster_close(&roster);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(open_roster(&roster), WEFT_ERR_IO);
    weft_roster_close(&roster);
    assert_int_equal(chmod(path, 0600), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_int_equal(open_roster(&roster), WEFT_ERR_IO);
        weft_roster_close(&roster);
    }
}

static void test_other_topology(void **state)
{
    (void)state;
    weft_roster_t roster;
    weft_error_t error;
    const weft_topology_t other = {2, 4, 1};
    assert_int_equal(open_roster(&roster), WEFT_OK);
    weft_roster_close(&roster);
    assert_int_equal(weft_roster_open(path, &other, &roster, &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "another file"));
    weft_roster_close(&roster);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_users, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_topology, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
