/* plan_file - a plan as a JSON file and the GGUF file of its state map:
 *     {"producer": LABEL, "receiver": LABEL, "producer_digest": HEX?, "receiver_digest": HEX?, "run": [a, b] or [] (none),
 *      "state_map": FILE? (relative to the JSON), "budgets": [{"layers": [a, b], "keep": share}...]?, "n_layers": L?,
 *      "measured": {"questions", "own_exact", "exact"}}
 * State map: tools/map_file.h. */
#ifndef CRN_TOOLS_PLAN_FILE_H
#define CRN_TOOLS_PLAN_FILE_H

#include "client/cairn.h"

#define CRN_PLAN_FILE_BUDGETS 256u

struct crn_plan_file {
    struct cairn_plan_put put; /* digests zero when the file has none */
    char producer[64], receiver[64];
    uint32_t n_layers; /* as the file says, else the highest layer that it names, plus one */
    struct cairn_budget budgets[CRN_PLAN_FILE_BUDGETS];
    char *info;
};

/* Reads and checks both files. n_layers: 0 or what the caller knows. why: one line naming file and place.
 * own     end with crn_plan_file_close
 * fails   CAIRN_E_FORMAT, CAIRN_E_TOO_BIG, -errno */
int crn_plan_file_open(const char *path, uint32_t n_layers, struct crn_plan_file **out_file, char *why,
                       size_t why_bytes);
void crn_plan_file_close(struct crn_plan_file *file); /* NULL allowed */

#endif
