/* A namespace's memory and its tables kept in step: an entry is in the index, in the id table and in its parent's child count, or
 * in none of them. Memory grows arena by arena up to the limit and is then kept by eviction; arenas never shrink, because a
 * worker may hold its mapping as long as it likes.
 *
 * First detector of "full": the one log line about it is written here, at most one a second. */
#include "broker/space.h"

#include "broker/device.h"
#include "broker/tier.h"

#include "ipc/chan.h"
#include "ipc/hash.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SIDE_ARENA_BYTES (UINT64_C(4) << 20)
#define HOST_ARENA_BYTES (UINT64_C(256) << 20) /* page-locking one takes about 0.1 s */

static int add_arena(struct crn_space *space, uint64_t bytes)
{
    struct crn_arena *arena;
    int status = crn_arena_create(space, space->options.mem, crn_device_ordinal(space->options.device), bytes, &arena);
    if (status != 0)
        return status;
    arena->next = space->arenas;
    space->arenas = arena;
    space->arena_bytes += arena->mem.bytes;
    return 0;
}

int crn_space_open(const struct crn_space_options *options, struct crn_space *out_space)
{
    struct crn_space *s = out_space;
    *s = (struct crn_space){.options = *options};
    int status = crn_index_init(&s->index);
    if (status == 0)
        status = crn_entries_init(&s->entries, options->first_generation);
    if (status == 0)
        status = add_arena(s, options->arena_bytes);
    if (status != 0)
        crn_space_close(s);
    return status;
}

void crn_space_close(struct crn_space *space)
{
    uint32_t slot = 0;
    if (space->entries.slots != NULL) {
        struct crn_entry *e;
        while ((e = crn_entries_walk(&space->entries, 0, &slot)) != NULL) {
            crn_entries_remove(&space->entries, e);
            crn_entry_destroy(e);
        }
    }
    crn_entries_close(&space->entries);
    crn_index_close(&space->index);
    crn_plans_close(&space->plans);
    while (space->arenas != NULL) {
        struct crn_arena *arena = space->arenas;
        space->arenas = arena->next;
        crn_arena_destroy(arena);
    }
    while (space->side != NULL) {
        struct crn_arena *arena = space->side;
        space->side = arena->next;
        crn_arena_destroy(arena);
    }
    while (space->host != NULL) {
        struct crn_arena *arena = space->host;
        space->host = arena->next;
        crn_device_unlock(space->options.device, arena);
        crn_arena_destroy(arena);
    }
    while (space->models != NULL) {
        struct crn_model *model = space->models;
        space->models = model->next;
        free(model);
    }
}

static int extent_in(struct crn_arena *first, uint32_t n, struct crn_arena **out_arena, struct crn_extent *out_extent)
{
    for (struct crn_arena *a = first; a != NULL; a = a->next) {
        if (crn_extents_alloc(a->extents, n, out_extent) == 0) {
            *out_arena = a;
            return 0;
        }
    }
    return CAIRN_E_FULL;
}

static int alloc_in(struct crn_space *space, struct crn_arena *first, uint32_t n, struct crn_arena **out_arena,
                    struct crn_extent *out_extent)
{
    int status = extent_in(first, n, out_arena, out_extent);
    space->used_bytes += status == 0 ? (uint64_t)n * CRN_GRANULE_BYTES : 0;
    return status;
}

static int alloc_in_arenas(struct crn_space *space, uint32_t n, struct crn_arena **out_arena,
                           struct crn_extent *out_extent)
{
    return alloc_in(space, space->arenas, n, out_arena, out_extent);
}

static int grow_side(struct crn_space *space, uint64_t need)
{
    struct crn_arena *arena;
    uint64_t bytes = need > SIDE_ARENA_BYTES ? need : SIDE_ARENA_BYTES;
    if (bytes > space->options.limit_bytes || space->side_bytes > space->options.limit_bytes - bytes)
        return CAIRN_E_FULL;
    int status = crn_arena_create(space, &crn_mem_host, -1, bytes, &arena);
    if (status != 0)
        return status;
    arena->next = space->side;
    space->side = arena;
    space->side_bytes += arena->mem.bytes;
    return 0;
}

int crn_space_alloc_side(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                         struct crn_extent *out_extent)
{
    uint32_t n = crn_arena_granules(bytes);
    if (space->options.mem->cpu_visible)
        return crn_space_alloc(space, bytes, out_arena, out_extent);
    if (n == 0)
        return CAIRN_E_TOO_BIG;
    int status = alloc_in(space, space->side, n, out_arena, out_extent);
    if (status == CAIRN_E_FULL)
        status = grow_side(space, (uint64_t)n * CRN_GRANULE_BYTES);
    else
        return status;
    return status != 0 ? status : alloc_in(space, space->side, n, out_arena, out_extent);
}

