/* Fitting all maps of a pair in one pass over the contexts. Variants that differ in what they were fitted on (weight, tokens) have
 * normal equations of their own; lambda, rank and storage are decided when these are solved. The pass stops at the deepest start:
 * layers behind it are of no interest. States may be kept in a directory, keyed by model and tokens: other pairs of the same models
 * then cost no prefill. */
#include "tools/profile/maps.h"

#include "ipc/hash.h"
#include "tools/map_file.h"
#include "tools/profile/tune.h"
#include "tools/worker/pass.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fitting {
    enum crn_fit_weight weight;
    uint32_t n_tokens;
    struct crn_fit *layers; /* [n_layers] */
};

struct job {
    const struct crn_maps *m;
    uint32_t n_layers, deepest;
    size_t hidden;
    uint8_t *fitted; /* [n_layers]: starts with a missing map */
    struct fitting fittings[CRN_PROFILE_MAX_VARIANTS];
    uint32_t n_fittings, of_variant[CRN_PROFILE_MAX_VARIANTS + 1];
    float **from, **to; /* [n_layers][n][hidden] of the context in hand */
};

const char *crn_maps_path(const struct crn_profile_options *o, uint32_t layer, uint32_t variant, char out[4096])
{
    if (o->variants[variant].tuned)
        snprintf(out, 4096, "%s/maps/%u-%u.tuned.map.gguf", o->out, layer, crn_profile_tuned_at(o, layer)->last);
    else
        snprintf(out, 4096, "%s/maps/%u-%u.map.gguf", o->out, layer, variant);
    return out;
}

/* Does anything start there that wants this map? */
static int is_wanted(const struct job *j, uint32_t variant, uint32_t layer)
{
    const struct crn_profile_variant *v = &j->m->options->variants[variant];
    return v->tuned ? crn_profile_tuned_at(j->m->options, layer) != NULL : j->m->starts[layer] && !v->plain;
}

static int is_missing(const struct job *j, uint32_t variant, uint32_t layer)
{
    char path[4096];
    const struct crn_profile_variant *v = &j->m->options->variants[variant];
    if (!is_wanted(j, variant, layer) || v->file[0] != '\0')
        return 0;
    int known = v->tuned || j->m->known[(size_t)variant * j->n_layers + layer]; /* a tuned map's file says by its name what it is */
    return !known || access(crn_maps_path(j->m->options, layer, variant, path), R_OK) != 0;
}

/* ---- states ---- */

static const char *state_path(const struct job *j, const struct crn_engine *e, const struct crn_ids *ids, uint32_t layer,
                              char out[4096])
{
    char model[33];
    cairn_digest_text(&e->weights->digest, model);
    snprintf(out, 4096, "%s/%.16s-%016llx-%u.f32", j->m->options->state_cache, model,
             (unsigned long long)crn_hash64(ids->ids, ids->n * sizeof *ids->ids), layer);
    return out;
}

static int load_state(const struct job *j, const struct crn_engine *e, const struct crn_ids *ids, uint32_t layer, float *rows)
{
    char path[4096];
    FILE *file = j->m->options->state_cache != NULL ? fopen(state_path(j, e, ids, layer, path), "re") : NULL;
    if (file == NULL)
        return CAIRN_E_MISS;
    int whole = fread(rows, j->hidden * sizeof *rows, ids->n, file) == ids->n && fgetc(file) == EOF;
    fclose(file);
    return whole ? 0 : CAIRN_E_MISS;
}

/* A state that cannot be kept is made again next time: not an error. */
static void store_state(const struct job *j, const struct crn_engine *e, const struct crn_ids *ids, uint32_t layer,
                        const float *rows)
{
    char path[4096], part[4112];
    if (j->m->options->state_cache == NULL)
        return;
    snprintf(part, sizeof part, "%s.part", state_path(j, e, ids, layer, path));
    FILE *file = fopen(part, "we");
    if (file == NULL)
        return;
    int whole = fwrite(rows, j->hidden * sizeof *rows, ids->n, file) == ids->n;
    whole &= fclose(file) == 0;
    if (!whole || rename(part, path) != 0)
        remove(part);
}

static int compute_states(const struct job *j, struct crn_engine *e, const struct crn_ids *ids, float **rows)
{
    const struct crn_model_shape *s = &e->weights->shape;
    struct crn_pass pass;
    int status = crn_pass_begin(&pass, e, ids->ids, (uint32_t)ids->n, 0);
    for (uint32_t l = 0; l <= j->deepest && status == 0; l++) {
        struct crn_kv kv = {0};
        if (j->fitted[l]) {
            memcpy(rows[l], pass.h, ids->n * j->hidden * sizeof *pass.h);
            store_state(j, e, ids, l, rows[l]);
        }
        if (l == j->deepest)
            break;
        status = crn_kv_init(&kv, e->kv_dtype, s->n_kv_heads, s->head_dim, (uint32_t)ids->n);
        if (status == 0)
            status = crn_pass_layer(&pass, l, NULL, 0, &kv, NULL, 0);
        crn_kv_free(&kv);
    }
    crn_pass_end(&pass);
    return status;
}

