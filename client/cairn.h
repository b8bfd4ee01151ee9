/* cairn.h - one KV cache for all sibling models of a host. The whole public interface of libcairn.
 *
 * WHAT GOES WRONG, AND WHAT YOU SEE
 *   broker absent or killed    calls that need it return CAIRN_E_GONE, at the latest at their deadline; never a hang. Prefill
 *                              yourself and go on. Attached memory stays mapped: a request in flight finishes. The client
 *                              reconnects by itself on the next call; leases and drafts of before are gone (CAIRN_E_STALE).
 *   another worker is killed   nothing. Its unfinished draft never becomes visible.
 *   your process is killed     its leases and drafts end within a second; nobody else notices.
 *   cache is full              cairn_draft_open or a put returns CAIRN_E_FULL after eviction found nothing: go on without
 *                              publishing.
 *   entry replaced or evicted  cairn_lease_check returns CAIRN_E_STALE; results computed from it so far must be thrown away.
 *                              Memory under a live lease is never reused, so this happens only after expiry.
 *   layer lost on its way back cairn_wait returns CAIRN_E_MISS for that layer: recompute, or prefill in full.
 *   fork                       the child must not use the client; open a new one after exec.
 *   threads                    one thread per client at a time; different clients in parallel.
 * Cairn may make a request slower; it never makes it wrong and never fails it: every error here has the same cure, a prefill of
 * your own.
 *
 * USE
 *   cairn_open -> cairn_attach -> cairn_reuse (or read the views yourself) -> cairn_lease_check -> cairn_release
 *   cairn_open -> cairn_draft_open -> cairn_put_* per layer -> cairn_commit
 *
 * Words: entry, payload, state, run, plan, lease, draft, part: an entry's tokens as far as they agree with the query's. A lease
 * covers a path of parts, root first. Deadlines are absolute CLOCK_MONOTONIC nanoseconds (cairn_deadline_in). Structures that
 * start with struct_size are set up by their _INIT macro; fields are only ever appended. Out-arguments change on success only. */
#ifndef CAIRN_H
#define CAIRN_H

#include "cairn_status.h"
#include "cairn_types.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAIRN_VERSION_MAJOR 0
#define CAIRN_VERSION_MINOR 1

/* cairn_version - of the library in use, "0.1.0". */
CAIRN_API const char *cairn_version(void);
/* cairn_deadline_in - a deadline that many milliseconds from now. */
CAIRN_API uint64_t cairn_deadline_in(uint32_t milliseconds);

/* ---------------------------------------------------------------------------------------------------------- identity */

/* A LoRA adapter as part of a model's identity. */
struct cairn_adapter {
    const char *path;
    float scale;
};

/* cairn_model_digest - identity of a model: XXH3-128 over the base file's bytes, then each adapter's bytes and scale (float32,
 * little-endian). Equal weights, equal digest; anything else must never share exactly.
 * fails   -errno of open/read, CAIRN_E_ARG */
CAIRN_API int cairn_model_digest(const char *base_path, const struct cairn_adapter *adapters, size_t n_adapters,
                                 struct cairn_digest *out_digest);

/* What shapes the KV cache. Models may share only when all of it is equal. */
struct cairn_family {
    size_t struct_size;
    struct cairn_shape shape;
    uint32_t n_heads;
    uint32_t ffn;
    float rope_theta;
    float norm_eps;
    struct cairn_digest vocabulary; /* digest of the tokenizer's tokens and merges */
    const char *foundation;         /* name of the foundation model */
};
#define CAIRN_FAMILY_INIT { sizeof(struct cairn_family), { 0, 0, 0, 0 }, 0, 0, 0, 0, { { 0 } }, 0 }
CAIRN_API int cairn_family_digest(const struct cairn_family *family, struct cairn_digest *out_digest);

