/* options - what a reader can choose from: the plans that fit a path, each with what it would cost there. */
#ifndef CRN_BROKER_OPTIONS_H
#define CRN_BROKER_OPTIONS_H

#include "broker/match.h"
#include "ipc/wire.h"

#include <stdint.h>

#define CRN_OPTIONS_MAX 32u

/* Plans of the path's pair that meet the query's floor and whose states are there, the path's own first; those that another one
 * beats in everything are left out. An exact path has one option, plan 0. Returns how many. */
uint32_t crn_options_list(const struct crn_space *space, const struct crn_query *query,
                          const struct crn_path *path, struct crn_option_rec out[CRN_OPTIONS_MAX]);

#endif
