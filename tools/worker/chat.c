/* Prompt layout. A chat template is a Jinja program; none is run here. A template that uses
 * `<|im_start|>` is taken for ChatML, of which we need only the frame of one user turn. The default
 * system turn that some templates add is left out: it would be part of every shared context, and
 * the design has no place for it. */
#include "tools/worker/chat.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"

#include <string.h>

static bool holds(struct crn_gguf_str text, const char *what)
{
    return memmem(text.p, text.n, what, strlen(what)) != NULL;
}

int crn_chat_setup(const struct crn_gguf *g, const struct crn_tokenizer *t,
                   struct crn_chat *out_chat)
{
    struct crn_chat c = {.tokenizer = t, .prefix = "", .suffix = ""};
    struct crn_gguf_str template;
    c.end_ids[0] = crn_tokenizer_eos(t);
    c.end_ids[1] = crn_tokenizer_find(t, "<|im_end|>");
    int rc = crn_gguf_str(g, "tokenizer.chat_template", &template);
    if (rc != 0 && rc != CAIRN_E_MISS)
        return rc;
    if (rc == 0) {
        if (!holds(template, "<|im_start|>") ||
            crn_tokenizer_find(t, "<|im_start|>") == CRN_NO_TOKEN || c.end_ids[1] == CRN_NO_TOKEN) {
            crn_log(CRN_LOG_ERROR,
                    "%s: key tokenizer.chat_template: only ChatML templates are supported",
                    crn_gguf_name(g));
            return CAIRN_E_UNSUPPORTED;
        }
        c.prefix = "<|im_start|>user\n";
        c.suffix = "<|im_end|>\n<|im_start|>assistant\n";
    }
    *out_chat = c;
    return 0;
}

/* Two parts in order; nothing is appended when either fails. */
static int append(const struct crn_chat *c, struct crn_gguf_str first, struct crn_gguf_str second,
                  bool first_is_frame, struct crn_ids *io_ids)
{
    size_t n_before = io_ids->n;
    int rc = crn_tokenizer_encode(c->tokenizer, first.p, first.n, first_is_frame, io_ids);
    if (rc == 0)
        rc = crn_tokenizer_encode(c->tokenizer, second.p, second.n, !first_is_frame, io_ids);
    if (rc != 0)
        io_ids->n = n_before;
    return rc;
}

int crn_chat_context(const struct crn_chat *c, const char *text, size_t n, struct crn_ids *io_ids)
{
    const struct crn_gguf_str frame = {c->prefix, strlen(c->prefix)};
    return append(c, frame, (struct crn_gguf_str){text, n}, true, io_ids);
}

int crn_chat_question(const struct crn_chat *c, const char *text, size_t n, struct crn_ids *io_ids)
{
    const struct crn_gguf_str frame = {c->suffix, strlen(c->suffix)};
    return append(c, (struct crn_gguf_str){text, n}, frame, false, io_ids);
}

bool crn_chat_ends(const struct crn_chat *c, int32_t id)
{
    return id != CRN_NO_TOKEN && (id == c->end_ids[0] || id == c->end_ids[1]);
}
