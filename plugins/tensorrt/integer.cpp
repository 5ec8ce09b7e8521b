#include "integer.h"

#include "checks.h"

#include "../common/layout.h"

namespace castline {
namespace {

enum class Weights {
    kEight,         // 8 bits
    kFour,          // 4 bits, with a zero-point each output channel
    kFourInGroups,  // 4 bits, with an integer scale each group
};

struct Kind {
    Weights weights;
    bool asymmetric;  // activations have a zero-point each token
};

Signature signature_of(CastlineProduct const& shape, Kind kind) {
    int64_t const n = shape.n;
    int64_t const k = shape.k;
    int64_t const strips = strips_of(n);
    int64_t const block_bytes = kind.weights == Weights::kEight ? kBlockBytes8 : kBlockBytes4;
    std::vector<Tensor> inputs{per_token("codes", Element::kByte, k), per_token("scale", Element::kFloat, 1)};
    if (kind.asymmetric) {
        inputs.push_back(per_token("zero_point", Element::kByte, 1));
    }
    inputs.push_back({"packed", Element::kByte, {strips, blocks_of(k), block_bytes}});
    if (kind.weights == Weights::kFourInGroups) {
        inputs.push_back({"group_scale", Element::kByte, {strips, groups_of(shape), kStripRows}});
    }
    inputs.push_back({"weight_scale", Element::kActivation, {n}});
    if (kind.weights == Weights::kFour) {
        inputs.push_back({"weight_zero_point", Element::kByte, {n}});
    }
    if (kind.asymmetric) {
        inputs.push_back({"weight_sums", Element::kInteger, {n}});
    }
    inputs.push_back({"bias", Element::kActivation, {n}});
    return {inputs, {per_token("y", Element::kActivation, n)}, CASTLINE_MOST_INTEGER_CHANNELS};
}

class Integer final : public Product {
public:
    Integer(char const* op, Attributes const& attributes, CastlineProduct shape, Kind kind)
        : Product(op, attributes, signature_of(shape, kind), shape, /*integer=*/true), kind_(kind) {}

    nvinfer1::IPluginV3* clone() noexcept override { return new Integer(*this); }

private:
    int32_t multiply(Call const& call, CastlineProduct const& shape, CastlineTactic tactic,
                     CastlineScratch const& scratch) override {
        void const* const* next = call.inputs;  // in the order of signature_of
        auto const bytes_if = [&](bool there) {
            return there ? static_cast<int8_t const*>(*next++) : nullptr;
        };
        CastlineInteger what{};
        what.shape = shape;
        what.codes = bytes_if(true);
        what.scale = static_cast<float const*>(*next++);
        what.zero_point = bytes_if(kind_.asymmetric);
        what.packed = bytes_if(true);
        what.group_scales = bytes_if(kind_.weights == Weights::kFourInGroups);
        what.weight_scale = *next++;
        what.weight_zero_point = bytes_if(kind_.weights == Weights::kFour);
        what.weight_sums = kind_.asymmetric ? static_cast<int32_t const*>(*next++) : nullptr;
        what.bias = *next;
        what.y = call.outputs[0];
        return castline_integer(&what, tactic, &scratch, call.stream);
    }

    Kind kind_;
};

std::unique_ptr<Plugin> make(char const* op, Attributes const& attributes, Kind kind) {
    bool const grouped = kind.weights == Weights::kFourInGroups;
    if (!takes_layout(op, attributes) || !takes_product(op, attributes) ||
        (grouped && !takes_groups(op, attributes))) {
        return nullptr;
    }
    CastlineProduct shape{};
    shape.n = attributes["n"];
    shape.k = attributes["k"];
    shape.weight_bits = kind.weights == Weights::kEight ? 8 : 4;
    shape.group = grouped ? attributes["block_size"] : shape.k;
    return std::make_unique<Integer>(op, attributes, shape, kind);
}

}  // namespace

std::unique_ptr<Plugin> make_w8(char const* op, Attributes const& attributes) {
    return make(op, attributes, {Weights::kEight, false});
}

std::unique_ptr<Plugin> make_w8_asymmetric(char const* op, Attributes const& attributes) {
    return make(op, attributes, {Weights::kEight, true});
}

std::unique_ptr<Plugin> make_w4(char const* op, Attributes const& attributes) {
    return make(op, attributes, {Weights::kFour, false});
}

std::unique_ptr<Plugin> make_w4_asymmetric(char const* op, Attributes const& attributes) {
    return make(op, attributes, {Weights::kFour, true});
}

std::unique_ptr<Plugin> make_w4_groups(char const* op, Attributes const& attributes) {
    return make(op, attributes, {Weights::kFourInGroups, false});
}

std::unique_ptr<Plugin> make_w4_groups_asymmetric(char const* op, Attributes const& attributes) {
    return make(op, attributes, {Weights::kFourInGroups, true});
}

}  // namespace castline
