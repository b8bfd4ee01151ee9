/* One device, as benchmarks use it. What is slow here (contents, weights) is never timed. */
#include "bench/gpu.h"

#include "bench/common.h"
#include "ipc/cuda_driver.h"
#include "kernels/cuda/exec.h"
#include "kernels/half.h"
#include "kernels/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK_BYTES ((size_t)64 << 20)
#define EMULATOR "cuda-emu"

/* ---- the device ---- */

static int look(char *why, size_t why_bytes)
{
    struct crn_cuda_info info = {0};
    int n = 0, status = crn_kernels_cuda.probe(why, why_bytes) ? 0 : CAIRN_E_NO_DEVICE;
    if (status == 0)
        status = crn_cuda_devices(&n, why, why_bytes);
    if (status == 0)
        status = crn_cuda_info(0, &info);
    if (status != 0)
        return 1;
    return strcmp(info.name, EMULATOR) == 0 ? 2 : 0;
}

int bench_gpu_require(void)
{
    int code = 0;
    fflush(NULL);
    pid_t child = fork();
    bench_must(child < 0 ? -errno : 0, "fork");
    if (child == 0) {
        char why[128] = "";
        int found = look(why, sizeof why);
        if (found == 1)
            fprintf(stderr, "bench-gpu: no device to measure: %s\n", why);
        _exit(found);
    }
    waitpid(child, &code, 0);
    if (!WIFEXITED(code) || WEXITSTATUS(code) == 1)
        exit(EXIT_FAILURE);
    return WEXITSTATUS(code) == 2;
}

/* "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.105.08  ..." */
static void driver_version(char *out, size_t bytes)
{
    char line[256] = "";
    FILE *f = fopen("/proc/driver/nvidia/version", "r");
    if (f == NULL || fgets(line, sizeof line, f) == NULL)
        line[0] = '\0';
    if (f != NULL)
        fclose(f);
    const char *at = line;
    while (*at != '\0' && !(at != line && at[-1] == ' ' && *at >= '1' && *at <= '9' && strchr(at, '.') != NULL))
        at++;
    snprintf(out, bytes, "%.*s", (int)strcspn(at, " \n"), *at != '\0' ? at : "unknown");
}

void bench_gpu_open(struct bench_gpu *g)
{
    struct crn_cuda_info info;
    char why[128];
    *g = (struct bench_gpu){0};
    int status = crn_cuda_exec_open_on(0, &g->exec, why, sizeof why);
    if (status != 0) {
        fprintf(stderr, "bench-gpu: no device to measure: %s\n", why);
        exit(EXIT_FAILURE);
    }
    bench_must(crn_cuda_info(0, &info), "cudaGetDeviceProperties");
    g->total_bytes = info.total_bytes;
    g->emulated = strcmp(info.name, EMULATOR) == 0;
    snprintf(g->name, sizeof g->name, "%s", info.name);
    driver_version(g->driver, sizeof g->driver);
    bench_device_is(g->name, g->driver);
    if (g->emulated)
        bench_refuse("timing refused on " EMULATOR);
}

void bench_gpu_close(struct bench_gpu *g)
{
    crn_cuda_exec_close(&g->exec);
}

/* ---- entries ---- */

struct cairn_entry_id bench_gpu_publish(const struct bench_gpu *g, struct cairn_client *client, const struct bench_entry *e)
{
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    struct cairn_draft *draft;
    struct cairn_entry_id id;
    uint64_t bytes = bench_layer_bytes(e), deadline_ns = cairn_deadline_in(120000);
    int32_t *tokens = bench_tokens(e);
    void *kv = malloc(bytes), *there;
    bench_must(kv == NULL ? -ENOMEM : crn_memory_alloc(&g->exec, bytes, &there), "memory for a layer");
    o.tokens = tokens;
    o.n_tokens = e->n_tokens;
    bench_must(cairn_draft_open(client, &o, deadline_ns, &draft), "cairn_draft_open");
    for (uint32_t l = 0; l < e->n_layers; l++) {
        struct cairn_put put = CAIRN_PUT_INIT;
        bench_layer_fill(e, l, kv);
        bench_must(crn_memory_put(&g->exec, there, kv, bytes), "copy to the device");
        put.layer = l;
        put.src_dtype = CAIRN_F16;
        put.k = there;
        put.v = (uint8_t *)there + bytes / 2;
        put.n = e->n_tokens;
        bench_must(cairn_put_layer(draft, &put, deadline_ns), "cairn_put_layer");
    }
    bench_must(cairn_commit(draft, deadline_ns, &id), "cairn_commit");
    crn_memory_free(&g->exec, there);
    free(kv);
    free(tokens);
    return id;
}

static int layer_equal(const struct bench_gpu *g, const struct cairn_layer_view *view, const struct bench_entry *e, uint32_t layer,
                       uint8_t *kv)
{
    uint64_t half = bench_layer_bytes(e) / 2, head = half / view->n_heads;
    for (uint32_t h = 0; h < view->n_heads; h++) {
        bench_must(crn_memory_get(&g->exec, kv + h * head, view->heads[h].k, head), "copy to the host");
        bench_must(crn_memory_get(&g->exec, kv + half + h * head, view->heads[h].v, head), "copy to the host");
    }
    return bench_layer_equal(e, layer, kv);
}

