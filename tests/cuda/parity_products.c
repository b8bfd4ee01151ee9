/* kernels/cuda: projections, attention and scores equal the definition. Where inputs are rounded to 16 bits on the way (bf16
 * weights, f16 and bf16 spans) the bound is that of the rounding, stated beside it. */
#include "tests/support/dev.h"
#include "tests/support/parity.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"
#include "tests/support/spans.h"

#include "ipc/log.h"
#include "kernels/cuda/exec.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct crn_kernel_ops *const ref = &crn_kernels_ref, *const cuda = &crn_kernels_cuda;

/* --- projections --- */

/* Random bytes are valid weights once the scales are small finite numbers. */
static void *make_weights(struct rand *r, const struct crn_matrix *w)
{
    size_t bytes = crn_weight_row_bytes(w->type, w->cols) * w->rows;
    size_t step = w->type >= CRN_W_Q8_0 ? crn_weight_row_bytes(w->type, CRN_QUANT_BLOCK) : w->type == CRN_W_F32 ? 4 : 2;
    unsigned char *data = malloc(bytes + 4);
    ck_assert_ptr_nonnull(data);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)rand_u64(r);
    for (size_t i = 0; i < bytes; i += step) {
        float x = rand_f32(r);
        uint16_t brain = crn_bf16_from_f32(x), small = crn_f16_from_f32(x / (w->type == CRN_W_Q8_0 ? 128.0f : 16.0f));
        if (w->type == CRN_W_F32)
            memcpy(data + i, &x, 4);
        else
            memcpy(data + i, w->type == CRN_W_BF16 ? &brain : &small, 2);
        if (w->type == CRN_W_Q4_1)
            memcpy(data + i + 2, &small, 2);
    }
    return data;
}

/* The definition's view of a bf16 product: activations are rounded first. */
static void round_like_cuda(uint32_t type, float *a, size_t n)
{
    for (size_t i = 0; i < n && type == CRN_W_BF16; i++)
        a[i] = crn_bf16_to_f32(crn_bf16_from_f32(a[i]));
}

static const size_t tokens[] = { 0, 1, 2, 7, 33, 70 };
static const uint32_t outputs[] = { 1, 3, 65, 129 };
static const uint32_t inputs[] = { 32, 96, 160, 576 };

START_TEST(projections_match)
{
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    for (size_t j = 0; j < 4; j++) {
        struct crn_matrix w = { NULL, (uint32_t)(_i % CRN_W_Q4_1) + 1, outputs[j], inputs[(j + (size_t)_i) % 4] };
        size_t m = tokens[_i / CRN_W_Q4_1], n_a = m * w.cols, n_out = m * w.rows;
        if (w.type <= CRN_W_BF16)
            w.cols -= (uint32_t)j; /* widths that are no multiple of anything */
        n_a = m * w.cols;
        float beta = (float)(j % 2), *a = malloc((n_a + 1) * 4), *want = malloc((n_out + 1) * 4), *got = malloc(n_out * 4 + 4);
        void *weights = make_weights(&r, &w);
        rand_fill(&r, a, n_a, 1.0f);
        rand_fill(&r, want, n_out, beta != 0 ? 1.0f : NAN); /* beta 0 must not read what was there */
        struct dev_buffer da = dev_put(a, n_a * 4, 4), out = dev_put(want, n_out * 4, 4);
        struct dev_buffer dw = dev_put(weights, crn_weight_row_bytes(w.type, w.cols) * w.rows, 0);
        w.data = dw.p;
        ck_assert_int_eq(cuda->gemm(dev_exec(), da.p, m, &w, beta, out.p), 0);
        w.data = weights;
        round_like_cuda(w.type, a, n_a);
        ref->gemm(NULL, a, m, &w, beta, want);
        dev_get(&out, got);
        /* f32 sums of k products up to 1, in any order */
        ck_assert(parity_close("gemm", want, got, n_out, (struct tolerance){ 5e-8f * (float)w.cols, 2e-6f }));
        dev_free(&da);
        dev_free(&dw);
        dev_free(&out);
        free(a);
        free(want);
        free(got);
        free(weights);
    }
}
END_TEST

