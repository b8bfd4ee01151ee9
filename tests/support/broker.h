/* broker - a real cairnd for a test, in a directory of its own, and synthetic workers of a tiny family.
 *
 * The broker says when it is ready (sd_notify), so nothing here sleeps. Everything fails the test instead of returning codes,
 * unless it says otherwise. Data is a formula of (producer, layer, head, row, channel): both sides of the broker can compute it. */
#ifndef CRN_TESTS_BROKER_H
#define CRN_TESTS_BROKER_H

#include "client/cairn.h"

#include <stdint.h>
#include <sys/types.h>

struct broker {
    pid_t pid;
    int notify_fd;
    char notify[64]; /* where it says that it is ready */
    char dir[64];
    char socket[96];
    const char *const *options; /* for restarts */
    const char *program;        /* for restarts: beside cairnd; NULL: cairnd itself */
};

/* Starts $CRN_BIN/cairnd with --socket in a fresh directory and further options (NULL-terminated, may be NULL). */
void broker_start(struct broker *b, const char *const *options);
/* The same directory and options again, after broker_kill. */
void broker_restart(struct broker *b);
/* The same for a broker that may die while it starts: 0 when it did. */
int broker_try_restart(struct broker *b);
void broker_kill(struct broker *b); /* SIGKILL */
/* SIGTERM; checks for exit code 0, and removes the directory. */
void broker_stop(struct broker *b);
/* A second broker on the same address: its exit code. */
int broker_second(const struct broker *b);

/* Value of a counter. */
uint64_t broker_counter(const struct broker *b, const char *name);
/* Waits (10 s) until a counter has a value. */
void broker_await(const struct broker *b, const char *name, uint64_t value);

/* ---- a tiny family: 4 layers, 2 KV heads of 8, hidden 64 ---- */

#define TINY_LAYERS 4u
#define TINY_HEADS 2u
#define TINY_DIM 8u
#define TINY_HIDDEN 64u

/* A client of model number `model` (1..); 0: a tool. */
struct cairn_client *tiny_open(const struct broker *b, uint32_t model);
/* Tokens of a context: seed picks it. */
void tiny_tokens(int32_t *out_tokens, uint32_t n, uint32_t seed);
struct cairn_digest tiny_model(uint32_t model);
/* The number that K (what 0), V (1) or E (2) holds; head 0 for E. */
float tiny_value(uint32_t model, uint32_t what, uint32_t layer, uint32_t head, int32_t pos, uint32_t channel);

struct tiny_entry {
    uint32_t model;
    const int32_t *context; /* from position 0 */
    uint32_t start, n_tokens;
    struct cairn_entry_id parent;
    uint32_t n_states;      /* states entering layers 0 .. n_states-1 */
    uint32_t dtype;         /* 0: f32 */
    uint32_t flags;         /* CAIRN_DRAFT_* */
    uint32_t pyramid;       /* enum cairn_pyramid */
    const char *settings;
};
/* Publishes; the code of the call that failed, or 0. */
int tiny_publish(struct cairn_client *client, const struct tiny_entry *entry, struct cairn_entry_id *out_entry);
/* The same with puts of the caller's. */
struct tiny_puts {
    int (*state)(struct cairn_draft *draft, const struct tiny_entry *entry, uint32_t layer);
    int (*layer)(struct cairn_draft *draft, const struct tiny_entry *entry, uint32_t layer);
};
int tiny_publish_by(struct cairn_client *client, const struct tiny_entry *entry, const struct tiny_puts *by,
                    struct cairn_entry_id *out_entry);
/* The pieces: an open draft, one layer put into it. */
int tiny_draft(struct cairn_client *client, const struct tiny_entry *entry, struct cairn_draft **out_draft);
int tiny_put_layer(struct cairn_draft *draft, const struct tiny_entry *entry, uint32_t layer);
int tiny_put_state(struct cairn_draft *draft, const struct tiny_entry *entry, uint32_t layer);
/* Attach to a context. */
int tiny_attach(struct cairn_client *client, const int32_t *context, uint32_t n, struct cairn_lease **out_lease);
/* Waits for and compares all rows of all shared layers of a part with what `model` published (f32 or f16 storage). */
void tiny_check_part(struct cairn_lease *lease, uint32_t part, uint32_t model);

/* Deadline of calls that ought to work. */
#define SOON cairn_deadline_in(15000)

#endif
