/* Identity: equal weights give equal digests, and everything else does not. */
#include "client/cairn.h"
#include "ipc/hash.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *write_file(const char *name, const void *bytes, size_t n)
{
    const char *path = paths_tmp_file(name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
    return path;
}

START_TEST(a_model_is_the_bytes_of_its_base_then_each_adapter_and_scale)
{
    static uint8_t base[3000000];
    const char adapter[] = "adapter bytes";
    float scale = 0.5f;
    char base_path[256];
    struct cairn_digest got, want;
    paths_tmp();
    for (size_t i = 0; i < sizeof base; i++)
        base[i] = (uint8_t)(i * 7 + i / 251);
    snprintf(base_path, sizeof base_path, "%s", write_file("base", base, sizeof base));
    struct cairn_adapter a = {write_file("adapter", adapter, sizeof adapter), scale};
    ck_assert_int_eq(cairn_model_digest(base_path, &a, 1, &got), 0);
    struct crn_hash128 *h = crn_hash128_begin();
    crn_hash128_add(h, base, sizeof base);
    crn_hash128_add(h, adapter, sizeof adapter);
    crn_hash128_add(h, &scale, sizeof scale);
    want = crn_hash128_end(h);
    ck_assert_int_eq(memcmp(&got, &want, sizeof got), 0);
    paths_tmp_remove();
}
END_TEST

START_TEST(scale_adapter_and_order_are_part_of_the_identity)
{
    char base[256], one[256], two[256];
    struct cairn_digest d[5];
    paths_tmp();
    snprintf(base, sizeof base, "%s", write_file("base", "B", 1));
    snprintf(one, sizeof one, "%s", write_file("one", "1", 1));
    snprintf(two, sizeof two, "%s", write_file("two", "2", 1));
    struct cairn_adapter a[] = {{one, 1}, {two, 1}}, b[] = {{two, 1}, {one, 1}}, c[] = {{one, 2}};
    ck_assert_int_eq(cairn_model_digest(base, NULL, 0, &d[0]), 0);
    ck_assert_int_eq(cairn_model_digest(base, a, 1, &d[1]), 0);
    ck_assert_int_eq(cairn_model_digest(base, a, 2, &d[2]), 0);
    ck_assert_int_eq(cairn_model_digest(base, b, 2, &d[3]), 0);
    ck_assert_int_eq(cairn_model_digest(base, c, 1, &d[4]), 0);
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < i; j++)
            ck_assert_int_ne(memcmp(&d[i], &d[j], sizeof d[0]), 0);
    }
    paths_tmp_remove();
}
END_TEST

START_TEST(a_missing_file_changes_nothing_but_the_code)
{
    struct cairn_digest d, before;
    memset(&d, 0x5a, sizeof d);
    before = d;
    ck_assert_int_eq(cairn_model_digest("/no/such/file", NULL, 0, &d), -2);
    ck_assert_int_eq(cairn_model_digest(NULL, NULL, 0, &d), CAIRN_E_ARG);
    ck_assert_int_eq(memcmp(&d, &before, sizeof d), 0);
}
END_TEST

START_TEST(every_field_shapes_the_family)
{
    struct cairn_family base = CAIRN_FAMILY_INIT;
    struct cairn_digest first, other;
    base.shape = (struct cairn_shape){30, 3, 64, 576};
    base.n_heads = 9;
    base.ffn = 1536;
    base.rope_theta = 100000;
    base.norm_eps = 1e-5f;
    base.foundation = "smollm2";
    ck_assert_int_eq(cairn_family_digest(&base, &first), 0);
    for (int field = 0; field < 10; field++) {
        struct cairn_family f = base;
        uint32_t *numbers[] = {&f.shape.n_layers, &f.shape.n_kv_heads, &f.shape.head_dim,
                               &f.shape.hidden,   &f.n_heads,          &f.ffn};
        if (field < 6)
            ++*numbers[field];
        else if (field == 6)
            f.rope_theta = 10000;
        else if (field == 7)
            f.norm_eps = 1e-6f;
        else if (field == 8)
            f.vocabulary.b[7] = 1;
        else
            f.foundation = "smollm3";
        ck_assert_int_eq(cairn_family_digest(&f, &other), 0);
        ck_assert_msg(memcmp(&first, &other, sizeof first) != 0, "field %d is not in the digest", field);
    }
}
END_TEST

START_TEST(structures_of_another_size_are_told_apart)
{
    struct {
        struct cairn_family f;
        uint64_t newer;
    } grown = {CAIRN_FAMILY_INIT, 0};
    struct cairn_digest d;
    grown.f.foundation = "x";
    grown.f.struct_size = sizeof grown;
    ck_assert_int_eq(cairn_family_digest(&grown.f, &d), 0);
    grown.newer = 1;
    ck_assert_int_eq(cairn_family_digest(&grown.f, &d), CAIRN_E_UNSUPPORTED);
    grown.f.struct_size = 8;
    ck_assert_int_eq(cairn_family_digest(&grown.f, &d), CAIRN_E_ARG);
    ck_assert_int_eq(cairn_family_digest(NULL, &d), CAIRN_E_ARG);
}
END_TEST

START_TEST(digests_travel_as_text)
{
    struct cairn_digest d, back;
    char text[33];
    for (int i = 0; i < 16; i++)
        d.b[i] = (uint8_t)(i * 17);
    cairn_digest_text(&d, text);
    ck_assert_str_eq(text, "00112233445566778899aabbccddeeff");
    ck_assert_int_eq(cairn_digest_parse(text, &back), 0);
    ck_assert_int_eq(memcmp(&d, &back, sizeof d), 0);
    ck_assert_int_eq(cairn_digest_parse("0011", &back), CAIRN_E_ARG);
    ck_assert_int_eq(cairn_digest_parse("zz112233445566778899aabbccddeeff", &back), CAIRN_E_ARG);
}
END_TEST

START_TEST(opening_a_client_checks_its_options)
{
    struct cairn_options o = CAIRN_OPTIONS_INIT;
    struct cairn_client *client = NULL;
    char label[80];
    memset(label, 'x', sizeof label - 1);
    label[sizeof label - 1] = '\0';
    o.socket = "/tmp/nobody/s.sock";
    o.label = label;
    ck_assert_int_eq(cairn_open(&o, &client), CAIRN_E_TOO_BIG);
    o.label = NULL;
    o.shape.n_layers = CAIRN_MAX_LAYERS + 1;
    ck_assert_int_eq(cairn_open(&o, &client), CAIRN_E_TOO_BIG);
    o.shape.n_layers = 0;
    o.struct_size = 4;
    ck_assert_int_eq(cairn_open(&o, &client), CAIRN_E_ARG);
    ck_assert_ptr_null(client);
    ck_assert_str_eq(cairn_error(NULL), "");
    cairn_close(NULL);
    cairn_release(NULL);
    cairn_abort(NULL);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_model_is_the_bytes_of_its_base_then_each_adapter_and_scale),
        RUN_TEST(scale_adapter_and_order_are_part_of_the_identity),
        RUN_TEST(a_missing_file_changes_nothing_but_the_code),
        RUN_TEST(every_field_shapes_the_family),
        RUN_TEST(structures_of_another_size_are_told_apart),
        RUN_TEST(digests_travel_as_text),
        RUN_TEST(opening_a_client_checks_its_options),
    };
    return run_suite("client_identity", tests, sizeof tests / sizeof tests[0]);
}
