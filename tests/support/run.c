/* The frame of every test program. Check forks each test and kills it, with its children, after the timeout. */
#include "tests/support/run.h"

#include <stdlib.h>

int run_suite(const char *name, const struct run_test *tests, size_t n_tests)
{
    const char *timeout = getenv("CRN_TEST_TIMEOUT");
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, timeout != NULL ? strtod(timeout, NULL) : 120.0);
    for (size_t i = 0; i < n_tests; i++) {
        if (tests[i].loops > 1)
            tcase_add_loop_test(tcase, tests[i].test, 0, tests[i].loops);
        else
            tcase_add_test(tcase, tests[i].test);
    }
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
