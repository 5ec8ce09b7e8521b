// The instructions of instructions.cuh on a GPU, of compute capability 8.0 and above.
#pragma once

namespace castline {

constexpr unsigned kAllLanes = 0xFFFFFFFFU;

__device__ __forceinline__ void sync_threads() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(kAllLanes, value, mask);
}

template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
    return __shfl_sync(kAllLanes, value, lane);
}

// The largest of the warp's values.
__device__ __forceinline__ int32_t warp_max(int32_t value) { return __reduce_max_sync(kAllLanes, value); }

// Memory that no kernel writes while this one may run, and that is read once: weights.
__device__ __forceinline__ uint4 load_stream(const void* from) {
    uint4 to;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "l"(from));
    return to;
}

// Ordinary loads, volatile and not .nc: they must stay behind wait_for_previous_kernel(), which a pointer
// with __restrict__ would let the compiler forget, and see what the kernel before has written.
__device__ __forceinline__ uint4 load_16(const void* from) {
    uint4 to;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "l"(from));
    return to;
}

__device__ __forceinline__ uint2 load_8(const void* from) {
    uint2 to;
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(to.x), "=r"(to.y) : "l"(from));
    return to;
}

__device__ __forceinline__ uint32_t load_4(const void* from) {
    uint32_t to;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(to) : "l"(from));
    return to;
}

// Copies 16 bytes, or zeros where `valid` is false; `global` is then not read.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(global), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N groups of this thread's copies are under way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#define CASTLINE_MMA_16X8X16(pair)                                                                          \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." pair ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
        "{%0, %1, %2, %3};"                                                                                 \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                    \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

// c += a b, values of E, sums in float.
template <class E>
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (std::is_same_v<E, Half>) {
        CASTLINE_MMA_16X8X16("f16.f16");
    } else {
        CASTLINE_MMA_16X8X16("bf16.bf16");
    }
}
#undef CASTLINE_MMA_16X8X16

// c += a b, int8.
__device__ __forceinline__ void mma_16x8x32(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Byte i of the result is byte (selector >> 4 i) & 7 of a (0 to 3) and b (4 to 7), or, where bit 3 of that
// nibble is set, eight times its sign.
__device__ __forceinline__ uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
    return result;
}

// (a & b) ^ c, which the compiler makes two instructions of where b and c are constants.
__device__ __forceinline__ uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

// a * b + c of two values of E, each rounded once.
template <class E>
__device__ __forceinline__ uint32_t fma_pairs(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t result;
    if constexpr (std::is_same_v<E, Half>) {
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    } else {
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    }
    return result;
}

// a - b of two values of E. There is no sub.bf16x2 before capability 9.0.
template <class E>
__device__ __forceinline__ uint32_t sub_pairs(uint32_t a, uint32_t b) {
    if constexpr (std::is_same_v<E, Half>) {
        uint32_t result;
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
        return result;
    } else {
        constexpr uint32_t kMinusOnes = 0xBF80BF80U;
        return fma_pairs<E>(b, kMinusOnes, a);
    }
}

// One rounding each, whatever the compiler is told about speed.
__device__ __forceinline__ float multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float divide(float a, float b) { return __fdiv_rn(a, b); }

// True for the last of `count` blocks that take the ticket, which is left zero. What the blocks wrote before
// is then visible to the thread that called; sync_threads() before and after makes that the whole block.
__device__ __forceinline__ bool is_last(uint32_t* ticket, uint32_t count) {
    __threadfence();
    const uint32_t taken = atomicInc(ticket, count - 1);
    __threadfence();
    return taken == count - 1;
}

// Until here a kernel of launch_overlapping may run beside the one before it, whose results it now sees.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the kernel after this one may start its blocks.
__device__ __forceinline__ void allow_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace castline
