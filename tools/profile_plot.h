/* profile_plot - a profile as one SVG: quality against cost with the frontier marked, a heat map of all runs, and how much quality
 * each layer costs when it is reused alone. */
#ifndef CRN_TOOLS_PROFILE_PLOT_H
#define CRN_TOOLS_PROFILE_PLOT_H

#include "tools/profile_result.h"

/* fails -errno */
int crn_profile_plot(const struct crn_result *r, const char *path);

#endif