/* 32 hex digits of a digest, and back. */
CAIRN_API void cairn_digest_text(const struct cairn_digest *digest, char out_text[33]);
CAIRN_API int cairn_digest_parse(const char *text, struct cairn_digest *out_digest);

/* --------------------------------------------------------------------------------------------------------- connection */

struct cairn_client;

struct cairn_options {
    size_t struct_size;
    const char *socket;         /* NULL: $CAIRN_SOCKET, else $XDG_RUNTIME_DIR/cairn/cairn.sock, else /tmp/cairn-UID/cairn.sock */
    const char *space;          /* namespace wished for, NULL: the broker's choice */
    const char *label;          /* display name of the model, at most CAIRN_MAX_LABEL bytes */
    struct cairn_digest model;  /* zero: a tool that attaches and publishes nothing */
    struct cairn_digest family;
    struct cairn_shape shape;
    uint32_t memory;            /* CAIRN_MEMORY_*: what the engine reads and writes */
    uint32_t device;            /* CAIRN_MEMORY_DEVICE: the CUDA ordinal that the engine computes on */
};
#define CAIRN_OPTIONS_INIT { sizeof(struct cairn_options), 0, 0, 0, { { 0 } }, { { 0 } }, { 0, 0, 0, 0 }, 0, 0 }
/* HOST: everything is memory of the CPU; a broker with payloads on a GPU has nothing for this client (CAIRN_E_UNSUPPORTED).
 * DEVICE: K, V, scales and state rows, in views and in puts, are memory of the GPU, and so is the pos of a cairn_head_view;
 * tokens, lists, state maps and all other positions are memory of the CPU. Before a put the engine waits for its own stream. */
#define CAIRN_MEMORY_HOST 0u
#define CAIRN_MEMORY_DEVICE 1u

/* cairn_open - make a client. Does not wait for the broker: the first call that needs it connects.
 * own     end with cairn_close; strings are copied
 * fails   CAIRN_E_ARG, -ENOMEM */
CAIRN_API int cairn_open(const struct cairn_options *options, struct cairn_client **out_client);
/* cairn_close - ends leases and drafts that are still open, and the client. NULL allowed. Waits 50 ms at most
 * for a broker that does not answer. */
CAIRN_API void cairn_close(struct cairn_client *client);
/* cairn_connect - connect now (again). 0 when a session exists. Calls that need a session connect by themselves; after two
 * attempts that somebody took and nobody answered they pause for 2 s, 4 s, ... 32 s (CAIRN_E_GONE at once); this one does not.
 * fails   CAIRN_E_GONE, CAIRN_E_DENIED, CAIRN_E_VERSION, CAIRN_E_TIMEOUT */
CAIRN_API int cairn_connect(struct cairn_client *client, uint64_t deadline_ns);
/* cairn_error - one line about the last failed call on this client ("" after none), valid until the next call. */
CAIRN_API const char *cairn_error(const struct cairn_client *client);

/* ----------------------------------------------------------------------------------------------------- match and attach */

struct cairn_query {
    size_t struct_size;
    const int32_t *tokens;  /* the context, from position 0; read during the call only */
    uint32_t n_tokens;
    float min_quality;      /* plans below this share of the receiver's own measured quality are not used; 0: any plan */
    uint32_t flags;         /* CAIRN_QUERY_* */
    uint64_t plan;          /* force this plan; 0: the best one */
    struct cairn_entry_id entry; /* instead of tokens: this entry (CAIRN_QUERY_INSPECT) */
    const char *settings;   /* prefill pyramids made with these settings serve too (cairn_draft_options); NULL: none do */
    uint32_t waiting;       /* requests behind this one: with a floor, the plan of least work that meets it */
    uint32_t reserved;
    uint64_t first_token_ns; /* when the first token is wanted, CLOCK_MONOTONIC: the best plan in time; 0: the best plan */
};
#define CAIRN_QUERY_INIT { sizeof(struct cairn_query), 0, 0, 0, 0, 0, { 0 }, 0, 0, 0, 0 }
#define CAIRN_QUERY_EXACT_ONLY 1u /* this model's own entries only */
#define CAIRN_QUERY_INSPECT 2u    /* all payloads, whatever the class and even without a plan: for tools and measurements */

