/* kv - K and V that belong to this process: of an own prefill, of a recomputed run, of the suffix.
 * One object per layer. Head-major [G][capacity][dh], as payloads are, so that attention reads
 * private and shared rows alike. */
#ifndef CRN_WORKER_KV_H
#define CRN_WORKER_KV_H

#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

struct crn_kv {
    struct crn_exec exec;        /* whose memory holds everything but pos and heads */
    uint32_t dtype, n_heads, head_dim;
    uint32_t n, capacity;        /* rows per head */
    void *k, *v;                 /* [n_heads][capacity][head_dim] */
    int32_t *pos;                /* [capacity], shared by all heads; on the host */
    int32_t *pos_there;          /* the same for kernels: pos itself unless the memory is a device's */
    uint16_t *k_scale, *v_scale; /* int8 only, see crn_kv_quantise */
    struct crn_kv_head *heads;   /* [n_heads], kept up to date */
};

/* A zeroed struct is an empty object after init. fails -ENOMEM, CAIRN_E_ARG */
int crn_kv_init(struct crn_kv *kv, uint32_t dtype, uint32_t n_heads, uint32_t head_dim,
                uint32_t capacity);
/* The same in the memory of exec, which must outlive it. fails also with device codes */
int crn_kv_init_in(struct crn_kv *kv, const struct crn_exec *exec, uint32_t dtype, uint32_t n_heads,
                   uint32_t head_dim, uint32_t capacity);
void crn_kv_free(struct crn_kv *kv); /* zeroed struct allowed */

/* Room for n more rows; rows keep their values, pointers into the object do not. fails -ENOMEM */
int crn_kv_reserve(struct crn_kv *kv, uint32_t n);

/* Appends rows k and v, token-major float32 [n][n_heads][dh], K after RoPE. fails -ENOMEM,
 * CAIRN_E_STATE when quantised; pos is on the host in append, and in both places in append_rows */
struct crn_kv_rows {
    const float *k, *v;
    const int32_t *pos, *pos_there;
    uint32_t n;
};
int crn_kv_append_rows(struct crn_kv *kv, const struct crn_kernel_ops *ops,
                       const struct crn_exec *exec, const struct crn_kv_rows *rows);
int crn_kv_append(struct crn_kv *kv, const struct crn_kernel_ops *ops, const struct crn_exec *exec,
                  const float *k, const float *v, const int32_t *pos, uint32_t n);

/* Drops the rows behind the first n. */
void crn_kv_truncate(struct crn_kv *kv, uint32_t n);

/* Rows that go and rows that stay. */
struct crn_kv_cut {
    uint32_t first, n;     /* of these rows ... */
    const uint32_t *index; /* ... only these stay [n_kept], ascending; the rows behind move up */
    uint32_t n_kept;
};

/* Memory for crn_kv_keep on a device, that grows and serves many objects. Zeroed at first. */
struct crn_kv_spare {
    struct crn_exec exec;
    void *at;
    size_t bytes;
};
void crn_kv_spare_free(struct crn_kv_spare *s);

/* Makes a cut in all heads. ops and spare: needed on a device only. fails CAIRN_E_STATE when int8, -ENOMEM, device codes */
int crn_kv_keep(struct crn_kv *kv, const struct crn_kernel_ops *ops, struct crn_kv_spare *spare,
                const struct crn_kv_cut *cut);

/* Turns finished rows into int8 with scales (K per channel and 64 rows, V per row): half the memory
 * of f16. No append after. fails -ENOMEM */
int crn_kv_quantise(struct crn_kv *kv, const struct crn_kernel_ops *ops,
                    const struct crn_exec *exec);

/* The whole object as a span for queries [q_begin, q_end). Valid until the next append. */
struct crn_span crn_kv_span(const struct crn_kv *kv, uint32_t q_begin, uint32_t q_end);

/* Bytes of keys, values, scales and positions in use. */
uint64_t crn_kv_bytes(const struct crn_kv *kv);

#endif
