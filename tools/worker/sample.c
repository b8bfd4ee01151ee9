/* Sampling. The generator is splitmix64: the same seed gives the same text on every machine. */
#include "tools/worker/sample.h"

#include <math.h>
#include <stdlib.h>

static double uniform(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1.0p-53;
}

static uint32_t largest(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (uint32_t)best;
}

static int by_probability(const void *a, const void *b, void *logits)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    float x = ((const float *)logits)[i], y = ((const float *)logits)[j];
    return x != y ? (x < y) - (x > y) : (i > j) - (i < j);
}

uint32_t crn_sample(struct crn_sampler *s, float *logits, size_t n, uint32_t *scratch)
{
    uint32_t best = largest(logits, n);
    if (s->temperature <= 0.0f)
        return best;
    double sum = 0, top = logits[best];
    for (size_t i = 0; i < n; i++) {
        logits[i] = (float)exp((logits[i] - top) / s->temperature);
        sum += logits[i];
        scratch[i] = (uint32_t)i;
    }
    qsort_r(scratch, n, sizeof *scratch, by_probability, logits);
    double kept = 0, limit = s->top_p * sum;
    size_t last = 0;
    while (last < n && (last == 0 || kept < limit))
        kept += logits[scratch[last++]];
    double at = uniform(&s->state) * kept;
    for (size_t i = 0; i < last; i++) {
        at -= logits[scratch[i]];
        if (at < 0)
            return scratch[i];
    }
    return scratch[last - 1];
}

double crn_nll(const float *logits, size_t n, uint32_t token)
{
    double top = logits[largest(logits, n)], sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - top);
    return log(sum) + top - logits[token];
}