struct cairn_match {
    uint32_t class_;  /* enum cairn_class */
    uint32_t reason;  /* enum cairn_reason */
    uint32_t n_tokens; /* cached from the front, as far as chunk hashes tell; attach compares the tokens themselves */
    uint32_t n_parts;
    struct cairn_digest producer; /* of the first part */
    uint64_t plan;
    uint64_t resident_bytes, bytes;
};

/* cairn_match - what is cached for these tokens; takes no lease. A miss is no error: class_ is CAIRN_CLASS_NONE then.
 * fails   CAIRN_E_GONE, CAIRN_E_TIMEOUT, CAIRN_E_ARG */
CAIRN_API int cairn_match(struct cairn_client *client, const struct cairn_query *query, uint64_t deadline_ns,
                          struct cairn_match *out_match);

struct cairn_lease;

/* cairn_attach - match and take a lease, in one round trip; restores of spilled payloads begin. Maps each arena once, ever.
 * The tokens are compared: a part ends where they differ. The plan is chosen from all that the broker has for the pair and that
 * meet the floor, by what they would take here (cairn_report): design of method.md 1.2.5. Another choice than the broker's costs a
 * second round trip. When an own prefill is estimated to be quicker than any of them, nothing is attached (CAIRN_REASON_BREAK_EVEN).
 * own     end with cairn_release
 * fails   CAIRN_E_MISS when nothing usable is cached (cairn_error says why), CAIRN_E_GONE, CAIRN_E_TIMEOUT, CAIRN_E_STALE (entry) */
CAIRN_API int cairn_attach(struct cairn_client *client, const struct cairn_query *query, uint64_t deadline_ns,
                           struct cairn_lease **out_lease);
/* cairn_last_reason - enum cairn_reason of the last match or attach: why this class, or why nothing. */
CAIRN_API uint32_t cairn_last_reason(const struct cairn_client *client);
/* How long something took. Averages over the last reports of a length are what cairn_attach estimates with; one outlier does not
 * change them. Without reports nothing is estimated: the best plan is used. */
struct cairn_timing {
    size_t struct_size;
    uint32_t what;     /* CAIRN_TIMED_* */
    uint32_t n_tokens; /* length of the context */
    uint64_t work;     /* tokens x layers computed; a suffix: 1 */
    uint64_t ns;
};
#define CAIRN_TIMING_INIT { sizeof(struct cairn_timing), 0, 0, 0, 0 }
#define CAIRN_TIMED_PREFILL 1u /* an own prefill */
#define CAIRN_TIMED_RUN 2u     /* a plan's run with its state map: work is rows summed over the run's layers */
#define CAIRN_TIMED_SUFFIX 3u  /* from the end of the context to the first token */
/* cairn_report - tell the client how fast this worker is. No message. CAIRN_E_ARG */
CAIRN_API int cairn_report(struct cairn_client *client, const struct cairn_timing *timing);
/* cairn_release - ends the lease; its views are invalid afterwards. NULL allowed. Never blocks. */
CAIRN_API void cairn_release(struct cairn_lease *lease);
/* cairn_lease_check - 0 while everything read so far was valid; CAIRN_E_STALE otherwise. No message, no system call. */
CAIRN_API int cairn_lease_check(const struct cairn_lease *lease);

/* cairn_lease_keep - the same, and tells the broker, a few times in its --lease-ttl, that the lease is still in use: call it now
 * and then while you read for long (decoding). Never blocks. fails CAIRN_E_STALE */
CAIRN_API int cairn_lease_keep(struct cairn_lease *lease);

