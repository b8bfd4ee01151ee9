/* Plan files: what is read from a good one, and one line with the place for each broken one. */
#include "tools/plan_file.h"

#include "tests/support/gguf_write.h"
#include "tools/map_file.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <glob.h>
#include <stdio.h>
#include <string.h>

static char why[400];

static int open_text(const char *text, struct crn_plan_file **out_file)
{
    const char *path = paths_tmp_file("plan.json");
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_ge(fputs(text, f), 0);
    ck_assert_int_eq(fclose(f), 0);
    why[0] = '\0';
    return crn_plan_file_open(path, 0, out_file, why, sizeof why);
}

START_TEST(plans_are_read_with_their_maps)
{
    static const char *const files[] = {"../plans/base-finder.json", "../plans/base-clerk.json"};
    static const uint32_t first[] = {15, 13};
    for (int i = 0; i < 2; i++) {
        struct crn_plan_file *file;
        int status = crn_plan_file_open(paths_golden(files[i]), 0, &file, why, sizeof why);
        ck_assert_msg(status == 0, "%s", why);
        const struct cairn_plan_put *put = &file->put;
        ck_assert_str_eq(file->producer, "base");
        ck_assert_uint_eq(put->plan.first, first[i]);
        ck_assert_uint_eq(put->plan.last, 23);
        ck_assert_uint_eq(put->n_budgets, 3);
        ck_assert_float_eq_tol(put->budgets[0].keep, 0.1f, 1e-6f);
        ck_assert_float_eq_tol(put->plan.quality, put->plan.exact / put->plan.own_exact, 1e-6f);
        ck_assert_float_eq_tol(put->plan.cost, (float)(24 - first[i]) / 30.0f, 1e-6f);
        ck_assert_uint_eq(put->map.hidden, 576);
        ck_assert_uint_eq(put->map.bytes, 576 * 577 * 4);
        ck_assert_ptr_nonnull(strstr(put->info, "\"measured\""));
        crn_plan_file_close(file);
    }
}
END_TEST

