/* See the header for what is shared. Times are of this machine as it is: wall clock, per part, so that the cost of a run can be put
 * together from means over all contexts. The lines written hold one number per question, so intervals can be computed later.
 * It fits no maps and judges no frontier. */
#include "tools/profile/measure.h"

#include "tools/profile/suffix.h"
#include "tools/worker/prefill.h"
#include "tools/worker/state_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct job {
    struct crn_measure *m;
    const struct crn_dataset_context *context;
    const struct crn_measure_known *known;
    uint32_t index, n_layers, n; /* n: tokens */
    size_t hidden;
    struct crn_cache theirs, own; /* whole prefills */
    float **states;               /* [n_layers][n][hidden], NULL where no run starts */
    struct crn_cut *cuts;         /* [n_settings] */
    struct crn_suffix suffix;
    struct crn_questions questions;
    float ***at;      /* [n_settings][n_layers][rows][hidden]: suffix entering a start over the producer's layers */
    double prefill_s, work, total_work;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int is_wanted(const struct job *j, uint32_t variant, uint32_t a, uint32_t b)
{
    size_t i = (size_t)a * j->n_layers + b;
    return (j->m->wanted[i] & ~j->known->run[i] & (variant < j->m->n_variants ? CRN_WANTED_FITTED : CRN_WANTED_TUNED)) != 0;
}

/* Ways to make maps that matter at a start, first to end - 1. A run that starts at layer 0 has nothing to map. */
static uint32_t variants_end(const struct job *j, uint32_t a)
{
    return a > 0 ? j->m->n_variants + 1 : 1;
}

/* Is there a run to be measured from here with this way? The farthest one's end. */
static int starts_with(const struct job *j, uint32_t variant, uint32_t a, uint32_t *out_last)
{
    int any = 0;
    for (uint32_t b = a; b < j->n_layers; b++)
        if (is_wanted(j, variant, a, b)) {
            any = 1;
            *out_last = b;
        }
    return any;
}

static int starts_at(const struct job *j, uint32_t a)
{
    uint32_t last;
    int any = 0;
    for (uint32_t i = 0; i < variants_end(j, a); i++)
        any |= starts_with(j, i, a, &last);
    return any;
}

/* Work is counted in layers over the suffix's rows; progress is told as a share. */
static void worked(struct job *j, double layers)
{
    if (j->m->progress != NULL && j->total_work > 0)
        j->m->progress(j->m->progress_ctx, layers / j->total_work);
}

/* ---- prefills ---- */

static int watch_state(void *ctx, uint32_t layer, const float *h, const int32_t *pos, uint32_t n)
{
    struct job *j = ctx;
    (void)pos;
    if (layer == 0 || !starts_at(j, layer))
        return 0;
    j->states[layer] = malloc(n * j->hidden * sizeof **j->states);
    if (j->states[layer] == NULL)
        return -ENOMEM;
    memcpy(j->states[layer], h, n * j->hidden * sizeof *h);
    return 0;
}

static int prefill(struct job *j, struct crn_engine *e, struct crn_cache *cache, const struct crn_prefill_watch *watch)
{
    struct crn_prefill p = {.tokens = j->context->ids.ids, .n = j->n, .watch = watch};
    int status = crn_cache_init(cache, j->n_layers);
    return status != 0 ? status : crn_prefill(e, &p, cache, NULL);
}

static int prefills(struct job *j)
{
    struct crn_prefill_watch watch = {.ctx = j, .state = watch_state};
    int status = prefill(j, j->m->producer, &j->theirs, &watch);
    double start = now_s();
    worked(j, j->n_layers);
    if (status == 0)
        status = prefill(j, j->m->receiver, &j->own, NULL);
    j->prefill_s = now_s() - start;
    worked(j, j->n_layers);
    return status;
}