/* One entry of the path. */
struct cairn_part {
    struct cairn_entry_id entry;
    uint32_t start, n_tokens; /* usable tokens: positions start .. start + n_tokens - 1 */
    uint32_t entry_tokens;    /* tokens the entry has */
    uint8_t class_, reason, pyramid, reserved; /* enum cairn_class, cairn_reason, cairn_pyramid */
    struct cairn_digest producer;
};

/* How good a plan is with an entry that keeps less than everything. */
struct cairn_measured {
    float keep;    /* share of all tokens that an entry was asked to keep (cairn-worker --compress keep=F) */
    float kept;    /* what came of it in the layers that the plan does not recompute: entries are compared by it */
    float quality; /* over the receiver's own */
    uint32_t int8; /* 1: of int8 payloads */
};
#define CAIRN_PLAN_MEASURED 16

/* A plan (design.md section 2): how a receiver uses a producer's entries. */
struct cairn_plan {
    uint64_t id;
    struct cairn_digest producer, receiver;
    uint32_t first, last;     /* run [a, b], both included; first > last: no run, full reuse */
    float quality;            /* measured quality over the receiver's own, 1.0 = equal, with an entry that keeps everything */
    float own_exact, exact;   /* exact match of the receiver's own prefill, and with this plan */
    uint32_t questions;
    float cost;               /* recomputed tokens over layers x tokens */
    uint32_t map_rank;        /* 0: full matrix */
    uint32_t has_map;
    uint32_t n_budgets;
    uint32_t n_measured;
    struct cairn_measured measured[CAIRN_PLAN_MEASURED]; /* with a quality floor, an entry that keeps less than all of these is not used */
};

/* Kept share of tokens wanted in a group of layers. */
struct cairn_budget {
    uint32_t first, last; /* layers, both included */
    float keep;           /* 0..1 */
};

struct cairn_lease_info {
    uint32_t class_, reason;
    uint32_t n_tokens;      /* usable from position 0 */
    uint32_t n_parts;
    const struct cairn_part *parts;
    const struct cairn_plan *plan; /* NULL when no part is CAIRN_CLASS_APPROX */
    uint64_t shared_bytes;  /* payload bytes attached */
    const uint16_t *wants;  /* [n_wants] layers: states that stored plans start from and that this entry of yours lacks; siblings
                             * cannot use it before a draft that replaces this lease puts them (cairn_put_state) */
    uint32_t n_wants;
    uint64_t estimate_ns;   /* to the first token with this lease, when it was chosen; 0: not known */
    uint64_t prefill_ns;    /* after an own prefill; 0: not known */
};
/* cairn_lease_info - valid as long as the lease. */
CAIRN_API const struct cairn_lease_info *cairn_lease_info(const struct cairn_lease *lease);

/* Keys and values of one KV head in place. K after RoPE at original positions. int8: q * scale, K scales per channel and block
 * of 64 rows [ceil(n/64)][dh], V scales per row [n], both f16 bits. */
struct cairn_head_view {
    const void *k, *v;             /* [n][dh] */
    const uint16_t *k_scale, *v_scale;
    const int32_t *pos;            /* [n], ascending; beside K and V */
    uint32_t n;
    uint32_t reserved;
};

/* One layer of one part. int8 payloads come as two sets of heads: the first tokens kept wide (f16), and the rest. */
struct cairn_layer_view {
    uint32_t dtype;      /* of heads: enum cairn_dtype; CAIRN_DTYPE_NONE: the layer is not shared here (it belongs to the run) */
    uint32_t wide_dtype; /* of wide: CAIRN_F16 or CAIRN_DTYPE_NONE */
    uint32_t n_heads;
    uint32_t shared_pos; /* all heads keep the same positions */
    const struct cairn_head_view *heads; /* [n_heads], owned by the lease */
    const struct cairn_head_view *wide;  /* [n_heads] or NULL */
};

