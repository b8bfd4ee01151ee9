/* Private K and V of one layer. Grows by doubling (heads move apart then), converts on append, and
 * can be turned into int8 once it is complete. It knows nothing of models, leases or positions'
 * meaning. */
#include "tools/worker/kv.h"

#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void point_heads(struct crn_kv *kv)
{
    size_t row = (size_t)kv->head_dim * cairn_dtype_bytes(kv->dtype);
    size_t blocks = ((size_t)kv->capacity + 63) / 64;
    for (uint32_t h = 0; h < kv->n_heads; h++) {
        struct crn_kv_head *head = &kv->heads[h];
        head->k = (const char *)kv->k + h * kv->capacity * row;
        head->v = (const char *)kv->v + h * kv->capacity * row;
        head->k_scale = kv->k_scale != NULL ? kv->k_scale + h * blocks * kv->head_dim : NULL;
        head->v_scale = kv->v_scale != NULL ? kv->v_scale + (size_t)h * kv->capacity : NULL;
        head->pos = kv->pos_there;
        head->n = kv->n;
    }
}

/* A head-major copy of rows into memory of another capacity; NULL when there is none. */
static void *regrow(const struct crn_kv *kv, const void *old, uint32_t capacity, int *status)
{
    size_t row = (size_t)kv->head_dim * cairn_dtype_bytes(kv->dtype);
    void *memory = NULL;
    if (*status == 0)
        *status = crn_memory_alloc(&kv->exec, kv->n_heads * (size_t)capacity * row, &memory);
    for (uint32_t h = 0; h < kv->n_heads && kv->n > 0 && *status == 0; h++)
        *status = crn_memory_copy(&kv->exec, (char *)memory + h * (size_t)capacity * row,
                                  (const char *)old + h * (size_t)kv->capacity * row, kv->n * row);
    return memory;
}

/* Positions for kernels, when they cannot read the host's. */
static int32_t *regrow_pos(const struct crn_kv *kv, uint32_t capacity, int *status)
{
    void *memory = NULL;
    if (*status == 0)
        *status = crn_memory_alloc(&kv->exec, capacity * sizeof(int32_t), &memory);
    if (*status == 0)
        *status = crn_memory_copy(&kv->exec, memory, kv->pos_there, kv->n * sizeof(int32_t));
    return memory;
}

static int set_capacity(struct crn_kv *kv, uint32_t capacity)
{
    const int apart = crn_memory_apart(&kv->exec);
    int status = 0;
    void *k = regrow(kv, kv->k, capacity, &status);
    void *v = regrow(kv, kv->v, capacity, &status);
    int32_t *there = apart ? regrow_pos(kv, capacity, &status) : NULL;
    int32_t *pos = realloc(kv->pos, (capacity > 0 ? capacity : 1) * sizeof *pos);
    if (pos != NULL)
        kv->pos = pos;
    if (pos == NULL && status == 0)
        status = -ENOMEM;
    if (!apart)
        kv->pos_there = kv->pos;
    if (status != 0) {
        crn_memory_free(&kv->exec, k);
        crn_memory_free(&kv->exec, v);
        crn_memory_free(&kv->exec, there);
        return status;
    }
    crn_memory_free(&kv->exec, kv->k);
    crn_memory_free(&kv->exec, kv->v);
    if (apart) {
        crn_memory_free(&kv->exec, kv->pos_there);
        kv->pos_there = there;
    }
    kv->k = k;
    kv->v = v;
    kv->capacity = capacity;
    point_heads(kv);
    return 0;
}

int crn_kv_init_in(struct crn_kv *kv, const struct crn_exec *exec, uint32_t dtype, uint32_t n_heads,
                   uint32_t head_dim, uint32_t capacity)
{
    if (n_heads == 0 || head_dim == 0 ||
        (dtype != CAIRN_F32 && dtype != CAIRN_F16 && dtype != CAIRN_BF16))
        return CAIRN_E_ARG;
    *kv = (struct crn_kv){
        .exec = *exec, .dtype = dtype, .n_heads = n_heads, .head_dim = head_dim};
    kv->heads = calloc(n_heads, sizeof *kv->heads);
    if (kv->heads == NULL)
        return -ENOMEM;
    int status = set_capacity(kv, capacity);
    if (status != 0)
        crn_kv_free(kv);
    return status;
}

