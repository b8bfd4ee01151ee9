/* share - the worker's side of libcairn: attach a context, recompute a run, publish, compress. The
 * example for engine authors. Every failure here costs speed only: the caller prefills by itself.
 */
#ifndef CRN_WORKER_SHARE_H
#define CRN_WORKER_SHARE_H

#include "client/cairn.h"
#include "tools/worker/cache.h"
#include "tools/worker/decode.h"
#include "tools/worker/prefill.h"
#include "tools/worker/selectors/selectors.h"

#include <stdint.h>

/* How a context may be reused. */
enum crn_reuse_mode {
    CRN_REUSE_AUTO = 1, /* exact entries, or a sibling's by a stored plan */
    CRN_REUSE_NEVER = 2,
    CRN_REUSE_FULL = 3, /* any sibling's payloads as they are: for measurements */
    CRN_REUSE_RUN = 4,  /* any sibling's, recomputing layers first..last: for measurements */
};

struct crn_reuse_choice {
    enum crn_reuse_mode mode;
    uint32_t first, last;     /* RUN */
    int with_map;             /* RUN: apply the state map of a stored plan that starts at `first` */
    struct cairn_digest self; /* this model, with_map: whose plans are looked at */
    int hold;                 /* keep all rows of the run's first layer throughout */
    const char *settings;     /* of the own prefill pyramid: such entries serve; NULL: none do */
    float min_quality;
    uint32_t deadline_ms; /* from a request to its first token; 0: none */
    uint32_t waiting;     /* requests behind the one in hand */
    uint32_t timeout_ms;  /* for each attach, publish, ... */
};

/* Publish-time sets. */
enum crn_publish_sets { CRN_SETS_WHOLE = 0, CRN_SETS_PLAN = 1, CRN_SETS_KEEP = 2 };

struct crn_publish_choice {
    int on;
    uint32_t dtype; /* stored as: enum cairn_dtype */
    enum crn_publish_sets sets;
    float keep;             /* CRN_SETS_KEEP */
    const uint16_t *states; /* layers whose state to add to those the broker wants */
    uint32_t n_states;
    const char *settings; /* of a prefill pyramid, else NULL */
};

/* ---- attach and reuse ---- */

struct crn_reuse_result {
    uint32_t class_, reason;
    uint32_t n_tokens;           /* reused from position 0 */
    int32_t run_first, run_last; /* -1, -2: no run */
    int mapped;
    uint32_t n_wants; /* states that plans start from and that this model's own entry lacks */
    struct cairn_digest producer;
    uint64_t run_tokens;         /* rows recomputed, summed over the run's layers */
    double match_s, map_s, run_s, suffix_s;
    double estimate_s, prefill_s; /* to the first token: as estimated, and after a prefill; 0: not known */
};

/* Attaches what is cached of tokens [n]; NULL lease and 0 when there is nothing to use (out_result
 * says why). */
int crn_share_attach(struct cairn_client *client, const int32_t *tokens, uint32_t n,
                     const struct crn_reuse_choice *choice, struct cairn_lease **out_lease,
                     struct crn_reuse_result *out_result);

/* Brings the lease's parts into the cache: runs what must be recomputed, adds the rest as spans.
 * When decode is given (the lease covers the whole context) its suffix pass follows each layer;
 * else all layers are waited for. On failure the cache and decode are in no usable state. fails
 * codes of cairn_reuse and of the engine */
int crn_share_reuse(struct crn_engine *e, struct cairn_lease *lease, const int32_t *tokens,
                    const struct crn_reuse_choice *choice, struct crn_cache *cache,
                    struct crn_decode *decode, struct crn_reuse_result *io_result);

/* ---- publish ---- */

struct crn_publish;

/* Begins publishing tokens [start, start + n) of a context behind a prefill; parent is the lease
 * that covers what is before start (NULL when start is 0). NULL when the broker is absent, full, or
 * somebody else has or publishes the same: then nothing is published, which is no error. own: end
 * with crn_publish_end. */
struct crn_publish *crn_publish_begin(struct crn_engine *e, struct cairn_client *client,
                                      const int32_t *context, uint32_t start, uint32_t n,
                                      struct cairn_lease *parent,
                                      const struct crn_publish_choice *choice, uint32_t timeout_ms);
/* The hooks to hand to crn_prefill; valid until crn_publish_end. */
const struct crn_prefill_watch *crn_publish_watch(struct crn_publish *p);
/* Commits when everything arrived, else aborts. out_entry may be NULL. 0 when published. NULL p:
 * CAIRN_E_MISS. */
int crn_publish_end(struct crn_publish *p, int commit, struct cairn_entry_id *out_entry);

/* Attaches this model's own entry of exactly tokens [n], in one part. fails CAIRN_E_MISS when there
 * is no such entry, codes of the library */
int crn_share_attach_own(struct cairn_client *client, const int32_t *tokens, uint32_t n,
                         uint32_t timeout_ms, struct cairn_lease **out_lease);

/* What states are stored as: int8 has groups of 64 channels (ipc/layout.h), other widths stay f16. */
uint32_t crn_state_dtype(const struct crn_engine *e, const struct crn_publish_choice *choice);

/* Adds the states that this model's entry of exactly tokens [n] lacks (cairn_lease_info.wants)
 * because their plans came after it: runs the context as far as the deepest of them. fails
 * CAIRN_E_MISS when there is no such entry or it lacks none, codes of the library and the engine */
int crn_share_add_states(struct crn_engine *e, struct cairn_client *client, const int32_t *tokens,
                         uint32_t n, const struct crn_publish_choice *choice, uint32_t timeout_ms);

/* Compresses the entry that holds exactly tokens [n] of this model: scores its tokens, keeps what
 * the rule says, and lets the broker replace the payloads; no K or V travels. Layers that the rule
 * leaves whole stay as they are. out_share: kept share of the others.
 * fails CAIRN_E_MISS when there is no such entry, CAIRN_E_EXISTS when it is compressed already,
 * codes of the library and the engine */
struct crn_compress {
    const int32_t *tokens;
    uint32_t n;
    const int32_t *reader_prefix; /* "Repeat the previous context exactly" as tokens */
    uint32_t n_prefix;
    const struct crn_selector *selector;
    struct crn_sets_rule rule;
    uint32_t chunk, stride, heads; /* of re-reading, see selectors.h */
    uint32_t dtype;         /* stored as; 0: as it is */
    float bytes;            /* > 0: keep so many tokens that this share of the f16 bytes is left */
    float quality;          /* > 0: keep as little as all receivers' plans allow; see crn_share_target */
    uint32_t timeout_ms;
};
int crn_share_compress(struct crn_engine *e, struct cairn_client *client,
                       const struct crn_compress *c, float *out_share);
/* Turns a target in bytes, or a floor of quality (a share of each receiver's own), into rule.keep and dtype.
 * fails CAIRN_E_MISS when no setting was measured that meets the floor for every receiver with a plan, codes of the library */
int crn_share_target(const struct crn_weights *weights, struct cairn_client *client, struct crn_compress *io_compress);

#endif
