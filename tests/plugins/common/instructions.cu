// Let the tests call single instructions, on the emulator alone: test_instructions.py.
#include "instructions.cuh"

using namespace castline;

namespace {

constexpr unsigned kLanes = 32;

template <class E>
void convert(const uint16_t* from, float* wide, const float* values, uint16_t* to, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
        wide[i] = E::to_float(from[i]);
        to[i] = E::from_float(values[i]);
    }
}

template <class E>
__global__ void multiply_float(const uint32_t* a, const uint32_t* b, float* c) {
    const uint32_t* own = a + 4 * threadIdx.x;
    const uint32_t registers[4] = {own[0], own[1], own[2], own[3]};
    float sums[4] = {0.F, 0.F, 0.F, 0.F};
    mma_16x8x16<E>(sums, registers, b[2 * threadIdx.x], b[2 * threadIdx.x + 1]);
    for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = sums[i];
}

__global__ void multiply_integer(const uint32_t* a, const uint32_t* b, int32_t* c) {
    const uint32_t* own = a + 4 * threadIdx.x;
    const uint32_t registers[4] = {own[0], own[1], own[2], own[3]};
    int32_t sums[4] = {1, 1, 1, 1};
    mma_16x8x32(sums, registers, b[2 * threadIdx.x], b[2 * threadIdx.x + 1]);
    for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = sums[i];
}

__global__ void exchange(int32_t* values) {
    const int32_t own = values[threadIdx.x];
    const int32_t lane = static_cast<int32_t>(threadIdx.x);
    values[threadIdx.x] = 100 * shuffle_xor(own, 5) + shuffle(own, (lane + 1) % 32);
    values[kLanes + threadIdx.x] = warp_max(own);
}

// Before and after the wait for a copy of even lanes, and of zeros for the odd ones.
__global__ void copy(const uint32_t* from, uint32_t* before, uint32_t* after) {
    CASTLINE_SHARED(shared);
    unsigned char* own = shared + 16 * threadIdx.x;
    cp_async_16(own, from + 4 * threadIdx.x, threadIdx.x % 2 == 0);
    cp_async_commit();
    cp_async_wait<1>();
    before[threadIdx.x] = *reinterpret_cast<uint32_t*>(own);
    cp_async_wait<0>();
    after[threadIdx.x] = *reinterpret_cast<uint32_t*>(own);
}

__global__ void take_tickets(uint32_t* ticket, int32_t* last) {
    if (threadIdx.x == 0) last[blockIdx.x] = is_last(ticket, gridDim.x) ? 1 : 0;
}

// Warp 0 waits at a barrier that warp 1 never comes to.
__global__ void leave_early() {
    if (threadIdx.x < kLanes) sync_threads();
}

__global__ void disagree() {
    if (threadIdx.x == 0) sync_warp();
    (void)shuffle(1, 0);
}

// Warp 0 reads what warp 1 writes, or the other way round, without a barrier.
__global__ void forget_barrier(uint32_t* seen, unsigned writer) {
    CASTLINE_SHARED(shared);
    uint32_t* value = reinterpret_cast<uint32_t*>(shared);
    if (threadIdx.x == kLanes * writer) *value = 7;
    if (threadIdx.x == kLanes * (1 - writer)) *seen = *value;
}

}  // namespace

extern "C" {

CASTLINE_API void try_convert(int32_t bfloat16, const uint16_t* from, float* wide, const float* values,
                              uint16_t* to, int32_t count) {
    (bfloat16 != 0 ? convert<BFloat16> : convert<Half>)(from, wide, values, to, count);
}

CASTLINE_API int32_t try_multiply_float(int32_t bfloat16, const uint32_t* a, const uint32_t* b, float* c) {
    const auto kernel = bfloat16 != 0 ? multiply_float<BFloat16> : multiply_float<Half>;
    return launch(kernel, dim3(1), dim3(kLanes), 0, nullptr, a, b, c);
}

CASTLINE_API int32_t try_multiply_integer(const uint32_t* a, const uint32_t* b, int32_t* c) {
    return launch(multiply_integer, dim3(1), dim3(kLanes), 0, nullptr, a, b, c);
}

CASTLINE_API int32_t try_exchange(int32_t* values) {
    return launch(exchange, dim3(1), dim3(kLanes), 0, nullptr, values);
}

CASTLINE_API int32_t try_copy(const uint32_t* from, uint32_t* before, uint32_t* after) {
    return launch(copy, dim3(1), dim3(kLanes), 16 * kLanes, nullptr, from, before, after);
}

CASTLINE_API int32_t try_tickets(uint32_t* ticket, int32_t* last, uint32_t blocks) {
    return launch(take_tickets, dim3(blocks), dim3(kLanes), 0, nullptr, ticket, last);
}

CASTLINE_API uint32_t try_byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
    return byte_permute(a, b, selector);
}

CASTLINE_API uint32_t try_fma_pairs(int32_t bfloat16, uint32_t a, uint32_t b, uint32_t c) {
    return bfloat16 != 0 ? fma_pairs<BFloat16>(a, b, c) : fma_pairs<Half>(a, b, c);
}

CASTLINE_API uint32_t try_sub_pairs(int32_t bfloat16, uint32_t a, uint32_t b) {
    return bfloat16 != 0 ? sub_pairs<BFloat16>(a, b) : sub_pairs<Half>(a, b);
}

CASTLINE_API int32_t try_leave_early(void) {
    return launch(leave_early, dim3(1), dim3(2 * kLanes), 0, nullptr);
}

CASTLINE_API int32_t try_disagree(void) { return launch(disagree, dim3(1), dim3(kLanes), 0, nullptr); }

CASTLINE_API int32_t try_half_a_warp(void) {
    return launch(leave_early, dim3(1), dim3(kLanes / 2), 0, nullptr);
}

CASTLINE_API int32_t try_unaligned(const unsigned char* from) {
    return static_cast<int32_t>(load_16(from + 4).x);
}

CASTLINE_API int32_t try_forgotten_barrier(uint32_t* seen, uint32_t writer) {
    return launch(forget_barrier, dim3(1), dim3(2 * kLanes), 16, nullptr, seen, writer);
}

}
