/* Plan files. Everything in them is checked here, so that what goes to the broker is a plan; whether it fits a family, only the
 * broker knows. */
#include "tools/plan_file.h"

#include "tools/json.h"
#include "tools/map_file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *path;
    struct crn_plan_file *file;
    char *why;
    size_t why_bytes;
};

static int bad(const struct reader *r, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int bad(const struct reader *r, int code, const char *format, ...)
{
    char text[200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(r->why, r->why_bytes, "%s: %s", r->path, text);
    return code;
}

/* ---- JSON ---- */

static int read_label(const struct reader *r, const struct crn_json *root, const char *key, char out[64])
{
    const char *text;
    if (crn_json_text(crn_json_get(root, key), &text) != 0 || text[0] == '\0' ||
        strlen(text) > CAIRN_MAX_LABEL)
        return bad(r, CAIRN_E_FORMAT, "\"%s\" must be a label of 1..%u bytes", key, CAIRN_MAX_LABEL);
    snprintf(out, 64, "%s", text);
    return 0;
}

static int read_digest(const struct reader *r, const struct crn_json *root, const char *key,
                       struct cairn_digest *out)
{
    const char *text;
    int status = crn_json_text(crn_json_get(root, key), &text);
    if (status == CAIRN_E_MISS)
        return 0;
    if (status != 0 || cairn_digest_parse(text, out) != 0)
        return bad(r, CAIRN_E_FORMAT, "\"%s\" must be 32 hex digits", key);
    return 0;
}

/* [a, b], both included. */
static int read_span(const struct reader *r, const struct crn_json *span, const char *what,
                     uint32_t *out_first, uint32_t *out_last)
{
    uint32_t a, b;
    if (crn_json_n(span) != 2 || crn_json_u32(crn_json_at(span, 0), &a) != 0 ||
        crn_json_u32(crn_json_at(span, 1), &b) != 0 || a > b || b >= CAIRN_MAX_LAYERS)
        return bad(r, CAIRN_E_FORMAT, "\"%s\" must be [first, last] with first <= last < %u", what,
                   CAIRN_MAX_LAYERS);
    *out_first = a;
    *out_last = b;
    if (b >= r->file->n_layers)
        r->file->n_layers = b + 1;
    return 0;
}

static int read_run(const struct reader *r, const struct crn_json *root)
{
    struct cairn_plan *plan = &r->file->put.plan;
    const struct crn_json *run = crn_json_get(root, "run");
    if (run == NULL)
        return bad(r, CAIRN_E_FORMAT, "\"run\" is missing");
    plan->first = 1; /* first > last: none */
    plan->last = 0;
    char *text = crn_json_compact(run);
    int none = text != NULL && strcmp(text, "[]") == 0;
    free(text);
    return none ? 0 : read_span(r, run, "run", &plan->first, &plan->last);
}

static int read_budgets(const struct reader *r, const struct crn_json *root)
{
    const struct crn_json *list = crn_json_get(root, "budgets");
    size_t n = crn_json_n(list);
    if (n > CRN_PLAN_FILE_BUDGETS)
        return bad(r, CAIRN_E_TOO_BIG, "more than %u budgets", CRN_PLAN_FILE_BUDGETS);
    for (size_t i = 0; i < n; i++) {
        struct cairn_budget *b = &r->file->budgets[i];
        const struct crn_json *item = crn_json_at(list, i);
        double keep;
        int status = read_span(r, crn_json_get(item, "layers"), "layers", &b->first, &b->last);
        if (status != 0)
            return status;
        if (crn_json_real(crn_json_get(item, "keep"), &keep) != 0 || !(keep >= 0 && keep <= 1))
            return bad(r, CAIRN_E_FORMAT, "budget %zu: \"keep\" must be in 0..1", i);
        b->keep = (float)keep;
    }
    r->file->put.budgets = r->file->budgets;
    r->file->put.n_budgets = (uint32_t)n;
    return 0;
}

static int read_share(const struct reader *r, const struct crn_json *measured, const char *key, float *out)
{
    double share;
    if (crn_json_real(crn_json_get(measured, key), &share) != 0 || !(share >= 0 && share <= 1))
        return bad(r, CAIRN_E_FORMAT, "\"measured\": \"%s\" must be in 0..1", key);
    *out = (float)share;
    return 0;
}

static int read_measured(const struct reader *r, const struct crn_json *root)
{
    struct cairn_plan *plan = &r->file->put.plan;
    const struct crn_json *measured = crn_json_get(root, "measured");
    int status = read_share(r, measured, "own_exact", &plan->own_exact);
    if (status == 0)
        status = read_share(r, measured, "exact", &plan->exact);
    if (status != 0)
        return status;
    if (crn_json_u32(crn_json_get(measured, "questions"), &plan->questions) != 0)
        return bad(r, CAIRN_E_FORMAT, "\"measured\": \"questions\" must be a number");
    if (plan->own_exact <= 0)
        return bad(r, CAIRN_E_FORMAT, "\"measured\": \"own_exact\" is 0: nothing to compare with");
    plan->quality = plan->exact / plan->own_exact;
    return 0;
}

/* The settings that the run was measured under, but for the one that keeps everything; the first CAIRN_PLAN_MEASURED of them. */
static int read_settings(const struct reader *r, const struct crn_json *root)
{
    struct cairn_plan *plan = &r->file->put.plan;
    const struct crn_json *measured = crn_json_get(root, "measured"), *list = crn_json_get(measured, "settings");
    const char *by = "exact";
    crn_json_text(crn_json_get(measured, "quality"), &by);
    if (strcmp(by, "exact") != 0 && strcmp(by, "agreement") != 0)
        return bad(r, CAIRN_E_FORMAT, "\"measured\": \"quality\" must be \"exact\" or \"agreement\"");
    for (size_t i = 0; i < crn_json_n(list) && plan->n_measured < CAIRN_PLAN_MEASURED; i++) {
        const struct crn_json *item = crn_json_at(list, i);
        struct cairn_measured *m = &plan->measured[plan->n_measured];
        bool int8 = false;
        int status = read_share(r, item, "keep", &m->keep);
        if (status == 0)
            status = read_share(r, item, "kept", &m->kept);
        if (status == 0)
            status = read_share(r, item, by, &m->quality);
        if (status == 0 && crn_json_get(item, "int8") != NULL && crn_json_bool(crn_json_get(item, "int8"), &int8) != 0)
            status = bad(r, CAIRN_E_FORMAT, "\"settings\" %zu: \"int8\" must be true or false", i);
        if (status != 0)
            return status;
        m->quality = m->quality < plan->own_exact ? m->quality / plan->own_exact : 1; /* better than the own one is luck */
        m->int8 = int8;
        plan->n_measured += m->keep < 1 || int8 ? 1 : 0;
    }
    return 0;
}

static int read_layers(const struct reader *r, const struct crn_json *root, uint32_t known)
{
    struct cairn_plan *plan = &r->file->put.plan;
    uint32_t n = known, named = r->file->n_layers;
    int status = known == 0 ? crn_json_u32(crn_json_get(root, "n_layers"), &n) : 0;
    if (status == CAIRN_E_MISS)
        n = named;
    else if (status != 0 || n < named || n > CAIRN_MAX_LAYERS)
        return bad(r, CAIRN_E_FORMAT, "n_layers must be in %u..%u", named, CAIRN_MAX_LAYERS);
    r->file->n_layers = n;
    plan->cost = plan->first <= plan->last && n > 0 ? (float)(plan->last - plan->first + 1) / (float)n : 0;
    return 0;
}

/* ---- state map ---- */

/* Two known digests that are not the same one. */
static int differ(const struct cairn_digest *a, const struct cairn_digest *b)
{
    static const struct cairn_digest none;
    return memcmp(a, &none, sizeof none) != 0 && memcmp(b, &none, sizeof none) != 0 && memcmp(a, b, sizeof *a) != 0;
}

static int read_map(const struct reader *r, const struct crn_json *root)
{
    const char *name, *slash = strrchr(r->path, '/');
    char path[4096];
    char text[300];
    int status = crn_json_text(crn_json_get(root, "state_map"), &name);
    if (status == CAIRN_E_MISS)
        return 0;
    if (status != 0)
        return bad(r, CAIRN_E_FORMAT, "\"state_map\" must be a file name");
    int dir = slash != NULL && name[0] != '/' ? (int)(slash - r->path + 1) : 0;
    if (snprintf(path, sizeof path, "%.*s%s", dir, r->path, name) >= (int)sizeof path)
        return bad(r, CAIRN_E_TOO_BIG, "\"state_map\": the path is too long");
    struct cairn_plan *plan = &r->file->put.plan;
    struct cairn_digest models[2];
    status = crn_map_file_read(path, &r->file->put.map, models, text, sizeof text);
    if (status != 0)
        return bad(r, status, "state map %s", text);
    if (differ(&models[0], &plan->producer) || differ(&models[1], &plan->receiver))
        return bad(r, CAIRN_E_FORMAT, "state map %s is about other models", path);
    r->file->put.plan.has_map = 1;
    r->file->put.plan.map_rank = r->file->put.map.rank;
    return 0;
}

/* ---- the file ---- */

static int read_all(const struct reader *r, const struct crn_json *root, uint32_t n_layers)
{
    struct crn_plan_file *f = r->file;
    int status = read_label(r, root, "producer", f->producer);
    if (status == 0)
        status = read_label(r, root, "receiver", f->receiver);
    if (status == 0)
        status = read_digest(r, root, "producer_digest", &f->put.plan.producer);
    if (status == 0)
        status = read_digest(r, root, "receiver_digest", &f->put.plan.receiver);
    if (status == 0)
        status = read_run(r, root);
    if (status == 0)
        status = read_budgets(r, root);
    if (status == 0)
        status = read_measured(r, root);
    if (status == 0)
        status = read_settings(r, root);
    if (status == 0)
        status = read_layers(r, root, n_layers);
    if (status == 0)
        status = read_map(r, root);
    if (status != 0)
        return status;
    f->info = crn_json_compact(root);
    f->put.info = f->info;
    return f->info != NULL ? 0 : -ENOMEM;
}

int crn_plan_file_open(const char *path, uint32_t n_layers, struct crn_plan_file **out_file, char *why,
                       size_t why_bytes)
{
    struct crn_json *root;
    int status = crn_json_load(path, &root, why, why_bytes);
    if (status != 0)
        return status;
    struct crn_plan_file *file = calloc(1, sizeof *file);
    struct reader r = {.path = path, .file = file, .why = why, .why_bytes = why_bytes};
    if (file == NULL) {
        crn_json_free(root);
        return bad(&r, -ENOMEM, "plan");
    }
    file->put.struct_size = sizeof file->put;
    status = read_all(&r, root, n_layers);
    crn_json_free(root);
    if (status != 0) {
        crn_plan_file_close(file);
        return status;
    }
    *out_file = file;
    return 0;
}

void crn_plan_file_close(struct crn_plan_file *file)
{
    if (file == NULL)
        return;
    free((void *)(uintptr_t)file->put.map.w);
    free(file->info);
    free(file);
}
