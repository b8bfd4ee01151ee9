/* Byte-level BPE. GPT-2 writes every byte as one printable letter; the vocabulary and the merges
 * are in that alphabet. It is used here only while loading: a word is a list of byte tokens from
 * the start, and a merge is a look-up of two ids.
 *
 *   vocabulary   hash table name -> id (the last of equal names wins, as in llama.cpp)
 *   merges       hash table (left id, right id) -> (rank, merged id)
 *   pre-token    up to four patterns, each cutting what the one before it left or matched
 *   a word       doubly linked symbols and a heap of candidate pairs by (rank, position): n log n,
 *                also for one long word
 *
 * Not here: SentencePiece and WordPiece vocabularies, BOS or EOS insertion, stripping around
 * special tokens. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tools/worker/tokenizer.h"

#include "ipc/cairn_status.h"
#include "ipc/hash.h"
#include "ipc/log.h"

#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATTERNS 4u
#define MAX_SPECIAL 4096u
#define MAX_VOCAB (1u << 20)
#define MAX_MERGES (1u << 22)
#define NO_SYMBOL UINT32_MAX

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4 };

struct merge {
    int32_t left, right; /* left CRN_NO_TOKEN: free slot */
    int32_t merged;
    uint32_t rank;
};

struct special {
    struct crn_gguf_str name;
    int32_t id;
    bool control; /* matched only when special tokens are parsed */
};

struct crn_tokenizer {
    const struct crn_gguf *g;
    uint32_t n_tokens;
    struct crn_gguf_str *names;  /* [n_tokens], in the mapping */
    struct crn_gguf_str *pieces; /* [n_tokens], in the mapping or in piece_bytes */
    char *piece_bytes;
    int32_t *by_name; /* open addressing, name_mask + 1 slots */
    uint32_t name_mask;
    struct merge *merges; /* open addressing, merge_mask + 1 slots */
    uint32_t merge_mask;
    struct special *specials; /* longest name first */
    uint32_t n_specials;
    int32_t byte_ids[256];
    int32_t eos;
    pcre2_code *patterns[MAX_PATTERNS];
    uint32_t n_patterns;
};

/* White space is llama.cpp's list, which differs from PCRE2's \s in U+180E. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACES "\\p{L}\\p{N}]+|[" SPACES            \
    "]+(?![^" SPACES "])|[" SPACES "]+"

/* Names of tokenizer.ggml.pre and their patterns: llama.cpp, src/llama-vocab.cpp. */
static const struct {
    const char *name;
    const char *patterns[MAX_PATTERNS];
} pre_tokenizers[] = {
    {"smollm", {"\\p{N}", GPT2_PATTERN}},
    {"starcoder", {"\\p{N}", GPT2_PATTERN}},
    {"refact", {"\\p{N}", GPT2_PATTERN}},
    {"gpt-2", {GPT2_PATTERN}},
    {"phi-2", {GPT2_PATTERN}},
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2_PATTERN, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

/* --- small parts ------------------------------------------------------------------------------ */

int crn_ids_push(struct crn_ids *ids, int32_t id)
{
    if (ids->n == ids->room) {
        size_t room = ids->room > 0 ? ids->room * 2 : 256;
        int32_t *p = realloc(ids->ids, room * sizeof *p);
        if (p == NULL)
            return -ENOMEM;
        ids->ids = p;
        ids->room = room;
    }
    ids->ids[ids->n++] = id;
    return 0;
}

void crn_ids_free(struct crn_ids *ids)
{
    free(ids->ids);
    *ids = (struct crn_ids){0};
}

/* Length of the well-formed UTF-8 character at p, 0 when there is none within n bytes (RFC 3629
 * table). */
static size_t utf8_char(const uint8_t *p, size_t n)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t len;
    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        len = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        len = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        len = 4;
    else
        return 0;
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (n < len || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return len;
}

size_t crn_utf8_whole(const char *bytes, size_t n)
{
    const uint8_t *p = (const uint8_t *)bytes;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t lead = p[n - back];
        if ((lead & 0xc0) == 0x80)
            continue;
        size_t want = lead >= 0xf0 && lead <= 0xf4 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
        if (lead > 0xf4)
            want = 1;
        return back < want ? n - back : n;
    }
    return n;
}