/* State rows E: residual stream entering a layer, before its norm. int8: one f16 scale per row and group of 64 channels. */
struct cairn_state_view {
    uint32_t dtype;
    uint32_t n, hidden;
    const void *rows;      /* [n][hidden] */
    const uint16_t *scale; /* [n][hidden/64], int8 only */
    const int32_t *pos;    /* [n], for the CPU */
};

/* State map: E <- E + W [E; 1] (method.md 5.1). rank 0: w [hidden][hidden + 1], row i: weights of output i, then its bias.
 * rank r: u [hidden][r], v [r][hidden], bias [hidden], one after the other. float32. */
struct cairn_map_view {
    const float *w;
    uint32_t hidden, rank;
    uint64_t bytes;
};

/* cairn_wait - block until a payload is resident; returns at once when it is. kind: 0 the layer's KV, 1 the state entering it.
 * fails   CAIRN_E_MISS (could not be restored, or was never kept), CAIRN_E_TIMEOUT, CAIRN_E_STALE, CAIRN_E_GONE */
CAIRN_API int cairn_wait(struct cairn_lease *lease, uint32_t part, uint32_t layer, uint32_t kind, uint64_t deadline_ns);
#define CAIRN_WAIT_KV 0u
#define CAIRN_WAIT_STATE 1u

/* Views, valid as long as the lease, after cairn_wait. No copy, no system call. Rows beyond the part's usable tokens are cut.
 * fails   CAIRN_E_MISS when the lease has no such payload, CAIRN_E_ARG */
CAIRN_API int cairn_lease_layer(struct cairn_lease *lease, uint32_t part, uint32_t layer, struct cairn_layer_view *out_view);
CAIRN_API int cairn_lease_state(struct cairn_lease *lease, uint32_t part, uint32_t layer, struct cairn_state_view *out_view);
CAIRN_API int cairn_lease_map(struct cairn_lease *lease, struct cairn_map_view *out_view);

/* ------------------------------------------------------------------------------------------------------------- reuse */

/* What an engine supplies so that cairn_reuse can drive it (design.md section 7). All callbacks return 0 or a negative code,
 * which ends cairn_reuse with that code. Views handed in stay valid until the lease ends. */
struct cairn_engine {
    size_t struct_size;
    void *ctx;
    /* A run starts for one part: take the state (or, when state is NULL, your own embedding of the part's tokens: the run starts
     * at layer 0), apply the map when there is one. pos [n]: positions of the rows. */
    int (*run_begin)(void *ctx, uint32_t part, const struct cairn_state_view *state, const struct cairn_map_view *map);
    /* Recompute K and V of this layer for the rows in hand, at their positions, into private memory of yours. last = 1: only K
     * and V, no attention, no MLP. Otherwise attend to earlier[0 .. part-1] (views of this layer, dtype NONE where private) and
     * to your own rows, and go on with the rows whose positions are in next_pos [n_next] (NULL: all). */
    int (*run_layer)(void *ctx, uint32_t part, uint32_t layer, int last, const struct cairn_layer_view *earlier,
                     const int32_t *next_pos, uint32_t n_next);
    /* Run the new tokens through one layer, attending to views[0 .. n_parts-1] (dtype NONE: use your private K and V of that
     * part and layer) and to the new tokens. Called for layers 0 .. L-1 in order; may be NULL, then nothing is called. */
    int (*suffix_layer)(void *ctx, uint32_t layer, const struct cairn_layer_view *views, uint32_t n_parts);
};

struct cairn_reuse_options {
    size_t struct_size;
    uint32_t hold; /* 1: keep all rows of the run's first layer throughout; 0: inherit the producer's sets (method.md 3.2) */
    /* For measurements, on a CAIRN_QUERY_INSPECT lease: this run on all parts, whatever their class; only first and last are
     * read. NULL: the lease's plan on its approximate parts. */
    const struct cairn_plan *plan;
    uint32_t use_map; /* with plan: 1 applies the map of the lease's plan (CAIRN_E_MISS when it has none), 0 no map */
};
#define CAIRN_REUSE_INIT { sizeof(struct cairn_reuse_options), 0, 0, 0 }

