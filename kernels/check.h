/* check - operations that the tables of ref and cpu share. */
#ifndef CRN_KERNELS_CHECK_H
#define CRN_KERNELS_CHECK_H

#include "kernels/kernels.h"

int crn_host_checksum(const struct crn_exec *e, const void *data, size_t bytes, uint64_t *out_hash);
int crn_host_max_abs(const struct crn_exec *e, const float *x, size_t n, float *out_max);

#endif
