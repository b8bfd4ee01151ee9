/* The tree that `make install` made for the README's example (make docs), and a program that knows nothing but the installed
 * library: C, C++, static, with a broker and without. */
#include "tests/support/broker.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZER "-fsanitize=address,undefined"
#elif defined(__SANITIZE_THREAD__)
#define SANITIZER "-fsanitize=thread"
#else
#define SANITIZER ""
#endif

static const char *const small[] = {"--memory", "16M", "--log-level", "error", NULL};

/* Runs a program with arguments; its exit code. */
static int run_program(void *ctx)
{
    char *const *argv = ctx;
    execvp(argv[0], argv);
    return 127;
}

START_TEST(a_program_builds_against_the_installed_library_and_shares_through_a_broker)
{
    struct broker b;
    char stage[256], dir[] = "/tmp/cairn-install-XXXXXX";
    const char *bin = getenv("CRN_BIN");
    snprintf(stage, sizeof stage, "%s/../stage", bin != NULL ? bin : "build/release/bin");
    ck_assert_msg(access(stage, R_OK) == 0, "no %s: run `make docs`", stage);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    broker_start(&b, small);
    const char *argv[] = {"tests/install/install.sh", stage, dir, b.socket, SANITIZER, NULL};
    int code = child_end(child_start(run_program, argv));
    broker_stop(&b);
    const char *clean[] = {"rm", "-rf", dir, NULL};
    ck_assert_int_eq(child_end(child_start(run_program, clean)), 0);
    ck_assert_int_eq(code, 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_program_builds_against_the_installed_library_and_shares_through_a_broker),
    };
    return run_suite("install", tests, sizeof tests / sizeof tests[0]);
}
