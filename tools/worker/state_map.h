/* state_map - turns a producer's state into nearly the receiver's, before a run starts (method.md 5.1). */
#ifndef CRN_WORKER_STATE_MAP_H
#define CRN_WORKER_STATE_MAP_H

#include "client/cairn.h"
#include "tools/worker/engine.h"

/* h <- h + W [h; 1] for rows h [n][hidden], there; the map is on the host, as a plan carries it: rank 0: w [hidden][hidden + 1],
 * else u [hidden][rank], v [rank][hidden], bias [hidden]. fails -ENOMEM, CAIRN_E_CORRUPT (another hidden size), codes of the
 * kernels */
int crn_state_map_apply(struct crn_engine *e, const struct cairn_map_view *map, float *h, size_t n);

#endif
