/* maps - the state maps of a profile: states of both models on the contexts set aside, one fit per start layer, one file per map in
 * OUT/maps. What is measured is what the files say, so that a map that was stored as f16 is measured as f16. */
#ifndef CRN_PROFILE_MAPS_H
#define CRN_PROFILE_MAPS_H

#include "client/cairn.h"
#include "tools/profile/dataset.h"
#include "tools/profile/options.h"
#include "tools/profile/questions.h"
#include "tools/worker/engine.h"

#include <stdint.h>
#include <stdio.h>

struct crn_maps {
    const struct crn_profile_options *options; /* variants, labels, OUT, the state cache */
    const struct crn_dataset *set;
    uint32_t every; /* 1: all contexts of the set; n: the last of every n */
    struct crn_engine *producer, *receiver;
    const uint8_t *starts; /* [n_layers]: layers where runs start that want fitted maps */
    struct crn_answer_rule answers; /* of the receiver, when a map is tuned */
    FILE *out;             /* one JSON line per map */
    const uint8_t *known;  /* [n_variants + 1][n_layers]: made before */
    void (*stage)(void *ctx, const char *name, double contexts); /* what is progressing now, and through how many */
    void (*progress)(void *ctx, double contexts);
    void *progress_ctx;
};

/* out_maps [n_variants + 1][n_layers], the last row for tuned maps: w malloc'd, the caller's; NULL where there is none. Also after a
 * failure the caller frees.
 * fails CAIRN_E_ARG (nothing to fit on, singular), codes of the engine and of the files */
int crn_maps_make(const struct crn_maps *m, struct cairn_map_view *out_maps);

/* OUT/maps/LAYER-VARIANT.map.gguf, or FIRST-LAST.tuned.map.gguf when it is tuned: out [4096], returned. */
const char *crn_maps_path(const struct crn_profile_options *o, uint32_t layer, uint32_t variant, char out[4096]);

#endif
