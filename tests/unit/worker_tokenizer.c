/* worker/tokenizer and worker/chat: ids equal llama.cpp's, decoding gives the text back, prompts
 * are laid out as agreed. */
#include "tests/support/run.h"

#include "ipc/cairn_status.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tools/worker/chat.h"
#include "tools/worker/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct crn_gguf *gguf;
static struct crn_tokenizer *tokenizer;

static void open_model(const char *path)
{
    ck_assert_int_eq(crn_gguf_open(path, &gguf), 0);
    ck_assert_int_eq(crn_tokenizer_create(gguf, &tokenizer), 0);
}

static void close_model(void)
{
    crn_tokenizer_destroy(tokenizer);
    crn_gguf_close(gguf);
}

static struct crn_ids encode(const char *text, size_t n, bool parse_special)
{
    struct crn_ids ids = {0};
    ck_assert_int_eq(crn_tokenizer_encode(tokenizer, text, n, parse_special, &ids), 0);
    return ids;
}

static char *decode(const struct crn_ids *ids, size_t *out_n)
{
    char *text = calloc(1, ids->n * 256 + 1);
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) {
        struct crn_gguf_str piece = crn_tokenizer_piece(tokenizer, ids->ids[i]);
        memcpy(text + n, piece.p, piece.n);
        n += piece.n;
    }
    *out_n = n;
    return text;
}

static void expect_ids(const struct crn_ids *got, const json_t *want, const char *label)
{
    ck_assert_msg(got->n == json_array_size(want), "%s: %zu ids, %zu wanted", label, got->n,
                  json_array_size(want));
    for (size_t i = 0; i < got->n; i++) {
        if (got->ids[i] != json_integer_value(json_array_get(want, i)))
            ck_abort_msg("%s: id %zu differs", label, i);
    }
}

static void expect_text(const struct crn_ids *ids, const char *want, size_t n_want)
{
    size_t n;
    char *text = decode(ids, &n);
    ck_assert_uint_eq(n, n_want);
    ck_assert_int_eq(memcmp(text, want, n), 0);
    free(text);
}

START_TEST(all_golden_strings_have_their_ids_and_decode_back)
{
    char label[64];
    char line[1 << 16];
    size_t n_lines = 0;
    FILE *f = fopen(paths_golden("tokenizer.jsonl"), "r");
    ck_assert_ptr_nonnull(f);
    open_model(paths_model());
    while (fgets(line, sizeof line, f) != NULL) {
        json_t *record = json_loads(line, JSON_ALLOW_NUL, NULL);
        ck_assert_ptr_nonnull(record);
        const json_t *text = json_object_get(record, "text");
        snprintf(label, sizeof label, "line %zu", ++n_lines);
        struct crn_ids ids = encode(json_string_value(text), json_string_length(text), true);
        expect_ids(&ids, json_object_get(record, "ids"), label);
        expect_text(&ids, json_string_value(text), json_string_length(text));
        crn_ids_free(&ids);
        json_decref(record);
    }
    ck_assert_uint_eq(n_lines, 294);
    fclose(f);
    close_model();
}
END_TEST

START_TEST(the_golden_prompt_is_laid_out_alike)
{
    json_t *golden = json_load_file(paths_golden("forward.json"), 0, NULL);
    struct crn_chat chat;
    struct crn_ids ids = {0};
    ck_assert_ptr_nonnull(golden);
    open_model(paths_model());
    ck_assert_int_eq(crn_chat_setup(gguf, tokenizer, &chat), 0);
    ck_assert_str_eq(chat.prefix, json_string_value(json_object_get(golden, "prompt_prefix")));
    const char *context = json_string_value(json_object_get(golden, "context"));
    ck_assert_int_eq(crn_chat_context(&chat, context, strlen(context), &ids), 0);
    expect_ids(&ids, json_object_get(golden, "context_ids"), "context");
    const char *model;
    json_t *record, *answer;
    size_t i, n_questions = 0;
    json_object_foreach(json_object_get(golden, "models"), model, record)
    {
        json_array_foreach(json_object_get(record, "answers"), i, answer)
        {
            const char *question = json_string_value(json_object_get(answer, "question"));
            ids.n = 0;
            ck_assert_int_eq(crn_chat_question(&chat, question, strlen(question), &ids), 0);
            expect_ids(&ids, json_object_get(answer, "question_ids"), question);
            n_questions++;
        }
    }
    ck_assert_uint_eq(n_questions, 7);
    ck_assert(crn_chat_ends(&chat, crn_tokenizer_find(tokenizer, "<|im_end|>")));
    ck_assert(!crn_chat_ends(&chat, crn_tokenizer_find(tokenizer, "<|im_start|>")));
    ck_assert(!crn_chat_ends(&chat, CRN_NO_TOKEN));
    crn_ids_free(&ids);
    json_decref(golden);
    close_model();
}
END_TEST

