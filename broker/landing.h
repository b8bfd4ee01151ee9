/* landing - memory that one worker may write and only the broker reads. Made for one draft (or one state map) of one session. The
 * session keeps one for its next draft, because fresh memory costs more page faults than the copy into it costs time; it is
 * never handed to anybody else, and destroyed when the worker dies. Copies under way hold it. Loop thread only, but for its
 * bytes. */
#ifndef CRN_BROKER_LANDING_H
#define CRN_BROKER_LANDING_H

#include "ipc/mem.h"

#include <stdint.h>

struct crn_landing {
    struct crn_landing *next; /* of the session */
    struct crn_landings *all;
    uint64_t id;
    uint32_t refs;
    uint64_t ended_ns; /* in graves */
    struct crn_mem mem;
};

/* All zones of the broker. */
struct crn_landings {
    const struct crn_mem_ops *mem;
    int device;           /* ordinal that mem is of; -1: host */
    struct crn_landing *graves; /* cuda-ipc zones that their worker may still have open */
    uint64_t max_bytes;   /* of one */
    uint64_t limit_bytes; /* of all together */
    uint64_t bytes;       /* now */
    uint64_t last_id;
};

/* Bytes of a zone for two puts of so many bytes, or for one where --landing-max leaves no more; 0: beyond --landing-max. */
uint64_t crn_landing_bytes(const struct crn_landings *all, uint64_t put_bytes);
/* A zone of so many bytes. One reference. fails CAIRN_E_FULL, -ENOMEM */
int crn_landing_create(struct crn_landings *all, uint64_t bytes, struct crn_landing **out_landing);
struct crn_landing *crn_landing_hold(struct crn_landing *landing);
void crn_landing_drop(struct crn_landing *landing); /* NULL allowed */
/* Frees zones that ended before that time: cudaFree must not overtake the worker's closing. UINT64_MAX: all. */
void crn_landings_sweep(struct crn_landings *all, uint64_t before_ns);

#endif
