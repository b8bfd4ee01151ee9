/* worker/gguf and worker/quant: a good file is read exactly, a broken one is refused with one line
 * and no harm. */
#include "tests/support/run.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tools/worker/gguf.h"
#include "tools/worker/quant.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct file {
    uint8_t *bytes;
    size_t n;
};

static struct file small_file(void)
{
    static const char *const words[] = {"one", "", "three"};
    static const int32_t numbers[] = {-1, 0, 7};
    float data[96];
    for (size_t i = 0; i < 96; i++)
        data[i] = (float)i - 48.0f;
    struct gguf_writer *w = gguf_writer_new();
    gguf_put_str(w, "general.architecture", "llama");
    gguf_put_u32(w, "some.number", 4000000000u);
    gguf_put_f32(w, "some.float", 0.5f);
    gguf_put_bool(w, "some.flag", 1);
    gguf_put_strs(w, "some.words", words, 3);
    gguf_put_i32s(w, "some.numbers", numbers, 3);
    gguf_put_tensor(w, "b", CRN_QUANT_Q4_1, 32, 3, data);
    gguf_put_tensor(w, "a", CRN_QUANT_F32, 5, 0, data);
    void *bytes = NULL;
    struct file f = {0};
    ck_assert_int_eq(gguf_writer_bytes(w, &bytes, &f.n), 0);
    f.bytes = bytes;
    return f;
}

/* Opens with stderr caught; returns the code and how many lines were logged (0 lines only on
 * success). */
static int open_counted(const void *bytes, size_t n, int *out_lines)
{
    int pipe_fds[2], saved = dup(STDERR_FILENO);
    struct crn_gguf *g = NULL;
    ck_assert_int_eq(pipe2(pipe_fds, O_NONBLOCK), 0);
    dup2(pipe_fds[1], STDERR_FILENO);
    int rc = crn_gguf_open_memory(bytes, n, "test.gguf", &g);
    dup2(saved, STDERR_FILENO);
    char text[4096];
    ssize_t got = read(pipe_fds[0], text, sizeof text);
    *out_lines = 0;
    for (ssize_t i = 0; i < got; i++)
        *out_lines += text[i] == '\n';
    close(saved);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    if (rc != 0)
        ck_assert_ptr_null(g);
    crn_gguf_close(g);
    return rc;
}

/* The first `n` bytes in a block of exactly that size, so that a sanitizer sees a read beyond it.
 */
static int open_cut(const struct file *f, size_t n, int *out_lines)
{
    uint8_t *copy = malloc(n > 0 ? n : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, f->bytes, n);
    int rc = open_counted(copy, n, out_lines);
    free(copy);
    return rc;
}

static size_t offset_of(const struct file *f, const char *text)
{
    const uint8_t *at = memmem(f->bytes, f->n, text, strlen(text));
    ck_assert_ptr_nonnull(at);
    return (size_t)(at - f->bytes);
}

START_TEST(metadata_and_tensors_read_back)
{
    struct file f = small_file();
    struct crn_gguf *g;
    ck_assert_int_eq(crn_gguf_open_memory(f.bytes, f.n, "test.gguf", &g), 0);
    uint32_t u = 0;
    uint64_t u64 = 0;
    float x = 0;
    bool flag = false;
    struct crn_gguf_str s;
    ck_assert_int_eq(crn_gguf_u32(g, "some.number", &u), 0);
    ck_assert_uint_eq(u, 4000000000u);
    ck_assert_int_eq(crn_gguf_u64(g, "some.number", &u64), 0);
    ck_assert_uint_eq(u64, 4000000000u);
    ck_assert_int_eq(crn_gguf_f32(g, "some.float", &x), 0);
    ck_assert(x == 0.5f);
    ck_assert_int_eq(crn_gguf_bool(g, "some.flag", &flag), 0);
    ck_assert(flag);
    ck_assert_int_eq(crn_gguf_str(g, "general.architecture", &s), 0);
    ck_assert(crn_gguf_str_is(s, "llama"));
    ck_assert_int_eq(crn_gguf_u32(g, "absent", &u), CAIRN_E_MISS);
    ck_assert_int_eq(crn_gguf_u32(g, "some.float", &u), CAIRN_E_FORMAT);
    ck_assert_int_eq(crn_gguf_str(g, "some.flag", &s), CAIRN_E_FORMAT);
    ck_assert_uint_eq(crn_gguf_n_tensors(g), 2);
    const struct crn_gguf_tensor *a = crn_gguf_tensor(g, "a"), *b = crn_gguf_tensor(g, "b");
    ck_assert_ptr_eq(a, crn_gguf_tensor_at(g, 0));
    ck_assert_ptr_null(crn_gguf_tensor(g, "c"));
    ck_assert_uint_eq(a->n_elements, 5);
    ck_assert_uint_eq(a->size_bytes, 20);
    ck_assert_uint_eq(b->n_dims, 2);
    ck_assert_uint_eq(b->dims[0], 32);
    ck_assert_uint_eq(b->dims[1], 3);
    ck_assert_uint_eq(b->size_bytes, 60);
    float row[5];
    memcpy(row, a->data, sizeof row);
    ck_assert(row[0] == -48.0f && row[4] == -44.0f);
    crn_gguf_close(g);
    free(f.bytes);
}
END_TEST