/* out [n_settings]: cache, which a prefill of this engine made, as each setting leaves it. */
static int make_cuts(struct job *j, struct crn_engine *e, const struct crn_cache *cache, struct crn_cut *out)
{
    const struct crn_model_shape *s = &e->weights->shape;
    struct crn_select select = {.e = e,
                                .cache = cache,
                                .tokens = j->context->ids.ids,
                                .n = j->n,
                                .prompt = j->m->reader_prefix,
                                .n_prompt = j->m->n_reader_prefix};
    float *scores = NULL;
    int status = 0, fewer = 0;
    for (uint32_t i = 0; i < j->m->n_settings; i++)
        fewer |= j->m->settings[i].rule.keep < 1;
    if (fewer) {
        scores = malloc((size_t)s->n_layers * s->n_kv_heads * j->n * sizeof *scores);
        status = scores != NULL ? j->m->selector->score(&select, scores) : -ENOMEM;
    }
    for (uint32_t i = 0; i < j->m->n_settings && status == 0; i++)
        status = crn_cut_make(e, cache, scores, &j->m->settings[i], &out[i]);
    free(scores);
    return status;
}

static size_t suffix_bytes(const struct job *j)
{
    return (size_t)j->suffix.rows * j->hidden * sizeof(float);
}

/* ---- lines ---- */

static void write_scores(FILE *line, const struct crn_suffix_score *scores, uint32_t n, int with_kl)
{
    fprintf(line, "\"exact\":[");
    for (uint32_t i = 0; i < n; i++)
        fprintf(line, "%s%d", i > 0 ? "," : "", scores[i].exact);
    fprintf(line, "],\"nll\":[");
    for (uint32_t i = 0; i < n; i++)
        fprintf(line, "%s%.5g", i > 0 ? "," : "", scores[i].nll);
    fprintf(line, "]");
    if (!with_kl)
        return;
    fprintf(line, ",\"agree\":[");
    for (uint32_t i = 0; i < n; i++)
        fprintf(line, "%s%.4g", i > 0 ? "," : "", scores[i].agree);
    fprintf(line, "],\"kl\":[");
    for (uint32_t i = 0; i < n; i++)
        fprintf(line, "%s%.5g", i > 0 ? "," : "", scores[i].kl);
    fprintf(line, "]");
}

struct line {
    FILE *stream;
    char *text;
    size_t bytes;
    uint32_t n; /* items of the list in hand */
};

static int line_begin(struct line *l)
{
    *l = (struct line){0};
    l->stream = open_memstream(&l->text, &l->bytes);
    return l->stream != NULL ? 0 : -ENOMEM;
}

/* The line appears whole: a profile may be stopped at any moment. */
static int line_end(struct line *l, FILE *out, int status)
{
    int failed = fputs("}\n", l->stream) == EOF;
    failed |= fclose(l->stream) != 0;
    if (status == 0 && !failed)
        failed = fwrite(l->text, 1, l->bytes, out) != l->bytes || fflush(out) != 0;
    free(l->text);
    return status != 0 ? status : failed ? -EIO : 0;
}

/* ---- the receiver's own cache, and plain reuse ---- */

static int own_scores(struct job *j, struct line *line, struct crn_suffix_score *scores)
{
    float *h = malloc(suffix_bytes(j));
    int status = h != NULL ? 0 : -ENOMEM;
    double start = now_s();
    if (status == 0)
        memcpy(h, j->suffix.embedded, suffix_bytes(j));
    for (uint32_t l = 0; l < j->n_layers && status == 0; l++)
        status = crn_suffix_layer(&j->suffix, l, j->own.layers[l].spans, j->own.layers[l].n, h);
    double suffix_s = now_s() - start;
    if (status == 0 && j->questions.own_answers)
        status = crn_suffix_refer(&j->suffix, h);
    if (status == 0)
        status = crn_suffix_score(&j->suffix, h, scores);
    if (status == 0) {
        fprintf(line->stream, "{\"context\":%u,\"tokens\":%u,\"rows\":%u,\"prefill_s\":%.5g,\"suffix_s\":%.5g,\"own\":{", j->index,
                j->n, j->suffix.rows, j->prefill_s, suffix_s);
        write_scores(line->stream, scores, j->suffix.n, j->questions.own_answers);
        fprintf(line->stream, "}");
    }
    worked(j, j->n_layers);
    free(h);
    return status;
}

