/* raw - contexts of a tiny model whose every number is known, published by a hand-made worker and checked by another. */
#ifndef CRN_TESTS_RAW_H
#define CRN_TESTS_RAW_H

#include "tests/support/peer.h"

/* The model of these contexts: 3 layers, 2 KV heads of 32, hidden 64. */
#define RAW_LAYERS 3u
#define RAW_HEADS 2u
#define RAW_DIM 32u
#define RAW_HIDDEN 64u
#define RAW_SHAPE {RAW_LAYERS, RAW_HEADS, RAW_DIM, RAW_HIDDEN}

/* Small whole numbers: every dtype but int8 holds them exactly. */
float raw_kv(unsigned salt, uint32_t layer, uint32_t head, uint32_t pos, uint32_t channel, int is_v);
float raw_state(unsigned salt, uint32_t layer, uint32_t pos, uint32_t channel);
int32_t raw_token(unsigned salt, uint32_t pos);
/* Chained hashes and tail of the first n tokens; hashes [n / 64], tail [n % 64]. */
void raw_query(unsigned salt, uint8_t family, uint32_t n, struct crn_msg_match *out_match);

struct raw_draft {
    unsigned salt;
    uint32_t start, n_tokens;
    uint64_t parent;
    uint32_t dtype;      /* stored as */
    uint32_t state_layer; /* also put the state entering this layer; 0: none */
    uint32_t pyramid, flags, commit_flags;
    const char *settings;
    uint64_t first_hash;
};

/* What DRAFT answered, with the landing zone mapped. */
struct raw_open {
    uint64_t draft;
    struct crn_mem landing;
    struct crn_msg_drafted reply; /* views are invalid */
    uint16_t states[CAIRN_MAX_STATES];
    size_t n_states;
    struct crn_budget_rec budgets[CAIRN_MAX_LAYERS];
    size_t n_budgets;
};
int raw_open(struct peer *p, const struct raw_draft *d, struct raw_open *out_open);
/* Writes rows and positions into the landing zone, and the message that puts them. */
struct crn_msg_put raw_rows(const struct raw_draft *d, const struct raw_open *o, uint32_t kind,
                             uint32_t layer);
int raw_put(struct peer *p, const struct raw_draft *d, const struct raw_open *o, uint32_t kind,
             uint32_t layer);
int raw_commit(struct peer *p, const struct raw_draft *d, struct raw_open *o, uint64_t *out_entry);
/* All of it. */
int raw_publish(struct peer *p, const struct raw_draft *d, uint64_t *out_entry);

/* A decoded answer to ATTACH. */
struct raw_lease {
    struct crn_msg_attached msg; /* views are invalid */
    struct crn_path_rec path[CAIRN_MAX_PATH];
    size_t n_path;
    struct crn_payload_rec payloads[512];
    size_t n_payloads;
    uint32_t counts[4096];
    size_t n_counts;
    struct crn_plan_rec plan;
    size_t n_plans;
};
int raw_attach(struct peer *p, unsigned salt, uint8_t family, uint32_t n, struct raw_lease *out);
int raw_attach_entry(struct peer *p, uint64_t entry, uint64_t flags, struct raw_lease *out);
int raw_release(struct peer *p, const struct raw_lease *l);
/* 0 when every payload holds what was published with this salt. */
int raw_check(struct peer *p, const struct raw_lease *l, unsigned salt);

#endif
