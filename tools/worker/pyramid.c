/* Token selection. The prefill rule follows the public code of PyramidInfer (method.md 2.3.2), not
 * its paper: a factor per layer that compounds, applied to the surviving context, with a cut that
 * would go below the minimum skipped rather than clamped.
 *
 * Counts are computed in double as the reference does: int(c * a) must round the same way. */
#include "tools/worker/pyramid.h"

#include "ipc/cairn_status.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool parse_number(const char *text, size_t n, double lo, double hi, double *out)
{
    char buf[32], *end;
    if (n == 0 || n >= sizeof buf)
        return false;
    memcpy(buf, text, n);
    buf[n] = '\0';
    *out = strtod(buf, &end);
    return *end == '\0' && *out >= lo && *out <= hi;
}

static bool set_field(struct crn_pyramid_rule *r, const char *name, size_t n, double value)
{
#define IS(text) (n == sizeof(text) - 1 && memcmp(name, text, n) == 0)
    if (IS("rho") && value < 1)
        r->rho = (float)value;
    else if (IS("d") && value <= 1)
        r->d = (float)value;
    else if (IS("w"))
        r->w = (float)value;
    else if (IS("m"))
        r->m = (uint32_t)value;
    else if (IS("I") && value >= 1)
        r->interval = (uint32_t)value;
    else if (IS("sink"))
        r->sink = (uint32_t)value;
    else if (IS("warm"))
        r->warm = (uint32_t)value;
    else
        return false;
    return true;
#undef IS
}

int crn_pyramid_parse(const char *text, struct crn_pyramid_rule *out_rule)
{
    struct crn_pyramid_rule rule = CRN_PYRAMID_DEFAULT;
    while (*text != '\0') {
        size_t item = strcspn(text, ",");
        const char *eq = memchr(text, '=', item);
        double value;
        if (eq == NULL || !parse_number(eq + 1, item - (size_t)(eq + 1 - text), 0, 1e6, &value) ||
            !set_field(&rule, text, (size_t)(eq - text), value))
            return CAIRN_E_ARG;
        text += item;
        if (*text == ',')
            text++;
    }
    *out_rule = rule;
    return 0;
}

void crn_pyramid_text(const struct crn_pyramid_rule *r, char out_text[CRN_PYRAMID_TEXT])
{
    snprintf(out_text, CRN_PYRAMID_TEXT, "prefill:d=%g,rho=%g,w=%g,m=%u,I=%u,sink=%u,warm=%u",
             (double)r->d, (double)r->rho, (double)r->w, r->m, r->interval, r->sink, r->warm);
}

/* float settings as the decimal numbers they were written as: 0.2f is not 0.2, and int(10 * 0.2)
 * must be 2. */
static double decimal(float x)
{
    return round((double)x * 1e6) / 1e6;
}

uint32_t crn_pyramid_window(const struct crn_pyramid_rule *r, uint32_t prompt_tokens)
{
    return 1 + (uint32_t)(prompt_tokens * decimal(r->rho));
}

uint32_t crn_pyramid_keep(const struct crn_pyramid_rule *r, uint32_t layer, uint32_t n_layers,
                          uint32_t prompt_tokens, uint32_t n)
{
    uint32_t window = crn_pyramid_window(r, prompt_tokens);
    if (!r->on || window >= n)
        return n > window ? n - window : 0;
    uint32_t context = n - window,
             least = prompt_tokens - window < r->m ? prompt_tokens - window : r->m;
    double d = decimal(r->d), a = d + (1 - d) * (1 + cos(M_PI * layer / n_layers)) / 2;
    if (layer < r->warm || layer % r->interval != 0 || context <= least || a >= 1)
        return context;
    uint32_t keep = (uint32_t)(context * a);
    return keep <= least ? context : keep;
}

void crn_pyramid_weights(const struct crn_pyramid_rule *r, uint32_t window, float *out_weight)
{
    for (uint32_t i = 0; i < window; i++)
        out_weight[i] = window > 1 ? 1.0f + (r->w - 1.0f) * (float)i / (float)(window - 1) : 1.0f;
}

uint32_t crn_pyramid_select(const struct crn_pyramid_rule *r, const struct crn_kernel_ops *ops,
                            const struct crn_exec *exec, float *score, uint32_t n, uint32_t window,
                            uint32_t keep, uint32_t *out_index)
{
    uint32_t context = n - window;
    for (uint32_t i = 0; i < r->sink && i < context; i++)
        score[i] = INFINITY;
    if (ops->topk(exec, score, context, keep, out_index) != 0)
        return 0;
    for (uint32_t i = 0; i < window; i++)
        out_index[keep + i] = context + i;
    return keep + window;
}

void crn_snap_pool(const float *score, uint32_t n, float *out)
{
    const uint32_t half = CRN_SNAP_POOL / 2;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = i > half ? i - half : 0, last = i + half < n ? i + half : n - 1;
        float best = score[first];
        for (uint32_t j = first + 1; j <= last; j++)
            best = score[j] > best ? score[j] : best;
        out[i] = best;
    }
}

uint32_t crn_snap_select(const struct crn_kernel_ops *ops, const struct crn_exec *exec,
                         float *score, uint32_t n, float keep, uint32_t *out_index)
{
    uint32_t k = (uint32_t)(decimal(keep) * n);
    if (k < 8)
        k = 8;
    if (k > n)
        k = n;
    for (uint32_t i = 0; i < CRN_SNAP_SINK && i < n; i++)
        score[i] = INFINITY;
    for (uint32_t i = n - k / 2; i < n; i++)
        score[i] = INFINITY;
    return ops->topk(exec, score, n, k, out_index) == 0 ? k : 0;
}