static uint32_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)p[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

static uint32_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

/* Smallest 2^k - 1 that leaves a table of n entries at most half full. */
static uint32_t mask_for(uint32_t n)
{
    uint32_t size = 16;
    while (size < 2 * n)
        size *= 2;
    return size - 1;
}

static int32_t *name_slot(const struct crn_tokenizer *t, const char *p, size_t n)
{
    for (uint32_t i = hash_bytes(p, n) & t->name_mask;; i = (i + 1) & t->name_mask) {
        int32_t id = t->by_name[i];
        if (id == CRN_NO_TOKEN || (t->names[id].n == n && memcmp(t->names[id].p, p, n) == 0))
            return &t->by_name[i];
    }
}

static struct merge *merge_slot(const struct crn_tokenizer *t, int32_t left, int32_t right)
{
    for (uint32_t i = hash_pair(left, right) & t->merge_mask;; i = (i + 1) & t->merge_mask) {
        struct merge *m = &t->merges[i];
        if (m->left == CRN_NO_TOKEN || (m->left == left && m->right == right))
            return m;
    }
}

/* GPT-2's alphabet: letter of a byte. Printable Latin-1 is itself, the others are U+0100 upwards in
 * byte order. */
static bool stands_for_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

#define ALPHABET 0x144u

/* byte_of[letter] for all letters of the alphabet, -1 elsewhere. */
static void fill_alphabet(int16_t byte_of[ALPHABET])
{
    uint32_t next = 0x100;
    for (uint32_t i = 0; i < ALPHABET; i++)
        byte_of[i] = -1;
    for (uint32_t byte = 0; byte < 256; byte++)
        byte_of[stands_for_itself(byte) ? byte : next++] = (int16_t)byte;
}

/* --- loading ---------------------------------------------------------------------------------- */

static int fail(const struct crn_tokenizer *t, int code, const char *what)
{
    crn_log(CRN_LOG_ERROR, "%s: tokenizer: %s", crn_gguf_name(t->g), what);
    return code;
}

static int load_names(struct crn_tokenizer *t)
{
    const struct crn_gguf_value *tokens = crn_gguf_find(t->g, "tokenizer.ggml.tokens");
    if (tokens == NULL || tokens->type != CRN_GGUF_ARRAY || tokens->element != CRN_GGUF_STRING)
        return fail(t, CAIRN_E_FORMAT,
                    "key tokenizer.ggml.tokens is missing or not an array of strings");
    if (tokens->count == 0 || tokens->count > MAX_VOCAB)
        return fail(t, CAIRN_E_FORMAT, "key tokenizer.ggml.tokens has an impossible length");
    t->n_tokens = (uint32_t)tokens->count;
    t->name_mask = mask_for(t->n_tokens);
    t->names = calloc(t->n_tokens, sizeof *t->names);
    t->by_name = malloc((t->name_mask + 1) * sizeof *t->by_name);
    if (t->names == NULL || t->by_name == NULL)
        return fail(t, -ENOMEM, "no memory");
    memset(t->by_name, 0xff, (t->name_mask + 1) * sizeof *t->by_name); /* CRN_NO_TOKEN */
    size_t cursor = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        crn_gguf_next_str(tokens, &cursor, &t->names[id]);
        *name_slot(t, t->names[id].p, t->names[id].n) = (int32_t)id;
    }
    return 0;
}

/* Type of a token; absent types mean normal. */
static int64_t type_of(const struct crn_gguf_value *types, uint32_t id)
{
    int64_t type = TYPE_NORMAL;
    if (types != NULL && crn_gguf_int_at(types, id, &type) != 0)
        return TYPE_NORMAL;
    return type;
}

static int longest_first(const void *a, const void *b)
{
    const struct special *x = a, *y = b;
    if (x->name.n != y->name.n)
        return x->name.n < y->name.n ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int load_specials(struct crn_tokenizer *t, const struct crn_gguf_value *types)
{
    t->specials = calloc(MAX_SPECIAL, sizeof *t->specials);
    if (t->specials == NULL)
        return fail(t, -ENOMEM, "no memory");
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        int64_t type = type_of(types, id);
        if (type != TYPE_CONTROL && type != TYPE_USER && type != TYPE_UNKNOWN)
            continue;
        if (t->names[id].n == 0)
            continue;
        if (t->n_specials == MAX_SPECIAL)
            return fail(t, CAIRN_E_UNSUPPORTED, "more than 4096 special tokens");
        t->specials[t->n_specials++] =
            (struct special){t->names[id], (int32_t)id, type != TYPE_USER};
    }
    qsort(t->specials, t->n_specials, sizeof *t->specials, longest_first);
    return 0;
}