int bench_gpu_lease_equal(const struct bench_gpu *g, struct cairn_lease *lease, const struct bench_entry *e)
{
    uint8_t *kv = malloc(bench_layer_bytes(e));
    int equal = 1;
    bench_must(kv == NULL ? -ENOMEM : 0, "memory for a layer");
    for (uint32_t l = 0; l < e->n_layers && equal; l++) {
        struct cairn_layer_view view;
        bench_must(cairn_wait(lease, 0, l, CAIRN_WAIT_KV, cairn_deadline_in(30000)), "cairn_wait");
        bench_must(cairn_lease_layer(lease, 0, l, &view), "cairn_lease_layer");
        equal = view.heads[0].n == e->n_tokens && layer_equal(g, &view, e, l, kv);
    }
    free(kv);
    return equal;
}

/* ---- a model ---- */

struct crn_model_shape bench_gpu_shape(const struct bench_gpu *g)
{
    const struct crn_model_shape llama_3_8b = {.n_layers = 32, .hidden = 4096, .n_heads = 32, .n_kv_heads = 8, .head_dim = 128,
                                               .ffn = 14336, .vocab = 128256, .context_max = 131072, .rope_theta = 500000,
                                               .norm_eps = 1e-5f};
    const struct crn_model_shape toy = {.n_layers = 2, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .ffn = 96,
                                        .vocab = 97, .context_max = 512, .rope_theta = 10000, .norm_eps = 1e-5f};
    return g->emulated ? toy : llama_3_8b;
}

/* Places in one piece of device memory, in turn; only counted while base is NULL. */
struct layout {
    char *base;
    size_t used;
};

static void *place(struct layout *l, size_t bytes)
{
    char *at = l->base != NULL ? l->base + l->used : NULL;
    l->used += (bytes + CAIRN_ALIGN - 1) / CAIRN_ALIGN * CAIRN_ALIGN;
    return at;
}

static struct crn_matrix matrix(struct layout *l, uint32_t rows, uint32_t cols)
{
    return (struct crn_matrix){place(l, (size_t)rows * cols * sizeof(uint16_t)), CRN_W_BF16, rows, cols};
}

/* Gains first: they are float32. Returns where they end. */
static size_t lay_out(struct crn_weights *w, struct layout *l)
{
    const struct crn_model_shape *s = &w->shape;
    const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    w->output_norm = place(l, s->hidden * sizeof(float));
    for (uint32_t i = 0; i < s->n_layers; i++) {
        w->layers[i].attn_norm = place(l, s->hidden * sizeof(float));
        w->layers[i].ffn_norm = place(l, s->hidden * sizeof(float));
    }
    size_t gains = l->used;
    for (uint32_t i = 0; i < s->n_layers; i++) {
        struct crn_layer_weights *layer = &w->layers[i];
        layer->wq = matrix(l, q, s->hidden);
        layer->wk = matrix(l, kv, s->hidden);
        layer->wv = matrix(l, kv, s->hidden);
        layer->wo = matrix(l, s->hidden, q);
        layer->w_gate = matrix(l, s->ffn, s->hidden);
        layer->w_up = matrix(l, s->ffn, s->hidden);
        layer->w_down = matrix(l, s->hidden, s->ffn);
    }
    w->token_embd = matrix(l, s->vocab, s->hidden);
    w->output = matrix(l, s->vocab, s->hidden);
    return gains;
}

/* A block of host memory: count numbers, uniform with the variance 1/hidden, from the seed (splitmix64). */
static uint16_t *random_block(size_t count, uint32_t hidden)
{
    uint16_t *block = malloc(count * sizeof *block);
    uint64_t state = bench_seed();
    float scale = 1.0f;
    bench_must(block == NULL ? -ENOMEM : 0, "memory for random numbers");
    while (scale * scale * (float)hidden > 3.0f) /* a power of two: near enough */
        scale *= 0.5f;
    for (size_t i = 0; i < count; i++) {
        uint64_t z = (state += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        block[i] = crn_bf16_from_f32(scale * ((float)(int32_t)(z >> 32) * 0x1p-31f));
    }
    return block;
}

/* The block over and over; a part of it at the end. */
static void fill_there(const struct bench_gpu *g, char *at, size_t bytes, uint32_t hidden)
{
    size_t block_bytes = bytes < BLOCK_BYTES ? bytes : BLOCK_BYTES;
    uint16_t *block = random_block(block_bytes / sizeof *block, hidden);
    bench_must(crn_memory_put(&g->exec, at, block, block_bytes), "copy to the device");
    for (size_t done = block_bytes; done < bytes; done += block_bytes)
        bench_must(crn_memory_copy(&g->exec, at + done, at, bytes - done < block_bytes ? bytes - done : block_bytes),
                   "copy on the device");
    bench_must(crn_memory_sync(&g->exec), "copy on the device");
    free(block);
}

struct crn_weights *bench_gpu_weights(const struct bench_gpu *g, const struct crn_model_shape *shape)
{
    struct crn_weights *w = calloc(1, sizeof *w);
    struct layout count = {0}, l = {0};
    bench_must(w == NULL ? -ENOMEM : 0, "memory for a model");
    w->shape = *shape;
    w->exec = g->exec;
    w->layers = calloc(shape->n_layers, sizeof *w->layers);
    bench_must(w->layers == NULL ? -ENOMEM : 0, "memory for a model");
    size_t gains = lay_out(w, &count);
    float *ones = malloc(gains);
    bench_must(ones == NULL ? -ENOMEM : crn_memory_alloc(&g->exec, count.used, &w->arena), "device memory for a model");
    w->arena_bytes = count.used;
    l.base = w->arena;
    lay_out(w, &l);
    for (size_t i = 0; i < gains / sizeof *ones; i++)
        ones[i] = 1.0f;
    bench_must(crn_memory_put(&g->exec, w->arena, ones, gains), "copy to the device");
    fill_there(g, (char *)w->arena + gains, w->arena_bytes - gains, shape->hidden);
    free(ones);
    return w;
}
