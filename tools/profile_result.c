/* Adding up the lines of a results file. Lines of one piece of work may come twice, when a profile was stopped between a line and
 * its neighbours and measured again: the first one counts, so a continued profile says what an uninterrupted one says. */
#include "tools/profile_result.h"

#include "tools/json.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

struct sums { /* of one run, setting and variant */
    double exact, nll, agree, kl;
    double squares; /* of the contexts' mean agreement */
    uint32_t n, n_contexts, last_context;
};

struct reader {
    const char *path;
    struct crn_result *out;
    char *why;
    size_t why_bytes, line;
    struct sums *runs;                       /* [n_layers][n_layers][n_settings][n_variants] */
    struct sums full[CRN_RESULT_MAX_SETTINGS], corners[CRN_RESULT_MAX_SETTINGS], own;
    double tokens, run_tokens, layer_tokens, map_tokens; /* that times were taken of */
    double layer_s, keys_s, map_s, prefill_s, own_suffix_s;
    uint32_t n_alone, last_alone;
};

static int bad(const struct reader *r, const char *what)
{
    snprintf(r->why, r->why_bytes, "%s, line %zu: %s", r->path, r->line, what);
    return CAIRN_E_FORMAT;
}

static struct sums *sums_of(const struct reader *r, uint32_t a, uint32_t b, uint32_t setting, uint32_t variant)
{
    const struct crn_result *o = r->out;
    return &r->runs[(((size_t)a * o->n_layers + b) * o->n_settings + setting) * o->n_variants + variant];
}

/* ---- the head ---- */

static int read_model(const struct reader *r, const struct crn_json *model, char label[64], struct cairn_digest *digest)
{
    const char *text;
    if (crn_json_text(crn_json_get(model, "label"), &text) != 0)
        return bad(r, "no label of a model");
    snprintf(label, 64, "%s", text);
    if (crn_json_text(crn_json_get(model, "digest"), &text) != 0 || cairn_digest_parse(text, digest) != 0)
        return bad(r, "no digest of a model");
    return 0;
}

static int read_settings(struct reader *r, const struct crn_json *list)
{
    struct crn_result *o = r->out;
    o->n_settings = (uint32_t)crn_json_n(list);
    if (o->n_settings == 0 || o->n_settings > CRN_RESULT_MAX_SETTINGS)
        return bad(r, "no settings, or too many");
    for (uint32_t i = 0; i < o->n_settings; i++) {
        struct crn_result_setting *s = &o->settings[i];
        s->kept = calloc(o->n_layers, sizeof *s->kept);
        s->bytes = calloc(o->n_layers, sizeof *s->bytes);
        if (s->kept == NULL || s->bytes == NULL)
            return -ENOMEM;
        if (crn_json_real(crn_json_get(crn_json_at(list, i), "keep"), &s->keep) != 0 ||
            crn_json_bool(crn_json_get(crn_json_at(list, i), "int8"), &s->int8) != 0)
            return bad(r, "a setting without \"keep\" or \"int8\"");
    }
    return 0;
}

/* A text of the head; empty when it is not there. */
static void take_text(const struct crn_json *head, const char *key, char *out, size_t bytes)
{
    const char *text = "";
    crn_json_text(crn_json_get(head, key), &text);
    snprintf(out, bytes, "%s", text);
}

static int read_head(struct reader *r, const struct crn_json *head)
{
    struct crn_result *o = r->out;
    const char *maps;
    uint32_t version;
    if (crn_json_u32(crn_json_get(head, "profile"), &version) != 0 || version != 1)
        return bad(r, "this is no profile of version 1");
    int status = read_model(r, crn_json_get(head, "producer"), o->producer, &o->producer_digest);
    if (status == 0)
        status = read_model(r, crn_json_get(head, "receiver"), o->receiver, &o->receiver_digest);
    if (status == 0 && (crn_json_u32(crn_json_get(head, "n_layers"), &o->n_layers) != 0 || o->n_layers == 0 ||
                        o->n_layers > CAIRN_MAX_LAYERS || crn_json_real(crn_json_get(head, "state_bytes"), &o->state_bytes) != 0 ||
                        crn_json_text(crn_json_get(head, "maps"), &maps) != 0))
        status = bad(r, "the head lacks something");
    if (status != 0)
        return status;
    snprintf(o->maps, sizeof o->maps, "%s", maps);
    take_text(head, "requests", o->requests, sizeof o->requests);
    take_text(head, "fit", o->fit, sizeof o->fit);
    take_text(head, "selector", o->selector, sizeof o->selector);
    take_text(head, "budget", o->budget, sizeof o->budget);
    o->n_variants = 2; /* the last one is the tuned one */
    for (const char *at = maps; *at != '\0'; at++)
        o->n_variants += *at == ';' && at[1] != '\0';
    if (o->n_variants > CRN_RESULT_MAX_VARIANTS)
        return bad(r, "too many ways to make maps");
    status = read_settings(r, crn_json_get(head, "settings"));
    r->runs = calloc((size_t)o->n_layers * o->n_layers * o->n_settings * o->n_variants, sizeof *r->runs);
    o->alone = calloc(o->n_layers, sizeof *o->alone);
    return status == 0 && (r->runs == NULL || o->alone == NULL) ? -ENOMEM : status;
}

