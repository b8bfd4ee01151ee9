/* chat - the prompt layout that makes a context a prefix shared by all agents (design.md section
 * 4).
 *
 *   context ids    `<|im_start|>user\n` + context
 *   question ids   question + `<|im_end|>\n<|im_start|>assistant\n`
 *
 * The parts are tokenised separately and their ids concatenated, so the context's ids never depend
 * on the question. Special tokens inside the context or a question are plain text: neither can
 * forge a turn. A model without a chat template gets the parts without any frame; another template
 * than ChatML is refused. */
#ifndef CRN_WORKER_CHAT_H
#define CRN_WORKER_CHAT_H

#include "tools/worker/tokenizer.h"

struct crn_chat {
    const struct crn_tokenizer *tokenizer;
    const char *prefix; /* before the context, special tokens parsed */
    const char *suffix; /* after the question */
    int32_t end_ids[2]; /* generation ends at any of them; CRN_NO_TOKEN = unused */
};

/* crn_chat_setup - layout of the model in g. Both arguments must outlive the result; nothing to
 * free. fails   CAIRN_E_UNSUPPORTED with one log line */
int crn_chat_setup(const struct crn_gguf *g, const struct crn_tokenizer *t,
                   struct crn_chat *out_chat);

/* Append the ids of a context, of a question. Fail like crn_tokenizer_encode. */
int crn_chat_context(const struct crn_chat *c, const char *text, size_t n, struct crn_ids *io_ids);
int crn_chat_question(const struct crn_chat *c, const char *text, size_t n, struct crn_ids *io_ids);

/* True when generation ends with this token. */
bool crn_chat_ends(const struct crn_chat *c, int32_t id);

#endif
