/* Loading a model, in this order:
 *
 *   read the shape -> list every tensor that such a model has -> check each against the file
 *   -> open the adapters; each of their tensors must belong to one of the list
 *   -> take one arena -> fill it row by row: dequantise, add the adapters' rank-r products,
 *      put q and k rows in half-split order; for a device some rows at a time, by way of a buffer
 *      on the host, where they also become bf16
 *
 * Whatever a file holds beyond the list (biases, experts, rope_freqs) would change the result, so
 * it is refused. Merging is float32 throughout, as the reference does; the raw tensors stay reachable
 * through the open files. */
#include "tools/worker/weights.h"

#include "ipc/cairn_status.h"
#include "ipc/hash.h"
#include "ipc/log.h"
#include "kernels/memory.h"
#include "tools/worker/quant.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STAGE_BYTES ((size_t)16 << 20) /* of rows on their way to a device, about */
#define TILE 16u
#define N_MATRICES 7u
#define LAYER_SLOTS (N_MATRICES + 2u)
#define LORA_SUFFIX_BYTES 7u /* ".lora_a" */

/* A tensor that the model must have, and where it goes. */
struct slot {
    char name[CRN_GGUF_MAX_NAME + 1];
    uint32_t rows; /* 0: a vector of cols */
    uint32_t cols;
    uint32_t rope_head_dim; /* not 0: rows are put in half-split order */
    const struct crn_gguf_tensor *raw;
    uint32_t type; /* CRN_W_F32 or, of a matrix, CRN_W_BF16 */
    void *data;
};

/* The two halves of an adapter for one slot, as stored and as float32. */
struct lora {
    const struct crn_gguf_tensor *a, *b;
    uint32_t rank;
    float factor;  /* scale * alpha / rank */
    float *a_rows; /* [rank][cols] */
    float *b_row;  /* [rank] */
};

struct loras {
    struct lora at[CRN_MAX_ADAPTERS];
    size_t n;
};

/* Everything between the first check and the last row. */
struct loading {
    struct crn_weights *w;
    struct slot *slots;
    size_t n_slots;
    uint32_t form;
    float *stage; /* rows on their way to a device, then the same as bf16 */
    size_t stage_floats;
};

__attribute__((format(printf, 3, 4))) static int refuse(const struct crn_gguf *g, int code,
                                                        const char *format, ...)
{
    char detail[256];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    crn_log(CRN_LOG_ERROR, "%s: %s", crn_gguf_name(g), detail);
    return code;
}

static int no_memory(const struct crn_gguf *g, size_t size_bytes)
{
    return refuse(g, -ENOMEM, "no memory for %zu bytes", size_bytes);
}

/* --- shape ------------------------------------------------------------------------------------ */

/* A required u32 within 1 .. max. */
static int read_count(const struct crn_gguf *g, const char *key, uint32_t max, uint32_t *out_number)
{
    uint32_t number = 0;
    int rc = crn_gguf_u32(g, key, &number);
    if (rc == CAIRN_E_MISS)
        return refuse(g, CAIRN_E_FORMAT, "key %s is missing", key);
    if (rc != 0)
        return rc;
    if (number == 0 || number > max)
        return refuse(g, number == 0 ? CAIRN_E_FORMAT : CAIRN_E_TOO_BIG,
                      "key %s: %u is not in 1..%u", key, number, max);
    *out_number = number;
    return 0;
}

/* An optional u32 that, when there, must have one value. */
static int expect_u32(const struct crn_gguf *g, const char *key, uint32_t want)
{
    uint32_t number = want;
    int rc = crn_gguf_u32(g, key, &number);
    if (rc != 0 && rc != CAIRN_E_MISS)
        return rc;
    if (number != want)
        return refuse(g, CAIRN_E_UNSUPPORTED, "key %s: %u, only %u is supported", key, number,
                      want);
    return 0;
}

static int expect_f32(const struct crn_gguf *g, const char *key, float want)
{
    float number = want;
    int rc = crn_gguf_f32(g, key, &number);
    if (rc != 0 && rc != CAIRN_E_MISS)
        return rc;
    if (number != want)
        return refuse(g, CAIRN_E_UNSUPPORTED, "key %s: %g, only %g is supported", key,
                      (double)number, (double)want);
    return 0;
}