/* ---- lines ---- */

static double real(const struct crn_json *object, const char *key)
{
    double number = 0;
    return crn_json_real(crn_json_get(object, key), &number) == 0 ? number : 0;
}

static double total(const struct crn_json *array)
{
    double sum = 0, number;
    for (size_t i = 0; i < crn_json_n(array); i++)
        if (crn_json_real(crn_json_at(array, i), &number) == 0)
            sum += number;
    return sum;
}

static void add_scores(struct sums *s, const struct crn_json *scores, uint32_t context)
{
    if (s->n_contexts > 0 && s->last_context == context)
        return;
    s->exact += total(crn_json_get(scores, "exact"));
    s->nll += total(crn_json_get(scores, "nll"));
    double agree = total(crn_json_get(scores, "agree")), n = (double)crn_json_n(crn_json_get(scores, "agree"));
    s->agree += agree;
    s->squares += n > 0 ? agree / n * (agree / n) : 0;
    s->kl += total(crn_json_get(scores, "kl"));
    s->n += (uint32_t)crn_json_n(crn_json_get(scores, "exact"));
    s->n_contexts++;
    s->last_context = context;
}

static int add_own(struct reader *r, const struct crn_json *line, uint32_t context)
{
    struct crn_result *o = r->out;
    const struct crn_json *own = crn_json_get(line, "own"), *settings = crn_json_get(line, "settings");
    if (crn_json_n(settings) != o->n_settings)
        return bad(r, "another number of settings");
    add_scores(&r->own, own, context);
    o->by_agreement |= crn_json_get(own, "agree") != NULL;
    o->n_contexts++;
    r->tokens += real(line, "tokens");
    r->prefill_s += real(line, "prefill_s");
    r->own_suffix_s += real(line, "suffix_s");
    for (uint32_t i = 0; i < o->n_settings; i++) {
        const struct crn_json *s = crn_json_at(settings, i);
        if (crn_json_get(s, "exact") != NULL)
            add_scores(&r->full[i], s, context);
        o->settings[i].suffix_s += real(s, "suffix_s");
        for (uint32_t l = 0; l < o->n_layers; l++) {
            double kept = 0, bytes = 0;
            crn_json_real(crn_json_at(crn_json_get(s, "kept"), l), &kept);
            crn_json_real(crn_json_at(crn_json_get(s, "bytes"), l), &bytes);
            o->settings[i].kept[l] += kept;
            o->settings[i].bytes[l] += bytes;
        }
    }
    return 0;
}

static int add_start(struct reader *r, const struct crn_json *line, uint32_t context, double tokens)
{
    const struct crn_result *o = r->out;
    const struct crn_json *runs = crn_json_get(line, "runs");
    uint32_t first, last, setting, variant;
    if (crn_json_u32(crn_json_get(line, "start"), &first) != 0 || crn_json_u32(crn_json_get(line, "variant"), &variant) != 0 ||
        first >= o->n_layers || variant >= o->n_variants)
        return bad(r, "no such start");
    for (size_t i = 0; i < crn_json_n(runs); i++) {
        const struct crn_json *run = crn_json_at(runs, i);
        if (crn_json_u32(crn_json_get(run, "last"), &last) != 0 || crn_json_u32(crn_json_get(run, "setting"), &setting) != 0 ||
            last < first || last >= o->n_layers || setting >= o->n_settings)
            return bad(r, "no such run");
        add_scores(sums_of(r, first, last, setting, variant), run, context);
    }
    r->keys_s += real(line, "keys_s");
    r->run_tokens += tokens;
    if (real(line, "layer_s") > 0) {
        r->layer_s += real(line, "layer_s");
        r->layer_tokens += tokens;
    }
    if (real(line, "map_s") > 0) {
        r->map_s += real(line, "map_s");
        r->map_tokens += tokens;
    }
    return 0;
}

