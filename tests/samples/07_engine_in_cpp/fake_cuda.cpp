// Stand in for the CUDA runtime on a machine without a GPU: streams that run late, and memory apart.
//
// What is put into a stream runs when somebody waits for the stream, and not before. Memory of the "GPU" can
// be touched by such work alone, and holds NaN until it is written. A graph is the work of a stream, kept. What
// clears memory is put into the default stream, for which the others do not wait: it runs when somebody waits
// for that one, and else after the work of another stream, which it destroys.
//
// FAKE_CUDA_STATUS, FAKE_CUDA_DEVICES and FAKE_CUDA_MEMORY in the environment are what cudaGetDeviceCount
// returns and counts, and the bytes there are; FAKE_CUDA_PINNED those that the host may pin at once. At the end, counts are written to the file FAKE_CUDA_REPORT.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <utility>
#include <vector>

namespace {

using Work = std::vector<std::function<void()>>;

struct State {
    std::map<char*, size_t> device;
    Work unordered;  // of the default stream
    std::map<void*, size_t> host;
    size_t used = 0;
    int launches = 0;
    int graphs = 0;
    int streams = 0;
    bool capturing = false;

    ~State() {
        char const* file = std::getenv("FAKE_CUDA_REPORT");
        std::FILE* report = file == nullptr ? nullptr : std::fopen(file, "w");
        if (report != nullptr) {
            std::fprintf(report, "launches=%d\nlive=%zu\n", launches,
                         device.size() + host.size() + static_cast<size_t>(graphs + streams));
            std::fclose(report);
        }
    }

    void clear_late() {
        protect(PROT_READ | PROT_WRITE);
        for (auto const& each : std::exchange(unordered, {})) {
            each();
        }
        protect(PROT_NONE);
    }

    void protect(int how) {
        for (auto const& [memory, bytes] : device) {
            mprotect(memory, bytes, how);
        }
    }
};

State& state() {
    static State only;
    return only;
}

size_t variable(char const* name, size_t otherwise) {
    char const* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace

struct CUstream_st {
    Work pending;
    bool capturing = false;
    Work captured;
};
struct CUgraph_st {
    Work work;
};
struct CUgraphExec_st {
    Work work;
};

namespace {

cudaError_t put(cudaStream_t stream, std::function<void()> work) {
    (stream->capturing ? stream->captured : stream->pending).push_back(std::move(work));
    return cudaSuccess;
}

}  // namespace

extern "C" {

// For the fake TensorRT: how many bytes of the GPU's memory there are from `memory` on.
size_t fake_device_bytes(void const* memory) {
    for (auto const& [begin, bytes] : state().device) {
        auto const* at = static_cast<char const*>(memory);
        if (begin <= at && at < begin + bytes) {
            return static_cast<size_t>(begin + bytes - at);
        }
    }
    return 0;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = static_cast<int>(variable("FAKE_CUDA_DEVICES", 1));
    return static_cast<cudaError_t>(variable("FAKE_CUDA_STATUS", cudaSuccess));
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
    return *value = what == cudaDevAttrComputeCapabilityMajor ? 8 : 9, cudaSuccess;
}
char const* cudaGetErrorString(cudaError_t status) {
    switch (status) {
        case cudaErrorInsufficientDriver:
            return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorMemoryAllocation: return "out of memory";
        default: return "words for another status";
    }
}
char const* cudaGetErrorName(cudaError_t) { return "cudaErrorOfFake"; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
    ++state().streams;
    return *stream = new CUstream_st, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    --state().streams;
    return delete stream, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream == nullptr) {
        return state().clear_late(), cudaSuccess;
    }
    if (stream->capturing) {
        return cudaErrorStreamCaptureUnsupported;
    }
    Work const work = std::move(stream->pending);
    stream->pending.clear();
    state().protect(PROT_READ | PROT_WRITE);
    for (auto const& each : work) {
        each();
    }
    state().clear_late();
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return put(stream, [=] { function(data); });
}
cudaError_t cudaMemcpyAsync(void* to, void const* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    bool const up = kind == cudaMemcpyHostToDevice;
    void const* host = up ? from : to;
    if (fake_device_bytes(up ? to : from) < bytes || state().host.count(const_cast<void*>(host)) == 0 ||
        state().host[const_cast<void*>(host)] < bytes) {
        return cudaErrorInvalidValue;
    }
    return put(stream, [=] { std::memcpy(to, from, bytes); });
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
    if (state().capturing) {
        return cudaErrorStreamCaptureUnsupported;
    }
    if (state().used + bytes > variable("FAKE_CUDA_MEMORY", size_t{1} << 30U)) {
        return cudaErrorMemoryAllocation;
    }
    *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(*memory, 0xFF, bytes);
    mprotect(*memory, bytes, PROT_NONE);
    state().device[static_cast<char*>(*memory)] = bytes;
    state().used += bytes;
    return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
    auto const found = state().device.find(static_cast<char*>(memory));
    if (found == state().device.end()) {
        return cudaErrorInvalidValue;
    }
    state().clear_late();
    munmap(memory, found->second);
    state().used -= found->second;
    return state().device.erase(found), cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
    if (fake_device_bytes(memory) < bytes) {
        return cudaErrorInvalidValue;
    }
    state().unordered.push_back([=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* left, size_t* all) {
    *all = variable("FAKE_CUDA_MEMORY", size_t{1} << 30U);
    return *left = *all - state().used, cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
    if (bytes > variable("FAKE_CUDA_PINNED", size_t{1} << 30U)) {
        return cudaErrorMemoryAllocation;
    }
    *memory = std::malloc(bytes);
    return state().host[*memory] = bytes, cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
    if (state().host.erase(memory) == 0) {
        return cudaErrorInvalidValue;
    }
    return std::free(memory), cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    return state().capturing = stream->capturing = true, cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    state().capturing = stream->capturing = false;
    ++state().graphs;
    *graph = new CUgraph_st{std::move(stream->captured)};
    return stream->captured.clear(), cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
    ++state().graphs;
    return *ready = new CUgraphExec_st{graph->work}, cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    --state().graphs;
    return delete graph, cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    --state().graphs;
    return delete graph, cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    ++state().launches;
    for (auto const& each : graph->work) {
        put(stream, each);
    }
    return cudaSuccess;
}

}  // extern "C"
