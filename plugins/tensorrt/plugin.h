// The base of every plugin: TensorRT's questions, answered from an op's signature and attributes.
#pragma once

#include "attributes.h"
#include "signature.h"

#include "../common/kernels.h"

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace castline {

constexpr char const* kNamespace = "";  // where the ONNX parser looks, unless a node says otherwise
constexpr char const* kVersion = "1";   // the same

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
public:
    ~Plugin() override = default;

    using Desc = nvinfer1::PluginTensorDesc;
    using DynamicDesc = nvinfer1::DynamicPluginTensorDesc;

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;

    char const* getPluginName() const noexcept final { return op_; }
    char const* getPluginVersion() const noexcept final { return kVersion; }
    char const* getPluginNamespace() const noexcept final { return kNamespace; }

    int32_t getNbOutputs() const noexcept final;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count,
                               nvinfer1::DataType const* inputs, int32_t input_count) const noexcept final;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count,
                            nvinfer1::DimsExprs const*, int32_t, nvinfer1::DimsExprs* outputs,
                            int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept final;
    bool supportsFormatCombination(int32_t position, DynamicDesc const* tensors, int32_t input_count,
                                   int32_t output_count) noexcept final;
    int32_t configurePlugin(DynamicDesc const* inputs, int32_t input_count, DynamicDesc const* outputs,
                            int32_t output_count) noexcept override;
    char const* getTimingCacheID() noexcept final { return timing_words_.c_str(); }
    char const* getMetadataString() noexcept final { return attribute_words_.c_str(); }

    int32_t onShapeChange(Desc const* inputs, int32_t input_count, Desc const* outputs,
                          int32_t output_count) noexcept override;
    int32_t enqueue(Desc const* input_descs, Desc const* output_descs, void const* const* inputs,
                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept final;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
        return clone();
    }
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept final {
        return attributes_.fields();
    }

protected:
    // What one call of a kernel is given; `activation` is a CastlineType.
    struct Call {
        int32_t tokens, channels, activation;
        Desc const* descs;
        void const* const* inputs;
        void* const* outputs;
        void* workspace;
        cudaStream_t stream;
    };

    Plugin(char const* op, Attributes attributes, Signature signature);
    Plugin(Plugin const&) = default;

    virtual int32_t launch(Call const& call) = 0;  // 0, or the reason is in castline_last_error()

    Attributes const& attributes() const { return attributes_; }
    Signature const& signature() const { return signature_; }
    void refuse(std::string const& reason) const;  // log it, with the op

private:
    std::string failure_words(Desc const* inputs) const;

    char const* op_;
    Attributes attributes_;
    Signature signature_;
    std::string attribute_words_;
    std::string timing_words_;  // and what the kernels were compiled from: others have other times
};

int32_t activation_of(nvinfer1::DataType type);  // a CastlineType

}  // namespace castline
