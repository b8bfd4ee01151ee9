/* worker/weights: matrices hold what the file says, adapters are merged, RoPE rows are in
 * half-split order, and what does not fit is refused with one line. */
#include "tests/support/run.h"

#include "ipc/cairn_status.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tools/worker/weights.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct crn_model_shape shape_of(uint32_t n_layers, uint32_t n_heads, uint32_t n_kv_heads,
                                       uint32_t head_dim)
{
    return (struct crn_model_shape){.n_layers = n_layers,
                                    .hidden = n_heads * head_dim,
                                    .n_heads = n_heads,
                                    .n_kv_heads = n_kv_heads,
                                    .head_dim = head_dim,
                                    .ffn = 96,
                                    .vocab = 97,
                                    .context_max = 256,
                                    .rope_theta = 10000,
                                    .norm_eps = 1e-5f,
                                    .tied = true};
}

/* A matrix of a file as float32, in file order. Freed by the caller. */
static float *raw_matrix(const struct crn_gguf *g, const char *name, uint32_t *out_cols,
                         uint32_t *out_rows)
{
    const struct crn_gguf_tensor *t = crn_gguf_tensor(g, name);
    ck_assert_msg(t != NULL, "no tensor %s", name);
    float *out = calloc(t->n_elements, sizeof *out);
    crn_quant_row(t->type, t->data, t->n_elements, out);
    *out_cols = (uint32_t)t->dims[0];
    *out_rows = (uint32_t)t->dims[1];
    return out;
}

/* W + sum of scale * alpha / r * B A, in double, file order. */
static void add_adapter(const struct crn_adapter *adapter, const char *name, float *w)
{
    char half[80];
    uint32_t cols, rows, rank;
    snprintf(half, sizeof half, "%s.lora_a", name);
    float *a = raw_matrix(adapter->gguf, half, &cols, &rank);
    snprintf(half, sizeof half, "%s.lora_b", name);
    float *b = raw_matrix(adapter->gguf, half, &rank, &rows);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < cols; c++) {
            double sum = 0;
            for (uint32_t k = 0; k < rank; k++)
                sum += (double)b[r * rank + k] * (double)a[k * cols + c];
            w[r * cols + c] +=
                (float)((double)adapter->scale * (double)adapter->alpha / rank * sum);
        }
    }
    free(a);
    free(b);
}

/* Compares a loaded matrix with the file; head_dim != 0: row (head, 2j + t) of the file is row
 * (head, t * dh/2 + j). */
static void expect_matrix(const struct crn_weights *w, const char *name,
                          const struct crn_matrix *got, uint32_t head_dim)
{
    uint32_t cols, rows;
    float *want = raw_matrix(w->base, name, &cols, &rows);
    for (size_t i = 0; i < w->n_adapters; i++)
        add_adapter(&w->adapters[i], name, want);
    ck_assert_uint_eq(got->type, CRN_W_F32);
    ck_assert_uint_eq(got->rows, rows);
    ck_assert_uint_eq(got->cols, cols);
    ck_assert_uint_eq((uintptr_t)got->data % CAIRN_ALIGN, 0);
    const float *data = got->data;
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t place = r;
        for (uint32_t j = 0; j < head_dim / 2; j++) {
            for (uint32_t t = 0; t < 2; t++) {
                if (r % head_dim == 2 * j + t)
                    place = r / head_dim * head_dim + t * (head_dim / 2) + j;
            }
        }
        for (uint32_t c = 0; c < cols; c++) {
            float x = want[r * cols + c], y = data[place * cols + c];
            float bound =
                w->n_adapters > 0 ? 1e-5f : 0; /* sums of rank products of numbers below 1 */
            if (!(fabsf(x - y) <= bound))
                ck_abort_msg("%s row %u col %u: %g, %g wanted", name, r, c, (double)y, (double)x);
        }
    }
    free(want);
}

