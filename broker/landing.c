/* Landing zones. The worker can change a byte at any moment, also while it is read: whoever reads something that is checked must
 * read it once, into memory of the broker (put.c). */
#include "broker/landing.h"

#include "ipc/chan.h"

#include <errno.h>
#include <stdlib.h>

#define SMALLEST UINT64_C(65536)

uint64_t crn_landing_bytes(const struct crn_landings *all, uint64_t put_bytes)
{
    if (put_bytes > all->max_bytes)
        return 0;
    uint64_t bytes = put_bytes > all->max_bytes / 2 ? all->max_bytes : put_bytes * 2;
    return bytes < SMALLEST ? SMALLEST : bytes;
}

int crn_landing_create(struct crn_landings *all, uint64_t bytes, struct crn_landing **out_landing)
{
    if (bytes > all->limit_bytes || all->bytes > all->limit_bytes - bytes)
        return CAIRN_E_FULL;
    struct crn_landing *l = calloc(1, sizeof *l);
    if (l == NULL)
        return -ENOMEM;
    int status = all->mem->create(bytes, all->device, CRN_MEM_LANDING, &l->mem);
    if (status != 0) {
        free(l);
        return status;
    }
    l->all = all;
    l->id = ++all->last_id;
    l->refs = 1;
    all->bytes += l->mem.bytes;
    *out_landing = l;
    return 0;
}

struct crn_landing *crn_landing_hold(struct crn_landing *landing)
{
    landing->refs++;
    return landing;
}

static void destroy(struct crn_landing *landing)
{
    landing->all->bytes -= landing->mem.bytes;
    landing->mem.ops->destroy(&landing->mem);
    free(landing);
}

void crn_landing_drop(struct crn_landing *landing)
{
    if (landing == NULL || --landing->refs > 0)
        return;
    if (landing->mem.ops->kind != CRN_MEM_CUDA_IPC) {
        destroy(landing);
        return;
    }
    landing->ended_ns = crn_now_ns();
    landing->next = landing->all->graves;
    landing->all->graves = landing;
}

void crn_landings_sweep(struct crn_landings *all, uint64_t before_ns)
{
    struct crn_landing **at = &all->graves;
    while (*at != NULL) {
        struct crn_landing *l = *at;
        if (l->ended_ns >= before_ns) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        destroy(l);
    }
}