/* Layers that the suffix goes through on a setting's payloads alone: all for the first setting, whose full reuse is a point of its
 * own, else just those before the deepest start. */
static uint32_t layers_alone(const struct job *j, uint32_t setting)
{
    uint32_t deepest = 0;
    for (uint32_t l = 0; l < j->n_layers; l++)
        deepest = starts_at(j, l) ? l : deepest;
    return setting == 0 ? j->n_layers : deepest + 1;
}

/* The suffix over a setting's payloads alone; its rows are kept wherever a run starts. */
static int full_reuse(struct job *j, uint32_t setting, struct line *line, struct crn_suffix_score *scores)
{
    const struct crn_cut *cut = &j->cuts[setting];
    float *h = malloc(suffix_bytes(j));
    int status = h != NULL ? 0 : -ENOMEM;
    uint32_t n_layers = layers_alone(j, setting);
    double start = now_s();
    if (status == 0)
        memcpy(h, j->suffix.embedded, suffix_bytes(j));
    for (uint32_t l = 0; l < n_layers && status == 0; l++) {
        if (starts_at(j, l)) {
            j->at[setting][l] = malloc(suffix_bytes(j));
            if (j->at[setting][l] == NULL)
                status = -ENOMEM;
            else
                memcpy(j->at[setting][l], h, suffix_bytes(j));
        }
        if (status == 0)
            status = crn_suffix_layer(&j->suffix, l, cut->layers[l].spans, cut->layers[l].n_spans, h);
    }
    double suffix_s = (now_s() - start) * j->n_layers / n_layers;
    if (status == 0 && setting == 0)
        status = crn_suffix_score(&j->suffix, h, scores);
    if (status == 0) {
        fprintf(line->stream, "%s{\"suffix_s\":%.5g,\"kept\":[", setting > 0 ? "," : "", suffix_s);
        for (uint32_t l = 0; l < j->n_layers; l++)
            fprintf(line->stream, "%s%.4g", l > 0 ? "," : "", cut->layers[l].kept);
        fprintf(line->stream, "],\"bytes\":[");
        for (uint32_t l = 0; l < j->n_layers; l++)
            fprintf(line->stream, "%s%llu", l > 0 ? "," : "", (unsigned long long)cut->layers[l].bytes);
        fprintf(line->stream, "]");
        if (setting == 0) {
            fprintf(line->stream, ",");
            write_scores(line->stream, scores, j->suffix.n, j->suffix.reference != NULL);
        }
        fprintf(line->stream, "}");
    }
    worked(j, n_layers);
    free(h);
    return status;
}

static int corners(struct job *j, struct crn_suffix_score *scores)
{
    struct line line;
    int status = line_begin(&line);
    if (status != 0)
        return status;
    status = own_scores(j, &line, scores);
    fprintf(line.stream, ",\"settings\":[");
    for (uint32_t i = 0; i < j->m->n_settings && status == 0; i++)
        status = full_reuse(j, i, &line, scores);
    fprintf(line.stream, "]");
    if (status == 0 && j->known->own) { /* measured again only to get at the rows */
        fclose(line.stream);
        free(line.text);
        return 0;
    }
    return line_end(&line, j->m->out, status);
}

/* ---- the receiver's own cache, cut ---- */

/* The questions' rows, h, from a layer on over a cut's payloads, and their scores; before [rows][hidden]: entering that layer. */
static int finish(struct job *j, const struct crn_cut *cut, uint32_t from, const float *before, float *h, struct crn_suffix_score *scores)
{
    int status = 0;
    memcpy(h, before, suffix_bytes(j));
    for (uint32_t l = from; l < j->n_layers && status == 0; l++)
        status = crn_suffix_layer(&j->suffix, l, cut->layers[l].spans, cut->layers[l].n_spans, h);
    worked(j, j->n_layers - from);
    return status != 0 ? status : crn_suffix_score(&j->suffix, h, scores);
}