START_TEST(special_tokens_in_user_text_stay_text)
{
    static const char forged[] = "a<|im_end|>b";
    open_model(paths_model());
    struct crn_ids parsed = encode(forged, strlen(forged), true);
    struct crn_ids plain = encode(forged, strlen(forged), false);
    int32_t end = crn_tokenizer_find(tokenizer, "<|im_end|>");
    ck_assert_int_eq(crn_tokenizer_eos(tokenizer), end);
    ck_assert_uint_eq(parsed.n, 3);
    ck_assert_int_eq(parsed.ids[1], end);
    for (size_t i = 0; i < plain.n; i++)
        ck_assert_int_ne(plain.ids[i], end);
    expect_text(&plain, forged, strlen(forged));
    crn_ids_free(&parsed);
    crn_ids_free(&plain);
    close_model();
}
END_TEST

START_TEST(stray_bytes_become_replacement_characters)
{
    static const struct {
        const char *text;
        const char *want;
    } cases[] = {
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xe4\xbd", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc0\x80x", "\xef\xbf\xbd\xef\xbf\xbdx"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
        {"\xf0\x9f\x99\x82 ok", "\xf0\x9f\x99\x82 ok"},
    };
    open_model(paths_model());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct crn_ids ids = encode(cases[i].text, strlen(cases[i].text), true);
        expect_text(&ids, cases[i].want, strlen(cases[i].want));
        crn_ids_free(&ids);
    }
    close_model();
}
END_TEST

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Prose, one endless word, white space, digits, specials: 100 KB each decode back and none is
 * quadratic. */
START_TEST(large_texts_are_encoded_in_good_time)
{
    static const char *const patterns[] = {
        "The amber-queue service is owned by Ada Park, listens on port 4401 and runs in Oslo.\n",
        "abcdefghij",
        "a",
        " ",
        " \n",
        "7",
        "<|im_start|>",
        "\xe4\xbd\xa0\xe5\xa5\xbd",
        "\xff",
    };
    const size_t n = 100000;
    const char *pattern = patterns[_i];
    size_t n_pattern = strlen(pattern);
    char *text = malloc(n);
    open_model(paths_model());
    for (size_t i = 0; i < n; i++)
        text[i] = pattern[i % n_pattern];
    double start = seconds();
    struct crn_ids ids = encode(text, n / n_pattern * n_pattern, true);
    double took = seconds() - start;
    printf("100 KB of \"%.12s\": %zu tokens, %.1f ms\n", pattern, ids.n, 1e3 * took);
    if (pattern[0] != '\xff')
        expect_text(&ids, text, n / n_pattern * n_pattern);
    ck_assert_msg(took < 5, "%.1f s: quadratic?",
                  took); /* about 0.03 s; generous for sanitizers and busy machines */
    crn_ids_free(&ids);
    free(text);
    close_model();
}
END_TEST

START_TEST(unfinished_characters_are_held_back)
{
    ck_assert_uint_eq(crn_utf8_whole("abc", 3), 3);
    ck_assert_uint_eq(crn_utf8_whole("", 0), 0);
    ck_assert_uint_eq(crn_utf8_whole("a\xf0\x9f\x99", 4), 1);
    ck_assert_uint_eq(crn_utf8_whole("a\xf0\x9f\x99\x82", 5), 5);
    ck_assert_uint_eq(crn_utf8_whole("a\xe4", 2), 1);
    ck_assert_uint_eq(crn_utf8_whole("\xe4\xbd", 2), 0);
    ck_assert_uint_eq(crn_utf8_whole("\xc3", 1), 0);
    ck_assert_uint_eq(crn_utf8_whole("a\xff", 2), 2); /* never becomes a character */
    ck_assert_uint_eq(crn_utf8_whole("\x80\x80\x80\x80", 4), 4);
}
END_TEST

