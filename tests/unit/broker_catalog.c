/* broker/catalog: what was committed is there after any kind of end, what was not is not, and damaged bytes are told from good
 * ones before anybody believes them. */
#include "broker/catalog.h"
#include "broker/catalog_format.h"
#include "ipc/layout.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAYERS 4u
#define HEADS 2u
#define TOKENS 130u
#define DEADLINE_NS 20000000000ull

/* ---- helpers ---- */

struct sample {
    struct crn_cat_entry entry;
    struct crn_cat_payload payloads[LAYERS + 2];
    uint32_t counts[LAYERS * HEADS + 2];
    uint64_t hashes[2];
    int32_t tokens[TOKENS];
};

static uint64_t kv_bytes(const uint32_t *n)
{
    struct crn_head_parts heads[HEADS];
    uint64_t bytes = 0;
    struct crn_kv_spec spec = {.dtype = CAIRN_F16, .n_kv_heads = HEADS, .head_dim = 8, .n = n};
    ck_assert_int_eq(crn_layout_kv(&spec, heads, &bytes), 0);
    return bytes;
}

static void sample_make(uint64_t id, struct sample *s)
{
    struct crn_state_parts parts;
    memset(s, 0, sizeof *s);
    s->entry = (struct crn_cat_entry){.id = id,
                                      .created_s = 1700000000,
                                      .hits = id * 3,
                                      .space = "default",
                                      .label = "base",
                                      .producer = {{1, 2, 3}},
                                      .family = {{9}},
                                      .shape = {LAYERS, HEADS, 8, 64},
                                      .n_tokens = TOKENS,
                                      .pyramid = CAIRN_PYRAMID_PUBLISH,
                                      .n_payloads = LAYERS + 2,
                                      .n_counts = LAYERS * HEADS + 2,
                                      .n_hashes = 2,
                                      .settings = "keep=0.5",
                                      .payloads = s->payloads,
                                      .counts = s->counts,
                                      .hashes = s->hashes};
    for (uint32_t l = 0; l < LAYERS; l++) {
        s->counts[l * HEADS] = TOKENS - l;
        s->counts[l * HEADS + 1] = TOKENS - 2 * l;
        s->payloads[l] = (struct crn_cat_payload){.off = (id * 16 + l) * 65536,
                                                  .bytes = kv_bytes(s->counts + l * HEADS),
                                                  .checksum = id * 100 + l,
                                                  .counts = l * HEADS,
                                                  .n_counts = HEADS,
                                                  .file = 1,
                                                  .layer = (uint16_t)l,
                                                  .kind = CRN_PAYLOAD_KV,
                                                  .dtype = CAIRN_F16};
    }
    s->counts[LAYERS * HEADS] = s->counts[LAYERS * HEADS + 1] = TOKENS;
    s->payloads[LAYERS] = (struct crn_cat_payload){.off = (id * 16 + LAYERS) * 65536, .counts = LAYERS * HEADS, .n_counts = 1,
                                                   .file = 1, .layer = 2, .kind = CRN_PAYLOAD_STATE, .dtype = CAIRN_F32};
    ck_assert_int_eq(crn_layout_state(CAIRN_F32, TOKENS, 64, &parts, &s->payloads[LAYERS].bytes), 0);
    s->payloads[LAYERS + 1] = (struct crn_cat_payload){.bytes = TOKENS * 4, .counts = LAYERS * HEADS + 1, .n_counts = 1,
                                                       .file = CRN_CATALOG_NO_FILE, .kind = CRN_PAYLOAD_TOKENS};
    for (uint32_t i = 0; i < TOKENS; i++)
        s->tokens[i] = (int32_t)(i * 7 + id);
    s->hashes[0] = id + 1000;
    s->hashes[1] = id + 2000;
}

static struct crn_catalog *catalog_open_at(const char *path, uint64_t map_bytes, bool *out_damaged)
{
    struct crn_catalog_config config = {.path = path, .map_bytes = map_bytes};
    struct crn_catalog *c = NULL;
    bool damaged;
    int status = crn_catalog_open(&config, &damaged, &c);
    ck_assert_msg(status == 0, "open: %s", cairn_strerror(status));
    if (out_damaged != NULL)
        *out_damaged = damaged;
    else
        ck_assert(!damaged);
    return c;
}

static struct crn_catalog *catalog_open(bool *out_damaged)
{
    return catalog_open_at(paths_tmp_file("catalog"), 0, out_damaged);
}

