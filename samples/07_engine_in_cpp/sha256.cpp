#include "sha256.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <sstream>
#include <vector>

namespace sample {
namespace {

constexpr size_t kBlock = 64;         // bytes that are mixed in at a time
constexpr size_t kLengthBytes = 8;    // of the length in bits, which ends the last block
constexpr size_t kChunk = 1U << 20U;  // bytes read at a time; a multiple of kBlock

using State = std::array<uint32_t, 8>;

// The first 32 bits of the fractions of the cube roots of the first 64 primes.
constexpr std::array<uint32_t, 64> kRounds{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// Those of the square roots of the first 8 primes.
constexpr State kStart{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

uint32_t rotated(uint32_t word, int bits) { return (word >> bits) | (word << (32 - bits)); }

void mix(State& state, unsigned char const* block) {
    std::array<uint32_t, 64> words{};
    for (size_t i = 0; i < 16; ++i) {
        unsigned char const* byte = block + 4 * i;
        words[i] = uint32_t{byte[0]} << 24 | uint32_t{byte[1]} << 16 | uint32_t{byte[2]} << 8 | byte[3];
    }
    for (size_t i = 16; i < words.size(); ++i) {
        uint32_t const near = words[i - 2];
        uint32_t const far = words[i - 15];
        words[i] = words[i - 16] + words[i - 7] + (rotated(far, 7) ^ rotated(far, 18) ^ (far >> 3)) +
                   (rotated(near, 17) ^ rotated(near, 19) ^ (near >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (size_t i = 0; i < words.size(); ++i) {
        uint32_t const chosen = (e & f) ^ (~e & g);
        uint32_t const majority = (a & b) ^ (a & c) ^ (b & c);
        uint32_t const first =
            h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + chosen + kRounds[i] + words[i];
        uint32_t const second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + majority;
        h = g, g = f, f = e, e = d + first;
        d = c, c = b, b = a, a = first + second;
    }
    State const added{a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < state.size(); ++i) {
        state[i] += added[i];
    }
}

// What follows the last whole block: its bytes, a one bit, zeros, and the length in bits.
std::vector<unsigned char> ending(unsigned char const* rest, size_t count, uint64_t length) {
    size_t const blocks = count + 1 + kLengthBytes <= kBlock ? 1 : 2;
    std::vector<unsigned char> padded(blocks * kBlock);
    std::copy(rest, rest + count, padded.begin());
    padded[count] = 0x80;
    for (size_t i = 0; i < kLengthBytes; ++i) {
        padded[padded.size() - 1 - i] = static_cast<unsigned char>((length * 8) >> (8 * i));
    }
    return padded;
}

std::string hexadecimal(State const& state) {
    std::ostringstream text;
    text << std::hex << std::setfill('0');
    for (uint32_t const word : state) {
        text << std::setw(8) << word;
    }
    return text.str();
}

}  // namespace

std::string sha256_of(std::filesystem::path const& file) {
    std::ifstream stream(file, std::ios::binary);
    std::vector<unsigned char> chunk(kChunk);
    State state = kStart;
    uint64_t length = 0;
    size_t count = kChunk;
    while (count == kChunk) {
        stream.read(reinterpret_cast<char*>(chunk.data()), static_cast<std::streamsize>(kChunk));
        if (stream.bad() || !stream.is_open()) {
            throw Error(file.string() + " cannot be read: " + std::strerror(errno));
        }
        count = static_cast<size_t>(stream.gcount());
        length += count;
        for (size_t at = 0; at + kBlock <= count; at += kBlock) {
            mix(state, chunk.data() + at);
        }
    }
    size_t const rest = count % kBlock;
    std::vector<unsigned char> const last = ending(chunk.data() + (count - rest), rest, length);
    for (size_t at = 0; at < last.size(); at += kBlock) {
        mix(state, last.data() + at);
    }
    return hexadecimal(state);
}

}  // namespace sample
