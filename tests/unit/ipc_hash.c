/* ipc/hash: the values are XXH3's own, chains separate families and depend on everything before,
 * texts round-trip. */
#include "ipc/hash.h"

#include "ipc/cairn_status.h"
#include "tests/support/run.h"

#include <string.h>

static void fill_tokens(int32_t *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(i * 2654435761u % 49152u);
}

START_TEST(hashes_are_those_of_xxh3)
{
    char text[33];
    struct crn_hash128 *h = crn_hash128_begin();
    ck_assert_ptr_nonnull(h);
    struct cairn_digest d = crn_hash128_end(h);
    crn_digest_text(&d, text);
    ck_assert_str_eq(text, "99aa06d3014798d86001c324468d497f"); /* XXH3-128 of nothing */
    ck_assert_uint_eq(crn_hash64("", 0), 0x2d06800538d394c2u);  /* XXH3-64 of nothing */
}
END_TEST

START_TEST(streaming_does_not_depend_on_the_pieces)
{
    uint8_t bytes[5000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    struct crn_hash128 *whole = crn_hash128_begin(), *pieces = crn_hash128_begin();
    crn_hash128_add(whole, bytes, sizeof bytes);
    for (size_t off = 0, n = 1; off < sizeof bytes; off += n, n = n * 3 + 1) {
        n = n < sizeof bytes - off ? n : sizeof bytes - off;
        crn_hash128_add(pieces, bytes + off, n);
    }
    struct crn_hash64 *third = crn_hash64_begin();
    crn_hash64_add(third, bytes, 3000);
    crn_hash64_add(third, bytes + 3000, sizeof bytes - 3000);
    ck_assert_uint_eq(crn_hash64_end(third), crn_hash64(bytes, sizeof bytes));
    struct cairn_digest a = crn_hash128_end(whole), b = crn_hash128_end(pieces);
    ck_assert_mem_eq(&a, &b, sizeof a);
}
END_TEST

START_TEST(a_chain_covers_whole_chunks_only)
{
    struct cairn_digest family = {{1}};
    int32_t tokens[4 * CAIRN_CHUNK_TOKENS];
    uint64_t hashes[4] = {0, 0, 0, 77};
    fill_tokens(tokens, sizeof tokens / sizeof *tokens);
    ck_assert_uint_eq(crn_hash_chain(&family, tokens, 63, hashes), 0);
    ck_assert_uint_eq(crn_hash_chain(&family, tokens, 3 * 64 + 63, hashes), 3);
    ck_assert_uint_eq(hashes[3], 77);
    ck_assert_uint_eq(hashes[0], crn_hash_chunk(crn_hash_root(&family), tokens));
    ck_assert_uint_eq(hashes[1], crn_hash_chunk(hashes[0], tokens + 64));
}
END_TEST

START_TEST(a_changed_token_changes_its_chunk_and_all_after_it)
{
    struct cairn_digest family = {{1}};
    int32_t tokens[4 * CAIRN_CHUNK_TOKENS];
    uint64_t before[4], after[4];
    fill_tokens(tokens, sizeof tokens / sizeof *tokens);
    crn_hash_chain(&family, tokens, sizeof tokens / sizeof *tokens, before);
    tokens[64 + _i] ^= 1;
    crn_hash_chain(&family, tokens, sizeof tokens / sizeof *tokens, after);
    ck_assert_uint_eq(before[0], after[0]);
    for (size_t i = 1; i < 4; i++)
        ck_assert_uint_ne(before[i], after[i]);
}
END_TEST

START_TEST(families_never_meet)
{
    struct cairn_digest one = {{1}}, other = {{2}};
    int32_t tokens[CAIRN_CHUNK_TOKENS];
    uint64_t a, b;
    fill_tokens(tokens, CAIRN_CHUNK_TOKENS);
    crn_hash_chain(&one, tokens, CAIRN_CHUNK_TOKENS, &a);
    crn_hash_chain(&other, tokens, CAIRN_CHUNK_TOKENS, &b);
    ck_assert_uint_ne(a, b);
}
END_TEST

START_TEST(digest_texts_round_trip)
{
    struct cairn_digest d, back;
    char text[33];
    for (size_t i = 0; i < sizeof d.b; i++)
        d.b[i] = (uint8_t)(i * 17 + 3);
    crn_digest_text(&d, text);
    ck_assert_str_eq(text, "031425364758697a8b9cadbecfe0f102");
    ck_assert_int_eq(crn_digest_parse(text, &back), 0);
    ck_assert_mem_eq(&d, &back, sizeof d);
}
END_TEST

START_TEST(other_texts_are_no_digests)
{
    struct cairn_digest d = {{9}}, kept = d;
    ck_assert_int_eq(crn_digest_parse("", &d), CAIRN_E_ARG);
    ck_assert_int_eq(crn_digest_parse("0314253647586970000000000000000", &d), CAIRN_E_ARG);
    ck_assert_int_eq(crn_digest_parse("031425364758697000000000000000000", &d), CAIRN_E_ARG);
    ck_assert_int_eq(crn_digest_parse("0314253647586970000000000000000G", &d), CAIRN_E_ARG);
    ck_assert_int_eq(crn_digest_parse("0314253647586970000000000000000A", &d), CAIRN_E_ARG);
    ck_assert_mem_eq(&d, &kept, sizeof d);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(hashes_are_those_of_xxh3),
        RUN_TEST(streaming_does_not_depend_on_the_pieces),
        RUN_TEST(a_chain_covers_whole_chunks_only),
        RUN_LOOP(a_changed_token_changes_its_chunk_and_all_after_it, 64),
        RUN_TEST(families_never_meet),
        RUN_TEST(digest_texts_round_trip),
        RUN_TEST(other_texts_are_no_digests),
    };
    return run_suite("ipc_hash", tests, sizeof tests / sizeof *tests);
}