/* Spells a name with the alphabet into out (at most n bytes); SIZE_MAX when a letter is not part of
 * it. */
static size_t spell(const int16_t byte_of[ALPHABET], struct crn_gguf_str name, char *out)
{
    size_t used = 0;
    for (size_t i = 0; i < name.n;) {
        const uint8_t *p = (const uint8_t *)name.p + i;
        size_t len = utf8_char(p, name.n - i);
        uint32_t letter = len == 1   ? p[0]
                          : len == 2 ? (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3fu)
                                     : ALPHABET;
        if (letter >= ALPHABET || byte_of[letter] < 0)
            return SIZE_MAX;
        out[used++] = (char)(uint8_t)byte_of[letter];
        i += len;
    }
    return used;
}

/* Bytes of every token, and the token of every byte. */
static int load_pieces(struct crn_tokenizer *t, const struct crn_gguf_value *types)
{
    int16_t byte_of[ALPHABET];
    size_t total = 1;
    for (uint32_t id = 0; id < t->n_tokens; id++)
        total += t->names[id].n;
    t->pieces = calloc(t->n_tokens, sizeof *t->pieces);
    t->piece_bytes = malloc(total);
    if (t->pieces == NULL || t->piece_bytes == NULL)
        return fail(t, -ENOMEM, "no memory");
    fill_alphabet(byte_of);
    memset(t->byte_ids, 0xff, sizeof t->byte_ids);
    char *out = t->piece_bytes;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        t->pieces[id] = t->names[id]; /* special and foreign names stand for themselves */
        size_t n = type_of(types, id) == TYPE_NORMAL ? spell(byte_of, t->names[id], out) : SIZE_MAX;
        if (n == SIZE_MAX)
            continue;
        t->pieces[id] = (struct crn_gguf_str){out, n};
        out += n;
        if (n == 1)
            t->byte_ids[(uint8_t)out[-1]] = (int32_t)id;
    }
    return 0;
}

static int add_merge(struct crn_tokenizer *t, struct crn_gguf_str text, uint32_t rank)
{
    char joined[512];
    const char *space = text.n > 1 ? memchr(text.p + 1, ' ', text.n - 1) : NULL;
    if (space == NULL || text.n > sizeof joined)
        return fail(t, CAIRN_E_FORMAT, "key tokenizer.ggml.merges: an entry is not a pair");
    size_t n_left = (size_t)(space - text.p), n_right = text.n - n_left - 1;
    memcpy(joined, text.p, n_left);
    memcpy(joined + n_left, space + 1, n_right);
    int32_t left = *name_slot(t, text.p, n_left);
    int32_t right = *name_slot(t, space + 1, n_right);
    int32_t merged = *name_slot(t, joined, n_left + n_right);
    if (left == CRN_NO_TOKEN || right == CRN_NO_TOKEN || merged == CRN_NO_TOKEN)
        return fail(t, CAIRN_E_FORMAT, "key tokenizer.ggml.merges: an entry is not made of tokens");
    struct merge *m = merge_slot(t, left, right);
    if (m->left == CRN_NO_TOKEN)
        *m = (struct merge){left, right, merged, rank};
    return 0;
}

static int load_merges(struct crn_tokenizer *t)
{
    const struct crn_gguf_value *merges = crn_gguf_find(t->g, "tokenizer.ggml.merges");
    if (merges == NULL || merges->type != CRN_GGUF_ARRAY || merges->element != CRN_GGUF_STRING)
        return fail(t, CAIRN_E_FORMAT,
                    "key tokenizer.ggml.merges is missing or not an array of strings");
    if (merges->count > MAX_MERGES)
        return fail(t, CAIRN_E_FORMAT, "key tokenizer.ggml.merges has an impossible length");
    t->merge_mask = mask_for((uint32_t)merges->count);
    t->merges = malloc((t->merge_mask + 1) * sizeof *t->merges);
    if (t->merges == NULL)
        return fail(t, -ENOMEM, "no memory");
    memset(t->merges, 0xff, (t->merge_mask + 1) * sizeof *t->merges); /* left is CRN_NO_TOKEN */
    struct crn_gguf_str text;
    size_t cursor = 0;
    int rc = 0;
    for (uint32_t rank = 0; rc == 0 && crn_gguf_next_str(merges, &cursor, &text); rank++)
        rc = add_merge(t, text, rank);
    return rc;
}