START_TEST(arrays_are_walked_and_indexed)
{
    struct file f = small_file();
    struct crn_gguf *g;
    ck_assert_int_eq(crn_gguf_open_memory(f.bytes, f.n, "test.gguf", &g), 0);
    const struct crn_gguf_value *words = crn_gguf_find(g, "some.words");
    const struct crn_gguf_value *numbers = crn_gguf_find(g, "some.numbers");
    size_t cursor = 0;
    struct crn_gguf_str s;
    int64_t number = 0;
    ck_assert_uint_eq(words->count, 3);
    ck_assert(crn_gguf_next_str(words, &cursor, &s) && crn_gguf_str_is(s, "one"));
    ck_assert(crn_gguf_next_str(words, &cursor, &s) && crn_gguf_str_is(s, ""));
    ck_assert(crn_gguf_next_str(words, &cursor, &s) && crn_gguf_str_is(s, "three"));
    ck_assert(!crn_gguf_next_str(words, &cursor, &s));
    ck_assert_int_eq(crn_gguf_int_at(numbers, 0, &number), 0);
    ck_assert_int_eq(number, -1);
    ck_assert_int_eq(crn_gguf_int_at(numbers, 2, &number), 0);
    ck_assert_int_eq(number, 7);
    ck_assert_int_eq(crn_gguf_int_at(numbers, 3, &number), CAIRN_E_FORMAT);
    ck_assert_int_eq(crn_gguf_int_at(words, 0, &number), CAIRN_E_FORMAT);
    crn_gguf_close(g);
    free(f.bytes);
}
END_TEST

START_TEST(a_file_cut_anywhere_is_refused_with_one_line)
{
    struct file f = small_file();
    int lines;
    ck_assert_int_eq(open_cut(&f, f.n, &lines), 0);
    ck_assert_int_eq(lines, 0);
    for (size_t n = 0; n < f.n; n++) {
        ck_assert_msg(open_cut(&f, n, &lines) == CAIRN_E_FORMAT, "cut at %zu was accepted", n);
        ck_assert_msg(lines == 1, "cut at %zu logged %d lines", n, lines);
    }
    free(f.bytes);
}
END_TEST

START_TEST(the_real_model_cut_at_4k_boundaries_is_refused)
{
    struct crn_gguf *g;
    struct file f;
    int lines;
    ck_assert_int_eq(crn_gguf_open(paths_model(), &g), 0);
    ck_assert_uint_eq(crn_gguf_n_tensors(g), 272);
    const uint8_t *bytes = crn_gguf_bytes(g, &f.n);
    size_t pages = (f.n - 1) / 4096, step = 1;
    for (size_t page = 0; page <= pages; page += step) {
        int rc = open_counted(bytes, page * 4096, &lines);
        ck_assert_msg(rc == CAIRN_E_FORMAT, "cut at page %zu: %s", page, cairn_errname(rc));
        ck_assert_int_eq(lines, 1);
        step = page < 8 || page + 40 > pages ? 1 : 37; /* dense at both ends */
        if (page + step > pages && page != pages)
            step = pages - page;
    }
    crn_gguf_close(g);
}
END_TEST

/* Every byte of the header replaced by every value of a small set: refused or accepted, never a
 * crash or two lines. */