static void add_alone(struct reader *r, const struct crn_json *list, uint32_t context)
{
    if (r->n_alone > 0 && r->last_alone == context)
        return;
    for (uint32_t l = 0; l < r->out->n_layers; l++) {
        const struct crn_json *scores = crn_json_at(list, l);
        struct crn_result_alone *a = &r->out->alone[l];
        a->n += (uint32_t)crn_json_n(crn_json_get(scores, "exact"));
        a->n_exact += (uint32_t)total(crn_json_get(scores, "exact"));
        a->nll += total(crn_json_get(scores, "nll"));
    }
    r->n_alone++;
    r->last_alone = context;
}

/* Tokens of a context are said in its first line only. */
struct length {
    uint32_t context;
    double tokens;
};

static int add_line(struct reader *r, const struct crn_json *line, struct length *length)
{
    uint32_t context;
    if (crn_json_get(line, "map") != NULL) {
        double tokens = real(line, "tokens");
        r->out->fit_tokens = tokens > (double)r->out->fit_tokens ? (uint64_t)tokens : r->out->fit_tokens;
        return 0;
    }
    if (crn_json_u32(crn_json_get(line, "context"), &context) != 0)
        return bad(r, "a line about nothing");
    if (crn_json_get(line, "own") != NULL) {
        *length = (struct length){context, real(line, "tokens")};
        return add_own(r, line, context);
    }
    if (crn_json_get(line, "alone") != NULL) {
        add_alone(r, crn_json_get(line, "alone"), context);
        return 0;
    }
    if (crn_json_get(line, "corners") != NULL) {
        for (uint32_t i = 0; i < r->out->n_settings; i++)
            add_scores(&r->corners[i], crn_json_at(crn_json_get(line, "corners"), i), context);
        return 0;
    }
    if (length->context != context) /* continued later: the mean will do */
        *length = (struct length){context, r->out->n_contexts > 0 ? r->tokens / r->out->n_contexts : 0};
    return add_start(r, line, context, length->tokens);
}

static int read_lines(struct reader *r, FILE *file)
{
    struct length length = {.context = UINT32_MAX};
    char *text = NULL;
    size_t room = 0;
    ssize_t n;
    int status = 0;
    while (status == 0 && (n = getline(&text, &room, file)) > 0 && text[n - 1] == '\n') {
        struct crn_json *line;
        char what[200];
        snprintf(what, sizeof what, "%s, line %zu", r->path, ++r->line);
        status = crn_json_parse(text, (size_t)n, what, &line, r->why, r->why_bytes);
        if (status != 0)
            break;
        status = r->line == 1 ? read_head(r, line) : add_line(r, line, &length);
        crn_json_free(line);
    }
    free(text);
    if (status == 0 && r->line == 0)
        status = bad(r, "empty");
    if (status == 0 && r->out->n_contexts == 0)
        status = bad(r, "nothing is measured yet");
    return status;
}

/* ---- points ---- */

static void fill_point(const struct reader *r, const struct sums *s, struct crn_point *p)
{
    p->n = s->n;
    p->n_exact = (uint32_t)(s->exact + 0.5);
    p->nll = s->n > 0 ? s->nll / s->n : 0;
    p->kl = s->n > 0 ? s->kl / s->n : 0;
    p->quality = s->n > 0 ? (r->out->by_agreement ? s->agree : s->exact) / s->n : 0;
    if (r->out->by_agreement && s->n_contexts > 1) {
        double n = s->n_contexts, spread = s->squares / n - p->quality * p->quality;
        p->error = spread > 0 ? sqrt(spread / (n - 1)) : 0;
    }
}

static void fill_cost(const struct crn_result *o, struct crn_point *p)
{
    const struct crn_result_setting *s = &o->settings[p->setting];
    uint32_t layers = crn_point_layers(p);
    double bytes = layers > 0 && p->first > 0 ? o->state_bytes * o->tokens : 0;
    p->cost_s = s->suffix_s;
    if (layers > 0)
        p->cost_s += (layers - 1) * o->layer_s + o->keys_s + (p->first > 0 ? o->map_s : 0);
    for (uint32_t l = 0; l < o->n_layers; l++)
        bytes += layers > 0 && l >= p->first && l <= p->last ? 0 : s->bytes[l];
    p->bytes = (uint64_t)bytes;
    p->tokens = layers * o->tokens;
}

