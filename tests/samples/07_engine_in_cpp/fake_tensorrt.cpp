// Stand in for TensorRT where there is no GPU: the interfaces of its headers, with TensorRT's rules for
// callers.
//
// It refuses, and logs why: shapes outside of the profile, tensors without memory or with too little, a fixed
// cache whose past and present differ, a growing one whose are the same, and a recording of the first run
// with new shapes. Methods that the program has no business to call end the process. Compiled for TensorRT-RTX,
// it also ends the process where a runtime configuration is destroyed before its context.
#include "fake_tensorrt.h"

#include "ending_methods.h"  // for each interface of NvInferImpl.h a class whose methods end the process

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <memory>

extern "C" size_t fake_device_bytes(void const* memory);

namespace fake {
namespace {

nvinfer1::ILogger* logger = nullptr;
bool plugins_loaded = false;

bool refuse(std::string const& reason) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, reason.c_str());
    return false;
}

size_t bytes_of(Tensor const& tensor, Dims const& shape) {
    size_t bytes = tensor.type == DataType::kINT64                                    ? 8
                   : tensor.type == DataType::kHALF || tensor.type == DataType::kBF16 ? 2
                                                                                      : 4;
    for (int32_t i = 0; i < shape.nbDims; ++i) {
        bytes *= static_cast<size_t>(shape.d[i]);
    }
    return bytes;
}

#ifdef TRT_MAJOR_RTX
class RuntimeConfig final : public nvinfer1::IRuntimeConfig, ending::VRuntimeConfig {
public:
    RuntimeConfig() { mImpl = this; }
    RuntimeConfig(RuntimeConfig const&) = delete;
    RuntimeConfig& operator=(RuntimeConfig const&) = delete;
    ~RuntimeConfig() override {
        if (contexts != 0) {
            ending::unexpected("a runtime configuration is destroyed before its context");
        }
    }

    bool setCudaGraphStrategy(nvinfer1::CudaGraphStrategy strategy) noexcept override {
        records = strategy == nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE;
        return true;
    }

    bool records = false;
    int contexts = 0;  // that live
};
#else
struct RuntimeConfig {  // TensorRT makes none
    int contexts = 0;
};
#endif

class Context final : public nvinfer1::IExecutionContext, ending::VExecutionContext {
public:
    explicit Context(Model const& model, RuntimeConfig* config = nullptr)
        : tensors_(tensors_of(model)), config_(config) {
        mImpl = this;
        call_.model = model;
        if (config_ != nullptr) {
            ++config_->contexts;
        }
    }
    Context(Context const&) = delete;
    Context& operator=(Context const&) = delete;
    ~Context() override {
        if (config_ != nullptr) {
            --config_->contexts;
        }
    }

    bool setOptimizationProfileAsync(int32_t profile, cudaStream_t stream) noexcept override {
        profile_ = profile;
        return stream != nullptr || refuse("no stream");
    }

    bool setInputShape(char const* name, Dims const& shape) noexcept override {
        Tensor const& tensor = find(name);
        Dims const& low = tensor.smallest.at(static_cast<size_t>(profile_));
        Dims const& high = tensor.largest.at(static_cast<size_t>(profile_));
        bool inside = shape.nbDims == low.nbDims;
        for (int32_t i = 0; inside && i < shape.nbDims; ++i) {
            inside = low.d[i] <= shape.d[i] && shape.d[i] <= high.d[i];
        }
        call_.shapes[name] = shape;
        fresh_ = true;
        return inside || refuse(std::string(name) + " is outside of profile " + std::to_string(profile_));
    }

    bool setTensorAddress(char const* name, void* memory) noexcept override {
        call_.addresses[name] = memory;
        return find(name).name == name;
    }

    Dims getTensorShape(char const* name) const noexcept override {
        Dims shape = find(name).dims;
        int64_t const rows = call_.shapes.at("input_ids").d[1];
        for (int32_t i = 0; i < shape.nbDims; ++i) {
            if (shape.d[i] < 0) {
                shape.d[i] =
                    rows +
                    (std::string(name) == "logits" ? 0 : call_.shapes.at("past_key_values.0.key").d[2]);
            }
        }
        return shape;
    }

    bool enqueueV3(cudaStream_t stream) noexcept override {
        cudaStreamCaptureStatus capturing{};
        cudaStreamIsCapturing(stream, &capturing);
        if (capturing == cudaStreamCaptureStatusActive && fresh_) {
            return refuse("the first run with new shapes cannot be recorded");
        }
        for (Tensor const& tensor : tensors_) {
            if (!ready(tensor)) {
                return false;
            }
        }
        fresh_ = false;
        calls_.push_back(std::make_unique<Call>(call_));  // what runs later is what was told now
        auto const run = [](void* call) { static_cast<Call*>(call)->run(); };
        return cudaLaunchHostFunc(stream, run, calls_.back().get()) == cudaSuccess;
    }

private:
    Tensor const& find(std::string const& name) const {
        for (Tensor const& tensor : tensors_) {
            if (tensor.name == name) {
                return tensor;
            }
        }
        ending::unexpected(name.c_str());
    }

