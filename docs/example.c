/* Reads what is cached of a context, or publishes it. Run it twice beside a cairnd. */
#include <cairn.h>
#include <stdio.h>

int main(void)
{
    enum { N = 128, DIM = 64 }; /* a context of N tokens, a model of one layer with one KV head */
    static int32_t tokens[N];
    static float k[N][DIM], v[N][DIM]; /* what a prefill computes */
    struct cairn_options o = { .struct_size = sizeof o, .shape = { 1, 1, DIM, DIM } };
    struct cairn_query query = { .struct_size = sizeof query, .tokens = tokens, .n_tokens = N };
    struct cairn_draft_options entry = { .struct_size = sizeof entry, .tokens = tokens,
                                         .n_tokens = N, .dtype = CAIRN_F16 };
    struct cairn_put put = { .struct_size = sizeof put, .k = k, .v = v, .n = N,
                             .src_dtype = CAIRN_F32 };
    struct cairn_client *client = NULL;
    struct cairn_lease *lease;
    struct cairn_draft *draft;
    struct cairn_layer_view view;
    struct cairn_entry_id id;
    uint64_t deadline = cairn_deadline_in(5000);
    o.model.b[0] = o.family.b[0] = 1; /* engines: cairn_model_digest, cairn_family_digest */
    int status = cairn_open(&o, &client);
    if (status == 0 && (status = cairn_attach(client, &query, deadline, &lease)) == 0) {
        cairn_wait(lease, 0, 0, CAIRN_WAIT_KV, deadline); /* spilled rows come back here */
        if ((status = cairn_lease_layer(lease, 0, 0, &view)) == 0)
            printf("attached %u rows, in place at %p\n", view.heads[0].n, view.heads[0].k);
        cairn_release(lease); /* a sibling would call cairn_reuse, which recomputes its run */
    } else if (status == CAIRN_E_MISS &&
               (status = cairn_draft_open(client, &entry, deadline, &draft)) == 0) {
        cairn_put_layer(draft, &put, deadline); /* one per layer, while the next one is computed */
        if ((status = cairn_commit(draft, deadline, &id)) == 0)
            printf("published entry %llu\n", (unsigned long long)id.v);
    }
    if (status != 0)
        fprintf(stderr, "no cache: %s\n", cairn_strerror(status));
    cairn_close(client);
    return status != 0;
}
