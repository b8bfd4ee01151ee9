/* What a user of the library may write: knows cairn.h and nothing else of this project. Without a broker every call says so; with
 * one it publishes a context and attaches to it. Usage: hello SOCKET; prints one line; exit code 0 when all is as documented. */
#include <cairn.h>

#include <stdio.h>
#include <string.h>

#define N 64
#define LAYERS 2
#define HEADS 2
#define DIM 4

static float rows[2][HEADS][N][DIM];

static int publish(struct cairn_client *client, const int32_t *tokens)
{
    struct cairn_draft_options options = CAIRN_DRAFT_INIT;
    struct cairn_draft *draft;
    struct cairn_entry_id entry;
    options.tokens = tokens;
    options.n_tokens = N;
    options.dtype = CAIRN_F32;
    int status = cairn_draft_open(client, &options, cairn_deadline_in(5000), &draft);
    if (status != 0)
        return status;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        struct cairn_put put = CAIRN_PUT_INIT;
        put.layer = layer;
        put.k = rows[0];
        put.v = rows[1];
        put.n = N;
        status = cairn_put_layer(draft, &put, cairn_deadline_in(5000));
        if (status != 0) {
            cairn_abort(draft);
            return status;
        }
    }
    return cairn_commit(draft, cairn_deadline_in(5000), &entry);
}

static int attach(struct cairn_client *client, const int32_t *tokens)
{
    struct cairn_query query = CAIRN_QUERY_INIT;
    struct cairn_lease *lease;
    struct cairn_layer_view view;
    query.tokens = tokens;
    query.n_tokens = N;
    int status = cairn_attach(client, &query, cairn_deadline_in(5000), &lease);
    if (status != 0)
        return status;
    status = cairn_lease_layer(lease, 0, 1, &view);
    if (status == 0 && (view.heads[1].n != N || memcmp(view.heads[1].v, rows[1][1], sizeof rows[1][1]) != 0))
        status = CAIRN_E_CORRUPT;
    if (status == 0)
        status = cairn_lease_check(lease);
    cairn_release(lease);
    return status;
}

int main(int argc, char **argv)
{
    struct cairn_options options = CAIRN_OPTIONS_INIT;
    struct cairn_client *client;
    int32_t tokens[N];
    if (argc != 2)
        return 2;
    for (int i = 0; i < N; i++)
        tokens[i] = i;
    for (size_t i = 0; i < sizeof rows / sizeof(float); i++)
        ((float *)rows)[i] = (float)i;
    options.socket = argv[1];
    options.label = "hello";
    options.model.b[0] = options.family.b[0] = 1;
    options.shape.n_layers = LAYERS;
    options.shape.n_kv_heads = HEADS;
    options.shape.head_dim = DIM;
    options.shape.hidden = 8;
    if (cairn_open(&options, &client) != 0)
        return 1;
    int status = publish(client, tokens);
    if (status == 0)
        status = attach(client, tokens);
    printf("cairn %s: %s\n", cairn_version(), status == 0 ? "published and attached" : cairn_error(client));
    cairn_close(client);
    return status == 0 ? 0 : status == CAIRN_E_GONE ? 3 : 1;
}
