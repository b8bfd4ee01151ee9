/* kernels/cuda: a whole forward pass on the device says what the CPU says: SmolLM2 reads 200 tokens of the golden context and
 * goes on greedily; tokens are equal, logits within the bound of f32 (f16: of 16-bit keys and values on both sides).
 * Weights, activations, keys and values are device memory; only token rows go up and logits come down. */
#include "tests/support/dev.h"
#include "tests/support/model.h"
#include "tests/support/run.h"

#include "ipc/log.h"
#include "kernels/cuda/exec.h"
#include "kernels/kernels.h"
#include "tools/worker/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 200, ANSWER = 6, CAPACITY = CONTEXT + ANSWER, LAYERS = 30 };

static const struct crn_kernel_ops *const cuda = &crn_kernels_cuda;

static void *device(size_t bytes)
{
    void *p = NULL;
    ck_assert_int_eq(crn_cuda_alloc(dev_exec(), bytes, &p), 0);
    return p;
}

static void *uploaded(const void *host, size_t bytes)
{
    void *p = device(bytes);
    ck_assert_int_eq(crn_cuda_upload(dev_exec(), p, host, bytes), 0);
    return p;
}

static struct crn_matrix matrix(const struct crn_matrix *w)
{
    struct crn_matrix d = *w;
    d.data = uploaded(w->data, (size_t)w->rows * w->cols * sizeof(float));
    return d;
}

struct gpu {
    const struct crn_model_shape *shape;
    const float *token_embd; /* host */
    struct crn_layer_weights layers[LAYERS];
    struct crn_matrix output;
    float *output_norm, *inv_freq;
    float *h, *x, *q, *k, *v, *att, *gate, *up, *logits;
    uint16_t *keys[LAYERS], *values[LAYERS]; /* [G][CAPACITY][dh], of 2 or 4 bytes */
    int32_t *pos;                            /* [CAPACITY]: 0, 1, ... */
    uint32_t dtype, n;
};

static void load_layer(struct gpu *g, const struct crn_layer_weights *w, uint32_t layer)
{
    const struct crn_model_shape *s = g->shape;
    size_t kv = (size_t)s->n_kv_heads * CAPACITY * s->head_dim * cairn_dtype_bytes(g->dtype);
    g->layers[layer] = (struct crn_layer_weights){ .attn_norm = uploaded(w->attn_norm, s->hidden * 4),
                                                   .ffn_norm = uploaded(w->ffn_norm, s->hidden * 4),
                                                   .wq = matrix(&w->wq),
                                                   .wk = matrix(&w->wk),
                                                   .wv = matrix(&w->wv),
                                                   .wo = matrix(&w->wo),
                                                   .w_gate = matrix(&w->w_gate),
                                                   .w_up = matrix(&w->w_up),
                                                   .w_down = matrix(&w->w_down) };
    g->keys[layer] = device(kv);
    g->values[layer] = device(kv);
}

static struct gpu load(const struct crn_weights *w, uint32_t dtype)
{
    const struct crn_model_shape *s = &w->shape;
    struct gpu g = { .shape = s, .token_embd = w->token_embd.data, .dtype = dtype, .output = matrix(&w->output) };
    size_t q = (size_t)s->n_heads * s->head_dim, kv = (size_t)s->n_kv_heads * s->head_dim;
    float inv_freq[64];
    int32_t pos[CAPACITY];
    ck_assert_uint_eq(s->n_layers, LAYERS);
    for (uint32_t i = 0; i < LAYERS; i++)
        load_layer(&g, &w->layers[i], i);
    for (uint32_t i = 0; i < s->head_dim / 2; i++)
        inv_freq[i] = 1.0f / powf(s->rope_theta, (float)(2 * i) / (float)s->head_dim);
    for (int32_t i = 0; i < CAPACITY; i++)
        pos[i] = i;
    g.output_norm = uploaded(w->output_norm, s->hidden * 4);
    g.inv_freq = uploaded(inv_freq, s->head_dim / 2 * 4);
    g.pos = uploaded(pos, sizeof pos);
    float **parts[] = { &g.h, &g.x, &g.q, &g.k, &g.v, &g.att, &g.gate, &g.up };
    size_t widths[] = { s->hidden, s->hidden, q, kv, kv, q, s->ffn, s->ffn };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i] = device(CONTEXT * widths[i] * 4);
    g.logits = device(s->vocab * sizeof(float));
    return g;
}

