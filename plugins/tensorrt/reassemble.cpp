#include "reassemble.h"

#include "checks.h"
#include "quantize.h"

namespace castline {
namespace {

std::vector<Tensor> inputs() {
    return {per_token("x", Element::kActivation, kChannels), {"gather", Element::kInteger, {kChannels}},
            {"scale", Element::kFloat, {kChannels}},         {"place", Element::kInteger, {kExtras}},
            {"channel", Element::kInteger, {kExtras}},       {"channel_scale", Element::kFloat, {kExtras}}};
}

class Reassemble : public Plugin {
public:
    Reassemble(char const* op, Attributes const& attributes)
        : Reassemble(op, attributes, {per_token("y", Element::kActivation, kChannels)}) {}

    nvinfer1::IPluginV3* clone() noexcept override { return new Reassemble(*this); }

protected:
    Reassemble(char const* op, Attributes const& attributes, std::vector<Tensor> outputs)
        : Plugin(op, attributes, {inputs(), std::move(outputs), CASTLINE_MOST_TOKEN_CHANNELS}) {}

    CastlineReassemble arguments(Call const& call) const {
        CastlineReassemble what{};
        what.m = call.tokens;
        what.k = call.channels;
        what.type = call.activation;
        what.extras = static_cast<int32_t>(call.descs[3].dims.d[0]);
        what.x = call.inputs[0];
        what.gather = static_cast<int32_t const*>(call.inputs[1]);
        what.scale = static_cast<float const*>(call.inputs[2]);
        what.place = static_cast<int32_t const*>(call.inputs[3]);
        what.channel = static_cast<int32_t const*>(call.inputs[4]);
        what.channel_scale = static_cast<float const*>(call.inputs[5]);
        return what;
    }

private:
    int32_t launch(Call const& call) override {
        CastlineReassemble what = arguments(call);
        what.y = call.outputs[0];
        return castline_reassemble(&what, call.stream);
    }
};

class ReassembleQuantize final : public Reassemble {
public:
    ReassembleQuantize(char const* op, Attributes const& attributes, bool asymmetric)
        : Reassemble(op, attributes, quantized_outputs(asymmetric)), asymmetric_(asymmetric) {}

    nvinfer1::IPluginV3* clone() noexcept override { return new ReassembleQuantize(*this); }

private:
    int32_t launch(Call const& call) override {
        CastlineReassemble const channels = arguments(call);
        CastlineQuantize const codes = quantize_arguments(call.tokens, call.channels, call.activation,
                                                          attributes()["bits"], call.outputs, asymmetric_);
        return castline_reassemble_quantize(&channels, &codes, call.stream);
    }

    bool asymmetric_;
};

std::unique_ptr<Plugin> make(char const* op, Attributes const& attributes, bool asymmetric) {
    return takes_bits(op, attributes) ? std::make_unique<ReassembleQuantize>(op, attributes, asymmetric)
                                      : nullptr;
}

}  // namespace

std::unique_ptr<Plugin> make_reassemble(char const* op, Attributes const& attributes) {
    return std::make_unique<Reassemble>(op, attributes);
}

std::unique_ptr<Plugin> make_reassemble_quantize(char const* op, Attributes const& attributes) {
    return make(op, attributes, false);
}

std::unique_ptr<Plugin> make_reassemble_quantize_asymmetric(char const* op, Attributes const& attributes) {
    return make(op, attributes, true);
}

}  // namespace castline