int crn_kv_init(struct crn_kv *kv, uint32_t dtype, uint32_t n_heads, uint32_t head_dim,
                uint32_t capacity)
{
    return crn_kv_init_in(kv, &(struct crn_exec){0}, dtype, n_heads, head_dim, capacity);
}

void crn_kv_free(struct crn_kv *kv)
{
    crn_memory_free(&kv->exec, kv->k);
    crn_memory_free(&kv->exec, kv->v);
    crn_memory_free(&kv->exec, kv->k_scale);
    crn_memory_free(&kv->exec, kv->v_scale);
    if (kv->pos_there != kv->pos)
        crn_memory_free(&kv->exec, kv->pos_there);
    free(kv->pos);
    free(kv->heads);
    *kv = (struct crn_kv){0};
}

int crn_kv_reserve(struct crn_kv *kv, uint32_t n)
{
    uint32_t need = kv->n + n;
    if (need < n || need > CAIRN_MAX_TOKENS * 2)
        return CAIRN_E_TOO_BIG;
    if (need <= kv->capacity)
        return 0;
    uint32_t capacity = kv->capacity < 32 ? 32 : kv->capacity;
    while (capacity < need)
        capacity *= 2;
    return set_capacity(kv, capacity);
}

int crn_kv_append_rows(struct crn_kv *kv, const struct crn_kernel_ops *ops,
                       const struct crn_exec *exec, const struct crn_kv_rows *rows)
{
    if (kv->dtype == CAIRN_I8)
        return CAIRN_E_STATE;
    int status = crn_kv_reserve(kv, rows->n);
    if (status != 0)
        return status;
    size_t skip = (size_t)kv->n * kv->head_dim * cairn_dtype_bytes(kv->dtype);
    status = ops->split_heads(exec, rows->k, rows->n, kv->n_heads, kv->head_dim, kv->dtype,
                              kv->capacity, (char *)kv->k + skip);
    if (status == 0)
        status = ops->split_heads(exec, rows->v, rows->n, kv->n_heads, kv->head_dim, kv->dtype,
                                  kv->capacity, (char *)kv->v + skip);
    if (status == 0 && kv->pos_there != kv->pos)
        status = crn_memory_copy(&kv->exec, kv->pos_there + kv->n, rows->pos_there,
                                 rows->n * sizeof *rows->pos_there);
    if (status != 0)
        return status;
    memcpy(kv->pos + kv->n, rows->pos, rows->n * sizeof *rows->pos);
    kv->n += rows->n;
    point_heads(kv);
    return 0;
}

int crn_kv_append(struct crn_kv *kv, const struct crn_kernel_ops *ops, const struct crn_exec *exec,
                  const float *k, const float *v, const int32_t *pos, uint32_t n)
{
    if (crn_memory_apart(&kv->exec))
        return CAIRN_E_ARG;
    struct crn_kv_rows rows = {.k = k, .v = v, .pos = pos, .pos_there = pos, .n = n};
    return crn_kv_append_rows(kv, ops, exec, &rows);
}

void crn_kv_truncate(struct crn_kv *kv, uint32_t n)
{
    if (n < kv->n) {
        kv->n = n;
        point_heads(kv);
    }
}

/* Moves one array's rows: those of index to `first`, then the tail. */
static void keep_rows(char *rows, size_t row, uint32_t n, const struct crn_kv_cut *c)
{
    for (uint32_t i = 0; i < c->n_kept; i++)
        memmove(rows + (c->first + i) * row, rows + c->index[i] * row, row);
    memmove(rows + (c->first + c->n_kept) * row, rows + (c->first + c->n) * row,
            (n - c->first - c->n) * row);
}

static void keep_here(struct crn_kv *kv, const struct crn_kv_cut *cut)
{
    size_t row = (size_t)kv->head_dim * cairn_dtype_bytes(kv->dtype);
    for (uint32_t h = 0; h < kv->n_heads; h++) {
        size_t head = (size_t)h * kv->capacity * row;
        keep_rows((char *)kv->k + head, row, kv->n, cut);
        keep_rows((char *)kv->v + head, row, kv->n, cut);
    }
}

