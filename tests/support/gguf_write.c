/* GGUF writer of the tests. Three growing buffers (keys, tensor infos, data) that the end joins.
 * The quantisers follow ggml's reference quantisers; f16 goes through the compiler's _Float16, so
 * the reader's own conversion is not what it is tested with. */
#include "tests/support/gguf_write.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 32u

struct buffer {
    uint8_t *p;
    size_t used, room;
};

struct gguf_writer {
    struct buffer keys, infos, data;
    uint64_t n_keys, n_tensors;
    int error;
};

static void append(struct gguf_writer *w, struct buffer *b, const void *bytes, size_t n)
{
    if (w->error != 0 || n == 0)
        return;
    if (b->room - b->used < n) {
        size_t room = (b->used + n) * 2;
        uint8_t *p = realloc(b->p, room);
        if (p == NULL) {
            w->error = -ENOMEM;
            return;
        }
        b->p = p;
        b->room = room;
    }
    memcpy(b->p + b->used, bytes, n);
    b->used += n;
}

static void append_u32(struct gguf_writer *w, struct buffer *b, uint32_t number)
{
    append(w, b, &number, sizeof number);
}

static void append_u64(struct gguf_writer *w, struct buffer *b, uint64_t number)
{
    append(w, b, &number, sizeof number);
}

static void append_str(struct gguf_writer *w, struct buffer *b, const char *text)
{
    append_u64(w, b, strlen(text));
    append(w, b, text, strlen(text));
}

static void pad(struct gguf_writer *w, struct buffer *b, size_t ahead)
{
    static const uint8_t zeros[ALIGNMENT];
    append(w, b, zeros, (ALIGNMENT - (ahead + b->used) % ALIGNMENT) % ALIGNMENT);
}

struct gguf_writer *gguf_writer_new(void)
{
    return calloc(1, sizeof(struct gguf_writer));
}

static void put_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    append_str(w, &w->keys, key);
    append_u32(w, &w->keys, type);
    w->n_keys++;
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t number)
{
    put_key(w, key, CRN_GGUF_U32);
    append_u32(w, &w->keys, number);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float number)
{
    put_key(w, key, CRN_GGUF_F32);
    append(w, &w->keys, &number, sizeof number);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, int flag)
{
    uint8_t byte = flag != 0;
    put_key(w, key, CRN_GGUF_BOOL);
    append(w, &w->keys, &byte, 1);
}

void gguf_put_str(struct gguf_writer *w, const char *key, const char *text)
{
    put_key(w, key, CRN_GGUF_STRING);
    append_str(w, &w->keys, text);
}

static void put_array(struct gguf_writer *w, const char *key, uint32_t element, size_t n)
{
    put_key(w, key, CRN_GGUF_ARRAY);
    append_u32(w, &w->keys, element);
    append_u64(w, &w->keys, n);
}

void gguf_put_strs(struct gguf_writer *w, const char *key, const char *const *texts, size_t n)
{
    put_array(w, key, CRN_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        append_str(w, &w->keys, texts[i]);
}

void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *numbers, size_t n)
{
    put_array(w, key, CRN_GGUF_I32, n);
    append(w, &w->keys, numbers, n * sizeof *numbers);
}

/* --- quantisers ------------------------------------------------------------------------------- */

static uint8_t *emit_half(uint8_t *out, float x)
{
    _Float16 half = (_Float16)x;
    memcpy(out, &half, sizeof half);
    return out + sizeof half;
}

static float half_of(float x)
{
    return (float)(_Float16)x;
}

static uint8_t *emit_bf16(uint8_t *out, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t high = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    memcpy(out, &high, sizeof high);
    return out + sizeof high;
}

static uint8_t *emit_q8_0(uint8_t *out, const float *x)
{
    float top = 0;
    for (size_t i = 0; i < CRN_QUANT_BLOCK; i++)
        top = fmaxf(top, fabsf(x[i]));
    float d = top / 127.0f, inverse = d != 0 ? 1.0f / d : 0;
    out = emit_half(out, d);
    for (size_t i = 0; i < CRN_QUANT_BLOCK; i++)
        *out++ = (uint8_t)(int8_t)lrintf(x[i] * inverse);
    return out;
}

static uint8_t nibble(float x)
{
    return (uint8_t)(x < 0 ? 0 : x > 15 ? 15 : (int)x);
}

static uint8_t *emit_nibbles(uint8_t *out, const float *x, float inverse, float base)
{
    for (size_t i = 0; i < CRN_QUANT_BLOCK / 2; i++) {
        uint8_t low = nibble((x[i] - base) * inverse + 0.5f);
        uint8_t high = nibble((x[i + CRN_QUANT_BLOCK / 2] - base) * inverse + 0.5f);
        *out++ = (uint8_t)(low | high << 4);
    }
    return out;
}