static int expect_type(const struct crn_gguf *g, const char *key, const char *want, bool required)
{
    struct crn_gguf_str text;
    int rc = crn_gguf_str(g, key, &text);
    if (rc == CAIRN_E_MISS)
        return required ? refuse(g, CAIRN_E_FORMAT, "key %s is missing", key) : 0;
    if (rc != 0)
        return rc;
    if (crn_gguf_str_is(text, want))
        return 0;
    char shown[32] = {0};
    for (size_t i = 0; i < text.n && i + 1 < sizeof shown; i++)
        shown[i] = text.p[i] > ' ' && text.p[i] < 127 ? text.p[i] : '?';
    return refuse(g, CAIRN_E_UNSUPPORTED, "key %s: `%s`, only `%s` is supported", key, shown, want);
}

/* What would change the arithmetic and is not implemented. */
static int refuse_variants(const struct crn_gguf *g, uint32_t head_dim)
{
    int rc;
    if ((rc = expect_u32(g, "llama.attention.value_length", head_dim)) != 0 ||
        (rc = expect_u32(g, "llama.rope.dimension_count", head_dim)) != 0 ||
        (rc = expect_u32(g, "llama.expert_count", 0)) != 0 ||
        (rc = expect_u32(g, "llama.attention.sliding_window", 0)) != 0 ||
        (rc = expect_type(g, "llama.rope.scaling.type", "none", false)) != 0 ||
        (rc = expect_f32(g, "llama.rope.scaling.factor", 1.0f)) != 0 ||
        (rc = expect_f32(g, "llama.rope.scale_linear", 1.0f)) != 0 ||
        (rc = expect_f32(g, "llama.logit_scale", 1.0f)) != 0)
        return rc;
    return 0;
}

static int read_heads(const struct crn_gguf *g, struct crn_model_shape *s)
{
    int rc = read_count(g, "llama.attention.head_count", 4096, &s->n_heads);
    if (rc != 0)
        return rc;
    s->n_kv_heads = s->n_heads;
    if (crn_gguf_find(g, "llama.attention.head_count_kv") != NULL &&
        (rc = read_count(g, "llama.attention.head_count_kv", 4096, &s->n_kv_heads)) != 0)
        return rc;
    if (s->n_kv_heads > CAIRN_MAX_KV_HEADS)
        return refuse(g, CAIRN_E_TOO_BIG, "%u KV heads, at most %u", s->n_kv_heads,
                      CAIRN_MAX_KV_HEADS);
    s->head_dim = s->hidden / s->n_heads;
    if (crn_gguf_find(g, "llama.attention.key_length") != NULL) {
        rc = read_count(g, "llama.attention.key_length", CAIRN_MAX_HEAD_DIM, &s->head_dim);
        if (rc != 0)
            return rc;
    } else if (s->hidden % s->n_heads != 0) {
        return refuse(g, CAIRN_E_FORMAT, "%u channels do not divide into %u heads", s->hidden,
                      s->n_heads);
    }
    if (s->n_heads % s->n_kv_heads != 0)
        return refuse(g, CAIRN_E_FORMAT, "%u heads do not divide into %u KV heads", s->n_heads,
                      s->n_kv_heads);
    if (s->head_dim == 0 || s->head_dim % 2 != 0 || s->head_dim > CAIRN_MAX_HEAD_DIM)
        return refuse(g, CAIRN_E_FORMAT, "impossible head size %u", s->head_dim);
    return 0;
}

static int read_floats(const struct crn_gguf *g, struct crn_model_shape *s)
{
    static const char theta_key[] = "llama.rope.freq_base";
    static const char eps_key[] = "llama.attention.layer_norm_rms_epsilon";
    s->rope_theta = 10000.0f;
    int rc = crn_gguf_f32(g, theta_key, &s->rope_theta);
    if (rc != 0 && rc != CAIRN_E_MISS)
        return rc;
    if (!isfinite(s->rope_theta) || !(s->rope_theta > 1))
        return refuse(g, CAIRN_E_FORMAT, "key %s: impossible value %g", theta_key,
                      (double)s->rope_theta);
    rc = crn_gguf_f32(g, eps_key, &s->norm_eps);
    if (rc == CAIRN_E_MISS)
        return refuse(g, CAIRN_E_FORMAT, "key %s is missing", eps_key);
    if (rc != 0)
        return rc;
    if (!(s->norm_eps > 0) || !(s->norm_eps < 1))
        return refuse(g, CAIRN_E_FORMAT, "key %s: impossible value %g", eps_key,
                      (double)s->norm_eps);
    return 0;
}

