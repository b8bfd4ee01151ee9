/* CUDA C++ for g++: enough of the language for kernels/cuda to be run by the emulator. */
#ifndef CRN_EMU_CUDA_RUNTIME_H
#define CRN_EMU_CUDA_RUNTIME_H

#include "emu_kernel.h"

#include <math.h>
#include <new>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ _Pragma("GCC error \"shared memory goes through CRN_SHARED\"")

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define threadIdx emu_thread_idx
#define blockIdx emu_block_idx
#define blockDim emu_block_dim
#define gridDim emu_grid_dim

#define EMU_TEXT2(x) #x
#define EMU_TEXT(x) EMU_TEXT2(x)
#define __syncthreads() emu_barrier(__FILE__, __LINE__)
#define EMU_WHERE __FILE__ ":" EMU_TEXT(__LINE__)

namespace emu {

template <typename T> uint64_t to_bits(T x)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof x);
    return bits;
}

template <typename T> T from_bits(uint64_t bits)
{
    T x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

template <typename T> T shuffle(emu_shuffle kind, unsigned mask, T value, unsigned arg, const char *where)
{
    return from_bits<T>(emu_warp(kind, mask, to_bits(value), arg, where));
}

/* One element of shared memory: every read and write is checked. */
template <typename T> class element {
    size_t at;

  public:
    explicit element(size_t offset) : at(offset) {}
    element(const element &) = default;
    operator T() const
    {
        return *static_cast<T *>(emu_shared(at, sizeof(T), EMU_READ));
    }
    element &operator=(T x)
    {
        *static_cast<T *>(emu_shared(at, sizeof(T), EMU_WRITE)) = x;
        return *this;
    }
    element &operator=(const element &other)
    {
        return *this = static_cast<T>(other);
    }
    element &operator+=(T x)
    {
        return *this = static_cast<T>(*this) + x;
    }
    T atomic_add(T x)
    {
        T *p = static_cast<T *>(emu_shared(at, sizeof(T), EMU_ATOMIC)), old = *p;
        *p = old + x;
        return old;
    }
};

template <typename T> class shared {
    size_t start, count;

  public:
    shared(size_t offset, size_t n) : start(offset), count(n)
    {
        static_assert(sizeof(T) % 4 == 0, "shared memory is watched in units of 4 bytes");
        emu_shared_view(offset, n * sizeof(T), alignof(T));
    }
    element<T> operator[](size_t i) const
    {
        /* beyond its own array: an address that no block has */
        return element<T>(i < count ? start + i * sizeof(T) : (size_t)-1 / 2);
    }
};

template <typename... A> struct holder;
template <> struct holder<> {
    template <typename F, typename... B> void call(F f, B... b)
    {
        f(b...);
    }
};
template <typename H, typename... A> struct holder<H, A...> {
    H head;
    holder<A...> tail;
    template <typename F, typename... B> void call(F f, B... b)
    {
        tail.call(f, b..., head);
    }
};

inline holder<> hold()
{
    return {};
}
template <typename H, typename... A> holder<H, A...> hold(H head, A... tail)
{
    return { head, hold(tail...) };
}

template <typename F, typename H> struct packet {
    F *function;
    H arguments;
    static void run(void *p)
    {
        packet *self = static_cast<packet *>(p);
        self->arguments.call(self->function);
    }
};

/* Arguments are converted to the kernel's parameter types, as a launch does. */
template <typename... P, typename... A>
cudaError_t launch(const char *name, void (*f)(P...), dim3 grid, dim3 block, size_t bytes, cudaStream_t stream, A... args)
{
    using H = decltype(hold(static_cast<P>(args)...));
    using K = packet<void(P...), H>;
    void *p = malloc(sizeof(K));
    if (p == nullptr)
        return cudaErrorMemoryAllocation;
    K *k = ::new (p) K{ f, hold(static_cast<P>(args)...) };
    emu_grid l = { name, reinterpret_cast<const void *>(f), { grid.x, grid.y, grid.z }, { block.x, block.y, block.z },
                     bytes, stream, K::run, k };
    return ::emu_launch(&l);
}

} // namespace emu

#define __shfl_xor_sync(mask, x, lane) emu::shuffle(EMU_SHUFFLE_XOR, mask, x, lane, EMU_WHERE)
#define __shfl_up_sync(mask, x, delta) emu::shuffle(EMU_SHUFFLE_UP, mask, x, delta, EMU_WHERE)
#define __shfl_sync(mask, x, lane) emu::shuffle(EMU_SHUFFLE_IDX, mask, x, lane, EMU_WHERE)
#define __ballot_sync(mask, p) (unsigned)emu_warp(EMU_BALLOT, mask, (p) ? 1u : 0u, 0, EMU_WHERE)
#define __popc(x) __builtin_popcount(x)

inline unsigned __float_as_uint(float x)
{
    return (unsigned)emu::to_bits(x);
}
inline float __uint_as_float(unsigned x)
{
    return emu::from_bits<float>(x);
}
inline unsigned atomicExch(unsigned *p, unsigned x)
{
    unsigned old = *p;
    *p = x;
    return old;
}

#endif
