/* Prefills on sets that were chosen before, layer by layer. */
#include "tests/support/forced.h"

#include "kernels/memory.h"

#include <check.h>
#include <stdlib.h>

void sets_take(struct sets *out, const struct reading *shared)
{
    const struct crn_exec *exec = &shared->by->model.engine.exec;
    *out = (struct sets){.n_layers = shared->cache.n_layers};
    ck_assert_uint_le(out->n_layers, SETS_LAYERS);
    for (uint32_t l = 0; l < out->n_layers; l++) {
        struct cairn_layer_view view;
        ck_assert_int_eq(cairn_wait(shared->lease, 0, l, CAIRN_WAIT_KV, SOON), 0);
        ck_assert_int_eq(cairn_lease_layer(shared->lease, 0, l, &view), 0);
        ck_assert(view.shared_pos);
        out->n[l] = view.heads[0].n;
        out->pos[l] = malloc((out->n[l] + 1) * sizeof *out->pos[l]);
        ck_assert_ptr_nonnull(out->pos[l]);
        ck_assert_int_eq(
            crn_memory_get(exec, out->pos[l], view.heads[0].pos, out->n[l] * sizeof *out->pos[l]),
            0);
    }
}

void sets_free(struct sets *s)
{
    for (uint32_t l = 0; l < s->n_layers; l++)
        free(s->pos[l]);
}

/* What a published state becomes: stored, and read back. */
static void store_rows(const struct receiver *r, struct crn_pass *p, uint32_t dtype)
{
    const struct crn_engine *e = &r->model.engine;
    size_t n = (size_t)p->n * e->weights->shape.hidden;
    void *copy = NULL;
    ck_assert_int_eq(crn_memory_alloc(&e->exec, n * sizeof(float), &copy), 0);
    ck_assert_int_eq(e->ops->convert(&e->exec, p->h, CAIRN_F32, n, dtype, copy), 0);
    ck_assert_int_eq(e->ops->convert(&e->exec, copy, dtype, n, CAIRN_F32, p->h), 0);
    crn_memory_free(&e->exec, copy);
}

/* Rows through layers first..last into a piece, dropped as the sets (NULL: none) say. */
static void pass_layers(struct crn_pass *p, struct crn_kv *piece, uint32_t first, uint32_t last,
                        const struct sets *sets)
{
    const struct crn_model_shape *s = &p->engine->weights->shape;
    for (uint32_t l = first; l <= last; l++) {
        if (sets != NULL)
            ck_assert_int_eq(crn_pass_keep_positions(p, sets->pos[l], sets->n[l]), 0);
        ck_assert_int_eq(crn_kv_init_in(&piece[l], &p->engine->exec, p->engine->kv_dtype,
                                        s->n_kv_heads, s->head_dim, p->n),
                         0);
        ck_assert_int_eq(crn_pass_layer(p, l, NULL, 0, &piece[l], NULL, 0), 0);
    }
}

void reading_forced(struct reading *x, struct receiver *r, const struct crn_ids *context,
                    const struct sets *sets, const struct crn_reuse_choice *run, uint32_t dtype)
{
    struct crn_engine *e = &r->model.engine;
    uint32_t n_layers = e->weights->shape.n_layers, n = (uint32_t)context->n;
    struct crn_pass pass;
    reading_begin(x, r, context);
    struct crn_kv *whole = crn_cache_piece_add(&x->cache), *again = crn_cache_piece_add(&x->cache);
    ck_assert(whole != NULL && again != NULL);
    ck_assert_int_eq(crn_pass_begin(&pass, e, context->ids, n, 0), 0);
    pass_layers(&pass, whole, 0, n_layers - 1, sets);
    crn_pass_end(&pass);
    ck_assert_int_eq(crn_pass_begin(&pass, e, context->ids, n, 0), 0);
    if (run->first > 0) {
        struct crn_cache aside;
        ck_assert_int_eq(crn_cache_init(&aside, n_layers), 0);
        pass_layers(&pass, crn_cache_piece_add(&aside), 0, run->first - 1, sets);
        crn_cache_free(&aside);
        store_rows(r, &pass, dtype);
    }
    pass_layers(&pass, again, run->first, run->last, sets);
    crn_pass_end(&pass);
    for (uint32_t l = 0; l < n_layers; l++)
        ck_assert_int_eq(
            crn_cache_add_kv(&x->cache, l,
                             l >= run->first && l <= run->last ? &again[l] : &whole[l]),
            0);
    reading_answer(x);
}