static int read_vocab(const struct crn_gguf *g, struct crn_model_shape *s)
{
    const struct crn_gguf_tensor *embd = crn_gguf_tensor(g, "token_embd.weight");
    if (embd == NULL)
        return refuse(g, CAIRN_E_FORMAT, "tensor token_embd.weight is missing");
    if (embd->dims[1] > CRN_MAX_VOCAB)
        return refuse(g, CAIRN_E_TOO_BIG, "vocabulary of %llu, at most %u",
                      (unsigned long long)embd->dims[1], CRN_MAX_VOCAB);
    s->vocab = (uint32_t)embd->dims[1];
    const struct crn_gguf_value *tokens = crn_gguf_find(g, "tokenizer.ggml.tokens");
    if (tokens != NULL && tokens->count != s->vocab)
        return refuse(g, CAIRN_E_FORMAT, "tokenizer has %llu tokens, token_embd.weight %u rows",
                      (unsigned long long)tokens->count, s->vocab);
    s->tied = crn_gguf_tensor(g, "output.weight") == NULL;
    return 0;
}

int crn_model_shape_read(const struct crn_gguf *g, struct crn_model_shape *out_shape)
{
    struct crn_model_shape s = {0};
    int rc;
    if ((rc = expect_type(g, "general.type", "model", false)) != 0 ||
        (rc = expect_type(g, "general.architecture", "llama", true)) != 0 ||
        (rc = read_count(g, "llama.block_count", CAIRN_MAX_LAYERS, &s.n_layers)) != 0 ||
        (rc = read_count(g, "llama.embedding_length", CAIRN_MAX_HIDDEN, &s.hidden)) != 0 ||
        (rc = read_count(g, "llama.feed_forward_length", CRN_MAX_FFN, &s.ffn)) != 0 ||
        (rc = read_count(g, "llama.context_length", UINT32_MAX, &s.context_max)) != 0 ||
        (rc = read_heads(g, &s)) != 0 || (rc = read_floats(g, &s)) != 0 ||
        (rc = refuse_variants(g, s.head_dim)) != 0 || (rc = read_vocab(g, &s)) != 0)
        return rc;
    if (s.context_max > CAIRN_MAX_TOKENS)
        s.context_max = CAIRN_MAX_TOKENS;
    *out_shape = s;
    return 0;
}

/* --- the list of tensors
 * ------------------------------------------------------------------------------------------ */

static void add_slot(struct loading *ld, const char *name, uint32_t rows, uint32_t cols)
{
    struct slot *slot = &ld->slots[ld->n_slots++];
    *slot = (struct slot){.rows = rows, .cols = cols};
    snprintf(slot->name, sizeof slot->name, "%s", name);
}

/* Order within a layer; fill_layer() reads it back. */
static void add_layer(struct loading *ld, uint32_t layer)
{
    const struct crn_model_shape *s = &ld->w->shape;
    const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const struct {
        const char *name;
        uint32_t rows, cols, rope_head_dim;
    } list[LAYER_SLOTS] = {
        {"attn_norm", 0, s->hidden, 0},        {"ffn_norm", 0, s->hidden, 0},
        {"attn_q", q, s->hidden, s->head_dim}, {"attn_k", kv, s->hidden, s->head_dim},
        {"attn_v", kv, s->hidden, 0},          {"attn_output", s->hidden, q, 0},
        {"ffn_gate", s->ffn, s->hidden, 0},    {"ffn_up", s->ffn, s->hidden, 0},
        {"ffn_down", s->hidden, s->ffn, 0},
    };
    for (size_t i = 0; i < LAYER_SLOTS; i++) {
        char name[CRN_GGUF_MAX_NAME];
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, list[i].name);
        add_slot(ld, name, list[i].rows, list[i].cols);
        ld->slots[ld->n_slots - 1].rope_head_dim = list[i].rope_head_dim;
    }
}

static int list_slots(struct loading *ld)
{
    const struct crn_model_shape *s = &ld->w->shape;
    size_t room = (size_t)s->n_layers * LAYER_SLOTS + 3;
    ld->slots = calloc(room, sizeof *ld->slots);
    if (ld->slots == NULL)
        return no_memory(ld->w->base, room * sizeof *ld->slots);
    add_slot(ld, "token_embd.weight", s->vocab, s->hidden);
    add_slot(ld, "output_norm.weight", 0, s->hidden);
    for (uint32_t layer = 0; layer < s->n_layers; layer++)
        add_layer(ld, layer);
    if (!s->tied)
        add_slot(ld, "output.weight", s->vocab, s->hidden);
    return 0;
}

