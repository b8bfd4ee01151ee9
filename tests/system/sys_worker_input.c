/* Bad input to cairn-worker: files, options, requests. Whatever is wrong gets one line that says
 * what and where, a non-zero exit code (or an `error` for that request while the others are
 * answered); nothing is published, and nothing crashes: a sanitizer's report or a signal would be a
 * second line or another code. Small generated models, a real broker beside them. */
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct crn_model_shape shape = {.n_layers = 3,
                                             .hidden = 64,
                                             .n_heads = 4,
                                             .n_kv_heads = 2,
                                             .head_dim = 32,
                                             .ffn = 96,
                                             .vocab = 97,
                                             .context_max = 256,
                                             .rope_theta = 10000,
                                             .norm_eps = 1e-5f};
static const struct crn_model_shape narrow = {.n_layers = 3,
                                              .hidden = 96,
                                              .n_heads = 3,
                                              .n_kv_heads = 1,
                                              .head_dim = 32,
                                              .ffn = 96,
                                              .vocab = 97,
                                              .context_max = 256,
                                              .rope_theta = 10000,
                                              .norm_eps = 1e-5f};
static const char *const quiet[] = {"--memory", "16M", "--log-level", "warn", NULL};

struct scene {
    struct broker broker;
    char dir[128], model[160], adapter[160], other[160], text[160], bad[160], nowhere[160];
};