static void expect_layer(const struct crn_weights *w, uint32_t l)
{
    const struct crn_layer_weights *layer = &w->layers[l];
    const struct {
        const char *name;
        const struct crn_matrix *matrix;
        uint32_t head_dim;
    } list[] = {
        {"attn_q", &layer->wq, w->shape.head_dim},
        {"attn_k", &layer->wk, w->shape.head_dim},
        {"attn_v", &layer->wv, 0},
        {"attn_output", &layer->wo, 0},
        {"ffn_gate", &layer->w_gate, 0},
        {"ffn_up", &layer->w_up, 0},
        {"ffn_down", &layer->w_down, 0},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.%s.weight", l, list[i].name);
        expect_matrix(w, name, list[i].matrix, list[i].head_dim);
    }
}

static const struct {
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, type;
} odd[] = {
    {1, 1, 1, 32, CRN_QUANT_F32},  {2, 3, 1, 64, CRN_QUANT_F16},  {1, 8, 1, 128, CRN_QUANT_BF16},
    {2, 4, 4, 64, CRN_QUANT_Q8_0}, {1, 6, 2, 32, CRN_QUANT_Q4_0}, {3, 3, 1, 64, CRN_QUANT_Q4_1},
};

START_TEST(models_of_odd_shapes_load_exactly)
{
    struct crn_model_shape shape =
        shape_of(odd[_i].n_layers, odd[_i].n_heads, odd[_i].n_kv_heads, odd[_i].head_dim);
    struct crn_weights *w;
    shape.tied = _i % 2 == 0;
    paths_tmp();
    ck_assert_int_eq(crn_test_model_write(paths_tmp_file("m.gguf"), &shape, 11, odd[_i].type), 0);
    ck_assert_int_eq(crn_weights_load(paths_tmp_file("m.gguf"), NULL, 0, &w), 0);
    ck_assert_uint_eq(w->shape.n_layers, shape.n_layers);
    ck_assert_uint_eq(w->shape.hidden, shape.hidden);
    ck_assert_uint_eq(w->shape.n_heads, shape.n_heads);
    ck_assert_uint_eq(w->shape.n_kv_heads, shape.n_kv_heads);
    ck_assert_uint_eq(w->shape.head_dim, shape.head_dim);
    ck_assert_uint_eq(w->shape.ffn, 96);
    ck_assert_uint_eq(w->shape.vocab, 97);
    ck_assert_uint_eq(w->shape.context_max, 256);
    ck_assert(w->shape.rope_theta == 10000 && w->shape.norm_eps == 1e-5f &&
              w->shape.tied == shape.tied);
    ck_assert(crn_gguf_str_is(w->foundation, "cairn-test"));
    for (uint32_t l = 0; l < shape.n_layers; l++)
        expect_layer(w, l);
    expect_matrix(w, "token_embd.weight", &w->token_embd, 0);
    expect_matrix(w, shape.tied ? "token_embd.weight" : "output.weight", &w->output, 0);
    ck_assert_int_eq(w->output.data == w->token_embd.data, shape.tied);
    crn_weights_free(w);
    paths_tmp_remove();
}
END_TEST

START_TEST(adapters_are_merged_with_their_scales)
{
    const uint32_t types[] = {CRN_QUANT_F32, CRN_QUANT_F16, CRN_QUANT_BF16, CRN_QUANT_F32};
    struct crn_model_shape shape =
        shape_of(2, 3, 1, _i == 3 ? 6 : 64); /* 18 columns: no whole tile */
    char first[256], second[256];
    struct crn_weights *w;
    paths_tmp();
    ck_assert_int_eq(crn_test_model_write(paths_tmp_file("m.gguf"), &shape, 11,
                                          _i == 3 ? CRN_QUANT_F32 : CRN_QUANT_Q4_1),
                     0);
    snprintf(first, sizeof first, "%s", paths_tmp_file("a.gguf"));
    snprintf(second, sizeof second, "%s", paths_tmp_file("b.gguf"));
    ck_assert_int_eq(crn_test_adapter_write(first, &shape, 5, 4, types[_i]), 0);
    ck_assert_int_eq(crn_test_adapter_write(second, &shape, 6, 1, types[_i]), 0);
    const struct crn_adapter_spec specs[] = {{first, 1.0f}, {second, -0.5f}};
    ck_assert_int_eq(crn_weights_load(paths_tmp_file("m.gguf"), specs, 2, &w), 0);
    ck_assert_uint_eq(w->n_adapters, 2);
    ck_assert(w->adapters[0].alpha == 8 && w->adapters[1].alpha == 2);
    for (uint32_t l = 0; l < shape.n_layers; l++)
        expect_layer(w, l);
    crn_weights_free(w);
    paths_tmp_remove();
}
END_TEST