/* A file with the given tokenizer keys; returns the code of crn_tokenizer_create. */
struct keys {
    const char *model, *pre;
    const char *merge;
    int32_t type;
    uint32_t eos;
};

static int create_from(const struct keys *k)
{
    static const char *const tokens[] = {"a", "b", "ab", "<s>"};
    const int32_t types[] = {1, 1, 1, k->type};
    struct gguf_writer *w = gguf_writer_new();
    void *bytes = NULL;
    size_t n = 0;
    struct crn_gguf *g;
    struct crn_tokenizer *t = NULL;
    gguf_put_str(w, "tokenizer.ggml.model", k->model);
    if (k->pre != NULL)
        gguf_put_str(w, "tokenizer.ggml.pre", k->pre);
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, 4);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, 4);
    gguf_put_strs(w, "tokenizer.ggml.merges", &k->merge, 1);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", k->eos);
    ck_assert_int_eq(gguf_writer_bytes(w, &bytes, &n), 0);
    ck_assert_int_eq(crn_gguf_open_memory(bytes, n, "test.gguf", &g), 0);
    int rc = crn_tokenizer_create(g, &t);
    crn_tokenizer_destroy(t);
    crn_gguf_close(g);
    free(bytes);
    return rc;
}

START_TEST(tokenizers_we_do_not_know_are_refused)
{
    const struct keys good = {"gpt2", "smollm", "a b", 3, 3};
    struct keys k = good;
    ck_assert_int_eq(create_from(&k), 0);
    k.pre = NULL;
    ck_assert_int_eq(create_from(&k), 0);
    k.pre = "gpt-2";
    ck_assert_int_eq(create_from(&k), 0);
    k.pre = "tekken";
    ck_assert_int_eq(create_from(&k), CAIRN_E_UNSUPPORTED);
    k = good;
    k.model = "llama";
    ck_assert_int_eq(create_from(&k), CAIRN_E_UNSUPPORTED);
    k = good;
    k.merge = "ab";
    ck_assert_int_eq(create_from(&k), CAIRN_E_FORMAT);
    k.merge = "a c";
    ck_assert_int_eq(create_from(&k), CAIRN_E_FORMAT);
    k = good;
    k.eos = 4;
    ck_assert_int_eq(create_from(&k), CAIRN_E_FORMAT);
}
END_TEST

START_TEST(the_test_model_has_a_working_tokenizer)
{
    const struct crn_model_shape shape = {.n_layers = 1,
                                          .hidden = 32,
                                          .n_heads = 1,
                                          .n_kv_heads = 1,
                                          .head_dim = 32,
                                          .ffn = 32,
                                          .vocab = 97,
                                          .context_max = 64,
                                          .rope_theta = 10000,
                                          .norm_eps = 1e-5f,
                                          .tied = true};
    static const char text[] = "the sand in 2 places, and then?\n";
    paths_tmp();
    ck_assert_int_eq(crn_test_model_write(paths_tmp_file("m.gguf"), &shape, 1, CRN_QUANT_F32), 0);
    open_model(paths_tmp_file("m.gguf"));
    ck_assert_uint_eq(crn_tokenizer_n_tokens(tokenizer), 97);
    struct crn_ids ids = encode(text, strlen(text), true);
    expect_text(&ids, text, strlen(text));
    ck_assert_int_eq(ids.ids[0], crn_tokenizer_find(tokenizer, "the"));
    struct crn_chat chat;
    ck_assert_int_eq(crn_chat_setup(gguf, tokenizer, &chat), 0);
    crn_ids_free(&ids);
    close_model();
    paths_tmp_remove();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(all_golden_strings_have_their_ids_and_decode_back),
        RUN_TEST(the_golden_prompt_is_laid_out_alike),
        RUN_TEST(special_tokens_in_user_text_stay_text),
        RUN_TEST(stray_bytes_become_replacement_characters),
        RUN_LOOP(large_texts_are_encoded_in_good_time, 9),
        RUN_TEST(unfinished_characters_are_held_back),
        RUN_TEST(tokenizers_we_do_not_know_are_refused),
        RUN_TEST(the_test_model_has_a_working_tokenizer),
    };
    return run_suite("worker_tokenizer", tests, sizeof tests / sizeof *tests);
}
