/* Waiting for payloads on the control page, and asking whether a lease still holds. No message, and no system call unless there
 * is something to wait for. A broker that dies never makes us wait longer than until it is noticed (ipc/control.c looks once a
 * second). A lease of an earlier session is judged by its own page: the old broker's last word, or a dead one's memory, which
 * nobody changes any more. */
#include "client/lease.h"

static int is_alive(void *ctx)
{
    struct cairn_lease *lease = ctx;
    return lease->client->chan == NULL || crn_client_current(lease->client, lease->session);
}

int cairn_lease_check(const struct cairn_lease *lease)
{
    if (lease == NULL)
        return CAIRN_E_ARG;
    /* The reads of the payload come before the read of the epoch; the broker moves it before it re-uses a byte. */
    atomic_thread_fence(memory_order_acquire);
    uint32_t epoch = atomic_load_explicit(&lease->slot->epoch, memory_order_acquire);
    return epoch == lease->epoch ? 0 : CAIRN_E_STALE;
}

int cairn_lease_keep(struct cairn_lease *lease)
{
    int status = cairn_lease_check(lease);
    if (status != 0)
        return status;
    struct cairn_client *client = lease->client;
    if (crn_client_current(client, lease->session) &&
        crn_now_ns() - client->sent_ns > lease->session->heartbeat_ns) {
        struct crn_msg_alive alive = {.request = crn_client_next(client)};
        crn_client_send(client, CRN_MSG_alive, &alive, 0);
        crn_client_pump(client, 0);
    }
    return 0;
}

int crn_item_wait(struct cairn_lease *lease, const struct crn_item *item, uint64_t deadline_ns)
{
    if (item->word == CRN_NO_WORD)
        return cairn_lease_check(lease);
    return crn_control_wait(lease->slot, item->word, lease->epoch, deadline_ns, is_alive, lease);
}

int cairn_wait(struct cairn_lease *lease, uint32_t part, uint32_t layer, uint32_t kind,
               uint64_t deadline_ns)
{
    if (lease == NULL || part >= lease->info.n_parts || layer >= lease->shape.n_layers ||
        kind > CAIRN_WAIT_STATE)
        return CAIRN_E_ARG;
    const struct crn_item *item = crn_grant_item(
        lease, part, layer, kind == CAIRN_WAIT_STATE ? CRN_PAYLOAD_STATE : CRN_PAYLOAD_KV);
    int status = item != NULL ? crn_item_wait(lease, item, deadline_ns) : CAIRN_E_MISS;
    if (status != 0)
        crn_client_fail(lease->client, status, "%s of part %u layer %u",
                        kind == CAIRN_WAIT_STATE ? "state" : "KV", part, layer);
    return status;
}