void crn_kv_spare_free(struct crn_kv_spare *s)
{
    crn_memory_free(&s->exec, s->at);
    *s = (struct crn_kv_spare){0};
}

static int spare_for(struct crn_kv_spare *s, const struct crn_exec *exec, size_t bytes)
{
    if (bytes <= s->bytes)
        return 0;
    crn_kv_spare_free(s);
    s->exec = *exec;
    int status = crn_memory_alloc(exec, 2 * bytes, &s->at);
    if (status == 0)
        s->bytes = 2 * bytes;
    return status;
}

/* Rows of all heads that move, as rows of the whole array: the kept ones, then the tail. */
static uint32_t *list_moved(const struct crn_kv *kv, const struct crn_kv_cut *c, uint32_t moved)
{
    uint32_t *list = malloc((size_t)kv->n_heads * moved * sizeof *list + 1);
    for (uint32_t h = 0; h < kv->n_heads && list != NULL; h++) {
        uint32_t *to = list + (size_t)h * moved, head = h * kv->capacity;
        for (uint32_t i = 0; i < c->n_kept; i++)
            to[i] = head + c->index[i];
        for (uint32_t i = c->n_kept; i < moved; i++)
            to[i] = head + c->first + c->n + (i - c->n_kept);
    }
    return list;
}

/* How rows move on a device, where they must not overlap their new places. */
struct detour {
    const struct crn_kernel_ops *ops;
    const uint32_t *list; /* there [n_heads][moved] */
    void *rows;           /* there, room for as many */
    uint32_t first, moved;
};

/* One array: all that moves together into the spare memory, and back head by head. */
static int keep_array(const struct crn_kv *kv, const struct detour *d, char *array)
{
    size_t row = (size_t)kv->head_dim * cairn_dtype_bytes(kv->dtype), moved = d->moved;
    size_t rows = (size_t)kv->n_heads * kv->capacity;
    int status =
        d->ops->gather(&kv->exec, array, rows, row, d->list, kv->n_heads * moved, d->rows);
    for (uint32_t h = 0; h < kv->n_heads && status == 0; h++)
        status = crn_memory_copy(&kv->exec, array + ((size_t)h * kv->capacity + d->first) * row,
                                 (char *)d->rows + h * moved * row, moved * row);
    return status;
}

static int keep_there(struct crn_kv *kv, const struct crn_kernel_ops *ops,
                      struct crn_kv_spare *spare, const struct crn_kv_cut *c)
{
    uint32_t moved = kv->n - c->first - c->n + c->n_kept;
    size_t row = (size_t)kv->head_dim * cairn_dtype_bytes(kv->dtype);
    size_t rows = (size_t)kv->n_heads * moved;
    size_t list_bytes = (rows * sizeof(uint32_t) + CAIRN_ALIGN - 1) / CAIRN_ALIGN * CAIRN_ALIGN;
    if (moved == 0)
        return 0;
    uint32_t *list = list_moved(kv, c, moved);
    int status = list != NULL ? spare_for(spare, &kv->exec, list_bytes + rows * row) : -ENOMEM;
    struct detour d = {ops, spare->at, (char *)spare->at + list_bytes, c->first, moved};
    if (status == 0)
        status = crn_memory_put(&kv->exec, spare->at, list, rows * sizeof *list);
    if (status == 0)
        status = keep_array(kv, &d, kv->k);
    if (status == 0)
        status = keep_array(kv, &d, kv->v);
    free(list);
    return status;
}

int crn_kv_keep(struct crn_kv *kv, const struct crn_kernel_ops *ops, struct crn_kv_spare *spare,
                const struct crn_kv_cut *cut)
{
    const int apart = crn_memory_apart(&kv->exec);
    int status = 0;
    if (kv->dtype == CAIRN_I8 || cut->n_kept > cut->n || cut->first + cut->n > kv->n)
        return CAIRN_E_STATE;
    if (apart)
        status = keep_there(kv, ops, spare, cut);
    else
        keep_here(kv, cut);
    if (status != 0)
        return status;
    keep_rows((char *)kv->pos, sizeof *kv->pos, kv->n, cut);
    kv->n -= cut->n - cut->n_kept;
    if (apart)
        status = crn_memory_put(&kv->exec, kv->pos_there + cut->first, kv->pos + cut->first,
                                (kv->n - cut->first) * sizeof *kv->pos);
    point_heads(kv);
    return status;
}

