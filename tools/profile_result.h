/* profile_result - what cairn-profiler wrote (OUT/results.jsonl), added up: one point per run, setting and way to make maps.
 * The cost of a run is put together from means over all contexts (a layer, the last layer's K and V, the map, the suffix under the
 * setting), scaled to the mean context: so equally long runs cost the same, and a disturbance hits all of them alike. */
#ifndef CRN_TOOLS_PROFILE_RESULT_H
#define CRN_TOOLS_PROFILE_RESULT_H

#include "client/cairn.h"
#include "tools/frontier.h"
#include "tools/json.h"

#include <stddef.h>
#include <stdint.h>

#define CRN_RESULT_MAX_SETTINGS 16u
#define CRN_RESULT_MAX_VARIANTS 17u

struct crn_result_setting {
    double keep;
    bool int8;
    double suffix_s;    /* of the mean context */
    double *kept;       /* [n_layers], share of the tokens, mean */
    double *bytes;      /* [n_layers], of the mean context */
};

struct crn_result_alone { /* a layer reused alone */
    double nll;
    uint32_t n, n_exact;
};

struct crn_result {
    char producer[64], receiver[64];
    struct cairn_digest producer_digest, receiver_digest;
    uint32_t n_layers, n_settings;
    uint32_t n_variants; /* ways to make maps; the last: the first one, tuned */
    char requests[33], fit[33]; /* digests of the files measured and fitted on */
    char selector[32], budget[32];
    char maps[6000]; /* the ways to make maps, as asked for */
    bool by_agreement; /* answers are the receiver's own: quality is the share of tokens that agree */
    uint32_t n_contexts;
    double tokens; /* of the mean context */
    double prefill_s, own_suffix_s, layer_s, keys_s, map_s, state_bytes;
    struct crn_point own; /* the receiver's own prefill */
    struct crn_result_setting settings[CRN_RESULT_MAX_SETTINGS];
    struct crn_point *points; /* measured on all contexts; frontier marked */
    size_t n_points;
    struct crn_result_alone *alone; /* [n_layers], n 0: not measured */
    struct crn_point corners[CRN_RESULT_MAX_SETTINGS]; /* the receiver's own cache under each setting; n 0: not measured */
    uint64_t fit_tokens;
};

/* Reads and adds up; a last line without its end is ignored, runs that are not measured on all contexts yet are left out.
 * why: one line. own: crn_result_free. fails -errno, -ENOMEM, CAIRN_E_FORMAT */
int crn_result_read(const char *path, struct crn_result *out, char *why, size_t why_bytes);
void crn_result_free(struct crn_result *r); /* zeroed struct allowed */

/* Was it measured with a map that was tuned for its run? */
bool crn_result_is_tuned(const struct crn_result *r, const struct crn_point *p);
/* Share of all layers that a point recomputes; its cost beside the receiver's own prefill. */
double crn_result_share(const struct crn_result *r, const struct crn_point *p);
double crn_result_cost(const struct crn_result *r, const struct crn_point *p);
/* Bytes that the point loads, as a share of the whole f16 payloads of the same layers; tokens kept there. */
double crn_result_bytes(const struct crn_result *r, const struct crn_point *p);
double crn_result_kept(const struct crn_result *r, const struct crn_point *p);

#endif
