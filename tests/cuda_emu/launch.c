/* Runs kernels: one block after the other, the threads of a block as fibers on one stack each.
 *
 * A thread runs until it waits (barrier, warp operation) or ends. When no thread can run: all at one barrier go on; a warp whose
 * named lanes are all at one operation goes on; anything else can never go on and is a violation. Blocks and threads are taken
 * forwards in even launches and backwards in odd ones, so that nothing relies on an order.
 *
 * Shared memory ends at a guard page, is poisoned for every block and watched in words of 4 bytes: reading what was never
 * written, and two threads touching one word between two barriers when one of them writes, are violations (a missing barrier).
 * Warp operations do not order shared memory here. */
#include "tests/cuda_emu/internal.h"

#include <emu_kernel.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    MAX_THREADS = 1024,
    STACK = 64 * 1024,
    PAGE = 4096,
    SHARED_DEFAULT = 48 * 1024,
    SHARED_MAX = 227 * 1024,
    MAX_FUNCTIONS = 32,
};

struct emu_uint3 emu_thread_idx, emu_block_idx, emu_block_dim, emu_grid_dim;

enum state { READY = 1, AT_BARRIER, AT_WARP, DONE };

struct thread {
    void *sp;
    enum state state;
    struct emu_uint3 idx;
    const char *file; /* where it waits */
    int line;
    enum emu_shuffle kind;
    unsigned mask, arg;
    uint64_t value, result;
};

/* Who touched a word of shared memory, and in which interval between barriers. */
struct word {
    uint32_t write_epoch, read_epoch, atomic_epoch, written_in; /* block serial */
    uint16_t writer, reader, several_readers;
};

static struct thread threads[MAX_THREADS];
static unsigned n_threads, current;
static char *stacks, *shared_end, *shared_base;
static size_t shared_bytes;
static struct word words[SHARED_MAX / 4];
static uint32_t epoch, block_serial, launch_serial;
static const struct emu_grid *now;
static void *scheduler_sp;

/* --- fibers --- */

#if defined(__x86_64__)
void emu_switch(void **save, void *load);
__asm__(".text\n"
        ".globl emu_switch\n"
        ".hidden emu_switch\n"
        ".type emu_switch,@function\n"
        "emu_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp,(%rdi)\n"
        "  movq %rsi,%rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size emu_switch,.-emu_switch\n");

static void thread_main(void);

static void *first_frame(char *stack_top)
{
    uint64_t *sp = (uint64_t *)(void *)stack_top;
    *--sp = 0; /* return address of thread_main: none; leaves the stack aligned as after a call */
    *--sp = (uint64_t)(uintptr_t)thread_main;
    for (int i = 0; i < 6; i++)
        *--sp = 0;
    return sp;
}
#else
#error "the emulator switches stacks on x86-64 only"
#endif

static void yield(void)
{
    struct thread *t = &threads[current];
    emu_switch(&t->sp, scheduler_sp);
}

static void thread_main(void)
{
    now->run(now->args);
    threads[current].state = DONE;
    yield();
    abort(); /* a finished thread is never resumed */
}

/* --- what threads call --- */

void emu_barrier(const char *file, int line)
{
    struct thread *t = &threads[current];
    t->state = AT_BARRIER;
    t->file = file;
    t->line = line;
    yield();
}

uint64_t emu_warp(enum emu_shuffle kind, unsigned mask, uint64_t value, unsigned arg, const char *where)
{
    struct thread *t = &threads[current];
    if ((mask >> current % 32 & 1) == 0)
        emu_violation("%s: block %u thread %u: warp operation at %s does not name its own lane", now->kernel,
                      emu_block_idx.x, current, where);
    t->state = AT_WARP;
    t->file = where;
    t->line = 0;
    t->kind = kind;
    t->mask = mask;
    t->value = value;
    t->arg = arg;
    yield();
    return threads[current].result;
}

void emu_shared_view(size_t offset, size_t bytes, size_t align)
{
    if (offset > shared_bytes || bytes > shared_bytes - offset)
        emu_violation("%s: shared array of bytes %zu..%zu, the launch gave %zu", now->kernel, offset, offset + bytes,
                      shared_bytes);
    if (offset % align != 0)
        emu_violation("%s: shared array at byte %zu is not aligned to %zu", now->kernel, offset, align);
}

static void race(size_t offset, const char *what, unsigned other)
{
    emu_violation("%s: block %u: threads %u and %u %s byte %zu of shared memory without a barrier between them",
                  now->kernel, emu_block_idx.x, other, current, what, offset);
}

