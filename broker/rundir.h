/* rundir - the directory of the sockets: who owns it, and who gets in. */
#ifndef CRN_BROKER_RUNDIR_H
#define CRN_BROKER_RUNDIR_H

#include "broker/config.h"

/* Makes the socket's directory (0700) when it is not there; refuses one that others could change.
 * fails   -errno, CAIRN_E_DENIED; logged */
int crn_rundir_prepare(const struct crn_config *config);
/* After binding: opens directory and sockets to other users when a namespace names one. They still pass the broker's check of the
 * kernel's word about their uid. */
int crn_rundir_admit(const struct crn_config *config);

#endif