static int attend(struct gpu *g, uint32_t layer, uint32_t n)
{
    const struct crn_model_shape *s = g->shape;
    const struct crn_exec *e = dev_exec();
    size_t dh = s->head_dim, size = cairn_dtype_bytes(g->dtype), skip = g->n * dh * size;
    struct crn_kv_head heads[16] = { 0 };
    int status = cuda->split_heads(e, g->k, n, s->n_kv_heads, dh, g->dtype, CAPACITY, (char *)g->keys[layer] + skip);
    if (status == 0)
        status = cuda->split_heads(e, g->v, n, s->n_kv_heads, dh, g->dtype, CAPACITY, (char *)g->values[layer] + skip);
    for (uint32_t h = 0; h < s->n_kv_heads; h++)
        heads[h] = (struct crn_kv_head){ .k = (char *)g->keys[layer] + h * CAPACITY * dh * size,
                                         .v = (char *)g->values[layer] + h * CAPACITY * dh * size, .pos = g->pos,
                                         .n = g->n + n };
    struct crn_span span = { heads, g->dtype, 0, n };
    struct crn_attention a = { .q = g->q, .q_pos = g->pos + g->n, .n_q = n, .n_heads = s->n_heads,
                               .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim, .scale = 1.0f / sqrtf((float)dh),
                               .spans = &span, .n_spans = 1 };
    return status != 0 ? status : cuda->attention(e, &a, g->att);
}

static void run_layer(struct gpu *g, uint32_t layer, uint32_t n)
{
    const struct crn_model_shape *s = g->shape;
    const struct crn_layer_weights *w = &g->layers[layer];
    const struct crn_exec *e = dev_exec();
    struct crn_rope rope = { g->inv_freq, s->head_dim };
    const int32_t *pos = g->pos + g->n;
    int bad = cuda->rmsnorm(e, g->h, w->attn_norm, n, s->hidden, s->norm_eps, g->x) |
              cuda->gemm(e, g->x, n, &w->wq, 0, g->q) | cuda->gemm(e, g->x, n, &w->wk, 0, g->k) |
              cuda->gemm(e, g->x, n, &w->wv, 0, g->v) | cuda->rope(e, &rope, pos, n, s->n_heads, g->q) |
              cuda->rope(e, &rope, pos, n, s->n_kv_heads, g->k) | attend(g, layer, n) |
              cuda->gemm(e, g->att, n, &w->wo, 1, g->h) |
              cuda->rmsnorm(e, g->h, w->ffn_norm, n, s->hidden, s->norm_eps, g->x) |
              cuda->gemm(e, g->x, n, &w->w_gate, 0, g->gate) | cuda->gemm(e, g->x, n, &w->w_up, 0, g->up) |
              cuda->swiglu(e, g->gate, g->up, (size_t)n * s->ffn, g->gate) | cuda->gemm(e, g->gate, n, &w->w_down, 1, g->h);
    ck_assert_int_eq(bad, 0);
}

