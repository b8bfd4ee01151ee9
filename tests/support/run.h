/* run - the frame of every test program: one suite, one line `100%: Checks: 12, Failures: 0, Errors: 0` at the end. */
#ifndef CRN_TESTS_RUN_H
#define CRN_TESTS_RUN_H

#include <check.h>
#include <stddef.h>

struct run_test {
    const TTest *test;
    int loops; /* 0 or 1: once; n: a loop test, `_i` walks 0 .. n-1 */
};

#define RUN_TEST(name) { (name), 1 }
#define RUN_LOOP(name, n) { (name), (int)(n) }

/* Runs the tests of one suite. CRN_TEST_TIMEOUT (seconds, default 120) applies to each. Returns the exit code of main. */
int run_suite(const char *name, const struct run_test *tests, size_t n_tests);

#endif
