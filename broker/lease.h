/* lease - a session's right to read a path of entries, plus the plan it uses. Holds the bodies (so their memory stays), counts on
 * every payload it was told about, and ends on the control page: epoch + 1. Ends by release, expiry or the session's end. */
#ifndef CRN_BROKER_LEASE_H
#define CRN_BROKER_LEASE_H

#include "broker/match.h"
#include "broker/payload.h"

#include <stdint.h>

struct crn_session;

struct crn_lease {
    uint64_t id; /* random, 63 bits */
    uint32_t slot, epoch;
    uint64_t bytes; /* payload bytes it shares */
    struct crn_payload *map; /* the plan's state map; NULL: none */
    uint32_t n_bodies, n_payloads;
    struct crn_body *bodies[CAIRN_MAX_PATH];
    struct crn_payload *payloads[];
};

/* payloads [n]: those of the path that were told to the worker.
 * fails   CAIRN_E_FULL when all slots are in use, -ENOMEM, -errno */
int crn_lease_grant(struct crn_session *session, const struct crn_path *path,
                    struct crn_payload *const *payloads, uint32_t n,
                    struct crn_lease **out_lease);
/* CAIRN_E_STALE when the session has no such lease. */
int crn_lease_find(const struct crn_session *session, uint64_t id, struct crn_lease **out_lease);
void crn_lease_end(struct crn_session *session, struct crn_lease *lease);
/* All leases of a session; returns their number. */
uint32_t crn_lease_end_all(struct crn_session *session);

#endif
