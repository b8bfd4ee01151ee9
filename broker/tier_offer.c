/* Arenas offered to the spill engine, so that the kernel pins their pages once and not per piece.
 *
 * Pinning faults every page in, so an arena is offered when it is at least half full and the tier is in use: its pages are
 * there then. It takes a moment (the kernel looks up every page), so a thread of its own asks, one arena at a time; the loop
 * only looks whether it is done. What the kernel refuses (RLIMIT_MEMLOCK) is not asked for again: everything works by plain
 * addresses, too. Nothing is withdrawn: arenas live until the engine is closed. */
#include "broker/tier_impl.h"

#include "ipc/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct crn_tier_offer {
    pthread_t thread;
    struct crn_spill *spill;
    void *base;
    uint64_t bytes;
    int status;
    atomic_bool done; /* released by the thread after status, acquired by the loop */
};

static void *offer_main(void *arg)
{
    struct crn_tier_offer *o = arg;
    o->status = crn_spill_offer(o->spill, o->base, o->bytes);
    atomic_store_explicit(&o->done, true, memory_order_release);
    return NULL;
}

static void end(struct crn_tier *t)
{
    struct crn_tier_offer *o = t->offer;
    pthread_join(o->thread, NULL);
    t->no_offers = o->status != 0;
    if (o->status != 0)
        crn_log(CRN_LOG_INFO, "tier: memory is not registered with the kernel: %s: transfers cost a little more",
                cairn_strerror(o->status));
    free(o);
    t->offer = NULL;
}

static void begin(struct crn_tier *t, struct crn_arena *a)
{
    struct crn_tier_offer *o = calloc(1, sizeof *o);
    if (o == NULL)
        return;
    o->spill = crn_store_spill(t->store);
    o->base = a->mem.base;
    o->bytes = a->mem.bytes;
    a->offered = true;
    if (pthread_create(&o->thread, NULL, offer_main, o) != 0) {
        free(o);
        return;
    }
    t->offer = o;
}

static bool is_worth_it(const struct crn_arena *a)
{
    return !a->offered && a->mem.ops->cpu_visible &&
           (uint64_t)crn_extents_view(a->extents).used * CRN_GRANULE_BYTES >= a->mem.bytes / 2;
}

void crn_tier_offer_step(struct crn_tier *t)
{
    struct crn_spill_stats stats;
    if (t->offer != NULL && atomic_load_explicit(&t->offer->done, memory_order_acquire))
        end(t);
    if (t->offer != NULL || t->no_offers || t->store == NULL)
        return;
    crn_spill_stats(crn_store_spill(t->store), &stats);
    if (stats.read_bytes + stats.write_bytes == 0)
        return;
    for (uint32_t i = 0; i < t->n_spaces; i++) {
        for (struct crn_arena *a = t->spaces[i].arenas; a != NULL && t->offer == NULL; a = a->next) {
            if (is_worth_it(a))
                begin(t, a);
        }
    }
}

void crn_tier_offer_end(struct crn_tier *t)
{
    if (t->offer != NULL)
        end(t);
}