static int grow_host(struct crn_space *space, uint64_t need)
{
    struct crn_arena *arena;
    uint64_t left = space->options.host_limit_bytes - space->host_bytes;
    uint64_t bytes = need > HOST_ARENA_BYTES ? need : HOST_ARENA_BYTES;
    bytes = bytes > left ? left / CRN_GRANULE_BYTES * CRN_GRANULE_BYTES : bytes;
    if (bytes < need)
        return CAIRN_E_FULL;
    int status = crn_arena_create(space, &crn_mem_host, -1, bytes, &arena);
    if (status != 0)
        return status;
    arena->next = space->host;
    space->host = arena;
    space->host_bytes += arena->mem.bytes;
    return 0;
}

int crn_space_alloc_host(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                         struct crn_extent *out_extent)
{
    uint32_t n = crn_arena_granules(bytes);
    uint64_t need = (uint64_t)n * CRN_GRANULE_BYTES, largest = 0;
    if (n == 0 || need > space->options.host_limit_bytes)
        return CAIRN_E_TOO_BIG;
    int status = extent_in(space->host, n, out_arena, out_extent);
    if (status == CAIRN_E_FULL) {
        status = grow_host(space, need);
        status = status == 0 ? extent_in(space->host, n, out_arena, out_extent) : status;
    }
    if (status == 0)
        space->host_used_bytes += need;
    for (const struct crn_arena *a = space->host; a != NULL && status == CAIRN_E_FULL; a = a->next)
        largest = a->mem.bytes > largest ? a->mem.bytes : largest;
    return status == CAIRN_E_FULL && largest < need ? CAIRN_E_TOO_BIG : status;
}

static void free_extent(struct crn_arena *arena, const struct crn_extent *extent, uint64_t *io_used_bytes)
{
    int status = crn_extents_free(arena->extents, extent);
    if (status == 0)
        *io_used_bytes -= (uint64_t)extent->n * CRN_GRANULE_BYTES;
    else
        crn_log(CRN_LOG_ERROR, "arena %u: extent %u+%u was not in use: %s", arena->id,
                extent->first, extent->n, cairn_strerror(status));
}

void crn_space_free_host(struct crn_arena *arena, const struct crn_extent *extent)
{
    free_extent(arena, extent, &arena->space->host_used_bytes);
}

/* One more arena for a payload of so many bytes, as large as usual or as needed, within the limit. */
static int grow(struct crn_space *space, uint64_t need)
{
    uint64_t left = space->options.limit_bytes > space->arena_bytes
                        ? space->options.limit_bytes - space->arena_bytes
                        : 0;
    uint64_t bytes = need > space->options.arena_bytes ? need : space->options.arena_bytes;
    bytes = bytes > left ? left / CRN_GRANULE_BYTES * CRN_GRANULE_BYTES : bytes;
    return bytes < need ? CAIRN_E_FULL : add_arena(space, bytes);
}

static int fits_some_arena(const struct crn_space *space, uint64_t need)
{
    for (const struct crn_arena *a = space->arenas; a != NULL; a = a->next) {
        if (a->mem.bytes >= need)
            return 1;
    }
    return 0;
}

/* Down a tier if there is one, else out. */
static int make_room(struct crn_space *space, uint64_t bytes)
{
    enum crn_tier_room room = crn_tier_make_room(space, bytes);
    if (room != CRN_ROOM_NONE) /* nothing is dropped while the tier works */
        return room == CRN_ROOM_MADE ? 0 : room == CRN_ROOM_COMING ? -EAGAIN : CAIRN_E_FULL;
    struct crn_entry *victim = crn_evict_victim(space, &crn_evict_cost, crn_now_ns());
    if (victim == NULL)
        return CAIRN_E_FULL;
    CRN_COUNT(&space->stats, evicted_total);
    uint64_t victim_bytes = crn_tier_brief(victim).bytes;
    CRN_ADD(&space->stats, evicted_bytes_total, victim_bytes);
    crn_log(CRN_LOG_DEBUG, "namespace %s: entry %llx evicted, %u tokens, %llu bytes",
            space->options.name, (unsigned long long)victim->id, victim->n_tokens,
            (unsigned long long)victim_bytes);
    crn_space_remove(space, victim);
    return 0;
}

static void tell_full(struct crn_space *space, uint64_t bytes)
{
    static uint64_t told_ns;
    CRN_COUNT(&space->stats, full_total);
    if (crn_now_ns() - told_ns < UINT64_C(1000000000))
        return;
    told_ns = crn_now_ns();
    crn_log(CRN_LOG_WARN, "namespace %s: no room for %llu bytes, nothing left to evict",
            space->options.name, (unsigned long long)bytes);
}

int crn_space_alloc_plain(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                          struct crn_extent *out_extent)
{
    uint32_t n = crn_arena_granules(bytes);
    uint64_t need = (uint64_t)n * CRN_GRANULE_BYTES;
    if (n == 0 || need > space->options.limit_bytes)
        return CAIRN_E_TOO_BIG;
    int status = alloc_in_arenas(space, n, out_arena, out_extent);
    if (status != 0 && grow(space, need) == 0)
        status = alloc_in_arenas(space, n, out_arena, out_extent);
    return status != 0 && !fits_some_arena(space, need) ? CAIRN_E_TOO_BIG : status;
}