static uint8_t *emit_q4_0(uint8_t *out, const float *x)
{
    float extreme = 0;
    for (size_t i = 0; i < CRN_QUANT_BLOCK; i++) {
        if (fabsf(x[i]) > fabsf(extreme))
            extreme = x[i];
    }
    float d = half_of(extreme / -8.0f), inverse = d != 0 ? 1.0f / d : 0;
    return emit_nibbles(emit_half(out, d), x, inverse, -8.0f * d);
}

static uint8_t *emit_q4_1(uint8_t *out, const float *x)
{
    float low = x[0], high = x[0];
    for (size_t i = 1; i < CRN_QUANT_BLOCK; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    float d = (high - low) / 15.0f, inverse = d != 0 ? 1.0f / d : 0;
    return emit_nibbles(emit_half(emit_half(out, d), low), x, inverse, low);
}

size_t gguf_quantise(uint32_t type, const float *src, size_t n, uint8_t *out)
{
    uint8_t *start = out;
    size_t step = crn_quant_info(type)->block_elems;
    for (size_t i = 0; i < n; i += step) {
        switch (type) {
        case CRN_QUANT_F16:
            out = emit_half(out, src[i]);
            break;
        case CRN_QUANT_BF16:
            out = emit_bf16(out, src[i]);
            break;
        case CRN_QUANT_Q8_0:
            out = emit_q8_0(out, src + i);
            break;
        case CRN_QUANT_Q4_0:
            out = emit_q4_0(out, src + i);
            break;
        case CRN_QUANT_Q4_1:
            out = emit_q4_1(out, src + i);
            break;
        default:
            memcpy(out, src + i, sizeof *src);
            out += sizeof *src;
            break;
        }
    }
    return (size_t)(out - start);
}

void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t cols,
                     uint32_t rows, const float *data)
{
    const struct crn_quant_info *info = crn_quant_info(type);
    if (w->error != 0)
        return;
    if (info == NULL || cols % info->block_elems != 0) {
        w->error = -EINVAL;
        return;
    }
    size_t n = (size_t)cols * (rows > 0 ? rows : 1);
    uint8_t *packed = malloc(n / info->block_elems * info->block_bytes + 1);
    if (packed == NULL) {
        w->error = -ENOMEM;
        return;
    }
    pad(w, &w->data, 0);
    append_str(w, &w->infos, name);
    append_u32(w, &w->infos, rows > 0 ? 2 : 1);
    append_u64(w, &w->infos, cols);
    if (rows > 0)
        append_u64(w, &w->infos, rows);
    append_u32(w, &w->infos, type);
    append_u64(w, &w->infos, w->data.used);
    append(w, &w->data, packed, gguf_quantise(type, data, n, packed));
    w->n_tensors++;
    free(packed);
}

/* --- the end ---------------------------------------------------------------------------------- */

int gguf_writer_bytes(struct gguf_writer *w, void **out_bytes, size_t *out_size_bytes)
{
    struct buffer file = {0};
    append(w, &file, "GGUF", 4);
    append_u32(w, &file, 3);
    append_u64(w, &file, w->n_tensors);
    append_u64(w, &file, w->n_keys);
    append(w, &file, w->keys.p, w->keys.used);
    append(w, &file, w->infos.p, w->infos.used);
    if (w->n_tensors > 0)
        pad(w, &file, 0);
    append(w, &file, w->data.p, w->data.used);
    int error = w->error;
    free(w->keys.p);
    free(w->infos.p);
    free(w->data.p);
    free(w);
    if (error != 0) {
        free(file.p);
        return error;
    }
    *out_bytes = file.p;
    *out_size_bytes = file.used;
    return 0;
}

int gguf_writer_save(struct gguf_writer *w, const char *path)
{
    void *bytes = NULL;
    size_t size_bytes = 0;
    int rc = gguf_writer_bytes(w, &bytes, &size_bytes);
    if (rc != 0)
        return rc;
    FILE *f = fopen(path, "wb");
    if (f == NULL)
        rc = -errno;
    else if (fwrite(bytes, 1, size_bytes, f) != size_bytes)
        rc = -EIO;
    if (f != NULL && fclose(f) != 0 && rc == 0)
        rc = -errno;
    free(bytes);
    return rc;
}

/* --- a small tokenizer
 * -------------------------------------------------------------------------------------------- */

/* The byte alphabet of GPT-2: printable Latin-1 stands for itself, the other bytes for U+0100
 * upwards. */
