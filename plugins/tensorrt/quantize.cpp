#include "quantize.h"

#include "checks.h"

namespace castline {
namespace {

class Quantize final : public Plugin {
public:
    Quantize(char const* op, Attributes const& attributes, bool asymmetric)
        : Plugin(op, attributes,
                 {{per_token("x", Element::kActivation, kChannels)},
                  quantized_outputs(asymmetric),
                  CASTLINE_MOST_TOKEN_CHANNELS}),
          asymmetric_(asymmetric) {}

    nvinfer1::IPluginV3* clone() noexcept override { return new Quantize(*this); }

private:
    int32_t launch(Call const& call) override {
        CastlineQuantize what = quantize_arguments(call.tokens, call.channels, call.activation,
                                                   attributes()["bits"], call.outputs, asymmetric_);
        what.x = call.inputs[0];
        return castline_quantize(&what, call.stream);
    }

    bool asymmetric_;
};

std::unique_ptr<Plugin> make(char const* op, Attributes const& attributes, bool asymmetric) {
    return takes_bits(op, attributes) ? std::make_unique<Quantize>(op, attributes, asymmetric) : nullptr;
}

}  // namespace

std::vector<Tensor> quantized_outputs(bool asymmetric) {
    std::vector<Tensor> outputs{per_token("codes", Element::kByte, kChannels),
                                per_token("scale", Element::kFloat, 1)};
    if (asymmetric) {
        outputs.push_back(per_token("zero_point", Element::kByte, 1));
    }
    return outputs;
}

CastlineQuantize quantize_arguments(int32_t tokens, int32_t channels, int32_t activation, int32_t bits,
                                    void* const* outputs, bool asymmetric) {
    CastlineQuantize what{};
    what.m = tokens;
    what.k = channels;
    what.type = activation;
    what.bits = bits;
    what.codes = static_cast<int8_t*>(outputs[0]);
    what.scale = static_cast<float*>(outputs[1]);
    what.zero_point = asymmetric ? static_cast<int8_t*>(outputs[2]) : nullptr;
    return what;
}

std::unique_ptr<Plugin> make_quantize(char const* op, Attributes const& attributes) {
    return make(op, attributes, false);
}

std::unique_ptr<Plugin> make_quantize_asymmetric(char const* op, Attributes const& attributes) {
    return make(op, attributes, true);
}

}  // namespace castline