/* cairn_reuse - drive a receiver through a lease: wait for E_a first, run the plan's layers while other payloads come back, then
 * the suffix layer by layer, each payload waited for right before it is used; check the lease at the end.
 * fails   codes of cairn_wait and of the callbacks; on any failure prefill in full */
CAIRN_API int cairn_reuse(struct cairn_lease *lease, const struct cairn_engine *engine,
                          const struct cairn_reuse_options *options, uint64_t deadline_ns);

/* ------------------------------------------------------------------------------------------------------------ publish */

struct cairn_draft;

struct cairn_draft_options {
    size_t struct_size;
    const int32_t *tokens;        /* of this entry, copied */
    uint32_t n_tokens;
    uint32_t start;               /* position of the first one; 0 for a root */
    struct cairn_entry_id parent; /* entry that holds the tokens before start; none for a root */
    const int32_t *context;       /* all tokens from position 0, start + n_tokens of them; NULL when start is 0 */
    struct cairn_lease *replaces; /* compress this lease's last part, or add states to it: puts of KV carry index lists only,
                                   * what is not put stays as it is */
    uint32_t pyramid;             /* enum cairn_pyramid */
    const char *settings;         /* of the pyramid, part of a prefill pyramid's key; NULL: "" */
    uint32_t dtype;               /* what payloads are stored as */
    uint32_t n_states;            /* states you will put at most: sizes the draft */
    uint32_t flags;               /* CAIRN_DRAFT_* */
};
#define CAIRN_DRAFT_INIT { sizeof(struct cairn_draft_options), 0, 0, 0, { 0 }, 0, 0, 0, 0, CAIRN_F16, 0, 0 }
#define CAIRN_DRAFT_SPILL_INT8 2u /* keys and values may become int8 on their way to NVMe, and stay so when they come back */
#define CAIRN_DRAFT_EXCLUSIVE 1u /* CAIRN_E_EXISTS when this model's entry is there, CAIRN_E_BUSY when somebody is publishing it */

/* cairn_draft_open - begin an entry; invisible until commit.
 * own     end with cairn_commit or cairn_abort
 * fails   CAIRN_E_FULL, CAIRN_E_EXISTS, CAIRN_E_BUSY, CAIRN_E_GONE, CAIRN_E_STALE (parent, replaces), CAIRN_E_TOO_BIG */
CAIRN_API int cairn_draft_open(struct cairn_client *client, const struct cairn_draft_options *options,
                               uint64_t deadline_ns, struct cairn_draft **out_draft);

/* What the broker would like to have, from the plans it knows. Valid as long as the draft. */
struct cairn_draft_wants {
    const uint16_t *states; /* layers whose entering state some plan starts from */
    uint32_t n_states;
    const struct cairn_budget *budgets;
    uint32_t n_budgets;
};
CAIRN_API const struct cairn_draft_wants *cairn_draft_wants(const struct cairn_draft *draft);

/* cairn_draft_reserve - room in the landing zone, to write rows into without another copy. A later put whose pointers lie inside
 * takes it over; room no put took over is given back by the next reserve or at the end.
 * fails   CAIRN_E_FULL (larger than the zone), CAIRN_E_TIMEOUT (the broker is behind), CAIRN_E_GONE */
CAIRN_API int cairn_draft_reserve(struct cairn_draft *draft, size_t bytes, uint64_t deadline_ns, void **out_memory);

