/* States of plans that came later. An entry that was published before a plan lacks the state where
 * the plan's run starts, and siblings cannot use it. Its producer learns that at its next attach
 * and, when it has answered, runs the context as far as that layer and adds what is missing: a new
 * generation of the entry, everything else taken over as it is. */
#include "tools/worker/share.h"

#include "kernels/memory.h"

uint32_t crn_state_dtype(const struct crn_engine *e, const struct crn_publish_choice *choice)
{
    int grouped = e->weights->shape.hidden % 64 == 0;
    return choice->dtype == CAIRN_I8 && !grouped ? (uint32_t)CAIRN_F16 : choice->dtype;
}

/* Runs the context up to the last wanted layer; each state is put as it passes by. */
static int run_to_states(struct crn_pass *pass, const struct cairn_lease_info *info,
                         const struct crn_publish_choice *choice, struct cairn_draft *draft,
                         uint64_t deadline_ns)
{
    const struct crn_model_shape *s = &pass->engine->weights->shape;
    uint32_t put_already = 0;
    int status = 0;
    for (uint32_t l = 0; l < s->n_layers && status == 0; l++) {
        struct crn_kv kv = {0};
        if (info->wants[put_already] == l) {
            struct cairn_put put = CAIRN_PUT_INIT;
            put.layer = l;
            put.rows = pass->h;
            put.dst_dtype = crn_state_dtype(pass->engine, choice);
            put.n = pass->n;
            status = crn_memory_sync(&pass->engine->exec); /* the broker reads what was only asked for until then */
            if (status == 0)
                status = cairn_put_state(draft, &put, deadline_ns);
            if (status != 0 || ++put_already == info->n_wants)
                return status;
        }
        status = crn_kv_init_in(&kv, &pass->engine->exec, pass->engine->kv_dtype, s->n_kv_heads,
                                s->head_dim, pass->n);
        if (status == 0)
            status = crn_pass_layer(pass, l, NULL, 0, &kv, NULL, 0);
        crn_kv_free(&kv);
    }
    return status == 0 ? CAIRN_E_STATE : status; /* a layer that this model does not have */
}

int crn_share_add_states(struct crn_engine *e, struct cairn_client *client, const int32_t *tokens,
                         uint32_t n, const struct crn_publish_choice *choice, uint32_t timeout_ms)
{
    struct cairn_draft_options options = CAIRN_DRAFT_INIT;
    struct cairn_lease *lease = NULL;
    struct cairn_draft *draft = NULL;
    struct cairn_entry_id entry;
    struct crn_pass pass = {0};
    int status = crn_share_attach_own(client, tokens, n, timeout_ms, &lease);
    const struct cairn_lease_info *info = cairn_lease_info(lease);
    if (status == 0)
        status = info->n_wants > 0 ? crn_pass_begin(&pass, e, tokens, n, 0) : CAIRN_E_MISS;
    if (status != 0)
        goto out;
    options.tokens = tokens;
    options.n_tokens = n;
    options.replaces = lease;
    options.pyramid = info->parts[0].pyramid;
    options.dtype = choice->dtype;
    options.n_states = info->n_wants;
    status = cairn_draft_open(client, &options, cairn_deadline_in(timeout_ms), &draft);
    if (status != 0)
        goto out;
    status = run_to_states(&pass, info, choice, draft, cairn_deadline_in(timeout_ms));
    if (status == 0)
        status = cairn_commit(draft, cairn_deadline_in(timeout_ms), &entry);
    else
        cairn_abort(draft);
out:
    crn_pass_end(&pass);
    cairn_release(lease);
    return status;
}
