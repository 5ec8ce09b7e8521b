// Tell TensorRT of our plugins: what it finds in this library when it loads it.
#include "integer.h"
#include "log.h"
#include "quantize.h"
#include "reassemble.h"
#include "weight_only.h"

#include <NvInferVersion.h>

#include <string>

namespace castline {
namespace {

struct Op {
    char const* name;
    std::vector<char const*> attributes;
    std::unique_ptr<Plugin> (*make)(char const* op, Attributes const& attributes);
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    explicit Creator(Op op) : op_(std::move(op)) {
        for (char const* name : op_.attributes) {
            fields_.emplace_back(name, nullptr, nvinfer1::PluginFieldType::kINT32, 1);
        }
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    nvinfer1::IPluginV3* createPlugin(char const*, nvinfer1::PluginFieldCollection const* given,
                                      nvinfer1::TensorRTPhase) noexcept override {
        std::optional<Attributes> const attributes = Attributes::read(op_.name, op_.attributes, given);
        return attributes ? op_.make(op_.name, *attributes).release() : nullptr;
    }
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
    char const* getPluginName() const noexcept override { return op_.name; }
    char const* getPluginVersion() const noexcept override { return kVersion; }
    char const* getPluginNamespace() const noexcept override { return kNamespace; }

private:
    Op op_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

std::vector<Op> ops() {
    std::vector<char const*> const grouped{"k", "n", "block_size", "layout_version"};
    std::vector<char const*> const whole{"k", "n", "layout_version"};
    std::vector<char const*> const bits{"bits"};
    return {
        {"PackedLinearW4A16", grouped, make_w4a16},
        {"PackedLinearW4A16Offsets", grouped, make_w4a16_offsets},
        {"PackedLinearW8A8", whole, make_w8},
        {"PackedLinearW8A8Asymmetric", whole, make_w8_asymmetric},
        {"PackedLinearW4A8", whole, make_w4},
        {"PackedLinearW4A8Asymmetric", whole, make_w4_asymmetric},
        {"PackedLinearW4A8Groups", grouped, make_w4_groups},
        {"PackedLinearW4A8GroupsAsymmetric", grouped, make_w4_groups_asymmetric},
        {"PackedLinearW4A4", whole, make_w4},
        {"PackedLinearW4A4Asymmetric", whole, make_w4_asymmetric},
        {"QuantizePerToken", bits, make_quantize},
        {"QuantizePerTokenAsymmetric", bits, make_quantize_asymmetric},
        {"ReassembleChannels", {}, make_reassemble},
        {"ReassembleAndQuantize", bits, make_reassemble_quantize},
        {"ReassembleAndQuantizeAsymmetric", bits, make_reassemble_quantize_asymmetric},
    };
}

std::string plugins_info() {
    std::string names;
    for (Op const& op : ops()) {
        names += (names.empty() ? "\"" : ", \"") + std::string(op.name) + "\"";
    }
    std::string const headers = std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR) +
                                "." + std::to_string(NV_TENSORRT_PATCH);
    return "{\"ops\": [" + names + "], \"tensorrt_headers\": \"" + headers +
           "\", \"source_hash\": \"" CASTLINE_SOURCE_HASH "\", \"castline\": \"" CASTLINE_VERSION "\"}";
}

struct Creators {
    Creators() {
        for (Op& op : ops()) {
            owned.push_back(std::make_unique<Creator>(std::move(op)));
            listed.push_back(owned.back().get());
        }
    }
    std::vector<std::unique_ptr<Creator>> owned;
    std::vector<nvinfer1::IPluginCreatorInterface*> listed;
};

}  // namespace
}  // namespace castline

extern "C" CASTLINE_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static castline::Creators const creators;
    count = static_cast<int32_t>(creators.listed.size());
    return creators.listed.data();
}

// JSON, as castline_build_info: what the library of kernels does not know.
extern "C" CASTLINE_API char const* castline_plugins_info() {
    static std::string const text = castline::plugins_info();
    return text.c_str();
}

extern "C" CASTLINE_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    castline::set_logger_finder(finder);
}