START_TEST(damaged_headers_never_crash)
{
    static const uint8_t values[] = {0x00, 0x01, 0x09, 0x1f, 0x7f, 0x80, 0xff};
    struct file f = small_file();
    size_t header = f.n - 160, accepted = 0, refused = 0;
    int lines;
    for (size_t at = 0; at < header; at++) {
        uint8_t kept = f.bytes[at];
        for (size_t v = 0; v < sizeof values; v++) {
            f.bytes[at] = values[v];
            int rc = open_cut(&f, f.n, &lines);
            ck_assert_int_eq(lines, rc == 0 ? 0 : 1);
            accepted += rc == 0;
            refused += rc != 0;
        }
        f.bytes[at] = kept;
    }
    ck_assert_uint_gt(refused, 500);
    ck_assert_uint_gt(accepted, 0);
    free(f.bytes);
}
END_TEST

START_TEST(huge_counts_are_refused_before_memory_is_taken)
{
    struct file f = small_file();
    const uint64_t huge[] = {UINT64_MAX, UINT64_MAX / 2, 1ull << 40, 100000};
    int lines;
    for (size_t i = 0; i < 4; i++) {
        for (size_t at = 8; at <= 16; at += 8) {
            uint64_t kept;
            memcpy(&kept, f.bytes + at, 8);
            memcpy(f.bytes + at, &huge[i], 8);
            ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), CAIRN_E_FORMAT);
            memcpy(f.bytes + at, &kept, 8);
        }
        size_t count = offset_of(&f, "some.words") + 10 + 4 + 4;
        memcpy(f.bytes + count, &huge[i], 8);
        ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), CAIRN_E_FORMAT);
        ck_assert_int_eq(lines, 1);
        const uint64_t three = 3;
        memcpy(f.bytes + count, &three, 8);
    }
    ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), 0);
    free(f.bytes);
}
END_TEST

START_TEST(duplicates_are_refused)
{
    struct file f = small_file();
    int lines;
    memcpy(f.bytes + offset_of(&f, "some.float"), "some.words", 10);
    ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), CAIRN_E_FORMAT);
    ck_assert_int_eq(lines, 1);
    free(f.bytes);

    float x = 1;
    struct gguf_writer *w = gguf_writer_new();
    gguf_put_tensor(w, "same", CRN_QUANT_F32, 1, 0, &x);
    gguf_put_tensor(w, "same", CRN_QUANT_F32, 1, 0, &x);
    void *bytes = NULL;
    size_t n = 0;
    ck_assert_int_eq(gguf_writer_bytes(w, &bytes, &n), 0);
    ck_assert_int_eq(open_counted(bytes, n, &lines), CAIRN_E_FORMAT);
    ck_assert_int_eq(lines, 1);
    free(bytes);
}
END_TEST

START_TEST(versions_types_and_alignments_are_checked)
{
    struct file f = small_file();
    int lines;
    f.bytes[4] = 1;
    ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), CAIRN_E_VERSION);
    f.bytes[4] = 2;
    ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), 0);

    static const char name[] = "\1\0\0\0\0\0\0\0b";
    const uint8_t *record = memmem(f.bytes, f.n, name, 9);
    ck_assert_ptr_nonnull(record);
    size_t type = (size_t)(record - f.bytes) + 9 + 4 + 16;
    f.bytes[type] = 14; /* q6_k */
    ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), CAIRN_E_UNSUPPORTED);
    ck_assert_int_eq(lines, 1);
    f.bytes[type] = CRN_QUANT_Q4_1;
    f.bytes[type + 4] = 8; /* data offset */
    ck_assert_int_eq(open_counted(f.bytes, f.n, &lines), CAIRN_E_FORMAT);
    free(f.bytes);

    const uint32_t bad[] = {0, 4, 24, 1u << 30};
    for (size_t i = 0; i < 4; i++) {
        struct gguf_writer *w = gguf_writer_new();
        void *bytes = NULL;
        size_t n = 0;
        gguf_put_u32(w, "general.alignment", bad[i]);
        ck_assert_int_eq(gguf_writer_bytes(w, &bytes, &n), 0);
        ck_assert_int_eq(open_counted(bytes, n, &lines), CAIRN_E_FORMAT);
        free(bytes);
    }
}
END_TEST

START_TEST(missing_and_strange_files_are_refused)
{
    struct crn_gguf *g = NULL;
    ck_assert_int_eq(crn_gguf_open("/nonexistent/model.gguf", &g), -ENOENT);
    ck_assert_int_eq(crn_gguf_open("/tmp", &g), CAIRN_E_FORMAT);
    ck_assert_int_eq(crn_gguf_open("/dev/null", &g), CAIRN_E_FORMAT);
    ck_assert_int_eq(crn_gguf_open("Makefile", &g), CAIRN_E_FORMAT);
    ck_assert_ptr_null(g);
}
END_TEST

