/* common - what the benchmarks share: time, samples, the machine, and how a figure is written down.
 *
 * A figure compares two series taken in turns in the same run (A, B, A, B, ...), so that a machine
 * that gets slower slows both. It becomes a line of a table on stdout and one JSON line appended to
 * build/bench/results.jsonl, from which tools/dev/bench-report.py makes docs/benchmarks.md.
 * tools/dev/bench_common.py writes the same lines from Python. Out of memory or a file that cannot
 * be written ends the program: a benchmark has nobody to report to. */
#ifndef CRN_BENCH_COMMON_H
#define CRN_BENCH_COMMON_H

#include <stddef.h>
#include <stdint.h>

double bench_now_s(void); /* CLOCK_MONOTONIC: comparable between processes */

/* 1 when CAIRN_BENCH_QUICK is set: small sizes, few repetitions. */
int bench_quick(void);
uint64_t bench_seed(void); /* CAIRN_BENCH_SEED, default 1 */

/* Prints a line on stderr and ends the program when status is not 0. */
void bench_must(int status, const char *what);

struct bench_samples {
    double *at;
    size_t n, capacity;
};
void bench_sample(struct bench_samples *s, double value);
double bench_quantile(const struct bench_samples *s,
                      double q); /* 0..1, nearest rank; 0 without samples */
void bench_samples_free(struct bench_samples *s);

/* What the goal is about. */
enum bench_goal { BENCH_GOAL_NONE, BENCH_GOAL_RATIO, BENCH_GOAL_MEDIAN, BENCH_GOAL_P99 };

struct bench_figure {
    const char *group; /* "attach": which benchmark */
    const char *name;  /* unique: what is shown in tables */
    const char *unit;  /* of the samples: "us", "s", "GB/s" */
    const struct bench_samples *own;
    const char *baseline;              /* what the other series is; NULL: none */
    const struct bench_samples *other; /* the baseline's */
    int inverse;                       /* 0: ratio = own / baseline, 1: baseline / own */
    enum bench_goal goal_on;
    int at_least; /* 1: value >= goal is met, 0: value <= goal */
    double goal;
    const char *note; /* one line, may be NULL */
};
/* Writes the figure; the first one also writes who and where. */
void bench_report(const struct bench_figure *figure);

/* What a device's figures say beside the machine; names are copied. */
void bench_device_is(const char *gpu, const char *driver);
/* From now on figures are refused: one line each says so and why, and nothing is written. */
void bench_refuse(const char *why);

#endif
