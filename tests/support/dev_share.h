/* dev_share - workers of a tiny family (tests/support/broker.h) whose rows are device memory, as processes: CUDA does not survive
 * a fork, so each is one, and the test that starts them does not touch the device. */
#ifndef CRN_TESTS_DEV_SHARE_H
#define CRN_TESTS_DEV_SHARE_H

#include "tests/support/broker.h"

/* Makes CRN_BIN name the programs of the device in use: emulated ones, unless CRN_GPU asks for a real device. */
void dev_programs(void);

/* In a child: a client of model `model` that computes on device 0. NULL after a line on stderr. */
struct cairn_client *dev_tiny_open(const struct broker *b, uint32_t model);
/* One layer's K and V, or a state, from device memory; the code of the call. */
int dev_tiny_put(struct cairn_draft *draft, const struct tiny_entry *entry, uint32_t layer, int is_state);
/* tiny_publish, from device memory. */
int dev_tiny_publish(struct cairn_client *client, const struct tiny_entry *entry, struct cairn_entry_id *out_entry);
/* 0 when everything attached is what `model` published; n_states as in the entry. Positions and rows are fetched from the device. */
int dev_tiny_check(struct cairn_lease *lease, uint32_t model, uint32_t n_states);

#endif