static int states_of(const struct job *j, struct crn_engine *e, const struct crn_ids *ids, float **rows)
{
    int missing = 0;
    for (uint32_t l = 0; l <= j->deepest; l++) {
        if (!j->fitted[l])
            continue;
        float *grown = realloc(rows[l], ids->n * j->hidden * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        rows[l] = grown;
        missing |= load_state(j, e, ids, l, grown) != 0;
    }
    return missing ? compute_states(j, e, ids, rows) : 0;
}

/* ---- fitting ---- */

static int fit_context(struct job *j, const struct crn_ids *ids)
{
    int status = states_of(j, j->m->producer, ids, j->from);
    if (status == 0)
        status = states_of(j, j->m->receiver, ids, j->to);
    for (uint32_t i = 0; i < j->n_fittings && status == 0; i++) {
        struct fitting *f = &j->fittings[i];
        for (uint32_t l = 0; l <= j->deepest; l++)
            if (j->fitted[l] && (f->n_tokens == 0 || f->layers[l].n < f->n_tokens))
                crn_fit_add(&f->layers[l], j->from[l], j->to[l], ids->n);
    }
    return status;
}

static int fit_contexts(struct job *j)
{
    const struct crn_dataset *set = j->m->set;
    int status = 0;
    j->m->stage(j->m->progress_ctx, "fitting maps", set->n / j->m->every);
    for (uint32_t i = j->m->every - 1; i < set->n && status == 0; i += j->m->every) {
        status = fit_context(j, &set->contexts[i].ids);
        j->m->progress(j->m->progress_ctx, 1);
    }
    return status;
}

/* ---- tuning ---- */

/* A number of a JSON line: there is none for what is no number. */
static const char *number(double value, char out[24])
{
    snprintf(out, 24, isfinite(value) ? "%.5g" : "null", value);
    return out;
}

/* full [d][d + 1], solved, becomes better for the run that starts there; told: what came of it, for the map's line. */
static int tune(struct job *j, const struct crn_profile_variant *v, const struct crn_fit *fit, uint32_t layer, float *full,
                char told[200])
{
    const struct crn_maps *m = j->m;
    const struct crn_profile_run *run = crn_profile_tuned_at(m->options, layer);
    struct crn_tuned tuned;
    struct crn_tune t = {.producer = m->producer,
                         .receiver = m->receiver,
                         .set = m->set,
                         .every = m->every,
                         .first = layer,
                         .last = run->last,
                         .epochs = CRN_TUNE_EPOCHS,
                         .answers = m->answers,
                         .fit = fit,
                         .lambda = v->lambda,
                         .progress = m->progress,
                         .progress_ctx = m->progress_ctx};
    double contexts = m->set->n / m->every;
    m->stage(m->progress_ctx, "tuning a map", contexts + contexts * CRN_TUNE_EPOCHS * 7 / 8);
    char before[24], after[24];
    int status = crn_tune_map(&t, full, &tuned);
    snprintf(told, 200, ",\"last\":%u,\"contexts\":%u,\"held_out\":%u,\"kl_before\":%s,\"kl_after\":%s,\"part\":%.4g,\"better\":%s", run->last,
             tuned.contexts, tuned.held_out, number(tuned.kl_before, before), number(tuned.kl_after, after), tuned.part,
             tuned.better ? "true" : "false");
    return status;
}

/* ---- files ---- */

static int write_map(struct job *j, uint32_t variant, uint32_t layer)
{
    const struct crn_profile_options *o = j->m->options;
    const struct crn_profile_variant *v = &o->variants[variant];
    const struct crn_fit *fit = &j->fittings[j->of_variant[variant]].layers[layer];
    float *full = malloc(j->hidden * (j->hidden + 1) * sizeof *full), *low = NULL;
    struct cairn_map_view map = {.w = full, .hidden = (uint32_t)j->hidden, .rank = v->rank < j->hidden ? v->rank : 0};
    struct crn_map_note note = {.producer = o->producer.label,
                                .receiver = o->receiver.label,
                                .producer_digest = j->m->producer->weights->digest,
                                .receiver_digest = j->m->receiver->weights->digest,
                                .layer = layer};
    double explained = 0;
    char path[4096], told[200] = "";
    int status = full != NULL ? crn_fit_solve(fit, v->lambda, full, &explained) : -ENOMEM;
    if (status == 0 && v->tuned)
        status = tune(j, v, fit, layer, full, told);
    if (status == 0 && map.rank > 0) {
        map.w = low = malloc((2 * (size_t)map.rank + 1) * j->hidden * sizeof *low);
        status = low != NULL ? crn_fit_reduce(fit, full, map.rank, low) : -ENOMEM;
    }
    if (status == 0)
        status = crn_map_file_write(crn_maps_path(o, layer, variant, path), &map, &note, v->half);
    if (status == 0 && !v->tuned)
        snprintf(told, sizeof told, ",\"explained\":%.5g", explained);
    if (status == 0 && (fprintf(j->m->out, "{\"map\":%u,\"variant\":%u,\"tokens\":%llu%s}\n", layer, variant,
                                (unsigned long long)fit->n, told) < 0 ||
                        fflush(j->m->out) != 0))
        status = -EIO;
    free(low);
    free(full);
    return status;
}

static int prepare(struct job *j)
{
    const struct crn_profile_options *o = j->m->options;
    j->n_layers = j->m->receiver->weights->shape.n_layers;
    j->hidden = j->m->receiver->weights->shape.hidden;
    j->fitted = calloc(j->n_layers, 1);
    j->from = calloc(j->n_layers, sizeof *j->from);
    j->to = calloc(j->n_layers, sizeof *j->to);
    int status = j->fitted != NULL && j->from != NULL && j->to != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i <= o->n_variants && status == 0; i++) {
        uint32_t f = 0;
        for (uint32_t l = 1; l < j->n_layers; l++)
            if (is_missing(j, i, l)) {
                j->fitted[l] = 1;
                j->deepest = l > j->deepest ? l : j->deepest;
            }
        while (f < j->n_fittings &&
               (j->fittings[f].weight != o->variants[i].weight || j->fittings[f].n_tokens != o->variants[i].n_tokens))
            f++;
        j->of_variant[i] = f;
        if (f < j->n_fittings)
            continue;
        j->fittings[j->n_fittings++] = (struct fitting){.weight = o->variants[i].weight,
                                                        .n_tokens = o->variants[i].n_tokens,
                                                        .layers = calloc(j->n_layers, sizeof(struct crn_fit))};
        status = j->fittings[f].layers != NULL ? 0 : -ENOMEM;
    }
    for (uint32_t f = 0; f < j->n_fittings; f++)
        for (uint32_t l = 1; l < j->n_layers && status == 0; l++)
            if (j->fitted[l])
                status = crn_fit_init(&j->fittings[f].layers[l], (uint32_t)j->hidden, j->fittings[f].weight);
    return status;
}

