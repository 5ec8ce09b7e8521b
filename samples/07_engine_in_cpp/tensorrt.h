// Open TensorRT, give it the plugins, and load an engine; every refusal becomes an Error with TensorRT's
// words.
//
// The library is opened when the program runs, and not linked: so the program compiles where there are
// headers alone, the wheels of Python serve as well as the SDK, and a library that is missing is a sentence.
#pragma once

#include "folder.h"
#include "signature.h"

#include <NvInferRuntime.h>

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <string>

namespace sample {

// "tensorrt" or "tensorrt-rtx": that of the headers this program was compiled with.
extern std::string const kEdition;

class Logger final : public nvinfer1::ILogger {
public:
    void log(Severity severity, char const* message) noexcept override;
    std::string last_error() const;  // in brackets; empty where there was none

private:
    mutable std::mutex lock_;  // TensorRT logs from several threads
    std::string last_error_;
};

class TensorRT {
public:
    explicit TensorRT(std::string const& file);  // empty: the library by its name

    // The plugins come before the engine that needs them.
    void load_plugins(std::filesystem::path const& library);
    std::unique_ptr<nvinfer1::ICudaEngine> load(EngineFolder const& folder, std::string const& gpu);

    Logger const& logger() const { return logger_; }

private:
    Logger& logger_;
    void* library_;  // never closed: its objects, and those of plugins, live until the process ends
    std::string version_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
};

// Runs an engine under one of its profiles.
class Context {
public:
    // With `replays`, TensorRT-RTX records a CUDA graph by itself; TensorRT has no such thing.
    Context(nvinfer1::ICudaEngine& engine, int32_t profile, bool replays, cudaStream_t stream,
            Logger const& logger);

    void shape(std::string const& name, nvinfer1::Dims const& dims);
    void address(std::string const& name, void* memory);
    nvinfer1::Dims shape_of(std::string const& name) const;  // of an output: once all inputs have shapes
    void enqueue(cudaStream_t stream);

private:
    [[noreturn]] void refused(std::string const& what) const;

    std::shared_ptr<void> config_;  // before the context: it is not said whether that copies it
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    int32_t profile_;
    Logger const& logger_;
};

// Whether this TensorRT records CUDA graphs by itself.
bool replays_itself();

}  // namespace sample
