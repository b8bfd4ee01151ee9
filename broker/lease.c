/* Leases live in the slots of their session's control page: slot i of the array is slot i of the page. A lease has no clock of its
 * own: any message of the session renews all of its leases (session.c, crn_broker's timer). */
#include "broker/lease.h"

#include "broker/session.h"
#include "broker/tier.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

static int random_id(uint64_t *out_id)
{
    uint64_t id = 0;
    if (getrandom(&id, sizeof id, 0) != (ssize_t)sizeof id) {
        crn_log(CRN_LOG_ERROR, "lease: getrandom: %s", cairn_strerror(-errno));
        return -errno;
    }
    id &= INT64_MAX;
    *out_id = id == 0 ? 1 : id;
    return 0;
}

static uint32_t free_slot(const struct crn_session *s)
{
    uint32_t slot = 0;
    while (slot < CRN_CONTROL_SLOTS && s->leases[slot] != NULL)
        slot++;
    return slot;
}

static void hold(struct crn_lease *lease, const struct crn_path *path,
                 struct crn_payload *const *payloads, uint32_t n)
{
    for (uint32_t i = 0; i < path->n; i++) {
        lease->bodies[lease->n_bodies++] = crn_body_hold(path->parts[i].entry->body);
        path->parts[i].entry->body->leases++;
    }
    for (uint32_t i = 0; i < n; i++) {
        lease->payloads[lease->n_payloads++] = payloads[i];
        payloads[i]->leases++;
        lease->bytes += payloads[i]->bytes;
    }
    if (path->plan != NULL && path->plan->map != NULL) {
        lease->map = crn_payload_hold(path->plan->map);
        lease->map->leases++;
    }
}

int crn_lease_grant(struct crn_session *session, const struct crn_path *path,
                    struct crn_payload *const *payloads, uint32_t n, struct crn_lease **out_lease)
{
    uint64_t id = 0;
    uint32_t slot = free_slot(session);
    if (slot == CRN_CONTROL_SLOTS)
        return CAIRN_E_FULL;
    int status = random_id(&id);
    if (status != 0)
        return status;
    struct crn_lease *lease = calloc(1, sizeof *lease + n * sizeof *lease->payloads);
    if (lease == NULL)
        return -ENOMEM;
    struct crn_control_slot *page = crn_control_slot_at(&session->control, slot);
    lease->id = id;
    lease->slot = slot;
    /* relaxed: this thread is the only writer */
    lease->epoch = atomic_load_explicit(&page->epoch, memory_order_relaxed);
    hold(lease, path, payloads, n);
    session->leases[slot] = lease;
    session->n_leases++;
    *out_lease = lease;
    return 0;
}

int crn_lease_find(const struct crn_session *session, uint64_t id, struct crn_lease **out_lease)
{
    for (uint32_t slot = 0; slot < CRN_CONTROL_SLOTS; slot++) {
        if (session->leases[slot] != NULL && session->leases[slot]->id == id) {
            *out_lease = session->leases[slot];
            return 0;
        }
    }
    return CAIRN_E_STALE;
}

void crn_lease_end(struct crn_session *session, struct crn_lease *lease)
{
    crn_tier_unwant(lease);
    crn_control_end_lease(crn_control_slot_at(&session->control, lease->slot));
    session->leases[lease->slot] = NULL;
    session->n_leases--;
    for (uint32_t i = 0; i < lease->n_payloads; i++)
        lease->payloads[i]->leases--;
    for (uint32_t i = 0; i < lease->n_bodies; i++) {
        lease->bodies[i]->leases--;
        crn_body_drop(lease->bodies[i]);
    }
    if (lease->map != NULL) {
        lease->map->leases--;
        crn_payload_drop(lease->map);
    }
    free(lease);
}

uint32_t crn_lease_end_all(struct crn_session *session)
{
    uint32_t n = session->n_leases;
    for (uint32_t slot = 0; slot < CRN_CONTROL_SLOTS; slot++) {
        if (session->leases[slot] != NULL)
            crn_lease_end(session, session->leases[slot]);
    }
    return n;
}
