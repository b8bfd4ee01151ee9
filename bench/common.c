/* Samples, the machine and the two forms of a figure. The machine is read from /proc and uname, the
 * commit from git; what cannot be had is "unknown", never an error. It does not decide what is
 * measured, nor how often. */
#include "bench/common.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define RESULTS "build/bench/results.jsonl"

struct machine {
    char cpu[96], flags[160], kernel[96], commit[48];
    long cores;
};

static char gpu_name[96], gpu_driver[48], refused[96]; /* empty: none */

double bench_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int bench_quick(void)
{
    const char *text = getenv("CAIRN_BENCH_QUICK");
    return text != NULL && *text != '\0' && strcmp(text, "0") != 0;
}

uint64_t bench_seed(void)
{
    const char *text = getenv("CAIRN_BENCH_SEED");
    return text != NULL ? strtoull(text, NULL, 10) : 1;
}

void bench_must(int status, const char *what)
{
    if (status == 0)
        return;
    fprintf(stderr, "bench: %s failed (%d)\n", what, status);
    exit(EXIT_FAILURE);
}

/* ---- samples ---- */

void bench_sample(struct bench_samples *s, double value)
{
    if (s->n == s->capacity) {
        s->capacity = s->capacity > 0 ? 2 * s->capacity : 64;
        s->at = realloc(s->at, s->capacity * sizeof *s->at);
        bench_must(s->at == NULL ? -ENOMEM : 0, "samples");
    }
    s->at[s->n++] = value;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile(const struct bench_samples *s, double q)
{
    if (s == NULL || s->n == 0)
        return 0;
    double *sorted = malloc(s->n * sizeof *sorted);
    bench_must(sorted == NULL ? -ENOMEM : 0, "samples");
    memcpy(sorted, s->at, s->n * sizeof *sorted);
    qsort(sorted, s->n, sizeof *sorted, by_value);
    size_t at = (size_t)(q * (double)s->n);
    double value = sorted[at < s->n ? at : s->n - 1];
    free(sorted);
    return value;
}

void bench_samples_free(struct bench_samples *s)
{
    free(s->at);
    *s = (struct bench_samples){0};
}

/* ---- machine ---- */

static void first_line(FILE *f, char *out, size_t bytes)
{
    if (f == NULL || fgets(out, (int)bytes, f) == NULL)
        snprintf(out, bytes, "unknown");
    out[strcspn(out, "\n")] = '\0';
}

/* Value of the first line of /proc/cpuinfo that begins with key. */
static void cpuinfo(const char *key, char *out, size_t bytes)
{
    static char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, bytes, "unknown");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || colon == NULL)
            continue;
        snprintf(out, bytes, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f != NULL)
        fclose(f);
}

/* The flags that decide which inner loops run. */
static void matter(const char *all, char *out, size_t bytes)
{
    static const char *const names[] = {"avx2",    "fma",         "f16c",        "avx_vnni",
                                        "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"};
    char padded[8200], word[24];
    size_t n = 0;
    snprintf(padded, sizeof padded, " %s ", all);
    out[0] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(word, sizeof word, " %s ", names[i]);
        if (strstr(padded, word) != NULL && n + strlen(names[i]) + 2 < bytes)
            n += (size_t)snprintf(out + n, bytes - n, "%s%s", n > 0 ? " " : "", names[i]);
    }
}

static const struct machine *machine(void)
{
    static struct machine m;
    static char flags[8192];
    struct utsname u;
    if (m.cores != 0)
        return &m;
    m.cores = sysconf(_SC_NPROCESSORS_ONLN);
    cpuinfo("model name", m.cpu, sizeof m.cpu);
    cpuinfo("flags", flags, sizeof flags);
    matter(flags, m.flags, sizeof m.flags);
    snprintf(m.kernel, sizeof m.kernel, "%s", uname(&u) == 0 ? u.release : "unknown");
    FILE *git = popen("git describe --always --dirty --abbrev=12 2>/dev/null", "r");
    first_line(git, m.commit, sizeof m.commit);
    if (git != NULL)
        pclose(git);
    return &m;
}

/* ---- figures ---- */

static double ratio_of(const struct bench_figure *f)
{
    double own = bench_quantile(f->own, 0.5), other = bench_quantile(f->other, 0.5);
    if (own <= 0 || other <= 0)
        return 0;
    return f->inverse ? other / own : own / other;
}

static double value_of(const struct bench_figure *f)
{
    return f->goal_on == BENCH_GOAL_RATIO
               ? ratio_of(f)
               : bench_quantile(f->own, f->goal_on == BENCH_GOAL_P99 ? 0.99 : 0.5);
}

static int met(const struct bench_figure *f)
{
    return f->at_least ? value_of(f) >= f->goal : value_of(f) <= f->goal;
}

