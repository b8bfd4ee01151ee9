/* put - one PUT: from a message to a payload of the draft. Three steps: crn_put_plan checks the numbers of the message and says how
 * large the payload is (loop thread), crn_put_start makes room and submits the copy, the copy thread checks what only the landing
 * zone knows (index lists, positions) and gathers. Then the loop answers put_done. */
#ifndef CRN_BROKER_PUT_H
#define CRN_BROKER_PUT_H

#include "broker/draft.h"
#include "ipc/wire.h"

/* Answers later with put_done or an error; or fails at once:
 * fails   CAIRN_E_ARG, CAIRN_E_TOO_BIG, CAIRN_E_STATE, CAIRN_E_STALE, CAIRN_E_FULL, -ENOMEM; why: one line */
int crn_put_start(struct crn_draft *draft, const struct crn_msg_put *msg, char *why,
                  size_t why_bytes);

#endif