static struct slot *find_slot(const struct loading *ld, const char *name, size_t n)
{
    for (size_t i = 0; i < ld->n_slots; i++) {
        if (strlen(ld->slots[i].name) == n && memcmp(ld->slots[i].name, name, n) == 0)
            return &ld->slots[i];
    }
    return NULL;
}

static int check_dims(const struct crn_gguf *g, const struct crn_gguf_tensor *t, uint32_t cols,
                      uint32_t rows)
{
    uint32_t outer = rows > 0 ? rows : 1;
    if (t->dims[0] == cols && t->dims[1] == outer && t->dims[2] == 1 && t->dims[3] == 1)
        return 0;
    return refuse(g, CAIRN_E_FORMAT,
                  "tensor %s: shape [%llu, %llu, %llu, %llu], [%u, %u, 1, 1] wanted", t->name,
                  (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                  (unsigned long long)t->dims[2], (unsigned long long)t->dims[3], cols, outer);
}

/* Every slot has its tensor, and every tensor its slot. */
static int check_base(struct loading *ld)
{
    const struct crn_gguf *g = ld->w->base;
    for (size_t i = 0; i < ld->n_slots; i++) {
        struct slot *slot = &ld->slots[i];
        slot->raw = crn_gguf_tensor(g, slot->name);
        if (slot->raw == NULL)
            return refuse(g, CAIRN_E_FORMAT, "tensor %s is missing", slot->name);
        int rc = check_dims(g, slot->raw, slot->cols, slot->rows);
        if (rc != 0)
            return rc;
    }
    for (size_t i = 0; i < crn_gguf_n_tensors(g) && crn_gguf_n_tensors(g) != ld->n_slots; i++) {
        const struct crn_gguf_tensor *t = crn_gguf_tensor_at(g, i);
        if (find_slot(ld, t->name, strlen(t->name)) == NULL)
            return refuse(g, CAIRN_E_UNSUPPORTED, "tensor %s is not part of a plain llama model",
                          t->name);
    }
    return 0;
}

/* --- adapters --------------------------------------------------------------------------------- */

static bool is_lora_half(const struct crn_gguf_tensor *t, char half)
{
    static const char suffix[] = ".lora_";
    size_t n = strlen(t->name);
    return n > LORA_SUFFIX_BYTES && t->name[n - 1] == half &&
           memcmp(t->name + n - LORA_SUFFIX_BYTES, suffix, sizeof suffix - 1) == 0;
}

/* The half of a slot in an adapter, or NULL. */
static const struct crn_gguf_tensor *lora_half(const struct crn_gguf *g, const struct slot *slot,
                                               char half)
{
    char name[CRN_GGUF_MAX_NAME + 1 + LORA_SUFFIX_BYTES];
    snprintf(name, sizeof name, "%s.lora_%c", slot->name, half);
    return crn_gguf_tensor(g, name);
}

/* One lora_a with its lora_b, against the slot it changes. */
static int check_pair(const struct loading *ld, const struct crn_gguf *g,
                      const struct crn_gguf_tensor *a)
{
    const struct slot *slot = find_slot(ld, a->name, strlen(a->name) - LORA_SUFFIX_BYTES);
    if (slot == NULL || slot->rows == 0)
        return refuse(g, CAIRN_E_FORMAT, "tensor %s: the model has no such matrix", a->name);
    if (slot->raw == crn_gguf_tensor(ld->w->base, "token_embd.weight"))
        return refuse(g, CAIRN_E_UNSUPPORTED, "tensor %s: adapting the embedding is not supported",
                      a->name);
    const struct crn_gguf_tensor *b = lora_half(g, slot, 'b');
    if (b == NULL)
        return refuse(g, CAIRN_E_FORMAT, "tensor %s has no lora_b", a->name);
    if (a->dims[1] > CRN_MAX_LORA_RANK)
        return refuse(g, CAIRN_E_FORMAT, "tensor %s: impossible rank %llu", a->name,
                      (unsigned long long)a->dims[1]);
    uint32_t rank = (uint32_t)a->dims[1];
    int rc = check_dims(g, a, slot->cols, rank);
    return rc != 0 ? rc : check_dims(g, b, rank, slot->rows);
}

static int check_adapter(const struct loading *ld, const struct crn_adapter *adapter)
{
    const struct crn_gguf *g = adapter->gguf;
    size_t pairs = 0, n = crn_gguf_n_tensors(g);
    for (size_t i = 0; i < n; i++) {
        const struct crn_gguf_tensor *t = crn_gguf_tensor_at(g, i);
        if (is_lora_half(t, 'b'))
            continue;
        if (!is_lora_half(t, 'a'))
            return refuse(g, CAIRN_E_FORMAT, "tensor %s is not a lora_a or lora_b", t->name);
        int rc = check_pair(ld, g, t);
        if (rc != 0)
            return rc;
        pairs++;
    }
    if (pairs == 0 || pairs * 2 != n)
        return refuse(g, CAIRN_E_FORMAT, "%zu tensors but %zu lora pairs", n, pairs);
    return 0;
}

static int open_adapter(struct crn_weights *w, const struct crn_adapter_spec *spec)
{
    if (!isfinite(spec->scale)) {
        crn_log(CRN_LOG_ERROR, "%s: impossible adapter scale %g", spec->path, (double)spec->scale);
        return CAIRN_E_ARG;
    }
    struct crn_gguf *g;
    int rc = crn_gguf_open(spec->path, &g);
    if (rc != 0)
        return rc;
    struct crn_adapter *adapter = &w->adapters[w->n_adapters++];
    *adapter = (struct crn_adapter){.gguf = g, .scale = spec->scale};
    if (expect_type(g, "general.type", "adapter", true) != 0 ||
        expect_type(g, "adapter.type", "lora", true) != 0 ||
        expect_type(g, "general.architecture", "llama", true) != 0)
        return CAIRN_E_FORMAT;
    rc = crn_gguf_f32(g, "adapter.lora.alpha", &adapter->alpha);
    if (rc == CAIRN_E_MISS || (rc == 0 && !isfinite(adapter->alpha)))
        return refuse(g, CAIRN_E_FORMAT, "key adapter.lora.alpha is missing or not finite");
    return rc;
}

static int open_adapters(struct loading *ld, const struct crn_adapter_spec *specs, size_t n)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = open_adapter(ld->w, &specs[i]);
        if (rc == 0)
            rc = check_adapter(ld, &ld->w->adapters[i]);
    }
    return rc;
}