START_TEST(every_half_converts_exactly)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint16_t half = (uint16_t)bits;
        _Float16 value;
        float got, want;
        memcpy(&value, &half, sizeof value);
        want = (float)value;
        crn_quant_row(CRN_QUANT_F16, &half, 1, &got);
        bool same = isnan(want) ? isnan(got) : memcmp(&got, &want, sizeof got) == 0;
        if (!same)
            ck_abort_msg("half %04x: %a, not %a", bits, (double)got, (double)want);
    }
}
END_TEST

START_TEST(blocks_follow_the_formulas_of_ggml)
{
    uint8_t block[34] = {0x00, 0x38}; /* d = 0.5 */
    float out[32];
    for (uint32_t i = 0; i < 32; i++)
        block[2 + i] = (uint8_t)(i * 8);
    crn_quant_row(CRN_QUANT_Q8_0, block, 32, out);
    for (uint32_t i = 0; i < 32; i++)
        ck_assert(out[i] == 0.5f * (float)(int8_t)(uint8_t)(i * 8));
    for (uint32_t i = 0; i < 16; i++)
        block[2 + i] = (uint8_t)(i | (15 - i) << 4);
    crn_quant_row(CRN_QUANT_Q4_0, block, 32, out);
    for (uint32_t i = 0; i < 16; i++) {
        ck_assert(out[i] == 0.5f * ((float)i - 8));
        ck_assert(out[i + 16] == 0.5f * ((float)(15 - i) - 8));
    }
    block[2] = 0x00; /* m = -2 */
    block[3] = 0xc0;
    for (uint32_t i = 0; i < 16; i++)
        block[4 + i] = (uint8_t)(i | (15 - i) << 4);
    crn_quant_row(CRN_QUANT_Q4_1, block, 32, out);
    for (uint32_t i = 0; i < 16; i++) {
        ck_assert(out[i] == 0.5f * (float)i - 2);
        ck_assert(out[i + 16] == 0.5f * (float)(15 - i) - 2);
    }
    const uint16_t bf16[] = {0x3f80, 0xc040, 0x0001};
    crn_quant_row(CRN_QUANT_BF16, bf16, 3, out);
    ck_assert(out[0] == 1.0f && out[1] == -3.0f && out[2] == 0x1p-133f);
}
END_TEST

START_TEST(quantised_numbers_come_back_close)
{
    static const struct {
        uint32_t type;
        float bound; /* of numbers in [-1, 1) */
    } cases[] = {{CRN_QUANT_F32, 0},        {CRN_QUANT_F16, 0.0005f}, {CRN_QUANT_BF16, 0.004f},
                 {CRN_QUANT_Q8_0, 0.0045f}, {CRN_QUANT_Q4_0, 0.135f}, {CRN_QUANT_Q4_1, 0.07f}};
    float src[256], out[256];
    uint8_t packed[1024];
    uint64_t seed = 7;
    for (size_t i = 0; i < 256; i++)
        src[i] = gguf_random(&seed);
    size_t n = gguf_quantise(cases[_i].type, src, 256, packed);
    const struct crn_quant_info *info = crn_quant_info(cases[_i].type);
    ck_assert_uint_eq(n, 256 / info->block_elems * info->block_bytes);
    crn_quant_row(cases[_i].type, packed, 256, out);
    for (size_t i = 0; i < 256; i++)
        ck_assert_msg(fabsf(out[i] - src[i]) <= cases[_i].bound, "%s: %f became %f", info->name,
                      (double)src[i], (double)out[i]);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(metadata_and_tensors_read_back),
        RUN_TEST(arrays_are_walked_and_indexed),
        RUN_TEST(a_file_cut_anywhere_is_refused_with_one_line),
        RUN_TEST(the_real_model_cut_at_4k_boundaries_is_refused),
        RUN_TEST(damaged_headers_never_crash),
        RUN_TEST(huge_counts_are_refused_before_memory_is_taken),
        RUN_TEST(duplicates_are_refused),
        RUN_TEST(versions_types_and_alignments_are_checked),
        RUN_TEST(missing_and_strange_files_are_refused),
        RUN_TEST(every_half_converts_exactly),
        RUN_TEST(blocks_follow_the_formulas_of_ggml),
        RUN_LOOP(quantised_numbers_come_back_close, 6),
    };
    return run_suite("worker_gguf", tests, sizeof tests / sizeof *tests);
}
