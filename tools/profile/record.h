/* record - the results file of a profile: a head that says what is measured, then one JSON line per finished piece of work.
 * It is only appended to. Continuing reads it back; a torn last line (the program was killed) is cut off. */
#ifndef CRN_PROFILE_RECORD_H
#define CRN_PROFILE_RECORD_H

#include "tools/profile/measure.h"

#include <stdint.h>
#include <stdio.h>

struct crn_record {
    FILE *file;
    uint32_t n_contexts, n_layers, n_settings, n_variants;
    struct crn_measure_known *known; /* [n_contexts] */
    uint8_t *maps;                   /* [n_variants][n_layers]: a line about this map is there; the last variant is the tuned one */
    uint8_t *runs;                   /* memory of known[].run */
};

/* Opens or creates path. head: one line without its end; a file with another head is refused.
 * own     crn_record_close
 * fails   CAIRN_E_EXISTS (measured under other conditions), CAIRN_E_CORRUPT after one log line, -errno, -ENOMEM */
int crn_record_open(const char *path, const char *head, uint32_t n_contexts, uint32_t n_layers, uint32_t n_settings,
                    uint32_t n_variants, struct crn_record *out);
void crn_record_close(struct crn_record *r); /* zeroed struct allowed */

#endif
