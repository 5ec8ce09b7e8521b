#include "plugin.h"

#include "log.h"

#include <cuda_runtime_api.h>

#include <limits>
#include <utility>

namespace castline {
namespace {

std::string compute_capability() {
    int device = 0;
    int major = 0;
    int minor = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) {
        status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    }
    if (status == cudaSuccess) {
        status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    }
    return status == cudaSuccess ? std::to_string(major) + "." + std::to_string(minor)
                                 : "unknown (no CUDA device answers)";
}

}  // namespace

int32_t activation_of(nvinfer1::DataType type) {
    return type == nvinfer1::DataType::kBF16 ? CASTLINE_BFLOAT16 : CASTLINE_FLOAT16;
}

Plugin::Plugin(char const* op, Attributes attributes, Signature signature)
    : op_(op),
      attributes_(std::move(attributes)),
      signature_(std::move(signature)),
      attribute_words_(attributes_.words()),
      timing_words_(attribute_words_ + " " CASTLINE_SOURCE_HASH) {}

void Plugin::refuse(std::string const& reason) const {
    log_error(std::string(op_) + " (" + attribute_words_ + "): " + reason);
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    using Asked = nvinfer1::PluginCapabilityType;
    switch (type) {
        case Asked::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case Asked::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case Asked::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

int32_t Plugin::getNbOutputs() const noexcept { return static_cast<int32_t>(signature_.outputs.size()); }

int32_t Plugin::getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count,
                                   nvinfer1::DataType const* inputs, int32_t input_count) const noexcept {
    std::string const wrong = signature_.wrong_types(inputs, input_count);
    if (!wrong.empty()) {
        refuse(wrong);
        return 1;
    }
    for (int32_t i = 0; i < output_count; ++i) {
        outputs[i] = signature_.type_of(signature_.outputs[i], inputs[signature_.first_activation()]);
    }
    return 0;
}

int32_t Plugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count,
                                nvinfer1::DimsExprs const*, int32_t, nvinfer1::DimsExprs* outputs,
                                int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept {
    std::vector<Shape> given;
    for (int32_t i = 0; i < input_count; ++i) {
        given.push_back(shape_of(inputs[i]));
    }
    std::string const wrong = signature_.wrong_shapes(given, /*all_known=*/false);
    if (!wrong.empty()) {
        refuse(wrong);
        return 1;
    }
    for (int32_t i = 0; i < output_count; ++i) {
        int64_t const last = signature_.outputs[i].shape.back();
        outputs[i] = inputs[0];
        if (last != kChannels) {
            outputs[i].d[outputs[i].nbDims - 1] = builder.constant(last);
        }
    }
    return 0;
}

bool Plugin::supportsFormatCombination(int32_t position, DynamicDesc const* tensors, int32_t,
                                       int32_t) noexcept {
    Desc const& asked = tensors[position].desc;
    size_t const first = signature_.first_activation();  // tensors after `position` are not set yet
    nvinfer1::DataType const activation =
        static_cast<size_t>(position) <= first ? asked.type : tensors[first].desc.type;
    return asked.format == nvinfer1::TensorFormat::kLINEAR &&
           signature_.takes(position, asked.type, activation);
}

int32_t Plugin::configurePlugin(DynamicDesc const* inputs, int32_t input_count, DynamicDesc const*,
                                int32_t) noexcept {
    std::vector<Shape> given;
    for (int32_t i = 0; i < input_count; ++i) {
        given.push_back(shape_of(inputs[i].max));
    }
    std::string wrong = signature_.wrong_shapes(given, /*all_known=*/true);
    if (wrong.empty() && tokens_of(inputs[0].max) > std::numeric_limits<int32_t>::max()) {
        wrong = "the profile allows more tokens than 32 bits count";
    }
    if (!wrong.empty()) {
        refuse(wrong);
    }
    return wrong.empty() ? 0 : 1;
}

int32_t Plugin::onShapeChange(Desc const*, int32_t, Desc const*, int32_t) noexcept { return 0; }

int32_t Plugin::enqueue(Desc const* input_descs, Desc const*, void const* const* inputs, void* const* outputs,
                        void* workspace, cudaStream_t stream) noexcept {
    nvinfer1::DataType const type = input_descs[signature_.first_activation()].type;
    nvinfer1::Dims const& tokens = input_descs[0].dims;
    Call const call{static_cast<int32_t>(tokens_of(tokens)),
                    static_cast<int32_t>(tokens.d[tokens.nbDims - 1]),
                    activation_of(type),
                    input_descs,
                    inputs,
                    outputs,
                    workspace,
                    stream};
    if (call.tokens == 0) {
        return 0;
    }
    int32_t const status = launch(call);
    if (status != 0) {
        refuse(failure_words(input_descs));
    }
    return status;
}

std::string Plugin::failure_words(Desc const* inputs) const {
    std::string text = castline_last_error();
    for (size_t i = 0; i < signature_.inputs.size(); ++i) {
        text += (i == 0 ? ". Inputs: " : ", ") + std::string(signature_.inputs[i].name) + " " +
                words_of(inputs[i].type) + " " + words_of(shape_of(inputs[i].dims));
    }
    return text + ". Compute capability " + compute_capability() + "; the library has " +
           castline_build_info();
}

}  // namespace castline
