/* fdserve - the broker's end of the descriptor channel: who may have which segment. */
#ifndef CRN_BROKER_FDSERVE_H
#define CRN_BROKER_FDSERVE_H

#include <stdint.h>

struct crn_broker;
struct crn_session;
struct crn_fdserve;

/* Listens at path. own: crn_fdserve_close (NULL allowed), which unlinks it. */
int crn_fdserve_open(struct crn_broker *broker, const char *path, struct crn_fdserve **out_fds);
void crn_fdserve_close(struct crn_fdserve *fds);
/* Closes the session's connection, if it has one. */
void crn_fdserve_forget(struct crn_fdserve *fds, const struct crn_session *session);
/* Ends connections that were marked, and those that did not authenticate in time. Called once per turn and by the timer. */
void crn_fdserve_sweep(struct crn_fdserve *fds, uint64_t now_ns);

#endif
