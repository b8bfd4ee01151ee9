/* tokenizer - byte-level BPE from the metadata of a GGUF file, equal to llama.cpp's.
 *
 * text -> special tokens cut out -> pre-tokenizer (tokenizer.ggml.pre) cuts words -> pairs merge by
 * rank -> ids. No BOS is added. Bytes that are not well-formed UTF-8 become U+FFFD, one per byte,
 * as in llama.cpp (which, however, lets overlong forms and surrogates pass). */
#ifndef CRN_WORKER_TOKENIZER_H
#define CRN_WORKER_TOKENIZER_H

#include "ipc/cairn_types.h"
#include "tools/worker/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRN_MAX_TEXT_BYTES (64u << 20)
#define CRN_NO_TOKEN (-1)

/* A growing list of token ids. Zeroed is empty; free with crn_ids_free(). */
struct crn_ids {
    int32_t *ids;
    size_t n, room;
};

struct crn_tokenizer;

/* crn_tokenizer_create - read vocabulary, merges and pre-tokenizer.
 * in      g: must outlive the tokenizer
 * own     end with crn_tokenizer_destroy()
 * fails   CAIRN_E_FORMAT, CAIRN_E_UNSUPPORTED (other tokenizer model or pre-tokenizer), -ENOMEM;
 * one log line */
int crn_tokenizer_create(const struct crn_gguf *g, struct crn_tokenizer **out_tokenizer);
void crn_tokenizer_destroy(struct crn_tokenizer *t);

/* crn_tokenizer_encode - append the ids of a text.
 * in      text: n bytes, any; parse_special: control tokens in the text become their ids
 * (user-defined ones always do) out     io_ids: grows; as before the call on failure thread  any
 * number at once, each with its own io_ids fails   CAIRN_E_TOO_BIG beyond CRN_MAX_TEXT_BYTES,
 * -ENOMEM */
int crn_tokenizer_encode(const struct crn_tokenizer *t, const char *text, size_t n,
                         bool parse_special, struct crn_ids *io_ids);

/* Bytes of one token, control tokens by their name; empty for an id out of range. Concatenated they
 * give the text; a character may be spread over several tokens (crn_utf8_whole). */
struct crn_gguf_str crn_tokenizer_piece(const struct crn_tokenizer *t, int32_t id);

/* Id of a token by its exact name ("<|im_end|>"), CRN_NO_TOKEN when there is none. */
int32_t crn_tokenizer_find(const struct crn_tokenizer *t, const char *name);

/* Digest of tokens and merges as the file stores them: part of a family's fingerprint. */
struct cairn_digest crn_tokenizer_digest(const struct crn_tokenizer *t);

uint32_t crn_tokenizer_n_tokens(const struct crn_tokenizer *t);

/* tokenizer.ggml.eos_token_id, CRN_NO_TOKEN when absent. */
int32_t crn_tokenizer_eos(const struct crn_tokenizer *t);

/* How many of n bytes may be shown now: all but an unfinished UTF-8 character at the end. */
size_t crn_utf8_whole(const char *bytes, size_t n);

/* Appends one id; -ENOMEM. */
int crn_ids_push(struct crn_ids *ids, int32_t id);
void crn_ids_free(struct crn_ids *ids);

#endif