static int own_cuts(struct job *j, struct crn_suffix_score *scores)
{
    uint32_t n = j->m->n_settings;
    struct crn_cut *cuts = calloc(n, sizeof *cuts);
    float *h = malloc(suffix_bytes(j));
    struct line line;
    int status = cuts != NULL && h != NULL ? line_begin(&line) : -ENOMEM;
    if (status == 0) {
        status = make_cuts(j, j->m->receiver, &j->own, cuts);
        fprintf(line.stream, "{\"context\":%u,\"corners\":[", j->index);
        for (uint32_t i = 0; i < n && status == 0; i++) {
            status = finish(j, &cuts[i], 0, j->suffix.embedded, h, scores);
            fprintf(line.stream, "%s{", i > 0 ? "," : "");
            write_scores(line.stream, scores, j->suffix.n, j->suffix.reference != NULL);
            fprintf(line.stream, "}");
        }
        fprintf(line.stream, "]");
        status = line_end(&line, j->m->out, status);
    }
    for (uint32_t i = 0; i < n && cuts != NULL; i++)
        crn_cut_free(&cuts[i]);
    free(cuts);
    free(h);
    return status;
}

/* ---- one layer reused alone ---- */

static int alone_from(struct job *j, uint32_t layer, const float *before, float *h, struct crn_suffix_score *scores)
{
    const struct crn_cut_layer *theirs = &j->cuts[0].layers[layer];
    memcpy(h, before, suffix_bytes(j));
    int status = crn_suffix_layer(&j->suffix, layer, theirs->spans, theirs->n_spans, h);
    for (uint32_t l = layer + 1; l < j->n_layers && status == 0; l++)
        status = crn_suffix_layer(&j->suffix, l, j->own.layers[l].spans, j->own.layers[l].n, h);
    worked(j, j->n_layers - layer);
    return status != 0 ? status : crn_suffix_score(&j->suffix, h, scores);
}

static int sensitivity(struct job *j, struct crn_suffix_score *scores)
{
    struct line line;
    float *before = malloc(suffix_bytes(j)), *h = malloc(suffix_bytes(j));
    int status = before != NULL && h != NULL ? line_begin(&line) : -ENOMEM;
    if (status != 0) {
        free(before);
        free(h);
        return status;
    }
    memcpy(before, j->suffix.embedded, suffix_bytes(j));
    fprintf(line.stream, "{\"context\":%u,\"alone\":[", j->index);
    for (uint32_t l = 0; l < j->n_layers && status == 0; l++) {
        status = alone_from(j, l, before, h, scores);
        fprintf(line.stream, "%s{", l > 0 ? "," : "");
        if (status == 0)
            write_scores(line.stream, scores, j->suffix.n, j->suffix.reference != NULL);
        fprintf(line.stream, "}");
        if (status == 0)
            status = crn_suffix_layer(&j->suffix, l, j->own.layers[l].spans, j->own.layers[l].n, before);
    }
    fprintf(line.stream, "]");
    free(before);
    free(h);
    return line_end(&line, j->m->out, status);
}

/* ---- runs ---- */

struct run {
    uint32_t first, last; /* last: the farthest end */
    uint32_t variant;
    struct crn_pass pass;
    struct crn_kv *kv; /* [n_layers], private */
    double map_s, layer_s, keys_s;
};

/* The state as stored, then mapped. */
static int take_state(struct job *j, struct run *r)
{
    struct crn_engine *e = j->m->receiver;
    if (r->first == 0)
        return crn_pass_begin(&r->pass, e, j->context->ids.ids, j->n, 0);
    int status = crn_pass_begin_rows(&r->pass, e, j->n);
    for (uint32_t i = 0; i < j->n && status == 0; i++)
        r->pass.pos[i] = (int32_t)i;
    if (status == 0)
        status = crn_cut_state(e, j->states[r->first], j->n * j->hidden, r->pass.h);
    double start = now_s();
    const struct cairn_map_view *map = &j->m->maps[r->variant * j->n_layers + r->first];
    if (status == 0 && map->w != NULL)
        status = crn_state_map_apply(e, map, r->pass.h, j->n);
    r->map_s = now_s() - start;
    return status;
}