static void print_row(const struct bench_figure *f)
{
    static const char *group = "";
    if (strcmp(group, f->group) != 0) {
        printf("\n%-52s %10s %10s %6s %12s %9s  %s\n", f->group, "median", "p99", "n", "baseline",
               "ratio", "goal");
        group = f->group;
    }
    printf("%-52s %10.4g %10.4g %6zu ", f->name, bench_quantile(f->own, 0.5),
           bench_quantile(f->own, 0.99), f->own->n);
    if (f->baseline != NULL)
        printf("%12.4g %9.3g  ", bench_quantile(f->other, 0.5), ratio_of(f));
    else
        printf("%12s %9s  ", "-", "-");
    if (f->goal_on != BENCH_GOAL_NONE)
        printf("%s %g %s", f->at_least ? ">=" : "<=", f->goal, met(f) ? "met" : "NOT MET");
    printf(" [%s]\n", f->unit);
    fflush(stdout);
}

static void put_text(FILE *to, const char *key, const char *text)
{
    fprintf(to, "\"%s\": \"", key);
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\')
            fputc('\\', to);
        if ((unsigned char)*c >= ' ')
            fputc(*c, to);
    }
    fputs("\", ", to);
}

static void put_series(FILE *to, const struct bench_samples *s)
{
    fprintf(to, "\"median\": %.9g, \"p99\": %.9g, \"n\": %zu", bench_quantile(s, 0.5),
            bench_quantile(s, 0.99), s->n);
}

static void put_goal(FILE *to, const struct bench_figure *f)
{
    static const char *const on[] = {"none", "ratio", "median", "p99"};
    if (f->goal_on == BENCH_GOAL_NONE)
        return;
    fprintf(to, ", \"goal\": {\"on\": \"%s\", \"op\": \"%s\", \"value\": %.9g}, \"met\": %s",
            on[f->goal_on], f->at_least ? ">=" : "<=", f->goal, met(f) ? "true" : "false");
}

/* How the scheduler prefers us to others: on a shared machine a figure depends on it. */
static void priority(char *out, size_t bytes)
{
    int policy = sched_getscheduler(0), nice = getpriority(PRIO_PROCESS, 0);
    if (policy == SCHED_RR || policy == SCHED_FIFO)
        snprintf(out, bytes, "real time");
    else
        snprintf(out, bytes, nice == 0 ? "normal" : "nice %d", nice);
}

static void put_machine(FILE *to, const char *group)
{
    char preferred[32];
    const struct machine *m = machine();
    double load[1] = {0};
    (void)getloadavg(load, 1);
    priority(preferred, sizeof preferred);
    fputs("{\"schema\": 1, ", to);
    put_text(to, "priority", preferred);
    put_text(to, "group", group);
    put_text(to, "machine", m->cpu);
    put_text(to, "flags", m->flags);
    put_text(to, "kernel", m->kernel);
    put_text(to, "commit", m->commit);
    if (gpu_name[0] != '\0') {
        put_text(to, "gpu", gpu_name);
        put_text(to, "driver", gpu_driver);
    }
    fprintf(to, "\"cores\": %ld, \"load\": %.2f, \"time\": %lld, \"seed\": %llu, \"quick\": %s, ",
            m->cores, load[0], (long long)time(NULL), (unsigned long long)bench_seed(),
            bench_quick() ? "true" : "false");
}

void bench_device_is(const char *gpu, const char *driver)
{
    snprintf(gpu_name, sizeof gpu_name, "%s", gpu);
    snprintf(gpu_driver, sizeof gpu_driver, "%s", driver);
}

void bench_refuse(const char *why)
{
    snprintf(refused, sizeof refused, "%s", why);
}

void bench_report(const struct bench_figure *f)
{
    if (refused[0] != '\0') {
        printf("%s: %s (n %zu): %s\n", f->group, f->name, f->own->n, refused);
        return;
    }
    print_row(f);
    (void)mkdir("build", 0777);
    (void)mkdir("build/bench", 0777);
    FILE *to = fopen(RESULTS, "a");
    bench_must(to == NULL ? -errno : 0, RESULTS);
    put_machine(to, f->group);
    put_text(to, "figure", f->name);
    put_text(to, "unit", f->unit);
    if (f->note != NULL)
        put_text(to, "note", f->note);
    put_series(to, f->own);
    if (f->baseline != NULL) {
        fputs(", \"baseline\": {", to);
        put_text(to, "name", f->baseline);
        put_series(to, f->other);
        fprintf(to, "}, \"ratio\": %.6g, \"ratio_is\": \"%s\"", ratio_of(f),
                f->inverse ? "baseline/own" : "own/baseline");
    }
    put_goal(to, f);
    fputs("}\n", to);
    bench_must(fclose(to) == 0 ? 0 : -errno, RESULTS);
}
