/* ipc/status: every code has a name and a text, and none hides an errno. */
#include "tests/support/run.h"

#include "ipc/cairn_status.h"

#include <errno.h>

START_TEST(every_code_has_its_own_name_and_text)
{
#define EXPECT(name, number, text)                                                                 \
    ck_assert_str_eq(cairn_strerror(CAIRN_E_##name), text);                                        \
    ck_assert_str_eq(cairn_errname(number), "CAIRN_E_" #name);
    CAIRN_STATUS_MAP(EXPECT)
}
END_TEST

START_TEST(errno_values_pass_through)
{
    ck_assert_str_eq(cairn_strerror(-ENOSPC), "No space left on device");
    ck_assert_str_eq(cairn_errname(-ENOSPC), "ENOSPC");
}
END_TEST

START_TEST(unknown_codes_of_newer_peers_are_tolerated)
{
    ck_assert_str_eq(cairn_strerror(-4999), "unknown status");
    ck_assert_str_eq(cairn_errname(-4999), "?");
    ck_assert_str_eq(cairn_errname(17), "?");
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(every_code_has_its_own_name_and_text),
        RUN_TEST(errno_values_pass_through),
        RUN_TEST(unknown_codes_of_newer_peers_are_tolerated),
    };
    return run_suite("ipc_status", tests, sizeof tests / sizeof *tests);
}