/* Layers first .. last of the receiver, kept; what the last one of a run costs (K and V only) is measured at the first. */
static int run_layers(struct job *j, struct run *r)
{
    struct crn_engine *e = j->m->receiver;
    const struct crn_model_shape *s = &e->weights->shape;
    int status = take_state(j, r);
    for (uint32_t l = r->first; l <= r->last && status == 0; l++) {
        status = crn_kv_init(&r->kv[l], e->kv_dtype, s->n_kv_heads, s->head_dim, j->n);
        double start = now_s();
        if (status == 0 && (l == r->first || l == r->last)) {
            status = crn_pass_keys(&r->pass, l, &r->kv[l]);
            r->keys_s = now_s() - start;
        }
        if (l == r->last || status != 0)
            break;
        if (l == r->first)
            crn_kv_truncate(&r->kv[l], 0);
        start = now_s();
        status = crn_pass_layer(&r->pass, l, NULL, 0, &r->kv[l], NULL, 0);
        r->layer_s += (now_s() - start) / (r->last - r->first);
    }
    worked(j, (double)(r->last - r->first + 1) * j->n / j->suffix.rows);
    return status;
}

static int ends_of(struct job *j, struct run *r, uint32_t setting, struct line *line, struct crn_suffix_score *scores)
{
    float *before = malloc(suffix_bytes(j)), *h = malloc(suffix_bytes(j));
    int status = before != NULL && h != NULL ? 0 : -ENOMEM;
    if (status == 0)
        memcpy(before, j->at[setting][r->first], suffix_bytes(j));
    for (uint32_t b = r->first; b <= r->last && status == 0; b++) {
        struct crn_span span = crn_kv_span(&r->kv[b], 0, UINT32_MAX);
        status = crn_suffix_layer(&j->suffix, b, &span, 1, before);
        worked(j, 1);
        if (status != 0 || !is_wanted(j, r->variant, r->first, b))
            continue;
        status = finish(j, &j->cuts[setting], b + 1, before, h, scores);
        if (status != 0)
            continue;
        fprintf(line->stream, "%s{\"last\":%u,\"setting\":%u,", line->n++ > 0 ? "," : "", b, setting);
        write_scores(line->stream, scores, j->suffix.n, j->suffix.reference != NULL);
        fprintf(line->stream, "}");
    }
    free(before);
    free(h);
    return status;
}

static int one_start(struct job *j, uint32_t first, uint32_t last, uint32_t variant, struct crn_suffix_score *scores)
{
    struct run r = {.first = first, .last = last, .variant = variant, .kv = calloc(j->n_layers, sizeof *r.kv)};
    struct line runs, line;
    int status = r.kv != NULL ? line_begin(&runs) : -ENOMEM;
    if (status != 0) {
        free(r.kv);
        return status;
    }
    status = run_layers(j, &r);
    for (uint32_t i = 0; i < j->m->n_settings && status == 0; i++)
        status = ends_of(j, &r, i, &runs, scores);
    fclose(runs.stream);
    if (status == 0)
        status = line_begin(&line);
    if (status == 0) {
        fprintf(line.stream, "{\"context\":%u,\"start\":%u,\"variant\":%u,\"map_s\":%.5g,\"layer_s\":%.5g,\"keys_s\":%.5g,\"runs\":[%s]",
                j->index, first, variant, r.map_s, r.layer_s, r.keys_s, runs.text);
        status = line_end(&line, j->m->out, 0);
    }
    free(runs.text);
    for (uint32_t l = 0; l < j->n_layers; l++)
        crn_kv_free(&r.kv[l]);
    free(r.kv);
    crn_pass_end(&r.pass);
    return status;
}

static int all_variants(struct job *j, uint32_t first, struct crn_suffix_score *scores)
{
    uint32_t last;
    int status = 0;
    for (uint32_t i = 0; i < variants_end(j, first) && status == 0; i++)
        if (starts_with(j, i, first, &last))
            status = one_start(j, first, last, i, scores);
    return status;
}

