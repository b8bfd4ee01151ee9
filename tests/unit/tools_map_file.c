/* tools/map_file: what is written is read back, whole or of low rank, f32 or f16; what is broken is refused with a line. */
#include "tools/map_file.h"

#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define D 40u /* rows that do not fill 32 bytes as f16 */
#define RANK 3u

static const struct crn_map_note note = {.producer = "base",
                                         .receiver = "finder",
                                         .producer_digest = {.b = {[3] = 0x33}},
                                         .receiver_digest = {.b = {[15] = 0xff}},
                                         .layer = 7};
static char why[300];

static void check_round(uint32_t rank, bool half)
{
    size_t n = rank > 0 ? (2 * (size_t)rank + 1) * D : D * (D + 1);
    float numbers[D * (D + 1)];
    struct rand r = rand_seeded(rand_default_seed());
    struct cairn_map_view map = {.w = numbers, .hidden = D, .rank = rank}, back;
    struct cairn_digest models[2];
    paths_tmp();
    rand_fill(&r, numbers, n, 0.3f);
    ck_assert_int_eq(crn_map_file_write(paths_tmp_file("m.gguf"), &map, &note, half), 0);
    ck_assert_msg(crn_map_file_read(paths_tmp_file("m.gguf"), &back, models, why, sizeof why) == 0, "%s", why);
    ck_assert_uint_eq(models[0].b[3], 0x33);
    ck_assert_uint_eq(models[1].b[15], 0xff);
    ck_assert_uint_eq(back.hidden, D);
    ck_assert_uint_eq(back.rank, rank);
    ck_assert_uint_eq(back.bytes, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        ck_assert_float_eq_tol(back.w[i], numbers[i], half ? 2e-4f : 1e-9f);
    free((void *)(uintptr_t)back.w);
    paths_tmp_remove();
}

START_TEST(what_is_written_is_read_back)
{
    check_round(_i / 2 == 0 ? 0 : RANK, _i % 2 == 1);
}
END_TEST

START_TEST(a_number_beyond_f16_leaves_no_file)
{
    float numbers[D * (D + 1)] = {70000.0f};
    struct cairn_map_view map = {.w = numbers, .hidden = D};
    paths_tmp();
    ck_assert_int_ne(crn_map_file_write(paths_tmp_file("m.gguf"), &map, &note, true), 0);
    ck_assert_int_ne(access(paths_tmp_file("m.gguf"), F_OK), 0);
    ck_assert_int_eq(crn_map_file_write(paths_tmp_file("m.gguf"), &map, &note, false), 0);
    paths_tmp_remove();
}
END_TEST

static const struct {
    const char *tensor[3];
    uint32_t columns[3], rows[3];
} broken[] = {
    {{"state_map.weight"}, {32}, {32}},                                            /* no bias */
    {{"state_map.bias"}, {32}, {0}},                                               /* nothing but a bias */
    {{"state_map.weight", "state_map.bias"}, {32, 64}, {32, 0}},                   /* sizes differ */
    {{"state_map.weight", "state_map.bias"}, {32, 32}, {64, 0}},                   /* not square */
    {{"state_map.u", "state_map.bias"}, {4, 32}, {32, 0}},                         /* v is missing */
    {{"state_map.u", "state_map.v", "state_map.bias"}, {4, 32, 32}, {32, 5, 0}},   /* ranks differ */
    {{"state_map.u", "state_map.v", "state_map.bias"}, {32, 32, 32}, {32, 32, 0}}, /* rank not below hidden */
    {{"state_map.u", "state_map.weight", "state_map.bias"}, {4, 32, 32}, {32, 32, 0}},
};

START_TEST(shapes_that_do_not_fit_are_refused)
{
    static float zeros[64 * 64];
    struct cairn_map_view map;
    struct gguf_writer *w = gguf_writer_new();
    paths_tmp();
    for (int i = 0; i < 3 && broken[_i].tensor[i] != NULL; i++)
        gguf_put_tensor(w, broken[_i].tensor[i], CRN_QUANT_F32, broken[_i].columns[i], broken[_i].rows[i], zeros);
    ck_assert_int_eq(gguf_writer_save(w, paths_tmp_file("m.gguf")), 0);
    why[0] = '\0';
    ck_assert_int_eq(crn_map_file_read(paths_tmp_file("m.gguf"), &map, NULL, why, sizeof why), CAIRN_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(why, "m.gguf"));
    ck_assert_int_ne(crn_map_file_read(paths_tmp_file("none.gguf"), &map, NULL, why, sizeof why), 0);
    paths_tmp_remove();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(what_is_written_is_read_back, 4),
        RUN_TEST(a_number_beyond_f16_leaves_no_file),
        RUN_LOOP(shapes_that_do_not_fit_are_refused, sizeof broken / sizeof *broken),
    };
    return run_suite("tools_map_file", tests, sizeof tests / sizeof *tests);
}
