// The instructions of instructions.cuh on the emulator; instructions_device.cuh says what each does.
#pragma once

#include <cmath>

namespace castline {

using emulator::kWarp;

namespace emulator {

inline void nothing(void* const*, unsigned) {}

template <class T>
struct Shuffled {
    T value, result;
    unsigned from;
};

template <class T>
void shuffle_lanes(void* const* operands, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        auto* self = static_cast<Shuffled<T>*>(operands[i]);
        self->result = static_cast<const Shuffled<T>*>(operands[self->from % kWarp])->value;
    }
}

template <class C>
struct Product {
    C* c;
    const uint32_t* a;
    uint32_t b[2];
};

// The float of value `i` of two in a register, or the integer of four.
template <class E>
struct Values {
    using Sum = float;
    static constexpr int count = 2;
    static float at(uint32_t bits, int i) { return E::to_float(static_cast<uint16_t>(bits >> (16 * i))); }
};
template <>
struct Values<int8_t> {
    using Sum = int32_t;
    static constexpr int count = 4;
    static int32_t at(uint32_t bits, int i) { return static_cast<int8_t>(bits >> (8 * i)); }
};

// Products are added to c one by one, by rising column of a: exact for int8, rounded each time for floats.
// Not sanitized: it has constant indices alone, and most of the time is spent here.
template <class V>
[[gnu::no_sanitize("undefined")]] void multiply_fragments(void* const* operands, unsigned) {
    using Sum = typename V::Sum;
    constexpr int kDepth = 8 * V::count;
    Sum a[16][kDepth];
    Sum b[8][kDepth];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        const auto* held = static_cast<const Product<Sum>*>(operands[lane]);
        const unsigned g = lane / 4;
        for (int i = 0; i < V::count; ++i) {
            const unsigned k = V::count * (lane % 4) + static_cast<unsigned>(i);
            a[g][k] = V::at(held->a[0], i);
            a[g + 8][k] = V::at(held->a[1], i);
            a[g][k + kDepth / 2] = V::at(held->a[2], i);
            a[g + 8][k + kDepth / 2] = V::at(held->a[3], i);
            b[g][k] = V::at(held->b[0], i);
            b[g][k + kDepth / 2] = V::at(held->b[1], i);
        }
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        Sum* c = static_cast<const Product<Sum>*>(operands[lane])->c;
        for (unsigned i = 0; i < 4; ++i) {
            const Sum* row = a[lane / 4 + 8 * (i / 2)];
            const Sum* column = b[2 * (lane % 4) + i % 2];
            for (int k = 0; k < kDepth; ++k) c[i] += row[k] * column[k];
        }
    }
}

// The float on the side of exact = sum + error that has an odd last bit, so that rounding it once more, to
// fewer bits, is rounding the exact value once.
inline float odd_float(double sum, double error) {
    const float nearest = static_cast<float>(sum);
    const double rest = (sum - static_cast<double>(nearest)) + error;
    const bool odd = (bits_of_float(nearest) & 1U) != 0;
    if (rest == 0 || odd || !std::isfinite(nearest)) return nearest;
    return std::nextafter(nearest, rest > 0 ? INFINITY : -INFINITY);
}

// a * b is exact in double; what adding c rounds off is found by Knuth's two-sum.
inline float fma_to_odd(float a, float b, float c) {
    const double product = static_cast<double>(a) * b;
    const double sum = product + c;
    const double added = sum - product;
    const double error = (product - (sum - added)) + (c - added);
    return odd_float(sum, std::isfinite(sum) ? error : 0);
}

}  // namespace emulator

inline void sync_threads() { emulator::meet_block(emulator::nothing, nullptr); }
inline void sync_warp() { emulator::meet_warp(emulator::nothing, nullptr); }

template <class T>
T shuffle(T value, int lane) {
    emulator::Shuffled<T> own = {value, value, static_cast<unsigned>(lane)};
    emulator::meet_warp(emulator::shuffle_lanes<T>, &own);
    return own.result;
}

template <class T>
T shuffle_xor(T value, int mask) {
    return shuffle(value, static_cast<int>(emulator::lane()) ^ mask);
}

inline int32_t warp_max(int32_t value) {
    for (int mask = 1; mask < static_cast<int>(kWarp); mask *= 2) {
        const int32_t other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    return value;
}

inline uint4 load_16(const void* from) { return *static_cast<const uint4*>(from); }
inline uint2 load_8(const void* from) { return *static_cast<const uint2*>(from); }
inline uint4 load_stream(const void* from) { return load_16(from); }

inline uint32_t load_4(const void* from) {
    using Word [[gnu::may_alias]] = uint32_t;
    return *static_cast<const Word*>(from);
}

inline void cp_async_16(void* shared, const void* global, bool valid) {
    emulator::running.fibers[emulator::running.thread].copies.back().push_back({shared, global, valid});
}

inline void cp_async_commit() {
    emulator::running.fibers[emulator::running.thread].copies.emplace_back();
}

template <int N>
void cp_async_wait() {
    auto& groups = emulator::running.fibers[emulator::running.thread].copies;
    while (groups.size() - 1 > N) {
        for (const emulator::Copy& copy : groups.front()) {
            *static_cast<uint4*>(copy.to) = copy.valid ? load_16(copy.from) : uint4{};
        }
        groups.erase(groups.begin());
    }
}

template <class E>
void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator::Product<float> own = {c, a, {b0, b1}};
    emulator::meet_warp(emulator::multiply_fragments<emulator::Values<E>>, &own);
}

inline void mma_16x8x32(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator::Product<int32_t> own = {c, a, {b0, b1}};
    emulator::meet_warp(emulator::multiply_fragments<emulator::Values<int8_t>>, &own);
}

inline uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) { return (a & b) ^ c; }

inline uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t result = 0;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned choice = selector >> (4 * i);
        const uint32_t byte = bytes >> (8 * (choice & 7U)) & 0xFFU;
        const uint32_t sign = byte >> 7 != 0 ? 0xFFU : 0U;
        result |= ((choice & 8U) != 0 ? sign : byte) << (8 * i);
    }
    return result;
}

template <class E>
uint32_t fma_pairs(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t result = 0;
    for (int i = 0; i < 2; ++i) {
        using Pair = emulator::Values<E>;
        const float value = emulator::fma_to_odd(Pair::at(a, i), Pair::at(b, i), Pair::at(c, i));
        result |= static_cast<uint32_t>(E::from_float(value)) << (16 * i);
    }
    return result;
}

template <class E>
uint32_t sub_pairs(uint32_t a, uint32_t b) {
    const uint32_t minus_one = E::from_float(-1.F);
    return fma_pairs<E>(b, minus_one << 16 | minus_one, a);
}

inline float multiply(float a, float b) { return a * b; }
inline float add(float a, float b) { return a + b; }
inline float divide(float a, float b) { return a / b; }

inline bool is_last(uint32_t* ticket, uint32_t count) {
    const uint32_t taken = *ticket;
    *ticket = taken >= count - 1 ? 0 : taken + 1;
    return taken == count - 1;
}

inline void wait_for_previous_kernel() {}
inline void allow_next_kernel() {}

}  // namespace castline
