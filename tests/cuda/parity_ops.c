/* kernels/cuda: every operation without a product equals the definition, on shapes around every tile edge, with NaN, infinities,
 * -0 and denormals, at odd addresses, between guards. Movement and int8 match bit for bit. */
#include "tests/support/dev.h"
#include "tests/support/parity.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include "ipc/log.h"
#include "kernels/cuda/exec.h"
#include "kernels/kernels.h"
#include "kernels/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct crn_kernel_ops *const ref = &crn_kernels_ref, *const cuda = &crn_kernels_cuda;

/* Around a warp, a block of threads, a scale block. */
static const size_t sizes[] = { 0, 1, 3, 31, 32, 33, 63, 64, 65, 127, 129, 255, 256, 257, 509, 1031 };
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static float *numbers(struct rand *r, size_t n, float scale, size_t odd_one_in)
{
    float *x = malloc((n + 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    rand_fill(r, x, n, scale);
    if (odd_one_in != 0)
        rand_sprinkle(r, x, n, odd_one_in);
    return x;
}

static struct rand seeded(int loop)
{
    return rand_seeded(rand_default_seed() + (uint64_t)loop);
}

static void close_enough(const char *what, const float *want, const struct dev_buffer *got, size_t n, struct tolerance tol)
{
    float *host = malloc(got->bytes + 1);
    dev_get(got, host);
    bool same = parity_close(what, want, host, n, tol);
    free(host);
    ck_assert(same);
}

static void same_bytes(const char *what, const void *want, const struct dev_buffer *got)
{
    void *host = malloc(got->bytes + 1);
    dev_get(got, host);
    long bad = parity_first_byte(want, host, got->bytes);
    free(host);
    ck_assert_msg(bad == -1, "%s: byte %ld of %zu differs", what, bad, got->bytes);
}

/* Sums in double on both sides; one rounding at the end, of numbers that exp and division got right to 2 ulp. */
static const struct tolerance tight = { 1e-30f, 3e-7f };
/* sin and cos of the device are right to 2 ulp; differences of two products cancel. */
static const struct tolerance rotation = { 4e-6f, 1e-6f };

START_TEST(rmsnorm_matches)
{
    struct rand r = seeded(_i);
    size_t n = (size_t)_i % 3 + 1, d = sizes[_i];
    float *x = numbers(&r, n * d, 3.0f, _i % 2 ? 50 : 0), *gain = numbers(&r, d, 1.0f, 0);
    float *want = malloc((n * d + 1) * sizeof *want);
    if (d > 0)
        x[0] = 1e20f; /* its square does not fit float32 */
    ck_assert_int_eq(ref->rmsnorm(NULL, x, gain, n, d, 1e-5f, want), 0);
    struct dev_buffer dx = dev_put(x, n * d * 4, 4), dg = dev_put(gain, d * 4, 0), out = dev_put(NULL, n * d * 4, 8);
    ck_assert_int_eq(cuda->rmsnorm(dev_exec(), dx.p, dg.p, n, d, 1e-5f, out.p), 0);
    close_enough("rmsnorm", want, &out, n * d, tight);
    ck_assert_int_eq(cuda->rmsnorm(dev_exec(), dx.p, dg.p, n, d, 1e-5f, dx.p), 0);
    close_enough("rmsnorm in place", want, &dx, n * d, tight);
    free(x);
    free(gain);
    free(want);
}
END_TEST

START_TEST(rope_matches)
{
    static const uint32_t dims[] = { 2, 20, 64, 128, 510, 512 };
    struct rand r = seeded(_i);
    struct crn_rope rope = { NULL, dims[_i % 6] };
    size_t n = 1 + (size_t)_i, heads = 1 + (size_t)_i % 4, count = n * heads * rope.head_dim;
    float *x = numbers(&r, count, 2.0f, 0), *inv = malloc(rope.head_dim / 2 * sizeof *inv);
    int32_t *pos = malloc(n * sizeof *pos);
    for (size_t i = 0; i < rope.head_dim / 2; i++)
        inv[i] = powf(1e5f, -2.0f * (float)i / (float)rope.head_dim);
    for (size_t i = 0; i < n; i++)
        pos[i] = (int32_t)rand_below(&r, 8192);
    struct dev_buffer dx = dev_put(x, count * 4, 4), di = dev_put(inv, rope.head_dim / 2 * 4, 0),
                      dp = dev_put(pos, n * 4, 0);
    struct crn_rope on_device = { di.p, rope.head_dim };
    rope.inv_freq = inv;
    ck_assert_int_eq(ref->rope(NULL, &rope, pos, n, heads, x), 0);
    ck_assert_int_eq(cuda->rope(dev_exec(), &on_device, dp.p, n, heads, dx.p), 0);
    close_enough("rope", x, &dx, count, rotation);
    on_device.head_dim = 7;
    ck_assert_int_eq(cuda->rope(dev_exec(), &on_device, dp.p, n, heads, dx.p), CAIRN_E_ARG);
    free(x);
    free(inv);
    free(pos);
}
END_TEST

START_TEST(swiglu_and_add_match)
{
    static const struct tolerance swish = { 1e-37f, 6e-7f }; /* exp to 2 ulp, a division, a product */
    struct rand r = seeded(_i);
    size_t n = sizes[_i] * 3;
    float *gate = numbers(&r, n, 30.0f, 20), *up = numbers(&r, n, 2.0f, 20), *want = malloc((n + 1) * sizeof *want);
    struct dev_buffer dg = dev_put(gate, n * 4, 4), du = dev_put(up, n * 4, 12), out = dev_put(NULL, n * 4, 4);
    ref->swiglu(NULL, gate, up, n, want);
    ck_assert_int_eq(cuda->swiglu(dev_exec(), dg.p, du.p, n, out.p), 0);
    close_enough("swiglu", want, &out, n, swish);
    ck_assert_int_eq(cuda->swiglu(dev_exec(), dg.p, du.p, n, dg.p), 0);
    close_enough("swiglu in place", want, &dg, n, swish);
    ref->add(NULL, up, n, want);
    ck_assert_int_eq(cuda->add(dev_exec(), du.p, n, out.p), 0);
    close_enough("add", want, &out, n, swish);
    free(gate);
    free(up);
    free(want);
}
END_TEST

START_TEST(split_heads_and_convert_match_bit_for_bit)
{
    struct rand r = seeded(_i);
    size_t n = sizes[_i] / 4, g = 1 + (size_t)_i % 3, dh = 1 + sizes[_i] % 67, stride = n + (size_t)_i % 5;
    float *x = numbers(&r, n * g * dh, 100000.0f, 7);
    for (uint32_t dtype = CAIRN_F32; dtype <= CAIRN_BF16; dtype++) {
        size_t bytes = g * stride * dh * cairn_dtype_bytes(dtype), flat = n * g * dh;
        unsigned char *want = malloc(bytes + 4);
        memset(want, 0xa5, bytes);
        struct dev_buffer dx = dev_put(x, flat * 4, 4), out = dev_put(want, bytes, 4);
        ref->split_heads(NULL, x, n, g, dh, dtype, stride, want);
        ck_assert_int_eq(cuda->split_heads(dev_exec(), dx.p, n, g, dh, dtype, stride, out.p), 0);
        same_bytes("split_heads", want, &out);
        for (uint32_t to = CAIRN_F32; to <= CAIRN_BF16; to++) {
            void *converted = malloc(flat * 4 + 4);
            struct dev_buffer back = dev_put(NULL, flat * cairn_dtype_bytes(to), 4);
            struct dev_buffer from = dev_put(want, flat * cairn_dtype_bytes(dtype), 4);
            ref->convert(NULL, want, dtype, flat, to, converted);
            ck_assert_int_eq(cuda->convert(dev_exec(), from.p, dtype, flat, to, back.p), 0);
            same_bytes("convert", converted, &back);
            free(converted);
        }
        free(want);
    }
    ck_assert_int_eq(cuda->split_heads(dev_exec(), NULL, 3, 1, 1, CAIRN_F32, 2, NULL), CAIRN_E_ARG);
    ck_assert_int_eq(cuda->convert(dev_exec(), NULL, CAIRN_I8, 1, CAIRN_F32, NULL), CAIRN_E_ARG);
    free(x);
}
END_TEST

START_TEST(gather_matches_and_refuses_wild_indices)
{
    static const size_t row_sizes[] = { 1, 3, 4, 8, 12, 64, 257, 1028, 2304, 4096 };
    struct rand r = seeded(_i);
    size_t rows = 1 + sizes[_i], n = sizes[N_SIZES - 1 - (size_t)_i] / 8, row = row_sizes[_i % 10];
    unsigned char *src = malloc(rows * row), *want = malloc(n * row + 1);
    uint32_t *index = malloc((n + 1) * sizeof *index);
    for (size_t i = 0; i < rows * row; i++)
        src[i] = (unsigned char)rand_u64(&r);
    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)rand_below(&r, rows);
    size_t offset = row % 4 == 0 ? 8 * ((size_t)_i % 2) : 1;
    struct dev_buffer ds = dev_put(src, rows * row, offset), out = dev_put(NULL, n * row, offset);
    struct dev_buffer di = dev_put(index, n * 4, 0);
    ref->gather(NULL, src, rows, row, index, n, want);
    ck_assert_int_eq(cuda->gather(dev_exec(), ds.p, rows, row, di.p, n, out.p), 0);
    same_bytes("gather", want, &out);
    if (n > 0) {
        index[n / 2] = (uint32_t)rows;
        struct dev_buffer wild = dev_put(index, n * 4, 0);
        ck_assert_int_eq(cuda->gather(dev_exec(), ds.p, rows, row, wild.p, n, out.p), CAIRN_E_ARG);
        ck_assert_int_eq(cuda->gather(dev_exec(), ds.p, rows, row, di.p, n, out.p), 0); /* the flag was cleared */
    }
    free(src);
    free(want);
    free(index);
}
END_TEST

/* Few different values, so that ties are everywhere. */
static void make_ties(struct rand *r, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (rand_below(r, 2))
            x[i] = (float)rand_below(r, 4) - 1.5f;
    for (size_t i = 0; i + 1 < n; i += 9)
        x[i] = i % 2 ? 0.0f : -0.0f;
}

START_TEST(topk_and_argmax_match)
{
    struct rand r = seeded(_i);
    size_t n = sizes[_i];
    float *x = numbers(&r, n, 1.0f, 9);
    if (_i % 2)
        make_ties(&r, x, n);
    struct dev_buffer dx = dev_put(x, n * 4, 4);
    const size_t ks[] = { 0, n / 7, n / 2, n > 0 ? n - 1 : 0, n };
    uint32_t *want = malloc((n + 1) * sizeof *want);
    for (size_t j = 0; j < 5; j++) {
        struct dev_buffer out = dev_put(NULL, ks[j] * 4, 4);
        ck_assert_int_eq(ref->topk(NULL, x, n, ks[j], want), 0);
        ck_assert_int_eq(cuda->topk(dev_exec(), dx.p, n, ks[j], out.p), 0);
        same_bytes("topk", want, &out);
    }
    ck_assert_int_eq(cuda->topk(dev_exec(), dx.p, n, n + 1, NULL), CAIRN_E_ARG);
    struct dev_buffer best = dev_put(NULL, 4, 4);
    ck_assert_int_eq(cuda->argmax(dev_exec(), dx.p, n, best.p), n == 0 ? CAIRN_E_ARG : 0);
    if (n > 0) {
        ref->argmax(NULL, x, n, want);
        same_bytes("argmax", want, &best);
    }
    free(want);
    free(x);
}
END_TEST

/* Around XXH3's own edges: 240, stripes of 64, blocks of 1024, and more blocks than one round has room for. */
START_TEST(checksums_match_at_every_length)
{
    static const size_t lengths[] = { 0, 1, 16, 128, 240, 241, 255, 256, 257, 1023, 1024, 1025, 1088, 2047, 2048, 2049, 65536, 70001, 300007 };
    struct rand r = seeded(_i);
    size_t n = lengths[_i];
    uint64_t want = 0, got = 1;
    unsigned char *x = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        x[i] = (unsigned char)rand_below(&r, 256);
    struct dev_buffer dx = dev_put(x, n, 0);
    ck_assert_int_eq(ref->checksum(NULL, x, n, &want), 0);
    ck_assert_int_eq(cuda->checksum(dev_exec(), dx.p, n, &got), 0);
    ck_assert_uint_eq(want, got);
    struct crn_exec narrow = *dev_exec();
    narrow.workspace_bytes = 8 * 64; /* seven blocks a round */
    ck_assert_int_eq(cuda->checksum(&narrow, dx.p, n, &got), 0);
    ck_assert_uint_eq(want, got);
    free(x);
}
END_TEST

START_TEST(the_largest_magnitude_matches)
{
    struct rand r = seeded(_i);
    size_t n = sizes[_i];
    float *x = numbers(&r, n, 1.0f, 9), want = -1, got = -2;
    struct dev_buffer dx = dev_put(x, n * 4, 4);
    ck_assert_int_eq(ref->max_abs(NULL, x, n, &want), 0);
    ck_assert_int_eq(cuda->max_abs(dev_exec(), dx.p, n, &got), 0);
    ck_assert_mem_eq(&want, &got, sizeof want);
    free(x);
}
END_TEST

START_TEST(an_exec_without_cublas_moves_and_refuses_products)
{
    struct crn_exec plain = { 0 };
    float x = 2, back = 0;
    ck_assert_int_eq(crn_cuda_exec_open_plain(0, CRN_CUDA_WORKSPACE_MIN, &plain), 0);
    struct dev_buffer dx = dev_put(&x, 4, 0), out = dev_put(NULL, 4, 0);
    struct crn_matrix w = { dx.p, CRN_W_F32, 1, 1 };
    ck_assert_int_eq(cuda->gemm(&plain, dx.p, 1, &w, 0, out.p), CAIRN_E_ARG);
    ck_assert_int_eq(cuda->convert(&plain, dx.p, CAIRN_F32, 1, CAIRN_F32, out.p), 0);
    ck_assert_int_eq(crn_memory_get(&plain, &back, out.p, 4), 0);
    ck_assert(back == x);
    crn_cuda_exec_close(&plain);
}
END_TEST

START_TEST(only_nan_still_selects_the_lowest_indices)
{
    float x[300];
    uint32_t want[7] = { 0, 1, 2, 3, 4, 5, 6 }, zero = 0;
    for (size_t i = 0; i < 300; i++)
        x[i] = i % 2 ? NAN : -NAN;
    struct dev_buffer dx = dev_put(x, sizeof x, 0), out = dev_put(NULL, sizeof want, 0), best = dev_put(NULL, 4, 0);
    ck_assert_int_eq(cuda->topk(dev_exec(), dx.p, 300, 7, out.p), 0);
    same_bytes("topk", want, &out);
    ck_assert_int_eq(cuda->argmax(dev_exec(), dx.p, 300, best.p), 0);
    same_bytes("argmax", &zero, &best);
}
END_TEST

START_TEST(int8_matches_bit_for_bit)
{
    struct rand r = seeded(_i);
    size_t n = sizes[_i] / 3, dh = 1 + sizes[_i] % 130, group = 1 + sizes[_i] % 70, d = group * (1 + (size_t)_i % 3);
    size_t blocks = (n + 63) / 64;
    float *x = numbers(&r, n * (dh > d ? dh : d), _i % 3 ? 5.0f : 1e-6f, _i % 2 ? 30 : 0);
    int8_t *q = malloc(n * (dh > d ? dh : d) + 1);
    uint16_t *scale = malloc((blocks * dh + n * (d / group) + 1) * sizeof *scale);
    float *back = malloc((n * (dh > d ? dh : d) + 1) * sizeof *back);
    struct dev_buffer dx = dev_put(x, n * dh * 4, 4), dq = dev_put(NULL, n * dh, 1), ds = dev_put(NULL, blocks * dh * 2, 2);
    struct dev_buffer out = dev_put(NULL, n * dh * 4, 4);
    ref->quant_k(NULL, x, n, dh, q, scale);
    ref->dequant_k(NULL, q, scale, n, dh, back);
    ck_assert_int_eq(cuda->quant_k(dev_exec(), dx.p, n, dh, dq.p, ds.p), 0);
    same_bytes("quant_k", q, &dq);
    same_bytes("quant_k scale", scale, &ds);
    ck_assert_int_eq(cuda->dequant_k(dev_exec(), dq.p, ds.p, n, dh, out.p), 0);
    same_bytes("dequant_k", back, &out);

    struct dev_buffer rx = dev_put(x, n * d * 4, 4), rq = dev_put(NULL, n * d, 1), rs = dev_put(NULL, n * (d / group) * 2, 2);
    struct dev_buffer rout = dev_put(NULL, n * d * 4, 4);
    ref->quant_rows(NULL, x, n, d, group, q, scale);
    ref->dequant_rows(NULL, q, scale, n, d, group, back);
    ck_assert_int_eq(cuda->quant_rows(dev_exec(), rx.p, n, d, group, rq.p, rs.p), 0);
    same_bytes("quant_rows", q, &rq);
    same_bytes("quant_rows scale", scale, &rs);
    ck_assert_int_eq(cuda->dequant_rows(dev_exec(), rq.p, rs.p, n, d, group, rout.p), 0);
    same_bytes("dequant_rows", back, &rout);
    ck_assert_int_eq(cuda->quant_rows(dev_exec(), rx.p, n, d, d + 1, rq.p, rs.p), CAIRN_E_ARG);
    free(x);
    free(q);
    free(scale);
    free(back);
}
END_TEST

START_TEST(nothing_runs_without_an_exec)
{
    float x = 0;
    ck_assert_int_eq(cuda->add(NULL, &x, 1, &x), CAIRN_E_ARG);
    ck_assert_int_eq(cuda->add(&(struct crn_exec){ 0 }, &x, 1, &x), CAIRN_E_ARG);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(rmsnorm_matches, N_SIZES),
        RUN_LOOP(rope_matches, 12),
        RUN_LOOP(swiglu_and_add_match, N_SIZES),
        RUN_LOOP(split_heads_and_convert_match_bit_for_bit, N_SIZES),
        RUN_LOOP(gather_matches_and_refuses_wild_indices, N_SIZES),
        RUN_LOOP(topk_and_argmax_match, N_SIZES),
        RUN_TEST(only_nan_still_selects_the_lowest_indices),
        RUN_LOOP(checksums_match_at_every_length, 19),
        RUN_LOOP(the_largest_magnitude_matches, N_SIZES),
        RUN_TEST(an_exec_without_cublas_moves_and_refuses_products),
        RUN_LOOP(int8_matches_bit_for_bit, N_SIZES),
        RUN_TEST(nothing_runs_without_an_exec),
    };
    crn_log_setup("parity_ops", CRN_LOG_ERROR);
    return run_suite("cuda_parity_ops", tests, sizeof tests / sizeof *tests);
}
