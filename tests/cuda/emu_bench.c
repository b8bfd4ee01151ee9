/* The benchmarks of a device on the emulated one: every program runs to its end at toy size, and none of them gives a figure. */
#include "tests/support/dev_share.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/run.h"

#include "ipc/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct {
    const char *name, *argument; /* beside the programs of the emulated device */
    unsigned figures;
} benches[] = {
    {"../bench/gpu_attach", NULL, 2},
    {"../bench/gpu_tiers", NULL, 4},
    {"../bench/gpu_batch", NULL, 2},
    {"../../../../tools/dev/bench-gpu.py", "prefill", 2},
};
#define N_BENCHES (sizeof benches / sizeof *benches)

static long recorded(void)
{
    struct stat st;
    return stat("build/bench/results.jsonl", &st) == 0 ? (long)st.st_size : 0;
}

START_TEST(a_benchmark_runs_through_and_refuses_figures)
{
    static const char refusal[] = ": timing refused on cuda-emu\n";
    const char *const arguments[] = {benches[_i].argument, NULL};
    char folder[512];
    unsigned n = 0;
    long before = recorded();
    snprintf(folder, sizeof folder, "%s", paths_bin("../bench"));
    setenv("CRN_GPU_BENCH", folder, 1);
    struct program p = program_run(benches[_i].name, arguments);
    ck_assert_msg(p.code == 0, "exit code %d: %s%s", p.code, p.out, p.err);
    for (const char *at = p.out; (at = strstr(at, refusal)) != NULL; at++)
        n++;
    ck_assert_msg(n >= benches[_i].figures && strstr(p.out, "ratio") == NULL, "%u figures refused: %s", n, p.out);
    ck_assert_int_eq(recorded(), before);
    program_free(&p);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {RUN_LOOP(a_benchmark_runs_through_and_refuses_figures, N_BENCHES)};
    crn_log_setup("cuda_emu_bench", CRN_LOG_WARN);
    dev_programs();
    return run_suite("cuda_emu_bench", tests, 1);
}
