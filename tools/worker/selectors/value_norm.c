/* Values of large norm change the output most when they are attended to; a baseline. */
#include "tools/worker/selectors/norms.h"

int crn_select_value_norm(const struct crn_select *s, float *out_scores)
{
    return crn_select_norms(s, CRN_ROWS_V, 1.0f, out_scores);
}