static int compile(struct crn_tokenizer *t, const char *pattern)
{
    int error;
    PCRE2_SIZE at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
    if (code == NULL)
        return fail(t, CAIRN_E_UNSUPPORTED,
                    "PCRE2 cannot compile the pre-tokenizer (built without Unicode?)");
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
    t->patterns[t->n_patterns++] = code;
    return 0;
}

static int load_patterns(struct crn_tokenizer *t)
{
    struct crn_gguf_str pre = {"default", 7};
    int rc = crn_gguf_str(t->g, "tokenizer.ggml.pre", &pre);
    if (rc != 0 && rc != CAIRN_E_MISS)
        return rc;
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof *pre_tokenizers; i++) {
        if (!crn_gguf_str_is(pre, pre_tokenizers[i].name))
            continue;
        rc = 0;
        for (uint32_t p = 0; p < MAX_PATTERNS && pre_tokenizers[i].patterns[p] != NULL && rc == 0;
             p++)
            rc = compile(t, pre_tokenizers[i].patterns[p]);
        return rc;
    }
    char shown[32] = {0};
    for (size_t i = 0; i < pre.n && i + 1 < sizeof shown; i++)
        shown[i] = pre.p[i] > ' ' && pre.p[i] < 127 ? pre.p[i] : '?';
    crn_log(CRN_LOG_ERROR, "%s: tokenizer: key tokenizer.ggml.pre: `%s` is not supported",
            crn_gguf_name(t->g), shown);
    return CAIRN_E_UNSUPPORTED;
}

static int load(struct crn_tokenizer *t)
{
    const struct crn_gguf_value *types = crn_gguf_find(t->g, "tokenizer.ggml.token_type");
    struct crn_gguf_str model;
    uint32_t eos = 0;
    int rc = crn_gguf_str(t->g, "tokenizer.ggml.model", &model);
    if (rc == CAIRN_E_MISS)
        return fail(t, CAIRN_E_FORMAT, "key tokenizer.ggml.model is missing");
    if (rc != 0)
        return rc;
    if (!crn_gguf_str_is(model, "gpt2"))
        return fail(t, CAIRN_E_UNSUPPORTED,
                    "key tokenizer.ggml.model: only `gpt2` (byte-level BPE) is supported");
    if ((rc = load_names(t)) != 0)
        return rc;
    if (types != NULL && (types->type != CRN_GGUF_ARRAY || types->count != t->n_tokens))
        return fail(t, CAIRN_E_FORMAT, "key tokenizer.ggml.token_type does not fit the tokens");
    if ((rc = load_specials(t, types)) != 0 || (rc = load_pieces(t, types)) != 0 ||
        (rc = load_merges(t)) != 0 || (rc = load_patterns(t)) != 0)
        return rc;
    rc = crn_gguf_u32(t->g, "tokenizer.ggml.eos_token_id", &eos);
    if (rc == 0 && eos >= t->n_tokens)
        return fail(t, CAIRN_E_FORMAT, "key tokenizer.ggml.eos_token_id is not a token");
    t->eos = rc == 0 ? (int32_t)eos : CRN_NO_TOKEN;
    return rc == CAIRN_E_MISS ? 0 : rc;
}

int crn_tokenizer_create(const struct crn_gguf *g, struct crn_tokenizer **out_tokenizer)
{
    struct crn_tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    t->g = g;
    int rc = load(t);
    if (rc != 0) {
        crn_tokenizer_destroy(t);
        return rc;
    }
    *out_tokenizer = t;
    return 0;
}

void crn_tokenizer_destroy(struct crn_tokenizer *t)
{
    if (t == NULL)
        return;
    for (uint32_t i = 0; i < t->n_patterns; i++)
        pcre2_code_free(t->patterns[i]);
    free(t->names);
    free(t->pieces);
    free(t->piece_bytes);
    free(t->by_name);
    free(t->merges);
    free(t->specials);
    free(t);
}

/* --- encoding --------------------------------------------------------------------------------- */

/* Symbols of one word: doubly linked, merged ones drop out. */
struct symbol {
    int32_t id; /* CRN_NO_TOKEN: a byte that no token spells; it is left out, as llama.cpp does */
    uint32_t prev, next;
};

struct candidate {
    uint32_t rank, left; /* heap order: rank, then position */
    int32_t left_id, right_id, merged;
};