static void scene_open(struct scene *s)
{
    memset(s, 0, sizeof *s);
    snprintf(s->dir, sizeof s->dir, "%s", paths_tmp());
    snprintf(s->model, sizeof s->model, "%s/model.gguf", s->dir);
    snprintf(s->adapter, sizeof s->adapter, "%s/adapter.gguf", s->dir);
    snprintf(s->other, sizeof s->other, "%s/other.gguf", s->dir);
    snprintf(s->bad, sizeof s->bad, "%s/bad", s->dir);
    snprintf(s->nowhere, sizeof s->nowhere, "%s/nowhere", s->dir);
    ck_assert_int_eq(crn_test_model_write(s->model, &shape, 1, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_test_adapter_write(s->adapter, &shape, 2, 4, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_test_adapter_write(s->other, &narrow, 3, 4, CRN_QUANT_F32), 0);
    snprintf(s->text, sizeof s->text, "%s", text_file(0, "a small text about nothing at all.", -1));
    broker_start(&s->broker, quiet);
}

static void scene_close(struct scene *s)
{
    ck_assert_uint_eq(broker_counter(&s->broker, "draft_total"), 0);
    ck_assert_uint_eq(broker_counter(&s->broker, "entries"), 0);
    broker_stop(&s->broker);
    paths_tmp_remove();
}

/* Runs a worker that must end with this code, one line that holds `what`, and nothing else said. */
static void refused(const struct scene *s, int code, const char *what, const char *const *options)
{
    const char *arguments[40] = {"--socket", s->broker.socket};
    for (size_t i = 0; options[i] != NULL; i++)
        arguments[i + 2] = options[i];
    struct program p = program_run("cairn-worker", arguments);
    ck_assert_msg(p.code == code, "%s: exit code %d: %s", what, p.code, p.err);
    ck_assert_msg(program_err_lines(&p) == 1, "%s: not one line: %s", what, p.err);
    ck_assert_msg(strstr(p.err, what) != NULL, "no \"%s\" in: %s", what, p.err);
    ck_assert_msg(p.out[0] == '\0', "%s: said %s", what, p.out);
    program_free(&p);
}

static void *contents(const char *path, size_t *out_bytes)
{
    FILE *f = fopen(path, "r");
    struct stat st;
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fstat(fileno(f), &st), 0);
    char *bytes = malloc((size_t)st.st_size + 1);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_uint_eq(fread(bytes, 1, (size_t)st.st_size, f), (size_t)st.st_size);
    fclose(f);
    *out_bytes = (size_t)st.st_size;
    return bytes;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* ---- files ---- */

START_TEST(a_file_cut_at_a_page_is_refused)
{
    struct scene s;
    size_t bytes;
    scene_open(&s);
    int is_model = _i == 0;
    char *whole = contents(is_model ? s.model : s.adapter, &bytes);
    const char *const model[] = {"--model", s.bad, "--context", s.text, NULL};
    const char *const adapter[] = {"--model",   s.model, "--adapter", s.bad,
                                   "--context", s.text,  NULL};
    ck_assert_uint_gt(bytes, 12 * 4096);
    size_t step = bytes / 4096 / 24 + 1, n = 0;
    for (size_t cut = 0; cut < bytes; cut += step * 4096, n++) {
        write_file(s.bad, whole, cut);
        refused(&s, 1, s.bad, is_model ? model : adapter);
    }
    write_file(s.bad, whole, bytes - 1);
    refused(&s, 1, s.bad, is_model ? model : adapter);
    ck_assert_uint_ge(n, 12);
    free(whole);
    scene_close(&s);
}
END_TEST

/* Writes the model with the first `from` replaced. */
static void write_patched(const struct scene *s, const char *from, const char *to)
{
    size_t bytes;
    char *whole = contents(s->model, &bytes), *at = memmem(whole, bytes, from, strlen(from));
    ck_assert_ptr_nonnull(at);
    ck_assert_uint_eq(strlen(from), strlen(to));
    memcpy(at, to, strlen(to));
    write_file(s->bad, whole, bytes);
    free(whole);
}

START_TEST(a_model_of_another_kind_is_refused)
{
    static const struct {
        const char *from, *to, *what;
    } kinds[] = {
        {"GGUF", "GGML", "bad"},
        {"llama", "mamba", "mamba"},
        {"gpt2", "t5xx", "tokenizer.ggml.model"},
        {"smollm", "falcon", "falcon"},
        {"<|im_start|>' +", "[INST] no' + ", "chat_template"},
        {"blk.1.attn_q.weight", "blk.1.attn_x.weight", "blk.1.attn_"},
        {"llama.block_count", "llama.block_cornt", "block_count"},
    };
    struct scene s;
    scene_open(&s);
    const char *const options[] = {"--model", s.bad, "--context", s.text, NULL};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char to[32];
        snprintf(to, sizeof to, "%-*s", (int)strlen(kinds[i].from), kinds[i].to);
        to[strlen(kinds[i].from)] = '\0';
        write_patched(&s, kinds[i].from, to);
        refused(&s, 1, kinds[i].what, options);
        refused(&s, 1, s.bad, options);
    }
    scene_close(&s);
}
END_TEST

START_TEST(files_that_are_not_there_or_not_what_they_should_be_are_refused)
{
    struct scene s;
    scene_open(&s);
    const struct {
        const char *what, *options[8];
    } cases[] = {
        {s.nowhere, {"--model", s.nowhere, "--context", s.text}},
        {s.dir, {"--model", s.dir, "--context", s.text}},
        {s.text, {"--model", s.text, "--context", s.text}},
        {"/dev/null", {"--model", "/dev/null", "--context", s.text}},
        {s.adapter, {"--model", s.adapter, "--context", s.text}},
        {s.nowhere, {"--model", s.model, "--adapter", s.nowhere, "--context", s.text}},
        {s.nowhere, {"--model", s.model, "--adapter", s.nowhere, "--digest"}},
        {s.text, {"--model", s.model, "--adapter", s.text, "--context", s.text}},
        {s.model, {"--model", s.model, "--adapter", s.model, "--context", s.text}},
        {s.other, {"--model", s.model, "--adapter", s.other, "--context", s.text}},
        {s.nowhere, {"--model", s.model, "--context", s.nowhere}},
        {s.nowhere, {"--model", s.model, "--context", s.nowhere, "--ask", "who?"}},
        {s.dir, {"--model", s.model, "--context", s.dir}},
        {s.nowhere, {"--model", s.model, "--requests", s.nowhere}},
        {s.dir, {"--model", s.model, "--requests", s.dir, "--json"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(&s, 1, cases[i].what, cases[i].options);
    scene_close(&s);
}
END_TEST

/* ---- options ---- */

START_TEST(wrong_options_are_refused)
{
    static const char *const wrong[][2] = {
        {"--frob", NULL},
        {"--kv", "f64"},
        {"--kv", "i8"},
        {"--store", "q4"},
        {"--threads", "0"},
        {"--threads", "two"},
        {"--batch", "0"},
        {"--batch", "1.5"},
        {"--max-tokens", "-1"},
        {"--temperature", "nan"},
        {"--top-p", "1.1"},
        {"--seed", "x"},
        {"--reuse", "maybe"},
        {"--reuse", "2-1"},
        {"--reuse", "1-999"},
        {"--reuse", "1-2+"},
        {"--pyramid", "giza"},
        {"--pyramid", "keep=2"},
        {"--pyramid", "prefill:d=2"},
        {"--pyramid", "prefill:x=1"},
        {"--compress", "0.4"},
        {"--compress", "keep=0"},
        {"--compress", "keep=0.4,f8"},
        {"--compress", "keep=0.4,selector=best"},
        {"--compress", "keep=0.4,budget=large"},
        {"--compress", "keep=0.4,whole=3"},
        {"--compress", "selector=snap"},
        {"--compress", "keep=0.4,bytes=0.4"},
        {"--compress", "keep=0.4,heads=0"},
        {"--compress", "quality=0.95,selector=snap"},
        {"--compress", "quality=0.95,heads=1"},
        {"--compress", "bytes=0.4,whole=1-2"},
        {"--states", "a"},
        {"--states", "1;2"},
        {"--states", "-1"},
        {"--quality", "2"},
        {"--timeout", "0"},
        {"--log-level", "loud"},
        {"--adapter", "x.gguf=much"},
        {"--score", NULL},
        {"--requests", "x.jsonl"},
        {"--ask", NULL},
        {"stray", NULL},
    };
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *const options[] = {"--model",   s.model,     "--context", s.text,
                                       wrong[i][0], wrong[i][1], NULL};
        const char *what = wrong[i][0] + (wrong[i][0][0] == '-' ? 2 : 0);
        refused(&s, 2, what, options);
    }
    const char *const nothing[] = {"--model", s.model, NULL}, *const no_model[] = {"--context",
                                                                                   s.text, NULL};
    const char *const lone_ask[] = {"--model", s.model, "--requests", s.text,
                                    "--ask",   "who?",  NULL};
    refused(&s, 2, "--context", nothing);
    refused(&s, 2, "--model", no_model);
    refused(&s, 2, "--ask", lone_ask);
    scene_close(&s);
}
END_TEST

START_TEST(options_that_do_not_fit_the_model_are_refused)
{
    static const struct {
        const char *name, *value, *what;
    } wrong[] = {
        {"--reuse", "0-3", "reuse"},
        {"--reuse", "3-3", "reuse"},
        {"--states", "0,3", "states"},
        {"--backend", "abacus", "abacus"},
    };
    struct scene s;
    scene_open(&s);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *const options[] = {"--model",     s.model,        "--context", s.text,
                                       wrong[i].name, wrong[i].value, NULL};
        refused(&s, 1, wrong[i].what, options);
    }
    scene_close(&s);
}
END_TEST

/* ---- contexts and requests ---- */

START_TEST(a_context_longer_than_the_model_allows_is_refused)
{
    struct scene s;
    char *text = random_text(300, 1);
    scene_open(&s);
    const char *const plain[] = {"--model", s.model, "--context", text_file(1, text, -1), NULL};
    const char *const asked[] = {"--model", s.model, "--context", text_file(1, text, -1),
                                 "--ask",   "who?",  NULL};
    const char *const json[] = {"--model", s.model, "--context", text_file(1, text, -1),
                                "--ask",   "who?",  "--json",    NULL};
    refused(&s, 1, "256 tokens", plain);
    refused(&s, 1, "256 tokens", asked);
    struct program p = program_run("cairn-worker", json);
    ck_assert_int_eq(p.code, 1);
    json_t *line = program_json(&p, 0);
    ck_assert_ptr_nonnull(strstr(json_text(line, "error"), "256 tokens"));
    json_decref(line);
    program_free(&p);
    free(text);
    scene_close(&s);
}
END_TEST

/* Lines of a requests file: what is right gets an answer, what is not an error that holds `error`.
 */
static const struct {
    const char *line, *error;
} requests[] = {
    {"{\"context\": \"bells and pens\", \"question\": \"who?\"}", NULL},
    {"{\"context\": \"bells and pens\", \"quest", "line 2, column"},
    {"{\"context\": \"bells and pens\", \"question\": \"where?\"}", NULL},
    {"[1, 2]", "line 4: want a JSON object"},
    {"{\"context\": \"bells and pens\"}", "line 5: question"},
    {"{\"question\": \"who?\"}", "line 6: want a string in either context"},
    {"{\"context\": 5, \"question\": \"who?\"}", "line 7: want a string in either context"},
    {"{\"context\": \"x\", \"context_file\": \"y\", \"question\": \"who?\"}",
     "line 8: want a string in either context"},
    {"{\"context\": \"x\", \"context\": \"y\", \"question\": \"who?\"}", "line 9, column"},
    {"{\"context_file\": \"nowhere.txt\", \"question\": \"who?\"}",
     "line 10: context_file nowhere.txt"},
    {"{\"context\": \"bells and pens\", \"question\": \"why?\", \"answer\": 7}", "line 11: answer"},
    {"{\"context\": \"caf\xe9\", \"question\": \"who?\"}", "line 12, column"},
    {"null", "line 13, column"},
    {"}{", "line 14, column"},
    {"{\"context\": \"a\\u0000b\", \"question\": \"who?\"}", "line 15, column"},
    {"", NULL}, /* an empty line is none */
    {"{\"context\": \"bells and pens\", \"question\": \"LONG\"}", "256 tokens"},
    {"{\"context\": \"bells and pens\", \"question\": \"when?\"}", NULL},
    {"{\"context\": \"LONG\", \"question\": \"who?\"}", "256 tokens"},
    {"{\"context\": \"pens\", \"question\": \"who?\"}", NULL},
    {"{\"context\": \"pens\", \"question\": \"who", "line 21, column"},
};
#define N_REQUESTS (sizeof requests / sizeof *requests)

static void write_requests(const char *path, int only_good)
{
    char *text = random_text(280, 2);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    for (size_t i = 0; i < N_REQUESTS; i++) {
        const char *line = requests[i].line, *gap = strstr(line, "LONG");
        if (only_good && (requests[i].error != NULL || *line == '\0'))
            continue;
        if (gap != NULL)
            fprintf(f, "%.*s%s%s\n", (int)(gap - line), line, text, gap + 4);
        else
            fprintf(f, "%s%s", line, i + 1 < N_REQUESTS ? "\n" : "");
    }
    ck_assert_int_eq(fclose(f), 0);
    free(text);
}

START_TEST(a_broken_request_costs_that_request_only)
{
    static const char *const batches[] = {"1", "8"};
    struct scene s;
    size_t at = 0, good = 0;
    scene_open(&s);
    write_requests(s.bad, 0);
    write_requests(s.other, 1);
    const char *const mixed[] = {"--model", s.model,        "--requests", s.bad,
                                 "--json",  "--no-publish", "--socket",   s.broker.socket,
                                 "--batch", batches[_i],    NULL};
    const char *const clean[] = {
        "--model",  s.model,         "--requests", s.other, "--json", "--no-publish",
        "--socket", s.broker.socket, "--batch",    "1",     NULL};
    struct program p = program_run("cairn-worker", mixed), q = program_run("cairn-worker", clean);
    ck_assert_int_eq(p.code, 1);
    ck_assert_msg(q.code == 0, "%s", q.err);
    for (size_t i = 0; i < N_REQUESTS; i++) {
        if (requests[i].line[0] == '\0')
            continue;
        json_t *line = program_json(&p, at++);
        if (requests[i].error != NULL) {
            ck_assert_msg(json_object_get(line, "error") != NULL, "line %zu is no error", i + 1);
            ck_assert_msg(strstr(json_text(line, "error"), requests[i].error) != NULL,
                          "line %zu: %s", i + 1, json_text(line, "error"));
        } else {
            json_t *want = program_json(&q, good++);
            ck_assert_msg(json_object_get(line, "error") == NULL, "line %zu: %s", i + 1,
                          json_string_value(json_object_get(line, "error")));
            ck_assert_str_eq(json_text(line, "answer"), json_text(want, "answer"));
            json_decref(want);
        }
        json_decref(line);
    }
    ck_assert_uint_eq(good, 4);
    program_free(&p);
    program_free(&q);
    scene_close(&s);
}
END_TEST

START_TEST(a_request_without_an_answer_cannot_be_scored)
{
    static const char *const batches[] = {"1", "8"};
    static const char lines[] =
        "{\"context\": \"pens\", \"question\": \"who?\", \"answer\": \"me\"}\n"
        "{\"context\": \"pens\", \"question\": \"when?\"}\n"
        "{\"context\": \"pens\", \"question\": \"why?\", \"answer\": \"so\"}\n";
    struct scene s;
    scene_open(&s);
    write_file(s.bad, lines, sizeof lines - 1);
    const char *const options[] = {"--model", s.model,   "--requests",   s.bad,
                                   "--json",  "--score", "--no-publish", "--reuse",
                                   "never",   "--batch", batches[_i],    NULL};
    struct program p = program_run("cairn-worker", options);
    ck_assert_int_eq(p.code, 1);
    for (size_t i = 0; i < 3; i++) {
        json_t *line = program_json(&p, i);
        ck_assert_int_eq(json_object_get(line, "error") != NULL, i == 1);
        ck_assert_int_eq(json_is_real(json_object_get(line, "nll")), i != 1);
        json_decref(line);
    }
    program_free(&p);
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(a_file_cut_at_a_page_is_refused, 2),
        RUN_TEST(a_model_of_another_kind_is_refused),
        RUN_TEST(files_that_are_not_there_or_not_what_they_should_be_are_refused),
        RUN_TEST(wrong_options_are_refused),
        RUN_TEST(options_that_do_not_fit_the_model_are_refused),
        RUN_TEST(a_context_longer_than_the_model_allows_is_refused),
        RUN_LOOP(a_broken_request_costs_that_request_only, 2),
        RUN_LOOP(a_request_without_an_answer_cannot_be_scored, 2),
    };
    return run_suite("worker_input", tests, sizeof tests / sizeof *tests);
}