static void put(struct crn_catalog *c, uint64_t id)
{
    struct sample s;
    sample_make(id, &s);
    struct crn_cat_batch *b = crn_cat_batch_new();
    ck_assert_int_eq(crn_cat_put_entry(b, &s.entry, s.tokens), 0);
    ck_assert_int_eq(crn_catalog_apply(c, b), 0);
}

static void check(struct crn_catalog *c, uint64_t id)
{
    struct sample s;
    struct crn_cat_entry *e;
    int32_t tokens[TOKENS];
    sample_make(id, &s);
    ck_assert_int_eq(crn_catalog_entry(c, id, &e), 0);
    ck_assert_str_eq(e->settings, s.entry.settings);
    ck_assert_str_eq(e->space, "default");
    ck_assert_str_eq(e->label, "base");
    ck_assert_uint_eq(e->hits, id * 3);
    ck_assert_uint_eq(e->n_payloads, LAYERS + 2);
    ck_assert_mem_eq(e->payloads, s.payloads, sizeof s.payloads);
    ck_assert_mem_eq(e->counts, s.counts, sizeof s.counts);
    ck_assert_mem_eq(e->hashes, s.hashes, sizeof s.hashes);
    ck_assert_mem_eq(&e->producer, &s.entry.producer, sizeof e->producer);
    ck_assert_int_eq(crn_catalog_tokens(c, id, TOKENS, tokens), 0);
    ck_assert_mem_eq(tokens, s.tokens, sizeof tokens);
    free(e);
}

struct census {
    uint32_t entries, plans, bad;
    uint64_t last;
};

static int count_entry(void *ctx, const struct crn_cat_entry *e)
{
    struct census *n = ctx;
    ck_assert_uint_gt(e->id, n->last);
    n->last = e->id;
    n->entries++;
    return 0;
}

static int count_plan(void *ctx, const struct crn_cat_plan *p)
{
    struct census *n = ctx;
    ck_assert_str_eq(p->info, "{\"by\":\"test\"}");
    n->plans++;
    return 0;
}

static void count_bad(void *ctx, bool is_plan, uint64_t id, int status)
{
    struct census *n = ctx;
    (void)is_plan, (void)id;
    ck_assert_int_lt(status, 0);
    n->bad++;
}

static struct census census(struct crn_catalog *c)
{
    struct census n = {0};
    struct crn_cat_visitor v = {count_entry, count_plan, count_bad, &n};
    ck_assert_int_eq(crn_catalog_walk(c, &v), 0);
    return n;
}

/* ---- what is put comes back ---- */

START_TEST(entries_tokens_and_plans_survive_closing)
{
    paths_tmp();
    struct crn_catalog *c = catalog_open(NULL);
    ck_assert_uint_eq(crn_catalog_next_id(c), 1);
    for (uint64_t id = 1; id <= 50; id++)
        put(c, id);
    static float map[4096];
    for (int i = 0; i < 4096; i++)
        map[i] = (float)i;
    struct crn_budget_rec budgets[2] = {{0, 1, 1000000}, {2, 3, 250000}};
    struct crn_cat_plan plan = {.id = 51,
                                .space = "default",
                                .rec = {.id = 77, .first = 1, .last = 2, .n_budgets = 2, .map_bytes = sizeof map},
                                .budgets = budgets,
                                .info = "{\"by\":\"test\"}",
                                .map = map};
    struct crn_cat_batch *b = crn_cat_batch_new();
    ck_assert_int_eq(crn_cat_put_plan(b, &plan), 0);
    ck_assert_int_eq(crn_catalog_apply(c, b), 0);
    crn_catalog_close(c);
    c = catalog_open(NULL);
    struct census n = census(c);
    ck_assert_uint_eq(n.entries, 50);
    ck_assert_uint_eq(n.plans, 1);
    ck_assert_uint_eq(n.bad, 0);
    ck_assert_uint_eq(crn_catalog_next_id(c), 52);
    for (uint64_t id = 1; id <= 50; id++)
        check(c, id);
    b = crn_cat_batch_new();
    ck_assert_int_eq(crn_cat_drop_entry(b, 7), 0);
    ck_assert_int_eq(crn_cat_drop_plan(b, 51), 0);
    ck_assert_int_eq(crn_cat_drop_entry(b, 12345), 0);
    ck_assert_int_eq(crn_catalog_apply(c, b), 0);
    struct crn_cat_entry *e;
    int32_t tokens[TOKENS];
    ck_assert_int_eq(crn_catalog_entry(c, 7, &e), CAIRN_E_MISS);
    ck_assert_int_eq(crn_catalog_tokens(c, 7, TOKENS, tokens), CAIRN_E_MISS);
    ck_assert_int_eq(crn_catalog_tokens(c, 8, TOKENS - 1, tokens), CAIRN_E_CORRUPT);
    n = census(c);
    ck_assert_uint_eq(n.entries, 49);
    ck_assert_uint_eq(n.plans, 0);
    crn_catalog_close(c);
    paths_tmp_remove();
}
END_TEST

