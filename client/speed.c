/* Attention makes a token of a long context dearer than one of a short context, so there is one average per doubling of the length.
 * A worker that goes from short to long contexts estimates by its longest until it has seen better. */
#include "client/speed.h"

#include "client/cairn.h"

void crn_average_add(struct crn_average *a, double value)
{
    a->last[a->n % CRN_SPEED_LAST] = value;
    a->n++;
}

double crn_average_of(const struct crn_average *a)
{
    uint32_t n = a->n < CRN_SPEED_LAST ? a->n : CRN_SPEED_LAST;
    double sum = 0, least = 0, most = 0;
    for (uint32_t i = 0; i < n; i++) {
        double x = a->last[i];
        sum += x;
        least = i == 0 || x < least ? x : least;
        most = i == 0 || x > most ? x : most;
    }
    return n < 3 ? least : (sum - least - most) / (n - 2);
}

static uint32_t length_of(uint32_t n_tokens)
{
    uint32_t at = 0;
    while (at + 1 < CRN_SPEED_LENGTHS && (2u << at) <= n_tokens)
        at++;
    return at;
}

int crn_learned_add(struct crn_learned *l, uint32_t kind, uint32_t n_tokens, uint64_t work,
                    uint64_t ns)
{
    if (kind < CAIRN_TIMED_PREFILL || kind > CAIRN_TIMED_SUFFIX || n_tokens == 0 ||
        n_tokens > CAIRN_MAX_TOKENS || work == 0 || ns == 0)
        return CAIRN_E_ARG;
    crn_average_add(&l->by[kind - CAIRN_TIMED_PREFILL][length_of(n_tokens)],
                    (double)ns / (double)work);
    return 0;
}

static double nearest(const struct crn_average by[CRN_SPEED_LENGTHS], uint32_t at)
{
    for (uint32_t off = 0; off < CRN_SPEED_LENGTHS; off++) {
        if (at >= off && by[at - off].n > 0)
            return crn_average_of(&by[at - off]);
        if (at + off < CRN_SPEED_LENGTHS && by[at + off].n > 0)
            return crn_average_of(&by[at + off]);
    }
    return 0;
}

struct crn_speed crn_learned_speed(const struct crn_learned *l, uint32_t n_tokens)
{
    uint32_t at = length_of(n_tokens);
    struct crn_speed speed = {
        .prefill_ns = nearest(l->by[0], at),
        .run_ns = nearest(l->by[CAIRN_TIMED_RUN - CAIRN_TIMED_PREFILL], at),
        .suffix_ns = nearest(l->by[CAIRN_TIMED_SUFFIX - CAIRN_TIMED_PREFILL], at),
    };
    for (uint32_t tier = 0; tier <= CAIRN_TIER_NVME; tier++)
        speed.bytes_per_s[tier] = l->bytes_per_s[tier];
    return speed;
}
