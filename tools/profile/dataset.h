/* dataset - JSON lines {"context", "question"?, "answer"?} as token ids, lines of one context together.
 * Lines without a question ask nothing beyond the context; lines without an answer are answered by the receiver itself. */
#ifndef CRN_PROFILE_DATASET_H
#define CRN_PROFILE_DATASET_H

#include "ipc/cairn_types.h"
#include "tools/worker/chat.h"

#include <stddef.h>
#include <stdint.h>

struct crn_dataset_question {
    struct crn_ids ids; /* question, frame and, when given, the answer and its end */
    uint32_t n_asked;   /* ids before the answer */
    bool answered;      /* the answer was given */
};

struct crn_dataset_context {
    struct crn_ids ids;
    struct crn_dataset_question *questions;
    uint32_t n;
};

struct crn_dataset {
    struct crn_dataset_context *contexts;
    uint32_t n;
    uint64_t n_tokens;          /* of all contexts */
    struct cairn_digest digest; /* of the file's bytes */
};

/* fails   -errno, -ENOMEM, CAIRN_E_FORMAT after one log line that names file and line */
int crn_dataset_read(const char *path, const struct crn_chat *chat, struct crn_dataset *out);
void crn_dataset_free(struct crn_dataset *d); /* zeroed struct allowed */

#endif