START_TEST(batches_finish_in_order_and_share_commits)
{
    enum { N = 200 };
    paths_tmp();
    struct crn_catalog *c = catalog_open(NULL);
    for (uint64_t id = 1; id <= N; id++) {
        struct sample s;
        sample_make(id, &s);
        struct crn_cat_batch *b = crn_cat_batch_new();
        b->owner = (void *)(uintptr_t)id;
        ck_assert_int_eq(crn_cat_put_entry(b, &s.entry, s.tokens), 0);
        crn_catalog_submit(c, b);
    }
    for (uint64_t id = 1; id <= N; id++) {
        ck_assert_int_eq(crn_catalog_wait(c, DEADLINE_NS), 0);
        struct crn_cat_batch *b = crn_catalog_take(c);
        ck_assert_uint_eq((uintptr_t)b->owner, id);
        ck_assert_int_eq(b->status, 0);
        check(c, id);
        crn_cat_batch_free(b);
    }
    ck_assert_ptr_null(crn_catalog_take(c));
    struct crn_catalog_stats stats;
    crn_catalog_stats(c, &stats);
    ck_assert_uint_eq(stats.batches, N);
    ck_assert_uint_lt(stats.commits, N);
    crn_catalog_close(c);
    paths_tmp_remove();
}
END_TEST

START_TEST(store_files_keep_their_numbers)
{
    paths_tmp();
    struct crn_catalog *c = catalog_open(NULL);
    struct cairn_digest a = {{1}}, b = {{2}};
    uint16_t first, second, again;
    ck_assert_int_eq(crn_catalog_file(c, &a, &first), 0);
    ck_assert_int_eq(crn_catalog_file(c, &b, &second), 0);
    ck_assert_int_ne(first, second);
    crn_catalog_close(c);
    c = catalog_open(NULL);
    ck_assert_int_eq(crn_catalog_file(c, &b, &again), 0);
    ck_assert_int_eq(again, second);
    ck_assert_int_eq(crn_catalog_file(c, &a, &again), 0);
    ck_assert_int_eq(again, first);
    crn_catalog_close(c);
    paths_tmp_remove();
}
END_TEST

/* A child commits one entry after the other, tells each through a pipe, and is killed somewhere: what it told must be there. */
START_TEST(nothing_told_is_lost_when_the_writer_is_killed)
{
    paths_tmp();
    int pipe_fds[2];
    ck_assert_int_eq(pipe(pipe_fds), 0);
    pid_t child = fork();
    if (child == 0) {
        struct crn_catalog *c = catalog_open(NULL);
        for (uint64_t id = 1;; id++) {
            put(c, id);
            if (write(pipe_fds[1], &id, sizeof id) != (ssize_t)sizeof id)
                _exit(1);
        }
    }
    close(pipe_fds[1]);
    uint64_t id = 0, told = 0;
    while (told < 60 + (uint64_t)_i * 13 && read(pipe_fds[0], &id, sizeof id) == (ssize_t)sizeof id)
        told = id;
    kill(child, SIGKILL);
    while (read(pipe_fds[0], &id, sizeof id) == (ssize_t)sizeof id)
        told = id;
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    close(pipe_fds[0]);
    struct crn_catalog *c = catalog_open(NULL);
    struct census n = census(c);
    ck_assert_uint_ge(n.entries, told);
    ck_assert_uint_le(n.entries, told + 1);
    ck_assert_uint_eq(n.bad, 0);
    for (id = 1; id <= told; id++)
        check(c, id);
    crn_catalog_close(c);
    paths_tmp_remove();
}
END_TEST

/* ---- no room ---- */