START_TEST(projections_work_through_a_small_workspace)
{
    struct rand r = rand_seeded(7);
    struct crn_matrix w = { NULL, CRN_W_Q8_0 + (uint32_t)_i % 2, 700, 4096 };
    float a[2][4096], *want = malloc(2 * 700 * 4), *got = malloc(2 * 700 * 4);
    void *weights = make_weights(&r, &w);
    rand_fill(&r, a[0], 2 * 4096, 1.0f);
    dev_exec_use(CRN_CUDA_WORKSPACE_MIN);
    struct dev_buffer da = dev_put(a, sizeof a, 0), out = dev_put(NULL, 2 * 700 * 4, 0);
    struct dev_buffer dw = dev_put(weights, crn_weight_row_bytes(w.type, w.cols) * w.rows, 0);
    w.data = weights;
    ref->gemm(NULL, a[0], 2, &w, 0, want);
    w.data = dw.p;
    ck_assert_int_eq(cuda->gemm(dev_exec(), da.p, 2, &w, 0, out.p), 0); /* 11 MB of f32 weights, 2 MB at a time */
    dev_get(&out, got);
    ck_assert(parity_close("gemm", want, got, 2 * 700, (struct tolerance){ 3e-4f, 2e-6f }));
}
END_TEST

START_TEST(impossible_matrices_are_refused)
{
    float x[64] = { 0 };
    ck_assert_int_eq(cuda->gemm(dev_exec(), x, 1, &(struct crn_matrix){ x, 99, 1, 32 }, 0, x), CAIRN_E_ARG);
    ck_assert_int_eq(cuda->gemm(dev_exec(), x, 1, &(struct crn_matrix){ x, CRN_W_Q4_1, 1, 33 }, 0, x), CAIRN_E_ARG);
    ck_assert_int_eq(cuda->gemm(dev_exec(), x, 1, &(struct crn_matrix){ x, CRN_W_F32, 1, 32 }, 0.5f, x), CAIRN_E_ARG);
}
END_TEST

/* --- attention --- */

/* A case on the host with its copy on the device. */
struct twin {
    struct spans_case host;
    struct crn_attention device;
    struct crn_span spans[8];
    struct crn_kv_head heads[8][16];
};

static const void *put(const void *p, size_t bytes)
{
    return p == NULL ? NULL : dev_put(p, bytes, 0).p;
}

static struct crn_kv_head head_on_device(const struct crn_kv_head *h, uint32_t dtype, size_t dh)
{
    struct crn_kv_head d = *h;
    d.k = put(h->k, h->n * dh * cairn_dtype_bytes(dtype));
    d.v = put(h->v, h->n * dh * cairn_dtype_bytes(dtype));
    d.pos = put(h->pos, h->n * 4);
    d.k_scale = put(h->k_scale, (h->n + 63) / 64 * dh * 2);
    d.v_scale = put(h->v_scale, h->n * 2);
    return d;
}

static void twin_make(struct rand *r, const struct spans_shape *shape, struct twin *out)
{
    out->host = spans_make(r, shape);
    out->device = out->host.a;
    out->device.q = put(out->host.q, (size_t)shape->n_q * shape->n_heads * shape->head_dim * 4);
    out->device.q_pos = put(out->host.q_pos, shape->n_q * 4);
    out->device.spans = out->spans;
    for (uint32_t i = 0; i < shape->n_spans; i++) {
        out->spans[i] = out->host.spans[i];
        out->spans[i].heads = out->heads[i];
        for (uint32_t g = 0; g < shape->n_kv_heads; g++)
            out->heads[i][g] = head_on_device(&out->host.spans[i].heads[g], out->spans[i].dtype, shape->head_dim);
    }
}