START_TEST(every_shipped_plan_names_its_models_and_is_worth_having)
{
    static const struct cairn_digest zero;
    glob_t found;
    ck_assert_int_eq(glob(paths_family("plans/*.json"), 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct crn_plan_file *file;
        int status = crn_plan_file_open(found.gl_pathv[i], 0, &file, why, sizeof why);
        ck_assert_msg(status == 0, "%s", why);
        const struct cairn_plan *plan = &file->put.plan;
        ck_assert_msg(memcmp(&plan->producer, &zero, sizeof zero) != 0, "%s: no producer_digest", found.gl_pathv[i]);
        ck_assert_msg(memcmp(&plan->receiver, &zero, sizeof zero) != 0, "%s: no receiver_digest", found.gl_pathv[i]);
        ck_assert_uint_eq(file->n_layers, 30);
        ck_assert_uint_le(plan->last - plan->first + 1, 11);
        ck_assert_float_ge(plan->quality, 0.9f);
        crn_plan_file_close(file);
    }
    globfree(&found);
}
END_TEST

START_TEST(weight_rows_and_bias_are_interleaved)
{
    float weight[64 * 64], bias[64];
    struct crn_plan_file *file;
    paths_tmp();
    for (int i = 0; i < 64 * 64; i++)
        weight[i] = (float)i;
    for (int i = 0; i < 64; i++)
        bias[i] = (float)(100000 + i);
    struct gguf_writer *w = gguf_writer_new();
    gguf_put_tensor(w, "state_map.weight", CRN_QUANT_F32, 64, 64, weight);
    gguf_put_tensor(w, "state_map.bias", CRN_QUANT_F32, 64, 0, bias);
    ck_assert_int_eq(gguf_writer_save(w, paths_tmp_file("m.gguf")), 0);
    ck_assert_msg(open_text("{\"producer\":\"a\",\"receiver\":\"b\",\"run\":[1,2],\"n_layers\":8,\"state_map\":\"m.gguf\","
                            "\"producer_digest\":\"00112233445566778899aabbccddeeff\","
                            "\"measured\":{\"questions\":4,\"own_exact\":0.5,\"exact\":0.25}}",
                            &file) == 0,
                  "%s", why);
    ck_assert_float_eq(file->put.map.w[3 * 65 + 7], (float)(3 * 64 + 7));
    ck_assert_float_eq(file->put.map.w[3 * 65 + 64], 100003.0f);
    ck_assert_uint_eq(file->put.plan.producer.b[1], 0x11);
    ck_assert_float_eq(file->put.plan.quality, 0.5f);
    ck_assert_float_eq(file->put.plan.cost, 0.25f);
    crn_plan_file_close(file);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_map_of_other_models_is_refused)
{
    static float zeros[32 * 33];
    struct cairn_map_view map = {.w = zeros, .hidden = 32};
    struct crn_map_note note = {"a", "b", {{1}}, {{2}}, 1};
    struct crn_plan_file *file;
    paths_tmp();
    ck_assert_int_eq(crn_map_file_write(paths_tmp_file("m.gguf"), &map, &note, false), 0);
    for (int i = 1; i <= 2; i++) {
        char text[400];
        snprintf(text, sizeof text,
                 "{\"producer\":\"a\",\"receiver\":\"b\",\"run\":[1,2],\"n_layers\":8,\"state_map\":\"m.gguf\","
                 "\"producer_digest\":\"0%d000000000000000000000000000000\","
                 "\"measured\":{\"questions\":4,\"own_exact\":0.5,\"exact\":0.25}}",
                 i);
        ck_assert_int_eq(open_text(text, &file), i == 1 ? 0 : CAIRN_E_FORMAT);
        if (i == 1)
            crn_plan_file_close(file);
        else
            ck_assert_ptr_nonnull(strstr(why, "other models"));
    }
    paths_tmp_remove();
}
END_TEST

START_TEST(an_empty_run_is_full_reuse)
{
    struct crn_plan_file *file;
    paths_tmp();
    ck_assert_msg(open_text("{\"producer\":\"a\",\"receiver\":\"b\",\"run\":[],"
                            "\"measured\":{\"questions\":4,\"own_exact\":1,\"exact\":1.0}}",
                            &file) == 0,
                  "%s", why);
    ck_assert_uint_gt(file->put.plan.first, file->put.plan.last);
    ck_assert_float_eq(file->put.plan.cost, 0);
    ck_assert_ptr_null(file->put.map.w);
    crn_plan_file_close(file);
    paths_tmp_remove();
}
END_TEST

#define NAMES "\"producer\":\"a\",\"receiver\":\"b\""
#define MEASURED "\"measured\":{\"questions\":4,\"own_exact\":1,\"exact\":1}"

static const struct {
    const char *text, *says;
} broken[] = {
    {"{" NAMES ",\"run\":[1,2]," MEASURED, "plan.json:1"}, /* ends early */
    {"[]", "producer"},
    {"{\"producer\":1}", "producer"},
    {"{\"producer\":\"\",\"receiver\":\"b\"}", "producer"},
    {"{" NAMES "," MEASURED "}", "run"},
    {"{" NAMES ",\"run\":[2,1]," MEASURED "}", "run"},
    {"{" NAMES ",\"run\":[1]," MEASURED "}", "run"},
    {"{" NAMES ",\"run\":[1,300]," MEASURED "}", "run"},
    {"{" NAMES ",\"run\":[-1,3]," MEASURED "}", "run"},
    {"{" NAMES ",\"run\":\"all\"," MEASURED "}", "run"},
    {"{" NAMES ",\"run\":[1,2]}", "own_exact"},
    {"{" NAMES ",\"run\":[1,2],\"measured\":{\"questions\":4,\"own_exact\":0,\"exact\":0}}", "own_exact"},
    {"{" NAMES ",\"run\":[1,2],\"measured\":{\"questions\":4,\"own_exact\":1,\"exact\":2}}", "exact"},
    {"{" NAMES ",\"run\":[1,2],\"measured\":{\"questions\":\"x\",\"own_exact\":1,\"exact\":1}}", "questions"},
    {"{" NAMES ",\"run\":[1,2],\"budgets\":[{\"layers\":[0,1],\"keep\":1.5}]," MEASURED "}", "keep"},
    {"{" NAMES ",\"run\":[1,2],\"budgets\":[{\"keep\":0.5}]," MEASURED "}", "layers"},
    {"{" NAMES ",\"run\":[1,9],\"n_layers\":4," MEASURED "}", "n_layers"},
    {"{" NAMES ",\"run\":[1,2],\"producer_digest\":\"xyz\"," MEASURED "}", "producer_digest"},
    {"{" NAMES ",\"run\":[1,2],\"state_map\":\"no-such.gguf\"," MEASURED "}", "no-such.gguf"},
    {"{" NAMES ",\"run\":[1,2],\"state_map\":\"plan.json\"," MEASURED "}", "plan.json"},
    {"{" NAMES "," NAMES "}", "plan.json:1"}, /* a key twice */
};

START_TEST(a_broken_plan_file_says_what_and_where)
{
    struct crn_plan_file *file = NULL;
    paths_tmp();
    int status = open_text(broken[_i].text, &file);
    ck_assert_msg(status != 0, "%s was accepted", broken[_i].text);
    ck_assert_ptr_null(file);
    ck_assert_msg(strstr(why, broken[_i].says) != NULL, "%s does not name %s", why, broken[_i].says);
    ck_assert_ptr_nonnull(strstr(why, "plan.json"));
    paths_tmp_remove();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(plans_are_read_with_their_maps),
        RUN_TEST(a_map_of_other_models_is_refused),
        RUN_TEST(every_shipped_plan_names_its_models_and_is_worth_having),
        RUN_TEST(weight_rows_and_bias_are_interleaved),
        RUN_TEST(an_empty_run_is_full_reuse),
        RUN_LOOP(a_broken_plan_file_says_what_and_where, sizeof broken / sizeof broken[0]),
    };
    return run_suite("tools_plan_file", tests, sizeof tests / sizeof tests[0]);
}