static void watch(size_t offset, enum emu_access access)
{
    struct word *w = &words[offset / 4];
    if (access != EMU_WRITE && w->written_in != block_serial)
        emu_violation("%s: block %u thread %u reads byte %zu of shared memory, never written", now->kernel,
                      emu_block_idx.x, current, offset);
    if (w->write_epoch == epoch && w->writer != current &&
        !(access == EMU_ATOMIC && w->atomic_epoch == epoch))
        race(offset, access == EMU_READ ? "write and read" : "both write", w->writer);
    if (access != EMU_READ && w->read_epoch == epoch && (w->reader != current || w->several_readers))
        race(offset, "read and write", w->reader);
    if (access == EMU_READ) {
        w->several_readers = (uint16_t)(w->read_epoch == epoch && (w->several_readers || w->reader != current));
        w->read_epoch = epoch;
        w->reader = (uint16_t)current;
        return;
    }
    if (w->write_epoch != epoch || access == EMU_WRITE)
        w->atomic_epoch = access == EMU_ATOMIC ? epoch : 0;
    w->write_epoch = epoch;
    w->writer = (uint16_t)current;
    w->written_in = block_serial;
}

void *emu_shared(size_t offset, size_t bytes, enum emu_access access)
{
    if (offset > shared_bytes || bytes > shared_bytes - offset)
        emu_violation("%s: block %u thread %u: index outside its shared array", now->kernel, emu_block_idx.x, current);
    for (size_t i = 0; i < bytes; i += 4)
        watch(offset + i, access);
    return shared_base + offset;
}

/* --- scheduling --- */

static int same_place(const struct thread *a, const struct thread *b)
{
    return a->line == b->line && (a->file == b->file || strcmp(a->file, b->file) == 0);
}

/* Where the threads are, for the message about a block that cannot go on. */
static void report_stuck(void)
{
    unsigned done = 0, at_barrier = 0, at_warp = 0;
    const struct thread *first = NULL, *other = NULL;
    for (unsigned i = 0; i < n_threads; i++) {
        const struct thread *t = &threads[i];
        done += t->state == DONE;
        at_barrier += t->state == AT_BARRIER;
        at_warp += t->state == AT_WARP;
        if (t->state == DONE)
            continue;
        if (first == NULL)
            first = t;
        else if (other == NULL && !same_place(first, t))
            other = t;
    }
    emu_violation("%s: block %u diverged: %u threads ended, %u at a barrier, %u at a warp operation (%s:%d%s%s)",
                  now->kernel, emu_block_idx.x, done, at_barrier, at_warp, first != NULL ? first->file : "-",
                  first != NULL ? first->line : 0, other != NULL ? " and " : "", other != NULL ? other->file : "");
}

static int release_barrier(void)
{
    for (unsigned i = 0; i < n_threads; i++) {
        if (threads[i].state != AT_BARRIER || !same_place(&threads[i], &threads[0]))
            return 0;
    }
    for (unsigned i = 0; i < n_threads; i++)
        threads[i].state = READY;
    epoch++;
    return 1;
}

static uint64_t warp_result(const struct thread *warp, unsigned lane, unsigned mask)
{
    const struct thread *t = &warp[lane];
    unsigned from = lane;
    uint64_t votes = 0;
    switch (t->kind) {
    case EMU_SHUFFLE_XOR:
        from = lane ^ t->arg;
        break;
    case EMU_SHUFFLE_UP:
        from = lane >= t->arg ? lane - t->arg : lane;
        break;
    case EMU_SHUFFLE_IDX:
        from = t->arg % 32;
        break;
    default:
        for (unsigned i = 0; i < 32; i++) {
            if (mask >> i & 1)
                votes |= (warp[i].value & 1) << i;
        }
        return votes;
    }
    if (from > 31 || (mask >> from & 1) == 0)
        emu_violation("%s: lane %u shuffles from lane %u, which does not take part (%s)", now->kernel, lane, from, t->file);
    return warp[from].value;
}

/* A warp goes on when every lane that the first waiting lane names waits at the same place with the same mask. */
static int release_warp(unsigned first)
{
    struct thread *warp = &threads[first];
    unsigned lanes = n_threads - first < 32 ? n_threads - first : 32, leader = 0;
    while (leader < lanes && warp[leader].state != AT_WARP)
        leader++;
    if (leader == lanes)
        return 0;
    unsigned mask = warp[leader].mask;
    if (lanes < 32 && mask >> lanes != 0)
        emu_violation("%s: warp operation at %s names lanes that do not exist", now->kernel, warp[leader].file);
    for (unsigned i = 0; i < lanes; i++) {
        if ((mask >> i & 1) && (warp[i].state != AT_WARP || warp[i].mask != mask ||
                                !same_place(&warp[i], &warp[leader]) || warp[i].kind != warp[leader].kind))
            return 0;
    }
    for (unsigned i = 0; i < lanes; i++) {
        if (mask >> i & 1)
            warp[i].result = warp_result(warp, i, mask);
    }
    for (unsigned i = 0; i < lanes; i++) {
        if (mask >> i & 1)
            warp[i].state = READY;
    }
    return 1;
}

/* Runs one warp until none of its threads can go on by itself; how many of them have ended. */
static unsigned run_warp(unsigned first, int backwards)
{
    unsigned lanes = n_threads - first < 32 ? n_threads - first : 32, done;
    do {
        done = 0;
        for (unsigned k = 0; k < lanes; k++) {
            current = first + (backwards ? lanes - 1 - k : k);
            struct thread *t = &threads[current];
            if (t->state == READY) {
                emu_thread_idx = t->idx;
                emu_switch(&scheduler_sp, t->sp);
            }
            done += t->state == DONE;
        }
    } while (release_warp(first));
    return done;
}

