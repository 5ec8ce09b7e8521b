// Launch kernels on a GPU, or on the emulator of emulator.h where the compiler is no CUDA compiler.
//
// A kernel has dynamic shared memory only, which CASTLINE_SHARED(name) names, 16-aligned. What else it
// needs of the machine is in instructions.cuh.
#pragma once

#include <cstddef>
#include <cstdint>

#include "errors.h"
#include "kernels.h"

namespace castline {

inline bool is_aligned(const void* pointer, size_t bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace castline

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <utility>

#define CASTLINE_SHARED(name)                                               \
    extern __shared__ __align__(16) unsigned char castline_shared_memory[]; \
    unsigned char* const name = castline_shared_memory

namespace castline {

constexpr int kOverlapVersion = 90;  // the first capability whose code can wait for the kernel before

inline cudaError_t device_attribute(cudaDeviceAttr attribute, int* value) {
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    return status != cudaSuccess ? status : cudaDeviceGetAttribute(value, attribute, device);
}

// Asks once per kernel and device for all the shared memory that the device gives a block, and whether the
// code that runs there is of a capability that overlaps: a GPU of 9.0 may run PTX of 8.0, which never waits.
// It is no operation of a stream, so a stream that is being captured does not mind.
inline cudaError_t prepare(const void* kernel, bool* overlaps) {
    static std::mutex mutex;
    static std::map<std::pair<const void*, int>, bool> prepared;
    int device = 0;
    int most = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess) return status;
    const std::lock_guard<std::mutex> lock(mutex);
    if (const auto found = prepared.find({kernel, device}); found != prepared.end()) {
        *overlaps = found->second;
        return cudaSuccess;
    }
    status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (status != cudaSuccess) return status;
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, kernel);
    if (status != cudaSuccess) return status;
    const int dynamic = most - static_cast<int>(attributes.sharedSizeBytes);
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic);
    if (status != cudaSuccess) return status;
    *overlaps = prepared[{kernel, device}] = attributes.ptxVersion >= kOverlapVersion;
    return cudaSuccess;
}

template <class... P, class... A>
int launch_as(bool overlapping, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
              CastlineStream stream, A... arguments) {
    const void* address = reinterpret_cast<const void*>(kernel);
    bool overlaps = false;
    cudaError_t status = prepare(address, &overlaps);
    if (status == cudaSuccess) {
        cudaLaunchAttribute overlap = {};
        overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        overlap.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = shared_bytes;
        config.stream = static_cast<cudaStream_t>(stream);
        config.attrs = &overlap;
        config.numAttrs = overlapping && overlaps ? 1 : 0;
        status = cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
    }
    if (status == cudaSuccess) return 0;
    cudaGetLastError();  // a launch's failure would be reported again by the next one
    const char* name = nullptr;
    if (cudaFuncGetName(&name, address) != cudaSuccess) name = "a kernel";
    return fail("%s was not launched on a grid of %u x %u x %u blocks of %u threads, each block with %zu bytes "
                "of shared memory: %s",
                name, grid.x, grid.y, grid.z, block.x * block.y * block.z, shared_bytes,
                cudaGetErrorString(status));
}

// Runs the kernel in stream order. Returns 0, or another number after it has kept the reason.
template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, CastlineStream stream,
           A... arguments) {
    return launch_as(false, kernel, grid, block, shared_bytes, stream, arguments...);
}

// Likewise, but blocks may start before the kernel before this one has ended. So every thread of the
// kernel must call wait_for_previous_kernel() before it reads or writes what another kernel may touch.
template <class... P, class... A>
int launch_overlapping(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                       CastlineStream stream, A... arguments) {
    return launch_as(true, kernel, grid, block, shared_bytes, stream, arguments...);
}

}  // namespace castline

#else

#include "emulator.h"

#endif
