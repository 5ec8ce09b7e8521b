// Run kernels on the host: a thread of a block is a fiber, which runs until it meets the others.
//
// Blocks run one after another. Fibers switch by a few instructions of assembly, because ucontext makes
// two system calls a switch, and a warp meets at every matrix instruction and shuffle. Whatever lanes do
// together is one function of their operands, called when the last of them has arrived. Shared memory
// is filled with rubbish before each block; a copy of cp_async arrives only when it is waited for. A warp
// runs as far as it can before the next one starts, so that a missing barrier is seen where an earlier warp
// reads what a later one writes. CASTLINE_EMULATOR_REVERSE in the environment runs blocks, warps and lanes
// from the last to the first, and shows the others.
#pragma once

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "errors.h"
#include "kernels.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define CASTLINE_SHARED(name) unsigned char* const name = ::castline::emulator::running.shared

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// They may alias, as memory of any type is loaded by them.
#define CASTLINE_VECTOR(name, type, bytes, ...)                      \
    struct [[gnu::may_alias]] alignas(bytes) name { type __VA_ARGS__; }
CASTLINE_VECTOR(uint2, uint32_t, 8, x, y);
CASTLINE_VECTOR(uint4, uint32_t, 16, x, y, z, w);
CASTLINE_VECTOR(int2, int32_t, 8, x, y);
CASTLINE_VECTOR(int4, int32_t, 16, x, y, z, w);
CASTLINE_VECTOR(float2, float, 8, x, y);
CASTLINE_VECTOR(float4, float, 16, x, y, z, w);
#undef CASTLINE_VECTOR

constexpr uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
constexpr uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
constexpr int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
constexpr int4 make_int4(int32_t x, int32_t y, int32_t z, int32_t w) { return {x, y, z, w}; }
constexpr float2 make_float2(float x, float y) { return {x, y}; }
constexpr float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// void castline_switch_fiber(void** saved, void* resumed): keeps the registers that a callee must keep
// on the stack, its address in *saved, and goes on with those at `resumed`.
extern "C" void castline_switch_fiber(void** saved, void* resumed);
#if defined(__x86_64__)
asm(R"(
    .text
    .weak castline_switch_fiber
    .hidden castline_switch_fiber
    .type castline_switch_fiber, @function
castline_switch_fiber:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .size castline_switch_fiber, . - castline_switch_fiber
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .weak castline_switch_fiber
    .hidden castline_switch_fiber
    .type castline_switch_fiber, %function
castline_switch_fiber:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size castline_switch_fiber, . - castline_switch_fiber
)");
#else
#error "the emulator switches fibers on x86-64 and aarch64 only"
#endif

namespace castline::emulator {

constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kGuardBytes = 64 * 1024;  // a page, however large pages are
constexpr int kRubbish = 0xCD;

[[noreturn]] inline void stop(const char* sentence) {
    std::fprintf(stderr, "castline emulator: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
                 sentence);
    std::abort();
}

// Stacks are kept between launches; a page without access ends each.
class Stacks {
public:
    unsigned char* top_of(unsigned thread) {
        while (stacks_.size() <= thread) {
            const size_t bytes = kGuardBytes + kStackBytes;
            void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
                stop("there is no memory for the stacks of its threads");
            }
            stacks_.push_back(static_cast<unsigned char*>(memory));
        }
        return stacks_[thread] + kGuardBytes + kStackBytes;
    }

private:
    std::vector<unsigned char*> stacks_;
};

struct Copy {
    void* to;
    const void* from;
    bool valid;
};

struct Fiber {
    void* stack = nullptr;
    bool waits = false;
    bool ended = false;
    std::vector<std::vector<Copy>> copies;  // the last of them is not committed
};

// What lanes do together: their operands, by lane, are read and their results written to the same place.
using Collective = void (*)(void* const* operands, unsigned count);

struct Meeting {
    Collective what = nullptr;
    unsigned arrived = 0;
    std::vector<void*> operands;
};

struct Running {
    Stacks stacks;
    std::vector<Fiber> fibers;
    std::vector<Meeting> warps;
    Meeting block;
    std::function<void()> body;
    unsigned thread = 0;
    bool reverse = false;
    void* scheduler = nullptr;
    unsigned char* shared = nullptr;
};
inline Running running;

inline unsigned lane() { return running.thread % kWarp; }

inline void run_thread() {
    running.body();
    running.fibers[running.thread].ended = true;
    castline_switch_fiber(&running.fibers[running.thread].stack, running.scheduler);
    std::abort();
}

