/* notify - tells a service manager how we are (sd_notify(3), by hand: one datagram). */
#ifndef CRN_BROKER_NOTIFY_H
#define CRN_BROKER_NOTIFY_H

/* Sends the line when $NOTIFY_SOCKET is set; a failure is logged and otherwise ignored. */
void crn_notify(const char *line);

#endif