struct cairn_put {
    size_t struct_size;
    uint32_t layer;
    uint32_t src_dtype;       /* of k and v or rows: f32, f16, bf16 */
    uint32_t dst_dtype;       /* stored as; 0: the draft's */
    const void *k, *v;        /* [G][stride][dh]; NULL when compressing */
    const void *rows;         /* states: [n][hidden]; NULL when compressing one that is there */
    uint32_t n;               /* rows per head */
    uint32_t stride;          /* rows from one head to the next; 0: n */
    const int32_t *pos;       /* [n], ascending; NULL: start .. start + n - 1 */
    const uint32_t *counts;   /* kept rows per head [G]; NULL: all rows */
    const uint32_t *const *index; /* per head: kept rows, ascending [counts[h]]; NULL: all rows */
    uint32_t shared_index;    /* 1: index[0] serves all heads */
    uint32_t wide;            /* int8: rows kept f16 in front */
};
#define CAIRN_PUT_INIT { sizeof(struct cairn_put), 0, CAIRN_F32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* cairn_put_layer, cairn_put_state - hand one layer's KV, or one state, to the broker. Copies into the landing zone unless the
 * rows are there already; waits only when the zone is full. The broker gathers, converts and checksums behind it.
 * fails   CAIRN_E_TIMEOUT, CAIRN_E_GONE, CAIRN_E_FULL, CAIRN_E_ARG; afterwards only cairn_abort makes sense */
CAIRN_API int cairn_put_layer(struct cairn_draft *draft, const struct cairn_put *put, uint64_t deadline_ns);
CAIRN_API int cairn_put_state(struct cairn_draft *draft, const struct cairn_put *put, uint64_t deadline_ns);

/* cairn_draft_cost - tell what one token of the draft cost to prefill, in nanoseconds; goes with cairn_commit. The broker weighs
 * it against the time a restore takes when it chooses what leaves memory. Optional. */
CAIRN_API void cairn_draft_cost(struct cairn_draft *draft, uint64_t token_ns);

/* cairn_commit - make the entry visible, at once and whole. Consumes the draft in every case.
 * out     out_entry: the entry; of another worker's when that was quicker with the same context
 * fails   CAIRN_E_GONE, CAIRN_E_TIMEOUT, CAIRN_E_STATE (a layer is missing) */
CAIRN_API int cairn_commit(struct cairn_draft *draft, uint64_t deadline_ns, struct cairn_entry_id *out_entry);
/* cairn_abort - drop the draft. NULL allowed. Never blocks. */
CAIRN_API void cairn_abort(struct cairn_draft *draft);

/* -------------------------------------------------------------------------------------------------------------- plans */

struct cairn_plan_put {
    size_t struct_size;
    struct cairn_plan plan; /* id is ignored */
    const struct cairn_budget *budgets;
    uint32_t n_budgets;
    struct cairn_map_view map; /* w NULL: none; copied */
    const char *info;          /* JSON as measured, shown by tools; may be NULL */
};
#define CAIRN_PLAN_PUT_INIT \
    { sizeof(struct cairn_plan_put), { 0, { { 0 } }, { { 0 } }, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, { { 0, 0, 0, 0 } } }, 0, 0, { 0, 0, 0, 0 }, 0 }
CAIRN_API int cairn_plan_store(struct cairn_client *client, const struct cairn_plan_put *put, uint64_t deadline_ns,
                               uint64_t *out_plan);
/* cairn_plan_each - the plans of a pair (zero digests: any), frontier order: best quality first. each returns 0 to go on; info is
 * the stored JSON or NULL, budgets [plan->n_budgets]; both only during the call. */
CAIRN_API int cairn_plan_each(struct cairn_client *client, const struct cairn_digest *producer,
                              const struct cairn_digest *receiver, uint64_t deadline_ns,
                              int (*each)(void *ctx, const struct cairn_plan *plan, const struct cairn_budget *budgets,
                                          const char *info),
                              void *ctx);
CAIRN_API int cairn_plan_drop(struct cairn_client *client, uint64_t plan, uint64_t deadline_ns);

/* --------------------------------------------------------------------------------------------------------- operations */

