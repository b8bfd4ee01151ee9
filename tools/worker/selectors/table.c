/* The selectors there are. A new one is a file beside this one and a row here. */
#include "tools/worker/selectors/selectors.h"

#include <string.h>

const struct crn_selector crn_selectors[] = {
    {"reread", "attention drawn when the model repeats the context (KVzip)", crn_select_reread},
    {"window", "attention of the last 32 tokens", crn_select_window},
    {"snap", "the same, max-pooled over 7 neighbours (SnapKV)", crn_select_snap},
    {"attention", "sum of the attention of all tokens (H2O)", crn_select_attention},
    {"expected", "attention that future queries are expected to pay (ExpectedAttention)",
     crn_select_expected},
    {"key-norm", "small norm of the key", crn_select_key_norm},
    {"value-norm", "large norm of the value", crn_select_value_norm},
};
const size_t crn_n_selectors = sizeof crn_selectors / sizeof *crn_selectors;

const struct crn_selector *crn_selector_named(const char *name)
{
    for (size_t i = 0; i < crn_n_selectors; i++)
        if (strcmp(crn_selectors[i].name, name) == 0)
            return &crn_selectors[i];
    return NULL;
}