/* ---- a context ---- */

static double work_of(const struct job *j)
{
    double rows = 0, run_rows = 0, layers = 3.0 * j->n_layers;
    for (uint32_t i = 0; i < j->context->n; i++)
        rows += (double)j->context->questions[i].ids.n;
    for (uint32_t i = 0; i < j->m->n_settings; i++)
        layers += layers_alone(j, i);
    for (uint32_t a = 0, last; a < j->n_layers; a++)
        for (uint32_t v = 0; v < variants_end(j, a); v++) {
            if (!starts_with(j, v, a, &last))
                continue;
            run_rows += (last - a + 1.0) * j->n;
            layers += j->m->n_settings * (last - a + 1.0);
            for (uint32_t b = a; b <= last; b++)
                layers += is_wanted(j, v, a, b) ? (double)j->m->n_settings * (j->n_layers - 1 - b) : 0;
        }
    if (j->m->corners && !j->known->corners)
        layers += (double)j->m->n_settings * j->n_layers;
    if (j->m->sensitivity && !j->known->alone)
        layers += j->n_layers * (j->n_layers + 1) / 2.0;
    return layers + run_rows / (rows > 0 ? rows : 1);
}

static int prepare(struct job *j)
{
    size_t settings = j->m->n_settings;
    j->states = calloc(j->n_layers, sizeof *j->states);
    j->cuts = calloc(settings, sizeof *j->cuts);
    j->at = calloc(settings, sizeof *j->at);
    if (j->states == NULL || j->cuts == NULL || j->at == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < settings; i++) {
        j->at[i] = calloc(j->n_layers, sizeof **j->at);
        if (j->at[i] == NULL)
            return -ENOMEM;
    }
    j->total_work = work_of(j);
    return 0;
}

static void release(struct job *j)
{
    for (uint32_t i = 0; i < j->m->n_settings; i++) {
        for (uint32_t l = 0; l < j->n_layers && j->at != NULL && j->at[i] != NULL; l++)
            free(j->at[i][l]);
        if (j->at != NULL)
            free(j->at[i]);
        if (j->cuts != NULL)
            crn_cut_free(&j->cuts[i]);
    }
    for (uint32_t l = 0; l < j->n_layers && j->states != NULL; l++)
        free(j->states[l]);
    free(j->at);
    free(j->cuts);
    free(j->states);
    crn_suffix_end(&j->suffix);
    crn_questions_free(&j->questions);
    crn_cache_free(&j->theirs);
    crn_cache_free(&j->own);
}

int crn_measure_context(struct crn_measure *m, uint32_t index, const struct crn_dataset_context *context,
                        const struct crn_measure_known *known)
{
    struct job j = {.m = m, .context = context, .known = known, .index = index};
    j.n_layers = m->receiver->weights->shape.n_layers;
    j.hidden = m->receiver->weights->shape.hidden;
    j.n = (uint32_t)context->ids.n;
    struct crn_suffix_score *scores = calloc(context->n, sizeof *scores);
    int status = scores != NULL ? prepare(&j) : -ENOMEM;
    if (status == 0)
        status = prefills(&j);
    if (status == 0)
        status = make_cuts(&j, m->producer, &j.theirs, j.cuts);
    if (status == 0)
        status = crn_questions_make(context, m->receiver, &j.own, &m->answers, &j.questions);
    if (status == 0)
        status = crn_suffix_begin(&j.suffix, m->receiver, j.questions.list, j.questions.n, j.n);
    if (status == 0)
        status = corners(&j, scores);
    if (status == 0 && m->corners && !known->corners)
        status = own_cuts(&j, scores);
    if (status == 0 && m->sensitivity && !known->alone)
        status = sensitivity(&j, scores);
    for (uint32_t a = 0; a < j.n_layers && status == 0; a++)
        status = all_variants(&j, a, scores);
    release(&j);
    free(scores);
    return status;
}
