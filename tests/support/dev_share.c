/* dev_share - the tiny family on a device. */
#include "tests/support/dev_share.h"

#include "tests/support/dev.h"

#include "kernels/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dev_programs(void)
{
    static char path[512];
    const char *bin = getenv("CRN_BIN");
    if (getenv("CRN_GPU") != NULL)
        return;
    snprintf(path, sizeof path, "%s/../emu/bin", bin != NULL ? bin : "build/release/bin");
    setenv("CRN_BIN", path, 1);
}

struct cairn_client *dev_tiny_open(const struct broker *b, uint32_t model)
{
    struct cairn_options o = CAIRN_OPTIONS_INIT;
    struct cairn_client *client = NULL;
    o.socket = b->socket;
    o.label = "device";
    o.model = tiny_model(model);
    o.family.b[3] = 0xfa;
    o.shape = (struct cairn_shape){TINY_LAYERS, TINY_HEADS, TINY_DIM, TINY_HIDDEN};
    o.memory = CAIRN_MEMORY_DEVICE;
    if (cairn_open(&o, &client) != 0)
        fprintf(stderr, "cairn_open failed\n");
    return client;
}

/* Numbers of a put, [2][heads][n][dim] or [n][hidden]. */
static float *numbers_of(const struct tiny_entry *e, uint32_t layer, int is_state, size_t *out_n)
{
    uint32_t width = is_state ? TINY_HIDDEN : TINY_DIM, heads = is_state ? 1 : TINY_HEADS, parts = is_state ? 1 : 2;
    size_t n = (size_t)parts * heads * e->n_tokens * width;
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n && x != NULL; i++) {
        uint32_t c = (uint32_t)(i % width), row = (uint32_t)(i / width) % e->n_tokens;
        uint32_t head = (uint32_t)(i / width / e->n_tokens) % heads, part = (uint32_t)(i / width / e->n_tokens / heads);
        x[i] = tiny_value(e->model, is_state ? 2 : part, layer, head, (int32_t)(e->start + row), c);
    }
    *out_n = n;
    return x;
}

int dev_tiny_put(struct cairn_draft *draft, const struct tiny_entry *e, uint32_t layer, int is_state)
{
    struct cairn_put put = CAIRN_PUT_INIT;
    const struct crn_exec *x = dev_exec();
    size_t n;
    float *host = numbers_of(e, layer, is_state, &n);
    void *there = NULL;
    int status = crn_memory_alloc(x, n * sizeof *host, &there);
    if (status == 0)
        status = crn_memory_put(x, there, host, n * sizeof *host);
    put.layer = layer;
    put.n = e->n_tokens;
    put.k = is_state ? NULL : there;
    put.v = is_state ? NULL : (const float *)there + n / 2;
    put.rows = is_state ? there : NULL;
    if (status == 0)
        status = is_state ? cairn_put_state(draft, &put, SOON) : cairn_put_layer(draft, &put, SOON);
    crn_memory_free(x, there);
    free(host);
    return status;
}

static int put_state(struct cairn_draft *draft, const struct tiny_entry *e, uint32_t layer)
{
    return dev_tiny_put(draft, e, layer, 1);
}

static int put_layer(struct cairn_draft *draft, const struct tiny_entry *e, uint32_t layer)
{
    return dev_tiny_put(draft, e, layer, 0);
}

int dev_tiny_publish(struct cairn_client *client, const struct tiny_entry *e, struct cairn_entry_id *out_entry)
{
    static const struct tiny_puts from_device = {put_state, put_layer};
    return tiny_publish_by(client, e, &from_device, out_entry);
}

/* Rows of f32 against the formula; 0 when they are it. */
static int check_rows(const void *rows, const int32_t *pos, uint32_t n, uint32_t width, const uint32_t what[4])
{
    float *x = malloc((size_t)n * width * sizeof *x + 1);
    int bad = x == NULL || crn_memory_get(dev_exec(), x, rows, (size_t)n * width * sizeof *x) != 0;
    for (size_t i = 0; i < (size_t)n * width && !bad; i++) {
        float want = tiny_value(what[0], what[1], what[2], what[3], pos[i / width], (uint32_t)(i % width));
        bad = memcmp(&x[i], &want, sizeof want) != 0;
    }
    free(x);
    return bad;
}

static int check_head(const struct cairn_head_view *h, uint32_t model, uint32_t layer, uint32_t head)
{
    int32_t *pos = malloc(h->n * sizeof *pos + 1);
    uint32_t k[] = {model, 0, layer, head}, v[] = {model, 1, layer, head};
    int bad = pos == NULL || crn_memory_get(dev_exec(), pos, h->pos, h->n * sizeof *pos) != 0;
    bad = bad || check_rows(h->k, pos, h->n, TINY_DIM, k) || check_rows(h->v, pos, h->n, TINY_DIM, v);
    free(pos);
    return bad;
}

int dev_tiny_check(struct cairn_lease *lease, uint32_t model, uint32_t n_states)
{
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        struct cairn_layer_view view;
        struct cairn_state_view state;
        uint32_t e[] = {model, 2, layer, 0};
        if (cairn_wait(lease, 0, layer, CAIRN_WAIT_KV, SOON) != 0 || cairn_lease_layer(lease, 0, layer, &view) != 0 ||
            view.dtype != CAIRN_F32 || view.heads[0].n == 0)
            return 1;
        for (uint32_t head = 0; head < TINY_HEADS; head++)
            if (check_head(&view.heads[head], model, layer, head) != 0)
                return 2;
        if (layer < n_states && (cairn_wait(lease, 0, layer, CAIRN_WAIT_STATE, SOON) != 0 ||
                                 cairn_lease_state(lease, 0, layer, &state) != 0 ||
                                 check_rows(state.rows, state.pos, state.n, TINY_HIDDEN, e) != 0))
            return 3;
    }
    return 0;
}