/* --- filling the arena
 * -------------------------------------------------------------------------------------------- */

static size_t at_least_one(uint32_t rows)
{
    return rows > 0 ? rows : 1;
}

static size_t slot_bytes(const struct slot *slot)
{
    size_t width = slot->type == CRN_W_BF16 ? sizeof(uint16_t) : sizeof(float);
    size_t n = at_least_one(slot->rows) * slot->cols * width;
    return (n + CAIRN_ALIGN - 1) / CAIRN_ALIGN * CAIRN_ALIGN;
}

/* Does the file spend 16 bits on every number of a matrix? */
static bool all_16_bits(const struct loading *ld)
{
    bool all = true;
    for (size_t i = 0; i < ld->n_slots; i++) {
        uint32_t type = ld->slots[i].raw->type;
        all = all && (ld->slots[i].rows == 0 || type == CRN_QUANT_F16 || type == CRN_QUANT_BF16);
    }
    return all;
}

static void choose_types(struct loading *ld)
{
    bool narrow = crn_memory_apart(&ld->w->exec) &&
                  (ld->form == CRN_WEIGHTS_BF16 ||
                   (ld->form == CRN_WEIGHTS_AUTO && all_16_bits(ld)));
    for (size_t i = 0; i < ld->n_slots; i++)
        ld->slots[i].type = narrow && ld->slots[i].rows > 0 ? CRN_W_BF16 : CRN_W_F32;
}

static void *take_pages(size_t size_bytes)
{
    void *p = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size_bytes, MADV_HUGEPAGE); /* a hint: fewer page faults while filling */
    return p;
}

/* Sizes cannot overflow: every slot's elements were seen in the file, at no less than half a byte
 * each. */
