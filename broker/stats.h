/* stats - counters of ipc/counters.h. Totals are kept here; gauges are computed when somebody asks (handle_stat.c).
 * One set per namespace, and one for what happens before a peer has a namespace. Loop thread only. */
#ifndef CRN_BROKER_STATS_H
#define CRN_BROKER_STATS_H

#include "ipc/counters.h"

#include <stdint.h>

struct crn_stats {
    uint64_t v[CRN_COUNTER_COUNT];
};

#define CRN_COUNT(stats, name) ((stats)->v[CRN_COUNTER_##name]++)
#define CRN_ADD(stats, name, amount) ((stats)->v[CRN_COUNTER_##name] += (amount))
#define CRN_GAUGE(stats, name, value) ((stats)->v[CRN_COUNTER_##name] = (value))

#endif
