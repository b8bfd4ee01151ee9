/* Weights on a device: every number of every matrix is the one that the host's loader makes, as it is or rounded to bf16; which
 * of the two is decided by the file or by the caller. Then what rounding costs: logits of bf16 weights against float32 on the CPU.
 * Small random models with an adapter; SmolLM2 when there is time (CRN_LONG). */
#include "tests/support/dev.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include "ipc/log.h"
#include "kernels/half.h"
#include "kernels/memory.h"

#include <stdlib.h>
#include <string.h>

static const struct crn_model_shape shape = {.n_layers = 2, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32,
                                             .ffn = 96, .vocab = 97, .context_max = 512, .rope_theta = 10000, .norm_eps = 1e-5f};

static const struct {
    uint32_t file, form, type;
} cases[] = {
    {CRN_QUANT_F32, CRN_WEIGHTS_AUTO, CRN_W_F32},   {CRN_QUANT_BF16, CRN_WEIGHTS_AUTO, CRN_W_BF16},
    {CRN_QUANT_F16, CRN_WEIGHTS_AUTO, CRN_W_BF16},  {CRN_QUANT_Q4_1, CRN_WEIGHTS_AUTO, CRN_W_F32},
    {CRN_QUANT_BF16, CRN_WEIGHTS_F32, CRN_W_F32},   {CRN_QUANT_F32, CRN_WEIGHTS_BF16, CRN_W_BF16},
    {CRN_QUANT_Q8_0, CRN_WEIGHTS_BF16, CRN_W_BF16},
};
#define N_CASES (sizeof cases / sizeof *cases)

static void check_numbers(const float *want, const void *there, uint32_t type, size_t n, const char *what)
{
    size_t bytes = n * (type == CRN_W_BF16 ? 2 : 4);
    void *got = malloc(bytes + 1);
    ck_assert_ptr_nonnull(got);
    ck_assert_int_eq(crn_memory_get(dev_exec(), got, there, bytes), 0);
    for (size_t i = 0; i < n; i++) {
        uint16_t narrow = crn_bf16_from_f32(want[i]);
        int same = type == CRN_W_BF16 ? memcmp((char *)got + 2 * i, &narrow, 2) == 0 : memcmp((char *)got + 4 * i, &want[i], 4) == 0;
        ck_assert_msg(same, "%s: number %zu", what, i);
    }
    free(got);
}

static void check_matrix(const struct crn_matrix *want, const struct crn_matrix *got, uint32_t type, const char *what)
{
    ck_assert_uint_eq(got->type, type);
    ck_assert_uint_eq(got->rows, want->rows);
    ck_assert_uint_eq(got->cols, want->cols);
    check_numbers(want->data, got->data, type, (size_t)want->rows * want->cols, what);
}

static void check_layer(const struct crn_layer_weights *want, const struct crn_layer_weights *got, uint32_t type)
{
    check_matrix(&want->wq, &got->wq, type, "wq");
    check_matrix(&want->wk, &got->wk, type, "wk");
    check_matrix(&want->wv, &got->wv, type, "wv");
    check_matrix(&want->wo, &got->wo, type, "wo");
    check_matrix(&want->w_gate, &got->w_gate, type, "w_gate");
    check_matrix(&want->w_up, &got->w_up, type, "w_up");
    check_matrix(&want->w_down, &got->w_down, type, "w_down");
    check_numbers(want->attn_norm, got->attn_norm, CRN_W_F32, shape.hidden, "attn_norm");
    check_numbers(want->ffn_norm, got->ffn_norm, CRN_W_F32, shape.hidden, "ffn_norm");
}

START_TEST(the_device_has_the_numbers_of_the_host)
{
    struct crn_weights *host, *there;
    struct crn_weights_place place = {dev_exec(), cases[_i / 2].form};
    const uint32_t type = cases[_i / 2].type;
    struct crn_model_shape s = shape;
    s.tied = _i % 2 == 0;
    paths_tmp();
    char *model = strdup(paths_tmp_file("model.gguf")), *adapter = strdup(paths_tmp_file("adapter.gguf"));
    struct crn_adapter_spec spec = {adapter, 0.7f};
    ck_assert_int_eq(crn_test_model_write(model, &s, 5, cases[_i / 2].file), 0);
    ck_assert_int_eq(crn_test_adapter_write(adapter, &s, 6, 4, CRN_QUANT_F16), 0);
    ck_assert_int_eq(crn_weights_load(model, &spec, 1, &host), 0);
    ck_assert_int_eq(crn_weights_load_at(model, &spec, 1, &place, &there), 0);
    ck_assert_mem_eq(&host->digest, &there->digest, sizeof host->digest);
    check_matrix(&host->token_embd, &there->token_embd, type, "token_embd");
    check_matrix(&host->output, &there->output, type, "output");
    ck_assert_int_eq(there->output.data == there->token_embd.data, s.tied);
    check_numbers(host->output_norm, there->output_norm, CRN_W_F32, s.hidden, "output_norm");
    for (uint32_t l = 0; l < s.n_layers; l++)
        check_layer(&host->layers[l], &there->layers[l], type);
    crn_weights_free(there);
    crn_weights_free(host);
    free(adapter);
    free(model);
    dev_close();
    paths_tmp_remove();
}
END_TEST

