/* broker/config: flag beats environment beats file beats default, and whatever is wrong is said in one line. */
#include "broker/config.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct crn_config config;
static char said[1024];

#define LOAD(...) load((const char *const[]){"cairnd", __VA_ARGS__, NULL})

/* Status of crn_config_load; what it says is in `said`. */
static int load(const char *const argv[])
{
    int argc = 0;
    while (argv[argc] != NULL)
        argc++;
    memset(said, 0, sizeof said);
    FILE *errors = fmemopen(said, sizeof said - 1, "w");
    ck_assert_ptr_nonnull(errors);
    crn_config_free(&config);
    int status = crn_config_load(argc, (char *const *)(const void *)argv, errors, &config);
    fclose(errors);
    return status;
}

static const char *file_of(const char *text)
{
    static char path[128];
    paths_tmp();
    atexit(paths_tmp_remove);
    snprintf(path, sizeof path, "%s", paths_tmp_file("cairnd.conf"));
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
    return path;
}

START_TEST(defaults_are_complete)
{
    unsetenv("XDG_RUNTIME_DIR");
    ck_assert_int_eq(load((const char *const[]){"cairnd", NULL}), 0);
    char expected[64];
    snprintf(expected, sizeof expected, "/tmp/cairn-%u/cairn.sock", (unsigned)getuid());
    ck_assert_str_eq(config.socket, expected);
    ck_assert_uint_gt(config.memory_bytes, 0);
    ck_assert_uint_le(config.arena_bytes, config.memory_bytes);
    ck_assert_uint_eq(config.n_spaces, 1);
    ck_assert_str_eq(config.spaces[0].name, "default");
    ck_assert_uint_eq(config.spaces[0].memory_bytes, config.memory_bytes);
    ck_assert(crn_config_space_allows(&config.spaces[0], getuid()));
    ck_assert(!crn_config_space_allows(&config.spaces[0], getuid() + 1));
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    ck_assert_int_eq(load((const char *const[]){"cairnd", NULL}), 0);
    ck_assert_str_eq(config.socket, "/run/user/7/cairn/cairn.sock");
}
END_TEST

START_TEST(the_strongest_source_wins)
{
    const char *file = file_of("# a comment\n\n memory = 40M \nlease-ttl=5s\nlog-level = debug\n");
    setenv("CAIRN_MEMORY", "50M", 1);
    setenv("CAIRN_LEASE_TTL", "7s", 1);
    ck_assert_int_eq(LOAD("--memory", "60M", "--config", file), 0);
    ck_assert_uint_eq(config.memory_bytes, 60ull << 20);
    ck_assert_uint_eq(config.lease_ttl_ms, 7000);
    ck_assert_uint_eq(config.log_level, CRN_LOG_DEBUG);
    ck_assert_uint_eq(config.max_sessions, 256);
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    crn_config_print(&config, to);
    fclose(to);
    ck_assert_ptr_nonnull(strstr(text, "memory = 62914560    # flag\n"));
    ck_assert_ptr_nonnull(strstr(text, "lease-ttl = 7000ms    # environment\n"));
    ck_assert_ptr_nonnull(strstr(text, "log-level = debug    # file\n"));
    ck_assert_ptr_nonnull(strstr(text, "max-sessions = 256    # default\n"));
    free(text);
}
END_TEST

START_TEST(sizes_have_units)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0}, {"4096", 4096}, {"1K", 1024}, {"64M", 64u << 20}, {"2GiB", 2ull << 30},
                {"3t", 3ull << 40}, {"5GB", 5ull << 30}};
    static const char *const bad[] = {"", "M", "-1", "1.5G", "1X", "1MM", "1 M", "0x10",
                                      "99999999999999999999", "18014398509481984K", "12iB"};
    uint64_t bytes = 7;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_int_eq(crn_config_parse_size(good[i].text, &bytes), 0);
        ck_assert_uint_eq(bytes, good[i].bytes);
    }
    bytes = 7;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(crn_config_parse_size(bad[i], &bytes) == CAIRN_E_ARG, "%s", bad[i]);
    ck_assert_uint_eq(bytes, 7);
}
END_TEST

