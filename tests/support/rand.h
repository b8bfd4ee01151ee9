/* rand - seeded numbers for tests: the same on every machine. CRN_TEST_SEED (a number) replaces the default seed. */
#ifndef CRN_TESTS_RAND_H
#define CRN_TESTS_RAND_H

#include <stddef.h>
#include <stdint.h>

struct rand {
    uint64_t state;
};

struct rand rand_seeded(uint64_t seed);
uint64_t rand_default_seed(void);

uint64_t rand_u64(struct rand *r);
size_t rand_below(struct rand *r, size_t n); /* 0 .. n-1; n >= 1 */
float rand_f32(struct rand *r);              /* -1 .. 1 */

void rand_fill(struct rand *r, float *out, size_t n, float scale);

/* Replaces about one in `one_in` of x [n] by NaN, +-Inf, -0, a denormal, the largest and the smallest normal number. */
void rand_sprinkle(struct rand *r, float *x, size_t n, size_t one_in);

#endif