START_TEST(a_full_map_grows)
{
    paths_tmp();
    struct crn_catalog *c = catalog_open_at(paths_tmp_file("catalog"), 128 << 10, NULL);
    for (uint64_t id = 1; id <= 200; id++)
        put(c, id);
    struct crn_catalog_stats stats;
    crn_catalog_stats(c, &stats);
    ck_assert_uint_gt(stats.map_bytes, 128 << 10);
    crn_catalog_close(c);
    c = catalog_open_at(paths_tmp_file("catalog"), 128 << 10, NULL);
    ck_assert_uint_eq(census(c).entries, 200);
    crn_catalog_close(c);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_map_that_may_not_grow_reports_and_keeps_what_it_has)
{
    paths_tmp();
    struct crn_catalog_config config = {paths_tmp_file("catalog"), 256 << 10, 256 << 10};
    struct crn_catalog *c;
    bool damaged;
    ck_assert_int_eq(crn_catalog_open(&config, &damaged, &c), 0);
    int status = 0;
    uint64_t id = 0;
    while (status == 0) {
        struct sample s;
        sample_make(++id, &s);
        struct crn_cat_batch *b = crn_cat_batch_new();
        ck_assert_int_eq(crn_cat_put_entry(b, &s.entry, s.tokens), 0);
        status = crn_catalog_apply(c, b);
    }
    ck_assert_int_eq(status, CAIRN_E_FULL);
    ck_assert_uint_gt(id, 10);
    for (uint64_t i = 1; i < id; i++)
        check(c, i);
    crn_catalog_close(c);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_full_disk_fails_the_batch_and_nothing_else)
{
    const char *dir = paths_tmp();
    if (geteuid() != 0 || mount("none", dir, "tmpfs", 0, "size=512k") != 0) {
        fprintf(stderr, "not run: no right to mount a tmpfs\n");
        paths_tmp_remove();
        return;
    }
    struct crn_catalog *c = catalog_open(NULL);
    int status = 0;
    uint64_t id = 0;
    while (status == 0 && id < 1000) {
        struct sample s;
        sample_make(++id, &s);
        struct crn_cat_batch *b = crn_cat_batch_new();
        ck_assert_int_eq(crn_cat_put_entry(b, &s.entry, s.tokens), 0);
        status = crn_catalog_apply(c, b);
    }
    for (uint64_t i = 1; i < id; i++)
        check(c, i);
    crn_catalog_close(c);
    c = catalog_open(NULL);
    uint32_t n = census(c).entries;
    crn_catalog_close(c);
    ck_assert_int_eq(umount2(dir, MNT_DETACH), 0);
    ck_assert_int_eq(status, -ENOSPC);
    ck_assert_uint_eq(n, id - 1);
    paths_tmp_remove();
}
END_TEST

/* ---- damage ---- */

static off_t file_bytes(const char *path)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_size;
}

