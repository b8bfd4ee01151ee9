/* weights - a Llama-family model ready to multiply: adapters merged, RoPE rows in half-split order;
 * float32 matrices on the host, float32 or bf16 on a device.
 *
 * Source: GGUF files of architecture `llama` as llama.cpp writes them, adapters in its LoRA format
 * (W + scale * alpha / r * B A). What the engine does not compute (biases, experts, RoPE scaling,
 * unknown tensors) is refused, never ignored. Errors: one log line saying file and tensor or key,
 * and CAIRN_E_FORMAT (broken or not fitting), CAIRN_E_UNSUPPORTED (well formed, but not for this
 * engine), CAIRN_E_TOO_BIG, -errno. */
#ifndef CRN_WORKER_WEIGHTS_H
#define CRN_WORKER_WEIGHTS_H

#include "kernels/kernels.h"
#include "tools/worker/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRN_MAX_VOCAB (1u << 20)
#define CRN_MAX_FFN (1u << 20)
#define CRN_MAX_ADAPTERS 16u
#define CRN_MAX_LORA_RANK 4096u

/* Everything the forward pass needs to know beside the numbers. */
struct crn_model_shape {
    uint32_t n_layers;
    uint32_t hidden;
    uint32_t n_heads; /* query heads, a multiple of n_kv_heads */
    uint32_t n_kv_heads;
    uint32_t head_dim; /* even */
    uint32_t ffn;
    uint32_t vocab;
    uint32_t context_max; /* tokens */
    float rope_theta;
    float norm_eps;
    bool tied; /* no output.weight: the output matrix is token_embd */
};

/* One layer. Matrices are [rows = outputs][cols = inputs], all of one type; rows of wq and wk are in
 * half-split RoPE order. */
struct crn_layer_weights {
    const float *attn_norm;   /* [hidden] */
    const float *ffn_norm;    /* [hidden] */
    struct crn_matrix wq;     /* [n_heads * head_dim][hidden] */
    struct crn_matrix wk;     /* [n_kv_heads * head_dim][hidden] */
    struct crn_matrix wv;     /* [n_kv_heads * head_dim][hidden] */
    struct crn_matrix wo;     /* [hidden][n_heads * head_dim] */
    struct crn_matrix w_gate; /* [ffn][hidden] */
    struct crn_matrix w_up;   /* [ffn][hidden] */
    struct crn_matrix w_down; /* [hidden][ffn] */
};

/* A LoRA file to merge. scale multiplies alpha / r; 1 is what llama.cpp's --lora does. */
struct crn_adapter_spec {
    const char *path;
    float scale;
};

/* A merged adapter; its tensors are NAME.lora_a {in, r} and NAME.lora_b {r, out} in `gguf`, rows as
 * stored. */
struct crn_adapter {
    struct crn_gguf *gguf;
    float scale;
    float alpha;
};

/* What matrices become on a device. On the host they are float32, whatever was asked for: the CPU
 * multiplies what the file stores, or that. Norms are float32 always. */
enum crn_weights_form {
    CRN_WEIGHTS_AUTO = 0, /* bf16 when all matrices of the file have 16 bits, else float32 */
    CRN_WEIGHTS_F32 = 1,
    CRN_WEIGHTS_BF16 = 2,
};

/* Where numbers are kept, and how. exec must outlive them. */
struct crn_weights_place {
    const struct crn_exec *exec; /* kernels/memory.h */
    uint32_t form;               /* enum crn_weights_form */
};

/* Read-only after load. base and adapters stay mapped: the raw tensors are crn_gguf_tensor(base,
 * "blk.N.attn_q.weight") and so on, with rows of q and k in stored order (crn_rope_row). */
struct crn_weights {
    struct crn_model_shape shape;
    struct crn_matrix token_embd; /* [vocab][hidden] */
    const float *output_norm; /* [hidden] */
    struct crn_matrix output; /* [vocab][hidden] */
    struct crn_layer_weights *layers;
    struct cairn_digest
        digest; /* XXH3-128 of the base file, then of each adapter: file bytes, scale (f32 LE) */
    struct crn_gguf_str foundation; /* general.basename, else general.name, else empty */
    struct crn_gguf *base;
    struct crn_adapter adapters[CRN_MAX_ADAPTERS];
    size_t n_adapters;
    struct crn_exec exec; /* whose memory the numbers are in */
    void *arena;          /* all of them, in one piece; matrices aligned to 64 bytes */
    size_t arena_bytes;
};

/* crn_weights_load - read a model and merge adapters into it, in the order given.
 * in      adapters: n_adapters <= CRN_MAX_ADAPTERS, may be NULL when 0; paths are not kept
 * own     end with crn_weights_free()
 * blocks  for the time of reading the file, about a second per 100 MB
 * fails   see above; nothing is left behind */
int crn_weights_load(const char *path, const struct crn_adapter_spec *adapters, size_t n_adapters,
                     struct crn_weights **out_weights);

/* The same in the memory of place->exec (place NULL: the host's). On a device numbers go over piece
 * by piece: there is never a copy of them on the host. fails also with device codes */
int crn_weights_load_at(const char *path, const struct crn_adapter_spec *adapters, size_t n_adapters,
                        const struct crn_weights_place *place, struct crn_weights **out_weights);

/* Unmaps and frees everything; NULL is allowed. */
void crn_weights_free(struct crn_weights *w);

/* crn_model_shape_read - the shape alone, from metadata and the token_embd tensor. Fails like
 * crn_weights_load. */
int crn_model_shape_read(const struct crn_gguf *g, struct crn_model_shape *out_shape);

/* Row of a q or k matrix after loading, for row `row` of the file: llama.cpp stores pairs (2i, 2i +
 * 1), we keep them as (i, i + head_dim / 2). */
static inline uint32_t crn_rope_row(uint32_t row, uint32_t head_dim)
{
    uint32_t in_head = row % head_dim;
    return row - in_head + in_head / 2 + (in_head % 2) * (head_dim / 2);
}

#endif