START_TEST(the_digest_tells_models_apart)
{
    struct crn_model_shape shape = shape_of(1, 1, 1, 32);
    char a[256];
    struct cairn_digest d[5];
    paths_tmp();
    ck_assert_int_eq(crn_test_model_write(paths_tmp_file("m.gguf"), &shape, 11, CRN_QUANT_F16), 0);
    snprintf(a, sizeof a, "%s", paths_tmp_file("a.gguf"));
    ck_assert_int_eq(crn_test_adapter_write(a, &shape, 5, 4, CRN_QUANT_F32), 0);
    const struct crn_adapter_spec specs[] = {{a, 1.0f}, {a, 0.5f}};
    const size_t first[] = {0, 0, 1, 0, 0}, count[] = {0, 1, 1, 2, 0};
    for (size_t i = 0; i < 5; i++) {
        struct crn_weights *w;
        ck_assert_int_eq(crn_weights_load(paths_tmp_file("m.gguf"), specs + first[i], count[i], &w),
                         0);
        d[i] = w->digest;
        crn_weights_free(w);
    }
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = i + 1; j < 4; j++)
            ck_assert_int_ne(memcmp(&d[i], &d[j], sizeof d[i]), 0);
    }
    ck_assert_int_eq(memcmp(&d[0], &d[4], sizeof d[0]), 0);
    paths_tmp_remove();
}
END_TEST

/* Frobenius norm of W norm(x) over the golden context in layer 0: RoPE does not change it. */
static double projected_norm(const struct crn_weights *w, const struct crn_matrix *m,
                             const json_t *ids)
{
    const uint32_t d = w->shape.hidden;
    double total = 0;
    float *x = calloc(d, sizeof *x);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const float *e = (const float *)w->token_embd.data + (size_t)json_integer_value(json_array_get(ids, i)) * d;
        double square = 0;
        for (uint32_t c = 0; c < d; c++)
            square += (double)e[c] * (double)e[c];
        for (uint32_t c = 0; c < d; c++)
            x[c] = (float)((double)e[c] / sqrt(square / d + (double)w->shape.norm_eps)) *
                   w->layers[0].attn_norm[c];
        for (uint32_t r = 0; r < m->rows; r++) {
            const float *row = (const float *)m->data + (size_t)r * d;
            double y = 0;
            for (uint32_t c = 0; c < d; c++)
                y += (double)row[c] * (double)x[c];
            total += y * y;
        }
    }
    free(x);
    return sqrt(total);
}

static double embedding_norm(const struct crn_weights *w, const json_t *ids)
{
    double total = 0;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const float *e =
            (const float *)w->token_embd.data + (size_t)json_integer_value(json_array_get(ids, i)) * w->shape.hidden;
        for (uint32_t c = 0; c < w->shape.hidden; c++)
            total += (double)e[c] * (double)e[c];
    }
    return sqrt(total);
}

static void expect_norm(const json_t *record, const char *name, double got)
{
    double want = json_number_value(json_array_get(json_object_get(record, name), 0));
    ck_assert_msg(fabs(got - want) <= 1e-4 * want, "%s: %f, %f wanted", name, got, want);
}