/* One call of encode: its output and scratch memory, grown to the longest word seen. */
struct encoding {
    const struct crn_tokenizer *t;
    bool parse_special;
    struct crn_ids *ids;
    pcre2_match_data *matches[MAX_PATTERNS];
    struct symbol *symbols;
    struct candidate *heap;
    size_t n_heap;
    size_t word_room;
};

static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(struct encoding *e, struct candidate c)
{
    size_t at = e->n_heap++;
    for (; at > 0 && before(&c, &e->heap[(at - 1) / 2]); at = (at - 1) / 2)
        e->heap[at] = e->heap[(at - 1) / 2];
    e->heap[at] = c;
}

static struct candidate heap_pop(struct encoding *e)
{
    struct candidate top = e->heap[0], last = e->heap[--e->n_heap];
    size_t at = 0;
    for (size_t child = 1; child < e->n_heap; child = 2 * at + 1) {
        if (child + 1 < e->n_heap && before(&e->heap[child + 1], &e->heap[child]))
            child++;
        if (!before(&e->heap[child], &last))
            break;
        e->heap[at] = e->heap[child];
        at = child;
    }
    e->heap[at] = last;
    return top;
}

/* Makes (left, right) a candidate when a merge exists for it. */
static void consider(struct encoding *e, uint32_t left, uint32_t right)
{
    if (left == NO_SYMBOL || right == NO_SYMBOL)
        return;
    int32_t left_id = e->symbols[left].id, right_id = e->symbols[right].id;
    if (left_id == CRN_NO_TOKEN || right_id == CRN_NO_TOKEN)
        return;
    const struct merge *m = merge_slot(e->t, left_id, right_id);
    if (m->left != CRN_NO_TOKEN)
        heap_push(e, (struct candidate){m->rank, left, left_id, right_id, m->merged});
}

/* Every symbol starts one candidate, every merge at most two more: 3n slots are enough. */
static int word_room(struct encoding *e, size_t n)
{
    if (n <= e->word_room)
        return 0;
    size_t room = n * 2;
    struct symbol *symbols = realloc(e->symbols, room * sizeof *symbols);
    if (symbols == NULL)
        return -ENOMEM;
    e->symbols = symbols;
    struct candidate *heap = realloc(e->heap, 3 * room * sizeof *heap);
    if (heap == NULL)
        return -ENOMEM;
    e->heap = heap;
    e->word_room = room;
    return 0;
}

/* Takes the best pair while there is one; a candidate whose symbols changed since is skipped. */
static void merge_symbols(struct encoding *e)
{
    while (e->n_heap > 0) {
        struct candidate c = heap_pop(e);
        struct symbol *left = &e->symbols[c.left];
        if (left->id != c.left_id || left->next == NO_SYMBOL ||
            e->symbols[left->next].id != c.right_id)
            continue;
        struct symbol *right = &e->symbols[left->next];
        right->id = CRN_NO_TOKEN;
        left->id = c.merged;
        left->next = right->next;
        if (left->next != NO_SYMBOL)
            e->symbols[left->next].prev = c.left;
        consider(e, left->prev, c.left);
        consider(e, c.left, left->next);
    }
}

static int encode_word(struct encoding *e, const char *word, size_t n)
{
    int rc = word_room(e, n);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < n; i++) {
        e->symbols[i] = (struct symbol){e->t->byte_ids[(uint8_t)word[i]], i - 1, i + 1};
    }
    e->symbols[0].prev = NO_SYMBOL;
    e->symbols[n - 1].next = NO_SYMBOL;
    e->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        consider(e, i, i + 1);
    merge_symbols(e);
    for (uint32_t i = 0; i != NO_SYMBOL && rc == 0; i = e->symbols[i].next) {
        if (e->symbols[i].id != CRN_NO_TOKEN)
            rc = crn_ids_push(e->ids, e->symbols[i].id);
    }
    return rc;
}

/* Cuts a text with pattern `level`; matches and what lies between them go on to the next pattern.
 * Depth <= 4. */