START_TEST(an_engine_refuses_weights_of_another_memory)
{
    struct crn_weights *host;
    struct crn_engine e;
    paths_tmp();
    ck_assert_int_eq(crn_test_model_write(paths_tmp_file("model.gguf"), &shape, 5, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_weights_load(paths_tmp_file("model.gguf"), NULL, 0, &host), 0);
    ck_assert_int_eq(crn_engine_init(&e, host, crn_kernels_named("cuda"), dev_exec(), CAIRN_F32), CAIRN_E_ARG);
    crn_weights_free(host);
    dev_close();
    paths_tmp_remove();
}
END_TEST

/* Largest logit in size: what differences are measured by. */
static double largest(const struct reading *x)
{
    double top = 0;
    for (uint32_t i = 0; i < x->by->model.weights->shape.vocab; i++)
        top = (double)x->logits[i] > top ? (double)x->logits[i] : -(double)x->logits[i] > top ? -(double)x->logits[i] : top;
    return top;
}

/* Both read the same text by themselves. Returns the difference of the logits over the largest of them. */
static double cost_of_rounding(const char *model, const char *text, uint32_t kv_dtype, struct reading *cpu, struct reading *there)
{
    static struct receiver on_cpu, on_device;
    const struct broker none = {.socket = "/nonexistent/cairn.sock"};
    struct crn_weights_place place = {dev_exec(), CRN_WEIGHTS_BF16};
    receiver_open(&on_cpu, &none, model, NULL, kv_dtype);
    receiver_open_at(&on_device, &none, model, NULL, kv_dtype, &place);
    struct crn_ids context = receiver_tokens(&on_cpu, text);
    reading_own(cpu, &on_cpu, &context, NULL);
    reading_own(there, &on_device, &context, NULL);
    crn_ids_free(&context);
    return reading_difference(cpu, there) / largest(cpu);
}

static void close_readings(struct reading *cpu, struct reading *there)
{
    struct receiver *on_cpu = cpu->by, *on_device = there->by;
    reading_end(cpu);
    reading_end(there);
    receiver_close(on_cpu);
    receiver_close(on_device);
    dev_close();
}

/* Weights and what they are multiplied with have 8 bits: 2^-9 of each product, mostly cancelling out. */
START_TEST(bf16_weights_cost_little)
{
    struct reading cpu, there;
    paths_tmp();
    char *model = strdup(paths_tmp_file("model.gguf")), *text = random_text(90, 17 + (uint64_t)_i);
    ck_assert_int_eq(crn_test_model_write(model, &shape, 40 + (uint64_t)_i, CRN_QUANT_BF16), 0);
    double off = cost_of_rounding(model, text, CAIRN_F32, &cpu, &there);
    ck_assert_msg(off > 0 && off <= 0.02, "logits off by %g of the largest", off);
    close_readings(&cpu, &there);
    free(text);
    free(model);
    paths_tmp_remove();
}
END_TEST

START_TEST(smollm_with_bf16_weights_goes_on_as_with_float32)
{
    struct reading cpu, there;
    json_t *golden = test_golden("forward.json");
    char *text = strndup(json_text(golden, "context"), 300);
    dev_exec_use((size_t)16 << 20);
    double off = cost_of_rounding(paths_model(), text, CAIRN_F16, &cpu, &there);
    ck_assert_msg(off > 0 && off <= 0.02, "logits off by %g of the largest", off);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_int_eq(there.answer[i], cpu.answer[i]);
    close_readings(&cpu, &there);
    free(text);
    json_decref(golden);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(the_device_has_the_numbers_of_the_host, 2 * N_CASES),
        RUN_TEST(an_engine_refuses_weights_of_another_memory),
        RUN_LOOP(bf16_weights_cost_little, 4),
        RUN_TEST(smollm_with_bf16_weights_goes_on_as_with_float32),
    };
    crn_log_setup("cuda_weights", CRN_LOG_WARN);
    return run_suite("cuda_weights", tests, sizeof tests / sizeof *tests - (getenv("CRN_LONG") == NULL));
}
