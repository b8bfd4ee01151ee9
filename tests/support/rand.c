/* rand - splitmix64: every seed is good, and a state is one number that a failing test can print. */
#include "tests/support/rand.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

struct rand rand_seeded(uint64_t seed)
{
    return (struct rand){ seed };
}

uint64_t rand_default_seed(void)
{
    const char *text = getenv("CRN_TEST_SEED");
    return text != NULL ? strtoull(text, NULL, 0) : 20240607u;
}

uint64_t rand_u64(struct rand *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

size_t rand_below(struct rand *r, size_t n)
{
    return (size_t)(rand_u64(r) % n);
}

float rand_f32(struct rand *r)
{
    return (float)(int32_t)(rand_u64(r) >> 32) * 0x1p-31f;
}

void rand_fill(struct rand *r, float *out, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        out[i] = rand_f32(r) * scale;
}

void rand_sprinkle(struct rand *r, float *x, size_t n, size_t one_in)
{
    static const float special[] = { NAN, INFINITY, -INFINITY, -0.0f, FLT_TRUE_MIN, -1e-40f, FLT_MAX, FLT_MIN };
    for (size_t i = 0; i < n; i++)
        if (rand_below(r, one_in) == 0)
            x[i] = special[rand_below(r, sizeof special / sizeof *special)];
}