/* n_q, H, G, dh, spans, keys, dtype, equal */
static const struct spans_shape shapes[] = {
    { 1, 1, 1, 32, 1, 1, CAIRN_F32, 0 },   { 3, 3, 1, 64, 1, 3, CAIRN_F32, 0 },    { 1, 9, 3, 64, 3, 63, CAIRN_F16, 0 },
    { 7, 9, 3, 64, 2, 64, CAIRN_BF16, 0 }, { 5, 8, 1, 128, 2, 65, CAIRN_I8, 0 },   { 33, 3, 1, 64, 2, 127, CAIRN_F32, 0 },
    { 17, 6, 2, 32, 3, 255, 0, 0 },        { 9, 2, 2, 128, 4, 257, 0, 0 },         { 1, 8, 1, 64, 5, 1030, 0, 0 },
    { 9, 4, 4, 20, 3, 100, 0, 0 },         { 2, 2, 1, 7, 2, 70, 0, 0 },            { 4, 2, 1, 512, 2, 70, 0, 0 },
    { 0, 3, 1, 64, 1, 5, CAIRN_F32, 0 },   { 3, 3, 1, 64, 2, 0, CAIRN_F32, 0 },    { 3, 3, 1, 64, 0, 5, CAIRN_F32, 0 },
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* f32 and int8: a few ulp of a score move a probability by 1e-6 of itself. f16, bf16: queries are rounded by 2^-11 or 2^-9, so
 * that a score (up to about 10) moves by that times its terms' size, and P and with it the output by as much of itself. */
static struct tolerance tolerance_of(const struct spans_case *c)
{
    float worst = 4e-6f;
    for (uint32_t i = 0; i < c->a.n_spans; i++) {
        if (c->a.spans[i].dtype == CAIRN_F16)
            worst = fmaxf(worst, 4e-3f);
        if (c->a.spans[i].dtype == CAIRN_BF16)
            worst = fmaxf(worst, 3e-2f);
    }
    return (struct tolerance){ worst, worst };
}

START_TEST(attention_matches)
{
    const struct spans_shape *s = &shapes[_i];
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    struct twin t;
    twin_make(&r, s, &t);
    size_t n = (size_t)s->n_q * s->n_heads * s->head_dim;
    float *want = malloc(n * 4 + 4), *got = malloc(n * 4 + 4);
    struct dev_buffer out = dev_put(NULL, n * 4, 4);
    ref->attention(NULL, &t.host.a, want);
    ck_assert_int_eq(cuda->attention(dev_exec(), &t.device, out.p), 0);
    dev_get(&out, got);
    char name[32];
    snprintf(name, sizeof name, "shape %d", _i);
    ck_assert(parity_close(name, want, got, n, tolerance_of(&t.host)));
    t.device.lse = out.p; /* for the host's backends only, and refused instead of left unwritten */
    ck_assert_int_eq(cuda->attention(dev_exec(), &t.device, out.p), CAIRN_E_ARG);
    free(want);
    free(got);
}
END_TEST

START_TEST(scores_match)
{
    struct spans_shape s = shapes[_i];
    if (s.n_spans == 0)
        return;
    s.equal_heads = 1;
    struct rand r = rand_seeded(rand_default_seed() + 100 + (uint64_t)_i);
    struct twin t;
    twin_make(&r, &s, &t);
    float *weight = malloc(s.n_q * 4 + 4);
    for (uint32_t i = 0; i < s.n_q; i++)
        weight[i] = rand_f32(&r) + 1.5f;
    for (uint32_t reduce = CRN_REDUCE_MEAN_ALL; reduce <= CRN_REDUCE_KV_MAX; reduce++) {
        struct crn_scores ask = { .attention = t.host.a, .target = (uint32_t)_i % s.n_spans, .reduce = reduce,
                                  .total_queries = _i % 2 ? 77 : 0, .accumulate = (uint32_t)_i / 2 % 2 };
        const struct crn_kv_head *heads = t.host.spans[ask.target].heads;
        size_t n = reduce == CRN_REDUCE_MEAN_ALL ? heads[0].n : 0;
        for (uint32_t g = 0; reduce != CRN_REDUCE_MEAN_ALL && g < s.n_kv_heads; g++)
            n += heads[g].n;
        float *want = malloc(n * 4 + 4), *got = malloc(n * 4 + 4);
        rand_fill(&r, want, n, ask.accumulate ? 0.1f : NAN);
        for (size_t i = 0; i < n; i++)
            want[i] = fabsf(want[i]); /* scores are never negative */
        struct dev_buffer out = dev_put(want, n * 4, 4);
        ask.q_weight = _i % 3 ? weight : NULL;
        ref->scores(NULL, &ask, want);
        ask.attention = t.device;
        ask.q_weight = _i % 3 ? put(weight, s.n_q * 4) : NULL;
        ck_assert_int_eq(cuda->scores(dev_exec(), &ask, out.p), 0);
        dev_get(&out, got);
        ck_assert(parity_close("scores", want, got, n, tolerance_of(&t.host)));
        ask.attention.lse = out.p;
        ck_assert_int_eq(cuda->scores(dev_exec(), &ask, out.p), CAIRN_E_ARG);
        free(want);
        free(got);
    }
    free(weight);
}
END_TEST

/* 4 MiB of workspace hold the scores of a few queries only. */
START_TEST(chunks_of_queries_change_nothing)
{
    const struct spans_shape s = { 60, 9, 3, 64, 3, 1500, CAIRN_F32, 0 };
    struct rand r = rand_seeded(11);
    float *small, *large;
    size_t n = (size_t)s.n_q * s.n_heads * s.head_dim;
    small = malloc(n * 4);
    large = malloc(n * 4);
    for (int pass = 0; pass < 2; pass++) {
        struct twin t;
        dev_exec_use(pass == 0 ? CRN_CUDA_WORKSPACE_MIN : (size_t)64 << 20);
        r = rand_seeded(11);
        twin_make(&r, &s, &t);
        struct dev_buffer out = dev_put(NULL, n * 4, 0);
        ck_assert_int_eq(cuda->attention(dev_exec(), &t.device, out.p), 0);
        dev_get(&out, pass == 0 ? small : large);
    }
    ck_assert(parity_close("chunks", large, small, n, (struct tolerance){ 1e-6f, 1e-6f }));
    free(small);
    free(large);
}
END_TEST

START_TEST(what_does_not_fit_and_impossible_shapes_are_refused)
{
    const struct spans_shape s = { 2, 3, 1, 64, 1, 5, CAIRN_F32, 0 };
    struct rand r = rand_seeded(1);
    struct twin t;
    twin_make(&r, &s, &t);
    float *out = dev_put(NULL, 2 * 3 * 64 * 4, 0).p;
    struct crn_attention a = t.device;
    a.n_heads = 4;
    a.n_kv_heads = 3;
    ck_assert_int_eq(cuda->attention(dev_exec(), &a, out), CAIRN_E_ARG);
    t.heads[0][0].n = 1u << 20; /* 3 rows of 4 MiB */
    ck_assert_int_eq(cuda->attention(dev_exec(), &t.device, out), CAIRN_E_TOO_BIG);
    t.spans[0].dtype = 77;
    ck_assert_int_eq(cuda->attention(dev_exec(), &t.device, out), CAIRN_E_ARG);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(projections_match, CRN_W_Q4_1 * 6),
        RUN_LOOP(projections_work_through_a_small_workspace, 2),
        RUN_TEST(impossible_matrices_are_refused),
        RUN_LOOP(attention_matches, N_SHAPES),
        RUN_LOOP(scores_match, N_SHAPES),
        RUN_TEST(chunks_of_queries_change_nothing),
        RUN_TEST(what_does_not_fit_and_impossible_shapes_are_refused),
    };
    crn_log_setup("parity_products", CRN_LOG_ERROR);
    return run_suite("cuda_parity_products", tests, sizeof tests / sizeof *tests);
}
