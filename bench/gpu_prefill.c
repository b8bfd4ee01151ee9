/* bench/gpu_prefill - the reference engine's prefill on a device, resident, for tools/dev/bench-gpu.py to compare with
 * transformers turn by turn: the shape of Llama-3-8B, random bf16 weights, bf16 keys and values. Prints one JSON line about
 * itself, then for each line "N" of its input how many seconds N tokens take, from token ids on the host to the logits of the
 * last one on the host. Keys and values stay in memory until then, as they would for who asks next. */
#include "bench/common.h"
#include "bench/gpu.h"
#include "tools/worker/prefill.h"

#include "ipc/log.h"
#include "kernels/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static double prefill_s(struct crn_engine *e, uint32_t n, float *last_row, float *logits)
{
    struct crn_cache cache = {0};
    int32_t *tokens = malloc(n * sizeof *tokens);
    uint64_t state = bench_seed() + n;
    bench_must(tokens == NULL ? -ENOMEM : 0, "tokens");
    for (uint32_t i = 0; i < n; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        tokens[i] = (int32_t)((state >> 33) % e->weights->shape.vocab);
    }
    struct crn_prefill p = {.tokens = tokens, .n = n};
    double begin = bench_now_s();
    bench_must(crn_cache_init(&cache, e->weights->shape.n_layers), "cache");
    bench_must(crn_prefill(e, &p, &cache, last_row), "prefill");
    bench_must(crn_engine_logits(e, last_row, 1, logits), "logits");
    double took = bench_now_s() - begin;
    crn_cache_free(&cache);
    free(tokens);
    return took;
}

int main(void)
{
    struct bench_gpu g;
    struct crn_engine engine;
    void *last_row;
    char line[64];
    crn_log_setup("bench", CRN_LOG_WARN);
    bench_gpu_require();
    bench_gpu_open(&g);
    struct crn_model_shape shape = bench_gpu_shape(&g);
    struct crn_weights *weights = bench_gpu_weights(&g, &shape);
    float *logits = malloc(shape.vocab * sizeof *logits);
    bench_must(logits == NULL ? -ENOMEM : 0, "logits");
    bench_must(crn_memory_alloc(&g.exec, shape.hidden * sizeof(float), &last_row), "device memory");
    bench_must(crn_engine_init(&engine, weights, &crn_kernels_cuda, &g.exec, CAIRN_BF16), "engine");
    printf("{\"gpu\": \"%s\", \"driver\": \"%s\", \"emulated\": %s, \"layers\": %u, \"hidden\": %u, \"heads\": %u, "
           "\"kv_heads\": %u, \"head_dim\": %u, \"ffn\": %u, \"vocab\": %u, \"theta\": %g}\n",
           g.name, g.driver, g.emulated ? "true" : "false", shape.n_layers, shape.hidden, shape.n_heads, shape.n_kv_heads,
           shape.head_dim, shape.ffn, shape.vocab, (double)shape.rope_theta);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        unsigned long n = strtoul(line, NULL, 10);
        bench_must(n == 0 || n > shape.context_max ? CAIRN_E_ARG : 0, "number of tokens");
        printf("%.9g\n", prefill_s(&engine, (uint32_t)n, last_row, logits));
        fflush(stdout);
    }
    crn_engine_free(&engine);
    crn_memory_free(&g.exec, last_row);
    crn_weights_free(weights);
    bench_gpu_close(&g);
    free(logits);
    return 0;
}