/* Every flipped byte, wherever it is: what is read afterwards is right, or is not there. Never wrong, never a crash. */
START_TEST(a_flipped_byte_is_never_believed)
{
    paths_tmp();
    struct crn_catalog *c = catalog_open(NULL);
    for (uint64_t id = 1; id <= 8; id++)
        put(c, id);
    crn_catalog_close(c);
    char whole[512], hurt[512];
    snprintf(whole, sizeof whole, "%s", paths_tmp_file("catalog"));
    snprintf(hurt, sizeof hurt, "%s", paths_tmp_file("hurt"));
    off_t bytes = file_bytes(whole);
    char *image = malloc((size_t)bytes);
    int fd = open(whole, O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(read(fd, image, (size_t)bytes), bytes);
    close(fd);
    uint32_t dropped = 0, aside = 0;
    uint64_t seed = 5 + (uint64_t)_i;
    for (int round = 0; round < 60; round++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        off_t at = (off_t)((seed >> 20) % (uint64_t)bytes);
        image[at] = (char)(image[at] ^ (1 << (seed >> 61)));
        fd = open(hurt, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_eq(write(fd, image, (size_t)bytes), bytes);
        close(fd);
        image[at] = (char)(image[at] ^ (1 << (seed >> 61)));
        bool damaged;
        c = catalog_open_at(hurt, 0, &damaged);
        struct census n = census(c);
        ck_assert_uint_le(n.entries + n.bad, 8);
        struct crn_cat_entry *e;
        for (uint64_t id = 1; id <= 8; id++) {
            if (crn_catalog_entry(c, id, &e) == 0) {
                int32_t tokens[TOKENS];
                int status = crn_catalog_tokens(c, id, TOKENS, tokens);
                free(e);
                if (status == 0)
                    check(c, id);
            }
        }
        aside += damaged;
        dropped += n.bad;
        crn_catalog_close(c);
        unlink(hurt);
        unlink(paths_tmp_file("hurt.damaged"));
        unlink(paths_tmp_file("hurt-lock"));
    }
    ck_assert_uint_gt(dropped + aside, 0);
    free(image);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_cut_catalogue_is_set_aside)
{
    paths_tmp();
    struct crn_catalog *c = catalog_open(NULL);
    for (uint64_t id = 1; id <= 100; id++)
        put(c, id);
    crn_catalog_close(c);
    char path[512];
    snprintf(path, sizeof path, "%s", paths_tmp_file("catalog"));
    ck_assert_int_eq(truncate(path, file_bytes(path) / 2), 0);
    bool damaged;
    c = catalog_open(&damaged);
    ck_assert(damaged);
    ck_assert_uint_eq(census(c).entries, 0);
    put(c, 1);
    crn_catalog_close(c);
    ck_assert_int_eq(access(paths_tmp_file("catalog.damaged"), F_OK), 0);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_file_of_something_else_is_set_aside)
{
    paths_tmp();
    FILE *f = fopen(paths_tmp_file("catalog"), "w");
    for (int i = 0; i < 3000; i++)
        fputs("not a database ", f);
    fclose(f);
    bool damaged;
    struct crn_catalog *c = catalog_open(&damaged);
    ck_assert(damaged);
    put(c, 1);
    check(c, 1);
    crn_catalog_close(c);
    paths_tmp_remove();
}
END_TEST

/* ---- records as bytes ---- */

START_TEST(every_cut_and_every_changed_field_is_refused)
{
    struct sample s;
    struct crn_cat_entry e;
    void *rec;
    size_t n;
    sample_make(5, &s);
    ck_assert_int_eq(crn_cat_encode_entry(&s.entry, &rec, &n), 0);
    ck_assert_int_eq(crn_cat_decode_entry(rec, n, 5, &e), 0);
    ck_assert_int_eq(crn_cat_decode_entry(rec, n, 6, &e), CAIRN_E_CORRUPT);
    for (size_t cut = 0; cut < n; cut += 8)
        ck_assert_int_lt(crn_cat_decode_entry(rec, cut, 5, &e), 0);
    ((struct crn_cat_head *)rec)->version++;
    ck_assert_int_eq(crn_cat_decode_entry(rec, n, 5, &e), CAIRN_E_VERSION);
    free(rec);
    static const struct {
        uint32_t payload;
        int what;
    } ways[] = {{0, 0}, {0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 5}, {5, 6}, {0, 7}, {0, 8}, {0, 9}, {0, 10}, {0, 11}, {0, 12}};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        sample_make(5, &s);
        struct crn_cat_payload *p = &s.payloads[ways[i].payload];
        switch (ways[i].what) {
        case 0: p->counts = 9; break;
        case 1: p->n_counts = 3; break;
        case 2: p->bytes += 64; break;
        case 3: p->layer = LAYERS; break;
        case 4: p->kind = 9; break;
        case 5: p->dtype = 200; break;
        case 6: p->file = 1; break;
        case 7: s.counts[0] = TOKENS + 1; break;
        case 8: s.entry.parent = 5; break;
        case 9: s.entry.start = 64; break;
        case 10: s.entry.n_hashes = 1; break;
        case 11: s.entry.shape.n_kv_heads = CAIRN_MAX_KV_HEADS + 1; break;
        default: s.entry.n_tokens = CAIRN_MAX_TOKENS + 1; break;
        }
        ck_assert_int_eq(crn_cat_encode_entry(&s.entry, &rec, &n), 0);
        ck_assert_msg(crn_cat_decode_entry(rec, n, 5, &e) == CAIRN_E_CORRUPT, "way %zu was believed", i);
        free(rec);
    }
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(entries_tokens_and_plans_survive_closing),
        RUN_TEST(batches_finish_in_order_and_share_commits),
        RUN_TEST(store_files_keep_their_numbers),
        RUN_LOOP(nothing_told_is_lost_when_the_writer_is_killed, 4),
        RUN_TEST(a_full_map_grows),
        RUN_TEST(a_map_that_may_not_grow_reports_and_keeps_what_it_has),
        RUN_TEST(a_full_disk_fails_the_batch_and_nothing_else),
        RUN_LOOP(a_flipped_byte_is_never_believed, 3),
        RUN_TEST(a_cut_catalogue_is_set_aside),
        RUN_TEST(a_file_of_something_else_is_set_aside),
        RUN_TEST(every_cut_and_every_changed_field_is_refused),
    };
    return run_suite("broker_catalog", tests, sizeof tests / sizeof tests[0]);
}
