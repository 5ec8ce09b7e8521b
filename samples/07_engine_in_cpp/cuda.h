// Own what CUDA gives, and turn every status of it into an Error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

namespace sample {

// Throws Error where `status` is one; `doing` says what was tried.
void check(cudaError_t status, std::string const& doing);

// The compute capability of the first GPU, such as "8.9". Throws Error with what is missing where there is
// none.
std::string require_gpu();

class Stream {
public:
    Stream();
    ~Stream();
    Stream(Stream const&) = delete;
    Stream& operator=(Stream const&) = delete;

    cudaStream_t get() const { return stream_; }
    void wait() const;  // until all that was put into it is done

private:
    cudaStream_t stream_ = nullptr;
};

// Memory of the GPU, of zeros at first, or pinned memory of the host, from which copies need not wait.
class Memory {
public:
    enum class Place { kDevice, kHost };

    Memory(Place place, size_t bytes, std::string const& purpose);
    ~Memory();
    Memory(Memory&& other) noexcept;
    Memory& operator=(Memory&&) = delete;
    Memory(Memory const&) = delete;
    Memory& operator=(Memory const&) = delete;

    void* get() const { return memory_; }
    size_t bytes() const { return bytes_; }

private:
    Place place_;
    size_t bytes_;
    void* memory_ = nullptr;
};

// What one decoding step puts into a stream, recorded once and launched for every token.
class Graph {
public:
    Graph() = default;
    ~Graph();
    Graph(Graph const&) = delete;
    Graph& operator=(Graph const&) = delete;

    bool recorded() const { return graph_ != nullptr; }
    void launch(Stream const& stream) const;

    template <typename Work>
    void record(Stream const& stream, Work const& work) {
        begin(stream);
        try {
            work();
        } catch (...) {
            abandon(stream);  // or the stream stays unusable, and what clears up after it fails as well
            throw;
        }
        end(stream);
    }

private:
    static void begin(Stream const& stream);
    static void abandon(Stream const& stream);
    void end(Stream const& stream);

    cudaGraphExec_t graph_ = nullptr;
};

}  // namespace sample