static void scale_times(struct reader *r)
{
    struct crn_result *o = r->out;
    double n = o->n_contexts;
    o->tokens = r->tokens / n;
    o->prefill_s = r->prefill_s / n;
    o->own_suffix_s = r->own_suffix_s / n;
    o->layer_s = r->layer_tokens > 0 ? r->layer_s / r->layer_tokens * o->tokens : 0;
    o->keys_s = r->run_tokens > 0 ? r->keys_s / r->run_tokens * o->tokens : 0;
    o->map_s = r->map_tokens > 0 ? r->map_s / r->map_tokens * o->tokens : 0;
    for (uint32_t i = 0; i < o->n_settings; i++) {
        o->settings[i].suffix_s /= n;
        for (uint32_t l = 0; l < o->n_layers; l++) {
            o->settings[i].kept[l] /= n;
            o->settings[i].bytes[l] /= n;
        }
    }
    for (uint32_t l = 0; l < o->n_layers; l++)
        o->alone[l].nll /= o->alone[l].n > 0 ? o->alone[l].n : 1;
}

static int make_points(struct reader *r)
{
    struct crn_result *o = r->out;
    size_t room = o->n_settings * (1 + (size_t)o->n_layers * o->n_layers * o->n_variants);
    o->points = calloc(room, sizeof *o->points);
    if (o->points == NULL)
        return -ENOMEM;
    scale_times(r);
    o->own = (struct crn_point){.last = o->n_layers - 1, .cost_s = o->prefill_s + o->own_suffix_s};
    fill_point(r, &r->own, &o->own);
    for (uint32_t s = 0; s < o->n_settings; s++) {
        o->corners[s] = o->own;
        o->corners[s].setting = s;
        fill_point(r, &r->corners[s], &o->corners[s]);
        o->corners[s].n = r->corners[s].n_contexts == o->n_contexts ? o->corners[s].n : 0;
        if (r->full[s].n_contexts == o->n_contexts) {
            struct crn_point *full = &o->points[o->n_points++];
            *full = (struct crn_point){.first = 1, .last = 0, .setting = s};
            fill_point(r, &r->full[s], full);
            fill_cost(o, full);
        }
        for (uint32_t a = 0; a < o->n_layers; a++)
            for (uint32_t b = a; b < o->n_layers; b++)
                for (uint32_t v = 0; v < o->n_variants; v++) {
                    const struct sums *sums = sums_of(r, a, b, s, v);
                    if (sums->n_contexts != o->n_contexts)
                        continue;
                    struct crn_point *p = &o->points[o->n_points++];
                    *p = (struct crn_point){.first = a, .last = b, .setting = s, .variant = v};
                    fill_point(r, sums, p);
                    fill_cost(o, p);
                }
    }
    crn_frontier_mark(o->points, o->n_points);
    return 0;
}

int crn_result_read(const char *path, struct crn_result *out, char *why, size_t why_bytes)
{
    struct reader r = {.path = path, .out = out, .why = why, .why_bytes = why_bytes};
    *out = (struct crn_result){0};
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        int status = -errno;
        snprintf(why, why_bytes, "%s: %s", path, cairn_strerror(status));
        return status;
    }
    int status = read_lines(&r, file);
    fclose(file);
    if (status == 0)
        status = make_points(&r);
    if (status == -ENOMEM)
        snprintf(why, why_bytes, "%s: %s", path, cairn_strerror(status));
    free(r.runs);
    if (status != 0)
        crn_result_free(out);
    return status;
}

void crn_result_free(struct crn_result *r)
{
    for (uint32_t i = 0; i < r->n_settings && i < CRN_RESULT_MAX_SETTINGS; i++) {
        free(r->settings[i].kept);
        free(r->settings[i].bytes);
    }
    free(r->points);
    free(r->alone);
    *r = (struct crn_result){0};
}

bool crn_result_is_tuned(const struct crn_result *r, const struct crn_point *p)
{
    return crn_point_layers(p) > 0 && p->variant + 1 == r->n_variants;
}

double crn_result_share(const struct crn_result *r, const struct crn_point *p)
{
    return (double)crn_point_layers(p) / r->n_layers;
}

double crn_result_cost(const struct crn_result *r, const struct crn_point *p)
{
    return r->own.cost_s > 0 ? p->cost_s / r->own.cost_s : 0;
}

double crn_result_bytes(const struct crn_result *r, const struct crn_point *p)
{
    double bytes = 0, whole = 0;
    for (uint32_t l = 0; l < r->n_layers; l++)
        if (crn_point_layers(p) == 0 || l < p->first || l > p->last) {
            bytes += r->settings[p->setting].bytes[l];
            whole += r->settings[0].bytes[l];
        }
    return whole > 0 ? bytes / whole : 0;
}

double crn_result_kept(const struct crn_result *r, const struct crn_point *p)
{
    double kept = 0, n = 0;
    for (uint32_t l = 0; l < r->n_layers; l++)
        if (crn_point_layers(p) == 0 || l < p->first || l > p->last) {
            kept += r->settings[p->setting].kept[l];
            n++;
        }
    return n > 0 ? kept / n : 0;
}