START_TEST(what_is_wrong_is_one_line_that_names_it)
{
    static const char *const wrong[][3] = {
        {"--frobnicate", NULL, "--frobnicate"}, {"memory", "1G", "memory"},
        {"--memory", NULL, "--memory"},         {"--memory", "lots", "lots"},
        {"--memory", "4K", "4K"},               {"--lease-ttl", "1d", "1d"},
        {"--copy-threads", "0", "0"},           {"--copy-threads", "2x", "2x"},
        {"--max-sessions", "5000", "5000"},     {"--log-level", "loud", "loud"},
        {"--namespace", "a b", "a b"},          {"--namespace", "a:uid=", "a:uid="},
        {"--namespace", "a:gid=1", "a:gid=1"},  {"--namespace", "a:memory=1", "a"},
        {"--socket", "", "--socket"},           {"--print-config=1", NULL, "--print-config"},
        {"--config", "/nonexistent/x", "/nonexistent/x"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *argv[] = {"cairnd", wrong[i][0], wrong[i][1], NULL};
        ck_assert_msg(load(argv) < 0, "%s %s was taken", wrong[i][0], wrong[i][1]);
        ck_assert_msg(strstr(said, wrong[i][2]) != NULL, "`%s` does not name %s", said,
                      wrong[i][2]);
        ck_assert_msg(strchr(said, '\n') == said + strlen(said) - 1, "not one line: %s", said);
    }
}
END_TEST

START_TEST(a_bad_line_of_the_file_is_named_by_its_number)
{
    ck_assert_int_lt(LOAD("--config", file_of("memory = 40M\n\ncolour = red\n")), 0);
    ck_assert_ptr_nonnull(strstr(said, "cairnd.conf:3: "));
    ck_assert_int_lt(LOAD("--config", file_of("memory = 40M\nmemory\n")), 0);
    ck_assert_ptr_nonnull(strstr(said, "cairnd.conf:2: "));
    ck_assert_int_lt(LOAD("--config", file_of("lease-ttl = never\n")), 0);
    ck_assert_ptr_nonnull(strstr(said, "cairnd.conf:1: lease-ttl"));
}
END_TEST

START_TEST(namespaces_share_what_is_left)
{
    ck_assert_int_eq(LOAD("--memory", "100M", "--namespace", "a:uid=1,2:memory=40M", "--namespace",
                          "b", "--namespace=c:uid=3"),
                     0);
    ck_assert_uint_eq(config.n_spaces, 3);
    ck_assert_uint_eq(config.spaces[0].memory_bytes, 40u << 20);
    ck_assert_uint_eq(config.spaces[1].memory_bytes, 30u << 20);
    ck_assert(crn_config_space_allows(&config.spaces[0], 2));
    ck_assert(!crn_config_space_allows(&config.spaces[0], 3));
    ck_assert(crn_config_space_allows(&config.spaces[1], getuid()));
    ck_assert_int_lt(LOAD("--memory", "100M", "--namespace", "a:memory=101M"), 0);
    ck_assert_int_lt(LOAD("--memory", "100M", "--namespace", "a", "--namespace", "a"), 0);
    ck_assert_int_lt(LOAD("--memory", "100M", "--arena-size", "200M"), 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(defaults_are_complete),
        RUN_TEST(the_strongest_source_wins),
        RUN_TEST(sizes_have_units),
        RUN_TEST(what_is_wrong_is_one_line_that_names_it),
        RUN_TEST(a_bad_line_of_the_file_is_named_by_its_number),
        RUN_TEST(namespaces_share_what_is_left),
    };
    return run_suite("broker_config", tests, sizeof tests / sizeof *tests);
}
