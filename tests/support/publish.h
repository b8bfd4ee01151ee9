/* publish - contexts of a tiny model whose every number is known, published by a hand-made worker and checked by another. */
#ifndef CRN_TESTS_PUBLISH_H
#define CRN_TESTS_PUBLISH_H

#include "tests/support/peer.h"

/* The model of these contexts: 3 layers, 2 KV heads of 32, hidden 64. */
#define TINY_LAYERS 3u
#define TINY_HEADS 2u
#define TINY_DIM 32u
#define TINY_HIDDEN 64u
#define TINY_SHAPE {TINY_LAYERS, TINY_HEADS, TINY_DIM, TINY_HIDDEN}

/* Small whole numbers: every dtype but int8 holds them exactly. */
float tiny_kv(unsigned salt, uint32_t layer, uint32_t head, uint32_t pos, uint32_t channel, int is_v);
float tiny_state(unsigned salt, uint32_t layer, uint32_t pos, uint32_t channel);
int32_t tiny_token(unsigned salt, uint32_t pos);
/* Chained hashes and tail of the first n tokens; hashes [n / 64], tail [n % 64]. */
void tiny_query(unsigned salt, uint8_t family, uint32_t n, struct crn_msg_match *out_match);

struct tiny_draft {
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
struct tiny_open {
    uint64_t draft;
    struct crn_mem landing;
    struct crn_msg_drafted reply; /* views are invalid */
    uint16_t states[CAIRN_MAX_STATES];
    size_t n_states;
    struct crn_budget_rec budgets[CAIRN_MAX_LAYERS];
    size_t n_budgets;
};
int tiny_open(struct peer *p, const struct tiny_draft *d, struct tiny_open *out_open);
/* Writes rows and positions into the landing zone, and the message that puts them. */
struct crn_msg_put tiny_rows(const struct tiny_draft *d, const struct tiny_open *o, uint32_t kind,
                             uint32_t layer);
int tiny_put(struct peer *p, const struct tiny_draft *d, const struct tiny_open *o, uint32_t kind,
             uint32_t layer);
int tiny_commit(struct peer *p, const struct tiny_draft *d, struct tiny_open *o, uint64_t *out_entry);
/* All of it. */
int tiny_publish(struct peer *p, const struct tiny_draft *d, uint64_t *out_entry);

/* A decoded answer to ATTACH. */
struct tiny_lease {
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
int tiny_attach(struct peer *p, unsigned salt, uint8_t family, uint32_t n, struct tiny_lease *out);
int tiny_attach_entry(struct peer *p, uint64_t entry, uint64_t flags, struct tiny_lease *out);
int tiny_release(struct peer *p, const struct tiny_lease *l);
/* 0 when every payload holds what was published with this salt. */
int tiny_check(struct peer *p, const struct tiny_lease *l, unsigned salt);

#endif