static int take_arena(struct loading *ld)
{
    struct crn_weights *w = ld->w;
    size_t size_bytes = 0;
    void *p = NULL;
    int rc = 0;
    for (size_t i = 0; i < ld->n_slots; i++)
        size_bytes += slot_bytes(&ld->slots[i]);
    if (crn_memory_apart(&w->exec))
        rc = crn_memory_alloc(&w->exec, size_bytes, &p);
    else
        p = take_pages(size_bytes);
    if (rc != 0 || p == NULL)
        return rc != 0 && rc != -ENOMEM ? rc : no_memory(w->base, size_bytes);
    w->arena = p;
    w->arena_bytes = size_bytes;
    char *next = p;
    for (size_t i = 0; i < ld->n_slots; i++) {
        ld->slots[i].data = next;
        next += slot_bytes(&ld->slots[i]);
    }
    return 0;
}

static size_t row_bytes(const struct crn_gguf_tensor *t)
{
    const struct crn_quant_info *info = crn_quant_info(t->type);
    return (size_t)t->dims[0] / info->block_elems * info->block_bytes;
}

static const uint8_t *row_at(const struct crn_gguf_tensor *t, uint32_t row)
{
    return t->data + row_bytes(t) * row;
}

/* Four neighbours of a row, at any address of a float; TILE numbers are four of them. */
typedef float quad __attribute__((vector_size(16)));
typedef quad loose_quad __attribute__((aligned(4), may_alias));

/* out [TILE] += factor * b . a, where a points to TILE columns of A; the sums stay in registers. */
static void add_tile(const struct lora *lora, const float *a, uint32_t cols, float *out)
{
    quad s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    for (uint32_t k = 0; k < lora->rank; k++, a += cols) {
        const loose_quad *x = (const loose_quad *)a;
        float b = lora->b_row[k];
        s0 += b * x[0];
        s1 += b * x[1];
        s2 += b * x[2];
        s3 += b * x[3];
    }
    loose_quad *y = (loose_quad *)out;
    y[0] += lora->factor * s0;
    y[1] += lora->factor * s1;
    y[2] += lora->factor * s2;
    y[3] += lora->factor * s3;
}

/* row += factor * b . A */
static void add_product(const struct lora *lora, uint32_t cols, float *row)
{
    uint32_t c = 0;
    for (; c + TILE <= cols; c += TILE)
        add_tile(lora, lora->a_rows + c, cols, row + c);
    for (; c < cols; c++) {
        float sum = 0;
        for (uint32_t k = 0; k < lora->rank; k++)
            sum += lora->b_row[k] * lora->a_rows[(size_t)k * cols + c];
        row[c] += lora->factor * sum;
    }
}

/* The adapters that change a slot; A becomes float32 once per slot. End with drop_loras(). */
static int find_loras(const struct crn_weights *w, const struct slot *slot, struct loras *out)
{
    out->n = 0;
    for (size_t i = 0; i < w->n_adapters && slot->rows > 0; i++) {
        const struct crn_adapter *adapter = &w->adapters[i];
        struct lora lora = {.a = lora_half(adapter->gguf, slot, 'a')};
        if (lora.a == NULL)
            continue;
        lora.b = lora_half(adapter->gguf, slot, 'b');
        lora.rank = (uint32_t)lora.a->dims[1];
        lora.factor = adapter->scale;
        if (adapter->alpha != 0) /* llama.cpp reads 0 as `no alpha` */
            lora.factor *= adapter->alpha / (float)lora.rank;
        size_t floats = (size_t)lora.rank * slot->cols;
        lora.a_rows = malloc((floats + lora.rank) * sizeof(float));
        if (lora.a_rows == NULL)
            return no_memory(adapter->gguf, (floats + lora.rank) * sizeof(float));
        lora.b_row = lora.a_rows + floats;
        crn_quant_row(lora.a->type, lora.a->data, floats, lora.a_rows);
        out->at[out->n++] = lora;
    }
    return 0;
}

static void drop_loras(struct loras *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->at[i].a_rows);
}

/* Rows [first, first + n) of a slot as float32. Where rows change their order, both are multiples of
 * the head size, so that they change it among themselves. */
static void fill_rows(const struct slot *slot, const struct loras *l, uint32_t first, uint32_t n,
                      float *out)
{
    for (uint32_t r = first; r < first + n; r++) {
        uint32_t place = slot->rope_head_dim > 0 ? crn_rope_row(r, slot->rope_head_dim) : r;
        float *row = out + (size_t)(place - first) * slot->cols;
        crn_quant_row(slot->raw->type, row_at(slot->raw, r), slot->cols, row);
        for (size_t i = 0; i < l->n; i++) {
            const struct lora *lora = &l->at[i];
            crn_quant_row(lora->b->type, row_at(lora->b, r), lora->rank, lora->b_row);
            add_product(lora, slot->cols, row);
        }
    }
}

