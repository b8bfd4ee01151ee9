/* options - the command line of cairn-profiler as one checked structure. `cairn profile` writes it; people may. */
#ifndef CRN_PROFILE_OPTIONS_H
#define CRN_PROFILE_OPTIONS_H

#include "tools/profile/cut.h"
#include "tools/profile/fit.h"
#include "tools/worker/weights.h"

#include <stdbool.h>
#include <stdint.h>

#define CRN_PROFILE_MAX_SETTINGS 16u
#define CRN_PROFILE_MAX_RUNS 4096u
#define CRN_PROFILE_MAX_VARIANTS 16u

struct crn_profile_model {
    char *path; /* owned, with the adapters' names behind it */
    struct crn_adapter_spec adapters[CRN_MAX_ADAPTERS];
    size_t n_adapters;
    const char *label;
};

/* One way to make state maps; several are compared in one go. */
struct crn_profile_variant {
    bool plain; /* no map: the producer's state as it is */
    double lambda;
    enum crn_fit_weight weight;
    uint32_t rank;     /* 0: full */
    uint32_t n_tokens; /* fitted on contexts of at least so many tokens; 0: all */
    bool half;         /* stored as f16 */
    bool tuned;        /* moved on by what the receiver answers (tune.h), for one run */
    char file[256];    /* a map that is there already, for the layer where all runs start; "": fit one */
};

struct crn_profile_run {
    uint32_t first, last;
};

struct crn_profile_options {
    struct crn_profile_model producer, receiver;
    const char *requests, *fit, *out, *state_cache;
    struct crn_profile_run *runs; /* owned */
    uint32_t n_runs;
    struct crn_profile_run *tuned; /* owned: runs to tune a map for and to measure with it, each with a start of its own */
    uint32_t n_tuned;
    const struct crn_selector *selector; /* of the tokens kept */
    struct crn_sets_rule rule;           /* of all settings, but for keep */
    struct crn_cut_setting settings[CRN_PROFILE_MAX_SETTINGS];
    uint32_t n_settings;
    struct crn_profile_variant variants[CRN_PROFILE_MAX_VARIANTS + 1]; /* behind the last: the first one, tuned */
    uint32_t n_variants;               /* without it */
    const char *maps;    /* the variants as given */
    uint32_t n_contexts; /* 0: all */
    uint32_t answer_tokens, n_threads, kv_dtype;
    bool sensitivity, corners, quiet;
};

/* returns 0, 1 when help was printed, CAIRN_E_ARG after one line on stderr. own: crn_profile_options_free */
int crn_profile_options_parse(int argc, char **argv, struct crn_profile_options *out);
void crn_profile_options_free(struct crn_profile_options *o);

/* The run that a map is tuned for at this layer; NULL: none. */
const struct crn_profile_run *crn_profile_tuned_at(const struct crn_profile_options *o, uint32_t layer);

#endif
