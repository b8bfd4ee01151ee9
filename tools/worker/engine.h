/* engine - forward pass of a Llama-family model, one layer at a time, over lists of spans.
 *
 * Everything the worker does is made of crn_engine_layer: prefill, the recomputed run, the suffix
 * pass, decoding of one or several answers, reading a context again for its scores. Rows of a batch
 * belong to segments; a segment's rows see the shared spans and the earlier rows of their own
 * segment. Norm -> Q, K, V -> RoPE at the rows' positions -> attention -> output -> norm -> SwiGLU
 * MLP, residuals in float32 (Llama). */
#ifndef CRN_WORKER_ENGINE_H
#define CRN_WORKER_ENGINE_H

#include "kernels/kernels.h"
#include "tools/worker/kv.h"
#include "tools/worker/stored.h"
#include "tools/worker/weights.h"

#include <stddef.h>
#include <stdint.h>

/* Memory that grows and is never moved while it is used. */
struct crn_there {
    void *at;
    size_t bytes;
};

/* One per thread of control: owns scratch memory. weights and exec are borrowed.
 * "There" is the exec's memory (kernels/memory.h): a device's, or the host's own. Rows of the residual stream, K and V are
 * there; tokens, positions, scores and logits are on the host. */
struct crn_engine {
    const struct crn_weights *weights; /* numbers there */
    const struct crn_kernel_ops *ops;
    struct crn_exec exec;
    const struct crn_kernel_ops *host_ops; /* for numbers on the host: choosing rows and tokens */
    struct crn_exec host_exec;
    struct crn_stored stored; /* weights for few tokens */
    uint32_t kv_dtype;        /* of private K and V: f32, f16 or bf16 */
    float *inv_freq;          /* there [head_dim / 2] */
    float *scratch;           /* there, see engine.c */
    size_t scratch_floats;
    struct crn_there results, lists; /* only when there is not here: what goes back, what came over */
    struct crn_there narrow;         /* rows of a bf16 embedding */
    int32_t *pos;             /* positions that are there now, in lists */
    uint32_t n_pos, pos_capacity;
    struct crn_span *spans; /* [spans_capacity], list handed to attention */
    size_t spans_capacity;
};

/* The weights' numbers must be in the memory of exec (crn_weights_load_at).
 * fails   -ENOMEM, CAIRN_E_ARG, device codes */
int crn_engine_init(struct crn_engine *e, const struct crn_weights *weights,
                    const struct crn_kernel_ops *ops, const struct crn_exec *exec,
                    uint32_t kv_dtype);
void crn_engine_free(struct crn_engine *e);

/* Rows [begin, end) of a batch continue one sequence; their K and V are appended to kv, which they
 * see causally. */
struct crn_segment {
    struct crn_kv *kv;
    uint32_t begin, end;
};

/* Scores of the keys of one span, from the softmax rows of queries [q_begin, q_end) of the batch
 * (kernels.h, crn_scores). span: index into the call's spans, or n_spans + i for the i-th segment's
 * own rows. */
struct crn_score_call {
    uint32_t q_begin, q_end;
    uint32_t span;
    uint32_t reduce;
    uint32_t heads;        /* how many query heads of each KV head count, others in each layer;
                              0, or more than there are: all */
    const float *q_weight; /* [q_end - q_begin] or NULL; on the host, as is out */
    float *out;            /* [n] or [G][n], n = keys of that span after this call's append */
};

struct crn_layer_call {
    uint32_t layer;
    float *h;           /* there [n][hidden], residual stream: in and out */
    const int32_t *pos; /* [n], on the host */
    uint32_t n;
    const struct crn_span *spans; /* keys before this batch */
    uint32_t n_spans;
    const struct crn_segment *segments; /* cover 0..n without gaps, in order */
    uint32_t n_segments;
    int kv_only; /* append K and V, leave h as it is */
    const struct crn_score_call *scores;
    uint32_t n_scores;
};

/* fails   -ENOMEM, CAIRN_E_ARG, codes of the kernels */
int crn_engine_layer(struct crn_engine *e, const struct crn_layer_call *call);

/* Rows of the embedding table, there. fails CAIRN_E_ARG when a token is outside the vocabulary. */
int crn_engine_embed(struct crn_engine *e, const int32_t *tokens, uint32_t n, float *out_h);

/* Rows index [n] (on the host) of rows [n_rows] of the residual stream, there. */
int crn_engine_rows(struct crn_engine *e, const float *rows, uint32_t n_rows, const uint32_t *index,
                    uint32_t n, float *out_rows);

/* Final norm and output matrix for n rows: out_logits [n][vocab], on the host. */
int crn_engine_logits(struct crn_engine *e, const float *h, uint32_t n, float *out_logits);

#endif