/* Reads n tokens behind what was read; logits of the last, and its argmax as the device has it. */
static uint32_t read_tokens(struct gpu *g, const int32_t *tokens, uint32_t n, float *out_logits)
{
    const struct crn_model_shape *s = g->shape;
    const struct crn_exec *e = dev_exec();
    uint32_t best = 0, *device_best = device(sizeof best);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_int_eq(crn_cuda_upload(e, g->h + (size_t)i * s->hidden, g->token_embd + (size_t)tokens[i] * s->hidden,
                                         s->hidden * 4),
                         0);
    for (uint32_t i = 0; i < LAYERS; i++)
        run_layer(g, i, n);
    g->n += n;
    const float *last = g->h + (size_t)(n - 1) * s->hidden;
    ck_assert_int_eq(cuda->rmsnorm(e, last, g->output_norm, 1, s->hidden, s->norm_eps, g->x), 0);
    ck_assert_int_eq(cuda->gemm(e, g->x, 1, &g->output, 0, g->logits), 0);
    ck_assert_int_eq(cuda->argmax(e, g->logits, s->vocab, device_best), 0);
    ck_assert_int_eq(crn_cuda_download(e, out_logits, g->logits, s->vocab * sizeof *out_logits), 0);
    ck_assert_int_eq(crn_cuda_download(e, &best, device_best, sizeof best), 0);
    ck_assert_int_eq(crn_cuda_exec_sync(e), 0);
    crn_cuda_free(e, device_best);
    return best;
}

static uint32_t read_tokens_on_cpu(struct test_model *m, struct crn_kv kv[LAYERS], const int32_t *tokens, uint32_t n,
                                   float *out_logits)
{
    struct crn_pass p;
    uint32_t best, hidden = m->weights->shape.hidden;
    ck_assert_int_eq(crn_pass_begin(&p, &m->engine, tokens, n, kv[0].n), 0);
    for (uint32_t i = 0; i < LAYERS; i++)
        ck_assert_int_eq(crn_pass_layer(&p, i, NULL, 0, &kv[i], NULL, 0), 0);
    ck_assert_int_eq(crn_engine_logits(&m->engine, p.h + (size_t)(n - 1) * hidden, 1, out_logits), 0);
    crn_pass_end(&p);
    ck_assert_int_eq(m->engine.ops->argmax(&m->engine.exec, out_logits, m->weights->shape.vocab, &best), 0);
    return best;
}

static void logits_agree(const float *want, const float *got, uint32_t n, double bound)
{
    double worst = 0;
    for (uint32_t i = 0; i < n; i++)
        worst = fabs((double)want[i] - (double)got[i]) <= worst ? worst : fabs((double)want[i] - (double)got[i]);
    ck_assert_msg(worst <= bound, "largest difference of a logit: %g", worst);
}

START_TEST(a_context_is_read_and_continued_as_on_the_cpu)
{
    const uint32_t dtype = _i == 0 ? CAIRN_F32 : CAIRN_F16;
    const double bound = _i == 0 ? 2e-3 : 0.05;
    struct test_model m;
    struct crn_kv kv[LAYERS];
    uint32_t n;
    int32_t *ids = test_ids(json_object_get(test_golden("forward.json"), "context_ids"), &n);
    test_model_open(&m, "base", "cpu", dtype);
    uint32_t vocab = m.weights->shape.vocab;
    for (uint32_t i = 0; i < LAYERS; i++)
        ck_assert_int_eq(crn_kv_init(&kv[i], dtype, m.weights->shape.n_kv_heads, m.weights->shape.head_dim, CAPACITY), 0);
    dev_exec_use((size_t)16 << 20);
    struct gpu g = load(m.weights, dtype);
    float *want = malloc(vocab * sizeof *want), *got = malloc(vocab * sizeof *got);
    ck_assert_uint_ge(n, CONTEXT);
    for (uint32_t i = 0; i <= ANSWER; i++) {
        uint32_t expected = read_tokens_on_cpu(&m, kv, ids, i == 0 ? (uint32_t)CONTEXT : 1, want);
        uint32_t token = read_tokens(&g, ids, i == 0 ? (uint32_t)CONTEXT : 1, got);
        logits_agree(want, got, vocab, bound);
        ck_assert_uint_eq(token, expected);
        ids[0] = (int32_t)token;
    }
    free(want);
    free(got);
    dev_close();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = { RUN_LOOP(a_context_is_read_and_continued_as_on_the_cpu, getenv("CRN_LONG") ? 2 : 1) };
    crn_log_setup("cuda_forward", CRN_LOG_WARN);
    return run_suite("cuda_forward", tests, 1);
}