/* One head's rows as float32, then as int8. `rows` is scratch [n][dh]. */
static int quantise_head(const struct crn_kv *from, struct crn_kv *to, uint32_t h,
                         const struct crn_kernel_ops *ops, const struct crn_exec *exec, float *rows)
{
    size_t n = from->n, dh = from->head_dim, blocks = ((size_t)to->capacity + 63) / 64;
    int8_t *k = (int8_t *)to->k + h * (size_t)to->capacity * dh;
    int8_t *v = (int8_t *)to->v + h * (size_t)to->capacity * dh;
    int status = ops->convert(exec, from->heads[h].k, from->dtype, n * dh, CAIRN_F32, rows);
    if (status == 0)
        status = ops->quant_k(exec, rows, n, dh, k, to->k_scale + h * blocks * dh);
    if (status == 0)
        status = ops->convert(exec, from->heads[h].v, from->dtype, n * dh, CAIRN_F32, rows);
    if (status == 0)
        status = ops->quant_rows(exec, rows, n, dh, dh, v, to->v_scale + (size_t)h * to->capacity);
    return status;
}

/* Room for the int8 form; what was taken stays in `to` on failure. */
static int quantised_room(struct crn_kv *to, size_t n, void **out_rows)
{
    size_t dh = to->head_dim, heads = to->n_heads;
    void *parts[5] = {NULL};
    size_t bytes[] = {heads * n * dh, heads * n * dh, heads * ((n + 63) / 64) * dh * 2,
                      heads * n * 2, n * dh * sizeof(float)};
    int status = 0;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes && status == 0; i++)
        status = crn_memory_alloc(&to->exec, bytes[i], &parts[i]);
    to->k = parts[0];
    to->v = parts[1];
    to->k_scale = parts[2];
    to->v_scale = parts[3];
    *out_rows = parts[4];
    return status;
}

int crn_kv_quantise(struct crn_kv *kv, const struct crn_kernel_ops *ops,
                    const struct crn_exec *exec)
{
    if (kv->dtype == CAIRN_I8 || kv->n == 0)
        return 0;
    struct crn_kv to = {.exec = kv->exec,
                        .dtype = CAIRN_I8,
                        .n_heads = kv->n_heads,
                        .head_dim = kv->head_dim,
                        .n = kv->n,
                        .capacity = kv->n};
    void *rows = NULL;
    int status = quantised_room(&to, kv->n, &rows);
    for (uint32_t h = 0; h < kv->n_heads && status == 0; h++)
        status = quantise_head(kv, &to, h, ops, exec, rows);
    crn_memory_free(&kv->exec, rows);
    if (status != 0) {
        crn_kv_free(&to);
        return status;
    }
    to.pos = kv->pos;
    to.pos_there = kv->pos_there;
    to.heads = kv->heads;
    crn_memory_free(&kv->exec, kv->k);
    crn_memory_free(&kv->exec, kv->v);
    *kv = to;
    point_heads(kv);
    return 0;
}

struct crn_span crn_kv_span(const struct crn_kv *kv, uint32_t q_begin, uint32_t q_end)
{
    return (struct crn_span){
        .heads = kv->heads, .dtype = kv->dtype, .q_begin = q_begin, .q_end = q_end};
}

uint64_t crn_kv_bytes(const struct crn_kv *kv)
{
    uint64_t rows = (uint64_t)kv->n * kv->n_heads,
             per_row = 2ull * kv->head_dim * cairn_dtype_bytes(kv->dtype);
    uint64_t scales = 0;
    if (kv->dtype == CAIRN_I8)
        scales = 2 * (rows + ((uint64_t)kv->n + 63) / 64 * kv->head_dim * kv->n_heads);
    return rows * per_row + scales + (uint64_t)kv->n * sizeof *kv->pos;
}
