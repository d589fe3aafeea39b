#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "src/place/place_private.h"

/* CPUs 0-5 on NUMA 0 and 6-11 on NUMA 1, two to a core; a GPU on each, a third on neither. */
#define TWO_PACKAGES   (WEFT_SOURCE_DIR "/tests/unit/place/two_packages.xml")
#define GPU_ON_FIRST   "0000:17:00.0"
#define GPU_ON_SECOND  "0000:b1:00.0"
#define GPU_ON_NEITHER "0000:f1:00.0"

static weft_place_t *open_on(weft_place_machine_t machine, const char *gpu)
{
    weft_place_t *place = NULL;
    weft_error_t error;
    assert_int_equal(weft_place_open_on(&machine, gpu, &place, &error), WEFT_OK);
    assert_non_null(place);
    return place;
}

static weft_place_t *two_packages(const char *allowed, const char *gpu)
{
    return open_on((weft_place_machine_t){.xml_file = TWO_PACKAGES, .allowed = allowed}, gpu);
}

static void expect_text(const weft_place_t *place, const char *expected)
{
    char line[WEFT_PLACE_TEXT_BYTES];
    assert_ptr_equal(weft_place_text(place, line), line);
    assert_string_equal(line, expected);
}

/* What the line says once a thread and a page were bound, where that is possible. */
static void expect_bound(weft_place_t *place, const char *expected)
{
    char page[4096];
    weft_place_bind_thread(place);
    weft_place_bind_memory(place, page, sizeof page);
    expect_text(place, expected);
    weft_place_close(place);
}

static void test_a_thread_goes_to_the_package_of_its_gpu(void **state)
{
    (void)state;
    weft_place_t *place = two_packages("0-11", GPU_ON_SECOND);
    expect_text(place, "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread not yet bound to 6-11");
    weft_place_bind_thread(place);
    expect_text(place, "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread on 6-11");
    expect_bound(place,
                 "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread on 6-11; pinned memory on NUMA 1");
    expect_bound(two_packages(NULL, GPU_ON_FIRST),
                 "GPU 0000:17:00.0 on NUMA 0, CPUs 0-5; progress thread on 0-5; pinned memory on NUMA 0");
}

static void test_an_id_may_be_spelt_as_cuda_or_nvml_do(void **state)
{
    (void)state;
    expect_bound(two_packages(NULL, "0000:B1:00.0"),
                 "GPU 0000:B1:00.0 on NUMA 1, CPUs 6-11; progress thread on 6-11; pinned memory on NUMA 1");
    expect_bound(
        two_packages(NULL, "00000000:B1:00.0"),
        "GPU 00000000:B1:00.0 on NUMA 1, CPUs 6-11; progress thread on 6-11; pinned memory on NUMA 1");
}

static void test_only_where_the_process_may_run(void **state)
{
    (void)state;
    expect_bound(two_packages("0-1,6,8", GPU_ON_SECOND),
                 "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread on 6,8; pinned memory on NUMA 1");
    expect_bound(
        two_packages("0-5", GPU_ON_SECOND),
        "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread left on 0-5, none of them near: let the "
        "launcher bind the process to the GPU's CPUs; pinned memory on NUMA 1");
    expect_bound(two_packages("6-11,64-127", GPU_ON_SECOND), /* beyond the machine */
                 "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread on 6-11; pinned memory on NUMA 1");
}

static void test_a_single_core_only_when_the_launcher_chose_it(void **state)
{
    (void)state;
    expect_bound(
        two_packages("0-7", GPU_ON_SECOND),
        "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread left on 0-7, of which a single core is "
        "near; pinned memory on NUMA 1");
    expect_bound(two_packages("6-7", GPU_ON_SECOND),
                 "GPU 0000:b1:00.0 on NUMA 1, CPUs 6-11; progress thread on 6-7; pinned memory on NUMA 1");
}

static void test_left_alone_when_all_is_as_near(void **state)
{
    (void)state;
    expect_bound(two_packages(NULL, GPU_ON_NEITHER),
                 "GPU 0000:f1:00.0 is equally near to all CPUs; progress thread left on 0-11");
    expect_bound(two_packages("2-3", GPU_ON_NEITHER),
                 "GPU 0000:f1:00.0 is equally near to all CPUs; progress thread left on 2-3");
}

static void test_left_alone_without_the_gpu(void **state)
{
    (void)state;
    expect_bound(two_packages("0-3", NULL), "no GPU; progress thread left on 0-3");
    expect_bound(two_packages(NULL, "0000:99:00.0"),
                 "GPU 0000:99:00.0 is not in the machine's topology; progress thread left on 0-11");
    expect_bound(two_packages(NULL, "nonsense"),
                 "GPU nonsense is not in the machine's topology; progress thread left on 0-11");
    expect_bound(open_on((weft_place_machine_t){.synthetic = "pack:1 [numa] core:4 pu:1"}, GPU_ON_FIRST),
                 "GPU 0000:17:00.0 is not in the machine's topology; progress thread left on 0-3");
}

static void test_a_machine_that_cannot_be_read_is_no_error(void **state)
{
    (void)state;
    expect_bound(open_on((weft_place_machine_t){.synthetic = "nonsense:("}, GPU_ON_FIRST),
                 "the machine's topology cannot be read");
    expect_bound(open_on((weft_place_machine_t){.xml_file = "/nonexistent.xml"}, NULL),
                 "the machine's topology cannot be read");
    weft_place_close(NULL);
}