START_TEST(the_real_models_have_the_golden_norms_in_layer_0)
{
    static const char *const names[] = {"base", "finder", "clerk"};
    char adapter[64];
    json_t *golden = json_load_file(paths_golden("forward.json"), 0, NULL);
    struct crn_weights *w;
    ck_assert_ptr_nonnull(golden);
    const json_t *ids = json_object_get(golden, "context_ids");
    const json_t *record = json_object_get(json_object_get(golden, "models"), names[_i]);
    snprintf(adapter, sizeof adapter, "%s.gguf", names[_i]);
    const struct crn_adapter_spec spec = {paths_family(adapter), 1.0f};
    ck_assert_int_eq(crn_weights_load(paths_model(), &spec, _i > 0, &w), 0);
    ck_assert_uint_eq(w->shape.n_layers, 30);
    ck_assert_uint_eq(w->shape.hidden, 576);
    ck_assert_uint_eq(w->shape.vocab, 49152);
    ck_assert(w->shape.rope_theta == 100000 && w->shape.tied);
    ck_assert(crn_gguf_str_is(w->foundation, "smollm2"));
    expect_norm(record, "e_norm", embedding_norm(w, ids));
    expect_norm(record, "k_norm", projected_norm(w, &w->layers[0].wk, ids));
    expect_norm(record, "v_norm", projected_norm(w, &w->layers[0].wv, ids));
    crn_weights_free(w);
    json_decref(golden);
}
END_TEST

/* --- refusals --------------------------------------------------------------------------------- */

/* Keys of a one-layer model that tests spoil one at a time; no tensors are needed to refuse them.
 */
struct spoiled {
    const char *architecture;
    const char *scaling;
    uint32_t heads, kv_heads, rope_dims, experts, layers;
    float theta, eps;
    int code;
};

static const struct spoiled spoiled[] = {
    {"gemma", NULL, 4, 2, 8, 0, 1, 1e4f, 1e-5f, CAIRN_E_UNSUPPORTED},
    {"llama", "yarn", 4, 2, 8, 0, 1, 1e4f, 1e-5f, CAIRN_E_UNSUPPORTED},
    {"llama", NULL, 4, 3, 8, 0, 1, 1e4f, 1e-5f, CAIRN_E_FORMAT},
    {"llama", NULL, 5, 5, 8, 0, 1, 1e4f, 1e-5f, CAIRN_E_FORMAT},
    {"llama", NULL, 0, 2, 8, 0, 1, 1e4f, 1e-5f, CAIRN_E_FORMAT},
    {"llama", NULL, 4, 2, 4, 0, 1, 1e4f, 1e-5f, CAIRN_E_UNSUPPORTED},
    {"llama", NULL, 4, 2, 8, 8, 1, 1e4f, 1e-5f, CAIRN_E_UNSUPPORTED},
    {"llama", NULL, 4, 2, 8, 0, 0, 1e4f, 1e-5f, CAIRN_E_FORMAT},
    {"llama", NULL, 4, 2, 8, 0, 4000000, 1e4f, 1e-5f, CAIRN_E_TOO_BIG},
    {"llama", NULL, 4, 2, 8, 0, 1, INFINITY, 1e-5f, CAIRN_E_FORMAT},
    {"llama", NULL, 4, 2, 8, 0, 1, 1e4f, NAN, CAIRN_E_FORMAT},
    {"llama", NULL, 4, 2, 8, 0, 1, 1e4f, 1e-5f, CAIRN_E_FORMAT}, /* good keys, but no tensors */
};

START_TEST(shapes_that_cannot_be_are_refused)
{
    const struct spoiled *s = &spoiled[_i];
    struct gguf_writer *w = gguf_writer_new();
    struct crn_weights *weights = NULL;
    gguf_put_str(w, "general.architecture", s->architecture);
    if (s->scaling != NULL)
        gguf_put_str(w, "llama.rope.scaling.type", s->scaling);
    gguf_put_u32(w, "llama.block_count", s->layers);
    gguf_put_u32(w, "llama.context_length", 64);
    gguf_put_u32(w, "llama.embedding_length", 32);
    gguf_put_u32(w, "llama.feed_forward_length", 32);
    gguf_put_u32(w, "llama.attention.head_count", s->heads);
    gguf_put_u32(w, "llama.attention.head_count_kv", s->kv_heads);
    gguf_put_u32(w, "llama.rope.dimension_count", s->rope_dims);
    gguf_put_u32(w, "llama.expert_count", s->experts);
    gguf_put_f32(w, "llama.rope.freq_base", s->theta);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", s->eps);
    paths_tmp();
    ck_assert_int_eq(gguf_writer_save(w, paths_tmp_file("m.gguf")), 0);
    ck_assert_int_eq(crn_weights_load(paths_tmp_file("m.gguf"), NULL, 0, &weights), s->code);
    ck_assert_ptr_null(weights);
    paths_tmp_remove();
}
END_TEST