inline void start(Fiber& fiber, unsigned char* top) {
    fiber.waits = false;
    fiber.ended = false;
    fiber.copies.assign(1, {});
#if defined(__x86_64__)
    constexpr size_t kWords = 8;  // six registers, the entry, and the return address that it never uses
    constexpr size_t kEntry = 6;
#else
    constexpr size_t kWords = 20;  // twelve registers, of which x30 is the entry, and eight more
    constexpr size_t kEntry = 11;
#endif
    void** frame = reinterpret_cast<void**>(top) - kWords;
    std::memset(frame, 0, kWords * sizeof(void*));
    frame[kEntry] = reinterpret_cast<void*>(&run_thread);
    fiber.stack = frame;
}

// Waits for the `count` threads from `first` on, which must all come to do the same.
inline void meet(Meeting& at, unsigned first, unsigned count, Collective what, void* operands) {
    if (at.arrived != 0 && at.what != what) stop("threads that must meet do different things");
    at.what = what;
    at.operands.resize(count);
    at.operands[running.thread - first] = operands;
    if (++at.arrived == count) {
        at.arrived = 0;
        what(at.operands.data(), count);
        for (unsigned i = first; i < first + count; ++i) running.fibers[i].waits = false;
        return;
    }
    Fiber& self = running.fibers[running.thread];
    self.waits = true;
    castline_switch_fiber(&self.stack, running.scheduler);
}

inline void meet_warp(Collective what, void* operands) {
    const unsigned warp = running.thread / kWarp;
    meet(running.warps[warp], warp * kWarp, kWarp, what, operands);
}

inline void meet_block(Collective what, void* operands) {
    meet(running.block, 0, static_cast<unsigned>(running.fibers.size()), what, operands);
}

inline void resume(unsigned thread) {
    running.thread = thread;
    threadIdx = dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y);
    castline_switch_fiber(&running.scheduler, running.fibers[thread].stack);
}

inline unsigned in_order(unsigned i, unsigned count) { return running.reverse ? count - 1 - i : i; }

// Runs the warp until all its threads wait or have ended. False if none of them could run.
inline bool run_warp(unsigned warp) {
    bool ran = false;
    for (bool again = true; again; ran = ran || again) {
        again = false;
        for (unsigned i = 0; i < kWarp; ++i) {
            const unsigned thread = warp * kWarp + in_order(i, kWarp);
            if (running.fibers[thread].ended || running.fibers[thread].waits) continue;
            resume(thread);
            again = true;
        }
    }
    return ran;
}

inline void run_block() {
    const unsigned threads = static_cast<unsigned>(running.fibers.size());
    const unsigned warps = threads / kWarp;
    for (unsigned i = 0; i < threads; ++i) start(running.fibers[i], running.stacks.top_of(i));
    for (bool again = true; again;) {
        again = false;
        for (unsigned i = 0; i < warps; ++i) again = run_warp(in_order(i, warps)) || again;
    }
    for (const Fiber& fiber : running.fibers) {
        if (!fiber.ended) stop("threads wait for others that have ended, or that wait elsewhere");
    }
}

struct Freed {
    void operator()(unsigned char* memory) const { std::free(memory); }
};

inline std::unique_ptr<unsigned char, Freed> shared_memory(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, bytes == 0 ? 1 : bytes) != 0) stop("there is no shared memory");
    return std::unique_ptr<unsigned char, Freed>(static_cast<unsigned char*>(memory));
}

inline int run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> body) {
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads > kMostThreads || threads % kWarp != 0 || grid.x * grid.y * grid.z == 0) {
        return fail("a kernel was not launched on a grid of %u x %u x %u blocks of %u threads: a block has "
                    "whole warps, of %u threads at most",
                    grid.x, grid.y, grid.z, threads, kMostThreads);
    }
    running.body = std::move(body);
    running.fibers.resize(threads);
    running.warps.assign(threads / kWarp, Meeting());
    running.block = Meeting();
    const auto shared = shared_memory(shared_bytes);
    running.shared = shared.get();
    running.reverse = std::getenv("CASTLINE_EMULATOR_REVERSE") != nullptr;
    gridDim = grid;
    blockDim = block;
    const unsigned blocks = grid.x * grid.y * grid.z;
    for (unsigned number = 0; number < blocks; ++number) {
        const unsigned i = in_order(number, blocks);
        blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
        std::memset(running.shared, kRubbish, shared_bytes);
        run_block();
    }
    return 0;
}

}  // namespace castline::emulator

namespace castline {

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, CastlineStream, A... arguments) {
    return emulator::run(grid, block, shared_bytes, [=] { kernel(static_cast<P>(arguments)...); });
}

template <class... P, class... A>
int launch_overlapping(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                       CastlineStream stream, A... arguments) {
    return launch(kernel, grid, block, shared_bytes, stream, arguments...);
}

}  // namespace castline
