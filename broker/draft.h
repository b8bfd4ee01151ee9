/* draft - an entry being written. Payloads arrive by PUT and are copied behind the loop's back; COMMIT makes all of them visible
 * at once, or nothing.
 *
 *     OPEN --commit--> SEALED --last copy done--> ENDED        (published, or refused: the draft is gone in both cases)
 *     OPEN --abort, session's end--> DROPPED --last copy done--> ENDED
 *     SEALED --session's end--> DROPPED
 *
 * One function (move in draft.c) makes these steps and refuses all others. Loop thread only. */
#ifndef CRN_BROKER_DRAFT_H
#define CRN_BROKER_DRAFT_H

#include "broker/landing.h"
#include "broker/space.h"

#include <stdbool.h>
#include <stdint.h>

struct crn_session;
struct crn_broker;

enum crn_draft_state {
    CRN_DRAFT_OPEN = 1,
    CRN_DRAFT_SEALED = 2,  /* commit asked for, copies under way */
    CRN_DRAFT_DROPPED = 3, /* nobody wants it, copies under way */
    CRN_DRAFT_ENDED = 4,
};

struct crn_draft {
    struct crn_draft *next; /* of the session */
    uint64_t id;
    enum crn_draft_state state;
    struct crn_broker *broker;
    struct crn_session *session; /* NULL once dropped */
    struct crn_space *space;
    const struct crn_model *producer;
    struct crn_landing *landing;
    struct crn_body *body;
    struct crn_entry *parent;    /* kept from eviction */
    struct crn_entry *replaces;  /* kept from eviction */
    uint64_t replaces_id;        /* stale when somebody else was quicker */
    uint64_t first_hash;         /* of an exclusive draft: what it publishes */
    uint32_t start, n_tokens;
    uint32_t n_copies;           /* under way */
    uint64_t commit_request;     /* SEALED */
    uint64_t token_ns;           /* told with COMMIT */
    bool exclusive, pin, spill_int8;
    bool broken;                 /* a copy failed: cannot be committed */
    uint8_t pyramid;
    char settings[CAIRN_MAX_SETTINGS + 1];
};

/* What a DRAFT message says, checked and resolved. */
struct crn_draft_spec {
    struct crn_entry *parent, *replaces;
    uint64_t first_hash, put_bytes;
    uint32_t start, n_tokens;
    bool exclusive, spill_int8;
    uint8_t pyramid;
    char settings[CAIRN_MAX_SETTINGS + 1];
};

/* fails   CAIRN_E_FULL, CAIRN_E_TOO_BIG, -ENOMEM */
int crn_draft_open(struct crn_session *session, const struct crn_draft_spec *spec,
                   struct crn_draft **out_draft);
struct crn_draft *crn_draft_find(const struct crn_session *session, uint64_t id);
/* Is another session publishing the same context of the same model right now? */
bool crn_draft_somebody(const struct crn_session *session, const struct crn_draft_spec *spec);

/* Counts a copy in and out. The last one out lets a sealed or dropped draft end; the draft may be gone then. */
void crn_draft_copy_begins(struct crn_draft *draft);
void crn_draft_copy_ends(struct crn_draft *draft);

/* Publishes when all copies are done, and answers `request` with committed or an error. CAIRN_E_STATE when it is sealed already. */
int crn_draft_commit(struct crn_draft *draft, uint64_t request, bool pin);
/* Drops the draft: abort, or the session ends. */
void crn_draft_abandon(struct crn_draft *draft);

#endif