    bool ready(Tensor const& tensor) {
        if (tensor.input && call_.shapes.count(tensor.name) == 0) {
            return refuse(tensor.name + " has no shape");
        }
        if (!tensor.input) {
            call_.shapes[tensor.name] = getTensorShape(tensor.name.c_str());
        }
        void* const memory = call_.addresses[tensor.name];
        if (fake_device_bytes(memory) < bytes_of(tensor, call_.shapes[tensor.name])) {
            return refuse(tensor.name + " has no memory, or too little");
        }
        if (tensor.name.rfind("present.", 0) != 0) {
            return true;
        }
        bool const same = memory == call_.addresses["past_key_values." + tensor.name.substr(8)];
        return same == call_.model.fixed() || refuse(tensor.name + ": the memory of past and present");
    }

    std::vector<Tensor> tensors_;
    RuntimeConfig* config_;
    Call call_;
    std::vector<std::unique_ptr<Call>> calls_;
    int32_t profile_ = -1;
    bool fresh_ = true;
};

class Engine final : public nvinfer1::ICudaEngine, ending::VCudaEngine {
public:
    explicit Engine(Model model) : model_(std::move(model)), tensors_(tensors_of(model_)) { mImpl = this; }

    int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(tensors_.size()); }
    char const* getIOTensorName(int32_t i) const noexcept override { return at(i).name.c_str(); }
    DataType getTensorDataType(char const* name) const noexcept override { return find(name).type; }
    Dims getTensorShape(char const* name) const noexcept override { return find(name).dims; }
    nvinfer1::TensorIOMode getTensorIOMode(char const* name) const noexcept override {
        return find(name).input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
    }
    int32_t getNbOptimizationProfiles() const noexcept override {
        return static_cast<int32_t>(model_["profiles"]);
    }
    Dims getProfileShape(char const* name, int32_t profile,
                         nvinfer1::OptProfileSelector) const noexcept override {
        return find(name).largest.at(static_cast<size_t>(profile));
    }
    nvinfer1::IExecutionContext* createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
        return new Context(model_);
    }
#ifdef TRT_MAJOR_RTX
    nvinfer1::IRuntimeConfig* createRuntimeConfig() noexcept override { return new RuntimeConfig; }
    nvinfer1::IExecutionContext* createExecutionContextWithRuntimeConfig(
        nvinfer1::IRuntimeConfig* config) noexcept override {
        auto* const told = static_cast<RuntimeConfig*>(config);
        if (!told->records) {
            ending::unexpected("a configuration that does not ask for CUDA graphs");
        }
        return new Context(model_, told);
    }
#endif

private:
    Tensor const& at(int32_t i) const { return tensors_.at(static_cast<size_t>(i)); }
    Tensor const& find(std::string const& name) const {
        int32_t i = 0;
        while (at(i).name != name) {
            ++i;
        }
        return at(i);
    }

    Model model_;
    std::vector<Tensor> tensors_;
};

class Runtime final : public nvinfer1::IRuntime, ending::VRuntime {
public:
    Runtime() { mImpl = this; }

    nvinfer1::ICudaEngine* deserializeCudaEngine(void const* bytes, size_t size) noexcept override {
        Model model;
        if (!model.read({static_cast<char const*>(bytes), size})) {
            return refuse("the serialized engine is not one, or not whole"), nullptr;
        }
        if (model["plugins"] != 0 && !plugins_loaded) {
            return refuse("a plugin of the engine is not registered"), nullptr;
        }
        return new Engine(model);
    }
};

class Registry final : public ending::IPluginRegistry {
public:
    PluginLibraryHandle loadLibrary(char const* path) noexcept override {
        void* library = dlopen(path, RTLD_NOW);
        plugins_loaded = library != nullptr && dlsym(library, "getCreators") != nullptr;
        return plugins_loaded || refuse(std::string(path) + " has no getCreators") ? library : nullptr;
    }
};

}  // namespace
}  // namespace fake

extern "C" {

int32_t getInferLibVersion() noexcept {
    char const* other = std::getenv("FAKE_TENSORRT_VERSION");
    return other == nullptr ? static_cast<int32_t>(NV_TENSORRT_VERSION) : std::atoi(other);
}
void* createInferRuntime_INTERNAL(void* logger, int32_t) noexcept {
    fake::logger = static_cast<nvinfer1::ILogger*>(logger);
    return static_cast<nvinfer1::IRuntime*>(new fake::Runtime);
}
nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
    static fake::Registry registry;
    return &registry;
}

}  // extern "C"