/* A good model whose bytes are edited: a name in the file becomes another of the same length. */
static int load_renamed(const char *from, const char *to)
{
    struct crn_model_shape shape = shape_of(1, 2, 1, 32);
    struct crn_weights *w = NULL;
    struct crn_gguf *g;
    size_t n;
    paths_tmp();
    ck_assert_int_eq(crn_test_model_write(paths_tmp_file("m.gguf"), &shape, 3, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_gguf_open(paths_tmp_file("m.gguf"), &g), 0);
    const uint8_t *bytes = crn_gguf_bytes(g, &n);
    const uint8_t *at = memmem(bytes, n, from, strlen(from));
    ck_assert_ptr_nonnull(at);
    FILE *f = fopen(paths_tmp_file("m.gguf"), "r+b");
    ck_assert_int_eq(fseek(f, (long)(at - bytes), SEEK_SET), 0);
    crn_gguf_close(g);
    ck_assert_uint_eq(fwrite(to, 1, strlen(to), f), strlen(from));
    fclose(f);
    int rc = crn_weights_load(paths_tmp_file("m.gguf"), NULL, 0, &w);
    crn_weights_free(w);
    paths_tmp_remove();
    return rc;
}

START_TEST(missing_and_foreign_tensors_are_refused)
{
    ck_assert_int_eq(load_renamed("blk.0.ffn_up.weight", "blk.0.ffn_up.weight"), 0);
    ck_assert_int_eq(load_renamed("blk.0.ffn_up.weight", "blk.0.ffn_xx.weight"), CAIRN_E_FORMAT);
    ck_assert_int_eq(load_renamed("token_embd.weight", "token_xxxx.weight"), CAIRN_E_FORMAT);
    struct gguf_writer *w = gguf_writer_new();
    ck_assert_ptr_nonnull(w);
    float x[32] = {0};
    struct crn_weights *weights = NULL;
    gguf_put_str(w, "general.architecture", "llama");
    gguf_put_u32(w, "llama.block_count", 1);
    gguf_put_u32(w, "llama.context_length", 64);
    gguf_put_u32(w, "llama.embedding_length", 4);
    gguf_put_u32(w, "llama.feed_forward_length", 4);
    gguf_put_u32(w, "llama.attention.head_count", 1);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_put_tensor(w, "token_embd.weight", CRN_QUANT_F32, 4, 2, x);
    gguf_put_tensor(w, "output_norm.weight", CRN_QUANT_F32, 4, 0, x);
    gguf_put_tensor(w, "blk.0.attn_norm.weight", CRN_QUANT_F32, 4, 0, x);
    gguf_put_tensor(w, "blk.0.ffn_norm.weight", CRN_QUANT_F32, 4, 0, x);
    static const char *const matrices[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                           "ffn_gate", "ffn_up", "ffn_down"};
    for (size_t i = 0; i < 7; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.0.%s.weight", matrices[i]);
        gguf_put_tensor(w, name, CRN_QUANT_F32, 4, 4, x);
    }
    gguf_put_tensor(w, "blk.0.attn_q.bias", CRN_QUANT_F32, 4, 0, x);
    paths_tmp();
    ck_assert_int_eq(gguf_writer_save(w, paths_tmp_file("m.gguf")), 0);
    ck_assert_int_eq(crn_weights_load(paths_tmp_file("m.gguf"), NULL, 0, &weights),
                     CAIRN_E_UNSUPPORTED);
    paths_tmp_remove();
}
END_TEST

/* One adapter tensor pair with the given name and shape. */
struct wrong_adapter {
    const char *architecture, *name;
    uint32_t cols, rank_a, rank_b, rows;
};

static const struct wrong_adapter wrong_adapters[] = {
    {"gemma", "blk.0.attn_q.weight", 64, 2, 2, 64},
    {"llama", "blk.0.attn_q.weight", 32, 2, 2, 64},
    {"llama", "blk.0.attn_q.weight", 64, 2, 2, 32},
    {"llama", "blk.0.attn_q.weight", 64, 2, 3, 64},
    {"llama", "blk.9.attn_q.weight", 64, 2, 2, 64},
    {"llama", "blk.0.attn_norm.weight", 64, 2, 2, 1},
    {"llama", "blk.0.attn_q.weight", 64, 5000, 5000, 64},
    {"llama", "blk.0.attn_q.weight", 64, 2, 0, 0},
};

START_TEST(adapters_that_do_not_fit_are_refused)
{
    const struct wrong_adapter *x = &wrong_adapters[_i];
    struct crn_model_shape shape = shape_of(1, 2, 1, 32);
    char name[80], model[256];
    struct crn_weights *weights = NULL;
    float *zeros = calloc(5000 * 64, sizeof *zeros);
    struct gguf_writer *w = gguf_writer_new();
    gguf_put_str(w, "general.architecture", x->architecture);
    gguf_put_str(w, "general.type", "adapter");
    gguf_put_str(w, "adapter.type", "lora");
    gguf_put_f32(w, "adapter.lora.alpha", 4);
    snprintf(name, sizeof name, "%s.lora_a", x->name);
    gguf_put_tensor(w, name, CRN_QUANT_F32, x->cols, x->rank_a, zeros);
    snprintf(name, sizeof name, "%s.lora_b", x->name);
    if (x->rows > 0)
        gguf_put_tensor(w, name, CRN_QUANT_F32, x->rank_b, x->rows, zeros);
    free(zeros);
    paths_tmp();
    snprintf(model, sizeof model, "%s", paths_tmp_file("m.gguf"));
    ck_assert_int_eq(crn_test_model_write(model, &shape, 3, CRN_QUANT_F32), 0);
    ck_assert_int_eq(gguf_writer_save(w, paths_tmp_file("a.gguf")), 0);
    const struct crn_adapter_spec spec = {paths_tmp_file("a.gguf"), 1.0f};
    ck_assert_int_eq(crn_weights_load(model, &spec, 1, &weights), CAIRN_E_FORMAT);
    ck_assert_ptr_null(weights);
    paths_tmp_remove();
}
END_TEST

START_TEST(models_and_adapters_are_not_confused)
{
    struct crn_weights *w = NULL;
    const struct crn_adapter_spec model_as_adapter = {paths_model(), 1.0f};
    const struct crn_adapter_spec not_finite = {"share/family/finder.gguf", NAN};
    const struct crn_adapter_spec absent = {"/nonexistent/a.gguf", 1.0f};
    ck_assert_int_eq(crn_weights_load(paths_family("finder.gguf"), NULL, 0, &w),
                     CAIRN_E_UNSUPPORTED);
    ck_assert_int_eq(crn_weights_load(paths_model(), &model_as_adapter, 1, &w), CAIRN_E_FORMAT);
    ck_assert_int_eq(crn_weights_load(paths_model(), &not_finite, 1, &w), CAIRN_E_ARG);
    ck_assert_int_eq(crn_weights_load(paths_model(), &absent, 1, &w), -ENOENT);
    ck_assert_ptr_null(w);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(models_of_odd_shapes_load_exactly, sizeof odd / sizeof *odd),
        RUN_LOOP(adapters_are_merged_with_their_scales, 4),
        RUN_TEST(the_digest_tells_models_apart),
        RUN_LOOP(the_real_models_have_the_golden_norms_in_layer_0, 3),
        RUN_LOOP(shapes_that_cannot_be_are_refused, sizeof spoiled / sizeof *spoiled),
        RUN_TEST(missing_and_foreign_tensors_are_refused),
        RUN_LOOP(adapters_that_do_not_fit_are_refused,
                 sizeof wrong_adapters / sizeof *wrong_adapters),
        RUN_TEST(models_and_adapters_are_not_confused),
    };
    return run_suite("worker_weights", tests, sizeof tests / sizeof *tests);
}
