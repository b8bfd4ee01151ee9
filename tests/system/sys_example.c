/* docs/example.c, built against what `make install` makes: the first run publishes, the second one reads it in place. */
#include "tests/support/broker.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* First line of what the example prints; its exit code has to be the wanted one. */
static void run_example(const char *socket, int want_code, char line[128])
{
    char command[512];
    snprintf(command, sizeof command, "CAIRN_SOCKET=%s %s 2>&1", socket, paths_bin("cairn-example"));
    FILE *pipe = popen(command, "re");
    ck_assert_ptr_nonnull(pipe);
    line[0] = '\0';
    ck_assert_ptr_nonnull(fgets(line, 128, pipe));
    int status = pclose(pipe);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == want_code, "%s", line);
}

START_TEST(the_first_run_publishes_and_the_second_attaches)
{
    struct broker broker;
    char line[128];
    broker_start(&broker, NULL);
    run_example(broker.socket, 0, line);
    ck_assert_msg(strncmp(line, "published entry ", 16) == 0, "%s", line);
    run_example(broker.socket, 0, line);
    ck_assert_msg(strncmp(line, "attached 128 rows, in place", 27) == 0, "%s", line);
    broker_stop(&broker);
}
END_TEST

START_TEST(without_a_broker_it_says_so)
{
    char line[128];
    run_example("/nonexistent/cairn.sock", 1, line);
    ck_assert_ptr_nonnull(strstr(line, cairn_strerror(CAIRN_E_GONE)));
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(the_first_run_publishes_and_the_second_attaches),
        RUN_TEST(without_a_broker_it_says_so),
    };
    return run_suite("example", tests, sizeof tests / sizeof tests[0]);
}
