/* gather_there - broker/gather.h by the operations of a kernel table, for payloads in memory that the CPU does not see. All
 * pointers of a request are memory of the exec. The bytes written are those that gather.c writes. */
#ifndef CRN_BROKER_GATHER_THERE_H
#define CRN_BROKER_GATHER_THERE_H

#include "broker/gather.h"
#include "kernels/kernels.h"

#include <stddef.h>

struct crn_gather_scratch {
    void *at;
    size_t bytes;
};

/* One at a time. Scratch grows to the largest head seen, twice as float32. */
struct crn_gather_there {
    const struct crn_kernel_ops *ops;
    struct crn_exec exec;
    struct crn_gather_scratch wide, picked; /* source rows as float32; kept rows */
};

void crn_gather_there_end(struct crn_gather_there *t);

/* Work is queued on the exec when they return, except that
 * a wild index is refused (CAIRN_E_ARG). fails also -ENOMEM and the kernels' codes */
int crn_gather_kv_there(struct crn_gather_there *t, const struct crn_gather_kv *g);
int crn_gather_state_there(struct crn_gather_there *t, const struct crn_gather_state *g, uint32_t *out_dtype);

#endif