static uint32_t letter_of_byte(uint32_t byte)
{
    if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae)
        return byte;
    uint32_t n = 0;
    for (uint32_t b = 0; b < byte; b++)
        n += !((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae);
    return 0x100 + n;
}

static void spell_byte(uint32_t byte, char out[3])
{
    uint32_t letter = letter_of_byte(byte);
    if (letter < 0x80) {
        out[0] = (char)letter;
        out[1] = '\0';
        return;
    }
    out[0] = (char)(0xc0 | letter >> 6);
    out[1] = (char)(0x80 | (letter & 0x3f));
    out[2] = '\0';
}

/* Letters that the first ids spell, in this order; "\304\240" below is the letter of a space. */
static const char first_bytes[] = "\n abcdefghijklmnopqrstuvwxyz0123456789.,?!:;-'\"()";
static const char *const merges[] = {"t h", "th e", "i n",        "\304\240 the",
                                     "a n", "an d", "\304\240 a", "\304\240 and"};
static const char *const merged[] = {"th", "the", "in",        "\304\240the",
                                     "an", "and", "\304\240a", "\304\240and"};
#define N_MERGES (sizeof merges / sizeof *merges)

struct vocabulary {
    char (*texts)[16];
    const char **pointers;
    int32_t *types;
    size_t n, room;
};

static void add_token(struct vocabulary *v, const char *text, int32_t type)
{
    if (v->n == v->room)
        return;
    snprintf(v->texts[v->n], sizeof v->texts[v->n], "%s", text);
    v->pointers[v->n] = v->texts[v->n];
    v->types[v->n++] = type;
}

static void fill_vocabulary(struct vocabulary *v)
{
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    char text[16];
    for (size_t i = 0; i < 3; i++)
        add_token(v, special[i], 3);
    for (size_t i = 0; first_bytes[i] != '\0'; i++) {
        spell_byte((uint8_t)first_bytes[i], text);
        add_token(v, text, 1);
    }
    for (size_t i = 0; i < N_MERGES; i++)
        add_token(v, merged[i], 1);
    for (uint32_t b = 0; b < 512; b++) { /* printable ASCII first, then the rest */
        int printable = (b & 0xff) >= 0x21 && (b & 0xff) <= 0x7e;
        if (strchr(first_bytes, (int)(b & 0xff)) != NULL && (b & 0xff) != 0)
            continue;
        if ((b < 256) != printable)
            continue;
        spell_byte(b & 0xff, text);
        add_token(v, text, 1);
    }
    for (size_t i = 0; v->n < v->room; i++) {
        snprintf(text, sizeof text, "[unused%zu]", i);
        add_token(v, text, 5);
    }
}

static void put_tokenizer(struct gguf_writer *w, size_t n_tokens)
{
    struct vocabulary v = {.room = n_tokens};
    v.texts = calloc(n_tokens, sizeof *v.texts);
    v.pointers = calloc(n_tokens, sizeof *v.pointers);
    v.types = calloc(n_tokens, sizeof *v.types);
    if (v.texts == NULL || v.pointers == NULL || v.types == NULL) {
        w->error = -ENOMEM;
    } else {
        fill_vocabulary(&v);
        gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
        gguf_put_str(w, "tokenizer.ggml.pre", "smollm");
        gguf_put_strs(w, "tokenizer.ggml.tokens", v.pointers, n_tokens);
        gguf_put_i32s(w, "tokenizer.ggml.token_type", v.types, n_tokens);
        gguf_put_strs(w, "tokenizer.ggml.merges", merges, N_MERGES);
        gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
        gguf_put_str(w, "tokenizer.chat_template",
                     "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
                     "'<|im_end|>\n' }}{% endfor %}");
    }
    free(v.texts);
    free(v.pointers);
    free(v.types);
}

/* --- random models ---------------------------------------------------------------------------- */

float gguf_random(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(int32_t)(z >> 40) * 0x1p-23f - 1.0f;
}

/* A matrix of uniform numbers in offset +- amplitude. */
static void put_random(struct gguf_writer *w, uint64_t *seed, const char *name, uint32_t type,
                       uint32_t cols, uint32_t rows, float offset, float amplitude)
{
    size_t n = (size_t)cols * (rows > 0 ? rows : 1);
    float *data = malloc(n * sizeof *data + 1);
    if (data == NULL) {
        w->error = -ENOMEM;
        return;
    }
    for (size_t i = 0; i < n; i++)
        data[i] = offset + amplitude * gguf_random(seed);
    gguf_put_tensor(w, name, type, cols, rows, data);
    free(data);
}