static unsigned run_warps(int backwards)
{
    unsigned done = 0, warps = (n_threads + 31) / 32;
    for (unsigned k = 0; k < warps; k++)
        done += run_warp((backwards ? warps - 1 - k : k) * 32, backwards);
    return done;
}

static void start_threads(void)
{
    struct emu_uint3 b = now->block;
    for (unsigned i = 0; i < n_threads; i++) {
        threads[i] = (struct thread){ .state = READY, .idx = { i % b.x, i / b.x % b.y, i / b.x / b.y } };
        threads[i].sp = first_frame(stacks + (size_t)(i + 1) * (STACK + PAGE));
    }
}

static void run_block(int backwards)
{
    block_serial++;
    epoch++;
    memset(shared_base, EMU_POISON, shared_bytes);
    start_threads();
    while (run_warps(backwards) < n_threads) {
        if (!release_barrier())
            report_stuck();
    }
}

static int prepare(void)
{
    if (stacks == NULL) {
        size_t bytes = (size_t)MAX_THREADS * (STACK + PAGE);
        stacks = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        shared_end = mmap(NULL, emu_round(SHARED_MAX, PAGE) + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                          -1, 0);
        if (stacks == MAP_FAILED || shared_end == MAP_FAILED)
            return cudaErrorMemoryAllocation;
        for (size_t i = 0; i < MAX_THREADS; i++)
            mprotect(stacks + i * (STACK + PAGE), PAGE, PROT_NONE);
        shared_end += emu_round(SHARED_MAX, PAGE);
        mprotect(shared_end, PAGE, PROT_NONE);
    }
    return 0;
}

static void run_grid(void *arg)
{
    struct emu_grid *l = arg;
    now = l;
    n_threads = l->block.x * l->block.y * l->block.z;
    shared_bytes = l->shared_bytes;
    shared_base = shared_end - emu_round(shared_bytes, 16);
    emu_block_dim = l->block;
    emu_grid_dim = l->grid;
    int backwards = launch_serial++ % 2 == 1;
    size_t blocks = (size_t)l->grid.x * l->grid.y * l->grid.z;
    for (size_t k = 0; k < blocks; k++) {
        size_t i = backwards ? blocks - 1 - k : k;
        emu_block_idx.x = (unsigned)(i % l->grid.x);
        emu_block_idx.y = (unsigned)(i / l->grid.x % l->grid.y);
        emu_block_idx.z = (unsigned)(i / l->grid.x / l->grid.y);
        run_block(backwards);
    }
    emu_now.kernels++;
    free(l->args);
}

/* --- launching --- */

static struct {
    const void *function;
    size_t bytes;
} limits[MAX_FUNCTIONS];

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value)
{
    int code = emu_begin("cudaFuncSetAttribute", EMU_NEED_CONTEXT);
    if (code == 0 && (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > SHARED_MAX))
        code = cudaErrorInvalidValue;
    for (size_t i = 0; code == 0; i++) {
        if (i == MAX_FUNCTIONS)
            code = cudaErrorMemoryAllocation;
        else if (limits[i].function == NULL || limits[i].function == func) {
            limits[i].function = func;
            limits[i].bytes = (size_t)value;
            break;
        }
    }
    return emu_end(code);
}

static size_t limit_of(const void *function)
{
    for (size_t i = 0; i < MAX_FUNCTIONS; i++) {
        if (limits[i].function == function && limits[i].bytes > SHARED_DEFAULT)
            return limits[i].bytes;
    }
    return SHARED_DEFAULT;
}

static int check_launch(const struct emu_grid *l)
{
    uint64_t threads_wanted = (uint64_t)l->block.x * l->block.y * l->block.z;
    if (threads_wanted == 0 || threads_wanted > MAX_THREADS || l->block.z > 64)
        return cudaErrorInvalidConfiguration;
    if (l->grid.x == 0 || l->grid.y == 0 || l->grid.z == 0 || l->grid.x > INT32_MAX || l->grid.y > 65535 ||
        l->grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    return l->shared_bytes > limit_of(l->function) ? cudaErrorInvalidValue : prepare();
}

cudaError_t emu_launch(const struct emu_grid *launch)
{
    int code = emu_begin("launch", EMU_NEED_CONTEXT);
    if (code == 0)
        code = check_launch(launch);
    struct emu_grid *copy = code == 0 ? malloc(sizeof *copy) : NULL;
    if (code == 0 && copy == NULL)
        code = cudaErrorMemoryAllocation;
    if (copy != NULL) {
        *copy = *launch;
        code = emu_enqueue(launch->stream, launch->kernel, run_grid, copy);
    }
    if (code != 0) {
        free(copy);
        free(launch->args);
    }
    return emu_end(code);
}