/* Rows of a slot that go to a device together. */
static uint32_t staged_rows(const struct slot *slot)
{
    uint32_t unit = slot->rope_head_dim > 0 ? slot->rope_head_dim : 1;
    size_t fit = STAGE_BYTES / sizeof(float) / slot->cols / unit;
    size_t rows = (fit > 0 ? fit : 1) * unit;
    return rows < at_least_one(slot->rows) ? (uint32_t)rows : (uint32_t)at_least_one(slot->rows);
}

/* f32 in the stage -> in the arena, as the slot has it. */
static int put_rows(const struct loading *ld, const struct slot *slot, uint32_t first, uint32_t n)
{
    static const struct crn_exec here;
    size_t numbers = (size_t)n * slot->cols, at = (size_t)first * slot->cols;
    if (slot->type == CRN_W_F32)
        return crn_memory_put(&ld->w->exec, (float *)slot->data + at, ld->stage,
                              numbers * sizeof(float));
    uint16_t *narrow = (uint16_t *)(void *)(ld->stage + ld->stage_floats);
    int rc = crn_kernels_host()->convert(&here, ld->stage, CAIRN_F32, numbers, CAIRN_BF16, narrow);
    return rc != 0 ? rc
                   : crn_memory_put(&ld->w->exec, (uint16_t *)slot->data + at, narrow,
                                    numbers * sizeof *narrow);
}

static int fill_there(const struct loading *ld, const struct slot *slot, const struct loras *l)
{
    uint32_t rows = (uint32_t)at_least_one(slot->rows), step = staged_rows(slot);
    int rc = 0;
    for (uint32_t r = 0; r < rows && rc == 0; r += step) {
        uint32_t n = rows - r < step ? rows - r : step;
        fill_rows(slot, l, r, n, ld->stage);
        rc = put_rows(ld, slot, r, n);
    }
    return rc;
}

static int fill_slot(const struct loading *ld, const struct slot *slot)
{
    struct loras l;
    int rc = find_loras(ld->w, slot, &l);
    if (rc == 0 && crn_memory_apart(&ld->w->exec))
        rc = fill_there(ld, slot, &l);
    else if (rc == 0)
        fill_rows(slot, &l, 0, (uint32_t)at_least_one(slot->rows), slot->data);
    drop_loras(&l);
    return rc;
}

static int take_stage(struct loading *ld)
{
    if (!crn_memory_apart(&ld->w->exec))
        return 0;
    for (size_t i = 0; i < ld->n_slots; i++) {
        size_t n = (size_t)staged_rows(&ld->slots[i]) * ld->slots[i].cols;
        ld->stage_floats = n > ld->stage_floats ? n : ld->stage_floats;
    }
    size_t bytes = ld->stage_floats * (sizeof(float) + sizeof(uint16_t));
    ld->stage = malloc(bytes);
    return ld->stage != NULL ? 0 : no_memory(ld->w->base, bytes);
}

static struct crn_matrix matrix_of(const struct slot *slot)
{
    return (struct crn_matrix){slot->data, slot->type, slot->rows, slot->cols};
}

/* Slots of one layer, in the order of add_layer(). */
static void fill_layer(struct crn_layer_weights *layer, const struct slot *slots)
{
    *layer = (struct crn_layer_weights){
        .attn_norm = slots[0].data,
        .ffn_norm = slots[1].data,
        .wq = matrix_of(&slots[2]),
        .wk = matrix_of(&slots[3]),
        .wv = matrix_of(&slots[4]),
        .wo = matrix_of(&slots[5]),
        .w_gate = matrix_of(&slots[6]),
        .w_up = matrix_of(&slots[7]),
        .w_down = matrix_of(&slots[8]),
    };
}

static int fill(struct loading *ld)
{
    struct crn_weights *w = ld->w;
    choose_types(ld);
    int rc = take_arena(ld);
    if (rc == 0)
        rc = take_stage(ld);
    for (size_t i = 0; i < ld->n_slots && rc == 0; i++)
        rc = fill_slot(ld, &ld->slots[i]);
    if (rc != 0)
        return rc;
    w->layers = calloc(w->shape.n_layers, sizeof *w->layers);
    if (w->layers == NULL)
        return no_memory(w->base, w->shape.n_layers * sizeof *w->layers);
    w->token_embd = matrix_of(&ld->slots[0]);
    w->output_norm = ld->slots[1].data;
    for (uint32_t l = 0; l < w->shape.n_layers; l++)
        fill_layer(&w->layers[l], &ld->slots[2 + l * LAYER_SLOTS]);
    w->output = matrix_of(&ld->slots[w->shape.tied ? 0 : ld->n_slots - 1]);
    return 0;
}

