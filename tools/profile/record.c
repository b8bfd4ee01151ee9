/* Reading back what is there. A run counts as known when its line names it for every setting. */
#include "tools/profile/record.h"

#include "ipc/log.h"
#include "tools/json.h"
#include "tools/worker/requests.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int bad_line(const char *path, size_t number, const char *why)
{
    crn_log(CRN_LOG_ERROR, "%s, line %zu: %s", path, number, why);
    return CAIRN_E_CORRUPT;
}

static int take_runs(struct crn_record *r, const struct crn_json *line, uint32_t context)
{
    const struct crn_json *runs = crn_json_get(line, "runs");
    uint32_t first, last, setting, variant;
    if (crn_json_u32(crn_json_get(line, "start"), &first) != 0 || first >= r->n_layers ||
        crn_json_u32(crn_json_get(line, "variant"), &variant) != 0 || variant >= r->n_variants)
        return CAIRN_E_FORMAT;
    for (size_t i = 0; i < crn_json_n(runs); i++) {
        const struct crn_json *run = crn_json_at(runs, i);
        if (crn_json_u32(crn_json_get(run, "last"), &last) != 0 || last < first || last >= r->n_layers ||
            crn_json_u32(crn_json_get(run, "setting"), &setting) != 0 || setting >= r->n_settings)
            return CAIRN_E_FORMAT;
        uint32_t last_fitted = first == 0 ? 0 : r->n_variants - 2; /* the last variant is the tuned one */
        uint8_t how = variant == last_fitted ? CRN_WANTED_FITTED : variant > last_fitted ? CRN_WANTED_TUNED : 0;
        if (setting + 1 == r->n_settings)
            r->known[context].run[(size_t)first * r->n_layers + last] |= how;
    }
    return 0;
}

static int take_line(struct crn_record *r, const struct crn_json *line)
{
    uint32_t context, start, variant;
    if (crn_json_u32(crn_json_get(line, "map"), &start) == 0) {
        if (start >= r->n_layers || crn_json_u32(crn_json_get(line, "variant"), &variant) != 0 || variant >= r->n_variants)
            return CAIRN_E_FORMAT;
        r->maps[(size_t)variant * r->n_layers + start] = 1;
        return 0;
    }
    if (crn_json_u32(crn_json_get(line, "context"), &context) != 0 || context >= r->n_contexts)
        return CAIRN_E_FORMAT;
    if (crn_json_get(line, "own") != NULL)
        r->known[context].own = 1;
    else if (crn_json_get(line, "alone") != NULL)
        r->known[context].alone = 1;
    else if (crn_json_get(line, "corners") != NULL)
        r->known[context].corners = 1;
    else
        return take_runs(r, line, context);
    return 0;
}

/* Lines of text [bytes]; out_good: bytes of whole lines. */
static int take_lines(struct crn_record *r, const char *path, const char *text, size_t bytes, size_t *out_good)
{
    size_t number = 0;
    char why[200];
    for (const char *at = text, *end; (end = memchr(at, '\n', (size_t)(text + bytes - at))) != NULL; at = end + 1) {
        struct crn_json *line;
        if (number++ > 0) {
            int status = crn_json_parse(at, (size_t)(end - at), "JSON", &line, why, sizeof why);
            if (status != 0)
                return bad_line(path, number, why);
            status = take_line(r, line);
            crn_json_free(line);
            if (status != 0)
                return bad_line(path, number, "not a line of this profile");
        }
        *out_good = (size_t)(end + 1 - text);
    }
    return 0;
}

static int read_back(struct crn_record *r, const char *path, const char *head)
{
    char *text;
    size_t bytes, n = strlen(head), good = 0;
    int status = crn_text_read(path, &text, &bytes);
    if (status != 0)
        return status;
    if (memchr(text, '\n', bytes) != NULL && (bytes <= n || memcmp(text, head, n) != 0 || text[n] != '\n'))
        status = CAIRN_E_EXISTS;
    if (status == 0)
        status = take_lines(r, path, text, bytes, &good);
    free(text);
    if (status == 0 && good < bytes && truncate(path, (off_t)good) != 0)
        status = -errno;
    return status;
}

int crn_record_open(const char *path, const char *head, uint32_t n_contexts, uint32_t n_layers, uint32_t n_settings,
                    uint32_t n_variants, struct crn_record *out)
{
    size_t square = (size_t)n_layers * n_layers;
    int status = 0;
    *out = (struct crn_record){
        .n_contexts = n_contexts, .n_layers = n_layers, .n_settings = n_settings, .n_variants = n_variants};
    out->known = calloc(n_contexts, sizeof *out->known);
    out->runs = calloc(n_contexts, square);
    out->maps = calloc(n_variants, n_layers);
    if (out->known == NULL || out->runs == NULL || out->maps == NULL)
        status = -ENOMEM;
    for (uint32_t i = 0; i < n_contexts && status == 0; i++)
        out->known[i].run = out->runs + i * square;
    if (status == 0 && access(path, F_OK) == 0)
        status = read_back(out, path, head);
    if (status == 0) {
        out->file = fopen(path, "ae");
        status = out->file != NULL ? 0 : -errno;
    }
    if (status == 0 && ftell(out->file) == 0 && (fprintf(out->file, "%s\n", head) < 0 || fflush(out->file) != 0))
        status = -EIO;
    if (status != 0)
        crn_record_close(out);
    return status;
}

void crn_record_close(struct crn_record *r)
{
    if (r->file != NULL)
        fclose(r->file);
    free(r->known);
    free(r->runs);
    free(r->maps);
    *r = (struct crn_record){0};
}
