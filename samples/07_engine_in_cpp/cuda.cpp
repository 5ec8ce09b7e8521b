#include "cuda.h"

#include "error.h"

#include <utility>

namespace sample {
namespace {

constexpr char const* kElsewhere =
    ". An engine runs on NVIDIA GPUs alone; the model.onnx beside it runs on the CPU: castline generate";

std::string megabytes(size_t bytes) { return std::to_string((bytes + 999'999) / 1'000'000) + " MB"; }

cudaError_t allocated(Memory::Place place, void** memory, size_t bytes) {
    if (place == Memory::Place::kHost) {
        return cudaMallocHost(memory, bytes);
    }
    cudaError_t const status = cudaMalloc(memory, bytes);
    if (status != cudaSuccess) {
        return status;
    }
    // A cache that is read before it is written must not hold NaN: a mask multiplies it by zero.
    cudaError_t const cleared = cudaMemset(*memory, 0, bytes);
    // Our streams do not wait for the default one, in which it is cleared after the call returned.
    return cleared == cudaSuccess ? cudaStreamSynchronize(nullptr) : cleared;
}

}  // namespace

void check(cudaError_t status, std::string const& doing) {
    if (status != cudaSuccess) {
        throw Error("CUDA failed in " + doing + ": " + cudaGetErrorString(status) + " (" +
                    cudaGetErrorName(status) + ")");
    }
}

std::string require_gpu() {
    int count = 0;
    cudaError_t const status = cudaGetDeviceCount(&count);
    if (status == cudaErrorInsufficientDriver) {
        int driver = 0;
        bool const none = cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0;
        throw Error("there is no NVIDIA driver that this program can use (" +
                    std::string(cudaGetErrorString(status)) +
                    "): " + (none ? "install one" : "install a later one, or build with an earlier CUDA") +
                    kElsewhere);
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
        throw Error(std::string("there is no NVIDIA GPU here that CUDA finds: look at nvidia-smi and at "
                                "CUDA_VISIBLE_DEVICES") +
                    kElsewhere);
    }
    check(status, "looking for a GPU");
    int major = 0;
    int minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "asking what the GPU is");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "asking what the GPU is");
    return std::to_string(major) + "." + std::to_string(minor);
}

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }

Stream::~Stream() { cudaStreamDestroy(stream_); }

void Stream::wait() const { check(cudaStreamSynchronize(stream_), "waiting for the GPU"); }

Memory::Memory(Place place, size_t bytes, std::string const& purpose) : place_(place), bytes_(bytes) {
    cudaError_t const status = allocated(place, &memory_, bytes);
    if (status == cudaErrorMemoryAllocation && place == Place::kHost) {
        throw Error("this machine has no " + megabytes(bytes) + " of pinned host memory for " + purpose +
                    ": end what else uses its memory, or raise the limit of this process or container");
    }
    if (status == cudaErrorMemoryAllocation) {
        size_t left = 0;
        size_t all = 0;
        bool const told = cudaMemGetInfo(&left, &all) == cudaSuccess;
        throw Error("the GPU has no " + megabytes(bytes) + " for " + purpose +
                    (told ? " (" + megabytes(left) + " of " + megabytes(all) + " are free)" : "") +
                    ": end what else uses it, or build the engine for shorter sequences and a shorter past");
    }
    check(status, "allocating " + megabytes(bytes) + " for " + purpose);
}

Memory::Memory(Memory&& other) noexcept
    : place_(other.place_), bytes_(other.bytes_), memory_(std::exchange(other.memory_, nullptr)) {}

Memory::~Memory() {
    if (memory_ != nullptr) {
        place_ == Place::kHost ? cudaFreeHost(memory_) : cudaFree(memory_);
    }
}

Graph::~Graph() {
    if (graph_ != nullptr) {
        cudaGraphExecDestroy(graph_);
    }
}

void Graph::launch(Stream const& stream) const {
    check(cudaGraphLaunch(graph_, stream.get()), "launching the CUDA graph");
}

void Graph::begin(Stream const& stream) {
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "recording a CUDA graph");
}

void Graph::abandon(Stream const& stream) {
    cudaGraph_t broken = nullptr;
    if (cudaStreamEndCapture(stream.get(), &broken) == cudaSuccess && broken != nullptr) {
        cudaGraphDestroy(broken);
    }
}

void Graph::end(Stream const& stream) {
    cudaGraph_t recorded = nullptr;
    check(cudaStreamEndCapture(stream.get(), &recorded), "recording a CUDA graph (--no-graph does without)");
    cudaError_t const status = cudaGraphInstantiate(&graph_, recorded, 0);
    cudaGraphDestroy(recorded);
    check(status, "making a CUDA graph ready (--no-graph does without)");
}

}  // namespace sample
