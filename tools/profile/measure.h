/* measure - the combined executor of a profile: one context, all runs [a, b] and all settings, sharing what they have in common.
 *
 * Per context: one prefill of the producer, one of the receiver. Per start a and way to make maps: the state, its map, and layers a .. the last end ONCE,
 * kept privately. Per setting (share of tokens kept, int8): the suffix through the producer's payloads once; it branches off at
 * every a into the private layers, and at every b back onto the producer's. A run thus costs the suffix through layers > b. */
#ifndef CRN_PROFILE_MEASURE_H
#define CRN_PROFILE_MEASURE_H

#include "client/cairn.h"
#include "tools/profile/cut.h"
#include "tools/profile/questions.h"
#include "tools/worker/engine.h"

#include <stdint.h>
#include <stdio.h>

#define CRN_WANTED_FITTED 1u /* with all ways to make maps */
#define CRN_WANTED_TUNED 2u  /* with the map that was tuned for this run */

struct crn_measure {
    struct crn_engine *producer, *receiver;
    const struct cairn_map_view *maps; /* [n_variants + 1][n_layers], last the tuned ones; w NULL: the state as it is */
    uint32_t n_variants;               /* ways to make maps, compared with each other */
    const struct crn_cut_setting *settings;
    uint32_t n_settings;
    uint8_t *wanted; /* [n_layers][n_layers]: [a][b], CRN_WANTED_*: runs to measure, and how */
    int sensitivity; /* reuse each layer alone in the receiver's own cache (method.md 1.2.1) */
    int corners;     /* cut the receiver's own cache by each setting, too: what of a loss is the tokens' and what the reuse's */
    struct crn_answer_rule answers; /* of the receiver, where none was given */
    const struct crn_selector *selector; /* of kept tokens */
    const int32_t *reader_prefix; /* before the second reading (method.md 5.4) */
    uint32_t n_reader_prefix;
    FILE *out; /* a JSON line per context, and per context and start; complete when written */
    void (*progress)(void *ctx, double work); /* shares of one context, adding up to 1 */
    void *progress_ctx;
};

/* What is known of a context already and is not measured again. */
struct crn_measure_known {
    int own;      /* its first line */
    int alone;    /* its line of sensitivity */
    int corners;  /* its line about the receiver's own cache */
    uint8_t *run; /* [n_layers][n_layers], CRN_WANTED_* */
};

/* fails -ENOMEM, -EIO, codes of the engine */
int crn_measure_context(struct crn_measure *m, uint32_t index, const struct crn_dataset_context *context,
                        const struct crn_measure_known *known);

#endif
