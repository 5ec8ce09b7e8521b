#include "weight_only.h"

#include "checks.h"

#include "../common/layout.h"

namespace castline {
namespace {

constexpr int32_t kWeightBits = 4;

Signature signature_of(CastlineProduct const& shape, CastlineOffsets offsets) {
    int64_t const n = shape.n;
    int64_t const k = shape.k;
    Shape const scales{strips_of(n), groups_of(shape), kStripRows};
    bool const codes = offsets == CASTLINE_ZERO_POINTS;
    return {{per_token("x", Element::kActivation, k),
             {"packed", Element::kByte, {strips_of(n), blocks_of(k), kBlockBytes4}},
             {"scales", Element::kActivation, scales},
             {codes ? "zero_points" : "offsets", codes ? Element::kByte : Element::kFloat, scales},
             {"bias", Element::kActivation, {n}}},
            {per_token("y", Element::kActivation, n)}};
}

class WeightOnly final : public Product {
public:
    WeightOnly(char const* op, Attributes const& attributes, CastlineProduct shape, CastlineOffsets offsets)
        : Product(op, attributes, signature_of(shape, offsets), shape, /*integer=*/false),
          offsets_(offsets) {}

    nvinfer1::IPluginV3* clone() noexcept override { return new WeightOnly(*this); }

private:
    int32_t multiply(Call const& call, CastlineProduct const& shape, CastlineTactic tactic,
                     CastlineScratch const& scratch) override {
        CastlineWeightOnly what{};
        what.shape = shape;
        what.x = call.inputs[0];
        what.packed = static_cast<int8_t const*>(call.inputs[1]);
        what.scales = call.inputs[2];
        what.offsets = call.inputs[3];
        what.offsets_kind = offsets_;
        what.bias = call.inputs[4];
        what.y = call.outputs[0];
        return castline_weight_only(&what, tactic, &scratch, call.stream);
    }

    CastlineOffsets offsets_;
};

std::unique_ptr<Plugin> make(char const* op, Attributes const& attributes, CastlineOffsets offsets) {
    if (!takes_layout(op, attributes) || !takes_product(op, attributes) || !takes_groups(op, attributes)) {
        return nullptr;
    }
    CastlineProduct shape{};
    shape.n = attributes["n"];
    shape.k = attributes["k"];
    shape.weight_bits = kWeightBits;
    shape.group = attributes["block_size"];
    return std::make_unique<WeightOnly>(op, attributes, shape, offsets);
}

}  // namespace

std::unique_ptr<Plugin> make_w4a16(char const* op, Attributes const& attributes) {
    return make(op, attributes, CASTLINE_ZERO_POINTS);
}

std::unique_ptr<Plugin> make_w4a16_offsets(char const* op, Attributes const& attributes) {
    return make(op, attributes, CASTLINE_FLOAT_OFFSETS);
}

}  // namespace castline
