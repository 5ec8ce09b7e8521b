#include "tensorrt.h"

#include "error.h"

#include <dlfcn.h>

#include <fstream>
#include <iostream>
#include <vector>

namespace sample {
namespace {

constexpr int32_t kMajor = 10'000;  // versions are major * 10000 + minor * 100 + patch
constexpr int32_t kMinor = 100;

#ifdef TRT_MAJOR_RTX
std::string const kTitle = "TensorRT-RTX";
std::string const kLibrary = "libtensorrt_rtx.so." + std::to_string(NV_TENSORRT_MAJOR);
#else
std::string const kTitle = "TensorRT";
std::string const kLibrary = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
#endif

std::string words_of_version(int32_t version) {
    return std::to_string(version / kMajor) + "." + std::to_string(version / kMinor % kMinor) + "." +
           std::to_string(version % kMinor);
}

void* opened(std::string const& file) {
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        throw Error(kTitle + " cannot be loaded (" + dlerror() + "): install it, or put its folder on " +
                    "LD_LIBRARY_PATH, or give its " + kLibrary + " with --tensorrt");
    }
    return library;
}

template <typename Function>
Function* function(void* library, char const* name) {
    void* found = dlsym(library, name);
    if (found == nullptr) {
        throw Error("the library given for " + kTitle + " is another one: it has no " + name);
    }
    return reinterpret_cast<Function*>(found);
}

// Objects are called through tables whose order belongs to a major version of an edition.
std::string require_version(void* library) {
    int32_t const found = function<int32_t()>(library, "getInferLibVersion")();
    if (found / kMajor != NV_TENSORRT_MAJOR) {
        throw Error("this program was compiled with the headers of " + kTitle + " " +
                    words_of_version(NV_TENSORRT_VERSION) + ", but the library is " +
                    words_of_version(found) + ": compile it with -DTENSORRT_ROOT set to that library's SDK");
    }
    return words_of_version(found);
}

// Never destroyed: the registry of plugins keeps it until the process ends.
Logger& process_logger() {
    static Logger* const only = new Logger;
    return *only;
}

std::vector<char> content(std::filesystem::path const& file) {
    std::ifstream stream(file, std::ios::binary | std::ios::ate);
    std::vector<char> bytes(stream.is_open() ? static_cast<size_t>(stream.tellg()) : 0);
    stream.seekg(0);
    if (!stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
        throw Error(file.string() + " cannot be read");
    }
    return bytes;
}

// `kept` gets what has to live as long as the context.
std::unique_ptr<nvinfer1::IExecutionContext> made(nvinfer1::ICudaEngine& engine,
                                                  [[maybe_unused]] bool replays,
                                                  [[maybe_unused]] std::shared_ptr<void>& kept) {
#ifdef TRT_MAJOR_RTX
    if (replays) {
        std::shared_ptr<nvinfer1::IRuntimeConfig> const config(engine.createRuntimeConfig());
        if (config == nullptr ||
            !config->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE)) {
            throw Error("TensorRT-RTX does not record CUDA graphs here; give --no-graph");
        }
        kept = config;
        return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext(config.get()));
    }
#endif
    return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext());
}

}  // namespace

#ifdef TRT_MAJOR_RTX
std::string const kEdition = "tensorrt-rtx";
bool replays_itself() { return true; }
#else
std::string const kEdition = "tensorrt";
bool replays_itself() { return false; }
#endif

void Logger::log(Severity severity, char const* message) noexcept {
    std::lock_guard<std::mutex> const guard(lock_);
    if (severity <= Severity::kERROR) {
        last_error_ = message;
    }
    if (severity <= Severity::kWARNING) {
        std::cerr << "[" << kTitle << "] " << message << "\n";
    }
}

std::string Logger::last_error() const {
    std::lock_guard<std::mutex> const guard(lock_);
    return last_error_.empty() ? "" : " (" + last_error_ + ")";
}

TensorRT::TensorRT(std::string const& file)
    : logger_(process_logger()), library_(opened(file.empty() ? kLibrary : file)) {
    version_ = require_version(library_);
    auto* const create = function<void*(void*, int32_t)>(library_, "createInferRuntime_INTERNAL");
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(create(&logger_, NV_TENSORRT_VERSION)));
    if (runtime_ == nullptr) {
        throw Error(kTitle + " " + version_ + " does not start" + logger_.last_error());
    }
}

void TensorRT::load_plugins(std::filesystem::path const& library) {
    auto* const registry = function<nvinfer1::IPluginRegistry*()>(library_, "getPluginRegistry")();
    if (registry->loadLibrary(std::filesystem::absolute(library).c_str()) == nullptr) {
        throw Error(kTitle + " " + version_ + " does not take the plugins of " + library.string() +
                    logger_.last_error() +
                    ": build them for it with `castline plugins build --force`, with " +
                    "TENSORRT_ROOT set to its SDK, and compile the model again");
    }
}

std::unique_ptr<nvinfer1::ICudaEngine> TensorRT::load(EngineFolder const& folder, std::string const& gpu) {
    std::vector<char> const bytes = content(folder.engine);
    std::unique_ptr<nvinfer1::ICudaEngine> engine(
        runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine == nullptr) {
        throw Error(kTitle + " " + version_ + " on a GPU of compute capability " + gpu + " does not load " +
                    folder.engine.string() + logger_.last_error() + ". It was built by " + folder.version +
                    " for compute capability " + folder.compute_capabilities +
                    ": build it again where it is to run, with `castline build`");
    }
    return engine;
}

Context::Context(nvinfer1::ICudaEngine& engine, int32_t profile, bool replays, cudaStream_t stream,
                 Logger const& logger)
    : context_(made(engine, replays, config_)), profile_(profile), logger_(logger) {
    if (context_ == nullptr) {
        throw Error("TensorRT cannot prepare to run the engine" + logger.last_error() +
                    ": end what else uses the GPU, or build the engine for shorter sequences");
    }
    if (!context_->setOptimizationProfileAsync(profile, stream)) {
        refused("choose a profile");
    }
}

void Context::shape(std::string const& name, nvinfer1::Dims const& dims) {
    if (!context_->setInputShape(name.c_str(), dims)) {
        refused("take " + name + " of shape " + words_of(dims));
    }
}

void Context::address(std::string const& name, void* memory) {
    if (!context_->setTensorAddress(name.c_str(), memory)) {
        refused("take memory for " + name);
    }
}

nvinfer1::Dims Context::shape_of(std::string const& name) const {
    nvinfer1::Dims const dims = context_->getTensorShape(name.c_str());
    for (int32_t i = 0; i < dims.nbDims; ++i) {
        if (dims.d[i] < 0) {
            refused("tell the shape of " + name);
        }
    }
    return dims;
}

void Context::enqueue(cudaStream_t stream) {
    if (!context_->enqueueV3(stream)) {
        refused("run the engine");
    }
}

void Context::refused(std::string const& what) const {
    throw Error("TensorRT did not " + what + " under profile " + std::to_string(profile_) +
                logger_.last_error());
}

}  // namespace sample