static void test_a_long_list_ends_in_dots(void **state)
{
    (void)state;
    char allowed[4096] = "0", line[WEFT_PLACE_TEXT_BYTES];
    for (unsigned cpu = 2; cpu < 512; cpu += 2)
        snprintf(allowed + strlen(allowed), sizeof allowed - strlen(allowed), ",%u", cpu);
    weft_place_machine_t machine = {.synthetic = "pack:4 [numa] core:128 pu:1", .allowed = allowed};
    weft_place_t *place = open_on(machine, NULL);
    weft_place_text(place, line);
    assert_memory_equal(line, "no GPU; progress thread left on 0,2,4,", 38);
    assert_string_equal(line + strlen(line) - 3, "...");
    weft_place_close(place);
}

/* ---- this machine ---- */

static cpu_set_t affinity(void)
{
    cpu_set_t cpus;
    assert_int_equal(sched_getaffinity(0, sizeof cpus, &cpus), 0);
    return cpus;
}

static void test_nothing_moves_here_without_a_gpu(void **state)
{
    (void)state;
    cpu_set_t before = affinity();
    weft_place_t *place = NULL;
    char line[WEFT_PLACE_TEXT_BYTES];
    assert_int_equal(weft_place_open(NULL, &place, NULL), WEFT_OK);
    weft_place_bind_thread(place);
    assert_memory_equal(weft_place_text(place, line), "no GPU; progress thread left on ", 32);
    cpu_set_t after = affinity();
    assert_true(CPU_EQUAL(&before, &after));
    weft_place_close(place);
}

/* Whether a device of this machine is a network or display adapter or storage, by its class in sysfs. */
static bool is_important(const char *pci_bus_id)
{
    char path[512];
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/class", pci_bus_id);
    unsigned class = 0;
    FILE *file = fopen(path, "r");
    bool known = file && fscanf(file, "%x", &class) == 1;
    if (file)
        fclose(file);
    return known && class >> 16 >= 1 && class >> 16 <= 3;
}

static void test_a_device_of_this_machine_is_found(void **state)
{
    (void)state;
    DIR *devices = opendir("/sys/bus/pci/devices");
    struct dirent *entry = NULL;
    while (devices && (entry = readdir(devices)) && !is_important(entry->d_name))
        ;
    if (!entry) {
        if (devices)
            closedir(devices);
        print_message("skipped: needs a machine with PCI devices\n");
        skip();
    }
    weft_place_t *place = NULL;
    char line[WEFT_PLACE_TEXT_BYTES];
    assert_int_equal(weft_place_open(entry->d_name, &place, NULL), WEFT_OK);
    assert_non_null(strstr(weft_place_text(place, line), entry->d_name));
    assert_null(strstr(line, "not in the machine's topology"));
    weft_place_close(place);
    closedir(devices);
}

/* Binds itself as if this were the recorded machine, and returns where it may run then. */
static void *bound_thread(void *argument)
{
    weft_place_t *place = argument;
    weft_place_bind_thread(place);
    cpu_set_t *cpus = malloc(sizeof *cpus);
    if (cpus)
        sched_getaffinity(0, sizeof *cpus, cpus);
    return cpus;
}

static void test_a_thread_is_really_bound(void **state)
{
    (void)state;
    cpu_set_t before = affinity(), expected;
    CPU_ZERO(&expected);
    CPU_SET(0, &expected);
    if (!CPU_ISSET(0, &before) || CPU_COUNT(&before) == 1) {
        print_message("skipped: needs CPU 0 and another one\n");
        skip();
    }
    weft_place_t *place =
        open_on((weft_place_machine_t){.xml_file = TWO_PACKAGES, .allowed = "0", .bind = true}, GPU_ON_FIRST);
    pthread_t thread;
    void *cpus;
    assert_int_equal(pthread_create(&thread, NULL, bound_thread, place), 0);
    assert_int_equal(pthread_join(thread, &cpus), 0);
    assert_non_null(cpus);
    assert_true(CPU_EQUAL((cpu_set_t *)cpus, &expected));
    free(cpus);
    expect_text(place, "GPU 0000:17:00.0 on NUMA 0, CPUs 0-5; progress thread on 0");
    cpu_set_t after = affinity();
    assert_true(CPU_EQUAL(&before, &after)); /* the calling thread only */
    weft_place_close(place);
}

/* Whatever rights there are, the bytes stay and the line says how it went. */
static void test_memory_keeps_its_bytes(void **state)
{
    (void)state;
    size_t bytes = 1 << 20;
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    memset(memory, 0x5A, bytes);
    weft_place_t *place =
        open_on((weft_place_machine_t){.xml_file = TWO_PACKAGES, .bind = true}, GPU_ON_FIRST);
    weft_place_bind_memory(place, memory + 100, bytes - 200);
    char line[WEFT_PLACE_TEXT_BYTES];
    assert_non_null(strstr(weft_place_text(place, line), "; pinned memory "));
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(memory[i], 0x5A);
    weft_place_close(place);
    munmap(memory, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_thread_goes_to_the_package_of_its_gpu),
        cmocka_unit_test(test_an_id_may_be_spelt_as_cuda_or_nvml_do),
        cmocka_unit_test(test_only_where_the_process_may_run),
        cmocka_unit_test(test_a_single_core_only_when_the_launcher_chose_it),
        cmocka_unit_test(test_left_alone_when_all_is_as_near),
        cmocka_unit_test(test_left_alone_without_the_gpu),
        cmocka_unit_test(test_a_machine_that_cannot_be_read_is_no_error),
        cmocka_unit_test(test_a_long_list_ends_in_dots),
        cmocka_unit_test(test_nothing_moves_here_without_a_gpu),
        cmocka_unit_test(test_a_device_of_this_machine_is_found),
        cmocka_unit_test(test_a_thread_is_really_bound),
        cmocka_unit_test(test_memory_keeps_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