struct projection {
    const char *name;
    uint32_t cols, rows;
};

#define N_PROJECTIONS 7

static void projections_of(const struct crn_model_shape *s, struct projection out[N_PROJECTIONS])
{
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const struct projection list[N_PROJECTIONS] = {
        {"attn_q", s->hidden, q},        {"attn_k", s->hidden, kv},
        {"attn_v", s->hidden, kv},       {"attn_output", q, s->hidden},
        {"ffn_gate", s->hidden, s->ffn}, {"ffn_up", s->hidden, s->ffn},
        {"ffn_down", s->ffn, s->hidden},
    };
    memcpy(out, list, sizeof list);
}

static void put_shape(struct gguf_writer *w, const struct crn_model_shape *s)
{
    gguf_put_str(w, "general.architecture", "llama");
    gguf_put_str(w, "general.type", "model");
    gguf_put_str(w, "general.basename", "cairn-test");
    gguf_put_u32(w, "llama.block_count", s->n_layers);
    gguf_put_u32(w, "llama.context_length", s->context_max);
    gguf_put_u32(w, "llama.embedding_length", s->hidden);
    gguf_put_u32(w, "llama.feed_forward_length", s->ffn);
    gguf_put_u32(w, "llama.attention.head_count", s->n_heads);
    gguf_put_u32(w, "llama.attention.head_count_kv", s->n_kv_heads);
    gguf_put_u32(w, "llama.attention.key_length", s->head_dim);
    gguf_put_u32(w, "llama.attention.value_length", s->head_dim);
    gguf_put_u32(w, "llama.rope.dimension_count", s->head_dim);
    gguf_put_f32(w, "llama.rope.freq_base", s->rope_theta);
    gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", s->norm_eps);
    gguf_put_u32(w, "llama.vocab_size", s->vocab);
}

int crn_test_model_write(const char *path, const struct crn_model_shape *shape, uint64_t seed,
                         uint32_t type)
{
    char name[CRN_GGUF_MAX_NAME];
    struct projection list[N_PROJECTIONS];
    struct gguf_writer *w = shape->vocab < 80 ? NULL : gguf_writer_new();
    if (w == NULL)
        return shape->vocab < 80 ? -EINVAL : -ENOMEM;
    put_shape(w, shape);
    put_tokenizer(w, shape->vocab);
    projections_of(shape, list);
    put_random(w, &seed, "token_embd.weight", type, shape->hidden, shape->vocab, 0, 0.5f);
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        snprintf(name, sizeof name, "blk.%u.attn_norm.weight", l);
        put_random(w, &seed, name, CRN_QUANT_F32, shape->hidden, 0, 1.0f, 0.2f);
        snprintf(name, sizeof name, "blk.%u.ffn_norm.weight", l);
        put_random(w, &seed, name, CRN_QUANT_F32, shape->hidden, 0, 1.0f, 0.2f);
        for (size_t i = 0; i < N_PROJECTIONS; i++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", l, list[i].name);
            put_random(w, &seed, name, type, list[i].cols, list[i].rows, 0,
                       sqrtf(3.0f / (float)list[i].cols));
        }
    }
    put_random(w, &seed, "output_norm.weight", CRN_QUANT_F32, shape->hidden, 0, 1.0f, 0.2f);
    if (!shape->tied)
        put_random(w, &seed, "output.weight", type, shape->hidden, shape->vocab, 0, 0.5f);
    return gguf_writer_save(w, path);
}

int crn_test_adapter_write(const char *path, const struct crn_model_shape *shape, uint64_t seed,
                           uint32_t rank, uint32_t type)
{
    char name[CRN_GGUF_MAX_NAME];
    struct projection list[N_PROJECTIONS];
    struct gguf_writer *w = gguf_writer_new();
    if (w == NULL)
        return -ENOMEM;
    gguf_put_str(w, "general.architecture", "llama");
    gguf_put_str(w, "general.type", "adapter");
    gguf_put_str(w, "adapter.type", "lora");
    gguf_put_f32(w, "adapter.lora.alpha", 2.0f * (float)rank);
    projections_of(shape, list);
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        for (size_t i = 0; i < N_PROJECTIONS; i++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight.lora_a", l, list[i].name);
            put_random(w, &seed, name, type, list[i].cols, rank, 0,
                       sqrtf(3.0f / (float)list[i].cols));
            snprintf(name, sizeof name, "blk.%u.%s.weight.lora_b", l, list[i].name);
            put_random(w, &seed, name, type, rank, list[i].rows, 0, 0.1f);
        }
    }
    return gguf_writer_save(w, path);
}