int crn_space_alloc(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                    struct crn_extent *out_extent)
{
    uint32_t n = crn_arena_granules(bytes);
    int status = crn_space_alloc_plain(space, bytes, out_arena, out_extent), room = 0;
    while (status == CAIRN_E_FULL && (room = make_room(space, bytes)) == 0)
        status = alloc_in_arenas(space, n, out_arena, out_extent);
    if (status == CAIRN_E_FULL && room == -EAGAIN)
        return room;
    if (status == CAIRN_E_FULL)
        tell_full(space, bytes);
    return status;
}

void crn_space_free(struct crn_arena *arena, const struct crn_extent *extent)
{
    free_extent(arena, extent, &arena->space->used_bytes);
}

struct crn_arena *crn_space_arena(const struct crn_space *space, uint64_t id)
{
    const struct crn_arena *const lists[] = {space->arenas, space->side};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        for (const struct crn_arena *a = lists[i]; a != NULL; a = a->next) {
            if (a->id == id)
                return (struct crn_arena *)(uintptr_t)a;
        }
    }
    return NULL;
}

static bool same_digest(const struct cairn_digest *a, const struct cairn_digest *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

int crn_space_model(struct crn_space *space, const struct crn_model *like,
                    const struct crn_model **out_model)
{
    for (struct crn_model *m = space->models; m != NULL; m = m->next) {
        bool family = same_digest(&m->family, &like->family);
        if (family && memcmp(&m->shape, &like->shape, sizeof m->shape) != 0)
            return CAIRN_E_ARG;
        if (family && same_digest(&m->digest, &like->digest)) {
            *out_model = m;
            return 0;
        }
    }
    if (space->n_models == CRN_MAX_MODELS)
        return CAIRN_E_FULL;
    struct crn_model *m = malloc(sizeof *m);
    if (m == NULL)
        return -ENOMEM;
    space->n_models++;
    *m = *like;
    m->next = space->models;
    space->models = m;
    *out_model = m;
    return 0;
}

int crn_space_insert(struct crn_space *space, struct crn_entry *e)
{
    int status = crn_entries_add(&space->entries, e);
    if (status != 0)
        return status;
    e->created_ns = e->used_ns = crn_now_ns();
    crn_lru_place(e);
    for (uint32_t i = 0; i < e->n_nodes; i++)
        crn_index_add(&space->index, &e->nodes[i]);
    if (e->parent != NULL)
        e->parent->n_children++;
    return 0;
}

void crn_space_remove(struct crn_space *space, struct crn_entry *e)
{
    crn_tier_removed(e);
    crn_lru_remove(e);
    for (uint32_t i = 0; i < e->n_nodes; i++)
        crn_index_remove(&space->index, &e->nodes[i]);
    if (e->parent != NULL)
        e->parent->n_children--;
    crn_entries_remove(&space->entries, e);
    crn_entry_destroy(e);
}

/* Some entry whose parent is this one. */
static struct crn_entry *child_of(const struct crn_space *space, const struct crn_entry *parent,
                                  uint32_t *at)
{
    struct crn_entry *e = crn_entries_walk(&space->entries, *at, at);
    while (e != NULL && e->parent != parent)
        e = crn_entries_walk(&space->entries, *at + 1, at);
    return e;
}

void crn_space_remove_tree(struct crn_space *space, struct crn_entry *entry)
{
    uint32_t at = 0;
    for (struct crn_entry *e; entry->n_children > 0 && (e = child_of(space, entry, &at)); at++)
        crn_space_remove_tree(space, e);
    if (entry->n_children == 0 && entry->n_drafts == 0)
        crn_space_remove(space, entry);
}

struct crn_entry *crn_space_same(const struct crn_space *space, const struct crn_entry_spec *spec,
                                 uint64_t last_hash)
{
    const struct crn_chunk *c = NULL;
    while ((c = crn_index_next(&space->index, last_hash, c)) != NULL) {
        if (crn_entry_last_hash(c->entry) != last_hash)
            continue;
        bool warm = crn_tier_warm(c->entry) == 0; /* there may be no memory for it now */
        if (warm ? crn_entry_serves(c->entry, spec) : crn_tier_serves_cold(c->entry, spec))
            return c->entry;
    }
    return NULL;
}

uint32_t crn_space_evict_all(struct crn_space *space, uint64_t *out_bytes)
{
    uint32_t n = 0, before;
    uint64_t bytes = 0;
    do { /* once per generation of the tree: leaves, then those that are leaves now */
        uint32_t slot = 0;
        before = n;
        for (struct crn_entry *e = crn_entries_walk(&space->entries, 0, &slot); e != NULL;
             e = crn_entries_walk(&space->entries, slot + 1, &slot)) {
            if (!crn_evict_allowed(e))
                continue;
            n++;
            bytes += crn_tier_brief(e).bytes;
            crn_space_remove(space, e);
        }
    } while (n > before);
    *out_bytes = bytes;
    return n;
}