/* Identity of the model: what the files hold and how strongly adapters act. */
static int digest(struct crn_weights *w)
{
    size_t n;
    const uint8_t *bytes = crn_gguf_bytes(w->base, &n);
    struct crn_hash128 *h = crn_hash128_begin();
    if (h == NULL)
        return no_memory(w->base, 1024);
    crn_hash128_add(h, bytes, n);
    for (size_t i = 0; i < w->n_adapters; i++) {
        bytes = crn_gguf_bytes(w->adapters[i].gguf, &n);
        crn_hash128_add(h, bytes, n);
        crn_hash128_add(h, &w->adapters[i].scale, sizeof w->adapters[i].scale);
    }
    w->digest = crn_hash128_end(h);
    return 0;
}

/* --- load and free ---------------------------------------------------------------------------- */

static int load(struct loading *ld, const char *path, const struct crn_adapter_spec *specs,
                size_t n)
{
    struct crn_weights *w = ld->w;
    int rc;
    if ((rc = crn_gguf_open(path, &w->base)) != 0 ||
        (rc = crn_model_shape_read(w->base, &w->shape)) != 0 || (rc = list_slots(ld)) != 0 ||
        (rc = check_base(ld)) != 0 || (rc = open_adapters(ld, specs, n)) != 0)
        return rc;
    w->foundation = (struct crn_gguf_str){"", 0};
    rc = crn_gguf_str(w->base, "general.basename", &w->foundation);
    if (rc == CAIRN_E_MISS)
        rc = crn_gguf_str(w->base, "general.name", &w->foundation);
    if (rc != 0 && rc != CAIRN_E_MISS)
        return rc;
    rc = digest(w);
    return rc != 0 ? rc : fill(ld);
}

/* All numbers are on a device: what is still read of the files is little. */
static void give_pages_back(const struct crn_weights *w)
{
    crn_gguf_forget(w->base);
    for (size_t i = 0; i < w->n_adapters; i++)
        crn_gguf_forget(w->adapters[i].gguf);
    crn_log(CRN_LOG_INFO, "weights: %zu MiB on the device, as %s", w->arena_bytes >> 20,
            w->output.type == CRN_W_BF16 ? "bf16" : "f32");
}

int crn_weights_load(const char *path, const struct crn_adapter_spec *adapters, size_t n_adapters,
                     struct crn_weights **out_weights)
{
    return crn_weights_load_at(path, adapters, n_adapters, NULL, out_weights);
}

int crn_weights_load_at(const char *path, const struct crn_adapter_spec *adapters, size_t n_adapters,
                        const struct crn_weights_place *place, struct crn_weights **out_weights)
{
    if (n_adapters > CRN_MAX_ADAPTERS) {
        crn_log(CRN_LOG_ERROR, "%zu adapters, at most %u", n_adapters, CRN_MAX_ADAPTERS);
        return CAIRN_E_TOO_BIG;
    }
    struct loading ld = {.w = calloc(1, sizeof *ld.w)};
    if (ld.w == NULL) {
        crn_log(CRN_LOG_ERROR, "%s: no memory", path);
        return -ENOMEM;
    }
    if (place != NULL) {
        ld.w->exec = *place->exec;
        ld.form = place->form;
    }
    int rc = load(&ld, path, adapters, n_adapters);
    free(ld.stage);
    free(ld.slots);
    if (rc != 0) {
        crn_weights_free(ld.w);
        return rc;
    }
    if (crn_memory_apart(&ld.w->exec))
        give_pages_back(ld.w);
    *out_weights = ld.w;
    return 0;
}

void crn_weights_free(struct crn_weights *w)
{
    if (w == NULL)
        return;
    for (size_t i = 0; i < w->n_adapters; i++)
        crn_gguf_close(w->adapters[i].gguf);
    crn_gguf_close(w->base);
    if (crn_memory_apart(&w->exec))
        crn_memory_free(&w->exec, w->arena);
    else if (w->arena != NULL)
        munmap(w->arena, w->arena_bytes);
    free(w->layers);
    free(w);
}