/* What this client did so far. */
struct cairn_client_stats {
    uint64_t attaches, misses, shared_bytes, shared_tokens, published_entries, published_bytes, reconnects, failures;
};
CAIRN_API void cairn_client_stats(const struct cairn_client *client, struct cairn_client_stats *out_stats);

/* Counters of the broker, by name: names as in `cairn status --json`. */
struct cairn_counter {
    const char *name, *help;
    uint64_t value;
    uint32_t is_total; /* 1: only grows; 0: a gauge */
};
/* cairn_stat - out_counters [capacity], out_n: how many there are. notes: device, I/O engine and remarks, "\n"-separated. */
CAIRN_API int cairn_stat(struct cairn_client *client, uint64_t deadline_ns, struct cairn_counter *out_counters,
                         size_t capacity, size_t *out_n, char *out_notes, size_t notes_bytes);

struct cairn_entry_info {
    struct cairn_entry_id entry, parent;
    uint64_t bytes, resident_bytes, allocated_bytes, age_ns, idle_ns, hits;
    struct cairn_digest producer;
    uint32_t start, n_tokens, leases, generation, n_layers, n_states;
    struct cairn_shape shape;
    uint8_t pyramid, pinned, dtype, tier;
    char label[64];
};
struct cairn_session_info {
    uint64_t session, connected_ns, leased_bytes, saved_bytes, requests, hits, published;
    struct cairn_digest model;
    uint32_t pid, uid, leases, drafts;
    char label[64];
};
struct cairn_model_info {
    struct cairn_digest model, family;
    char label[64];
};
struct cairn_payload_info { /* of cairn_show */
    uint64_t bytes;
    uint32_t layer, kind;  /* kind: 1 KV, 2 state, 3 tokens */
    uint32_t n_heads;      /* of kept */
    uint32_t kept[CAIRN_MAX_KV_HEADS];
    uint8_t dtype, tier;
};
CAIRN_API int cairn_entry_each(struct cairn_client *client, uint64_t deadline_ns,
                               int (*each)(void *ctx, const struct cairn_entry_info *info), void *ctx);
CAIRN_API int cairn_session_each(struct cairn_client *client, uint64_t deadline_ns,
                                 int (*each)(void *ctx, const struct cairn_session_info *info), void *ctx);
CAIRN_API int cairn_model_each(struct cairn_client *client, uint64_t deadline_ns,
                               int (*each)(void *ctx, const struct cairn_model_info *info), void *ctx);
CAIRN_API int cairn_show(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns,
                         struct cairn_entry_info *out_info,
                         int (*each)(void *ctx, const struct cairn_payload_info *payload), void *ctx);
CAIRN_API int cairn_pin(struct cairn_client *client, struct cairn_entry_id entry, int on, uint64_t deadline_ns);
/* entry 0: everything that is not leased or pinned. */
CAIRN_API int cairn_evict(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns,
                          uint64_t *out_entries, uint64_t *out_bytes);
/* Layers first..last of an entry to a tier (enum cairn_tier: nvme; host for payloads of a device), and back. A spill of all layers
 * to nvme returns when the entry, and all it continues, would survive a restart; what is in the host tier would not. With
 * CAIRN_SPILL_INT8 added to the tier, keys and values that nobody reads become int8 on the way down, and stay so when they come
 * back; what is on NVMe already stays as it is. */
#define CAIRN_SPILL_INT8 0x100u
CAIRN_API int cairn_spill(struct cairn_client *client, struct cairn_entry_id entry, uint32_t first, uint32_t last,
                          uint32_t tier, uint64_t deadline_ns);
CAIRN_API int cairn_restore(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns);
/* Reads everything (or one entry) back against its checksums. */
CAIRN_API int cairn_verify(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns,
                           uint64_t *out_payloads, uint64_t *out_bytes, uint64_t *out_bad);

#ifdef __cplusplus
}
#endif
#endif