static int cut(struct encoding *e, uint32_t level, const char *text, size_t n)
{
    if (n == 0)
        return 0;
    if (level == e->t->n_patterns)
        return encode_word(e, text, n);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(e->matches[level]);
    for (size_t at = 0; at < n;) {
        int found = pcre2_match(e->t->patterns[level], (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK,
                                e->matches[level], NULL);
        if (found == PCRE2_ERROR_NOMATCH)
            return cut(e, level + 1, text + at, n - at);
        if (found < 0 || span[1] <= span[0])
            return fail(e->t, CAIRN_E_TOO_BIG, "PCRE2 gave up on a text");
        int rc = cut(e, level + 1, text + at, span[0] - at);
        if (rc == 0)
            rc = cut(e, level + 1, text + span[0], span[1] - span[0]);
        if (rc != 0)
            return rc;
        at = span[1];
    }
    return 0;
}

/* Cuts out special tokens, the longest names first. Recursion only goes down the list, for the text
 * before a find. */
static int cut_specials(struct encoding *e, const char *text, size_t n, uint32_t first)
{
    for (uint32_t k = first; k < e->t->n_specials && n > 0;) {
        const struct special *s = &e->t->specials[k];
        const char *at =
            s->control && !e->parse_special ? NULL : memmem(text, n, s->name.p, s->name.n);
        if (at == NULL) {
            k++;
            continue;
        }
        int rc = cut_specials(e, text, (size_t)(at - text), k + 1);
        if (rc == 0)
            rc = crn_ids_push(e->ids, s->id);
        if (rc != 0)
            return rc;
        n -= (size_t)(at - text) + s->name.n;
        text = at + s->name.n;
    }
    return cut(e, 0, text, n);
}

/* Well-formed text is used as it is; else a copy with U+FFFD for every stray byte. */
static int well_formed(const char *text, size_t n, char **out_copy, size_t *out_n)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t bad = 0;
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char(p + i, n - i);
        bad += len == 0;
        i += len > 0 ? len : 1;
    }
    *out_copy = NULL;
    *out_n = n;
    if (bad == 0)
        return 0;
    char *copy = malloc(n + 2 * bad), *out = copy;
    if (copy == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char(p + i, n - i);
        memcpy(out, len > 0 ? text + i : "\xef\xbf\xbd", len > 0 ? len : 3);
        out += len > 0 ? len : 3;
        i += len > 0 ? len : 1;
    }
    *out_copy = copy;
    *out_n = (size_t)(out - copy);
    return 0;
}

int crn_tokenizer_encode(const struct crn_tokenizer *t, const char *text, size_t n,
                         bool parse_special, struct crn_ids *io_ids)
{
    if (n > CRN_MAX_TEXT_BYTES) {
        crn_log(CRN_LOG_ERROR, "text of %zu bytes, at most %u", n, CRN_MAX_TEXT_BYTES);
        return CAIRN_E_TOO_BIG;
    }
    struct encoding e = {.t = t, .parse_special = parse_special, .ids = io_ids};
    size_t n_before = io_ids->n;
    char *copy;
    int rc = well_formed(text, n, &copy, &n);
    for (uint32_t i = 0; i < t->n_patterns && rc == 0; i++) {
        e.matches[i] = pcre2_match_data_create(1, NULL);
        rc = e.matches[i] == NULL ? -ENOMEM : 0;
    }
    if (rc == 0)
        rc = cut_specials(&e, copy != NULL ? copy : text, n, 0);
    if (rc != 0)
        io_ids->n = n_before;
    for (uint32_t i = 0; i < t->n_patterns; i++)
        pcre2_match_data_free(e.matches[i]);
    free(e.symbols);
    free(e.heap);
    free(copy);
    return rc;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct crn_gguf_str crn_tokenizer_piece(const struct crn_tokenizer *t, int32_t id)
{
    if (id < 0 || (uint32_t)id >= t->n_tokens)
        return (struct crn_gguf_str){"", 0};
    return t->pieces[id];
}

int32_t crn_tokenizer_find(const struct crn_tokenizer *t, const char *name)
{
    return *name_slot(t, name, strlen(name));
}

struct cairn_digest crn_tokenizer_digest(const struct crn_tokenizer *t)
{
    const struct crn_gguf_value *tokens = crn_gguf_find(t->g, "tokenizer.ggml.tokens");
    const struct crn_gguf_value *merges = crn_gguf_find(t->g, "tokenizer.ggml.merges");
    struct cairn_digest none = {{0}};
    struct crn_hash128 *h = crn_hash128_begin();
    if (h == NULL)
        return none;
    crn_hash128_add(h, tokens->data, tokens->size_bytes);
    crn_hash128_add(h, merges->data, merges->size_bytes);
    return crn_hash128_end(h);
}

uint32_t crn_tokenizer_n_tokens(const struct crn_tokenizer *t)
{
    return t->n_tokens;
}

int32_t crn_tokenizer_eos(const struct crn_tokenizer *t)
{
    return t->eos;
}
