/* parity - what parity tests share: guarded buffers, a comparator that NaN cannot fool, and the list of inner loops to try. */
#ifndef CRN_TESTS_PARITY_H
#define CRN_TESTS_PARITY_H

#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `bytes` poisoned bytes between two guards of 64; p lies `offset` bytes past a multiple of 64. */
struct guarded {
    void *p;
    size_t bytes;
    unsigned char *base;
};

struct guarded guarded_alloc(size_t bytes, size_t offset);
struct guarded guarded_copy(const void *src, size_t bytes, size_t offset);
bool guarded_intact(const struct guarded *g);
void guarded_free(struct guarded *g);

/* |want - got| <= abs + rel |want|, both NaN, or both the same infinity. */
struct tolerance {
    float abs, rel;
};

/* Index of the first number out of tolerance, or -1. */
long parity_first_bad(const float *want, const float *got, size_t n, struct tolerance tol);

/* Index of the first byte that differs, or -1. */
long parity_first_byte(const void *want, const void *got, size_t bytes);

/* As parity_first_bad, but prints what differs under the name of the case; true when all is well. */
bool parity_close(const char *name, const float *want, const float *got, size_t n, struct tolerance tol);

/* Backends under test. Variant i is the cpu table with one set of inner loops and one number of threads; false when this CPU
 * cannot run it. parity_backend(argc, argv) reads the table's name from argv[1] (default "cpu"), NULL prints a reason. */
enum { PARITY_VARIANTS = 4 };
bool parity_use_variant(int i);
const char *parity_variant_name(void);
const struct crn_exec *parity_exec(void); /* of the variant in use */
const struct crn_kernel_ops *parity_backend(int argc, char **argv);

#endif