static void release(struct job *j)
{
    for (uint32_t l = 0; l < j->n_layers; l++) {
        for (uint32_t f = 0; f < j->n_fittings; f++)
            if (j->fittings[f].layers != NULL)
                crn_fit_free(&j->fittings[f].layers[l]);
        if (j->from != NULL)
            free(j->from[l]);
        if (j->to != NULL)
            free(j->to[l]);
    }
    for (uint32_t f = 0; f < j->n_fittings; f++)
        free(j->fittings[f].layers);
    free(j->from);
    free(j->to);
    free(j->fitted);
}

static int read_maps(const struct job *j, struct cairn_map_view *out_maps)
{
    const struct crn_profile_options *o = j->m->options;
    char path[4096], why[400];
    int status = 0;
    for (uint32_t i = 0; i <= o->n_variants; i++)
        for (uint32_t l = 1; l < j->n_layers && status == 0; l++) {
            if (!is_wanted(j, i, l))
                continue;
            if (o->variants[i].file[0] != '\0')
                snprintf(path, sizeof path, "%s", o->variants[i].file);
            else
                crn_maps_path(o, l, i, path);
            status = crn_map_file_read(path, &out_maps[(size_t)i * j->n_layers + l], NULL, why, sizeof why);
            if (status != 0)
                fprintf(stderr, "cairn-profiler: %s\n", why);
        }
    return status;
}

int crn_maps_make(const struct crn_maps *m, struct cairn_map_view *out_maps)
{
    struct job j = {.m = m};
    int status = prepare(&j);
    if (status == 0 && j.deepest > 0)
        status = fit_contexts(&j);
    for (uint32_t i = 0; i <= m->options->n_variants; i++)
        for (uint32_t l = 1; l < j.n_layers && status == 0; l++)
            if (is_missing(&j, i, l))
                status = write_map(&j, i, l);
    if (status == 0)
        status = read_maps(&j, out_maps);
    release(&j);
    return status;
}
