/* Choosing. All rules are comparisons of two options; ties end at the better quality, then at less work, then at the smaller id,
 * so that the order of the options never matters. What is not known counts as nothing: the first requests of a worker use what is
 * there, and are what it learns from. */
#include "client/choose.h"

/* ---- estimates ---- */

static double either(double a, double b)
{
    return a > 0 ? a : b;
}

static double load_ns(const struct crn_speed *speed, uint32_t tier, uint64_t bytes)
{
    double rate = tier <= CAIRN_TIER_NVME ? speed->bytes_per_s[tier] : 0;
    return rate > 0 ? (double)bytes / rate * 1e9 : 0;
}

uint64_t crn_choose_prefill(const struct crn_speed *speed, const struct crn_wish *wish)
{
    double per = either(speed->prefill_ns, speed->run_ns);
    return per > 0 ? (uint64_t)(per * wish->n_tokens * wish->n_layers + speed->suffix_ns) : 0;
}

uint64_t crn_choose_estimate(const struct crn_speed *speed, const struct crn_wish *wish,
                             const struct crn_option *option)
{
    double rest = wish->n_tokens > wish->n_cached ? wish->n_tokens - wish->n_cached : 0;
    double run = (double)option->run_tokens * either(speed->run_ns, speed->prefill_ns);
    double kv = load_ns(speed, option->tier, option->kv_bytes);
    double own = rest * wish->n_layers * either(speed->prefill_ns, speed->run_ns);
    return (uint64_t)(load_ns(speed, option->tier, option->state_bytes) + (kv > run ? kv : run) +
                      own + speed->suffix_ns);
}

int crn_choose_gate(uint64_t estimate_ns, uint64_t prefill_ns)
{
    return prefill_ns > 0 && estimate_ns > prefill_ns;
}

/* ---- the choice ---- */

struct candidate {
    const struct crn_option *option;
    uint64_t ns;
};

/* Everything else equal. */
static int breaks_tie(const struct crn_option *a, const struct crn_option *b)
{
    if (a->quality > b->quality || a->quality < b->quality)
        return a->quality > b->quality;
    if (a->run_tokens != b->run_tokens)
        return a->run_tokens < b->run_tokens;
    return a->plan < b->plan;
}

static int less_work(const struct candidate *a, const struct candidate *b)
{
    return a->option->run_tokens != b->option->run_tokens
               ? a->option->run_tokens < b->option->run_tokens
               : breaks_tie(a->option, b->option);
}

static int better(const struct candidate *a, const struct candidate *b)
{
    return breaks_tie(a->option, b->option);
}

static int sooner(const struct candidate *a, const struct candidate *b)
{
    return a->ns != b->ns ? a->ns < b->ns : breaks_tie(a->option, b->option);
}

struct field {
    const struct crn_speed *speed;
    const struct crn_wish *wish;
    const struct crn_option *options;
    size_t n;
    uint64_t prefill_ns;
};

/* The first by `before` of those that meet the floor, pass the gate and end within the limit (0: any). */
static struct candidate first_by(const struct field *f, uint64_t limit_ns,
                                 int (*before)(const struct candidate *, const struct candidate *))
{
    struct candidate best = {NULL, 0};
    for (size_t i = 0; i < f->n; i++) {
        struct candidate c = {&f->options[i],
                              crn_choose_estimate(f->speed, f->wish, &f->options[i])};
        if (c.option->quality < f->wish->min_quality || crn_choose_gate(c.ns, f->prefill_ns) ||
            (limit_ns > 0 && c.ns > limit_ns))
            continue;
        if (best.option == NULL || before(&c, &best))
            best = c;
    }
    return best;
}

static int any_meets_floor(const struct field *f)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->options[i].quality >= f->wish->min_quality)
            return 1;
    }
    return 0;
}

/* Also for exact paths: their only option is plan 0, and the reason stays that of the match. */
static struct candidate pick(const struct field *f, uint32_t *out_reason)
{
    const struct crn_wish *w = f->wish;
    struct candidate best = first_by(f, 0, better);
    *out_reason = CAIRN_REASON_PLAN;
    if (best.option == NULL) {
        *out_reason = any_meets_floor(f) ? CAIRN_REASON_BREAK_EVEN : CAIRN_REASON_QUALITY;
        return best;
    }
    if (best.option->plan == 0) {
        *out_reason = CAIRN_REASON_SAME_MODEL;
        return best;
    }
    if (w->waiting > 0 && w->min_quality > 0) {
        *out_reason = CAIRN_REASON_QUEUE;
        return first_by(f, 0, less_work);
    }
    if (w->limit_ns == 0 || best.ns <= w->limit_ns)
        return best;
    struct candidate timely = first_by(f, w->limit_ns, better);
    *out_reason = timely.option != NULL ? CAIRN_REASON_DEADLINE : CAIRN_REASON_LATE;
    return timely.option != NULL ? timely : first_by(f, 0, sooner);
}

struct crn_choice crn_choose(const struct crn_speed *speed, const struct crn_wish *wish,
                             const struct crn_option *options, size_t n)
{
    struct field f = {speed, wish, options, n, crn_choose_prefill(speed, wish)};
    struct crn_choice choice = {.index = CRN_CHOOSE_NONE, .prefill_ns = f.prefill_ns};
    struct candidate best = pick(&f, &choice.reason);
    if (best.option != NULL) {
        choice.index = (size_t)(best.option - options);
        choice.estimate_ns = best.ns;
    }
    return choice;
}
