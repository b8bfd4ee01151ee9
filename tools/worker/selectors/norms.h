/* norms - what the two selectors that look at norms alone share. */
#ifndef CRN_WORKER_NORMS_H
#define CRN_WORKER_NORMS_H

#include "tools/worker/selectors/selectors.h"

/* out [L][G][n] = factor * norm of the row. fails -ENOMEM */
int crn_select_norms(const struct crn_select *s, enum crn_rows which, float factor, float *out);

#endif
